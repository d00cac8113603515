package standby

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
	"understudy/standby/walserver"
)

const (
	// bulk is how far behind the primary's end a frame is treated as catching
	// up: durability then follows in the background, in large pieces.
	bulk = 1 << 20
	// fedPatience and fedBytes bound how long the spool waits for the local
	// walreceiver's flush before it pays for its own.
	fedPatience = 5 * time.Millisecond
	fedBytes    = 1 << 20
	// lazySync is how old an unsynced byte of the spool may get, even when the
	// walreceiver has it. Often, because a second's worth at once keeps a shared
	// disk busy while commits wait.
	lazySync = 200 * time.Millisecond
	// silence is how long a stream may be without a frame; the primary sends a
	// heartbeat every 100 ms.
	silence = 5 * time.Second
)

// receive takes frames until the stream ends.
func (r *Receiver) receive(ctx context.Context, s *stream, fr *frame.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	kick := make(chan struct{}, 1)
	synced := make(chan error, 1)
	go func() { synced <- r.syncLoop(ctx, s, kick) }()
	s.belt = shipper.NewConveyor(func(at pos.LSN, p []byte) error {
		err := r.cfg.Spool.Append(s.hello.Epoch, at, p)
		wake(kick)
		return err
	})
	err := r.frames(s, fr, kick)
	if berr := s.belt.Close(); berr != nil {
		err = berr // nothing is appended for this stream any more
	}
	cancel()
	if serr := <-synced; serr != nil && errors.Is(err, net.ErrClosed) {
		err = serr // the sync loop closed the stream
	}
	return err
}

func (r *Receiver) frames(s *stream, fr *frame.Reader, kick chan struct{}) error {
	var deadline time.Time
	for {
		if now := time.Now(); deadline.Sub(now) < silence-time.Second {
			deadline = now.Add(silence)
			s.conn.SetReadDeadline(deadline)
		}
		t, p, err := fr.Next()
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		switch t {
		case frame.Data:
			err = r.data(s, p, fr.Pending() > 0, kick)
		case frame.BeatFrame:
			err = r.beat(s, p)
		case frame.Refuse:
			err = shipper.Refused(p)
			r.setProblem(err.Error())
		case frame.Bye:
			return nil
		default:
			err = fmt.Errorf("%w: type %d from a primary", shipper.ErrUnexpected, t)
		}
		if err != nil {
			return err
		}
	}
}

// data appends one frame's bytes and makes them durable in the way that suits
// the moment.
func (r *Receiver) data(s *stream, p []byte, more bool, kick chan struct{}) error {
	h, b, err := frame.DecodeData(p)
	if err != nil {
		return err
	}
	if h.Epoch != s.hello.Epoch {
		return fmt.Errorf("%w: bytes of epoch %s on a stream of %s", shipper.ErrUnexpected, h.Epoch, s.hello.Epoch)
	}
	sp := r.cfg.Spool
	end := h.LSN + pos.LSN(len(b))
	if h.SourceEnd.Sub(end) > bulk {
		r.mu.Lock()
		r.flushed = time.Duration(h.FlushedAt)
		r.heard(s, h.Committed, h.SourceEnd)
		r.mu.Unlock()
		s.bulk = true
		return s.belt.Put(h.LSN, b) // the disk is waited for on another goroutine
	}
	if s.bulk {
		s.bulk = false
		if err := s.belt.Drain(); err != nil {
			return err
		}
	}
	if err := sp.Append(h.Epoch, h.LSN, b); err != nil {
		return err
	}
	r.mu.Lock()
	r.flushed = time.Duration(h.FlushedAt)
	r.heard(s, h.Committed, h.SourceEnd)
	feeding := r.fedSoon(end)
	r.mu.Unlock()
	switch {
	case feeding:
		wake(kick)
		return nil
	case more:
		return nil // what is read already goes into the same fsync
	}
	if _, err := sp.Sync(); err != nil {
		return err
	}
	return r.ack(s)
}

// fedSoon tells whether the local walreceiver is about to flush what lies
// before end: it is connected, close, and fed before commit. r.mu is held.
func (r *Receiver) fedSoon(end pos.LSN) bool {
	return r.feeding && r.atOnce && !r.held && end.Sub(r.fedSent) < fedBytes
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// heard takes the primary's word on committed and its end; r.mu is held.
func (r *Receiver) heard(s *stream, committed, sourceEnd pos.LSN) {
	r.sourceEnd = max(r.sourceEnd, sourceEnd)
	if committed > r.committed {
		r.committed = committed
		r.moved, r.movedIn = time.Now(), s.hello.Epoch
		if !r.atOnce {
			r.notify()
		}
	}
}

func (r *Receiver) beat(s *stream, p []byte) error {
	b, err := frame.DecodeBeat(p)
	if err != nil {
		return err
	}
	if b.Epoch != s.hello.Epoch {
		return fmt.Errorf("%w: heartbeat of epoch %s on a stream of %s", shipper.ErrUnexpected, b.Epoch, s.hello.Epoch)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard(s, b.Committed, b.SourceEnd)
	r.floor = max(r.floor, b.Floor)
	if r.cur != s {
		return net.ErrClosed
	}
	if err := s.w.WriteBeatAck(frame.BeatAck{Epoch: b.Epoch, Seq: b.Seq, SentAt: b.SentAt, Test: b.Test}); err != nil {
		return err
	}
	return r.writeAck(s) // also keeps "applied" fresh when nothing is written
}

// ack sends the durable position when it has moved.
func (r *Receiver) ack(s *stream) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur != s {
		return net.ErrClosed
	}
	if r.durable() <= s.acked {
		return nil
	}
	return r.writeAck(s)
}

// writeAck sends where this node stands; r.mu is held, so that no
// acknowledgement can follow a fence.
func (r *Receiver) writeAck(s *stream) error {
	if now := time.Now(); s.deadline.Sub(now) < time.Second {
		s.deadline = now.Add(2 * time.Second)
		s.conn.SetWriteDeadline(s.deadline)
	}
	s.acked = r.durable()
	a := frame.Ack{
		Epoch: s.hello.Epoch, LineageEpoch: s.hello.Epoch, Voters: s.hello.Voters,
		Received: r.cfg.Spool.End(), Durable: s.acked, Applied: r.applied, Redo: r.redo,
	}
	if r.back.HasFeedback {
		a.HasFeedback, a.Xmin, a.CatalogXmin = true, r.back.Xmin, r.back.CatalogXmin
	}
	if err := s.w.WriteAck(a); err != nil {
		return err
	}
	return s.w.Flush()
}

// syncLoop fsyncs the spool in the background: at once while catching up, and
// as the fallback for a walreceiver that is slow to flush.
func (r *Receiver) syncLoop(ctx context.Context, s *stream, kick chan struct{}) error {
	sp := r.cfg.Spool
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-kick:
		case <-time.After(lazySync):
		}
		if r.waitFed(ctx, sp.End()) {
			continue // the walreceiver was first; the spool follows within lazySync
		}
		if _, err := sp.Sync(); err != nil {
			s.conn.Close()
			return err
		}
		if err := r.ack(s); err != nil {
			return err
		}
	}
}

// waitFed gives the local walreceiver its moment to flush what is there. It
// reports whether nothing is left for the spool to do now.
func (r *Receiver) waitFed(ctx context.Context, end pos.LSN) bool {
	r.mu.Lock()
	feeding := r.fedSoon(end)
	r.mu.Unlock()
	if !feeding {
		return r.cfg.Spool.Durable() >= end
	}
	select {
	case <-ctx.Done():
		return true
	case <-time.After(fedPatience):
	}
	r.mu.Lock()
	fed := r.fed
	r.mu.Unlock()
	return fed >= end && r.syncedLately()
}

// syncedLately tells whether the spool's own fsync may wait a little longer,
// and takes note of the time when not.
func (r *Receiver) syncedLately() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); now.Sub(r.lastSync) >= lazySync {
		r.lastSync = now
		return false
	}
	return true
}

// Fed takes the local walreceiver's report. What it flushed of the bytes this
// daemon gave it in this session counts as durable here.
func (r *Receiver) Fed(f walserver.Feedback) error {
	r.mu.Lock()
	first := f.Counted > 0 && !r.fedKnown
	r.mu.Unlock()
	if first {
		if err := r.cfg.Spool.SetFed(); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.fedKnown = r.fedKnown || first
	r.applied = f.Applied
	r.back = f
	r.fedSent = f.Sent
	if !r.held && r.elected == 0 && f.Counted > r.fed && f.Entry == r.cfg.Spool.Lineage().Last() {
		r.fed = f.Counted
	}
	s := r.cur
	r.mu.Unlock()
	if s == nil {
		return nil
	}
	return r.ack(s)
}

// Feeding tells whether the local walreceiver is connected.
func (r *Receiver) Feeding(connected bool, from pos.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.feeding = connected
	r.fedSent = from
	if !connected {
		r.back = walserver.Feedback{}
	}
}
