package facts_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// draw is a command that is often right: it looks at the state, and then
// spoils one thing now and then.
func draw(t *rapid.T, l *lab) facts.Command {
	stores := []string{"A", "B", "W", "C", "Z"}
	store := rapid.SampledFrom(stores).Draw(t, "store")
	if l.s.Primary.Store != "" && rapid.Bool().Draw(t, "primary") {
		store = l.s.Primary.Store
	}
	lsn := pos.LSN(rapid.Uint64Range(90, 400).Draw(t, "lsn"))
	if rapid.Bool().Draw(t, "elected") {
		lsn = l.s.Primary.Elected.LSN
	}
	lineage := l.s.Lineage[:rapid.IntRange(0, len(l.s.Lineage)).Draw(t, "entries")]
	if rapid.Bool().Draw(t, "whole") {
		lineage = l.s.Lineage
	}
	var c facts.Command
	switch rapid.IntRange(0, 15).Draw(t, "kind") {
	case 0:
		c = begin(l)
	case 1, 2, 3, 4:
		c = report(l, store, lsn, lineage)
	case 5, 6:
		c = assign(l, store)
	case 7, 8:
		c = starting(l, store, l.s.LastTimeline+pos.Timeline(rapid.IntRange(0, 1).Draw(t, "promote")), lsn)
	case 9, 10:
		c = opened(l, store, lsn+50)
	case 11:
		c = propose(store, lsn)
	case 12:
		c = admit(l, store, lsn+50)
	case 13:
		c = confirm(l)
	case 14:
		c = drop(store)
	case 15:
		c = rapid.SampledFrom([]facts.Command{
			addMember(l, "c", "C", facts.KindData), removeMember(l, store), seeded(store, rapid.Bool().Draw(t, "seeded")),
		}).Draw(t, "member")
	}
	if c.Assign != nil && rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
		c.Assign.Expect--
	}
	return c
}

func TestApply_Invariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := trio(t)
		assigned := map[pos.Epoch]string{}
		timelines := map[pos.Timeline]pos.Epoch{}
		for range rapid.IntRange(1, 60).Draw(rt, "n") {
			c := draw(rt, l)
			before := l.s
			frozen, err := json.Marshal(before)
			if err != nil {
				rt.Fatal(err)
			}
			out := l.do(c)
			after := l.s
			if now, _ := json.Marshal(before); !bytes.Equal(frozen, now) {
				rt.Fatalf("Apply changed its input:\n%s\n%s", frozen, now)
			}
			if second, o := facts.Apply(before, facts.Command{At: t0, Kind: c.Kind, BeginEpoch: c.BeginEpoch, Assign: c.Assign}); c.BeginEpoch != nil || c.Assign != nil {
				a, _ := json.Marshal(second)
				b, _ := json.Marshal(after)
				if !bytes.Equal(a, b) || o.Code != out.Code {
					rt.Fatal("Apply is not deterministic")
				}
			}
			step(rt, before, after, out)
			p := after.Primary
			if p.Phase == facts.PhaseAssigned && before.Primary.Phase == facts.PhaseFencing {
				if was, ok := assigned[p.Epoch]; ok {
					rt.Fatalf("epoch %s assigned to %s and %s", p.Epoch, was, p.Store)
				}
				assigned[p.Epoch] = p.Store
				if !before.FenceMajority() {
					rt.Fatalf("assigned without a fence majority")
				}
				for _, v := range after.Voters.Stores {
					if r, ok := p.Fence[v]; ok && p.Elected.Less(r.Pos) {
						rt.Fatalf("%s elected at %s below %s of %s", p.Store, p.Elected, r.Pos, v)
					}
				}
			}
			if p.Phase == facts.PhasePromoting && before.Primary.Phase == facts.PhaseAssigned {
				if was, ok := timelines[p.Timeline]; ok {
					rt.Fatalf("timeline %d promoted in %s and %s", p.Timeline, was, p.Epoch)
				}
				timelines[p.Timeline] = p.Epoch
			}
		}
		b, err := facts.Encode(l.s)
		if err != nil {
			rt.Fatal(err)
		}
		back, err := facts.Decode(b)
		if err != nil {
			rt.Fatal(err)
		}
		if again, _ := facts.Encode(back); !bytes.Equal(b, again) {
			rt.Fatalf("snapshot changed:\n%s\n%s", b, again)
		}
	})
}

// step checks what every single command must keep.
func step(t *rapid.T, before, after facts.State, out facts.Outcome) {
	applied := uint64(1)
	if out.Code != "" {
		applied = 0
	}
	if (out.Code == "") != (out.Refused == "") || after.Version != before.Version+applied {
		t.Fatalf("version %d to %d, %+v", before.Version, after.Version, out)
	}
	if after.Primary.Epoch.Less(before.Primary.Epoch) || after.LastTimeline < before.LastTimeline {
		t.Fatalf("epoch %s to %s, timeline %d to %d", before.Primary.Epoch, after.Primary.Epoch, before.LastTimeline, after.LastTimeline)
	}
	if err := after.Lineage.Validate(); err != nil {
		t.Fatal(err)
	}
	if p := after.Primary; p.Store != "" && (after.Lineage.Last().Epoch != p.Epoch || !after.IsVoter(p.Store)) {
		t.Fatalf("primary %+v with lineage %v", p, after.Lineage)
	}
	a, b := before.Voters, after.Voters
	var differ int
	for _, s := range a.Stores {
		if !slices.Contains(b.Stores, s) {
			differ++
		}
	}
	for _, s := range b.Stores {
		if !slices.Contains(a.Stores, s) {
			differ++
		}
	}
	if uint64(differ) != b.Version-a.Version || differ > 1 || b.Version-b.Confirmed > 1 || len(b.Stores) == 0 || !slices.IsSorted(b.Stores) {
		t.Fatalf("voters %+v to %+v", a, b)
	}
}
