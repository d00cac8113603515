package decide_test

import (
	"strings"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// openTrio is a trio whose primary A is open and whose standby B replays; W leads.
func openTrio(t testing.TB) *lab {
	l := trio(t)
	l.say("A", func(r *decide.Report) {
		r.Role, r.Server.State, r.Server.StartedEpoch = decide.RolePrimary, decide.ServerOpen, l.o.State.Primary.Epoch
		r.Epoch, r.Clock = l.o.State.Primary.Epoch, 1000*time.Second
	})
	l.say("B", func(r *decide.Report) { r.Role, r.Server.State = decide.RoleStandby, decide.ServerReplica })
	for _, s := range []string{"B", "W"} {
		l.hears(s, "A", decide.Hears{Clock: 1000 * time.Second})
	}
	l.quiet()
	return l
}

// hears makes a store say how it hears another.
func (l *lab) hears(store, of string, h decide.Hears) {
	h.Store, h.Node = of, l.o.State.NameOf(of)
	l.say(store, func(r *decide.Report) { r.Hears = []decide.Hears{h} })
}

// lost makes the primary unheard by the leader.
func (l *lab) lost(ago time.Duration, gone bool) {
	h := l.o.Reports["A"]
	h.At, h.Gone = l.o.Now.Add(-ago), gone
	l.o.Reports["A"] = h
}

const silence = time.Second

// deafen makes voters say that they have not heard the primary for so long.
func (l *lab) deafen(ago time.Duration, stores ...string) {
	l.lost(ago+100*time.Millisecond, false)
	for _, s := range stores {
		l.hears(s, "A", decide.Hears{Ago: ago, Clock: 1000 * time.Second})
	}
}

func refusals(n int, within time.Duration) decide.Hears {
	return decide.Hears{Gone: true, Ago: 50 * time.Millisecond, Refusals: n, RefusedFor: within}
}

func TestLoss(t *testing.T) {
	refused := func(l *lab, b, w decide.Hears) {
		l.lost(50*time.Millisecond, true)
		l.hears("B", "A", b)
		l.hears("W", "A", w)
	}
	enough := refusals(2, 100*time.Millisecond)
	policy := func(l *lab, f func(*facts.Policy)) { l.must(setPolicy(l, f)) }
	stream := func(moved, flushed time.Duration, e pos.Epoch) func(*decide.Report) {
		return func(r *decide.Report) { r.Stream = &decide.Stream{Epoch: e, Moved: moved, Flushed: flushed} }
	}
	for _, c := range []struct {
		name string
		do   func(*lab)
		rule string // "" = nothing begins
	}{
		{"Silent", func(l *lab) { l.deafen(silence, "B", "W") }, "begin-silent"},
		{"SilentForTooShort", func(l *lab) { l.deafen(silence-1, "B", "W") }, ""},
		{"SilentForOneOnly", func(l *lab) { l.deafen(silence, "W") }, ""},
		{"SilentButHeardByTheLeader", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.lost(0, false)
		}, ""},
		{"NeverHeard", func(l *lab) {
			l.deafen(silence, "W")
			l.hears("B", "A", decide.Hears{Never: true, Ago: silence})
		}, "begin-silent"},
		{"ListenedForTooShort", func(l *lab) {
			l.deafen(silence, "W")
			l.hears("B", "A", decide.Hears{Never: true, Ago: silence - 1})
		}, ""},
		{"LogAdvances", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.say("B", stream(silence-1, 1000*time.Second+1, epoch(1)))
		}, ""},
		{"LogAdvancedBefore", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.say("B", stream(silence, 1000*time.Second+1, epoch(1)))
		}, "begin-silent"},
		{"LogIsOlderThanTheLastWord", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.say("B", stream(0, 1000*time.Second, epoch(1)))
		}, "begin-silent"},
		{"LogOfAnOlderEpoch", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.say("B", stream(0, 2000*time.Second, pos.Epoch{Gen: 1}))
		}, "begin-silent"},
		{"LogAdvancesAtOneThatHears", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.must(facts.Command{AddMember: &facts.AddMember{Expect: l.o.State.MembersVersion,
				Member: facts.Member{Name: "far", Store: "F", Kind: facts.KindData, Address: "f:1"}}})
			l.say("F", stream(0, 2000*time.Second, epoch(1)))
			l.raftSet(decide.RaftServer{Store: "F", Address: "f:1"})
		}, "begin-silent"},
		{"AnnouncedRestart", func(l *lab) {
			l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, For: 10 * time.Second}}})
			l.deafen(silence, "B", "W")
		}, ""},
		{"AnnouncedRestartIsOver", func(l *lab) {
			l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, For: 10 * time.Second}}})
			l.wait(10 * time.Second)
			l.hear()
			l.deafen(silence, "B", "W")
		}, "begin-silent"},
		{"AnnouncedByAClockThatIsAhead", func(l *lab) {
			l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, For: 10 * time.Second, Until: l.o.Now.Add(time.Hour)}}})
			l.o.LeavingSeen = map[string]time.Time{"A": l.o.Now}
			l.wait(10 * time.Second)
			l.hear()
			l.deafen(silence, "B", "W")
		}, "begin-silent"},
		{"Refused", func(l *lab) { refused(l, enough, enough) }, "begin-refused"},
		{"RefusedOnce", func(l *lab) { refused(l, enough, refusals(1, 0)) }, ""},
		{"RefusedTwiceAtOnce", func(l *lab) { refused(l, enough, refusals(2, 99*time.Millisecond)) }, ""},
		{"RefusedByOneOnly", func(l *lab) { refused(l, enough, decide.Hears{}) }, ""},
		{"RefusedAndHeard", func(l *lab) {
			heard := enough
			heard.Gone = false
			refused(l, enough, heard)
		}, ""},
		{"RefusedWhileRestarting", func(l *lab) {
			l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, For: 10 * time.Second}}})
			refused(l, enough, enough)
		}, ""},
		{"CutOff", func(l *lab) {
			l.say("A", func(r *decide.Report) { r.SentAt, r.MajorityContact = l.o.Now, l.o.Now.Add(-silence) })
		}, "begin-cut-off"},
		{"CutOffForTooShort", func(l *lab) {
			l.say("A", func(r *decide.Report) { r.SentAt, r.MajorityContact = l.o.Now, l.o.Now.Add(1-silence) })
		}, ""},
		{"CutOffSeenJustNow", func(l *lab) {
			l.say("A", func(r *decide.Report) { r.SentAt, r.MajorityContact = l.o.Now, l.o.Now.Add(-silence) })
			l.o.CutOffSeen = l.o.Now.Add(1 - 300*time.Millisecond)
			if !l.o.SaysCutOff() {
				t.Error("it says so")
			}
		}, ""},
		{"CutOffSeenForLong", func(l *lab) {
			l.say("A", func(r *decide.Report) { r.SentAt, r.MajorityContact = l.o.Now, l.o.Now.Add(-silence) })
			l.o.CutOffSeen = l.o.Now.Add(-300 * time.Millisecond)
		}, "begin-cut-off"},
		{"CutOffWhileRestarting", func(l *lab) {
			l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, For: 10 * time.Second}}})
			l.say("A", func(r *decide.Report) { r.SentAt, r.MajorityContact = l.o.Now, l.o.Now.Add(-silence) })
		}, ""},
		{"Failing", func(l *lab) { l.say("A", func(r *decide.Report) { r.Server.Failing = "no space" }) }, "begin-failing"},
		{"FailingOfAnEarlierEpoch", func(l *lab) {
			l.say("A", func(r *decide.Report) { r.Server.Failing, r.Server.StartedEpoch = "no space", pos.Epoch{} })
		}, ""},
		{"Paused", func(l *lab) {
			policy(l, func(p *facts.Policy) { p.Paused = true })
			l.deafen(silence, "B", "W")
		}, ""},
		{"PauseOver", func(l *lab) {
			policy(l, func(p *facts.Policy) { p.Paused, p.PausedUntil = true, l.o.Now })
			l.deafen(silence, "B", "W")
		}, "begin-silent"},
		{"Manual", func(l *lab) {
			policy(l, func(p *facts.Policy) { p.Failover = facts.FailoverManual })
			l.deafen(silence, "B", "W")
		}, ""},
		{"Observed", func(l *lab) {
			policy(l, func(p *facts.Policy) { p.Failover = facts.FailoverObserve })
			refused(l, enough, enough)
		}, ""},
		{"NobodyElse", func(l *lab) {
			l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}})
			l.deafen(silence, "B", "W")
		}, ""},
		{"OnlyOneThatIsNeverChosen", func(l *lab) {
			policy(l, func(p *facts.Policy) { *p = p.With("backup", facts.NodePolicy{NoFailover: true}) })
			l.deafen(silence, "B", "W")
		}, ""},
		{"OtherIsFailing", func(l *lab) {
			l.deafen(silence, "B", "W")
			l.say("B", func(r *decide.Report) { r.Server.Failing = "no space" })
		}, ""},
		{"OtherIsStopping", func(l *lab) {
			l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "B", Kind: facts.LeavingStopping, For: 10 * time.Second}}})
			l.deafen(silence, "B", "W")
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := openTrio(t)
			c.do(l)
			p := decide.Decide(l.o)
			if !strings.HasPrefix(p.Rule, "begin-") {
				p.Rule = ""
			}
			if p.Rule != c.rule {
				t.Fatalf("rule %q (%s), want %q", p.Rule, p.Why, c.rule)
			}
			if c.rule == "" {
				return
			}
			if len(p.Evidence) == 0 || p.Actions[0].Command.BeginEpoch.Lost.IsZero() {
				t.Errorf("begun without evidence (%d) or without the time of the last word", len(p.Evidence))
			}
			if out := l.carry(p); out.Refused != "" {
				t.Fatal(out.Refused)
			}
		})
	}
}

// What is not done about a lost primary is an incident, which ends with it.
func TestLossIncident(t *testing.T) {
	for _, c := range []struct {
		name, key, says string
		do              func(*lab)
	}{
		{"Observed", "would-failover", "another node would become primary", func(l *lab) {
			l.must(setPolicy(l, func(p *facts.Policy) { p.Failover = facts.FailoverObserve }))
			l.deafen(silence, "B", "W")
		}},
		{"Paused", "would-failover", "since it is paused", func(l *lab) {
			l.must(setPolicy(l, func(p *facts.Policy) { p.Paused = true }))
			l.deafen(silence, "B", "W")
		}},
		{"NobodyElse", "no-successor", "backup has no complete base", func(l *lab) {
			l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}})
			l.deafen(silence, "B", "W")
		}},
		{"VetoedForLong", "silence-veto", "log still advances", func(l *lab) {
			l.deafen(11*silence, "B", "W")
			l.say("B", func(r *decide.Report) { r.Stream = &decide.Stream{Epoch: epoch(1), Flushed: 2000 * time.Second} })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := openTrio(t)
			c.do(l)
			p := l.fires("loss-incident")
			if inc := p.Actions[0].Command.RaiseIncident.Incident; inc.Key != c.key || !strings.Contains(inc.Text, c.says) {
				t.Fatalf("incident %s: %s", inc.Key, inc.Text)
			}
			l.carry(p)
			l.quiet()
			l.lost(0, false)
			for _, s := range []string{"B", "W"} {
				l.hears(s, "A", decide.Hears{})
			}
			l.carry(l.fires("loss-incident"))
			l.quiet()
		})
	}
}

// A primary of before that hears nobody cannot fence, and is not waited for.
func TestElect_PreviousIsDeaf(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(fenced(l, "B", 300), fenced(l, "W", 300))
	l.quiet()
	l.say("A", func(r *decide.Report) {
		r.Hears = []decide.Hears{{Store: "B", Ago: decide.Fresh}, {Store: "W", Ago: decide.Fresh}}
	})
	if got := l.fires("assign").Actions[0].Command.Assign.Store; got != "B" {
		t.Fatalf("elected %q", got)
	}
}

func TestElect_Preferences(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(l *lab, p *facts.Policy)
		want string
	}{
		{"Neither", func(*lab, *facts.Policy) {}, "A"},
		{"Priority", func(_ *lab, p *facts.Policy) { *p = p.With("backup", facts.NodePolicy{Priority: 5}) }, "B"},
		{"PriorityButMuchToReplay", func(l *lab, p *facts.Policy) {
			*p = p.With("backup", facts.NodePolicy{Priority: 5})
			l.say("B", func(r *decide.Report) { r.Applied = 1 })
		}, "A"},
		{"PriorityButDelayed", func(_ *lab, p *facts.Policy) {
			*p = p.With("backup", facts.NodePolicy{Priority: 5, ApplyDelay: time.Hour})
		}, "A"},
		{"LessToReplay", func(l *lab, _ *facts.Policy) {
			l.say("A", func(r *decide.Report) { r.Applied -= 10 })
		}, "B"},
		{"NoFailover", func(_ *lab, p *facts.Policy) {
			*p = p.With("main", facts.NodePolicy{NoFailover: true, Priority: 9})
		}, "B"},
		{"OnlyDelayedIsLeft", func(_ *lab, p *facts.Policy) {
			*p = p.With("main", facts.NodePolicy{NoFailover: true}).With("backup", facts.NodePolicy{ApplyDelay: time.Hour})
		}, "B"},
		{"NobodyMay", func(_ *lab, p *facts.Policy) {
			*p = p.With("main", facts.NodePolicy{NoFailover: true}).With("backup", facts.NodePolicy{NoFailover: true})
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := trio(t)
			// The primary of before is another store, which is gone: main and backup
			// are standbys now.
			l.o.State.Primary.Previous, l.o.State.Primary.Store = "gone", "gone"
			l.must(begin(l))
			const end = 1 << 30
			l.must(fenced(l, "A", end), fenced(l, "B", end), fenced(l, "W", end))
			for _, s := range []string{"A", "B"} {
				l.say(s, func(r *decide.Report) { r.Server.State, r.Applied = decide.ServerReplica, end })
			}
			l.must(setPolicy(l, func(p *facts.Policy) { c.do(l, p) }))
			p := decide.Decide(l.o)
			got := ""
			if p.Rule == "assign" {
				got = p.Actions[0].Command.Assign.Store
			}
			if got != c.want {
				t.Fatalf("elected %q (%s: %s), want %q", got, p.Rule, p.Why, c.want)
			}
		})
	}
}

// A primary whose crash recovery would take long is not waited for when somebody
// has replayed everything.
func TestElect_LongRecovery(t *testing.T) {
	for _, c := range []struct {
		name    string
		redo    pos.LSN
		applied pos.LSN
		want    string
	}{
		{"Short", 1<<30 - 32<<20, 1 << 30, "A"},
		{"Long", 1<<30 - 33<<20, 1 << 30, "B"},
		{"LongButTheOtherToo", 1<<30 - 33<<20, 1, "A"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := trio(t)
			l.must(begin(l))
			if c.want == "A" {
				l.must(fenced(l, "A", 1<<30), fenced(l, "B", 1<<30))
			} else { // it is not even waited for
				l.must(fenced(l, "B", 1<<30), fenced(l, "W", 1<<30))
			}
			l.say("A", func(r *decide.Report) { r.Server.Redo = c.redo })
			l.say("B", func(r *decide.Report) { r.Server.State, r.Applied = decide.ServerReplica, c.applied })
			if got := l.fires("assign").Actions[0].Command.Assign.Store; got != c.want {
				t.Fatalf("elected %q, want %q", got, c.want)
			}
		})
	}
}

func TestPlanned(t *testing.T) {
	ready := func(t *testing.T) *lab {
		l := openTrio(t)
		l.say("A", func(r *decide.Report) {
			r.Received, r.Links = 300, []decide.Link{{Peer: "backup", State: "streaming", Acked: 300, Applied: 300}}
		})
		l.say("B", func(r *decide.Report) { r.Applied = 300 })
		return l
	}
	to := func(t *testing.T, p decide.Plan) facts.Order {
		t.Helper()
		return p.Actions[0].Command.SetOrder.Order
	}
	t.Run("Leaving", func(t *testing.T) {
		l := ready(t)
		l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingStopping, For: time.Minute}}})
		p := l.fires("switchover-leaving")
		if o := to(t, p); o.To != "B" || o.Kind != facts.OrderSwitchover {
			t.Errorf("order %+v", o)
		}
		if out := l.carry(p); out.Refused != "" {
			t.Fatal(out.Refused)
		}
		l.quiet()
	})
	t.Run("LeavingWhilePaused", func(t *testing.T) {
		l := ready(t)
		l.must(setPolicy(l, func(p *facts.Policy) { p.Paused = true }))
		l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingStopping, For: time.Minute}}})
		l.quiet()
	})
	schedule := func(l *lab, to string) {
		l.must(facts.Command{Schedule: &facts.Schedule{Scheduled: facts.Scheduled{ID: "s", To: to, At: l.o.Now.Add(time.Minute), Until: l.o.Now.Add(2 * time.Minute)}}})
	}
	t.Run("Due", func(t *testing.T) {
		l := ready(t)
		schedule(l, "B")
		l.quiet()
		l.wait(time.Minute)
		l.hear()
		l.carry(l.fires("switchover-due"))
		if l.o.State.Scheduled != nil || l.o.State.Order == nil {
			t.Errorf("scheduled %v, order %v", l.o.State.Scheduled, l.o.State.Order)
		}
	})
	t.Run("DueAndRefused", func(t *testing.T) {
		l := ready(t)
		schedule(l, "B")
		l.say("B", func(r *decide.Report) { r.Server.State = decide.ServerStopped })
		l.wait(time.Minute)
		l.hear()
		l.quiet()
		l.wait(time.Minute + 1)
		l.hear()
		p := l.fires("switchover-due")
		if p.Actions[0].Command.Unschedule == nil {
			t.Fatalf("%+v", p.Actions)
		}
		l.carry(p)
		l.quiet()
	})
	t.Run("DueToThePrimary", func(t *testing.T) {
		l := ready(t)
		schedule(l, "A")
		l.wait(time.Minute)
		l.hear()
		l.carry(l.fires("switchover-due"))
		if l.o.State.Scheduled != nil {
			t.Error("it stands although there is nothing to do")
		}
	})
	t.Run("PauseOver", func(t *testing.T) {
		l := ready(t)
		l.must(setPolicy(l, func(p *facts.Policy) { p.Paused, p.PausedUntil = true, l.o.Now.Add(time.Minute) }))
		l.quiet()
		l.wait(time.Minute)
		l.hear()
		l.carry(l.fires("pause-over"))
		if l.o.State.Policy.Paused {
			t.Error("still paused")
		}
		l.quiet()
	})
}

func TestNoVote(t *testing.T) {
	l := openTrio(t)
	l.must(setPolicy(l, func(p *facts.Policy) { *p = p.With("backup", facts.NodePolicy{NoVote: true}) }))
	// Of main and witness both would be needed, and one is not heard.
	for _, lost := range []string{"A", "W"} {
		was := l.o.Reports[lost]
		l.silence(lost)
		if p := decide.Decide(l.o); p.Rule == "voter-drop" {
			t.Fatalf("backup's vote is taken while %s is lost", lost)
		}
		l.o.Reports[lost] = was
	}
	l.carry(l.fires("voter-drop"))
	if l.o.State.IsVoter("B") {
		t.Fatal("backup has its WAL vote still")
	}
	l.quiet() // the primary has not said that it counts by the new set
	l.must(facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: l.o.State.Voters.Version, Epoch: l.o.State.Primary.Epoch}})
	l.carry(l.fires("ledger-unvote"))
	if l.o.State.Members["B"].LedgerVoter {
		t.Fatal("backup has its ledger vote still")
	}
	l.say("A", func(r *decide.Report) {
		r.Received, r.Links = 300, []decide.Link{{Peer: "backup", State: "streaming", Acked: 300, Applied: 300}}
	})
	l.quiet()
	l.must(setPolicy(l, func(p *facts.Policy) { *p = p.With("backup", facts.NodePolicy{}) }))
	l.fires("voter-propose")
}

// An elected node that does not hear the group never learns of it.
func TestStalled_Deaf(t *testing.T) {
	l := trio(t)
	l.must(begin(l))
	l.must(fenced(l, "B", 300), fenced(l, "W", 300))
	l.lost(0, true)
	l.must(assignTo(l, "B"))
	l.wait(2 * time.Second)
	l.hear()
	l.quiet()
	l.say("B", func(r *decide.Report) {
		r.Hears = []decide.Hears{{Store: "A", Ago: decide.Fresh}, {Store: "W", Never: true}}
	})
	l.carry(l.fires("begin-stalled"))
	l.must(fenced(l, "B", 300), fenced(l, "W", 300))
	if p := decide.Decide(l.o); p.Rule == "assign" {
		t.Fatalf("elected again: %s", p.Why)
	}
}
