package decide_test

import (
	"strings"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
)

// restoring is a group in which the operator ordered a restore by backup, up to
// a stage.
func restoring(t *testing.T, stage facts.RestoreStage) *lab {
	t.Helper()
	l := ready(t)
	l.must(facts.Command{SetOrder: &facts.SetOrder{Expect: l.o.State.Primary.Version, Order: facts.Order{
		ID: "r1", Kind: facts.OrderRestore, To: "B", Epoch: l.o.State.Primary.Epoch, Statement: "later commits go", At: l.o.Now,
		Restore: &facts.Restore{Target: catalog.Target{Kind: catalog.Immediate, Timeline: 1}, Set: "20260301-120000F", Along: 1}}}})
	for _, s := range []facts.RestoreStage{facts.RestoreStopping, facts.RestoreRewriting, facts.RestoreFinal} {
		if stage == facts.RestoreDraining {
			break
		}
		c := facts.AdvanceRestore{ID: "r1", Stage: s}
		if s == facts.RestoreRewriting {
			l.must(facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: l.o.State.Primary.Version, Cause: "test"}})
			for _, store := range l.o.State.Voters.Stores {
				l.must(facts.Command{ReportFence: &facts.ReportFence{FenceReport: facts.FenceReport{Store: store, Epoch: l.o.State.Primary.Epoch,
					Voters: l.o.State.Voters.Version, Lineage: l.o.State.Lineage, LSN: 5000, Timeline: 1}}})
			}
			c.Timeline = l.o.State.LastTimeline + 1
		}
		l.must(facts.Command{AdvanceRestore: &c})
		if s == stage {
			break
		}
	}
	return l
}

func TestRestore_EpochBeginsWhenThePrimaryHasStopped(t *testing.T) {
	for _, stage := range []facts.RestoreStage{facts.RestoreDraining, facts.RestoreStopping} {
		l := restoring(t, stage)
		if p := decide.Decide(l.o); p.Rule == "begin-ordered" {
			t.Errorf("%s: an epoch begins while the primary is open: %s", stage, p.Why)
		}
	}
	l := restoring(t, facts.RestoreStopping)
	l.say("A", func(r *decide.Report) { r.Server.State, r.Server.Ended = decide.ServerStopped, l.o.State.Primary.Epoch })
	if p := l.fires("begin-ordered"); p.Actions[0].Command.BeginEpoch.Change != facts.ChangeRestore {
		t.Errorf("%+v", p.Actions[0].Command.BeginEpoch)
	}
}

// Nobody becomes primary while a node restores; when that was withdrawn somebody
// else does, also where failover is not automatic.
func TestRestore_NobodyIsElected(t *testing.T) {
	for _, stage := range []facts.RestoreStage{facts.RestoreRewriting, facts.RestoreFinal} {
		l := restoring(t, stage)
		for range 30 {
			l.wait(time.Second)
			l.hear()
			if p := decide.Decide(l.o); p.Rule == "assign" {
				t.Fatalf("%s: %s", stage, p.Why)
			}
		}
	}
	l := restoring(t, facts.RestoreRewriting)
	l.must(facts.Command{ClearOrder: &facts.ClearOrder{ID: "r1", Why: "test"}})
	l.wait(5 * time.Second)
	l.hear()
	if p := l.fires("assign"); p.Actions[0].Command.Assign.Store != "A" {
		t.Errorf("%+v", p.Actions[0].Command.Assign)
	}
}

// A restore whose node is lost before it has begun does not stand for ever.
func TestRestore_IsOverWhenItsNodeDoesNotBegin(t *testing.T) {
	l := restoring(t, facts.RestoreDraining)
	l.wait(l.o.State.Order.Deadline.Sub(l.o.Now) + time.Second)
	l.hear()
	l.silence("B")
	l.carry(l.fires("order-over"))
	if l.o.State.Order != nil || l.o.State.Offline != nil {
		t.Errorf("%+v", l.o.State.Order)
	}
	l = restoring(t, facts.RestoreStopping)
	l.wait(l.o.State.Order.Deadline.Sub(l.o.Now) + time.Second)
	l.hear()
	l.say("A", func(r *decide.Report) { r.Server.State = decide.ServerLocked })
	if p := decide.Decide(l.o); p.Rule == "order-over" {
		t.Error("the order is taken back while the primary stops for it")
	}
}

// Past the point of no return the others go on only in a ledger of their own.
func TestPlanFailover_AfterARestore(t *testing.T) {
	l := restoring(t, facts.RestoreFinal)
	l.o.SelfStore = "A"
	if r := decide.PlanFailover(l.o, "main", false); r.Refused == "" {
		t.Errorf("%+v", r)
	}
	if r := decide.PlanFailover(l.o, "backup", true); !strings.Contains(r.Refused, "goes on alone") {
		t.Errorf("%+v", r)
	}
	if r := decide.PlanFailover(l.o, "main", true); !r.Reform || r.Statement == "" {
		t.Errorf("%+v", r)
	}
}
