package sim

import (
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// receiver takes the log that is shipped, makes it durable, acknowledges it,
// and gives it to the local standby.
type receiver struct {
	d   *daemon
	cur *stream

	held      bool
	committed pos.LSN
	fed       pos.LSN // durable by the local walreceiver's flush
	applied   pos.LSN
	atOnce    bool
	elected   pos.LSN
	syncing   bool
	// fencing: the spool's lock is held from the sync to the raised fence, so
	// that nothing is appended or adopted between them. Who waits for it then
	// finds a newer fence.
	fencing int
	last    decide.Stream
	moved   time.Duration // when committed last moved, by this host's clock
}

// stream is what came last of the primary's log.
func (r *receiver) stream() *decide.Stream {
	if r.last.Epoch.IsZero() || r.d.run != nil || r.d.w.mut.on(VetoIgnored) {
		return nil
	}
	s := r.last
	s.Moved = r.d.n.clock() - r.moved
	return &s
}

// stream is an accepted connection from a primary.
type stream struct {
	from    int
	id      int
	hello   hello
	next    int // number of the next frame; a hole ends the connection
	adopted bool
	heard   time.Duration
}

// hello opens a stream.
type hello struct {
	id        int
	epoch     pos.Epoch
	lineage   pos.Lineage
	to        string
	atOnce    bool
	end       pos.LSN
	committed pos.LSN
}

// frame is log, or with an empty piece a heartbeat.
type frame struct {
	id, n     int
	epoch     pos.Epoch
	p         piece
	beat      time.Duration // when the heartbeat was sent, by the sender's clock
	flushed   time.Duration // when the primary's server had flushed the piece, by the same
	committed pos.LSN
}

// ack is what a peer holds.
type ack struct {
	id               int
	store            string
	epoch            pos.Epoch
	durable, applied pos.LSN
	beat             time.Duration
}

func (r *receiver) durable() pos.LSN {
	return max(r.d.n.sp.durable, min(r.fed, r.d.n.sp.log.end))
}

// returning tells that this node takes no stream: its own log may have left
// the group's history.
func (r *receiver) returning() bool {
	n := r.d.n
	return n.givenUp() || !n.coming.spool && (n.dir.state == dirRewind || n.marked != nil && n.dir.state == dirCluster)
}

// greet takes a connection.
func (r *receiver) greet(from int, h hello) {
	d, sp := r.d, &r.d.n.sp
	if r.returning() || h.to != sp.store || h.epoch.Less(sp.fence) || r.cur != nil && (h.epoch.Less(r.cur.hello.epoch) || h.epoch == r.cur.hello.epoch && h.id <= r.cur.id) {
		d.w.net.send(d.n.i, from, func(p *daemon) { p.welcomed(h, sp.store, welcome{refused: true}) })
		return
	}
	s := &stream{from: from, id: h.id, hello: h, heard: d.w.now}
	r.cur = s
	if sp.lineage.Last() != h.lineage.Last() {
		r.held = true
	}
	d.after(d.n.disk(300*time.Microsecond, 4*time.Millisecond), func() {
		if r.cur == s {
			r.prepare(s)
		}
	})
}

type welcome struct {
	refused bool
	resume  pos.LSN
	mark    [2]uint64
	empty   bool // nothing to compare
}

func (r *receiver) prepare(s *stream) {
	d, sp, h := r.d, &r.d.n.sp, s.hello
	if r.fencing > 0 {
		r.cur = nil
		return
	}
	if d.w.mut.on(AckBeforeAdoption) && sp.log.base != 0 {
		sp.raise(h.epoch, true)
	} else if err := sp.adopt(h.lineage, h.epoch); err != nil {
		d.w.trace("%s: refuses %s: %v", d.n.name, h.epoch, err)
		r.cur = nil
		d.w.net.send(d.n.i, s.from, func(p *daemon) { p.welcomed(h, sp.store, welcome{refused: true}) })
		return
	}
	if sp.log.base == 0 {
		// Not beyond what is committed: from there on its word counts.
		from := min(h.end, max(h.committed, h.lineage.Last().Start))
		base := d.w.nodes[s.from].dir.wal.recordEnd(from - min(from, 400))
		sp.log = wal{base: base, end: base}
		sp.durable = base
	}
	s.adopted = true
	r.fed = min(r.fed, sp.log.end)
	r.committed = max(min(r.committed, sp.log.end), h.committed)
	r.elected, r.atOnce, r.held = 0, h.atOnce, false
	r.last = decide.Stream{Epoch: h.epoch}
	w := welcome{resume: sp.log.end, mark: sp.log.mark(sp.log.end), empty: len(sp.log.recs) == 0}
	d.w.net.send(d.n.i, s.from, func(p *daemon) { p.welcomed(h, sp.store, w) })
	d.feed()
}

// take handles one frame.
func (r *receiver) take(from int, f frame) {
	d, s, sp := r.d, r.cur, &r.d.n.sp
	if s == nil || s.from != from || s.id != f.id || !s.adopted || f.n < s.next {
		return
	}
	if f.n > s.next {
		r.cur = nil // something was lost: the connection is broken
		return
	}
	s.next++
	s.heard = d.w.now
	if f.p.to > f.p.from {
		stale := f.epoch != sp.fence || f.epoch != sp.lineage.Last().Epoch
		joined, ok := sp.log.join(f.p)
		if stale && !d.w.mut.on(OldEpochAccepted) && !d.w.mut.on(AckBeforeAdoption) || r.fencing > 0 || f.p.from != sp.log.end || !ok {
			r.cur = nil
			return
		}
		sp.log = joined
	}
	if f.p.to > f.p.from {
		r.last.Epoch, r.last.Flushed = f.epoch, max(r.last.Flushed, f.flushed)
	}
	if f.committed > r.committed {
		r.committed, r.moved = f.committed, d.n.clock()
	}
	if f.beat != 0 {
		d.w.check.beat(s.hello.epoch, sp.store, f.beat)
		r.ack(f.beat)
	}
	r.sync()
	d.feed()
}

// fedSoon tells whether the local walreceiver is about to flush.
func (r *receiver) fedSoon() bool {
	pg := r.d.n.pg
	return pg != nil && pg.rcv != nil && pg.rcv.d == r.d && r.atOnce && !r.held
}

// sync makes what was received durable, in the background. With a walreceiver
// it waits a moment for that one's flush.
func (r *receiver) sync() {
	d, sp := r.d, &r.d.n.sp
	if r.syncing || sp.durable >= sp.log.end {
		return
	}
	r.syncing = true
	patience := time.Duration(0)
	if r.fedSoon() {
		patience = 5 * time.Millisecond
	}
	d.after(patience, func() {
		if patience > 0 && r.fed >= sp.log.end {
			r.syncing = false // the walreceiver was first
			return
		}
		r.fsync()
	})
}

func (r *receiver) fsync() {
	d, sp := r.d, &r.d.n.sp
	upto, lineage := sp.log.end, sp.lineage.Last()
	d.after(d.n.disk(300*time.Microsecond, d.w.disk), func() {
		r.syncing = false
		if lineage == sp.lineage.Last() {
			sp.durable = max(sp.durable, min(upto, sp.log.end))
		}
		r.ack(0)
		r.sync()
	})
}

// lazily syncs what only the walreceiver has made durable.
func (r *receiver) lazily() {
	r.d.after(200*time.Millisecond, func() {
		if sp := &r.d.n.sp; !r.syncing && sp.durable < sp.log.end {
			r.syncing = true
			r.fsync()
		}
		if r.cur != nil && r.d.w.now-r.cur.heard > 5*time.Second {
			r.cur = nil
		}
		r.lazily()
	})
}

// ack says what is durable here; none can follow a fence.
func (r *receiver) ack(beat time.Duration) {
	s := r.cur
	if s == nil || !s.adopted {
		return
	}
	a := ack{id: s.id, store: r.d.n.sp.store, epoch: s.hello.epoch, durable: r.durable(), applied: r.applied, beat: beat}
	r.d.w.net.send(r.d.n.i, s.from, func(p *daemon) { p.acked(a) })
}

// fence refuses everything below e from now on and says what is durable here.
func (r *receiver) fence(p *proc, e pos.Epoch) (pos.Lineage, pos.LSN, error) {
	d, sp := r.d, &r.d.n.sp
	early := r.durable()
	if sp.lineage.Last().Epoch.Less(e) {
		r.held, r.elected = true, 0
	}
	if r.cur != nil && r.cur.hello.epoch.Less(e) && !d.w.mut.on(OldEpochAccepted) {
		if d.w.mut.on(FenceReportedEarlier) {
			s := r.cur
			d.w.after(300*time.Millisecond, func() {
				if r.cur == s {
					r.cur = nil
				}
			})
		} else {
			r.cur = nil
		}
	}
	if e.Less(sp.fence) {
		return nil, 0, errRefused
	}
	if d.w.mut.on(FenceNotFsynced) {
		sp.raise(e, false)
		return sp.lineage, sp.log.end, p.cause
	}
	upto := sp.log.end
	if !d.w.mut.on(OldEpochAccepted) && !d.w.mut.on(FenceReportedEarlier) {
		r.fencing++
		defer func() { r.fencing-- }()
	}
	d.step(p)
	sp.durable = max(sp.durable, min(upto, sp.log.end))
	if d.w.mut.on(FenceReportedEarlier) {
		return sp.lineage, early, p.cause
	}
	d.step(p)
	if e.Less(sp.fence) {
		return nil, 0, errRefused
	}
	sp.raise(e, true)
	return sp.lineage, sp.durable, p.cause
}

// report is the walreceiver's word on what it flushed and replayed.
func (r *receiver) report(c *walreceiver, flushed, applied pos.LSN) {
	sp := &r.d.n.sp
	r.applied = applied
	counted := pos.LSN(0)
	switch {
	case !c.reported && !r.d.w.mut.on(FirstFlushCounted):
		c.first = flushed
	case flushed > c.first:
		counted = min(flushed, c.sent)
	}
	c.reported = true
	if counted > r.fed && !r.held && r.elected == 0 && c.seen.Last() == sp.lineage.Last() {
		sp.fed = true
		r.fed = counted
		r.ack(0)
	}
}

// limit is up to where the local standby is given log.
func (r *receiver) limit() pos.LSN {
	sp := &r.d.n.sp
	switch {
	case r.elected != 0:
		return min(r.elected, sp.log.end)
	case !r.atOnce:
		return min(r.committed, sp.log.end)
	}
	return sp.log.end
}

// feed gives the local walreceiver what it may have.
func (d *daemon) feed() {
	if pg := d.n.pg; d.n.kind == facts.KindData && pg != nil && !pg.primary {
		pg.pull()
	}
}
