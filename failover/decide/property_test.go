package decide_test

import (
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// world draws what may happen to a group between two decisions: nodes fall
// silent, come back, lose their store, complain; the primary's daemon does its
// part; time passes. What a command would refuse did not happen.
type world struct {
	*lab
	born int
}

var nodes = []facts.Member{
	{Name: "main", Kind: facts.KindData, Address: "a:1"},
	{Name: "backup", Kind: facts.KindData, Address: "b:1"},
	{Name: "witness", Kind: facts.KindWitness, Address: "w:1"},
	{Name: "third", Kind: facts.KindData, Address: "c:1"},
}

func (w *world) try(c facts.Command) {
	c.At = w.o.Now
	if s, out := facts.Apply(w.o.State, c); out.Refused == "" {
		w.o.State = s
	}
}

func (w *world) store(t *rapid.T) string {
	var all []string
	for _, n := range nodes {
		for s, m := range w.o.State.Members {
			if m.Name == n.Name {
				all = append(all, s)
			}
		}
	}
	return rapid.SampledFrom(all).Draw(t, "store")
}

func (w *world) step(t *rapid.T) {
	lsn := pos.LSN(rapid.IntRange(100, 6000).Draw(t, "lsn"))
	switch rapid.IntRange(0, 15).Draw(t, "event") {
	case 0:
		w.wait(time.Duration(rapid.IntRange(50, 12_000).Draw(t, "ms")) * time.Millisecond)
	case 1, 2:
		w.hear()
	case 3:
		w.silence(w.store(t))
	case 4: // a node speaks, with a store of its own or a new one
		n := rapid.SampledFrom(nodes).Draw(t, "node")
		m, known := w.o.State.MemberByName(n.Name)
		store := m.Store
		if !known || rapid.IntRange(0, 3).Draw(t, "lost") == 0 {
			w.born++
			w.silence(m.Store)
			store = string(rune('a' + w.born%26))
		}
		w.say(store, func(r *decide.Report) { r.Node, r.Kind, r.Address = n.Name, string(n.Kind), n.Address })
	case 5:
		if p := w.o.State.Primary; p.Store != "" {
			var links []decide.Link
			for _, n := range nodes {
				links = append(links, decide.Link{Peer: n.Name, State: rapid.SampledFrom([]string{"streaming", "connecting"}).Draw(t, "link"), Acked: lsn})
			}
			w.say(p.Store, func(r *decide.Report) {
				r.Epoch, r.Received, r.Committed, r.Links = p.Epoch, 6000, 4000, links
				r.Server.Ended = pos.Epoch{}
				if rapid.IntRange(0, 3).Draw(t, "ended") == 0 {
					r.Server.Ended = p.Epoch
				}
			})
		}
	case 6:
		for s := range w.o.State.Members {
			w.try(fenced(w.lab, s, lsn))
		}
	case 7:
		w.try(starting(w.lab, w.o.State.Primary.Store, w.o.State.Lineage.Last().Start))
		w.try(opened(w.lab, w.o.State.Primary.Store, 6000))
	case 8:
		w.try(confirm(w.lab))
	case 9:
		w.say(w.store(t), func(r *decide.Report) {
			r.Problems = rapid.MapOf(rapid.SampledFrom([]string{"spool", "stream"}), rapid.Just("text")).Draw(t, "problems")
		})
	default:
		w.ordered(t, lsn)
	}
}

// ordered is what happens under an operator's order and while log is copied.
func (w *world) ordered(t *rapid.T, lsn pos.LSN) {
	store := w.store(t)
	switch rapid.IntRange(0, 6).Draw(t, "ordered") {
	case 0, 1:
		kind := rapid.SampledFrom([]facts.OrderKind{facts.OrderSwitchover, facts.OrderFailover}).Draw(t, "kind")
		w.try(order(w.lab, kind, store, rapid.Bool().Draw(t, "force")))
	case 2:
		w.try(facts.Command{ClearOrder: &facts.ClearOrder{ID: "o", Why: "test"}})
	case 3: // a node of its own mind fences
		w.try(fenced(w.lab, store, lsn))
	case 4: // a copy gets on, or is done
		if c := w.o.State.Primary.Copy; c != nil {
			w.try(fenced(w.lab, c.Store, rapid.SampledFrom([]pos.LSN{c.Upto, min(lsn, c.Upto)}).Draw(t, "copied")))
		}
	case 5:
		w.say(store, func(r *decide.Report) {
			r.Spool.From = pos.LSN(rapid.SampledFrom([]int{0, 1, 150, 5000}).Draw(t, "from"))
			r.Server.State = rapid.SampledFrom([]decide.ServerState{decide.ServerReplica, decide.ServerStopped, decide.ServerFailed, decide.ServerOpen}).Draw(t, "state")
		})
	case 6:
		w.try(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: store, Seeded: rapid.IntRange(0, 3).Draw(t, "unseeded") > 0}})
	}
}

// newWorld is a group of three, or a pair.
func newWorld(t *rapid.T) *world {
	if rapid.IntRange(0, 2).Draw(t, "pair") == 0 {
		return &world{lab: pair(nothing{})}
	}
	return &world{lab: trio(nothing{})}
}

// Whatever has happened: the same observation gives the same plan, and the
// ledger admits it. A rule that proposes what is refused would keep all later
// rules from their turn.
func TestDecide_PlansAreAdmitted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(t)
			p := decide.Decide(w.o)
			if again := decide.Decide(w.o); !reflect.DeepEqual(p, again) {
				t.Fatalf("two plans for one observation:\n%+v\n%+v", p, again)
			}
			w.mayElect(t, p)
			if out := w.carry(p); out.Refused != "" {
				t.Fatalf("rule %s (%s) was refused: %s: %s", p.Rule, p.Why, out.Code, out.Refused)
			}
		}
	})
}

// mayElect checks whom a plan elects against what is known of it.
func (w *world) mayElect(t *rapid.T, p decide.Plan) {
	for _, a := range p.Actions {
		if a.Command == nil || a.Command.Assign == nil {
			continue
		}
		c, s := a.Command.Assign, w.o.State
		m := s.Members[c.Store]
		h, heard := w.o.Reports[c.Store]
		if m.Kind != facts.KindData || !m.Seeded || !s.IsVoter(c.Store) || !heard || w.o.Now.Sub(h.At) > decide.Fresh {
			t.Fatalf("%s is elected: %+v", c.Store, m)
		}
		for _, v := range s.Voters.Stores {
			if f, ok := s.Primary.Fence[v]; ok && s.Primary.Fence[c.Store].Pos.Less(f.Pos) && (!c.Force || s.Order == nil || !s.Order.Force) {
				t.Fatalf("%s is elected below %s", c.Store, f.Pos)
			}
		}
	}
}

// A group left to itself comes to rest: no two rules undo each other.
func TestDecide_ComesToRest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			w.step(t)
		}
		for range 100 {
			p := decide.Decide(w.o)
			if p.Empty() {
				return
			}
			if out := w.carry(p); out.Refused != "" {
				return // the other property's
			}
		}
		t.Fatal("a hundred plans, and no end")
	})
}

// nothing is the testing.TB of a lab that is set up inside a property: there
// only a panic can fail it.
type nothing struct{ testing.TB }

func (nothing) Helper() {}

func (nothing) Fatalf(format string, args ...any) { panic(format) }
