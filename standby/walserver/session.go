package walserver

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
	"understudy/standby/walserver/internal/replcmd"
)

var errReplaced = refuse("57P01", "another walreceiver has taken over the stream", "")

// session is one COPY: a pump that sends WAL, a ticker that sends keepalives,
// and the connection's own goroutine, which reads reports.
type session struct {
	c     *conn
	id    uint64
	start pos.LSN
	tli   pos.Timeline
	done  chan struct{} // closed when all of it, OnSession included, is over

	sent atomic.Uint64 // end of what was written to the socket
	top  atomic.Uint64 // highest position the standby claimed to have
	// tliEnd is where the timeline ends in the lineage; 0 while it is the newest.
	tliEnd atomic.Uint64
	seen   atomic.Pointer[view]
	ask    chan struct{} // the client wants a keepalive now

	mu     sync.Mutex // protects err and over
	err    error      // the first failure
	over   bool       // the COPY is done; the connection is no longer ours
	cancel context.CancelFunc

	write    sync.Mutex // held while a message is written; protects copyDone
	copyDone bool       // no CopyData may follow

	pump   pump
	report report
}

// view is the state that the pump last found the stream to fit.
type view struct {
	changed <-chan struct{}
	lineage pos.Lineage
	held    bool
}

// startReplication serves one stream; it returns nil when the connection is
// idle again.
func (c *conn) startReplication(ctx context.Context, cmd replcmd.Command, st State) error {
	if cmd.Timeline == 0 {
		cmd.Timeline = st.Lineage.Last().Timeline
	}
	if !st.Held {
		var no *refusal
		if err := admit(st, c.s.cfg.WAL, cmd.Start, cmd.Timeline); errors.As(err, &no) {
			c.s.log.Info("stream refused", "start", cmd.Start, "timeline", cmd.Timeline, "error", err)
			return c.reject(no.msg.Code, no.msg.Message, no.msg.Detail)
		}
		if end, _, _ := timelineEnd(st.Lineage, cmd.Timeline); end != 0 && cmd.Start == end {
			return c.endStream(st, cmd.Timeline, true)
		}
	}
	ss := &session{c: c, start: cmd.Start, tli: cmd.Timeline, done: make(chan struct{}), ask: make(chan struct{}, 1)}
	ss.sent.Store(uint64(cmd.Start))
	copying, cancel := context.WithCancel(ctx)
	defer cancel()
	ss.cancel = cancel
	c.s.enter(ss)
	err := ss.run(ctx, copying)
	c.s.leave(ss, err)
	if err != nil {
		return err
	}
	now, _ := c.s.cfg.State()
	end := ss.tliEnd.Load()
	return c.endStream(now, ss.tli, end != 0 && ss.sent.Load() >= end)
}

// endStream completes a stream: with the next timeline's row when this one was
// sent to its end. walreceivers expect the completion twice.
func (c *conn) endStream(st State, t pos.Timeline, whole bool) error {
	if end, next, _ := timelineEnd(st.Lineage, t); whole && end != 0 {
		c.row([]column{{"next_tli", oidInt8}, {"next_tli_startpos", oidText}},
			strconv.AppendUint(nil, uint64(next), 10), []byte(end.String()))
	}
	c.put(&pgproto3.CommandComplete{CommandTag: []byte("START_STREAMING")})
	c.put(&pgproto3.CommandComplete{CommandTag: []byte("START_REPLICATION")})
	return c.ready()
}

// enter makes ss the one streaming session, after the older one has ended.
func (s *server) enter(ss *session) {
	s.stream.Lock()
	defer s.stream.Unlock()
	if old := s.current; old != nil {
		old.fail(errReplaced)
		<-old.done
	}
	s.session++
	ss.id, s.current = s.session, ss
	if s.cfg.OnSession != nil {
		s.cfg.OnSession(true, ss.start)
	}
	s.log.Info("stream started", "session", ss.id, "start", ss.start, "timeline", ss.tli)
}

func (s *server) leave(ss *session, err error) {
	sent := pos.LSN(ss.sent.Load())
	if s.cfg.OnSession != nil {
		s.cfg.OnSession(false, sent)
	}
	s.log.Info("stream ended", "session", ss.id, "sent", sent, "timeline", ss.tli, "failed", err != nil)
	close(ss.done)
}

// fail ends the session with err, unless it already is over; it unblocks all
// its reads and writes.
func (ss *session) fail(err error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.err != nil || ss.over {
		return
	}
	ss.err = err
	ss.cancel()
	ss.c.net.SetDeadline(time.Unix(1, 0))
}

func (ss *session) failed() bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return ss.err != nil
}

// finish closes the books: nil means that the connection lives on.
func (ss *session) finish() error {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.over = true
	return ss.err
}

// run streams until both sides have ended the COPY. serving is the server's
// context, copying that of this stream.
func (ss *session) run(serving, copying context.Context) error {
	ss.c.put(&pgproto3.CopyBothResponse{})
	if err := ss.c.flush(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := ss.pumpWAL(copying); err != nil && copying.Err() == nil {
			ss.fail(err)
		}
	})
	wg.Go(func() { ss.keepalives(copying) })
	if err := ss.readReports(serving); err != nil {
		ss.fail(err)
	}
	ss.cancel()
	wg.Wait()
	if !ss.failed() {
		if err := ss.endCopy(); err != nil {
			ss.fail(err)
		}
	}
	if err := ss.finish(); err != nil {
		return err
	}
	return ss.c.net.SetReadDeadline(time.Time{})
}

// endCopy sends CopyDone once.
func (ss *session) endCopy() error {
	ss.write.Lock()
	defer ss.write.Unlock()
	if ss.copyDone {
		return nil
	}
	ss.copyDone = true
	return ss.c.send([]byte{'c', 0, 0, 0, 4})
}

// keepalives go out every second, asking for a report, so that the standby's
// replay position is never older; and at once when the client asks.
func (ss *session) keepalives(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		want := byte(1)
		select {
		case <-ctx.Done():
			return
		case <-ss.ask:
			want = 0
		case <-tick.C:
		}
		if err := ss.keepalive(want); err != nil {
			ss.fail(err)
			return
		}
	}
}

func (ss *session) keepalive(wantReply byte) error {
	ss.write.Lock()
	defer ss.write.Unlock()
	if ss.copyDone {
		return nil
	}
	var b [23]byte
	copyHeader(b[:], 'k')
	putLSN(b[6:], pos.LSN(ss.sent.Load()))
	putTime(b[14:], time.Now())
	b[22] = wantReply
	if err := ss.c.send(b[:]); err != nil {
		return fmt.Errorf("send keepalive: %w", err)
	}
	return nil
}
