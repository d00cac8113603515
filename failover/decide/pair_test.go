package decide_test

import (
	"strings"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// aloneHalf is a pair whose primary A went on without B, of which nothing is
// heard.
func aloneHalf(t testing.TB) *lab {
	l := pair(t)
	l.must(facts.Command{DropVoter: &facts.DropVoter{Store: "B"}})
	l.must(confirm(l))
	l.silence("B")
	l.primarySays(decide.Link{Peer: "backup", State: "connecting", Since: t0})
	return l
}

func TestPairIncident(t *testing.T) {
	l := pair(t)
	l.quiet() // together
	l = aloneHalf(t)
	l.carry(l.fires("pair-incident"))
	if inc := l.o.State.Incidents["alone"]; !inc.Until.IsZero() || !strings.Contains(inc.Text, "main goes on alone, without backup") {
		t.Errorf("%+v", inc)
	}
	l.quiet() // said once
	l.say("B", nil)
	l.primarySays(link("backup", 5000))
	l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: "B", Committed: 200}})
	l.must(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: "B", Acked: 5000, VotersVersion: l.o.State.Voters.Version}})
	l.must(confirm(l))
	l.carry(l.fires("pair-incident"))
	if inc := l.o.State.Incidents["alone"]; inc.Until.IsZero() {
		t.Error("the incident stands although a commit needs both")
	}
	l.quiet()
}

// A vote is taken in Raft before the ledger says so: what the fact permits must
// find one vote only.
func TestPairVote_RaftFirst(t *testing.T) {
	l := pair(t)
	l.must(begin(l))
	l.must(fenced(l, "A", 300), fenced(l, "B", 300))
	l.must(assignTo(l, "B"))
	l.carry(l.fires("pair-vote"))
	l.o.SelfStore = "B"
	p := l.fires("pair-vote")
	if len(p.Actions) != 2 || p.Actions[0].RaftAdd == nil || p.Actions[0].RaftAdd.Voter || p.Actions[1].Command == nil {
		t.Errorf("%+v", p.Actions)
	}
}

func TestPlanFailover_HalfThatWasLeft(t *testing.T) {
	l := aloneHalf(t)
	l.say("B", func(r *decide.Report) { r.Durable = 0x500 })
	l.silence("A")
	l.o.SelfStore = "B"
	checkRefusal(t, decide.PlanFailover(l.o, "backup", false), "backup lacks what it acknowledged since; start main, or")
	r := decide.PlanFailover(l.o, "backup", true)
	if !r.Reform || !strings.Contains(r.Statement, "main went on alone: commits that it acknowledged since are lost, for backup has log up to 0/500 only") {
		t.Errorf("%+v", r)
	}
	l.say("A", nil) // the other half is there after all
	if r := decide.PlanFailover(l.o, "backup", true); !strings.Contains(r.Refused, "has no WAL vote") {
		t.Errorf("%+v", r)
	}
}

func TestPlanFailover_ToTheOneThatWasAlone(t *testing.T) {
	l := aloneHalf(t)
	l.must(begin(l))
	l.wait(100 * time.Millisecond)
	l.say("A", nil)
	checkRefusal(t, decide.PlanFailover(l.o, "main", false), "backup is not heard and may have been made primary meanwhile")
	r := decide.PlanFailover(l.o, "main", true)
	if r.Order == nil || r.Reform || !strings.Contains(r.Statement, "I confirm that backup cannot run") {
		t.Errorf("%+v", r)
	}
}
