package sim

import (
	"errors"
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// standby keeps the local PostgreSQL following until the role ends.
func (d *daemon) standby(p *proc) {
	wait := 100 * time.Millisecond
	for p.cause == nil {
		began := d.w.now
		if err := d.followOnce(p); err != nil && p.cause == nil {
			d.server.Problem = err.Error()
			d.w.trace("%s: standby: %v", d.n.name, err)
		}
		if d.w.now-began > 10*time.Second {
			wait = 100 * time.Millisecond
		}
		if p.cause == nil {
			p.sleep(wait)
		}
		wait = min(2*wait, 2*time.Second)
	}
	if s := d.n.pg; s != nil && p.cause != errElected {
		d.stop(p, s)
	}
}

// followOnce is one life of the standby's server.
func (d *daemon) followOnce(p *proc) error {
	st, n := d.state(), d.n
	next := role.ToStandby(d.view(st))
	if err := p.rest(n.base(200*time.Microsecond, 2*time.Millisecond)); err != nil {
		return err
	}
	switch next {
	case role.Watch:
		return d.watch(p, n.pg)
	case role.Stop:
		d.stop(p, n.pg)
		return nil
	case role.Return:
		d.role = decide.RoleNone
		return d.comeBack(p, st)
	case role.Pause:
		d.role = decide.RoleNone
		return errors.New("waits until it is known where the log of the primary begins")
	}
	if err := d.ensureBase(p); err != nil {
		return err
	}
	d.launchStandby(p)
	return d.watch(p, n.pg)
}

// launchStandby starts the server.
func (d *daemon) launchStandby(p *proc) {
	n := d.n
	d.role = decide.RoleStandby
	d.server.State, d.server.Problem = decide.ServerStarting, ""
	p.rest(n.base(200*time.Microsecond, 2*time.Millisecond))
	n.launchStandby(d)
}

// watch stays until the server has ended, or must.
func (d *daemon) watch(p *proc, s *server) error {
	n := d.n
	d.role = decide.RoleStandby
	d.replay = d.w.now
	for {
		if err := p.sleep(100 * time.Millisecond); err != nil {
			return err
		}
		if !s.runs() {
			d.server.State = decide.ServerStopped
			return errEnded
		}
		if !s.ready {
			continue
		}
		d.isBack()
		d.server.State, d.server.Problem, d.server.Timeline = decide.ServerReplica, "", n.dir.tli
		if s.rcv != nil {
			d.markSeeded(p, true) // an earlier word may have gone by an old copy of the ledger
			d.cameBack(p)
		}
		if base := n.sp.log.base; base != 0 && n.dir.wal.end < base {
			d.stop(p, s)
			n.dir = directory{state: dirHalf}
			return errors.New("left behind")
		}
		if at := n.dir.applied.end; s.rcv != nil || at >= n.sp.log.end || at != d.stuckAt {
			d.stuckAt, d.replay = at, d.w.now
		} else if d.w.now-d.replay > 10*time.Second {
			d.stop(p, s)
			return errors.New("the standby went astray")
		}
	}
}

// ensureBase makes sure that there is a complete database to follow with.
func (d *daemon) ensureBase(p *proc) error {
	n := d.n
	if n.dir.state == dirCluster {
		return d.markSeeded(p, true)
	}
	if n.dir.state == dirRewind {
		if done, err := d.rewindAgain(p); err != nil {
			return err
		} else if done {
			return d.markSeeded(p, true)
		}
	}
	d.role, d.server.State = decide.RoleSeeding, decide.ServerAbsent
	if err := d.markSeeded(p, false); err != nil {
		return err
	}
	n.sp.durable = n.sp.log.end
	if err := d.step(p); err != nil {
		return err
	}
	n.dir = directory{state: dirHalf}
	from, err := d.source()
	if err != nil {
		return err
	}
	began := from.dir.wal.recordEnd(from.dir.flushed) // the base's checkpoint
	if base := n.sp.log.base; base == 0 || base > began {
		return errors.New("the log here begins after the base")
	}
	if err := d.transferred(p, from, d.w.between(50*time.Millisecond, 800*time.Millisecond)); err != nil {
		return err
	}
	n.overwrite(from, from.dir.wal.cut(began))
	n.dir.state = dirCluster
	if err := d.step(p); err != nil {
		return err
	}
	n.unmark()
	return d.markSeeded(p, true)
}

// source is the open primary, from which a database can be copied.
func (d *daemon) source() (*node, error) {
	st := d.state()
	for _, o := range d.w.nodes {
		if o.sp.store == st.Primary.Store && st.Primary.Phase == facts.PhaseOpened && o != d.n && o.serves(st.Primary.Epoch) {
			if d.recv.cur != nil && d.recv.cur.from == o.i || d.recv.returning() {
				return o, nil
			}
		}
	}
	return nil, errors.New("no primary is open, or its stream is not up yet")
}

func (n *node) serves(e pos.Epoch) bool {
	return n.runs() && n.pg != nil && n.pg.primary && n.pg.open && n.pg.epoch == e
}

// transferred waits while a database is copied.
func (d *daemon) transferred(p *proc, from *node, takes time.Duration) error {
	e := d.state().Primary.Epoch
	for end := d.w.now + takes; d.w.now < end; {
		if err := p.sleep(20 * time.Millisecond); err != nil {
			return err
		}
		if !from.serves(e) || !d.w.net.both(d.n.i, from.i) {
			return errors.New("the copy was cut")
		}
	}
	return nil
}

// overwrite makes the pages those of another node, as they are there now, with
// the given log.
func (n *node) overwrite(from *node, log wal) {
	pages := from.dir.applied.cut(from.dir.wal.recordEnd(from.dir.flushed))
	n.dir = directory{state: dirHalf, wal: log, flushed: log.end, applied: pages, minRec: pages.end, tli: from.dir.tli, minTLI: from.dir.tli, recovery: true}
	n.w.check.restored()
}

func (d *daemon) markSeeded(p *proc, seeded bool) error {
	m, ok := d.state().Members[d.n.sp.store]
	if !ok {
		return errors.New("not admitted yet")
	}
	if m.Seeded == seeded {
		return nil
	}
	_, err := d.propose(p, 3*time.Second, facts.Command{MarkSeeded: &facts.MarkSeeded{Store: d.n.sp.store, Seeded: seeded}})
	return err
}

// remains is what a node that must return holds.
func (n *node) remains(st facts.State) role.Remains {
	past := n.past()
	r := role.Remains{Half: past == role.PastHalf, Lineage: n.sp.lineage}
	if len(r.Lineage) == 0 && n.marked != nil {
		r.Lineage = n.marked.lineage
	}
	if past == role.PastPrimary {
		r.Lineage = n.ownLineage()
	}
	if past == role.PastStandby {
		// The pages are of the timeline that they say, whatever log came since.
		r.Lineage = slices.DeleteFunc(slices.Clone(r.Lineage), func(e pos.Entry) bool { return e.Timeline > n.dir.minTLI })
		switch leaves(st.Lineage, n.dir.minTLI) {
		case 0:
			r.Lineage = nil
		case ^pos.LSN(0):
		default:
			r.Lineage = slices.DeleteFunc(slices.Clone(st.Lineage), func(e pos.Entry) bool { return e.Timeline > n.dir.minTLI })
		}
		r.Recovery, r.MinRecovery, r.LogEnd = true, n.dir.minRec, n.standbyEnd(st)
		return r
	}
	r.LogEnd = n.along(r.Lineage)
	r.Clean = n.dir.clean && r.LogEnd == n.dir.wal.recordEnd(n.dir.wal.end)
	return r
}

// openAlone is how long a new primary is left to open without a former one
// whose directory has to be overwritten.
const openAlone = 3 * time.Second

// comeBack brings the directory into the group's history, one method after the
// other.
func (d *daemon) comeBack(p *proc, st facts.State) error {
	n, c := d.n, &d.n.coming
	if c.epoch != st.Primary.Epoch {
		closing := c.closing
		if c.done {
			closing = nil
		}
		*c = comeback{epoch: st.Primary.Epoch, closing: closing, spool: c.spool}
	}
	r := n.remains(st)
	if r.Floor = c.floor; c.spool && r.Floor == "" {
		r.Floor = role.MethodRewind
	}
	if r.Recovery && len(r.Lineage) == 0 && r.Floor != role.MethodFull {
		r.Floor = role.MethodDelta
	}
	method, why := role.ChooseMethod(r, st.Lineage)
	if d.w.mut.on(FollowWithoutFork) {
		method = role.MethodFollow
	}
	opened := st.Primary.Phase == facts.PhaseOpened
	if method != role.MethodFollow && !opened && !c.spool && d.n.wall().Sub(st.Primary.Since) < openAlone {
		return errors.New("comes back once the primary is open")
	}
	c.method = method
	if !r.Recovery && !r.Half && c.closing == nil {
		c.closing = &facts.Closing{LogEnd: r.LogEnd, Committed: d.heardOf()}
	}
	if method != role.MethodFollow {
		if err := d.giveUpLog(p, st, r); err != nil {
			return err
		}
		if !opened {
			return errors.New("takes the log, and comes back once the primary is open")
		}
	}
	c.attempts++
	d.w.trace("%s: comes back by %s: %s", n.name, method, why)
	if err := d.step(p); err != nil {
		return err
	}
	return d.cameBackBy(method, d.comeBackBy(p, method, st, r))
}

// giveUpLog makes the received log, up to where the histories part, what this
// node speaks for.
func (d *daemon) giveUpLog(p *proc, st facts.State, r role.Remains) error {
	if err := d.markSeeded(p, false); err != nil {
		return err
	}
	n := d.n
	if n.coming.spool || r.Half {
		return nil
	}
	if r.Recovery { // it has only the received log, and goes on taking the stream
		n.coming.spool = true
		return d.step(p)
	}
	if err := d.step(p); err != nil {
		return err
	}
	n.rebase(st.Lineage, n.dir.wal.cut(min(r.LogEnd, role.ForkOf(r.Lineage, st.Lineage))))
	if err := d.step(p); err != nil {
		return err
	}
	n.coming.spool = true
	return nil
}

// cameBackBy notes how an attempt ended, and gives a method up that fails.
func (d *daemon) cameBackBy(m role.Method, err error) error {
	c := &d.n.coming
	if err == nil {
		c.done = true
		return nil
	}
	if c.attempts >= 5 {
		for i, o := range role.Methods()[:len(role.Methods())-1] {
			if o == m {
				c.floor, c.attempts = role.Methods()[i+1], 0
			}
		}
	}
	return err
}

func (d *daemon) comeBackBy(p *proc, m role.Method, st facts.State, r role.Remains) error {
	n := d.n
	switch m {
	case role.MethodFollow:
		if !r.Recovery {
			n.rebase(r.Lineage, n.dir.wal.cut(r.LogEnd))
		}
		if err := d.step(p); err != nil {
			return err
		}
		n.unmark()
		return d.step(p)
	case role.MethodRewind:
		return d.rewind(p, st, r)
	}
	n.dir = directory{state: dirHalf}
	return d.step(p)
}

// rewind copies what changed since the histories parted.
func (d *daemon) rewind(p *proc, st facts.State, r role.Remains) error {
	n := d.n
	n.sp.durable = n.sp.log.end
	if err := d.step(p); err != nil {
		return err
	}
	d.role = decide.RoleSeeding
	from, err := d.source()
	if err != nil {
		return err
	}
	keep := n.dir.wal.cut(min(r.LogEnd, role.ForkOf(r.Lineage, st.Lineage), n.dir.wal.common(from.dir.wal)))
	n.dir.state = dirRewind
	if err := d.transferred(p, from, d.w.between(20*time.Millisecond, 300*time.Millisecond)); err != nil {
		return err
	}
	n.overwrite(from, keep)
	n.dir.state = dirRewind
	if err := d.step(p); err != nil {
		return err
	}
	n.marked = nil
	if err := d.step(p); err != nil {
		return err
	}
	n.dir.state = dirCluster
	if err := d.step(p); err != nil {
		return err
	}
	n.coming.spool = false
	return nil
}

// rewindAgain goes on with a rewind that was interrupted.
func (d *daemon) rewindAgain(p *proc) (bool, error) {
	st, n := d.state(), d.n
	if st.Primary.Phase != facts.PhaseOpened {
		return false, errors.New("no primary is open to be rewound to")
	}
	c := &n.coming
	if c.method == role.MethodRewind && c.floor == "" && c.closing != nil {
		c.attempts++
		r := role.Remains{LogEnd: min(c.closing.LogEnd, n.dir.wal.end), Lineage: n.ownLineage()}
		if err := d.cameBackBy(role.MethodRewind, d.rewind(p, st, r)); err != nil {
			return false, err
		}
		c.epoch = st.Primary.Epoch
		return true, nil
	}
	c.method, c.floor, c.done = role.MethodDelta, role.MethodDelta, true
	return false, nil
}

// rebase makes log the received log of this node, durably.
func (n *node) rebase(l pos.Lineage, log wal) {
	n.sp.log, n.sp.durable = log.cut(log.end), log.end
	n.sp.lineage = l
	if n.sp.fence.Less(l.Last().Epoch) {
		n.sp.raise(l.Last().Epoch, true)
	}
}

// cameBack tells the ledger that this node follows again.
func (d *daemon) cameBack(p *proc) {
	c := &d.n.coming
	if !c.done || c.epoch.IsZero() {
		return
	}
	_, err := d.propose(p, 3*time.Second, facts.Command{Returned: &facts.Returned{Store: d.n.sp.store, Epoch: c.epoch, Method: string(c.method), Closing: c.closing}})
	if err == nil || err == errRefused {
		*c = comeback{}
	}
}
