package sim

import (
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Outage is for how long no commit was acknowledged around one fault in a
// whole group.
type Outage struct {
	Fault  string
	Leader bool // the primary led the ledger, too
	Lasted time.Duration
}

// outage is one under way.
type outage struct {
	fault fault
	leads bool
	gap   time.Duration
}

// watch is what the checks know of the primary that the ledger names, and of
// what others can know of it.
type watch struct {
	epoch   pos.Epoch
	linked  time.Duration            // since when it serves, and hears and is heard by a majority
	served  time.Duration            // the same, its reports aside, while its clients get answers
	acked   time.Duration            // when a client got its newest answer
	beats   map[string]time.Duration // newest heartbeat that got there, by store; the sender's clock
	version uint64                   // of the voters that it counts by
	counts  time.Duration            // since when, by its clock
}

// breath: a client got an answer.
func (c *checks) breath(n *node, r rec) {
	if o := c.outage; o != nil {
		o.gap = max(o.gap, c.w.now-c.watch.acked)
	}
	if c.w.now-c.watch.acked > 300*time.Millisecond || n.pg == nil || n.pg.epoch != c.watch.epoch {
		c.watch.served = c.w.now
	}
	c.watch.acked = c.w.now
}

func (c *checks) measure(f fault, leads bool) { c.outage = &outage{fault: f, leads: leads} }

// measured ends a measurement: writes must have gone on in the time that is
// promised.
func (c *checks) measured() {
	o := c.outage
	c.outage = nil
	o.gap = max(o.gap, c.w.now-c.watch.acked)
	c.outages = append(c.outages, Outage{o.fault.name, o.leads, o.gap})
	within := o.fault.within
	if o.leads {
		within += time.Second // the ledger elects meanwhile
	}
	if o.fault.within != 0 && o.gap > within {
		c.fail("no commit was acknowledged for %s after %q, primary leads the ledger %t; promised are %s", o.gap, o.fault.name, o.leads, within)
	}
}

// counted: what a client was told is on the disks of a majority, by the voters
// of now or of one version before.
func (c *checks) counted(n *node, r rec) {
	states := n.ledger.states
	v := states[len(states)-1].Voters.Version
	for k := len(states) - 1; k >= 0 && states[k].Voters.Version+1 >= v; k-- {
		if k < len(states)-1 && states[k].Voters.Version == states[k+1].Voters.Version {
			continue
		}
		if c.durable(r, states[k]) > len(states[k].Voters.Stores)/2 {
			return
		}
	}
	c.fail("%s acknowledged %s of epoch %s, which is on the disks of no majority", n.name, r.end, r.epoch)
}

// look keeps what is known of the primary up to date.
func (c *checks) look() {
	w, s := c.w, c.w.ledger.head()
	p := s.Primary
	n := c.byStore(p.Store)
	if p.Epoch != c.watch.epoch {
		c.watch = watch{epoch: p.Epoch, linked: w.now, served: w.now, acked: c.watch.acked, beats: map[string]time.Duration{}}
	}
	serves := n != nil && n.runs() && n.pg != nil && n.pg.open && n.pg.epoch == p.Epoch && n.host.stuck <= w.now
	if !serves || !c.connected(n, s, true) {
		c.watch.linked = w.now
	}
	if !serves || !c.connected(n, s, false) || w.now-c.watch.acked > 300*time.Millisecond {
		c.watch.served = w.now
	}
	if serves {
		c.leased(n, s)
	}
}

// connected tells whether a node hears and is heard by a majority of the
// voters.
func (c *checks) connected(n *node, s facts.State, reports bool) bool {
	k := 0
	for _, o := range c.w.nodes {
		if !s.IsVoter(o.sp.store) || o != n && (!o.runs() || !c.w.net.both(n.i, o.i)) {
			continue
		}
		if reports && c.w.net.mute[n.i][o.i] {
			continue
		}
		k++
	}
	return k > len(s.Voters.Stores)/2
}

// begun: an epoch was begun. Nobody may call lost a primary that serves, and
// what the operator or the primary itself has said is respected.
func (c *checks) begun(before facts.State, b *facts.BeginEpoch) {
	if b == nil {
		return
	}
	w, p := c.w, before.Primary
	switch b.Decision {
	case "begin-silent", "begin-refused":
		if n := c.byStore(p.Store); b.Decision == "begin-refused" && n != nil && n.host.up && w.now-n.host.gone < 100*time.Millisecond {
			c.fail("%s is replaced (%s) %s after its daemon ended, as it does to begin anew", p.Node, b.Cause, w.now-n.host.gone)
		}
		// A voter's word counts as what it says now for as long as it is fresh.
		enough := max(before.Policy.SilenceTimeout, decide.Fresh) + 200*time.Millisecond
		if since := min(c.watch.linked, c.watch.served); c.watch.epoch == p.Epoch && w.now-since > enough {
			c.fail("%s is replaced (%s) although it has served, connected to a majority, for %s", p.Node, b.Cause, w.now-since)
		}
		if l, left := before.Leaving[p.Store]; left && l.Kind == facts.LeavingRestarting && w.now-c.leaving[p.Store] < l.For-200*time.Millisecond {
			c.fail("%s is replaced (%s) %s after it announced a restart of %s", p.Node, b.Cause, w.now-c.leaving[p.Store], l.For)
		}
	case "begin-failing":
	default:
		return
	}
	if before.Policy.Mode(w.time()) != facts.FailoverAutomatic {
		c.fail("%s is replaced (%s) by itself, the policy is %s, paused %t", p.Node, b.Cause, before.Policy.Failover, before.Policy.Paused)
	}
}

// beat: a heartbeat got to a voter.
func (c *checks) beat(e pos.Epoch, store string, sent time.Duration) {
	if e == c.watch.epoch {
		c.watch.beats[store] = max(c.watch.beats[store], sent)
	}
}

// leased: a server does not outlive its lease, which begins when a heartbeat
// was sent that got to a majority.
func (c *checks) leased(n *node, s facts.State) {
	if run := n.daemon.run; run == nil || run.count.Version() != s.Voters.Version {
		return // it counts by a smaller set, and has not heard of this one
	}
	if s.Voters.Version != c.watch.version {
		c.watch.version, c.watch.counts = s.Voters.Version, n.clock()
	}
	need := len(s.Voters.Stores) / 2 // besides itself
	var at []time.Duration
	for _, v := range s.Voters.Stores {
		if b, ok := c.watch.beats[v]; ok && v != n.sp.store {
			at = append(at, b)
		}
	}
	if len(s.Voters.Stores) < 3 || len(at) < need || n.clock() < n.pg.until+100*time.Millisecond {
		return
	}
	slices.Sort(at)
	if last := max(at[len(at)-need], c.watch.counts); n.clock()-last > isolation+150*time.Millisecond {
		c.fail("%s still serves %s after it sent the last heartbeat that a majority got", n.name, n.clock()-last)
	}
}
