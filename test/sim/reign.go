package sim

import (
	"errors"
	"fmt"
	"time"

	"understudy/failover/decide"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

var (
	errNotOurs = errors.New("the epoch is no longer ours")
	errEnded   = errors.New("PostgreSQL has ended")
	errFrozen  = errors.New("stopped for a switchover")
)

// view is what this node finds of itself.
func (d *daemon) view(st facts.State) role.View {
	n := d.n
	v := role.View{State: st, Store: n.sp.store, Server: role.ServerNone, Marked: n.marked != nil}
	switch s := n.pg; {
	case s == nil:
		if v.Past = n.past(); v.Past == role.PastStandby {
			v.Diverged = n.diverged(st)
		}
	case s.primary:
		v.Server, v.ServerEpoch, v.InRecovery = role.ServerPrimary, s.epoch, n.dir.recovery
	default:
		v.Server = role.ServerStandby
	}
	return v
}

// diverged tells whether the pages, or the log that will be replayed onto them,
// are from beyond where the history left their timeline.
func (n *node) diverged(st facts.State) bool {
	return n.dir.recovery && n.dir.minRec != 0 && n.standbyEnd(st) > leaves(st.Lineage, n.dir.minTLI)
}

// standbyEnd is how far the directory of a standby goes: its pages, and what of
// its log is beyond the place where the history left its timeline.
func (n *node) standbyEnd(st facts.State) pos.LSN {
	fork, end := leaves(st.Lineage, n.dir.minTLI), n.dir.wal.recordEnd(n.dir.wal.end)
	if n.w.mut.on(OldLogReplayed) || n.dir.minRec > fork || end <= fork || n.dir.tli > n.dir.minTLI && end <= leaves(st.Lineage, n.dir.tli) {
		return n.dir.minRec
	}
	return end
}

// leaves is where a history has left a timeline; zero when it was never on it,
// the highest LSN while it has not.
func leaves(l pos.Lineage, t pos.Timeline) pos.LSN {
	seen := false
	for _, e := range l {
		switch {
		case e.Timeline == t:
			seen = true
		case e.Timeline > t && seen:
			return e.Start
		case e.Timeline > t && l[0].Timeline < t:
			return 0
		}
	}
	return ^pos.LSN(0)
}

// confirmed is a state, agreed by a majority, in which e is still ours.
func (d *daemon) confirmed(p *proc, e pos.Epoch) (facts.State, error) {
	had := d.n.pg
	for {
		st, err := d.read(p)
		switch {
		case err == nil && (st.Primary.Epoch != e || st.Primary.Store != d.n.sp.store):
			return st, errNotOurs
		case err == nil:
			return st, nil
		case p.cause != nil:
			return st, p.cause
		case had != nil && !had.runs():
			return st, errEnded
		}
		if err := p.sleep(50 * time.Millisecond); err != nil {
			return st, err
		}
	}
}

// primary opens the server in epoch e and keeps it. An error says that it will
// not write in this epoch again.
func (d *daemon) primary(p *proc, e pos.Epoch) error {
	n := d.n
	adopted := n.pg != nil
	for {
		st, err := d.confirmed(p, e)
		if err != nil {
			return err
		}
		next := role.ToPrimary(d.view(st), e)
		d.w.trace("%s: to primary of %s: %s", n.name, e, next)
		had := n.pg
		if err := d.step(p); err != nil {
			return d.abandon(p, err)
		}
		if had != nil && !had.runs() {
			return errEnded
		}
		switch next {
		case role.Leave:
			return errNotOurs
		case role.Stop:
			d.stop(p, n.pg)
		case role.Start:
			return d.startUp(p, st, e)
		case role.Launch:
			d.launchStandby(p)
		case role.Elect:
			err = d.elect(p, st, e)
		case role.Promote:
			err = d.promote(p, st, e)
		case role.Serve:
			return d.serve(p, st, e, adopted && st.Primary.Phase == facts.PhaseOpened)
		default:
			return d.abandon(p, errEnded)
		}
		if err != nil {
			return d.abandon(p, err)
		}
	}
}

// abandon stops a server that was not opened.
func (d *daemon) abandon(p *proc, err error) error {
	if s := d.n.pg; s != nil {
		d.stop(p, s)
	}
	return err
}

// startUp opens a directory that was a primary's, on the timeline it had.
func (d *daemon) startUp(p *proc, st facts.State, e pos.Epoch) error {
	n := d.n
	end, err := n.ownLog(st.Lineage[:len(st.Lineage)-1])
	if err == nil && end < st.Primary.Elected.LSN {
		err = fmt.Errorf("pg_wal ends at %s, elected was %s", end, st.Primary.Elected)
	}
	if err != nil {
		return err
	}
	if st, err = d.begun(p, e, st.Lineage.Last().Timeline, end); err != nil {
		return err
	}
	d.server.State, d.server.StartedEpoch = decide.ServerStarting, e
	s := n.launchPrimary(d, e)
	err = d.leased(p, s, func() bool { return s.ready })
	if err == nil && n.dir.tli != st.Primary.Timeline {
		err = errors.New("the server writes another timeline than the ledger gave it")
	}
	if err != nil {
		return d.abandon(p, err)
	}
	return d.serve(p, st, e, false)
}

// leased waits for ok while no client can be served, and renews the lease.
func (d *daemon) leased(p *proc, s *server, ok func() bool) error {
	for !ok() {
		if !s.runs() {
			return errEnded
		}
		s.renew(d.n.clock())
		if err := p.sleep(5 * time.Millisecond); err != nil {
			return err
		}
	}
	return p.cause
}

// begun records where this epoch's log begins, and adopts it here.
func (d *daemon) begun(p *proc, e pos.Epoch, tli pos.Timeline, at pos.LSN) (facts.State, error) {
	start := facts.Command{Starting: &facts.Starting{Epoch: e, Store: d.n.sp.store, Timeline: tli, End: at}}
	for end := d.w.now + 10*time.Second; ; {
		out, err := d.propose(p, 5*time.Second, start)
		if err == nil {
			break
		}
		if out.Code != facts.CodeLedgerVote || d.w.now > end {
			return facts.State{}, err
		}
		if err := p.sleep(100 * time.Millisecond); err != nil { // the ledger's vote of a pair is on its way
			return facts.State{}, err
		}
	}
	if err := d.step(p); err != nil {
		return facts.State{}, err
	}
	st, err := d.confirmed(p, e)
	if err == nil {
		err = d.adopt(p, st, e)
	}
	return st, err
}

// adopt makes the epoch's lineage and the mark of the directory durable.
func (d *daemon) adopt(p *proc, st facts.State, e pos.Epoch) error {
	if err := d.n.sp.adopt(st.Lineage, e); err != nil {
		return err
	}
	if err := d.step(p); err != nil {
		return err
	}
	d.n.coming.spool = false // it speaks for the directory's log again
	d.n.marked = &mark{epoch: e, lineage: st.Lineage}
	return d.step(p)
}

// elect lets the standby replay all of the elected log, and records the fork.
func (d *daemon) elect(p *proc, st facts.State, e pos.Epoch) error {
	n, s := d.n, d.n.pg
	if err := d.adopt(p, st, e); err != nil {
		return err
	}
	d.recv.elected, d.recv.held = st.Primary.Elected.LSN, false
	d.feed()
	for !s.ready {
		if !s.runs() {
			return errEnded
		}
		if err := p.sleep(5 * time.Millisecond); err != nil {
			return err
		}
	}
	end := n.sp.log.recordEnd(st.Primary.Elected.LSN)
	if d.w.mut.on(PromoteBeforeReplay) {
		end = n.dir.applied.end
	}
	at, moved := n.dir.applied.end, d.w.now
	for n.dir.applied.end != end {
		if n.dir.applied.end != at {
			at, moved = n.dir.applied.end, d.w.now
		}
		if d.w.now-moved > 10*time.Second {
			return fmt.Errorf("stands at %s and does not replay up to %s", at, end)
		}
		if !s.runs() {
			return errEnded
		}
		if n.dir.applied.end > end {
			return fmt.Errorf("replayed %s beyond the elected %s", n.dir.applied.end, end)
		}
		if err := p.sleep(4 * time.Millisecond); err != nil {
			return err
		}
	}
	tli := st.NextTimeline()
	if d.w.mut.on(TimelineReused) {
		tli = st.Lineage.Last().Timeline + 1
	}
	st, err := d.begun(p, e, tli, end)
	if err == nil && st.Primary.Start != end {
		err = errors.New("the ledger records another start")
	}
	return err
}

// promote promotes the standby to the timeline that the ledger gave out.
func (d *daemon) promote(p *proc, st facts.State, e pos.Epoch) error {
	n, s := d.n, d.n.pg
	if err := n.sp.adopt(st.Lineage, e); err != nil {
		return err
	}
	if n.marked == nil || n.marked.epoch != e {
		return errors.New("the directory was not elected for this epoch")
	}
	n.marked = &mark{epoch: e, lineage: st.Lineage}
	if n.dir.recovery && n.dir.applied.end != st.Primary.Start {
		return errors.New("the standby is not where the ledger records the start")
	}
	s.primary, s.epoch = true, e
	s.renew(d.n.clock())
	s.guard()
	d.server.State, d.server.StartedEpoch = decide.ServerStarting, e
	if err := d.step(p); err != nil {
		return err
	}
	if !s.runs() {
		return errEnded
	}
	if !n.dir.recovery {
		return nil
	}
	if fork := s.promote(e, st.Primary.Timeline); fork != st.Primary.Start {
		return errors.New("the server forked elsewhere")
	}
	return d.step(p)
}

// serve ships, counts, lets clients in, and stays until the role or the server
// ends.
func (d *daemon) serve(p *proc, st facts.State, e pos.Epoch, adopted bool) error {
	n, s := d.n, d.n.pg
	if !s.runs() {
		return errEnded
	}
	from := st.Primary.Start
	if adopted {
		from = n.dir.flushed
	}
	r := d.startRun(st, e, from)
	d.server.State, d.server.StartedEpoch, d.server.Problem = decide.ServerLocked, e, ""
	var err error
	if adopted {
		d.w.check.permitted(n, e, d.born)
		d.server.State = decide.ServerOpen
		if !s.open {
			s.open = true
			s.work()
		}
	} else {
		err = d.open(p, s, r, e)
	}
	if err == nil {
		err = d.attend(p, s, r, e)
	}
	r.stop()
	if s.runs() {
		d.stop(p, s)
	}
	if p.cause != nil {
		return nil
	}
	return err
}

// open lets clients in, when a majority has the recovered log and the ledger
// knows of it.
func (d *daemon) open(p *proc, s *server, r *run, e pos.Epoch) error {
	flush := d.n.dir.flushed
	enough := func() bool { return r.told >= flush || d.w.mut.on(OpenWithoutMajority) }
	if err := d.leased(p, s, enough); err != nil {
		return err
	}
	if err := d.step(p); err != nil {
		return err
	}
	var err error
	done := false
	d.spawn(func(q *proc) {
		_, err = d.propose(q, 5*time.Second, facts.Command{Opened: &facts.Opened{Epoch: e, Store: d.n.sp.store, LSN: flush}})
		done = true
	})
	if lerr := d.leased(p, s, func() bool { return done }); lerr != nil {
		return lerr
	}
	if err != nil {
		return err
	}
	if err := d.step(p); err != nil {
		return err
	}
	if !s.runs() {
		return errEnded
	}
	d.w.check.permitted(d.n, e, d.born)
	d.server.State = decide.ServerOpen
	s.open = true
	s.work()
	return nil
}

// attend is the life of an open primary.
func (d *daemon) attend(p *proc, s *server, r *run, e pos.Epoch) error {
	var proposing bool
	var doors keeper
	for {
		st := d.state()
		r.setState(st)
		doors.follow(s, st.Offline)
		d.w.vault.store(d.n, r)
		if o := st.Order; o != nil && stopsFor(st, *o) && o.From == d.n.sp.store && o.Epoch == e && st.Primary.Phase == facts.PhaseOpened {
			if err := d.freeze(p, s, r, *o); err != nil {
				return err
			}
		}
		if v := st.Voters; v.Confirmed != v.Version && !proposing && st.Primary.Epoch == e && r.count.Version() == v.Version && r.spread(v.Stores) {
			proposing = true
			d.spawn(func(q *proc) {
				d.propose(q, 3*time.Second, facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: v.Version, Epoch: e}})
				proposing = false
			})
		}
		d.isBack()
		if err := p.sleep(100 * time.Millisecond); err != nil {
			return err
		}
		if !s.runs() {
			return errEnded
		}
		if c := r.contactAt(); c != 0 {
			s.renew(c)
		}
	}
}

// isBack takes back what an earlier life of the daemon announced.
func (d *daemon) isBack() {
	if _, left := d.state().Leaving[d.n.sp.store]; left && !d.leaves && !d.clearing {
		d.clearing = true
		d.spawn(func(q *proc) {
			d.propose(q, 2*time.Second, facts.Command{ClearLeaving: &facts.ClearLeaving{Store: d.n.sp.store}})
			d.clearing = false
		})
	}
}

// freeze stops the primary for a switchover: a checkpoint while clients are
// served, then a regular stop, which waits for the group for a second.
func (d *daemon) freeze(p *proc, s *server, r *run, o facts.Order) error {
	w := d.w
	for end := w.now + w.between(5*time.Millisecond, 400*time.Millisecond); w.now < end; {
		if err := p.sleep(20 * time.Millisecond); err != nil {
			return err
		}
		if !s.runs() {
			return errEnded
		}
		if c := r.contactAt(); c != 0 {
			s.renew(c)
		}
	}
	st, err := d.read(p)
	if err != nil || st.Order == nil || st.Order.ID != o.ID || st.Primary.Epoch != o.Epoch || st.Primary.Phase != facts.PhaseOpened {
		return nil
	}
	if err := d.step(p); err != nil {
		return err
	}
	if !s.runs() {
		return errEnded
	}
	d.server.State = decide.ServerLocked
	s.stopping, s.open, s.waiting = true, false, nil
	last := s.insert(false) // the shutdown checkpoint
	for end := w.now + time.Second; w.now < end && s.runs() && s.confirmed < last.end; {
		p.rest(2 * time.Millisecond)
	}
	if s.runs() && s.confirmed >= last.end {
		d.n.dir.clean = true
	}
	s.end()
	d.server.State = decide.ServerStopped
	r.stop()
	d.step(p)
	return errFrozen
}
