package decide_test

import (
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// lab is an observation that tests change, with a ledger behind it.
type lab struct {
	t testing.TB
	o decide.Observation
}

// must applies commands that may not be refused.
func (l *lab) must(cs ...facts.Command) {
	l.t.Helper()
	for _, c := range cs {
		c.At = l.o.Now
		s, out := facts.Apply(l.o.State, c)
		if out.Refused != "" {
			l.t.Fatalf("%s: %s", out.Code, out.Refused)
		}
		l.o.State = s
	}
}

func (l *lab) wait(d time.Duration) {
	l.o.Now = l.o.Now.Add(d)
}

// hear makes every report young again.
func (l *lab) hear() {
	for s, h := range l.o.Reports {
		h.At = l.o.Now
		l.o.Reports[s] = h
	}
}

// say changes what a store reports; a store that was silent speaks.
func (l *lab) say(store string, change func(*decide.Report)) {
	r := l.o.Reports[store].Report
	r.Store = store
	if m, ok := l.o.State.Members[store]; ok {
		r.Node, r.Kind, r.Address = m.Name, string(m.Kind), m.Address
	}
	if change != nil {
		change(&r)
	}
	l.o.Reports[store] = decide.Heard{Report: r, At: l.o.Now}
}

func (l *lab) silence(store string) { delete(l.o.Reports, store) }

// fires fails the test unless the rule fires.
func (l *lab) fires(rule string) decide.Plan {
	l.t.Helper()
	p := decide.Decide(l.o)
	if p.Rule != rule {
		l.t.Fatalf("rule %q fired (%s), want %q", p.Rule, p.Why, rule)
	}
	if p.Why == "" {
		l.t.Errorf("rule %s gives no reason", rule)
	}
	return p
}

func (l *lab) quiet() {
	l.t.Helper()
	if p := decide.Decide(l.o); !p.Empty() {
		l.t.Fatalf("rule %q fired: %s", p.Rule, p.Why)
	}
}

// carry does what a plan says: commands on the facts, the rest on Raft. A
// refused command is returned and ends the plan.
func (l *lab) carry(p decide.Plan) facts.Outcome {
	var out facts.Outcome
	for _, a := range p.Actions {
		switch {
		case a.Command != nil:
			c := *a.Command
			c.At = l.o.Now
			l.o.State, out = facts.Apply(l.o.State, c)
			if out.Refused != "" {
				return out
			}
		case a.RaftAdd != nil:
			l.raftSet(*a.RaftAdd)
		case a.RaftRemove != "":
			l.raftRemove(a.RaftRemove)
		case a.Transfer != "":
			l.o.SelfStore, l.o.LastTransfer = a.Transfer, l.o.Now
		}
	}
	return out
}

func (l *lab) raftSet(s decide.RaftServer) {
	for i, old := range l.o.Raft {
		if old.Store == s.Store {
			l.o.Raft[i] = s
			return
		}
	}
	l.o.Raft = append(l.o.Raft, s)
}

func (l *lab) raftRemove(store string) {
	var out []decide.RaftServer
	for _, s := range l.o.Raft {
		if s.Store != store {
			out = append(out, s)
		}
	}
	l.o.Raft = out
}

// founded is a group of one, never opened.
func founded(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, o: decide.Observation{Now: t0, SelfStore: "A", Reports: map[string]decide.Heard{}, LastTransfer: t0}}
	l.must(facts.Command{Found: &facts.Found{
		Group:  facts.Group{ID: "g", Name: "shop", LedgerID: "l", SystemID: 1, PGMajor: 15, SegSize: 16 << 20},
		Member: facts.Member{Name: "main", Store: "A", Kind: facts.KindData, Address: "a:1"},
	}})
	l.raftSet(decide.RaftServer{Store: "A", Address: "a:1", Voter: true})
	l.say("A", nil)
	return l
}

func begin(l *lab) facts.Command {
	return facts.Command{BeginEpoch: &facts.BeginEpoch{Expect: l.o.State.Primary.Version, Cause: "test"}}
}

func fenced(l *lab, store string, lsn pos.LSN) facts.Command {
	return facts.Command{ReportFence: &facts.ReportFence{FenceReport: facts.FenceReport{Store: store,
		Epoch: l.o.State.Primary.Epoch, Voters: l.o.State.Voters.Version, Lineage: l.o.State.Lineage, LSN: lsn, Timeline: 1}}}
}

func assignTo(l *lab, store string) facts.Command {
	return facts.Command{Assign: &facts.Assign{Expect: l.o.State.Primary.Version, Epoch: l.o.State.Primary.Epoch, Store: store}}
}

func order(l *lab, kind facts.OrderKind, to string, force bool) facts.Command {
	return facts.Command{SetOrder: &facts.SetOrder{Expect: l.o.State.Primary.Version, Order: facts.Order{ID: "o", Kind: kind, To: to,
		Epoch: l.o.State.Primary.Epoch, Force: force, At: l.o.Now, Deadline: l.o.Now.Add(30 * time.Second)}}}
}

func setPolicy(l *lab, change func(*facts.Policy)) facts.Command {
	p := l.o.State.Policy
	change(&p)
	return facts.Command{SetPolicy: &facts.SetPolicy{Expect: p.Version, Policy: p}}
}

// logFrom says where the log begins that a store keeps for others.
func (l *lab) logFrom(from pos.LSN, stores ...string) {
	for _, s := range stores {
		l.say(s, func(r *decide.Report) { r.Spool.From = from })
	}
}

// pair is main (A) open with the ledger's only vote, and backup (B) with a WAL
// vote; A leads.
func pair(t testing.TB) *lab {
	t.Helper()
	l := alone(t)
	m := facts.Member{Name: "backup", Store: "B", Kind: facts.KindData, Address: "b:1"}
	l.must(facts.Command{AddMember: &facts.AddMember{Member: m, Expect: l.o.State.MembersVersion}})
	l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: "B", Committed: 200}})
	l.must(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: "B", Acked: 200, VotersVersion: l.o.State.Voters.Version}})
	l.must(confirm(l), facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B", Seeded: true}})
	l.raftSet(decide.RaftServer{Store: "B", Address: "b:1"})
	l.say("B", nil)
	l.primarySays(link("backup", 5000))
	return l
}

func starting(l *lab, store string, end pos.LSN) facts.Command {
	return facts.Command{Starting: &facts.Starting{Epoch: l.o.State.Primary.Epoch, Store: store, Timeline: 1, End: end}}
}

func opened(l *lab, store string, lsn pos.LSN) facts.Command {
	return facts.Command{Opened: &facts.Opened{Epoch: l.o.State.Primary.Epoch, Store: store, LSN: lsn}}
}

func confirm(l *lab) facts.Command {
	return facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: l.o.State.Voters.Version, Epoch: l.o.State.Primary.Epoch}}
}

// alone is main (A), open in epoch 1.1 and led by itself.
func alone(t testing.TB) *lab {
	t.Helper()
	l := founded(t)
	l.must(begin(l))
	l.must(fenced(l, "A", 100))
	l.must(assignTo(l, "A"))
	l.must(starting(l, "A", 100))
	l.must(opened(l, "A", 120))
	l.primarySays()
	return l
}

// primarySays is the report of A as the primary.
func (l *lab) primarySays(links ...decide.Link) {
	l.say("A", func(r *decide.Report) {
		r.Role, r.Epoch, r.Received, r.Committed = decide.RolePrimary, l.o.State.Primary.Epoch, 5000, 4000
		r.Server.State = decide.ServerOpen
		r.Links = links
	})
}

// trio is main (A) open, with backup (B) and witness (W), all with both votes;
// the witness leads the ledger, so that nothing is left to do.
func trio(t testing.TB) *lab {
	t.Helper()
	l := alone(t)
	for _, m := range []facts.Member{
		{Name: "backup", Store: "B", Kind: facts.KindData, Address: "b:1"},
		{Name: "witness", Store: "W", Kind: facts.KindWitness, Address: "w:1"},
	} {
		l.must(facts.Command{AddMember: &facts.AddMember{Member: m, Expect: l.o.State.MembersVersion}})
		l.must(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: m.Store, Committed: 200}})
		l.must(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: m.Store, Acked: 200, VotersVersion: l.o.State.Voters.Version}})
		l.must(confirm(l))
		l.must(facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: m.Store, Voter: true}})
		l.raftSet(decide.RaftServer{Store: m.Store, Address: m.Address, Voter: true})
		l.say(m.Store, nil)
	}
	l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B", Seeded: true}})
	l.primarySays(link("backup", 5000), link("witness", 5000))
	l.o.SelfStore = "W"
	return l
}

func link(peer string, acked pos.LSN) decide.Link {
	return decide.Link{Peer: peer, State: "streaming", Acked: acked}
}
