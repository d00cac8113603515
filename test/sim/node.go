package sim

import (
	"fmt"
	"time"

	"understudy/failover/decide"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// node is one host: what is on its disk, and what runs on it now.
type node struct {
	w       *world
	i       int
	name    string
	kind    facts.Kind
	ledger  *ledger       // whose log is on this node's disk
	applied int           // newest command of it that is applied here
	stalled time.Duration // until when the ledger's log does not get here

	sp     spool
	marked *mark // the directory was elected or opened for writing here
	dir    directory
	coming comeback
	plan   groupPlan
	reform *reformation // this node forms the group anew; nil when it does not

	host   host
	daemon *daemon
	pg     *server
	lives  int // of the daemon
}

// mark is the durable note that a directory may hold what nobody else has.
type mark struct {
	epoch   pos.Epoch
	lineage pos.Lineage
	// given is the store that vouched for the log in the directory when that was
	// given up for a restore of the group.
	given string
}

// comeback is the durable note of a former primary's way back.
type comeback struct {
	epoch    pos.Epoch
	floor    role.Method
	method   role.Method
	closing  *facts.Closing
	attempts int
	done     bool
	spool    bool // it speaks for its received log, no longer for its own
}

// spool is a node's log of received bytes and its promises. What is beyond
// durable is lost with the host; the rest is durable whenever it changes.
type spool struct {
	store   string
	fence   pos.Epoch
	kept    pos.Epoch // the fence that is on disk
	lineage pos.Lineage
	log     wal // base 0: there is none yet
	durable pos.LSN
	before  pos.Lineage // the lineage that is on disk, where a mutation skips the fsync
	fed     bool        // a walreceiver's flush may have been acknowledged
}

func (s *spool) raise(e pos.Epoch, durably bool) {
	s.fence = e
	if durably {
		s.kept = e
	}
}

// adopt makes l the history of the log and f its fence, and cuts the log where
// it leaves it.
func (s *spool) adopt(l pos.Lineage, f pos.Epoch) error {
	last, stored := l.Last().Epoch, s.lineage.Last().Epoch
	fork, _ := s.lineage.Fork(l)
	unwritten := fork >= s.log.end && stored != f
	if f.Less(s.fence) || f.Less(last) || f == s.fence && last.Less(stored) && !unwritten {
		return fmt.Errorf("stale lineage of %s at fence %s, here %s at %s", last, f, stored, s.fence)
	}
	if role.ForkOf(s.lineage, l) != ^pos.LSN(0) && len(s.lineage) > 0 && s.log.base != 0 {
		fork, _ := s.lineage.Fork(l)
		if fork < s.log.base {
			return fmt.Errorf("the histories part at %s, below the log", fork)
		}
		s.log = s.log.cut(fork)
	}
	if last := s.lineage; len(last) != len(l) {
		s.before = last
	}
	s.lineage, s.durable = l, s.log.end
	s.raise(f, true)
	return nil
}

// directory is a PostgreSQL's data directory.
type directory struct {
	state    dirState
	wal      wal
	flushed  pos.LSN // of wal; the rest is lost with the host
	applied  wal     // what the pages hold
	minRec   pos.LSN // standby: the pages on disk reach up to here
	minTLI   pos.Timeline
	tli      pos.Timeline
	recovery bool // it was last in recovery, as a standby
	clean    bool // a primary, shut down in the regular way
	// A promotion from timeline from at fork is on the disk once its first
	// record is: until then a lost host comes back as a standby.
	from pos.Timeline
	fork pos.LSN
}

type dirState string

const (
	dirNone    dirState = "none"
	dirHalf    dirState = "half"
	dirRewind  dirState = "rewinding"
	dirCluster dirState = "cluster"
)

// daemon is one life of a node's daemon: what a crash of it forgets.
type daemon struct {
	w    *world
	n    *node
	born time.Duration
	life int

	recv    receiver
	run     *run // while this node is the primary
	heard   map[string]*hearing
	seq     uint64
	dialing [maxNodes]bool
	awake   time.Duration // for how long it has listened
	ticked  time.Duration
	beganAt time.Duration // by the host's clock
	epoch   epochSeen
	leaving map[string]leavingSeen

	agent    *proc
	control  *proc
	role     decide.Role
	server   decide.Server
	replay   time.Duration // since when the standby is stuck
	stuckAt  pos.LSN
	copying  pos.Epoch
	transfer time.Duration // by the host's clock
	boot     []*proc
	clearing bool
	leaves   bool          // it has announced that it goes away
	hung     time.Duration // since when the disk does not answer
}

func (d *daemon) state() facts.State { return d.n.ledger.states[d.n.applied] }
func (d *daemon) alive() bool        { return d.n.daemon == d }

// changed wakes who waits for the ledger.
func (d *daemon) changed() {
	d.seen()
	d.agent.wake()
	d.control.wake()
}

// spawn starts a proc that dies with the daemon.
func (d *daemon) spawn(fn func(p *proc)) *proc {
	p := d.w.spawn(fn)
	p.n = d.n
	d.boot = append(d.boot, p)
	return p
}

// step is one durable step of a change of role: it takes a moment, and the
// daemon or the host may crash before or after it.
func (d *daemon) step(p *proc) error {
	w := d.w
	if w.chance(w.crashy) {
		n, host := d.n, w.chance(0.5)
		w.after(w.between(0, 2*time.Millisecond), func() {
			if n.daemon == d {
				w.trace("%s: crash in a step, host %t", n.name, host)
				n.crash(host)
				w.after(w.between(50*time.Millisecond, 3*time.Second), n.start)
			}
		})
	}
	for end := w.now + d.n.disk(200*time.Microsecond, 2*time.Millisecond); ; { // whoever wakes it does not make the disk faster
		if err := p.rest(end - w.now); err != nil || w.now >= end || d.n.host.stuckLog <= w.now {
			return err
		}
	}
}

// start boots the daemon, if it does not run.
func (n *node) start() {
	w := n.w
	if n.daemon != nil {
		return
	}
	n.boot()
	n.w.net.mute[n.i] = [maxNodes]bool{}
	n.lives++
	d := &daemon{w: w, n: n, born: w.now, life: n.lives, heard: map[string]*hearing{}, role: decide.RoleNone,
		beganAt: n.clock(), ticked: n.clock(), transfer: n.clock() - time.Minute, leaving: map[string]leavingSeen{}}
	n.daemon = d
	d.server.State = decide.ServerAbsent
	if n.kind == facts.KindWitness {
		d.role = decide.RoleWitness
	}
	d.recv.d, d.recv.held = d, true
	n.clearForReform()
	n.recoverLog()
	// The ledger's log is applied anew; the newest of it last.
	n.applied = max(0, n.applied-w.rng.IntN(6))
	if n.pg != nil {
		n.pg.adopt(d)
	}
	d.seen()
	w.trace("%s: start, store %s", n.name, n.sp.store)
	d.agent = d.spawn(d.follow)
	d.control = d.spawn(d.decide)
	d.reports()
	d.recv.lazily()
	d.watchRestore()
}

// back starts a node that was lost: the host is there before its daemon.
func (n *node) back() {
	n.boot()
	if n.daemon == nil {
		n.w.after(n.w.between(0, 300*time.Millisecond), n.start)
	}
}

// unmark forgets that the directory held what nobody else has: it is of the
// group's history again, and speaks for itself.
func (n *node) unmark() { n.marked, n.coming.spool = nil, false }

// recoverLog is what opening the store does: all that is there is synced, and
// what the local PostgreSQL had flushed in the daemon's name is taken from its
// pg_wal. Where that is impossible the node begins with a new store.
func (n *node) recoverLog() {
	sp := &n.sp
	sp.durable = sp.log.end
	if !sp.fed || n.kind == facts.KindWitness || sp.log.base == 0 {
		return
	}
	switch n.dir.state {
	case dirNone:
		n.w.trace("%s: the log it was fed is gone", n.name)
		n.forget()
		return
	case dirHalf, dirRewind:
		return
	}
	w := n.dir.wal
	if n.marked != nil || sp.log.end >= w.end || w.mark(sp.log.end) != sp.log.mark(sp.log.end) {
		return
	}
	upto := w.recordEnd(w.end)
	for _, e := range sp.lineage {
		if e.Timeline > n.dir.tli {
			upto = min(upto, e.Start)
			break
		}
	}
	if upto > sp.log.end {
		sp.log, _ = sp.log.cut(sp.log.end).join(w.slice(sp.log.end, upto))
		sp.durable = upto
		n.dir.flushed = max(n.dir.flushed, upto)
	}
}

// aWhile is how long a daemon has to live for the others to hear of it: they
// call again every 200 ms.
const aWhile = 250 * time.Millisecond

// crash ends the daemon; with host, also everything else, and all that was not
// fsynced.
func (n *node) crash(host bool) {
	if d := n.daemon; d != nil {
		n.daemon = nil
		if n.ledger.leader == n.i {
			n.ledger.depose()
		}
		for _, p := range d.boot {
			p.kill()
		}
		if !host {
			if n.w.now-d.born >= aWhile { // else nobody may have heard of it
				n.host.gone = n.w.now
			}
			n.hangUp()
		}
	}
	n.host.frozen, n.w.net.mute[n.i] = 0, [maxNodes]bool{} // a stuck connection ends, too
	if n.pg != nil && !host {
		n.pg.orphaned()
	}
	if !host {
		return
	}
	n.host.up, n.host.paused, n.host.dropped = false, 0, n.w.now
	if n.pg != nil {
		n.pg.end()
	}
	w := n.w
	n.sp.log = n.sp.log.cut(w.some(n.sp.durable, n.sp.log.end))
	if n.sp.log.end > n.sp.durable { // a tail that was not synced is taken in whole records only
		n.sp.log = n.sp.log.cut(max(n.sp.durable, n.sp.log.recordEnd(n.sp.log.end)))
	}
	n.sp.fence = n.sp.kept
	if w.mut.on(AdoptionNotFsynced) && len(n.sp.before) > 0 {
		n.sp.lineage = n.sp.before
	}
	if w.mut.on(MarkNotFsynced) {
		n.marked = nil
	}
	if n.dir.state == dirCluster {
		if n.dir.fork != 0 && n.dir.flushed <= n.dir.fork {
			n.dir.tli, n.dir.recovery, n.dir.wal = n.dir.from, true, n.dir.wal.cut(n.dir.fork)
		}
		n.dir.fork = 0
		n.dir.wal = n.dir.wal.cut(w.some(n.dir.flushed, n.dir.wal.end))
		if n.dir.recovery {
			n.dir.applied = n.dir.applied.cut(n.dir.minRec)
		} else {
			n.dir.wal = n.dir.wal.cutRecords(n.dir.wal.end)
			n.dir.applied = n.dir.wal
		}
		n.dir.flushed = min(n.dir.wal.end, max(n.dir.flushed, n.dir.wal.end))
	}
}

// forget makes the node a new one: log and promises are gone.
func (n *node) forget() {
	store := n.sp.store
	if !n.w.mut.on(WipedVoterVotes) {
		n.w.stores++
		store = fmt.Sprintf("%s%d", n.name[:1], n.w.stores)
	}
	n.sp, n.coming = spool{store: store}, comeback{}
}

// past is how the directory was left.
func (n *node) past() role.Past {
	switch {
	case n.kind == facts.KindWitness || n.dir.state == dirNone:
		return role.PastNone
	case n.dir.state == dirHalf, n.dir.state == dirRewind:
		return role.PastHalf
	case n.marked == nil || n.dir.recovery:
		return role.PastStandby
	}
	return role.PastPrimary
}
