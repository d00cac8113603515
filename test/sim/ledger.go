package sim

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// ledger is Raft as its users see it: one log of commands with a leader, which
// exists while it reaches a majority of the ledger's voters. Followers learn
// late what was applied, in order. A command that a leader took and could not
// spread before it lost its place may be applied by the next leader, or never.
type ledger struct {
	w       *world
	id      string
	gen     uint32        // of the group when it was formed with this ledger
	over    bool          // a restore of the group was made final in it
	states  []facts.State // by number of applied commands
	servers []decide.RaftServer
	leader  int // node, -1 for none
	ready   bool
	term    int
	lost    time.Duration // since when the leader has no majority
	none    time.Duration // until when nobody leads
	open    []facts.Command
	ids     int
}

var (
	errNoLeader = errors.New("no leader of the ledger answers")
	errRefused  = errors.New("refused")
)

// newLedger is an empty one without servers.
func (w *world) newLedger(id string, gen uint32) *ledger {
	l := &ledger{w: w, id: id, gen: gen, leader: -1, states: []facts.State{{}}}
	w.ledgers = append(w.ledgers, l)
	return l
}

// byID is the ledger of an id.
func (w *world) byID(id string) *ledger {
	return w.ledgers[slices.IndexFunc(w.ledgers, func(l *ledger) bool { return l.id == id })]
}

func (l *ledger) head() facts.State { return l.states[len(l.states)-1] }

// runs tells whether a node's daemon gets the processor and keeps this ledger.
func (l *ledger) runs(n *node) bool { return n.ledger == l && n.runs() }

// majority tells whether a node reaches a majority of the ledger's voters.
func (l *ledger) majority(i int) bool {
	if !l.runs(l.w.nodes[i]) {
		return false
	}
	voters, heard := 0, 0
	for _, s := range l.servers {
		if !s.Voter {
			continue
		}
		voters++
		for _, n := range l.w.nodes {
			if l.runs(n) && n.sp.store == s.Store && (n.i == i || l.w.net.both(i, n.i)) {
				heard++
			}
		}
	}
	return heard > voters/2
}

func (l *ledger) votes(n *node) bool {
	return l.runs(n) && slices.ContainsFunc(l.servers, func(s decide.RaftServer) bool { return s.Voter && s.Store == n.sp.store })
}

// tick keeps the leader and brings followers up to date.
func (l *ledger) tick() {
	w := l.w
	w.after(20*time.Millisecond, l.tick)
	switch {
	case l.leader >= 0 && (w.nodes[l.leader].daemon == nil || w.nodes[l.leader].ledger != l):
		l.depose()
	case l.leader >= 0 && l.majority(l.leader):
		l.lost = w.now
	case l.leader >= 0 && w.now-l.lost > 200*time.Millisecond:
		l.depose()
	}
	if l.leader < 0 && w.now >= l.none {
		l.elect()
	}
	for _, n := range w.nodes {
		if l.leader >= 0 {
			l.spread(n)
		}
	}
}

func (l *ledger) depose() {
	l.leader = -1
	l.term++
	l.none = l.w.now + l.w.between(300*time.Millisecond, 700*time.Millisecond)
}

func (l *ledger) elect() {
	var can []int
	for _, n := range l.w.nodes {
		if l.votes(n) && l.majority(n.i) {
			can = append(can, n.i)
		}
	}
	if len(can) > 0 {
		l.lead(can[l.w.rng.IntN(len(can))])
	}
}

// lead makes node i the leader, which has to replay its log first.
func (l *ledger) lead(i int) {
	l.w.trace("%s: leads the ledger", l.w.nodes[i].name)
	l.leader, l.ready, l.lost = i, false, l.w.now
	l.term++
	term := l.term
	open := l.open
	l.open = nil
	for _, c := range open {
		if l.w.chance(0.5) {
			l.apply(c)
		}
	}
	l.w.after(l.w.between(time.Millisecond, 60*time.Millisecond), func() {
		if n := l.w.nodes[i]; l.term == term && n.daemon != nil && n.ledger == l {
			l.ready = true
			l.learn(l.w.nodes[i], len(l.states)-1)
		}
	})
}

// spread lets a follower learn what was applied, some time from now.
func (l *ledger) spread(n *node) {
	upto := len(l.states) - 1
	d := n.daemon
	if d == nil || !l.runs(n) || n.i == l.leader || n.applied >= upto || l.w.now < n.stalled || !l.w.net.both(l.leader, n.i) {
		return
	}
	l.w.after(l.w.between(200*time.Microsecond, 8*time.Millisecond), func() {
		if n.daemon == d && l.runs(n) && l.w.now >= n.stalled {
			l.learn(n, upto)
		}
	})
}

func (l *ledger) learn(n *node, upto int) {
	if upto > n.applied && n.daemon != nil && n.ledger == l {
		n.applied = upto
		n.daemon.changed()
	}
}

// apply is the state machine: every command goes through facts.Apply.
func (l *ledger) apply(c facts.Command) facts.Outcome {
	before := l.head()
	after, out := l.w.mut.apply(before, c)
	if out.Refused == "" && after.Version != before.Version {
		l.states = append(l.states, after)
		l.w.check.applied(l, before, after, c)
	}
	return out
}

// submit commits a command at the leader, and answers unless it is lost.
func (l *ledger) submit(i int, c facts.Command, answer func(facts.Outcome)) {
	term := l.term
	if l.leader != i || !l.ready {
		return
	}
	l.w.after(l.w.between(500*time.Microsecond, 6*time.Millisecond), func() {
		if l.term != term || !l.majority(i) {
			if l.term == term {
				l.open = append(l.open, c)
			}
			return
		}
		out := l.apply(c)
		l.learn(l.w.nodes[i], len(l.states)-1)
		for _, n := range l.w.nodes {
			l.spread(n)
		}
		answer(out)
	})
}

// confirm is the newest state, which a majority confirmed after the call.
func (l *ledger) confirm(i int, answer func(facts.State)) {
	term := l.term
	if l.leader != i || !l.ready {
		return
	}
	l.w.after(l.w.between(200*time.Microsecond, 3*time.Millisecond), func() {
		if l.term == term && l.majority(i) {
			answer(l.head())
		}
	})
}

// ask sends one request to the leader, again and again until it is answered or
// patience ends. The request carries its own answer back.
func (d *daemon) ask(p *proc, patience time.Duration, request func(leader int, answered func())) error {
	l := d.n.ledger
	got := false
	end := d.w.now + patience
	for d.w.now < end {
		if l.leader < 0 {
			if err := p.sleep(30 * time.Millisecond); err != nil {
				return err
			}
			continue
		}
		leader := l.leader
		done := func() {
			if !got {
				got = true
				p.wake()
			}
		}
		if leader == d.n.i {
			request(leader, done)
		} else {
			d.w.net.send(d.n.i, leader, func(*daemon) {
				request(leader, func() { d.w.net.send(leader, d.n.i, func(*daemon) { done() }) })
			})
		}
		for retry := d.w.now + patience/3; !got && d.w.now < min(retry, end); {
			if err := p.sleep(min(retry, end) - d.w.now); err != nil {
				return err
			}
		}
		if got {
			return p.cause
		}
	}
	return errNoLeader
}

// propose returns when the command was applied, or refused, or nobody answered
// in time: then it may be applied all the same.
func (d *daemon) propose(p *proc, patience time.Duration, c facts.Command) (facts.Outcome, error) {
	l := d.n.ledger
	l.ids++
	c.ID, c.At = strconv.Itoa(l.ids), d.n.wall()
	var out facts.Outcome
	err := d.ask(p, patience, func(leader int, answered func()) {
		l.submit(leader, c, func(o facts.Outcome) { out = o; answered() })
	})
	if err == nil && out.Refused != "" {
		d.w.trace("%s: refused %s: %s", d.n.name, out.Code, out.Refused)
		err = errRefused
	}
	return out, err
}

// read is a state that a majority confirms.
func (d *daemon) read(p *proc) (facts.State, error) {
	if d.w.mut.on(OpenOnStaleRead) {
		return d.state(), p.sleep(time.Millisecond)
	}
	var st facts.State
	err := d.ask(p, time.Second, func(leader int, answered func()) {
		d.n.ledger.confirm(leader, func(s facts.State) { st = s; answered() })
	})
	return st, err
}

// raft carries out a plan's change of the ledger's own servers.
func (l *ledger) raft(i int, a decide.Action) bool {
	if l.leader != i || !l.majority(i) {
		return false
	}
	find := func(store string) int {
		return slices.IndexFunc(l.servers, func(s decide.RaftServer) bool { return s.Store == store })
	}
	switch {
	case a.RaftAdd != nil:
		if k := find(a.RaftAdd.Store); k >= 0 {
			l.servers[k] = *a.RaftAdd
		} else {
			l.servers = append(l.servers, *a.RaftAdd)
		}
	case a.RaftRemove != "":
		if k := find(a.RaftRemove); k >= 0 {
			l.servers = slices.Delete(l.servers, k, k+1)
		}
	case a.Transfer != "":
		for _, n := range l.w.nodes {
			if n.sp.store == a.Transfer && l.votes(n) && l.w.net.both(i, n.i) && l.majority(n.i) {
				l.lead(n.i)
			}
		}
	}
	return true
}
