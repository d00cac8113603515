package decide_test

import (
	"strings"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

func TestDecide_NothingToDo(t *testing.T) { trio(t).quiet() }

func TestRules_HaveIDs(t *testing.T) {
	seen := map[string]bool{}
	for _, r := range decide.Rules() {
		if r.ID == "" || r.Then == "" || seen[r.ID] {
			t.Errorf("rule %q: %q", r.ID, r.Then)
		}
		seen[r.ID] = true
	}
}

func TestBeginFounding(t *testing.T) {
	l := founded(t)
	p := l.fires("begin-founding")
	if out := l.carry(p); out.Refused != "" {
		t.Fatal(out.Refused)
	}
	l.quiet() // now the fence is awaited
	none := &lab{t: t, o: decide.Observation{Now: t0, SelfStore: "A", Reports: map[string]decide.Heard{}}}
	none.quiet()
}

func TestBeginEnded(t *testing.T) {
	l := trio(t)
	ended := func(r *decide.Report) { r.Server.Ended, r.Server.Problem = epoch(1), "signal 9" }
	l.say("A", ended)
	p := l.fires("begin-ended")
	if !strings.Contains(p.Why, "main") || !strings.Contains(p.Why, "signal 9") {
		t.Errorf("reason: %s", p.Why)
	}
	l.wait(2 * decide.Fresh) // an old word does not count
	if p := decide.Decide(l.o); p.Rule == "begin-ended" {
		t.Error("a stale report began an epoch")
	}
	l.hear()
	l.say("A", func(r *decide.Report) { r.Server.Ended = epoch(0) })
	l.quiet() // an older epoch's end is no news
	l.say("B", ended)
	l.quiet() // another node's server is not the primary's
}

// A start that failed is tried again, but not in a storm of epochs.
func TestBeginEnded_PausesAfterAFailedStart(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(fenced(l, "A", 300))
	l.must(fenced(l, "W", 300))
	l.must(assignTo(l, "A"))
	l.say("A", func(r *decide.Report) { r.Server.Ended = epoch(2) })
	l.quiet()
	l.wait(3 * time.Second)
	l.hear()
	l.fires("begin-ended")
}

func TestAssign(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.quiet()
	l.must(fenced(l, "A", 300))
	l.quiet() // one of three has fenced
	l.must(fenced(l, "W", 290))
	p := l.fires("assign")
	if c := p.Actions[0].Command; c == nil || c.Assign == nil || c.Assign.Store != "A" {
		t.Fatalf("plan %+v", p)
	}
	if out := l.carry(p); out.Refused != "" {
		t.Fatal(out.Refused)
	}
	l.quiet()
}

// The node that was primary is not started over log that it has lost, and one
// that cannot start is not tried.
func TestAssign_NotWhatLostLog(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(fenced(l, "A", 300), fenced(l, "W", 310))
	l.quiet()
	l.must(fenced(l, "A", 310))
	l.say("A", func(r *decide.Report) { r.Server.State, r.Server.Problem = decide.ServerFailed, "no pg_control" })
	l.quiet()
	l.say("A", func(r *decide.Report) { r.Server.State = decide.ServerStopped })
	l.fires("assign")
}

// A store whose vote was taken meanwhile is not proposed: somebody else is, for a
// group is not left without a primary.
func TestAssign_NotWithoutAVote(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(facts.Command{DropVoter: &facts.DropVoter{Store: "A"}})
	l.must(fenced(l, "A", 300), fenced(l, "B", 300), fenced(l, "W", 300))
	p := l.fires("assign")
	if c := p.Actions[0].Command.Assign; c.Store != "B" || c.Force {
		t.Errorf("plan %+v", c)
	}
	if len(p.Rejected) == 0 || p.Rejected[0].What != "main" || !strings.Contains(p.Rejected[0].Why, "no WAL vote") {
		t.Errorf("rejected %+v", p.Rejected)
	}
}

func TestAssign_WaitsForTheOldPrimary(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(fenced(l, "B", 300), fenced(l, "W", 300))
	l.quiet()
	l.wait(l.o.State.Policy.SwitchoverCatchup + time.Millisecond)
	l.hear()
	if c := l.fires("assign").Actions[0].Command.Assign; c.Store != "B" {
		t.Errorf("plan %+v", c)
	}
}

func TestStuck(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(fenced(l, "W", 300))
	l.wait(11 * time.Second)
	l.hear()
	p := l.fires("stuck")
	for _, part := range []string{"1 of 3", "main", "backup"} {
		if !strings.Contains(p.Why, part) {
			t.Errorf("%q does not say %q", p.Why, part)
		}
	}
	l.carry(p)
	l.quiet() // said once
	l.o.State.Policy.Paused = true
	l.must(fenced(l, "B", 300))
	p = l.fires("stuck") // what is missing has changed
	if !strings.Contains(p.Why, "main, which was primary, has not reported") {
		t.Errorf("said: %s", p.Why)
	}
	l.carry(p)
	l.o.State.Policy.Paused = false
	l.carry(l.fires("assign"))
	l.must(starting(l, "B", 300))
	l.quiet() // it stands until clients are let in
	l.must(opened(l, "B", 300))
	l.carry(l.fires("stuck"))
	if inc := l.o.State.Incidents["no-primary"]; inc.Until.IsZero() {
		t.Error("the incident stands although a primary is open")
	}
	l.quiet()
}

func TestRaftForget(t *testing.T) {
	l := trio(t)
	l.raftSet(decide.RaftServer{Store: "X", Address: "x:1"})
	p := l.fires("raft-forget")
	if p.Actions[0].RaftRemove != "X" {
		t.Errorf("plan %+v", p)
	}
	// One that is asking to join is on its way in.
	l.say("X", func(r *decide.Report) { r.Node, r.Address, r.Kind = "third", "x:1", "witness" })
	if p := decide.Decide(l.o); p.Rule == "raft-forget" {
		t.Error("removed a server that is being added")
	}
	l.o.State.Retired = map[string]string{"X": "third"}
	l.fires("raft-forget")
}

func TestRaftRestore(t *testing.T) {
	l := trio(t)
	l.raftRemove("W")
	p := l.fires("raft-restore")
	if a := p.Actions[0].RaftAdd; a == nil || a.Store != "W" || a.Address != "w:1" || !a.Voter {
		t.Errorf("plan %+v", p)
	}
	l.carry(p)
	l.quiet()
	l.raftSet(decide.RaftServer{Store: "B", Address: "b:1"}) // it had a vote
	l.carry(l.fires("raft-restore"))
	l.quiet()
}

// reborn makes the witness come back with a new store.
func reborn(t *testing.T) *lab {
	l := trio(t)
	l.o.SelfStore = "B"
	l.silence("W")
	l.say("W2", func(r *decide.Report) { r.Node, r.Kind, r.Address = "witness", "witness", "w:1" })
	return l
}

func TestMemberReplace_RetiresTheOldStoreAndAdmitsTheNew(t *testing.T) {
	l := reborn(t)
	var rules []string
	for range 20 {
		if l.o.State.Voters.Confirmed != l.o.State.Voters.Version {
			l.must(confirm(l)) // as the primary does
		}
		l.primarySays(link("backup", 5000), link("witness", 5000))
		p := decide.Decide(l.o)
		if p.Empty() {
			break
		}
		rules = append(rules, p.Rule)
		if out := l.carry(p); out.Refused != "" {
			t.Fatalf("%s: %s", p.Rule, out.Refused)
		}
	}
	s := l.o.State
	m, ok := s.MemberByName("witness")
	if !ok || m.Store != "W2" || !s.IsVoter("W2") || s.IsVoter("W") || !m.LedgerVoter || s.Retired["W"] != "witness" {
		t.Errorf("after %v: %+v, voters %v, retired %v", rules, m, s.Voters, s.Retired)
	}
	for _, r := range l.o.Raft {
		if r.Store == "W" {
			t.Error("the lost store still votes in the ledger")
		}
	}
}

func TestMemberReplace_NotWhileTheOldOneSpeaks(t *testing.T) {
	l := reborn(t)
	l.fires("member-replace")
	l.say("W", nil)
	l.quiet()
}

func TestMemberReplace_NotAnOpenPrimary(t *testing.T) {
	l := trio(t)
	l.silence("A")
	l.say("A2", func(r *decide.Report) { r.Node, r.Kind, r.Address = "main", "data", "a:1" })
	l.quiet()
}

func TestMemberReplace_WithdrawsItsProposal(t *testing.T) {
	l := alone(t)
	l.must(facts.Command{AddMember: &facts.AddMember{Member: facts.Member{Name: "witness", Store: "W", Kind: facts.KindWitness, Address: "w:1"}, Expect: l.o.State.MembersVersion}})
	l.raftSet(decide.RaftServer{Store: "W", Address: "w:1"})
	l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: "W", Committed: 200}})
	l.say("W2", func(r *decide.Report) { r.Node, r.Kind, r.Address = "witness", "witness", "w:1" })
	l.carry(l.fires("member-replace"))
	if l.o.State.Voters.Proposed != nil {
		t.Error("the lost store is still proposed")
	}
	l.carry(l.fires("member-replace"))
	l.carry(l.fires("raft-forget"))
	l.fires("member-add")
}

func TestMemberAdd(t *testing.T) {
	l := alone(t)
	l.say("W", func(r *decide.Report) { r.Node, r.Kind, r.Address, r.HTTP = "witness", "witness", "w:1", "w:2" })
	p := l.fires("member-add")
	if len(p.Actions) != 2 || p.Actions[0].RaftAdd == nil || p.Actions[0].RaftAdd.Voter {
		t.Fatalf("the ledger's observer comes first: %+v", p)
	}
	if out := l.carry(p); out.Refused != "" {
		t.Fatal(out.Refused)
	}
	if m := l.o.State.Members["W"]; m.Name != "witness" || m.HTTP != "w:2" || m.LedgerVoter {
		t.Errorf("member %+v", m)
	}
	// One that does not say where it is cannot be a member.
	l = alone(t)
	l.say("W", func(r *decide.Report) { r.Node, r.Kind = "witness", "witness" })
	if p := decide.Decide(l.o); p.Rule == "member-add" {
		t.Error("admitted a node without an address")
	}
	// A retired store never comes back.
	l.say("W", func(r *decide.Report) { r.Address = "w:1" })
	l.o.State.Retired = map[string]string{"W": "witness"}
	if p := decide.Decide(l.o); p.Rule == "member-add" {
		t.Error("admitted a retired store")
	}
}

func TestMemberAddress(t *testing.T) {
	l := trio(t)
	l.say("W", func(r *decide.Report) { r.Address = "w:9" })
	p := l.fires("member-address")
	if a := p.Actions[0].RaftAdd; a == nil || a.Address != "w:9" || !a.Voter {
		t.Errorf("a ledger voter stays one: %+v", p)
	}
	if out := l.carry(p); out.Refused != "" || l.o.State.Members["W"].Address != "w:9" {
		t.Errorf("%+v", out)
	}
	l.quiet()
}

// third is the trio before its witness has a WAL vote.
func third(t *testing.T) *lab {
	l := alone(t)
	l.must(facts.Command{AddMember: &facts.AddMember{Member: facts.Member{Name: "witness", Store: "W", Kind: facts.KindWitness, Address: "w:1"}, Expect: l.o.State.MembersVersion}})
	l.raftSet(decide.RaftServer{Store: "W", Address: "w:1"})
	l.say("W", nil)
	l.o.LastTransfer = l.o.Now
	return l
}

func TestVoterPropose(t *testing.T) {
	l := third(t)
	l.quiet() // no link
	far := link("witness", 0)
	l.say("A", func(r *decide.Report) { r.Received = 10 << 20; r.Links = []decide.Link{far} })
	l.quiet() // too far behind
	near := link("witness", 10<<20-1000)
	near.State = "catching up"
	l.say("A", func(r *decide.Report) { r.Links = []decide.Link{near} })
	l.quiet() // not streaming yet
	near.State = "streaming"
	l.say("A", func(r *decide.Report) { r.Links = []decide.Link{near} })
	p := l.fires("voter-propose")
	if c := p.Actions[0].Command.ProposeVoter; c.Store != "W" || c.Committed != 4000 {
		t.Errorf("plan %+v", c)
	}
	l.o.State.Voters.Confirmed = 0
	l.quiet() // another change is under way
}

func TestVoterAdmit(t *testing.T) {
	l := third(t)
	l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: "W", Committed: 4000}})
	l.primarySays(link("witness", 3999))
	l.quiet()
	l.primarySays(link("witness", 4000))
	p := l.fires("voter-admit")
	if out := l.carry(p); out.Refused != "" || !l.o.State.IsVoter("W") {
		t.Errorf("%+v", out)
	}
}

func TestVoterWithdraw(t *testing.T) {
	l := third(t)
	l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: "W", Committed: 4000}})
	l.wait(4 * time.Second)
	l.say("A", nil)
	l.quiet()
	l.wait(2 * time.Second)
	l.say("A", nil)
	l.carry(l.fires("voter-withdraw"))
	if l.o.State.Voters.Proposed != nil {
		t.Error("still proposed")
	}
}

func TestLedgerVote(t *testing.T) {
	l := trio(t)
	m := l.o.State.Members["B"]
	l.must(facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: "B", Voter: false}})
	p := l.fires("ledger-vote") // Raft says yes, the facts not yet
	if len(p.Actions) != 1 || p.Actions[0].Command == nil {
		t.Errorf("plan %+v", p)
	}
	l.raftSet(decide.RaftServer{Store: "B", Address: m.Address})
	p = l.fires("ledger-vote")
	if a := p.Actions[0].RaftAdd; a == nil || a.Store != "B" || !a.Voter {
		t.Errorf("plan %+v", p)
	}
	l.silence("B")
	l.quiet() // one that is away gets no vote
}

// Of two nodes, one of which may be lost, the ledger stays with the founder.
func TestLedgerVote_NotOfTwo(t *testing.T) {
	l := third(t)
	l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: "W", Committed: 4000}})
	l.must(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: "W", Acked: 4000, VotersVersion: l.o.State.Voters.Version}})
	l.must(confirm(l))
	l.quiet()
}

func TestLeavingOver(t *testing.T) {
	l := trio(t)
	l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, Until: l.o.Now.Add(10 * time.Second)}}})
	l.wait(time.Minute)
	l.hear()
	l.quiet()
	l.wait(11 * time.Second)
	l.hear()
	l.carry(l.fires("leaving-over"))
	if len(l.o.State.Leaving) != 0 {
		t.Error("still leaving")
	}
}

func TestIncidents(t *testing.T) {
	l := trio(t)
	l.say("W", func(r *decide.Report) { r.Problems = map[string]string{"spool": "no space left: 5 bytes"} })
	l.carry(l.fires("incident-raise"))
	inc := l.o.State.Incidents["witness/spool"]
	if inc.Node != "witness" || inc.Text == "" || !inc.Until.IsZero() {
		t.Errorf("incident %+v", inc)
	}
	l.say("W", func(r *decide.Report) { r.Problems = map[string]string{"spool": "no space left: 6 bytes"} })
	l.quiet() // numbers that move are no news
	l.silence("W")
	l.quiet() // silence is not health
	l.say("W", func(r *decide.Report) { r.Problems = nil })
	l.carry(l.fires("incident-clear"))
	if l.o.State.Incidents["witness/spool"].Until.IsZero() {
		t.Error("the incident stands")
	}
	l.quiet()
	l.say("W", func(r *decide.Report) { r.Problems = map[string]string{"spool": "again"} })
	l.fires("incident-raise")
}

func TestIncidents_OnlyOfMembers(t *testing.T) {
	l := trio(t)
	l.o.State.Retired = map[string]string{"X": "third"}
	l.say("X", func(r *decide.Report) { r.Node, r.Problems = "third", map[string]string{"x": "y"} })
	l.quiet()
}

func TestLeaderOffPrimary(t *testing.T) {
	l := trio(t)
	l.o.SelfStore = "A"
	l.quiet() // not right after the last move
	l.wait(11 * time.Second)
	l.hear()
	p := l.fires("leader-off-primary")
	if p.Actions[0].Transfer != "W" {
		t.Errorf("the witness leads best: %+v", p)
	}
	l.silence("W")
	if p := l.fires("leader-off-primary"); p.Actions[0].Transfer != "B" {
		t.Errorf("plan %+v", p)
	}
	l.silence("B")
	l.quiet()
}
