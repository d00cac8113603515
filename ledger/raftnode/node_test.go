package raftnode_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"understudy/ledger/raftnode"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type tcp struct{ net.Listener }

func (tcp) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(addr), timeout)
}

func listen(t *testing.T) tcp {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return tcp{ln}
}

// counter counts entries and answers with the count.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Apply(*raft.Log) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return c.n
}
func (c *counter) Snapshot() (raft.FSMSnapshot, error) { return nil, errors.New("none") }
func (c *counter) Restore(r io.ReadCloser) error       { return r.Close() }

func open(t *testing.T, cfg raftnode.Config) *raftnode.Node {
	t.Helper()
	cfg.Stream = listen(t)
	n, err := raftnode.Open(cfg, &counter{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

func TestNode_SecondOpenSaysLocked(t *testing.T) {
	dir := t.TempDir()
	open(t, raftnode.Config{Dir: dir, Store: "a"})
	if _, err := raftnode.Open(raftnode.Config{Dir: dir, Store: "a", Stream: listen(t)}, &counter{}); !errors.Is(err, raftnode.ErrLocked) {
		t.Errorf("second open: %v", err)
	}
}

func TestNode_RefusesOtherStore(t *testing.T) {
	dir := t.TempDir()
	open(t, raftnode.Config{Dir: dir, Store: "a"}).Close()
	if _, err := raftnode.Open(raftnode.Config{Dir: dir, Store: "b", Stream: listen(t)}, &counter{}); !errors.Is(err, raftnode.ErrOtherStore) {
		t.Errorf("open as another store: %v", err)
	}
	if ok, err := raftnode.HasState(dir); ok || err != nil {
		t.Errorf("HasState before bootstrap = %v, %v", ok, err)
	}
}

func TestNode_BootstrapsOnceAndApplies(t *testing.T) {
	n := open(t, raftnode.Config{Dir: t.TempDir(), Store: "a", Advertise: "127.0.0.1:1"})
	if _, err := n.Apply(t.Context(), nil); !errors.Is(err, raftnode.ErrNotLeader) {
		t.Errorf("apply before bootstrap: %v", err)
	}
	if err := n.Bootstrap("127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	if err := n.Bootstrap("127.0.0.1:1"); !errors.Is(err, raftnode.ErrExists) {
		t.Errorf("second bootstrap: %v", err)
	}
	if lead := <-n.LeaderCh(); !lead || !n.IsLeader() {
		t.Error("the sole voter does not lead")
	}
	got, err := n.Apply(t.Context(), []byte("x"))
	if err != nil || got != 1 {
		t.Errorf("apply: %v, %v", got, err)
	}
	if err := n.Verify(t.Context()); err != nil {
		t.Errorf("verify: %v", err)
	}
	if store, addr := n.Leader(); store != "a" || addr != "127.0.0.1:1" {
		t.Errorf("leader %s at %s", store, addr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := n.Apply(ctx, []byte("x")); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled apply: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Apply(t.Context(), nil); !errors.Is(err, raftnode.ErrClosed) {
		t.Errorf("apply after close: %v", err)
	}
}

func TestNode_LogsWarningsOnly(t *testing.T) {
	var mu sync.Mutex
	var buf bytes.Buffer
	log := slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return buf.Write(p)
	}), &slog.HandlerOptions{Level: slog.LevelDebug}))
	n := open(t, raftnode.Config{Dir: t.TempDir(), Store: "a", Log: log})
	if err := n.Bootstrap("127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	<-n.LeaderCh()
	n.Close()
	mu.Lock()
	defer mu.Unlock()
	out := buf.String()
	if !strings.Contains(out, "level=WARN") || strings.Contains(out, "level=INFO") || !strings.Contains(out, "last_leader_addr=") {
		t.Errorf("log: %s", out)
	}
}

func TestHclog_SuppressesRepeats(t *testing.T) {
	var buf bytes.Buffer
	h := raftnode.NewHclog(slog.New(slog.NewTextHandler(&buf, nil)))
	for range 100 {
		h.Error("failed to heartbeat to", "peer", "b", "backoff time", 1)
		h.Named("x").With("k", 1).Error("failed to heartbeat to", "peer", "c")
		h.Info("chatter")
	}
	if n := strings.Count(buf.String(), "\n"); n != 2 || !strings.Contains(buf.String(), "backoff_time=1") {
		t.Errorf("%d lines: %s", n, buf.String())
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
