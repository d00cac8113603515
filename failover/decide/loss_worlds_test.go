package decide_test

import (
	"fmt"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// voiceIs is what one of the other two voters says of the primary.
type voiceIs int

const (
	mute        voiceIs = iota // is itself not heard
	hearsIt                    // hears the primary
	almostDeaf                 // has not heard it for nearly long enough
	deaf                       // has not heard it for long enough
	deafButLog                 // the same, and the primary's log advances there
	oldLog                     // the same, but that log is older than the last word
	refusedOnce                // its connection has ended and was refused once
	refusedNow                 // refused often enough
	kindsOfVoice
)

// lossWorld is one of all worlds of a trio whose primary may be lost.
type lossWorld struct {
	voice   [2]voiceIs // B, W
	primary int        // what the leader has of it: fresh, failing, gone, old
	mode    int        // automatic, observe, manual, paused
	leaving int        // no, restarting, restarting and over
	backup  int        // fit, failing, no base, no_failover
	leader  string
}

func (w lossWorld) lab(t testing.TB) *lab {
	l := openTrio(t)
	l.o.SelfStore = w.leader
	l.o.LastTransfer = l.o.Now
	if w.leaving > 0 {
		l.must(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: "A", Kind: facts.LeavingRestarting, For: 10 * time.Second}}})
		if w.leaving > 1 {
			l.wait(11 * time.Second)
			l.hear()
		}
	}
	l.must(setPolicy(l, func(p *facts.Policy) {
		switch w.mode {
		case 1:
			p.Failover = facts.FailoverObserve
		case 2:
			p.Failover = facts.FailoverManual
		case 3:
			p.Paused = true
		}
		if w.backup == 3 {
			*p = p.With("backup", facts.NodePolicy{NoFailover: true})
		}
	}))
	if w.backup == 2 {
		l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}})
	}
	for i, s := range []string{"B", "W"} {
		w.speak(l, s, w.voice[i])
	}
	if w.backup == 1 && w.voice[0] != mute {
		l.say("B", func(r *decide.Report) { r.Server.Failing = "no space" })
	}
	switch w.primary {
	case 1:
		l.say("A", func(r *decide.Report) { r.Server.Failing = "no space" })
	case 2:
		l.lost(20*time.Millisecond, true)
	case 3:
		l.lost(2*silence, false)
	}
	return l
}

func (w lossWorld) speak(l *lab, store string, v voiceIs) {
	h := decide.Hears{Clock: 1000 * time.Second}
	var s *decide.Stream
	switch v {
	case mute:
		l.silence(store)
		return
	case almostDeaf:
		h.Ago = silence - 1
	case deaf, deafButLog, oldLog:
		h.Ago = silence
	case refusedOnce:
		h.Gone, h.Refusals = true, 1
	case refusedNow:
		h.Gone, h.Refusals, h.RefusedFor = true, 2, 100*time.Millisecond
	}
	if v == deafButLog || v == oldLog {
		s = &decide.Stream{Epoch: l.o.State.Primary.Epoch, Moved: silence / 2, Flushed: 1001 * time.Second}
		if v == oldLog {
			s.Flushed = 999 * time.Second
		}
	}
	l.hears(store, "A", h)
	l.say(store, func(r *decide.Report) { r.Stream = s })
}

// begins is what the rules ought to do, said another way.
func (w lossWorld) begins() string {
	if w.mode != 0 || w.backup != 0 {
		return ""
	}
	for _, v := range w.voice {
		if v == mute {
			return "" // two of three cannot be had
		}
	}
	if w.primary == 1 {
		return "begin-failing"
	}
	both := func(is func(voiceIs) bool) bool { return is(w.voice[0]) && is(w.voice[1]) }
	switch {
	case w.leaving == 1:
		return ""
	case both(func(v voiceIs) bool { return v == refusedNow }):
		return "begin-refused"
	case w.primary == 0:
		return ""
	case both(func(v voiceIs) bool { return v == deaf || v == oldLog }):
		return "begin-silent"
	}
	return ""
}

// In every small world an epoch begins exactly when the evidence is enough, and
// what is begun is admitted.
func TestLoss_EverySmallWorld(t *testing.T) {
	count := map[string]int{}
	for _, leader := range []string{"B", "W"} {
		for b := range kindsOfVoice {
			for v := range kindsOfVoice {
				for i := range 4 * 4 * 3 * 4 {
					w := lossWorld{voice: [2]voiceIs{b, v}, primary: i % 4, mode: i / 4 % 4, leaving: i / 16 % 3, backup: i / 48 % 4, leader: leader}
					if (leader == "B" && b == mute) || (leader == "W" && v == mute) {
						continue // a leader hears itself
					}
					l := w.lab(t)
					p := decide.Decide(l.o)
					got := ""
					if len(p.Actions) > 0 && p.Actions[0].Command != nil && p.Actions[0].Command.BeginEpoch != nil {
						got = p.Rule
					}
					if want := w.begins(); got != want {
						t.Fatalf("%+v: rule %q (%s), want %q", w, got, p.Why, want)
					}
					count[got]++
					if out := l.carry(p); out.Refused != "" {
						t.Fatalf("%+v: %s was refused: %s", w, p.Rule, out.Refused)
					}
				}
			}
		}
	}
	for _, r := range []string{"", "begin-failing", "begin-refused", "begin-silent"} {
		if count[r] == 0 {
			t.Errorf("no world for %q: %s", r, fmt.Sprint(count))
		}
	}
}
