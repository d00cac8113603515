package decide_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// nodeIs is what one node of a small world is like in an election.
type nodeIs int

const (
	silent nodeIs = iota // has not reported its fence and is not heard
	gone                 // has reported and fell silent
	low                  // has fenced, with less than the most
	high                 // has fenced, with the most
	failed               // high, but cannot start its PostgreSQL
	kindsOfNode
)

// smallWorld is one of all worlds of three nodes in an election.
type smallWorld struct {
	is       [3]nodeIs // A, B, W
	order    int       // index of smallOrders
	late     bool
	noCopies bool // logs kept for others begin too late
	unseeded bool // B
}

var smallOrders = []func(*lab) facts.Command{
	nil,
	func(l *lab) facts.Command { return order(l, facts.OrderSwitchover, "B", false) },
	failoverTo("B", false),
	failoverTo("B", true),
}

var stores = [3]string{"A", "B", "W"}

func (w smallWorld) lab(t testing.TB) *lab {
	l := trio(t)
	if o := smallOrders[w.order]; o != nil {
		l.must(o(l))
	}
	l.must(begin(l))
	if w.unseeded {
		l.must(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: "B"}})
	}
	if w.late {
		l.wait(late)
	}
	from := pos.LSN(1)
	if w.noCopies {
		from = 295
	}
	for i, s := range stores {
		if w.is[i] != silent {
			lsn := pos.LSN(300)
			if w.is[i] == low {
				lsn = 290
			}
			l.must(fenced(l, s, lsn))
		}
		l.say(s, func(r *decide.Report) {
			r.Spool.From, r.Server.State = from, decide.ServerReplica
			if w.is[i] == failed {
				r.Server.State, r.Server.Problem = decide.ServerFailed, "no pg_control"
			}
		})
		if w.is[i] == silent || w.is[i] == gone {
			l.silence(s)
		}
	}
	return l
}

func everySmallWorld(do func(smallWorld)) {
	n := int(kindsOfNode)
	for i := range n * n * n * len(smallOrders) * 8 {
		bits := i % 8
		o := i / 8 % len(smallOrders)
		k := i / 8 / len(smallOrders)
		do(smallWorld{is: [3]nodeIs{nodeIs(k % n), nodeIs(k / n % n), nodeIs(k / n / n)}, order: o, late: bits&1 != 0, noCopies: bits&2 != 0, unseeded: bits&4 != 0})
	}
}

// In every small world: nobody is elected who must not be, nothing is elected
// away without the operator, and the group is not left without a primary when
// somebody could be.
func TestElect_EverySmallWorld(t *testing.T) {
	n, forced := 0, 0
	everySmallWorld(func(w smallWorld) {
		l := w.lab(t)
		name := fmt.Sprintf("%+v", w)
		p := decide.Decide(l.o)
		if again := decide.Decide(l.o); !reflect.DeepEqual(p, again) {
			t.Fatalf("%s: two plans for one observation", name)
		}
		n++
		to := ""
		if p.Rule == "assign" {
			if a := p.Actions[0].Command.Assign; a != nil {
				to = a.Store
				if a.Force {
					forced++
				}
				checkAssign(t, name, w, l.o.State, a)
			} else {
				to = p.Actions[0].Command.Nominate.Store
				checkNominate(t, name, w, p.Actions[0].Command.Nominate)
			}
		}
		if (to == "W") || (to == "B" && w.unseeded) {
			t.Fatalf("%s: %s is chosen", name, to)
		}
		if out := l.carry(p); out.Refused != "" {
			t.Fatalf("%s: %s was refused: %s", name, p.Rule, out.Refused)
		}
		if to == "" && w.late && w.able() {
			t.Fatalf("%s: nobody is chosen, though somebody could be (rule %q)", name, p.Rule)
		}
	})
	if n != 4000 || forced == 0 {
		t.Errorf("%d worlds, %d elections by force", n, forced)
	}
}

func (w smallWorld) fit(i int) bool {
	return i != 2 && (w.is[i] == low || w.is[i] == high) && (i != 1 || !w.unseeded)
}

// able tells whether a fit node holds the most, or can copy it.
func (w smallWorld) able() bool {
	reported, most, donor := 0, false, false
	for i := range stores {
		if w.is[i] == silent {
			continue
		}
		reported++
		most = most || w.is[i] != low
		donor = donor || w.is[i] == high || w.is[i] == failed
	}
	for i := range stores {
		if reported >= 2 && w.fit(i) && (w.is[i] == high || !most || donor && !w.noCopies) {
			return true
		}
	}
	return false
}

func checkAssign(t *testing.T, name string, w smallWorld, s facts.State, a *facts.Assign) {
	t.Helper()
	i := map[string]int{"A": 0, "B": 1, "W": 2}[a.Store]
	if !w.fit(i) {
		t.Fatalf("%s: %s is elected", name, a.Store)
	}
	behind := false
	for _, f := range s.Primary.Fence {
		behind = behind || s.Primary.Fence[a.Store].Pos.Less(f.Pos)
	}
	if behind != a.Force || a.Force && (w.order != 3 || a.Store != "B" || !w.late) {
		t.Fatalf("%s: %s is elected, behind %t, by force %t", name, a.Store, behind, a.Force)
	}
}

func checkNominate(t *testing.T, name string, w smallWorld, c *facts.Nominate) {
	t.Helper()
	i := map[string]int{"A": 0, "B": 1, "W": 2}
	if d := w.is[i[c.Donor]]; !w.fit(i[c.Store]) || d != high && d != failed || w.noCopies {
		t.Fatalf("%s: %s is to copy from %s", name, c.Store, c.Donor)
	}
}

// Left alone for a while, every small world comes to an assignment, to a copy
// that somebody works on, or to an incident that says what is missing.
func TestElect_EverySmallWorldSaysWhatItWaitsFor(t *testing.T) {
	everySmallWorld(func(w smallWorld) {
		if !w.late {
			return
		}
		l := w.lab(t)
		for range 5 {
			p := decide.Decide(l.o)
			if p.Empty() {
				break
			}
			l.carry(p)
		}
		if p := l.o.State.Primary; p.Phase != facts.PhaseFencing || p.Copy != nil {
			return
		}
		l.wait(11 * time.Second)
		l.hear()
		l.carry(l.fires("stuck"))
		l.quiet()
	})
}
