package walserver_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/standby/walserver"
	"understudy/test/pgtest"
)

const segSize = 16 << 20

// testLog is a log whose bytes come from read; its end is moved by the test.
type testLog struct {
	mu    sync.Mutex
	read  func(p []byte, at pos.LSN) (int, error)
	base  pos.LSN
	end   pos.LSN
	grown chan struct{}
}

func newLog(base, end pos.LSN, read func([]byte, pos.LSN) (int, error)) *testLog {
	return &testLog{base: base, end: end, read: read, grown: make(chan struct{})}
}

// memLog's byte at any LSN is the LSN's low byte times three.
func memLog(base, end pos.LSN) *testLog {
	return newLog(base, end, func(p []byte, at pos.LSN) (int, error) {
		fill(p, at)
		return len(p), nil
	})
}

func fill(p []byte, at pos.LSN) {
	for i := range p {
		p[i] = byte(3 * (at + pos.LSN(i)))
	}
}

func (l *testLog) ReadWAL(p []byte, at pos.LSN) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at < l.base || at >= l.end {
		return 0, fmt.Errorf("%s is outside [%s, %s)", at, l.base, l.end)
	}
	return l.read(p[:min(len(p), int(l.end-at))], at)
}

func (l *testLog) Wait(ctx context.Context, past pos.LSN) (pos.LSN, error) {
	for {
		l.mu.Lock()
		end, grown := l.end, l.grown
		l.mu.Unlock()
		if end > past {
			return end, nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (l *testLog) Base() pos.LSN { l.mu.Lock(); defer l.mu.Unlock(); return l.base }
func (l *testLog) End() pos.LSN  { l.mu.Lock(); defer l.mu.Unlock(); return l.end }

func (l *testLog) setEnd(end pos.LSN) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end != l.end {
		l.end = end
		close(l.grown)
		l.grown = make(chan struct{})
	}
}

// pgWAL reads the WAL files below dir, of the timeline that the lineage names.
func pgWAL(dir string, lineage pos.Lineage) func(p []byte, at pos.LSN) (int, error) {
	return func(p []byte, at pos.LSN) (int, error) {
		// A timeline's first segment holds its past too.
		last := at.SegEnd(segSize) - 1
		f, err := os.Open(filepath.Join(dir, "pg_wal", pos.SegName(lineage.TimelineAt(last), at, segSize)))
		if errors.Is(err, os.ErrNotExist) {
			f, err = os.Open(filepath.Join(dir, "pg_wal", pos.SegName(lineage.TimelineAt(at), at, segSize)))
		}
		if err != nil {
			return 0, err
		}
		defer f.Close()
		n, err := f.ReadAt(p[:min(len(p), int(at.SegEnd(segSize)-at))], int64(at-at.SegStart(segSize)))
		if err == io.EOF && n > 0 {
			err = nil
		}
		return n, err
	}
}

// node is one walserver under test.
type node struct {
	cfg    walserver.Config
	cancel context.CancelFunc
	ended  chan error

	mu       sync.Mutex
	state    walserver.State
	changed  chan struct{}
	feedback walserver.Feedback
	sessions []string
}

// serve starts a server; change lets a test adjust the configuration.
func serve(t testing.TB, log walserver.Log, st walserver.State, change func(*walserver.Config)) *node {
	t.Helper()
	n := &node{state: st, changed: make(chan struct{})}
	var uid uint32
	if c := pgtest.Credential(t); c != nil {
		uid = c.Uid
	}
	n.cfg = walserver.Config{
		Socket:    filepath.Join(pgtest.Dir(t), ".s.PGSQL.5999"),
		AllowUIDs: []uint32{uid, uint32(os.Geteuid())},
		WAL:       log,
		State: func() (walserver.State, <-chan struct{}) {
			n.mu.Lock()
			defer n.mu.Unlock()
			return n.state, n.changed
		},
		History: func(pos.Timeline) ([]byte, bool) { return nil, false },
		OnFeedback: func(f walserver.Feedback) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.feedback = f
		},
		OnSession: func(connected bool, at pos.LSN) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.sessions = append(n.sessions, fmt.Sprintf("%v %s", connected, at))
		},
	}
	if change != nil {
		change(&n.cfg)
	}
	n.start(t)
	t.Cleanup(func() { n.stop(t) })
	return n
}

func (n *node) start(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.ended = cancel, make(chan error, 1)
	ended := n.ended
	go func() { ended <- walserver.Serve(ctx, n.cfg) }()
	pgtest.Eventually(t, 5*time.Second, "the socket exists", func() bool {
		_, err := os.Stat(n.cfg.Socket)
		return err == nil
	})
}

func (n *node) stop(t testing.TB) {
	t.Helper()
	if n.ended == nil {
		return
	}
	n.cancel()
	select {
	case err := <-n.ended:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Serve did not end")
	}
	n.ended = nil
}

func (n *node) set(f func(*walserver.State)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f(&n.state)
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *node) last() walserver.Feedback { n.mu.Lock(); defer n.mu.Unlock(); return n.feedback }
func (n *node) sessionN() int            { n.mu.Lock(); defer n.mu.Unlock(); return len(n.sessions) }

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }
