package sim

import (
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// restoreWatch checks restores of the group: what was acknowledged at or before
// the chosen moment survives, and nothing else of that history does; what lies
// after it is at the location first; and once it was made final nobody goes on
// with what was left. One that is withdrawn changes nothing for the other checks.
type restoreWatch struct {
	all  []acknowledged // also what a restore has discarded
	past pos.Epoch      // the last one of the history that was left
	made int
	// withdrawn are those that were given up, also by the group itself.
	withdrawn int
}

// acknowledged is a record of which a client was told, and its timeline.
type acknowledged struct {
	rec
	timeline pos.Timeline
}

func (w *restoreWatch) acked(c *checks, n *node, r rec) {
	w.all = append(w.all, acknowledged{r, n.dir.tli})
	if n.ledger.over {
		c.fail("%s acknowledged %s of epoch %s after the group was restored", n.name, r.end, r.epoch)
	}
}

// applied looks at every step of a ledger.
func (w *restoreWatch) applied(c *checks, l *ledger, before, after facts.State, cmd facts.Command) {
	if l.over && (cmd.Assign != nil || cmd.Opened != nil || cmd.Starting != nil) {
		c.fail("%s is %s in epoch %s of the ledger that a restore of the group has ended", after.Primary.Node, after.Primary.Phase, after.Primary.Epoch)
	}
	if a := cmd.AdvanceRestore; a != nil {
		c.w.trace("ledger: the restore is %s", a.Stage)
	}
	o, ok := after.Restoring()
	was, _ := before.Restoring()
	if b := before.Order; b != nil && b.Restore != nil && after.Order == nil && !b.Reformed {
		c.w.trace("ledger: the restore is over, %s", b.Restore.Stage)
		w.withdrawn++
	}
	switch {
	case cmd.Reform != nil:
		c.w.ledger = l
		w.made++
	case ok && o.Restore.Stage == facts.RestoreFinal && was.Restore != nil && was.Restore.Stage != facts.RestoreFinal:
		l.over = true
		w.final(c, after, *o.Restore, c.byStore(o.To))
	}
}

// final: the restored database holds what it has to, and the location the rest.
func (w *restoreWatch) final(c *checks, s facts.State, r facts.Restore, n *node) {
	if n == nil {
		c.fail("nobody has the database that was restored")
		return
	}
	w.saved(c, r)
	cat, _ := s.Catalog(facts.ProfilePostgres)
	path, err := cat.Path(r.Along)
	if err != nil {
		c.fail("%v", err)
		return
	}
	c.acks, c.told, w.past = nil, committed{}, s.Primary.Epoch
	for _, a := range w.all {
		if !within(path, a, r.Target.LSN) {
			continue
		}
		c.acks = append(c.acks, a.rec)
		if !n.dir.wal.holds(a.rec) {
			c.fail("%s restored the group to %s without %s of epoch %s, which was acknowledged before", n.name, r.Target, a.end, a.epoch)
		}
	}
	for _, x := range n.dir.wal.recs {
		if x.client && x.start >= r.Target.LSN {
			c.fail("%s restored the group to %s and holds %s", n.name, r.Target, x.end)
		}
	}
}

// within tells whether a record is of the history along a path, and ends at or
// before an LSN.
func within(path []catalog.Step, a acknowledged, moment pos.LSN) bool {
	for _, s := range path {
		if s.Timeline == a.timeline && a.end <= moment && (s.To == 0 || a.end <= s.To) {
			return true
		}
	}
	return false
}

// saved: what is thrown away can be had back, unless the operator gave it up.
func (w *restoreWatch) saved(c *checks, r facts.Restore) {
	if r.Unarchived {
		return
	}
	for _, a := range c.acks {
		if !c.w.vault.holds(a) {
			c.fail("the group is restored although %s of epoch %s, which was acknowledged, is at no location", a.end, a.epoch)
			return
		}
	}
}

// restore brings the whole group back to some moment, and lets something happen
// meanwhile.
func (w *world) restore(p *proc) {
	at := w.nodes[w.rng.IntN(len(w.nodes))]
	id := w.orderRestore(p, at)
	if id == "" {
		return
	}
	stands := func(stage facts.RestoreStage) func() bool {
		return func() bool {
			o := w.ledger.head().Order
			return o == nil || o.ID != id || o.Restore.Stage == stage
		}
	}
	stage := []facts.RestoreStage{facts.RestoreDraining, facts.RestoreStopping, facts.RestoreRewriting, facts.RestoreFinal}[w.rng.IntN(4)]
	w.soon(p, 8*time.Second, stands(stage))
	if o := w.ledger.head().Order; o != nil && o.ID == id {
		w.meddle(p, *o)
	}
	p.rest(w.between(0, 3*time.Second))
}

// meddle disturbs a restore that stands.
func (w *world) meddle(p *proc, o facts.Order) {
	n := w.check.byStore(o.To)
	if n == nil {
		return
	}
	p.rest(w.between(0, 300*time.Millisecond))
	switch w.rng.IntN(8) {
	case 0:
		w.kill(n, w.chance(0.5), w.between(20*time.Millisecond, 3*time.Second))
	case 1:
		m := w.nodes[w.rng.IntN(len(w.nodes))]
		w.kill(m, w.chance(0.5), w.between(20*time.Millisecond, 6*time.Second))
	case 2: // a node is away until all is over
		m := w.nodes[w.rng.IntN(len(w.nodes))]
		w.net.isolate(m.i, true, true)
		p.rest(w.between(time.Second, 5*time.Second))
		w.net.heal()
	case 3:
		w.withdraw(o.ID)
	case 4: // withdrawn by the others, who do not hear the node that restores
		w.net.isolate(n.i, true, true)
		for range 8 {
			p.rest(w.between(100*time.Millisecond, 500*time.Millisecond))
			w.withdraw(o.ID)
		}
		w.net.heal()
	case 5: // what it says is not heard at once
		w.net.hold = true
		w.net.isolate(n.i, false, true)
		p.rest(w.between(500*time.Millisecond, 2*time.Second))
		w.withdraw(o.ID)
		p.rest(w.between(100*time.Millisecond, time.Second))
		w.net.heal()
	}
}

// withdraw is the operator's word, given to every daemon.
func (w *world) withdraw(id string) {
	for _, n := range w.nodes {
		if d := n.daemon; d != nil {
			d.spawn(func(p *proc) {
				d.propose(p, time.Second, facts.Command{ClearOrder: &facts.ClearOrder{ID: id, Why: "withdrawn by the operator"}})
			})
		}
	}
}

// orderRestore orders a restore of the group, and returns the order's id once it
// stands.
func (w *world) orderRestore(p *proc, at *node) (id string) {
	d := at.daemon
	if d == nil {
		return ""
	}
	if w.chance(0.2) {
		w.vault.busy = w.now + w.between(500*time.Millisecond, 4*time.Second)
	}
	name, force := w.someData(), w.chance(0.2)
	if n := w.open(); n != nil && w.chance(0.5) {
		name = n.name
	}
	d.spawn(func(p *proc) {
		st, err := d.read(p)
		if err != nil || st.Order != nil {
			return
		}
		m, _ := st.MemberByName(name)
		o, err := w.planRestore(st, m, w.someMoment(), force)
		if err != nil {
			w.trace("operator at %s: refused: %v", at.name, err)
			return
		}
		w.trace("operator at %s: restore with %s to %s along %d, force %t", at.name, name, o.Restore.Target, o.Restore.Along, force)
		if _, err := d.propose(p, time.Second, facts.Command{SetOrder: &facts.SetOrder{Expect: st.Primary.Version, Order: o}}); err == nil {
			id = o.ID
		}
	})
	w.soon(p, 2*time.Second, func() bool { return id != "" || !d.alive() })
	return id
}

// someMoment is an LSN of the newest history or, by its timeline, of another one
// of which there is log.
func (w *world) someMoment() catalog.Target {
	t := catalog.Target{Kind: catalog.AtLSN}
	var all []pos.Timeline
	top := pos.LSN(0)
	for tli := pos.Timeline(1); tli <= w.ledger.head().LastTimeline; tli++ {
		if log, ok := w.vault.logs[tli]; ok {
			all, top = append(all, tli), log.end
		}
	}
	if len(all) > 0 && w.chance(0.4) {
		t.Timeline = all[w.rng.IntN(len(all))]
		top = w.vault.logs[t.Timeline].end
	}
	low := vaultFrom
	if w.chance(0.5) && top > 500 {
		low = max(low, top-500)
	}
	t.LSN = w.some(low, max(low, top))
	return t
}
