package decide_test

import (
	"strings"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// electing is the trio with its first epoch over, and who has reported what.
func electing(t testing.TB, ordered func(*lab) facts.Command, reports map[string]pos.LSN) *lab {
	t.Helper()
	l := trio(t)
	if ordered != nil {
		l.must(ordered(l))
	}
	l.must(begin(l))
	for _, s := range []string{"A", "B", "W"} {
		if lsn, ok := reports[s]; ok {
			l.must(fenced(l, s, lsn))
		}
		l.say(s, func(r *decide.Report) { r.Spool.From, r.Server.State = 1, decide.ServerReplica })
	}
	return l
}

const late = 2001 * time.Millisecond

func failoverTo(store string, force bool) func(*lab) facts.Command {
	return func(l *lab) facts.Command { return order(l, facts.OrderFailover, store, force) }
}

func TestElect(t *testing.T) {
	type all = map[string]pos.LSN
	failed := func(store string) func(*lab) {
		return func(l *lab) {
			l.say(store, func(r *decide.Report) { r.Server.State, r.Server.Problem = decide.ServerFailed, "no pg_control" })
		}
	}
	silent := func(stores ...string) func(*lab) {
		return func(l *lab) {
			for _, s := range stores {
				l.silence(s)
			}
		}
	}
	for _, tt := range []struct {
		name    string
		ordered func(*lab) facts.Command
		reports all
		after   time.Duration
		then    func(*lab)
		want    string // store, "store<donor", "store!" by force, "" for waiting
		rejects string
	}{
		{"PreviousHoldsAll", nil, all{"A": 300, "B": 300}, 0, nil, "A", ""},
		{"PreviousIsWaitedFor", nil, all{"B": 300, "W": 300}, 0, nil, "", ""},
		{"PreviousIsNotWaitedForLong", nil, all{"B": 300, "W": 300}, late, nil, "B", "main has not reported its log"},
		{"PreviousIsSilent", nil, all{"B": 300, "W": 300}, 0, silent("A"), "B", "main has not reported its log"},
		{"PreviousReportedAndFellSilent", nil, all{"A": 300, "B": 300, "W": 300}, 0, silent("A"), "B", "main is silent"},
		{"PreviousCannotStart", nil, all{"A": 300, "B": 300}, 0, failed("A"), "B", "main cannot start PostgreSQL: no pg_control"},
		{"PreviousHasNotFencedYet", nil, all{"B": 300, "W": 300}, 0, nil, "", ""},
		{"PreviousCannotStartForLong", nil, all{"A": 300, "B": 300}, late, failed("A"), "B", "main cannot start PostgreSQL: no pg_control"},
		{"PreviousLostLog", nil, all{"A": 290, "B": 300}, 0, nil, "B", "it has lost log that it had flushed"},
		{"PreviousFailedInThisEpoch", nil, all{"A": 300, "B": 300}, late, func(l *lab) {
			l.say("A", func(r *decide.Report) { r.Server.Ended = epoch(2) })
		}, "B", "main has failed to start in this epoch"},
		{"Paused", nil, all{"A": 300, "B": 300}, late, func(l *lab) {
			failed("A")(l)
			l.must(setPolicy(l, func(p *facts.Policy) { p.Paused = true }))
		}, "", ""},
		{"PausedAndSilent", nil, all{"B": 300, "W": 300}, late, func(l *lab) {
			l.silence("A")
			l.must(setPolicy(l, func(p *facts.Policy) { p.Paused = true }))
		}, "", ""},
		{"PausedButOrdered", failoverTo("B", false), all{"B": 300, "W": 300}, 0, func(l *lab) {
			l.silence("A")
			l.must(setPolicy(l, func(p *facts.Policy) { p.Paused = true }))
		}, "B", ""},
		{"CopiesFromTheWitness", nil, all{"B": 290, "W": 300}, late, silent("A"), "B<W", ""},
		{"DonorIsSilent", nil, all{"B": 290, "W": 300}, late, silent("A", "W"), "", ""},
		{"DonorsLogBeginsTooLate", nil, all{"B": 290, "W": 300}, late, func(l *lab) {
			l.silence("A")
			l.logFrom(291, "W")
		}, "", ""},
		{"DonorKeepsNoLog", nil, all{"B": 290, "W": 300}, late, func(l *lab) {
			l.silence("A")
			l.logFrom(0, "W")
		}, "", ""},
		{"Unseeded", nil, all{"B": 300, "W": 300}, late, func(l *lab) {
			l.silence("A")
			l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}})
		}, "", ""},
		{"OrderedHoldsAll", failoverTo("B", false), all{"A": 300, "B": 300}, 0, nil, "B", ""},
		{"OrderedIsWaitedFor", failoverTo("B", false), all{"A": 300, "W": 300}, 0, nil, "", ""},
		{"OrderedIsNotWaitedForLong", failoverTo("B", false), all{"A": 300, "W": 300}, late, nil, "A", "backup has not reported its log"},
		{"OrderedCopies", failoverTo("B", false), all{"B": 290, "A": 300}, 0, nil, "B<A", ""},
		{"OrderedIsAskedThoughLate", failoverTo("B", false), all{"B": 290, "A": 300}, late, nil, "B<A", ""},
		{"OrderedCannotCopyYet", failoverTo("B", false), all{"B": 290, "A": 300}, 0, func(l *lab) { l.logFrom(295, "A") }, "", ""},
		{"OrderedCannotCopy", failoverTo("B", false), all{"B": 290, "A": 300}, late, func(l *lab) { l.logFrom(295, "A") }, "A", "the log that main keeps begins at"},
		{"ForceIsNoHurry", failoverTo("B", true), all{"B": 290, "A": 300}, 0, func(l *lab) { l.logFrom(295, "A") }, "", ""},
		{"ForceAsksForACopyFirst", failoverTo("B", true), all{"B": 290, "A": 300}, late, nil, "B<A", ""},
		{"Force", failoverTo("B", true), all{"B": 290, "A": 300}, late, func(l *lab) { l.logFrom(295, "A") }, "B!", ""},
		{"ForceOfWhoCannotStart", failoverTo("B", true), all{"B": 290, "A": 300}, late, failed("B"), "A", "backup cannot start PostgreSQL"},
		{"AWitnessIsNever", nil, all{"A": 290, "W": 300}, late, silent("A", "B"), "", ""},
		{"OrderOfAnOlderAttempt", failoverTo("B", false), all{"A": 300, "B": 300}, 0, func(l *lab) {
			l.must(begin(l))
			l.must(fenced(l, "A", 300), fenced(l, "B", 300))
		}, "A", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := electing(t, tt.ordered, tt.reports)
			l.wait(tt.after)
			l.hear()
			if tt.then != nil {
				tt.then(l)
			}
			p := decide.Decide(l.o)
			if got := chosen(p); got != tt.want {
				t.Fatalf("chose %q (%s: %s), want %q", got, p.Rule, p.Why, tt.want)
			}
			if out := l.carry(p); out.Refused != "" {
				t.Errorf("refused: %s", out.Refused)
			}
			if said := rejected(p); !strings.Contains(said, tt.rejects) {
				t.Errorf("rejected %q, want %q", said, tt.rejects)
			}
			if tt.want == "" {
				l.wait(time.Minute)
				l.hear()
				if p := decide.Decide(l.o); tt.after == late && p.Rule != "stuck" {
					t.Errorf("nobody is told what is missing: %+v", p)
				}
			}
		})
	}
}

// chosen is an election's plan in short.
func chosen(p decide.Plan) string {
	if p.Rule != "assign" {
		return ""
	}
	switch c := p.Actions[0].Command; {
	case c.Nominate != nil:
		return c.Nominate.Store + "<" + c.Nominate.Donor
	case c.Assign.Force:
		return c.Assign.Store + "!"
	default:
		return c.Assign.Store
	}
}

func rejected(p decide.Plan) string {
	var all []string
	for _, r := range p.Rejected {
		all = append(all, r.What+" "+r.Why)
	}
	return strings.Join(all, "; ")
}

// A candidate that copies is waited for while it gets on, and no longer.
func TestElect_CopyingThatStandsStill(t *testing.T) {
	for _, force := range []bool{false, true} {
		l := electing(t, failoverTo("B", force), map[string]pos.LSN{"A": 300, "B": 200})
		l.carry(l.fires("assign"))
		for lsn := pos.LSN(210); lsn < 250; lsn += 10 {
			l.wait(4 * time.Second)
			l.hear()
			l.quiet2()
			l.must(fenced(l, "B", lsn))
		}
		for range 4 { // repeating itself is not getting on
			l.wait(time.Second)
			l.hear()
			l.must(fenced(l, "B", 240))
		}
		l.quiet2()
		l.wait(time.Second)
		l.hear()
		l.must(fenced(l, "B", 240))
		want := "A"
		if force {
			want = "B!"
		}
		p := l.fires("assign")
		if got := chosen(p); got != want {
			t.Errorf("force %t: chose %q, %s", force, got, p.Why)
		}
	}
}

// quiet2 is quiet but for the incident of a long wait.
func (l *lab) quiet2() {
	l.t.Helper()
	for {
		p := decide.Decide(l.o)
		if p.Empty() {
			return
		}
		if p.Rule != "stuck" {
			l.t.Fatalf("rule %q fired: %s", p.Rule, p.Why)
		}
		l.carry(p)
	}
}

// Only a voter's log proves anything: a longer one of somebody else, who cannot
// give it, must not keep the group without a primary.
func TestElect_LogWithoutAVoteBlocksNobody(t *testing.T) {
	l := electing(t, nil, map[string]pos.LSN{"A": 400, "B": 300, "W": 300})
	l.silence("A")
	l.must(facts.Command{DropVoter: &facts.DropVoter{Store: "A"}})
	l.wait(late)
	l.say("B", nil)
	l.say("W", nil)
	p := l.fires("assign")
	if got := chosen(p); got != "B" {
		t.Errorf("chose %q: %s", got, p.Why)
	}
	if out := l.carry(p); out.Refused != "" {
		t.Error(out.Refused)
	}
}

func TestBeginOrdered(t *testing.T) {
	stop := func(l *lab) {
		l.say("A", func(r *decide.Report) { r.Server.State, r.Server.Ended = decide.ServerStopped, epoch(1) })
	}
	for _, tt := range []struct {
		name  string
		kind  facts.OrderKind
		force bool
		then  func(*lab)
		want  facts.ChangeKind // "" for waiting
		rule  string
	}{
		{"SwitchoverNotStopped", facts.OrderSwitchover, false, nil, "", ""},
		{"SwitchoverStopped", facts.OrderSwitchover, false, stop, facts.ChangeSwitchover, "begin-ordered"},
		{"SwitchoverSilent", facts.OrderSwitchover, false, func(l *lab) { l.silence("A") }, "", ""},
		{"SwitchoverSilentForLong", facts.OrderSwitchover, false, func(l *lab) {
			l.wait(31 * time.Second)
			l.hear()
			l.silence("A")
		}, facts.ChangeFailover, "begin-ordered"},
		{"SwitchoverNotFollowed", facts.OrderSwitchover, false, func(l *lab) {
			l.wait(31 * time.Second)
			l.hear()
		}, "", "order-over"},
		{"SwitchoverStoppingLate", facts.OrderSwitchover, false, func(l *lab) {
			l.wait(31 * time.Second)
			l.hear()
			l.say("A", func(r *decide.Report) { r.Server.State = decide.ServerStopped })
		}, "", ""},
		{"FailoverOfAHealthyOne", facts.OrderFailover, false, nil, "", ""},
		{"FailoverByForce", facts.OrderFailover, true, nil, facts.ChangeFailover, "begin-ordered"},
		{"FailoverSilent", facts.OrderFailover, false, func(l *lab) { l.silence("A") }, facts.ChangeFailover, "begin-ordered"},
		{"FailoverStopped", facts.OrderFailover, false, stop, facts.ChangeFailover, "begin-ordered"},
		{"FailoverLocked", facts.OrderFailover, false, func(l *lab) {
			l.say("A", func(r *decide.Report) { r.Server.State = decide.ServerLocked })
		}, facts.ChangeFailover, "begin-ordered"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := trio(t)
			l.must(order(l, tt.kind, "B", tt.force))
			if tt.then != nil {
				tt.then(l)
			}
			p := decide.Decide(l.o)
			if p.Rule != tt.rule {
				t.Fatalf("rule %q (%s), want %q", p.Rule, p.Why, tt.rule)
			}
			if out := l.carry(p); out.Refused != "" {
				t.Fatal(out.Refused)
			}
			if tt.want != "" && p.Actions[0].Command.BeginEpoch.Change != tt.want {
				t.Errorf("begun as %q", p.Actions[0].Command.BeginEpoch.Change)
			}
			if tt.want != "" && (!p.Kept() || len(p.Evidence) < 3) {
				t.Errorf("evidence %+v", p.Evidence)
			}
			if tt.rule == "order-over" && l.o.State.Order != nil {
				t.Error("the order stands")
			}
			l.quiet() // once
		})
	}
}

func TestBeginStalled(t *testing.T) {
	l := electing(t, nil, map[string]pos.LSN{"A": 300, "B": 300})
	l.carry(l.fires("assign"))
	l.wait(1900 * time.Millisecond)
	l.silence("A")
	l.quiet() // not at once
	l.wait(200 * time.Millisecond)
	l.say("B", nil)
	l.say("W", nil)
	p := l.fires("begin-stalled")
	if !strings.Contains(p.Why, "main fell silent") {
		t.Errorf("said: %s", p.Why)
	}
	l.say("A", nil)
	l.quiet() // it speaks
	l.must(starting(l, "A", 300))
	l.silence("A")
	l.fires("begin-stalled")
	l.must(opened(l, "A", 300))
	l.quiet() // another rule's matter
}

func TestPairVote(t *testing.T) {
	l := pair(t)
	l.quiet()
	l.must(order(l, facts.OrderSwitchover, "B", false))
	l.must(begin(l))
	l.must(fenced(l, "A", 300), fenced(l, "B", 300))
	l.say("B", func(r *decide.Report) { r.Server.State = decide.ServerReplica })
	l.carry(l.fires("assign"))
	var rules []string
	for range 10 {
		p := decide.Decide(l.o)
		if p.Empty() {
			break
		}
		rules = append(rules, p.Actions[0].String())
		if out := l.carry(p); out.Refused != "" {
			t.Fatal(out.Refused)
		}
	}
	s := l.o.State
	if s.Members["A"].LedgerVoter || !s.Members["B"].LedgerVoter || l.o.SelfStore != "B" {
		t.Errorf("after %q: led by %s, %+v", rules, l.o.SelfStore, s.Members)
	}
	for _, r := range l.o.Raft {
		if r.Voter != (r.Store == "B") {
			t.Errorf("ledger servers %+v", l.o.Raft)
		}
	}
	l.must(starting(l, "B", 300), opened(l, "B", 300))
}

// When the witness goes for good, two ledger votes would be left, and losing the
// standby would lose the ledger.
func TestPairVote_OfAGroupThatBecameAPair(t *testing.T) {
	for _, leader := range []string{"A", "B"} {
		l := trio(t)
		l.must(facts.Command{DropVoter: &facts.DropVoter{Store: "W"}})
		l.must(confirm(l), facts.Command{RemoveMember: &facts.RemoveMember{Store: "W", Expect: l.o.State.MembersVersion}})
		l.silence("W")
		l.raftRemove("W")
		l.o.SelfStore = leader
		for p := decide.Decide(l.o); !p.Empty(); p = decide.Decide(l.o) {
			if out := l.carry(p); out.Refused != "" {
				t.Fatal(out.Refused)
			}
		}
		if m := l.o.State.Members; !m["A"].LedgerVoter || m["B"].LedgerVoter || l.o.SelfStore != "A" {
			t.Errorf("led by %s, now by %s: %+v", leader, l.o.SelfStore, m)
		}
	}
}

// Two voters that are left of three are no pair while the third is a member:
// nobody's ledger vote moves, and none is needed.
func TestPairVote_NotOfThree(t *testing.T) {
	l := trio(t)
	l.must(facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: "B"}})
	l.raftSet(decide.RaftServer{Store: "B", Address: "b:1"})
	l.must(facts.Command{DropVoter: &facts.DropVoter{Store: "W"}})
	l.must(confirm(l), begin(l))
	l.must(fenced(l, "A", 300), fenced(l, "B", 300), assignTo(l, "B"))
	l.quiet()
	l.must(starting(l, "B", 300))
}

func TestPairAlone(t *testing.T) {
	lost := func(l *lab) {
		l.wait(11 * time.Second)
		l.o.Reports["B"] = decide.Heard{Report: l.o.Reports["B"].Report, At: t0}
		l.primarySays(decide.Link{Peer: "backup", State: "connecting", Since: t0})
	}
	l := pair(t)
	lost(l)
	p := l.fires("pair-alone")
	if out := l.carry(p); out.Refused != "" || l.o.State.IsVoter("B") || !p.Kept() {
		t.Errorf("%+v", out)
	}
	for name, change := range map[string]func(*lab){
		"NotTheLeader": func(l *lab) { l.o.SelfStore = "B" },
		"Streaming":    func(l *lab) { l.primarySays(link("backup", 5000)) },
		"JustLost": func(l *lab) {
			l.primarySays(decide.Link{Peer: "backup", State: "connecting", Since: l.o.Now.Add(-9 * time.Second)})
		},
		"ItsDaemonAnswers": func(l *lab) { l.say("B", nil) },
		"NoReport":         func(l *lab) { l.silence("A") },
		"Ordered":          func(l *lab) { l.must(order(l, facts.OrderFailover, "B", false)) },
	} {
		t.Run(name, func(t *testing.T) {
			l := pair(t)
			lost(l)
			change(l)
			if p := decide.Decide(l.o); p.Rule == "pair-alone" {
				t.Errorf("goes on alone: %s", p.Why)
			}
		})
	}
	l = pair(t) // its link refuses, though its daemon answers
	lost(l)
	l.say("B", nil)
	l.primarySays(decide.Link{Peer: "backup", State: "refused", Since: t0})
	l.fires("pair-alone")
	l = trio(t)
	lost(l)
	l.o.SelfStore = "A"
	if p := decide.Decide(l.o); p.Rule == "pair-alone" {
		t.Error("a group with a witness goes on alone")
	}
}
