package sim

import (
	"slices"
	"time"

	"understudy/shipper/pos"
)

// server is a running PostgreSQL with its guard.
type server struct {
	n       *node
	primary bool
	epoch   pos.Epoch // of a primary
	ready   bool      // it answers
	d       *daemon   // whose guard connection is up; nil when orphaned

	// A primary's.
	lease     time.Duration // until when it may run, by the host's clock
	contact   time.Duration // of the last renewal
	until     time.Duration // end of an announced restart
	open      bool          // ordinary clients are let in
	out       bool          // on the operator's word they are kept out all the same
	stopping  bool
	source    *run // our receiver
	waiting   []rec
	confirmed pos.LSN
	flushing  bool

	// A standby's.
	rcv       *walreceiver
	replayTo  pos.LSN
	replaying bool
}

// walreceiver is one streaming session with the daemon.
type walreceiver struct {
	d        *daemon
	sent     pos.LSN
	seen     pos.Lineage
	first    pos.LSN
	reported bool
}

const (
	isolation = 2 * time.Second
	orphan    = 700 * time.Millisecond
)

// runs tells whether it does; no server does not.
func (s *server) runs() bool { return s != nil && s.n.pg == s }

// end stops it at once.
func (s *server) end() {
	if s.runs() {
		s.n.pg = nil
		s.open, s.waiting, s.source, s.rcv = false, nil, nil, nil
	}
}

// orphaned is what the guard does when its daemon is gone.
func (s *server) orphaned() {
	s.d, s.source = nil, nil
	s.disconnect()
	s.lease = min(s.lease, s.n.clock()+orphan)
	s.lease = max(s.lease, s.until)
}

// adopt is what it does when another one connects.
func (s *server) adopt(d *daemon) {
	s.d = d
	s.lease = max(s.contact+isolation, s.until)
}

func (s *server) renew(contact time.Duration) {
	s.contact = max(s.contact, contact)
	s.lease = max(s.lease, contact+isolation)
}

// guard ends a primary whose lease is over.
func (s *server) guard() {
	s.n.after(25*time.Millisecond, func() {
		switch {
		case !s.runs():
		case s.n.clock() > s.lease:
			s.n.w.trace("%s: the lease of epoch %s is over", s.n.name, s.epoch)
			s.end()
		default:
			s.guard()
		}
	})
}

// launchPrimary starts the directory for writing, clients locked out.
func (n *node) launchPrimary(d *daemon, e pos.Epoch) *server {
	s := &server{n: n, primary: true, epoch: e, d: d}
	n.pg = s
	s.renew(n.clock())
	s.guard()
	n.dir.recovery, n.dir.clean = false, false
	n.after(n.w.between(10*time.Millisecond, 80*time.Millisecond), func() {
		if s.runs() {
			n.dir.wal = n.dir.wal.cutRecords(n.dir.wal.end)
			n.dir.applied, n.dir.flushed = n.dir.wal.cut(n.dir.wal.end), n.dir.wal.end
			s.insert(false)
			s.ready = true
		}
	})
	return s
}

// rejoin forgets a timeline that the directory went on to without a byte of it
// and that is no part of the history any more: recovery looks for the newest
// one again.
func (n *node) rejoin() {
	l := n.followed()
	if _, _, known := lineageEnd(l, n.dir.tli); known {
		return
	}
	if end, _, known := lineageEnd(l, n.dir.minTLI); known && (end == 0 || n.dir.wal.end <= end) {
		n.dir.tli = n.dir.minTLI
	}
}

// launchStandby starts it in recovery.
func (n *node) launchStandby(d *daemon) *server {
	s := &server{n: n, d: d}
	n.pg = s
	if n.dir.recovery {
		n.dir.applied = n.dir.applied.cut(n.dir.minRec)
		n.rejoin()
	} else {
		n.dir.minRec, n.dir.minTLI = n.dir.applied.end, n.dir.tli
	}
	n.dir.recovery, n.dir.clean = true, false
	n.after(n.w.between(10*time.Millisecond, 80*time.Millisecond), func() {
		if s.runs() {
			s.ready = true
			s.replayTo = n.dir.wal.end
			s.replay()
			s.poll()
		}
	})
	return s
}

// poll makes a standby look for log now and then.
func (s *server) poll() {
	s.n.after(30*time.Millisecond, func() {
		if s.runs() && !s.primary {
			s.pull()
			s.poll()
		}
	})
}

// promote ends recovery on timeline t where replay stands.
func (s *server) promote(e pos.Epoch, t pos.Timeline) pos.LSN {
	n := s.n
	s.rcv = nil
	fork := n.dir.applied.end
	n.w.check.promoted(n, e, t)
	n.dir.wal, n.dir.applied = n.dir.applied.cut(fork), n.dir.applied.cut(fork)
	n.dir.flushed = fork
	n.dir.from, n.dir.fork = n.dir.tli, fork
	n.dir.tli, n.dir.recovery, n.dir.clean = t, false, false
	s.insert(false)
	return fork
}

// work is the clients of an open primary.
func (s *server) work() {
	s.n.after(s.n.w.between(10*time.Millisecond, 90*time.Millisecond), func() {
		if s.runs() && s.open && !s.stopping && !s.out {
			s.insert(true)
			s.work()
		}
	})
}

// shut keeps clients out and cuts those off that are there: what they wait for
// they are never told.
func (s *server) shut() { s.out, s.waiting = true, nil }

// admit lets them in again.
func (s *server) admit() {
	if s.out {
		s.out = false
		s.work()
	}
}

// write adds one record to the log and the pages of the directory.
func (n *node) write(e pos.Epoch, client bool) rec {
	n.w.chains++
	r := rec{start: n.dir.wal.end, epoch: e, client: client, chain: n.w.chains}
	r.end = r.start + pos.LSN(8+n.w.rng.IntN(56))
	if k := len(n.dir.wal.recs); k > 0 {
		r.prev = n.dir.wal.recs[k-1].chain
	}
	p := piece{r.start, r.end, []rec{r}}
	n.dir.wal, _ = n.dir.wal.join(p)
	n.dir.applied, _ = n.dir.applied.join(p)
	return r
}

// insert writes one record.
func (s *server) insert(client bool) rec {
	r := s.n.write(s.epoch, client)
	if client {
		s.waiting = append(s.waiting, r)
	}
	s.flush()
	return r
}

// flush makes the log durable; what is written meanwhile goes into the next one.
func (s *server) flush() {
	n := s.n
	if s.flushing || n.dir.flushed >= n.dir.wal.end {
		return
	}
	s.flushing = true
	upto := n.dir.wal.end
	n.after(n.base(200*time.Microsecond, n.w.disk), func() {
		s.flushing = false
		if !s.runs() {
			return
		}
		n.dir.flushed = max(n.dir.flushed, min(upto, n.dir.wal.end))
		if s.primary {
			if s.source != nil {
				s.source.received()
			}
		} else {
			s.replayTo = max(s.replayTo, n.dir.flushed)
			s.report()
			s.replay()
		}
		s.flush()
	})
}

// confirm is our receiver's word that the log up to upto is durable: whoever
// waits for a commit below it gets its answer.
func (s *server) confirm(upto pos.LSN) {
	s.confirmed = max(s.confirmed, upto)
	for len(s.waiting) > 0 && s.waiting[0].end <= s.confirmed && s.open {
		s.n.w.check.acked(s.n, s.waiting[0])
		s.waiting = s.waiting[1:]
	}
}

// lineageEnd tells where a lineage leaves a timeline, and for which.
func lineageEnd(l pos.Lineage, t pos.Timeline) (end pos.LSN, next pos.Timeline, known bool) {
	for _, e := range l {
		if known && e.Timeline > t {
			return e.Start, e.Timeline, true
		}
		known = known || e.Timeline == t
	}
	return 0, 0, known
}

// followed is what of the history the local standby is shown: not the timeline
// that its own promotion begins.
func (n *node) followed() pos.Lineage {
	l := n.sp.lineage
	if n.marked == nil || n.marked.epoch.IsZero() {
		return l
	}
	k := 0
	for k < len(l) && l[k].Epoch.Less(n.marked.epoch) {
		k++
	}
	return l[:k]
}

// connect opens a streaming session where the local log ends.
func (s *server) connect() {
	n, d := s.n, s.n.daemon
	sp, dir := &n.sp, &n.dir
	if d == nil || d.recv.held || sp.log.base == 0 || s.replaying {
		return
	}
	start := dir.wal.recordEnd(dir.wal.end)
	if dir.applied.end < start {
		s.replayTo = dir.wal.end
		s.replay()
		return
	}
	lineage := n.followed()
	end, next, known := lineageEnd(lineage, dir.tli)
	switch {
	case !known, start > sp.log.end, start < sp.log.base, end != 0 && max(start, dir.applied.end, dir.minRec) > end:
		return // refused, or PostgreSQL itself refuses to go there
	case end != 0 && start == end:
		dir.tli = next
		return
	}
	dir.wal = dir.wal.cut(start)
	dir.flushed = min(dir.flushed, start)
	s.rcv = &walreceiver{d: d, sent: start, seen: lineage}
	s.report()
}

// disconnect ends the session; what was written is flushed and replayed.
func (s *server) disconnect() {
	if s.rcv != nil {
		s.rcv = nil
		s.n.dir.flushed = s.n.dir.wal.end
		s.replayTo = max(s.replayTo, s.n.dir.wal.end)
	}
}

// pull takes what the daemon gives.
func (s *server) pull() {
	n, d := s.n, s.n.daemon
	if !s.ready || d == nil || !n.runs() {
		return
	}
	if s.rcv == nil || s.rcv.d != d {
		s.disconnect()
		s.connect()
		if s.rcv == nil {
			return
		}
	}
	sp, dir, c := &n.sp, &n.dir, s.rcv
	if d.recv.held {
		return
	}
	top := max(c.sent, dir.wal.end)
	lineage := n.followed()
	if !slices.Equal(c.seen, lineage) {
		if fork, _ := c.seen.Fork(lineage); top > fork {
			s.disconnect()
			return
		}
		c.seen = lineage
	}
	end, _, known := lineageEnd(lineage, dir.tli)
	if !known || end != 0 && top > end {
		s.disconnect()
		return
	}
	stop := d.recv.limit()
	if end != 0 {
		stop = min(stop, end)
	}
	switch {
	case c.sent < stop:
		joined, ok := dir.wal.join(sp.log.slice(c.sent, stop))
		if !ok || dir.wal.end != c.sent {
			n.w.check.fail("%s: its walreceiver at %s was given log of another history", n.name, c.sent)
			return
		}
		dir.wal, c.sent = joined, stop
		s.flush()
	case end != 0 && c.sent >= end && dir.flushed >= end && dir.applied.end >= end:
		s.disconnect() // the timeline is complete; the next session takes the next one
	}
}

// report tells the daemon what was flushed and replayed. The first one of a
// session says where replay is.
func (s *server) report() {
	if c := s.rcv; c != nil && c.d.alive() {
		flushed := s.n.dir.flushed
		if !c.reported {
			flushed = s.n.dir.applied.end
		}
		applied := s.n.dir.applied.end
		s.n.later(true, func() {
			if c.d.alive() {
				c.d.recv.report(c, flushed, applied)
			}
		})
	}
}

// replay applies whole records, a few at a time.
func (s *server) replay() {
	n := s.n
	if s.replaying || s.primary || n.dir.applied.end >= n.dir.wal.recordEnd(s.replayTo) {
		return
	}
	s.replaying = true
	pause := n.w.between(200*time.Microsecond, 4*time.Millisecond)
	if n.w.chance(0.02) {
		pause = n.w.between(20*time.Millisecond, n.w.lag)
	}
	n.after(pause, func() {
		s.replaying = false
		if !s.runs() || s.primary {
			return
		}
		dir := &n.dir
		from := dir.wal.whole(dir.applied.end)
		to := dir.wal.whole(min(s.replayTo, dir.wal.end))
		if to-from > 1 && n.w.chance(0.3) {
			to = from + 1 + n.w.rng.IntN(to-from)
		}
		for i := from; i < to; i++ {
			n.redo(dir.wal.recs[i])
		}
		if n.w.chance(0.1) {
			dir.minRec, dir.minTLI = dir.applied.end, dir.tli
		}
		s.report()
		s.replay()
	})
}

// redo applies one record to the pages.
func (n *node) redo(r rec) {
	joined, ok := n.dir.applied.join(piece{r.start, r.end, []rec{r}})
	if !ok || n.dir.applied.end != r.start {
		n.w.check.fail("%s: record %s of epoch %s is applied to pages of another history, which end at %s", n.name, r.end, r.epoch, n.dir.applied.end)
		return
	}
	n.dir.applied = joined
	n.w.check.redone(n, r)
}
