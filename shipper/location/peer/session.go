package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// window is how many frames of data may be on their way.
	window = 8
	// inbox has room for them, for as many Took, and for a few others.
	inbox = 2*window + 8
)

// session is a connection on which frames are always read at once and which
// ends when the other side is silent for too long. All but its own goroutines
// use it one at a time.
type session struct {
	c      net.Conn
	quiet  atomic.Int64    // time.Duration that either side may be silent
	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup
	kick   chan struct{} // the quiet time has changed
	in     chan message  // closed never; ctx tells the end
	free   chan []byte   // buffers of Data that was used
	credit int           // frames of data that may still be sent

	mu   sync.Mutex // held while a frame is written
	out  []byte
	sent time.Time // of the last frame
}

// newSession starts reading from c. The session ends with ctx.
func newSession(ctx context.Context, c net.Conn, quiet time.Duration) *session {
	s := &session{c: c, kick: make(chan struct{}, 1), in: make(chan message, inbox), free: make(chan []byte, window), credit: window, sent: time.Now()}
	s.setQuiet(quiet)
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	s.wg.Go(func() { s.cancel(s.pump()) })
	s.wg.Go(s.beat)
	s.wg.Go(func() {
		<-s.ctx.Done()
		c.Close()
	})
	return s
}

// end closes the connection and waits for the goroutines of the session.
func (s *session) end() {
	s.cancel(net.ErrClosed)
	s.wg.Wait()
}

// over tells whether the session has ended.
func (s *session) over() bool { return s.ctx.Err() != nil }

// pump reads frames until one fails.
func (s *session) pump() error {
	r := bufio.NewReaderSize(patient{s}, 64<<10)
	for {
		m, err := s.next(r)
		if err != nil {
			return err
		}
		if m.kind == kindAlive {
			continue
		}
		select {
		case s.in <- m:
		default:
			return fmt.Errorf("%w: more frames than may be on their way", errProtocol)
		}
	}
}

// next reads one frame. The end between two frames is io.EOF.
func (s *session) next(r *bufio.Reader) (message, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return message{}, err
	}
	k, n, err := header(h)
	if err != nil {
		return message{}, err
	}
	payload := s.buffer(k, n)
	if _, err := io.ReadFull(r, payload); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return message{}, err
	}
	return decode(k, payload)
}

// buffer is memory for a payload. There are never more frames of data than the
// window has, so neither are their buffers.
func (s *session) buffer(k kind, n int) []byte {
	if k != kindData {
		return make([]byte, n)
	}
	select {
	case b := <-s.free:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	return make([]byte, n)
}

// used gives the buffer of a frame of data back and tells the sender.
func (s *session) used(m message) error {
	if m.kind == kindData {
		select {
		case s.free <- m.data[:cap(m.data)]:
		default:
		}
	}
	return s.send(message{kind: kindTook, a: 1})
}

// rest lets go of memory between two requests.
func (s *session) rest() {
	s.mu.Lock()
	s.out = nil
	s.mu.Unlock()
	for {
		select {
		case <-s.free:
		default:
			return
		}
	}
}

// patient is a connection whose every read has a deadline.
type patient struct{ *session }

// Read implements io.Reader.
func (p patient) Read(b []byte) (int, error) {
	if err := p.c.SetReadDeadline(time.Now().Add(time.Duration(p.quiet.Load()))); err != nil {
		return 0, err
	}
	return p.c.Read(b)
}

// setQuiet changes the quiet time; Hello says what it is.
func (s *session) setQuiet(d time.Duration) {
	s.quiet.Store(int64(d))
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// beat sends Alive while nothing else is sent.
func (s *session) beat() {
	for {
		every := time.Duration(s.quiet.Load()) / 8
		t := time.NewTimer(every)
		select {
		case <-s.ctx.Done():
			t.Stop()
			return
		case <-s.kick:
			t.Stop()
			continue
		case <-t.C:
		}
		s.mu.Lock()
		idle := time.Since(s.sent) >= every
		s.mu.Unlock()
		if idle && s.send(message{kind: kindAlive}) != nil {
			return // send has ended the session
		}
	}
}

// send writes a frame. A failure ends the session.
func (s *session) send(m message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := m.append(s.out[:0])
	if err != nil {
		return err
	}
	s.out = b
	if err := s.write(b); err != nil {
		s.cancel(err)
		return s.cause()
	}
	return nil
}

func (s *session) write(b []byte) error {
	if err := s.c.SetWriteDeadline(time.Now().Add(time.Duration(s.quiet.Load()))); err != nil {
		return err
	}
	_, err := s.c.Write(b)
	s.sent = time.Now()
	return err
}

// cause is why the session has ended.
func (s *session) cause() error {
	err := context.Cause(s.ctx)
	if err == io.EOF { // which must not be taken for the end of an object
		return errHungUp
	}
	return err
}

var (
	errPatience = errors.New("no answer in time")
	errHungUp   = errors.New("the other node closed the connection")
)

// receive waits for a frame other than Took, no longer than patience when that
// is above 0. With wantCredit it also returns when data may be sent; the
// message is empty then.
func (s *session) receive(patience time.Duration, wantCredit bool) (message, error) {
	var late <-chan time.Time
	if patience > 0 {
		t := time.NewTimer(patience)
		defer t.Stop()
		late = t.C
	}
	for {
		// What arrived before the end counts.
		var m message
		select {
		case m = <-s.in:
		default:
			if wantCredit && s.credit > 0 {
				return message{}, nil
			}
			select {
			case m = <-s.in:
			case <-s.ctx.Done():
				select {
				case m = <-s.in:
				default:
					return message{}, s.cause()
				}
			case <-late:
				s.cancel(errPatience)
				return message{}, errPatience
			}
		}
		if m.kind != kindTook {
			return m, nil
		}
		if m.a > int64(window-s.credit) {
			err := fmt.Errorf("%w: it took more frames than were sent", errProtocol)
			s.cancel(err)
			return message{}, err
		}
		s.credit += int(m.a)
	}
}

// give sends a frame of data when there is room for it. A frame that comes
// instead is returned and nothing was sent; its kind is 0 otherwise.
func (s *session) give(m message, patience time.Duration) (message, error) {
	instead, err := s.receive(patience, true)
	if err != nil || instead.kind != 0 {
		return instead, err
	}
	s.credit--
	return message{}, s.send(m)
}
