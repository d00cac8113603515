package facts_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// past is the history of a database that was promoted twice before its group.
func past() pos.Lineage {
	return pos.Lineage{{Epoch: pos.Epoch{Num: 1}, Timeline: 1}, {Epoch: pos.Epoch{Num: 2}, Timeline: 2, Start: 100}, {Epoch: pos.Epoch{Num: 3}, Timeline: 4, Start: 200}}
}

// TestFound_OnAnOlderDatabase: the group's history goes on with the database's
// own, and no timeline that this had is given out again.
func TestFound_OnAnOlderDatabase(t *testing.T) {
	l := &lab{t: t}
	c := found()
	c.Found.Lineage = past()
	l.must(c)
	if d := cmp.Diff(past(), l.s.Lineage); d != "" || l.s.NextTimeline() != 5 {
		t.Errorf("next timeline %d, lineage %s", l.s.NextTimeline(), d)
	}
	cat, _ := l.s.Catalog(facts.ProfilePostgres)
	path, err := cat.Path(4)
	if want := []catalog.Step{{Timeline: 1, To: 100}, {Timeline: 2, From: 100, To: 200}, {Timeline: 4, From: 200}}; err != nil || !slices.Equal(path, want) {
		t.Errorf("the path to timeline 4 is %v, %v", path, err)
	}
	l.must(begin(l))
	l.must(report(l, "A", 300, past()))
	l.must(assign(l, "A"))
	l.must(starting(l, "A", 4, 300))
	l.must(opened(l, "A", 320))
	want := append(past(), pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 4, Start: 300})
	if d := cmp.Diff(want, l.s.Lineage); d != "" {
		t.Errorf("after the first opening: %s", d)
	}
}

func TestFound_RefusesWhatIsNoPast(t *testing.T) {
	for name, past := range map[string]pos.Lineage{
		"OfAGroup":   {{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1}},
		"Backwards":  {{Epoch: pos.Epoch{Num: 1}, Timeline: 2}, {Epoch: pos.Epoch{Num: 2}, Timeline: 1, Start: 100}},
		"NoEpoch":    {{Timeline: 1}},
		"NoTimeline": {{Epoch: pos.Epoch{Num: 1}}},
		"TooHigh":    {{Epoch: pos.Epoch{Num: 1}, Timeline: 1<<32 - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &lab{t: t}
			c := found()
			c.Found.Lineage = past
			want := facts.CodeBadCommand
			if name == "TooHigh" {
				want = facts.CodeTooMany
			}
			l.want(want, c)
		})
	}
}
