package facts_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// restoreOrder is an order to restore the group with a store.
func restoreOrder(l *lab, store string) facts.Command {
	return facts.Command{SetOrder: &facts.SetOrder{Expect: l.s.Primary.Version, Order: facts.Order{
		ID: "r1", Kind: facts.OrderRestore, To: store, Epoch: l.s.Primary.Epoch, Statement: "all later commits go",
		Restore: &facts.Restore{Target: catalog.Target{Kind: catalog.AtLSN, LSN: 200, Timeline: 1}, Set: "20260301-120000F", Along: 1},
	}}}
}

func advance(stage facts.RestoreStage, tli pos.Timeline, upto pos.LSN) facts.Command {
	return facts.Command{AdvanceRestore: &facts.AdvanceRestore{ID: "r1", Stage: stage, Timeline: tli, Upto: upto}}
}

// stopped is a group whose primary has stopped for a restore by backup, with all
// fenced.
func stopped(t *testing.T) *lab {
	t.Helper()
	l := trio(t)
	l.must(restoreOrder(l, "B"), advance(facts.RestoreDraining, 0, 300), advance(facts.RestoreStopping, 0, 0), begin(l))
	for _, s := range []string{"A", "B", "W"} {
		l.must(report(l, s, 300, l.s.Lineage))
	}
	return l
}

// final is a group whose restore by backup is past the point of no return.
func final(t *testing.T) *lab {
	t.Helper()
	l := stopped(t)
	l.must(advance(facts.RestoreRewriting, 7, 0), advance(facts.RestoreFinal, 0, 0))
	return l
}

func TestApply_RestoreShutsClientsOutWhileItStands(t *testing.T) {
	l := trio(t)
	l.must(restoreOrder(l, "A"))
	if l.s.Offline == nil || l.s.Order.Restore.Stage != facts.RestoreDraining {
		t.Errorf("%+v", l.s.Order)
	}
	if why := l.s.PruneFrozen(facts.ProfilePostgres); why == "" {
		t.Error("what it restores from may be pruned")
	}
	l.want(facts.CodeOrderStands, restoreOrder(l, "B"))
	l.must(clearOrder("r1"))
	if l.s.Offline != nil || l.s.Order != nil {
		t.Errorf("clients stay out: %+v", l.s.Offline)
	}
}

func TestApply_RestoreGoesStepByStep(t *testing.T) {
	l := trio(t)
	l.want(facts.CodeStaleVersion, advance(facts.RestoreStopping, 0, 0))
	l.must(restoreOrder(l, "B"))
	l.want(facts.CodeWrongPhase, advance(facts.RestoreFinal, 0, 0))
	l.want(facts.CodeWrongPhase, advance(facts.RestoreRewriting, 7, 0))
	l.must(advance(facts.RestoreStopping, 0, 0))
	l.want(facts.CodeNoFenceMajority, advance(facts.RestoreRewriting, 7, 0))
	l.want(facts.CodeWrongPhase, advance(facts.RestoreDraining, 0, 0))
	l = stopped(t)
	l.want(facts.CodeOrderStands, assign(l, "A"))
	l.want(facts.CodeOrderStands, assign(l, "B"))
	l.want(facts.CodeTimelineUsed, advance(facts.RestoreRewriting, 1, 0))
	l.want(facts.CodeTimelineUsed, advance(facts.RestoreRewriting, 0, 0))
	l.must(advance(facts.RestoreRewriting, 7, 0), advance(facts.RestoreRewriting, 7, 0), advance(facts.RestoreRewriting, 9, 0))
	if l.s.LastTimeline != 9 {
		t.Errorf("timeline %d may be given out again", l.s.LastTimeline)
	}
}

// Up to the point of no return the others can go on; whoever was being
// overwritten is elected by nobody.
func TestApply_RestoreIsWithdrawn(t *testing.T) {
	l := stopped(t)
	l.must(clearOrder("r1"), assign(l, "B"))
	l = stopped(t)
	l.must(advance(facts.RestoreRewriting, 7, 0), clearOrder("r1"))
	l.want(facts.CodeNotSeeded, assign(l, "B"))
	l.must(assign(l, "A"))
	l.want(facts.CodeTimelineUsed, starting(l, "A", 7, 300))
	l = final(t)
	l.want(facts.CodeOrderStands, clearOrder("r1"))
	l.want(facts.CodeOrderStands, assign(l, "A"))
}

// While a database is being overwritten the restore is withdrawn only when
// another one could go on: one that is there, and of the group's history.
func TestApply_RestoreStandsWithoutAnotherDatabase(t *testing.T) {
	for name, rep := range map[string]facts.FenceReport{
		"Silent":   {},
		"Diverged": {Store: "A", LSN: 400, Opened: true},
		"Behind":   {Store: "A", LSN: 250, Opened: true},
	} {
		t.Run(name, func(t *testing.T) {
			l := trio(t)
			l.must(restoreOrder(l, "B"), advance(facts.RestoreDraining, 0, 300), advance(facts.RestoreStopping, 0, 0), begin(l))
			for _, s := range []string{"B", "W"} {
				l.must(report(l, s, 300, l.s.Lineage))
			}
			if rep.Store != "" {
				rep.Epoch, rep.Voters, rep.Timeline = l.s.Primary.Epoch, l.s.Voters.Version, 1
				if rep.Lineage = l.s.Lineage; rep.LSN > 300 {
					rep.Lineage = rep.Lineage.With(pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: 9}, Timeline: 1, Start: 300})
				}
				l.must(facts.Command{ReportFence: &facts.ReportFence{FenceReport: rep}})
			}
			l.must(advance(facts.RestoreRewriting, 7, 0))
			l.want(facts.CodeNotSeeded, clearOrder("r1"))
			l.must(advance(facts.RestoreFinal, 0, 0))
		})
	}
}

func restored(old facts.State, fork pos.LSN) facts.Command {
	c := reform(old, "B", fork+50)
	c.Reform.Restored = &facts.Restored{Path: []catalog.Step{{Timeline: 1}}, Fork: fork}
	l, _ := old.RestoredLineage(*c.Reform.Restored)
	c.Reform.Fence.Lineage, c.Reform.Fence.Timeline = l, l.Last().Timeline
	return c
}

func TestApply_ReformWithARestoredDatabase(t *testing.T) {
	old := final(t).s
	l := &lab{t: t}

	l.want(facts.CodeBadCommand, reform(old, "B", 300))
	l.must(restored(old, 200))
	s := l.s
	want := pos.Lineage{{Epoch: ep(1), Timeline: 1, Start: 100}, {Epoch: ep(2), Timeline: 7, Start: 200}}
	if d := cmp.Diff(want, s.Lineage); d != "" {
		t.Error(d)
	}
	c, _ := s.Catalog(facts.ProfilePostgres)
	if tl := c.Timelines[7]; tl.Parent != 1 || tl.Fork != 200 {
		t.Errorf("timeline 7 is %+v", tl)
	}
	if s.Offline != nil || s.LastTimeline < 7+16 || s.Retired["A"] != "main" || s.Audit.N <= old.Audit.N {
		t.Errorf("%+v", s)
	}
	last := s.Audit.Newest[len(s.Audit.Newest)-1]
	if last.Kind != "restored" || !strings.Contains(last.Text, "all later commits go") && !strings.Contains(last.Text, "the others are off") {
		t.Errorf("the audit ends with %+v", last)
	}
	l.must(assign(l, "B"), starting(l, "B", 7, 250), opened(l, "B", 250))
	ch, _ := l.s.ChangeOf(s.Primary.Epoch)
	if ch.Kind != facts.ChangeRestore || ch.Proof != nil || l.s.Order != nil {
		t.Errorf("%+v", ch)
	}
}

// A node that was being seeded when its turn came has a complete database once
// that was restored.
func TestApply_ReformWithANodeThatWasNotSeeded(t *testing.T) {
	l := stopped(t)
	l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}})
	l.must(advance(facts.RestoreRewriting, 7, 0), advance(facts.RestoreFinal, 0, 0))
	next := &lab{t: t}
	next.must(restored(l.s, 200))
	next.must(assign(next, "B"))
}

// A restore that ends because another primary had to open is not forgotten
// without a word.
func TestApply_RestoreOverWhenItsPrimaryOpensAgain(t *testing.T) {
	l := trio(t)
	l.must(restoreOrder(l, "A"), begin(l))
	for _, s := range []string{"A", "B", "W"} {
		l.must(report(l, s, 300, l.s.Lineage))
	}
	l.must(assign(l, "A"), starting(l, "A", 1, 300))
	out := l.do(opened(l, "A", 300))
	if l.s.Order != nil || l.s.Offline != nil {
		t.Errorf("%+v", l.s.Order)
	}
	if !slices.ContainsFunc(out.Events, func(e facts.Event) bool { return e.Kind == "order-over" }) {
		t.Errorf("nothing says that the restore is over: %+v", out.Events)
	}
}

func TestState_RestoredLineage(t *testing.T) {
	old := final(t).s
	old.Lineage = pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1}, {Epoch: pos.Epoch{Gen: 1, Num: 3}, Timeline: 1, Start: 150}, {Epoch: pos.Epoch{Gen: 2, Num: 1}, Timeline: 5, Start: 400}}
	old.Primary.Epoch = pos.Epoch{Gen: 2, Num: 2}
	for _, tt := range []struct {
		name  string
		along pos.Timeline
		path  []catalog.Step
		fork  pos.LSN
		want  string
	}{
		{"BeforeTheNewest", 1, []catalog.Step{{Timeline: 1}}, 120, "1@0 7@120"},
		{"BeyondAFork", 1, []catalog.Step{{Timeline: 1}}, 900, "1@0 1@150 7@900"},
		{"OfTheNewest", 5, []catalog.Step{{Timeline: 1, To: 400}, {Timeline: 5, From: 400}}, 500, "1@0 1@150 5@400 7@500"},
		{"OfALeftBranch", 3, []catalog.Step{{Timeline: 1, To: 160}, {Timeline: 3, From: 160}}, 500, "1@0 1@150 3@160 7@500"},
		{"BeforeTheOneFollowed", 5, []catalog.Step{{Timeline: 1, To: 400}, {Timeline: 5, From: 400}}, 120, "1@0 7@120"},
		{"WhereTheOneFollowedBegins", 5, []catalog.Step{{Timeline: 1, To: 400}, {Timeline: 5, From: 400}}, 400, "1@0 1@150 7@400"},
		{"OtherPath", 1, []catalog.Step{{Timeline: 2}}, 500, ""},
		{"NoFork", 1, []catalog.Step{{Timeline: 1}}, 0, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := *old.Order
			r := *o.Restore
			r.Along, o.Restore = tt.along, &r
			s := old
			s.Order = &o
			l, err := s.RestoredLineage(facts.Restored{Path: tt.path, Fork: tt.fork})
			var got []string
			for _, e := range l {
				got = append(got, fmt.Sprintf("%d@%d", e.Timeline, e.Start))
			}
			text := strings.Join(got, " ")
			if (err != nil) != (tt.want == "") || err == nil && text != tt.want {
				t.Errorf("%s, %v, want %s", text, err, tt.want)
			}
		})
	}
}
