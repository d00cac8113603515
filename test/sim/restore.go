package sim

import (
	"errors"
	"strconv"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// The whole group goes back to a moment: what the daemons do for it.

var (
	errGivenUp   = errors.New("it gave its own log up for a restore of the group")
	errWithdrawn = errors.New("the order was withdrawn")
	errFences    = errors.New("a majority has not fenced yet")
)

// groupPlan is the durable note of what this node does for an order.
type groupPlan struct {
	order    string
	timeline pos.Timeline
	path     []catalog.Step
	target   pos.LSN
}

// stopsFor tells whether a primary has to stop for an order.
func stopsFor(st facts.State, o facts.Order) bool {
	_, restoring := st.Restoring()
	return o.Kind == facts.OrderSwitchover || restoring
}

// keeper keeps clients out of an open primary on the operator's word.
type keeper struct {
	began bool
	since time.Time
}

func (k *keeper) follow(s *server, want *facts.Offline) {
	switch {
	case want == nil:
		if !k.began || !k.since.IsZero() { // an adopted server may have been shut by another daemon
			s.admit()
		}
		k.since = time.Time{}
	case want.Since != k.since:
		k.since = want.Since
		s.shut()
	}
	k.began = true
}

// planRestore is an order to bring the group back to an LSN with a node.
func (w *world) planRestore(st facts.State, to facts.Member, target catalog.Target, force bool) (facts.Order, error) {
	c, err := catalog.Choose(w.vault.catalog(st), target, catalog.Options{})
	if err != nil {
		return facts.Order{}, err
	}
	if _, ok := w.vault.recovered(c.Path, target.LSN); !ok {
		return facts.Order{}, errors.New("no record begins there")
	}
	r := facts.Restore{Target: target, Set: c.Set, Along: c.Timeline(), Wait: 2 * time.Second, Unarchived: force}
	r.Target.Timeline = r.Along
	w.orders++
	return facts.Order{ID: strconv.Itoa(w.orders), Kind: facts.OrderRestore, To: to.Store, Epoch: st.Primary.Epoch, Restore: &r}, nil
}

// watchRestore carries an order to restore the group with this node up to where
// the primary stops.
func (d *daemon) watchRestore() {
	if d.n.kind == facts.KindWitness {
		return
	}
	d.spawn(func(p *proc) {
		id, since := "", time.Duration(0)
		for {
			st := d.state()
			if o := st.Order; o != nil && o.Kind == facts.OrderRestore && !o.Reformed && o.To == d.n.sp.store && o.Restore.Stage == facts.RestoreDraining {
				if o.ID != id {
					id, since = o.ID, d.n.clock()
				}
				d.drain(p, st, *o, d.n.clock()-since)
			}
			d.afterWithdrawal(p)
			p.rest(200 * time.Millisecond)
		}
	})
}

// drain takes one step towards a stop of the primary.
func (d *daemon) drain(p *proc, st facts.State, o facts.Order, waited time.Duration) {
	r := *o.Restore
	var open error
	switch {
	case st.Primary.Phase != facts.PhaseOpened:
		open = errors.New("the primary was lost before its last log was saved")
	case r.Upto == 0:
		at, err := d.askShut(p, st, o)
		if err == nil {
			d.advance(p, o, facts.AdvanceRestore{Stage: facts.RestoreDraining, Upto: at})
			return
		}
		open = err
	case d.w.vault.lacks(st, r.Upto) && !d.w.mut.on(LastLogNotSaved):
		open = errors.New("the location lacks log")
	}
	switch {
	case open == nil, waited > r.Wait && r.Unarchived:
		d.advance(p, o, facts.AdvanceRestore{Stage: facts.RestoreStopping})
	case waited > r.Wait:
		d.withdraw(p, o, open)
	}
}

// askShut asks the primary to shut its clients out, and where its log ends then.
func (d *daemon) askShut(p *proc, st facts.State, o facts.Order) (at pos.LSN, err error) {
	from := d.n.i
	answer := func(end pos.LSN) {
		if at = end; d.alive() {
			p.wake()
		}
	}
	for _, n := range d.w.nodes {
		if n.sp.store != st.Primary.Store {
			continue
		}
		d.w.net.send(from, n.i, func(q *daemon) {
			q.spawn(func(r *proc) {
				if end, ok := q.shut(r, o.ID); ok {
					d.w.net.send(q.n.i, from, func(*daemon) { answer(end) })
				}
			})
		})
	}
	for end := d.w.now + time.Second; at == 0 && d.w.now < end; {
		p.rest(end - d.w.now)
	}
	if at == 0 {
		return 0, errors.New("the primary does not answer")
	}
	return at, nil
}

// shut waits until no client is left on the open primary.
func (d *daemon) shut(p *proc, id string) (pos.LSN, bool) {
	st, err := d.read(p)
	if o := st.Order; err != nil || o == nil || o.ID != id || st.Primary.Store != d.n.sp.store || d.run == nil {
		return 0, false
	}
	s := d.n.pg
	if p.until(time.Second, func() bool { return !s.runs() || s.out }) != nil || !s.runs() {
		return 0, false
	}
	p.rest(d.w.between(time.Millisecond, 50*time.Millisecond))
	return d.n.dir.flushed, s.runs() && s.out
}

func (d *daemon) advance(p *proc, o facts.Order, c facts.AdvanceRestore) error {
	c.ID = o.ID
	_, err := d.propose(p, 2*time.Second, facts.Command{AdvanceRestore: &c})
	return err
}

func (d *daemon) withdraw(p *proc, o facts.Order, why error) error {
	d.w.trace("%s: gives the restore up: %v", d.n.name, why)
	_, err := d.propose(p, 2*time.Second, facts.Command{ClearOrder: &facts.ClearOrder{ID: o.ID, Why: why.Error()}})
	return err
}

// restoreGroup restores this node's database while the ledger's order says so.
func (d *daemon) restoreGroup(p *proc) {
	pause := 200 * time.Millisecond
	for p.cause == nil {
		over, err := d.restoreStep(p)
		if over {
			return
		}
		if err == nil {
			pause = 200 * time.Millisecond
			continue
		}
		d.w.trace("%s: restore: %v", d.n.name, err)
		p.sleep(pause)
		pause = min(2*pause, 10*time.Second)
	}
}

func (d *daemon) restoreStep(p *proc) (over bool, err error) {
	st, err := d.read(p)
	if err != nil {
		return false, err
	}
	o, ok := st.Restoring()
	if !ok || o.To != d.n.sp.store || st.Primary.Phase != facts.PhaseFencing {
		return false, errWithdrawn
	}
	switch o.Restore.Stage {
	case facts.RestoreStopping:
		return false, d.beginRewriting(p, st, o)
	case facts.RestoreRewriting:
		return false, d.rewrite(p, st, o)
	}
	return d.leaveRestored(p, st, o)
}

func (d *daemon) beginRewriting(p *proc, st facts.State, o facts.Order) error {
	if !st.FenceMajority() {
		return errFences
	}
	c, err := catalog.Choose(d.w.vault.catalog(st), o.Restore.Target, catalog.Options{})
	if err != nil {
		return d.withdraw(p, o, err)
	}
	d.n.plan = groupPlan{o.ID, freeTimeline(st), c.Path, o.Restore.Target.LSN}
	if err := d.step(p); err != nil {
		return err
	}
	return d.advance(p, o, facts.AdvanceRestore{Stage: facts.RestoreRewriting, Timeline: d.n.plan.timeline})
}

// freeTimeline is above every id of which anybody has heard.
func freeTimeline(st facts.State) pos.Timeline {
	top := st.LastTimeline
	c, _ := st.Catalog(facts.ProfilePostgres)
	for t := range c.Timelines {
		top = max(top, t)
	}
	return top + 1
}

// rewrite restores the files, and recovers and promotes them on a server that
// nobody can reach.
func (d *daemon) rewrite(p *proc, st facts.State, o facts.Order) error {
	n := d.n
	if n.plan.order != o.ID || n.plan.timeline != o.Restore.Timeline {
		c, err := catalog.Choose(d.w.vault.catalog(st), o.Restore.Target, catalog.Options{})
		if err != nil {
			return err
		}
		n.plan = groupPlan{o.ID, o.Restore.Timeline, c.Path, o.Restore.Target.LSN}
	}
	n.giveForRestore()
	if err := d.step(p); err != nil {
		return err
	}
	if err := p.sleep(n.base(50*time.Millisecond, 1500*time.Millisecond)); err != nil {
		return err
	}
	log, ok := d.w.vault.recovered(n.plan.path, n.plan.target)
	if !ok {
		return errors.New("the recovery ended before its target")
	}
	if err := d.step(p); err != nil {
		return err
	}
	tli := n.plan.timeline
	d.w.check.promoted(n, st.Primary.Epoch, tli)
	n.dir = directory{state: dirHalf, wal: log, flushed: log.end, applied: log.cut(log.end), minRec: log.end, minTLI: tli, tli: tli, clean: true}
	n.write(st.Primary.Epoch, false) // the end of the recovery
	n.write(st.Primary.Epoch, false) // and the checkpoint of the stop
	n.dir.flushed = n.dir.wal.end
	if err := d.step(p); err != nil {
		return err
	}
	err := d.advance(p, o, facts.AdvanceRestore{Stage: facts.RestoreFinal})
	if err != nil && p.cause == nil && d.w.mut.on(RestoredUnsaid) {
		with, out := facts.Apply(st, facts.Command{AdvanceRestore: &facts.AdvanceRestore{ID: o.ID, Stage: facts.RestoreFinal}})
		if out.Refused == "" {
			o, _ = with.Restoring()
			_, err = d.leaveRestored(p, with, o)
		}
	}
	return err
}

// giveForRestore marks the database as none before anything in it changes. What
// this node had written was there only, and it has vouched for it.
func (n *node) giveForRestore() {
	if n.dir.state != dirHalf {
		n.w.check.remember(n)
	}
	m := mark{epoch: n.sp.fence, lineage: n.sp.lineage}
	if n.marked != nil {
		m = *n.marked
		if m.given != n.sp.store && n.dir.state == dirCluster {
			m.given = n.sp.store
		}
	}
	n.marked, n.coming.spool = &m, false
	n.dir = directory{state: dirHalf}
}

// givenUp tells whether this node's own log was given up for a restore that has
// not ended: its store can vouch for nothing any more.
func (n *node) givenUp() bool { return n.marked != nil && n.marked.given == n.sp.store }

// afterWithdrawal begins anew with another store when the own log was given up
// for a restore that was withdrawn.
func (d *daemon) afterWithdrawal(p *proc) {
	ours := func(st facts.State) bool {
		o, ok := st.Restoring()
		return ok && o.To == d.n.sp.store
	}
	if !d.n.givenUp() || !d.state().Founded() || ours(d.state()) {
		return
	}
	st, err := d.read(p)
	if err != nil || ours(st) || !d.n.givenUp() {
		return
	}
	d.w.trace("%s: gives its store up, the restore was withdrawn", d.n.name)
	d.beginAnew(func(n *node) { n.forget() })
	p.rest(time.Second)
}

// beginAnew ends this life of the daemon; the next one finds what do leaves.
func (d *daemon) beginAnew(do func(n *node)) {
	n := d.n
	d.w.after(0, func() {
		if n.daemon != d {
			return
		}
		n.crash(false)
		do(n)
		n.w.after(n.w.between(20*time.Millisecond, 300*time.Millisecond), n.start)
	})
}

// reformation is what one life of the daemon leaves to the next one: the group
// is formed anew with this node's restored database.
type reformation struct {
	state    facts.State
	id       string
	restored facts.Restored
}

// leaveRestored writes down that this node forms the group anew, and ends this
// life.
func (d *daemon) leaveRestored(p *proc, st facts.State, o facts.Order) (bool, error) {
	n := d.n
	fork := n.dir.wal.recs[n.dir.wal.whole(n.dir.wal.end)-2].start
	c, _ := st.Catalog(facts.ProfilePostgres)
	path, err := c.Path(o.Restore.Along)
	if err != nil {
		return false, err
	}
	r := reformation{state: st, restored: facts.Restored{Path: path, Fork: fork}}
	l, err := st.RestoredLineage(r.restored)
	if err != nil {
		return false, err
	}
	n.takeRestored(l)
	if err := d.step(p); err != nil {
		return false, err
	}
	d.w.stores++
	r.id = "l" + strconv.Itoa(d.w.stores)
	n.reform = &r
	d.step(p)
	d.w.trace("%s: forms the group anew from %s on timeline %d", n.name, fork, o.Restore.Timeline)
	d.beginAnew(func(*node) {})
	return true, nil
}

// takeRestored makes the restored directory one that this node has written.
func (n *node) takeRestored(l pos.Lineage) {
	n.coming = comeback{}
	n.marked = &mark{epoch: l.Last().Epoch, lineage: l}
	n.dir.state = dirCluster
}

// clearForReform replaces the ledger's files by empty ones when a reformation is
// under way.
func (n *node) clearForReform() {
	if r := n.reform; r != nil && n.ledger.id != r.id {
		if n.ledger.leader == n.i {
			n.ledger.depose()
		}
		n.ledger, n.applied = n.w.newLedger(r.id, r.state.NextGeneration().Gen), 0
		n.ledger.servers = []decide.RaftServer{{Store: n.sp.store, Address: n.name + ":1", Voter: true}}
		n.ledger.tick()
	}
}

// formAnew begins the new ledger with what the old one said. Each step can be
// repeated.
func (d *daemon) formAnew(p *proc) {
	n, r := d.n, d.n.reform
	if r == nil {
		return
	}
	l, err := r.state.RestoredLineage(r.restored)
	if err != nil {
		panic(err)
	}
	next := r.state.NextGeneration()
	for !n.ledger.head().Founded() {
		n.takeRestored(l)
		base := n.dir.wal.recordEnd(n.dir.wal.end)
		n.sp.log, n.sp.durable, n.sp.lineage, n.sp.fed = wal{base: base, end: base}, base, l, false
		if n.sp.fence.Less(l.Last().Epoch) {
			n.sp.raise(l.Last().Epoch, true)
		}
		d.recv.committed, d.recv.fed = 0, 0
		d.step(p)
		lineage, lsn, err := d.recv.fence(p, next)
		if err != nil {
			p.rest(50 * time.Millisecond)
			continue
		}
		rep, err := d.fenceReport(p, next, lineage, lsn)
		if err == nil {
			_, err = d.propose(p, 3*time.Second, facts.Command{Reform: &facts.Reform{Old: r.state, Store: n.sp.store, LedgerID: r.id, Statement: "later commits go", Fence: rep, Restored: &r.restored}})
		}
		if err != nil {
			d.w.trace("%s: form the group anew: %v", n.name, err)
			p.rest(50 * time.Millisecond)
		}
	}
	d.step(p)
	n.reform = nil
}

// yield gives this node's ledger up when a peer has a newer one: the group was
// formed anew without this node, which joins as a new one.
func (d *daemon) yield() {
	n, own := d.n, d.n.ledger
	for _, h := range d.heard {
		if !h.word || d.n.clock()-h.at > time.Second || h.report.Generation <= own.gen || n.reform != nil {
			continue
		}
		newer := d.w.byID(h.report.Ledger)
		if !d.state().Founded() { // nothing of the one that it was to join is here
			n.ledger = newer
			return
		}
		d.w.trace("%s: joins the ledger of %s as a new node", n.name, h.report.Node)
		if n.pg != nil {
			n.pg.end()
		}
		d.beginAnew(func(n *node) {
			n.w.check.remember(n)
			n.forget()
			n.ledger, n.applied = newer, 0
		})
		return
	}
}
