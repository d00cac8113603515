package sim

import (
	"strconv"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// A scenario is what happens to a group: how often, and what.
type scenario struct {
	faults  int           // how many things happen
	pause   time.Duration // longest time between two of them
	crashy  float64       // chance of a crash in every step of a change of role
	drop    float64
	dup     float64
	slow    time.Duration // longest usual delay of a message
	disk    time.Duration // longest fsync
	lag     time.Duration // longest pause of a replay
	weights [actions]int
	// groups are the nodes that a group may have.
	groups [][]string
	// policy is what the operator decided.
	policy func(w *world, p *facts.Policy)
}

// The things that happen.
const (
	actSwitchover = iota
	actFailover
	actKillDaemon
	actKillHost
	actKillServer
	actCutPrimary // and an order to the other node
	actCutOne
	actCutPair
	actHeal
	actStallLedger
	actWipe
	actShrink // the operator takes votes; the group gives them back
	actPrimaryLost
	actOldTail // the primary is lost with a tail; the next one after it, too
	actHalf    // the primary and the other database lose each other, the witness hears both
	actBlink   // the daemon of a primary that was replaced meanwhile restarts
	actSingle  // one fault, measured
	actCutSome // ways of the primary, for a while
	actHalfBlink
	actReship      // old log is shipped again by a newer primary, which is lost at once
	actLateThird   // a replaced primary hears of it before one that takes its log
	actForgetful   // a host is lost just after it promised
	actLateAnswers // heartbeats are answered late, and then not at all
	actUnsynced    // a standby restarts with log that nobody has synced
	actHalt        // daemons freeze, hosts pause, disks hang
	actRestart     // announced
	actLeave       // announced
	actJump        // of a clock
	actPolicy      // another one
	actRestore     // of the whole group, to a moment
	actions
)

// Scenarios is how many kinds of runs there are; a seed is of the kind that it
// leaves when divided by it.
const Scenarios = 12

// The kinds of runs, by seed modulo Scenarios.
const (
	kindMixed = iota
	kindOrders
	kindStorm
	kindLost
	kindMembers
	kindSingle
	kindSilence
	kindPauses
	kindClocks
	kindPolicy
	kindLarge
	kindRestore
)

// decree makes another policy the group's.
func (w *world) decree() {
	for _, n := range w.nodes {
		if d := n.daemon; d != nil && n.runs() {
			p := facts.DefaultPolicy()
			w.scene.policy(w, &p)
			d.spawn(func(q *proc) {
				d.propose(q, time.Second, facts.Command{SetPolicy: &facts.SetPolicy{Expect: d.state().Policy.Version, Policy: p}})
			})
			return
		}
	}
}

// drive makes one thing happen after the other, then ends all faults.
func (w *world) drive(p *proc) {
	s := w.scene
	p.rest(800 * time.Millisecond)
	for range s.faults {
		p.rest(w.between(time.Millisecond, s.pause))
		w.act(p, w.pick(s.weights[:]))
	}
	p.rest(w.between(0, 2*time.Second))
	w.net.heal()
	w.net.drop, w.net.dup, w.crashy = 0, 0, 0
	w.calm, w.vault.busy = w.now, 0
	for _, n := range w.nodes {
		n.stalled = 0
		n.start()
	}
	w.trace("calm")
	w.attend(p)
}

// attend is an operator who sees that the primary is lost for good, disk and
// all, where the group may not help itself, or the node that was to restore it.
func (w *world) attend(p *proc) {
	for {
		p.rest(3 * time.Second)
		if o, ok := w.ledger.head().Restoring(); ok && w.check.byStore(o.To) == nil {
			w.withdraw(o.ID)
		}
		if st := w.ledger.head(); w.helpless(st) && st.Primary.Phase == facts.PhaseOpened && w.check.byStore(st.Primary.Store) == nil {
			w.order(w.nodes[w.rng.IntN(len(w.nodes))], false)
		}
	}
}

// helpless tells whether the policy leaves it to an operator who is primary. One
// that changes may have taken votes that nobody can give back while the primary
// is lost.
func (w *world) helpless(st facts.State) bool {
	return w.kind == kindPolicy || st.Policy.Mode(time.Time{}) != facts.FailoverAutomatic
}

func (w *world) act(p *proc, what int) {
	if what >= actSingle {
		w.actBySelf(p, what)
		return
	}
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch what {
	case actSwitchover, actFailover:
		w.order(n, what == actSwitchover)
	case actKillDaemon, actKillHost:
		w.kill(n, what == actKillHost, w.between(20*time.Millisecond, 3*time.Second))
	case actKillServer:
		w.killServer(n)
	case actCutPrimary:
		w.cutPrimary(p)
	case actCutOne:
		k := 1 + w.rng.IntN(3)
		w.trace("%s: cut off, out %t in %t", n.name, k&1 != 0, k&2 != 0)
		w.net.isolate(n.i, k&1 != 0, k&2 != 0)
	case actCutPair:
		if m := w.nodes[w.rng.IntN(len(w.nodes))]; m != n {
			w.trace("%s does not reach %s", n.name, m.name)
			w.net.cut[n.i][m.i] = true
		}
	case actHeal:
		w.trace("healed")
		w.net.heal()
	case actStallLedger:
		n.stalled = w.now + w.between(200*time.Millisecond, 2*time.Second)
	case actWipe:
		w.wipe(n)
	case actShrink:
		w.shrink(p)
	case actPrimaryLost:
		w.primaryLost(p)
	case actOldTail:
		w.oldTail(p)
	case actHalf:
		w.half(p)
	case actBlink:
		w.blink(p)
	}
}

func (w *world) actBySelf(p *proc, what int) {
	switch what {
	case actSingle:
		w.single(p)
	case actCutSome:
		w.cutSome(p)
	case actHalfBlink:
		w.halfBlink(p)
	case actReship:
		w.reship(p)
	case actLateThird:
		w.lateThird(p)
	case actForgetful:
		w.forgetful(p)
	case actLateAnswers:
		w.lateAnswers(p)
	case actUnsynced:
		w.unsynced(p)
	case actHalt:
		w.halt(p)
	case actRestart:
		w.restart(p)
	case actLeave:
		w.leave(p)
	case actJump:
		w.jump()
	case actPolicy:
		w.decree()
	case actRestore:
		w.restore(p)
	}
}

// someData is the name of some node with a database.
func (w *world) someData() string {
	for {
		if n := w.nodes[w.rng.IntN(len(w.nodes))]; n.kind == facts.KindData {
			return n.name
		}
	}
}

func (w *world) kill(n *node, host bool, down time.Duration) {
	if n.host.paused > w.now {
		return
	}
	w.trace("%s: killed, host %t", n.name, host)
	n.crash(host)
	w.after(down, n.back)
}

// open is the node that is open, as far as the ledger knows.
func (w *world) open() *node {
	if p := w.ledger.head().Primary; p.Phase == facts.PhaseOpened {
		return w.check.byStore(p.Store)
	}
	return nil
}

// order is the operator's word, given to a node's daemon.
func (w *world) order(at *node, switchover bool) { w.orderTo(at, "", switchover) }

// orderTo is an order for a node; without a name, for some, or for whomever the
// group chooses.
func (w *world) orderTo(at *node, to string, switchover bool) {
	d := at.daemon
	if d == nil {
		return
	}
	d.spawn(func(p *proc) {
		st, err := d.read(p)
		if err != nil {
			st = d.state()
		}
		o := d.observe(st)
		name := to
		if name == "" {
			name = w.someData()
		}
		req := decide.PlanFailover(o, name, false)
		if switchover {
			req = decide.PlanSwitchover(o, "")
		}
		if req.Order == nil {
			w.trace("operator at %s: refused: %s", at.name, req.Refused)
			return
		}
		ord := *req.Order
		w.orders++
		ord.ID = strconv.Itoa(w.orders)
		w.trace("operator at %s: %s to %s", at.name, ord.Kind, req.To)
		d.propose(p, 3*time.Second, facts.Command{SetOrder: &facts.SetOrder{Expect: o.State.Primary.Version, Order: ord}})
	})
}

// insist orders a failover until one stands or somebody else is primary.
func (w *world) insist(p *proc, old *node) {
	for range 12 {
		p.rest(300 * time.Millisecond)
		if o := w.open(); w.ledger.head().Order != nil || o != nil && o != old {
			return
		}
		for _, n := range w.nodes {
			if n != old {
				w.order(n, false)
			}
		}
	}
}

// cutPrimary isolates the primary while its clients write, and orders another.
func (w *world) cutPrimary(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	k := 1 + w.rng.IntN(3)
	w.trace("%s: primary cut off, out %t in %t", n.name, k&1 != 0, k&2 != 0)
	w.net.isolate(n.i, k&1 != 0, k&2 != 0)
	if w.chance(0.3) { // the third hears of the new epoch last
		w.insistWhile(p, n, w.nodes[2])
		return
	}
	w.insist(p, n)
	p.rest(w.between(0, 2*time.Second))
	w.net.heal()
}

// insistWhile orders a failover, keeps the ledger's log from one node, and lets
// the primary hear of it at once.
func (w *world) insistWhile(p *proc, old, late *node) {
	for range 60 {
		p.rest(50 * time.Millisecond)
		if w.ledger.head().Primary.Phase != facts.PhaseOpened {
			break
		}
		late.stalled = w.now + 800*time.Millisecond
		if w.ledger.head().Order == nil {
			w.order(w.nodes[1-min(old.i, 1)], false)
		}
	}
	w.net.heal()
}

// primaryLost: one peer falls behind, then the primary is lost for a while, and
// the group goes on without it. The other peer may lose its power as well.
func (w *world) primaryLost(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	whole := w.check.settled() == ""
	a, b := w.nodes[(n.i+1)%3], w.nodes[(n.i+2)%3]
	if w.chance(0.5) {
		a, b = b, a
	}
	w.trace("%s: primary lost, %s behind", n.name, a.name)
	w.net.cut[n.i][a.i] = true
	if s := b.pg; s != nil && w.chance(0.3) {
		s.end() // its PostgreSQL restarts meanwhile
	}
	p.rest(w.between(10*time.Millisecond, 1200*time.Millisecond))
	hold := w.between(time.Second, 6*time.Second)
	if w.chance(0.5) {
		w.kill(n, w.chance(0.7), hold)
	} else {
		w.net.isolate(n.i, true, true)
	}
	switch {
	case whole && w.chance(0.4):
		w.lose(b) // its disk as well: nobody may go on without n
	case w.chance(0.5):
		w.kill(b, true, w.between(10*time.Millisecond, 300*time.Millisecond))
	}
	w.insist(p, n)
	p.rest(w.between(0, 2*time.Second))
	w.net.heal()
}

// oldTail: the primary is left alone with a long tail, another one opens and is
// lost soon after, and the first comes back.
func (w *world) oldTail(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	w.trace("%s: left alone with a tail", n.name)
	w.net.isolate(n.i, true, true)
	w.insist(p, n)
	p.until(4*time.Second, func() bool { o := w.open(); return o != nil && o != n })
	p.rest(w.between(50*time.Millisecond, 700*time.Millisecond))
	m := w.open()
	if m == nil || m == n {
		w.net.heal()
		return
	}
	w.kill(m, true, w.between(2*time.Second, 5*time.Second))
	w.net.heal()
	w.kill(n, false, 10*time.Millisecond)
	w.insist(p, m)
	p.rest(w.between(0, time.Second))
}

// half cuts the two databases off from each other. When the ledger is led by
// the one that does not hear the primary, the operator may go on there, while
// the primary still reaches the witness.
func (w *world) half(p *proc) {
	n := w.open()
	if n == nil || n.i > 1 {
		return
	}
	m, witness := w.nodes[1-n.i], w.nodes[2]
	w.trace("%s and %s lose each other", n.name, m.name)
	w.net.cut[n.i][m.i], w.net.cut[m.i][n.i] = true, true
	if w.ledger.leader == witness.i {
		w.kill(witness, false, 30*time.Millisecond)
	}
	p.rest(1100 * time.Millisecond)
	for range 8 {
		w.order(m, false)
		p.rest(250 * time.Millisecond)
		if w.ledger.head().Primary.Phase != facts.PhaseOpened {
			if w.chance(0.5) {
				w.kill(witness, true, 5*time.Millisecond)
			}
			break
		}
	}
	p.rest(w.between(0, 1500*time.Millisecond))
	w.net.heal()
}

// blink isolates the primary, lets the group go on, and restarts its daemon
// while the server still runs under its lease.
func (w *world) blink(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	w.net.isolate(n.i, true, true)
	old := w.ledger.head().Primary.Epoch
	for range 12 {
		p.rest(100 * time.Millisecond)
		for _, m := range w.nodes {
			if m != n && w.ledger.head().Order == nil {
				w.order(m, false)
			}
		}
		if old.Less(w.ledger.head().Primary.Epoch) {
			break
		}
	}
	w.kill(n, false, w.between(20*time.Millisecond, 600*time.Millisecond))
	p.rest(w.between(500*time.Millisecond, 2*time.Second))
	w.net.heal()
}

// wipe takes a node's disk, when nobody else is needed to replace it.
func (w *world) wipe(n *node) {
	if w.check.settled() != "" {
		return
	}
	w.lose(n)
}

func (w *world) lose(n *node) {
	if w.ledger.head().Order != nil || len(w.ledger.head().Voters.Stores) == 1 {
		return // a restored group is whole again only when others have its log
	}
	w.trace("%s: disk lost", n.name)
	w.check.remember(n)
	n.crash(true)
	n.forget()
	n.marked, n.dir = nil, directory{state: dirNone}
	n.applied = 0
	w.after(w.between(20*time.Millisecond, time.Second), n.start)
}

// shrink takes the votes of everybody but the primary, which the group gives
// back; meanwhile the primary may hear of it late, and be cut off.
func (w *world) shrink(p *proc) {
	n := w.open()
	if n == nil || w.check.settled() != "" {
		return
	}
	for _, o := range w.nodes {
		if d := n.daemon; o != n && d != nil {
			d.spawn(func(q *proc) {
				d.propose(q, time.Second, facts.Command{DropVoter: &facts.DropVoter{Store: o.sp.store}})
			})
			p.until(time.Second, func() bool {
				v := w.ledger.head().Voters
				return v.Confirmed == v.Version && !w.ledger.head().IsVoter(o.sp.store)
			})
		}
	}
	if w.ledger.leader == n.i || w.chance(0.5) {
		return
	}
	p.until(time.Second, func() bool { v := w.ledger.head().Voters; return v.Proposed != nil || len(v.Stores) > 1 })
	n.stalled = w.now + 3*time.Second
	p.until(2*time.Second, func() bool { return len(w.ledger.head().Voters.Stores) == 3 })
	p.rest(w.between(0, 100*time.Millisecond))
	w.cutPrimary(p)
}
