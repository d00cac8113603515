package basebackup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"understudy/shipper/basestream"
	"understudy/shipper/frame"
)

// idleTimeout bounds the wait for one frame from or to the peer; keepalive is
// how often a silent sender reports itself.
const (
	idleTimeout = 2 * time.Minute
	keepalive   = 10 * time.Second
)

// session is one seed being served.
type session struct {
	ctx    context.Context // ends with Serve
	cancel context.CancelCauseFunc
	conn   net.Conn
	cfg    Config
	in     *frame.Reader
	out    *sender
}

// sender serializes the writes of the stream and of the keepalive.
type sender struct {
	ctx  context.Context // the session's
	conn net.Conn
	mu   sync.Mutex
	w    *frame.Writer // guarded by mu
	done uint64        // bytes of files dealt with; guarded by mu
}

// arm bounds the next write. The context is looked at after the deadline is
// set, since its end sets a deadline of its own.
func (s *sender) arm() error {
	s.conn.SetWriteDeadline(time.Now().Add(idleTimeout))
	return s.ctx.Err()
}

// chunk sends one piece of a file that stands for n bytes.
func (s *sender) chunk(t frame.Type, n int, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.arm(); err != nil {
		return err
	}
	s.done += uint64(n)
	return s.w.Write(t, payload)
}

func (s *sender) json(t frame.Type, v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.arm(); err != nil {
		return err
	}
	return s.w.WriteJSON(t, v)
}

// now is json with a flush.
func (s *sender) now(t frame.Type, v any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.arm(); err != nil {
		return err
	}
	if err := s.w.WriteJSON(t, v); err != nil {
		return err
	}
	return s.w.Flush()
}

func (s *sender) bytes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.done
}

func (s *session) serve() error {
	want, err := s.readAsk()
	if err != nil {
		return err
	}
	if code, why := s.objection(want); why != "" {
		return s.refuse(code, why)
	}
	src, err := basestream.Open(s.ctx, s.cfg.stream())
	if err != nil {
		return s.refuse(codeServer, fmt.Sprintf("the node that was asked cannot read its PostgreSQL: %v", err))
	}
	defer src.Close()
	if code, why := s.objection(want, identity{src.SystemID, src.Major}); why != "" {
		return s.refuse(code, why)
	}
	if err := s.out.now(frame.SeedAsk, ask{SystemID: src.SystemID, Major: src.Major, Host: hostID()}); err != nil {
		return fmt.Errorf("answer the ask: %w", err)
	}
	held, err := s.readHoldings()
	if err != nil {
		return err
	}
	s.cfg.Log.Info("seed started", "node", want.Node, "files_held", len(held.files))
	return s.stream(src, held, want.Node)
}

// stream runs the backup while it listens for the asker's refusal.
func (s *session) stream(src *basestream.Stream, held *holdings, node string) error {
	received := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.listen(received) })
	quiet := make(chan struct{})
	wg.Go(func() { s.keepAlive(quiet) })
	defer func() {
		close(quiet)
		s.cancel(nil) // ends listen
		wg.Wait()
	}()

	stop := context.AfterFunc(s.ctx, src.Abort)
	defer stop()
	last, err := s.copy(src, held)
	if err != nil {
		if cause := context.Cause(s.ctx); cause != nil {
			return cause
		}
		var pgErr *pgconn.PgError
		if errors.As(err, &pgErr) || errors.Is(err, basestream.ErrServer) {
			return s.refuse(codeServer, fmt.Sprintf("the base backup ended early: %v", err))
		}
		return err
	}
	if err := s.out.now(frame.SeedEnd, last); err != nil {
		return fmt.Errorf("send the end: %w", err)
	}
	late := time.NewTimer(idleTimeout)
	defer late.Stop()
	select {
	case <-received:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-late.C:
		return fmt.Errorf("the asking node did not confirm the end within %s", idleTimeout)
	}
	s.cfg.Log.Info("seed sent", "node", node, "bytes", s.out.bytes(), "file_n", last.FileN, "start_lsn", last.StartLSN.String(), "end_lsn", last.EndLSN.String())
	return nil
}

// listen reads what the asker says during the copy: progress, the word that
// all arrived, or a refusal. An error ends the session.
func (s *session) listen(received chan<- struct{}) {
	for {
		t, p, err := s.in.Next()
		if err != nil {
			s.cancel(fmt.Errorf("the asking node went away: %w", err))
			return
		}
		switch t {
		case frame.SeedProgress:
			var pr progress
			if err := json.Unmarshal(p, &pr); err != nil {
				s.cancel(fmt.Errorf("read progress: %w", err))
				return
			}
			if pr.Step == stepReceived {
				close(received)
				return
			}
		case frame.Refuse:
			s.cancel(readRefusal(p))
			return
		default:
			s.cancel(fmt.Errorf("unexpected frame type %v from the asking node", t))
			return
		}
	}
}

// keepAlive writes a progress frame now and then, so that a slow checkpoint or
// disk is not taken for a dead peer.
func (s *session) keepAlive(quiet <-chan struct{}) {
	tick := time.NewTicker(keepalive)
	defer tick.Stop()
	for {
		select {
		case <-quiet:
			return
		case <-tick.C:
			if err := s.out.now(frame.SeedProgress, progress{Step: "sending", DoneBytes: s.out.bytes()}); err != nil {
				s.cancel(fmt.Errorf("report progress: %w", err))
				return
			}
		}
	}
}

func (s *session) readAsk() (ask, error) {
	var a ask
	s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
	t, p, err := s.in.Next()
	if err != nil {
		return a, fmt.Errorf("read the ask: %w", err)
	}
	if t != frame.SeedAsk {
		return a, fmt.Errorf("read the ask: unexpected frame type %v", t)
	}
	if err := json.Unmarshal(p, &a); err != nil {
		return a, fmt.Errorf("read the ask: %w", err)
	}
	return a, nil
}

// readHoldings reads the frames of held chunks up to the empty one.
func (s *session) readHoldings() (*holdings, error) {
	held := &holdings{}
	for range maxHaveFrames {
		s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
		if err := s.ctx.Err(); err != nil { // after the deadline, see sender.arm
			return nil, err
		}
		t, p, err := s.in.Next()
		if err != nil {
			return nil, fmt.Errorf("read held chunks: %w", err)
		}
		switch {
		case t == frame.Refuse:
			return nil, readRefusal(p)
		case t != frame.SeedHave:
			return nil, fmt.Errorf("read held chunks: unexpected frame type %v", t)
		case len(p) == 0:
			s.conn.SetReadDeadline(time.Time{})
			return held, s.ctx.Err()
		}
		if err := held.add(p); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: more than %d frames", errHave, maxHaveFrames)
}

// identity names a database.
type identity struct {
	SystemID uint64
	Major    int
}

// objection compares the ask with the configuration, or with the server when
// one is given; why is empty when they agree.
func (s *session) objection(want ask, server ...identity) (code, why string) {
	have := identity{SystemID: s.cfg.SystemID, Major: s.cfg.Major}
	if len(server) > 0 {
		have = server[0]
		if s.cfg.SystemID != 0 && s.cfg.SystemID != have.SystemID {
			return codeSystem, fmt.Sprintf("the PostgreSQL of the node that was asked has system identifier %d, but the group's database has %d", have.SystemID, s.cfg.SystemID)
		}
	}
	if want.SystemID != 0 && have.SystemID != 0 && want.SystemID != have.SystemID {
		return codeSystem, fmt.Sprintf("the asking node expects system identifier %d, but this database has %d", want.SystemID, have.SystemID)
	}
	if want.Major != 0 && have.Major != 0 && want.Major != have.Major {
		return codeMajor, fmt.Sprintf("the asking node has PostgreSQL %d, but this database is of PostgreSQL %d", want.Major, have.Major)
	}
	return "", ""
}

// refuse tells the asker why and returns the same as an error.
func (s *session) refuse(code, why string) error {
	err := fmt.Errorf("%w: %s", ErrRefused, why)
	if code == codeServer {
		err = errors.New(why) // may pass
	}
	if werr := s.out.now(frame.Refuse, refusal{Code: code, Text: why}); werr != nil {
		err = fmt.Errorf("%w (not told to the asking node: %w)", err, werr)
	}
	return err
}

func readRefusal(p []byte) error {
	var r refusal
	if err := json.Unmarshal(p, &r); err != nil || r.Text == "" {
		return fmt.Errorf("%w by the asking node", ErrRefused)
	}
	if len(r.Text) > 1024 {
		r.Text = r.Text[:1024]
	}
	return fmt.Errorf("%w by the asking node: %s", ErrRefused, r.Text)
}

// hostID names the running operating system, so that both sides can see that
// they share one; empty when unknown.
func hostID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
