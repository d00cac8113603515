package sim

import (
	"time"

	"understudy/ledger/facts"
)

// fault is one thing that is done to a whole group, which then has to help
// itself.
type fault struct {
	name string
	// within is by when writes go on again; 0: nothing is promised.
	within time.Duration
	do     func(w *world, p *proc, n *node) // n is the primary
}

// singles are the faults whose outage is measured, one at a time.
func singles() []fault {
	return []fault{
		{"host crash", 2 * time.Second, func(w *world, p *proc, n *node) { w.kill(n, true, w.between(5*time.Second, 8*time.Second)) }},
		{"host crash, back soon", 2 * time.Second, func(w *world, p *proc, n *node) { w.kill(n, true, w.between(50*time.Millisecond, 2*time.Second)) }},
		{"daemon killed", time.Second, func(w *world, p *proc, n *node) { w.kill(n, false, w.between(4*time.Second, 6*time.Second)) }},
		{"daemon killed, back soon", time.Second, func(w *world, p *proc, n *node) {
			w.kill(n, false, w.between(20*time.Millisecond, 400*time.Millisecond))
		}},
		{"server killed", time.Second, func(w *world, p *proc, n *node) { w.killServer(n) }},
		{"cut off", 2 * time.Second, func(w *world, p *proc, n *node) { w.cutFor(p, func() { w.net.isolate(n.i, true, true) }) }},
		{"not heard", 2 * time.Second, func(w *world, p *proc, n *node) { w.cutFor(p, func() { w.net.isolate(n.i, true, false) }) }},
		{"deaf", 3 * time.Second, func(w *world, p *proc, n *node) { w.cutFor(p, func() { w.net.isolate(n.i, false, true) }) }},
		{"daemon frozen", 2 * time.Second, func(w *world, p *proc, n *node) { n.freeze(w.between(5*time.Second, 6*time.Second)) }},
		{"host paused", 2 * time.Second, func(w *world, p *proc, n *node) { n.pause(w.between(5*time.Second, 6*time.Second), w.chance(0.5)) }},
		{"disk hangs", 3 * time.Second, func(w *world, p *proc, n *node) { n.hang(w.between(9*time.Second, 12*time.Second)) }},
		{"disk lost", 2 * time.Second, func(w *world, p *proc, n *node) { w.lose(n) }},
	}
}

// single does one thing to a whole group and measures for how long no commit
// was acknowledged.
func (w *world) single(p *proc) {
	if !w.whole(p, 40*time.Second) {
		return
	}
	n := w.open()
	all := singles()
	f := all[w.rng.IntN(len(all))]
	leads := w.ledger.leader == n.i
	p.rest(w.between(300*time.Millisecond, 1500*time.Millisecond))
	if n != w.open() || w.check.settled() != "" {
		return
	}
	w.check.measure(f, leads)
	w.trace("%s: %s", n.name, f.name)
	f.do(w, p, n)
	w.whole(p, 40*time.Second)
	w.check.measured()
}

// whole waits until the group is.
func (w *world) whole(p *proc, patience time.Duration) bool {
	for end := w.now + patience; w.now < end; {
		p.rest(100 * time.Millisecond)
		if w.check.settled() == "" {
			return true
		}
	}
	return false
}

func (w *world) killServer(n *node) {
	if s := n.pg; s != nil && n.halted(false) <= w.now {
		w.trace("%s: server killed", n.name)
		s.end()
	}
}

// cutFor cuts something for longer than anybody waits.
func (w *world) cutFor(p *proc, cut func()) {
	w.net.hold = w.chance(0.3)
	cut()
	p.rest(w.between(6*time.Second, 8*time.Second))
	w.net.heal()
}

// cutSome cuts, in some way, some of the ways of the primary for a while.
func (w *world) cutSome(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	a := w.nodes[(n.i+1+w.rng.IntN(len(w.nodes)-1))%len(w.nodes)]
	k := 1 + w.rng.IntN(3)
	w.net.hold = w.chance(0.5)
	switch w.rng.IntN(5) {
	case 0:
		w.trace("%s: cut off, out %t in %t", n.name, k&1 != 0, k&2 != 0)
		w.net.isolate(n.i, k&1 != 0, k&2 != 0)
	case 1: // the primary and one other are left to each other
		w.trace("%s and %s are left to each other", n.name, a.name)
		for _, o := range w.nodes {
			if o != n && o != a {
				w.net.isolate(o.i, k&1 != 0, k&2 != 0)
			}
		}
	case 2:
		w.trace("%s and %s lose each other, %d", n.name, a.name, k)
		w.net.cut[n.i][a.i], w.net.cut[a.i][n.i] = k&1 != 0, k&2 != 0
	case 3:
		w.trace("%s: the others do not hear it, but its log goes on", n.name)
		for _, o := range w.nodes {
			w.net.mute[n.i][o.i] = o != n
		}
		if w.chance(0.5) {
			p.rest(w.between(time.Second, 8*time.Second))
		}
	case 4:
		w.flap(p, n)
	}
	p.rest(w.between(200*time.Millisecond, 4*time.Second))
	w.net.heal()
}

// flap lets the network come and go.
func (w *world) flap(p *proc, n *node) {
	w.trace("%s: its network comes and goes", n.name)
	for range 4 + w.rng.IntN(8) {
		if w.chance(0.5) {
			w.net.isolate(n.i, true, true)
		} else {
			w.net.between(n.i, w.nodes[(n.i+1)%len(w.nodes)].i)
		}
		p.rest(w.between(50*time.Millisecond, 950*time.Millisecond))
		w.net.heal()
		p.rest(w.between(20*time.Millisecond, 400*time.Millisecond))
	}
	w.net.isolate(n.i, true, true)
}

// halfBlink: one node does not hear the primary, and one that does begins anew.
func (w *world) halfBlink(p *proc) {
	n := w.open()
	if n == nil || len(w.nodes) != 3 {
		return
	}
	a, b := w.nodes[(n.i+1)%3], w.nodes[(n.i+2)%3]
	if w.chance(0.5) {
		a, b = b, a
	}
	w.trace("%s does not hear %s, %s begins anew", a.name, n.name, b.name)
	w.net.between(n.i, a.i)
	if w.ledger.leader != a.i {
		w.kill(w.nodes[max(w.ledger.leader, 0)], false, 20*time.Millisecond)
	}
	p.rest(w.between(1200*time.Millisecond, 2500*time.Millisecond))
	for range 3 {
		w.kill(b, false, 5*time.Millisecond)
		p.rest(w.between(500*time.Millisecond, 1500*time.Millisecond))
	}
	w.net.heal()
}

// others are two other nodes, in some order.
func (w *world) others(n *node) (a, b *node) {
	a, b = w.nodes[(n.i+1)%len(w.nodes)], w.nodes[(n.i+2)%len(w.nodes)]
	if w.chance(0.5) {
		a, b = b, a
	}
	return a, b
}

// forgetful: the primary is cut off, another epoch is promised, and one of
// those who promised loses its host at once. It hears of the epoch last, and
// the old primary is the first to call.
func (w *world) forgetful(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	a, b := w.others(n)
	w.net.hold = false
	w.net.isolate(n.i, true, true)
	for end := w.now + 3*time.Second; w.now < end; {
		p.rest(time.Millisecond)
		if s := w.ledger.head().Primary; s.Phase != facts.PhaseOpened && s.Fence[a.sp.store].Store != "" {
			w.trace("%s: promised, and is lost", a.name)
			a.stalled, n.stalled = w.now+time.Second, w.now+1500*time.Millisecond
			w.kill(a, true, w.between(5*time.Millisecond, 40*time.Millisecond))
			w.net.heal()
			w.net.between(a.i, b.i)
			break
		}
	}
	p.rest(w.between(700*time.Millisecond, 1100*time.Millisecond))
	w.net.heal()
}

// reship: a primary is left alone with a tail; the next one writes a record
// that nobody else gets, and is lost; the first comes back, and is lost as soon
// as the third node has its tail. In Raft this is how a command of an old term
// that a majority has can be overwritten all the same.
func (w *world) reship(p *proc) {
	a := w.open()
	if a == nil || len(w.nodes) != 3 || a.i > 1 {
		return
	}
	b, witness := w.nodes[1-a.i], w.nodes[2]
	w.trace("%s: left alone with a tail, which it may ship again", a.name)
	w.net.hold = false
	w.net.isolate(a.i, true, true)
	phase := func(want facts.Phase, of *node) func() bool {
		return func() bool {
			s := w.ledger.head().Primary
			return s.Phase == want && s.Store == of.sp.store
		}
	}
	defer w.net.heal()
	if !w.soon(p, 4*time.Second, func() bool { return phase(facts.PhasePromoting, b)() && b.pg != nil && b.pg.primary && !b.dir.recovery }) {
		return
	}
	w.net.between(b.i, witness.i)
	if !w.soon(p, time.Second, func() bool { return b.pg != nil && b.pg.primary && b.dir.flushed > w.ledger.head().Primary.Start }) {
		return
	}
	w.kill(b, true, w.between(5*time.Second, 6*time.Second))
	w.net.heal()
	if !w.soon(p, 4*time.Second, func() bool { return phase(facts.PhaseStarting, a)() && a.pg != nil }) {
		return
	}
	a.host.stuck = w.now + 700*time.Millisecond // its own first record stays behind
	w.soon(p, 600*time.Millisecond, func() bool {
		return witness.sp.durable >= w.ledger.head().Primary.Start && w.check.told.epoch == w.ledger.head().Primary.Epoch
	})
	w.kill(a, true, w.between(7*time.Second, 8*time.Second))
	p.rest(w.between(4*time.Second, 6*time.Second))
}

// soon waits until ok, looking all the time.
func (w *world) soon(p *proc, patience time.Duration, ok func() bool) bool {
	for end := w.now + patience; w.now < end; {
		if ok() {
			return true
		}
		p.rest(500 * time.Microsecond)
	}
	return ok()
}

// lateThird: the primary is replaced on the operator's word and hears of it at
// once, the third node does late, and goes on taking its log.
func (w *world) lateThird(p *proc) {
	a := w.open()
	if a == nil || len(w.nodes) != 3 || a.i > 1 {
		return
	}
	b, late := w.nodes[1-a.i], w.nodes[2]
	w.net.hold = false
	w.net.isolate(a.i, true, true)
	if w.ledger.leader == late.i {
		w.kill(late, false, 30*time.Millisecond)
	}
	w.trace("%s: is replaced, and %s hears of it late", a.name, late.name)
	for range 60 {
		late.stalled = w.now + 800*time.Millisecond
		p.rest(40 * time.Millisecond)
		if w.ledger.head().Order != nil {
			break
		}
		w.orderTo(b, b.name, false)
	}
	w.net.heal()
	p.rest(w.between(500*time.Millisecond, 1500*time.Millisecond))
}

// lateAnswers: the answers to the primary's heartbeats come late, and when they
// come its heartbeats get nowhere any more.
func (w *world) lateAnswers(p *proc) {
	n := w.open()
	if n == nil {
		return
	}
	w.trace("%s: its heartbeats are answered late", n.name)
	w.net.hold = true
	w.net.isolate(n.i, false, true)
	p.rest(w.between(250*time.Millisecond, 500*time.Millisecond))
	w.net.isolate(n.i, true, true)
	p.rest(w.between(200*time.Millisecond, 400*time.Millisecond))
	w.net.heal()
	w.net.isolate(n.i, true, false)
	p.rest(w.between(2500*time.Millisecond, 4*time.Second))
	w.net.heal()
}

// unsynced: only one standby is left to count, the disk of its received log
// hangs, and its server restarts.
func (w *world) unsynced(p *proc) {
	n := w.open()
	if n == nil || len(w.nodes) != 3 {
		return
	}
	a, b := w.nodes[1-min(n.i, 1)], w.nodes[2]
	w.trace("%s alone counts, its log's disk hangs, and its server restarts", a.name)
	w.net.between(n.i, b.i)
	a.hangLog(w.between(500*time.Millisecond, 1500*time.Millisecond))
	p.rest(w.between(20*time.Millisecond, 200*time.Millisecond))
	a.host.stuck = w.now + 120*time.Millisecond
	p.rest(w.between(60*time.Millisecond, 110*time.Millisecond))
	w.killServer(a)
	p.rest(w.between(300*time.Millisecond, 1500*time.Millisecond))
	w.net.heal()
}

// halt freezes daemons, pauses hosts, or lets disks hang: one, or several at
// once.
func (w *world) halt(p *proc) {
	n := w.open()
	if n == nil || w.chance(0.3) {
		n = w.nodes[w.rng.IntN(len(w.nodes))]
	}
	some := []*node{n}
	if w.chance(0.25) {
		some = w.nodes
	}
	what, d := w.rng.IntN(4), w.between(100*time.Millisecond, 5*time.Second)
	for _, n := range some {
		switch {
		case n.daemon == nil:
		case what <= 1:
			n.freeze(d + w.between(0, 20*time.Millisecond))
		case what == 2:
			n.pause(d+w.between(0, 20*time.Millisecond), w.chance(0.5))
		default:
			n.hang(2 * d)
		}
	}
	p.rest(d + w.between(0, 3*time.Second))
}

// restart announces that the primary's daemon comes back, which it does, in
// time or late, or not by itself.
func (w *world) restart(p *proc) {
	n := w.open()
	if n == nil || n.daemon == nil {
		return
	}
	d, grace := n.daemon, w.ledger.head().Policy.RestartGrace
	done := false
	d.leaves = true
	d.spawn(func(q *proc) {
		_, err := d.propose(q, time.Second, facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{
			Store: n.sp.store, Kind: facts.LeavingRestarting, Until: n.wall().Add(grace), For: grace}}})
		if s := n.pg; err == nil && s != nil && s.primary {
			s.until = n.clock() + grace
		}
		done = true
	})
	for end := w.now + 2*time.Second; !done && w.now < end; {
		p.rest(5 * time.Millisecond)
	}
	if n.daemon != d || !n.runs() {
		return
	}
	down := w.between(50*time.Millisecond, grace+3*time.Second)
	w.kill(n, w.chance(0.2), down)
	p.rest(down + w.between(0, 2*time.Second))
}

// leave announces that a node stops, and lets it stop once it may.
func (w *world) leave(p *proc) {
	n := w.open()
	if n == nil || n.daemon == nil {
		return
	}
	d := n.daemon
	d.leaves = true
	d.spawn(func(q *proc) {
		d.propose(q, time.Second, facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{
			Store: n.sp.store, Kind: facts.LeavingStopping, Until: n.wall().Add(10 * time.Second), For: 10 * time.Second}}})
	})
	for end := w.now + w.between(500*time.Millisecond, 10*time.Second); w.now < end && w.open() == n; {
		p.rest(20 * time.Millisecond)
	}
	if n.runs() {
		w.kill(n, w.chance(0.3), w.between(100*time.Millisecond, 4*time.Second))
	}
}

// setClocks lets every host have its own time of day.
func (w *world) setClocks() {
	for _, n := range w.nodes {
		if w.chance(0.7) {
			n.host.ahead = w.between(-5*time.Second, 5*time.Second)
		}
	}
}

func (w *world) jump() {
	w.nodes[w.rng.IntN(len(w.nodes))].jump(w.between(-5*time.Second, 5*time.Second))
}
