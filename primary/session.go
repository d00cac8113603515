package primary

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"understudy/shipper"
	"understudy/shipper/flow"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

// session ships the log to one peer for as long as the role lives: it dials,
// agrees with the peer where to go on, and sends; a second goroutine takes
// the peer's answers.
type session struct {
	p       *Primary
	peer    Peer
	limited bool // the peer waits for committed before it feeds its PostgreSQL
	greeted bool // what the peer was told of that; under Primary.mu

	wakeCh chan struct{}

	sendMu sync.Mutex    // one writer of frames at a time
	out    *frame.Writer // nil while there is no connection
	at     pos.LSN       // next byte to send
	told   pos.LSN       // committed that the peer was told
	beats  uint64
	pushed atomic.Int32 // frames pushed since the peer's last answer

	received  atomic.Uint64
	appliedAt atomic.Uint64
	redo      atomic.Uint64
	contactNs atomic.Int64
	rtt       atomic.Int64
	sent      atomic.Uint64

	mu       sync.Mutex
	conn     net.Conn
	stateIs  string
	since    time.Time
	problem  string
	code     string
	rate     flow.Rate
	feedback feedback
}

// feedback is what a standby's PostgreSQL asks the primary's vacuum to spare.
type feedback struct {
	xmin, catalogXmin uint64
	at                time.Time
}

const (
	liveFrame = 128 << 10
	// near is how close to the end of the log a peer begins to count as
	// streaming, far how distant it may get before it no longer does.
	near = 256 << 10
	far  = 4 << 20
)

func newSession(p *Primary, peer Peer) *session {
	return &session{p: p, peer: peer, wakeCh: make(chan struct{}, 1), stateIs: "connecting", since: time.Now()}
}

// greetAnew ends the connection, so that the next greeting says whether the
// peer may feed its PostgreSQL before commit.
func (s *session) greetAnew() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
	}
}

func (s *session) wake() {
	select {
	case s.wakeCh <- struct{}{}:
	default:
	}
}

func (s *session) appliedLSN() pos.LSN    { return pos.LSN(s.appliedAt.Load()) }
func (s *session) contact() time.Duration { return time.Duration(s.contactNs.Load()) }

func (s *session) set(state string, err error) {
	var text, code string
	if err != nil {
		text = err.Error()
		var ref *shipper.RefusedError
		if errors.As(err, &ref) {
			text, code = ref.Text, ref.Code
		}
	}
	s.mu.Lock()
	was := s.stateIs
	if was != state {
		s.stateIs, s.since = state, time.Now()
	}
	s.problem, s.code = text, code
	s.mu.Unlock()
	if was != state {
		s.p.log.Info("link", "peer", s.peer.Name, "state", state, "was", was, "error", text)
	}
}

func (s *session) state(now time.Time) LinkState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return LinkState{
		Peer: s.peer, State: s.stateIs, Since: s.since, Problem: s.problem, ProblemCode: s.code,
		RTT: time.Duration(s.rtt.Load()), Sent: pos.LSN(s.sent.Load()), Received: pos.LSN(s.received.Load()),
		Applied: s.appliedLSN(), Redo: pos.LSN(s.redo.Load()), BytesPerSec: uint64(s.rate.PerSecond(now)),
	}
}

// run dials again and again until the role ends.
func (s *session) run(ctx context.Context) {
	back := flow.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond}
	for ctx.Err() == nil {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return
		}
		state := "connecting"
		var ref *shipper.RefusedError
		if errors.As(err, &ref) {
			state = "refused"
		}
		s.set(state, err)
		s.appliedAt.Store(0)
		if time.Since(began) > time.Second {
			back.Reset()
		}
		select {
		case <-ctx.Done():
		case <-time.After(back.Next(0.5)):
		}
	}
}

// once is one connection, from dial to end.
func (s *session) once(ctx context.Context) error {
	c, err := s.p.cfg.Dial(ctx, s.peer)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	s.mu.Lock()
	s.conn = c
	s.mu.Unlock()
	r, w := frame.NewReader(c), frame.NewWriter(c)
	at, err := s.handshake(c, r, w)
	if err != nil {
		return err
	}
	readErr := make(chan error, 1)
	go func() {
		err := s.answers(c, r)
		c.Close() // wakes the sender
		readErr <- err
	}()
	err = s.send(ctx, c, w, at)
	c.Close()
	if rerr := <-readErr; rerr != nil && !errors.Is(rerr, net.ErrClosed) && !errors.Is(rerr, io.EOF) {
		return rerr // the peer's own word is the better reason
	}
	return err
}

func (s *session) handshake(c net.Conn, r *frame.Reader, w *frame.Writer) (pos.LSN, error) {
	p := s.p
	c.SetDeadline(time.Now().Add(shipper.HandshakeTimeout))
	defer c.SetDeadline(time.Time{})
	p.mu.Lock()
	end := p.win.bounds().To
	h := shipper.Hello{
		Group: p.cfg.Group, Ledger: p.cfg.Ledger, Node: p.cfg.Node, Store: p.cfg.Store, To: s.peer.Store,
		SystemID: p.cfg.SystemID, Major: p.cfg.Major, SegSize: p.cfg.SegSize,
		Epoch: p.cfg.Epoch, Lineage: p.cfg.Lineage, Voters: p.count.Version(), AtOnce: p.atOnce[s.peer.Store],
		Oldest: p.oldest(), End: end, Committed: p.committed,
	}
	// A node without log begins below everything that is not committed yet: its
	// acknowledgement speaks for all of that.
	open := max(p.committed, p.cfg.Lineage.Last().Start)
	h.Base = max(min(end, open).SegStart(p.cfg.SegSize), h.Oldest)
	s.limited, s.greeted = s.peer.Data && !h.AtOnce, h.AtOnce
	p.mu.Unlock()
	if err := w.WriteJSON(frame.Hello, h); err != nil {
		return 0, err
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	var wel shipper.Welcome
	if err := shipper.Expect(r, frame.Welcome, &wel); err != nil {
		return 0, fmt.Errorf("handshake with %s: %w", s.peer.Name, err)
	}
	return wel.Resume, s.checkResume(wel, w)
}

// checkResume compares the bytes before the resume point with our own.
func (s *session) checkResume(wel shipper.Welcome, w *frame.Writer) error {
	p := s.p
	name := s.peer.Name
	if wel.Store != s.peer.Store {
		return shipper.Refuse(w, shipper.RefuseStore, fmt.Sprintf("%s answers as store %s, the ledger knows %s", name, wel.Store, s.peer.Store))
	}
	end := p.win.bounds().To
	if wel.Resume > end {
		return shipper.Refuse(w, shipper.RefuseDiverged, fmt.Sprintf("%s holds log up to %s, beyond the primary's end %s", name, wel.Resume, end))
	}
	if old := p.oldest(); wel.Resume < old {
		return shipper.Refuse(w, shipper.RefusePruned, fmt.Sprintf("%s needs log from %s, the primary keeps it from %s", name, wel.Resume, old))
	}
	if wel.CRCFrom >= wel.Resume || wel.Resume-wel.CRCFrom > shipper.CheckWindow {
		return nil
	}
	if wel.CRCFrom < p.oldest() {
		return nil // our side of the comparison is gone
	}
	crc, err := shipper.CRC(logFunc(p.read), wel.CRCFrom, wel.Resume)
	if err != nil {
		return fmt.Errorf("read own log before %s: %w", wel.Resume, err)
	}
	if crc != wel.CRC {
		return shipper.Refuse(w, shipper.RefuseDiverged, fmt.Sprintf("the log of %s before %s is not the primary's", name, wel.Resume))
	}
	return nil
}

type logFunc func([]byte, pos.LSN) (int, error)

func (f logFunc) ReadWAL(b []byte, at pos.LSN) (int, error) { return f(b, at) }

// The bounds within which the receive goroutine itself writes to a peer. A
// socket takes that much without blocking, whatever the peer does; beyond it
// the session's own goroutine goes on, which may block alone.
const (
	pushBytes  = 16 << 10
	pushFrames = 16
)

// push sends new bytes at once, on the receive goroutine: a commit then waits
// for no hand-over between goroutines. It does nothing but wake the session
// when the peer is not exactly where the bytes begin, or takes them slowly.
func (s *session) push(head frame.DataHead, b []byte) {
	if !s.sendMu.TryLock() {
		s.wake()
		return
	}
	defer s.sendMu.Unlock()
	inFlight := head.LSN.Sub(pos.LSN(s.received.Load()))
	if s.out == nil || s.at != head.LSN || inFlight+uint64(len(b)) > pushBytes || s.pushed.Load() >= pushFrames {
		s.wake()
		return
	}
	s.pushed.Add(1)
	err := s.out.WriteData(head, b)
	if err == nil {
		err = s.out.Flush()
	}
	if err != nil {
		s.out = nil // the session's own goroutine finds the same error
		s.wake()
		return
	}
	s.told = head.Committed
	s.advanceTo(head.LSN + pos.LSN(len(b)))
}

func (s *session) advanceTo(at pos.LSN) {
	n := at.Sub(s.at)
	s.at = at
	s.sent.Store(uint64(at))
	s.mu.Lock()
	s.rate.Add(time.Now(), n)
	s.mu.Unlock()
}

// send ships from at on and never returns nil.
func (s *session) send(ctx context.Context, c net.Conn, w *frame.Writer, at pos.LSN) error {
	beat := time.NewTicker(s.p.cfg.BeatEvery)
	defer beat.Stop()
	buf := make([]byte, shipper.BulkFrame)
	s.sendMu.Lock()
	s.out, s.at, s.told = w, at, 0
	s.pushed.Store(0)
	s.sendMu.Unlock()
	defer func() {
		s.sendMu.Lock()
		s.out = nil
		s.sendMu.Unlock()
	}()
	if err := s.beat(); err != nil {
		return err
	}
	for {
		more, err := s.pump(buf)
		if err != nil {
			return err
		}
		if more {
			select {
			case <-beat.C:
				err = s.beat()
			default:
			}
			if err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.wakeCh:
			err = s.tell()
		case <-beat.C:
			err = s.beat()
		}
		if err != nil {
			return err
		}
	}
}

// pump sends one frame if there is something to send, and tells whether there
// is more.
func (s *session) pump(buf []byte) (more bool, err error) {
	p := s.p
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if s.out == nil {
		return false, net.ErrClosed
	}
	end := p.win.bounds().To
	if s.at >= end {
		s.step("streaming")
		return false, s.out.Flush()
	}
	behind := end.Sub(s.at)
	size := liveFrame
	if behind > near {
		size = len(buf)
	}
	s.step(s.stateFor(behind))
	n, err := p.read(buf[:min(uint64(size), behind)], s.at)
	if n == 0 {
		return false, fmt.Errorf("read log at %s for %s: %w", s.at, s.peer.Name, orUnexpected(err))
	}
	head := p.head(s.at, end)
	if behind <= near {
		if f := p.win.flushedAt(s.at + pos.LSN(n) - 1); !f.IsZero() {
			head.FlushedAt = f.UnixNano()
		}
	}
	s.told = head.Committed
	if err := s.out.WriteData(head, buf[:n]); err != nil {
		return false, err
	}
	s.advanceTo(s.at + pos.LSN(n))
	if s.at >= p.win.bounds().To {
		return false, s.out.Flush()
	}
	return true, nil
}

// stateFor names how far behind the peer is, with a distance between the two
// thresholds so that it does not flap.
func (s *session) stateFor(behind uint64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if behind <= near || (s.stateIs == "streaming" && behind <= far) {
		return "streaming"
	}
	return "catching up"
}

// tell passes a new committed LSN to a peer that waits for it, when no data
// carries it.
func (s *session) tell() error {
	if !s.limited {
		return nil
	}
	s.sendMu.Lock()
	due := s.at >= s.p.win.bounds().To && s.p.Committed() > s.told
	s.sendMu.Unlock()
	if !due {
		return nil
	}
	return s.beat()
}

func orUnexpected(err error) error {
	if err == nil {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (s *session) step(state string) {
	s.mu.Lock()
	same := s.stateIs == state && s.problem == ""
	s.mu.Unlock()
	if !same {
		s.set(state, nil)
	}
}

// beat sends a heartbeat at once.
func (s *session) beat() error {
	p := s.p
	b := frame.Beat{Epoch: p.cfg.Epoch, SourceEnd: p.win.bounds().To}
	p.mu.Lock()
	b.Committed, b.Floor, b.Voters = p.committed, p.floor, p.count.Version()
	p.mu.Unlock()
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	if s.out == nil {
		return net.ErrClosed
	}
	s.beats++
	b.Seq, b.SentAt = s.beats, int64(p.cfg.Now())
	s.told = b.Committed
	if err := s.out.WriteBeat(b); err != nil {
		return err
	}
	return s.out.Flush()
}

// answers takes what the peer says until the connection ends.
func (s *session) answers(c net.Conn, r *frame.Reader) error {
	p := s.p
	var deadline time.Time
	for {
		// A peer that answers no heartbeat for this long is dialed anew.
		if now := time.Now(); deadline.Sub(now) < 4*time.Second {
			deadline = now.Add(5 * time.Second)
			c.SetReadDeadline(deadline)
		}
		t, b, err := r.Next()
		if err != nil {
			return err
		}
		switch t {
		case frame.AckFrame:
			a, err := frame.DecodeAck(b)
			if err != nil {
				return err
			}
			if a.Epoch != p.cfg.Epoch {
				continue
			}
			s.received.Store(uint64(a.Received))
			s.pushed.Store(0)
			s.appliedAt.Store(uint64(a.Applied))
			s.redo.Store(uint64(a.Redo))
			if a.HasFeedback {
				s.mu.Lock()
				s.feedback = feedback{a.Xmin, a.CatalogXmin, time.Now()}
				s.mu.Unlock()
			}
			p.acked(s.peer.Store, a.Durable)
		case frame.BeatAckFrame:
			a, err := frame.DecodeBeatAck(b)
			if err != nil {
				return err
			}
			if a.Epoch == p.cfg.Epoch {
				s.contactNs.Store(a.SentAt)
				s.rtt.Store(int64(p.cfg.Now()) - a.SentAt)
			}
		case frame.Refuse:
			return shipper.Refused(b)
		default:
			return fmt.Errorf("%w: type %d from %s", shipper.ErrUnexpected, t, s.peer.Name)
		}
	}
}
