package admin_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/eventlog"
)

// serve runs the handler on a port of its own until the test ends.
func serve(t *testing.T, h http.Handler) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- admin.Serve(ctx, l, h) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func dial(t *testing.T, addr, query string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/api/v1/feed"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// next is the next message that is no sample, or is, as wanted.
func next(t *testing.T, c *websocket.Conn, kind string) admin.Message {
	t.Helper()
	for {
		var m admin.Message
		if err := c.ReadJSON(&m); err != nil {
			t.Fatal(err)
		}
		if m.Type == kind {
			return m
		}
		if m.Type != admin.MessageSample {
			t.Fatalf("got %+v, want a %s", m, kind)
		}
	}
}

func TestFeed_SnapshotEventsSamples(t *testing.T) {
	b := newBackend(t, "main")
	addr, _ := serve(t, admin.Handler(b, admin.Options{SampleEvery: 10 * time.Millisecond, PingEvery: 20 * time.Millisecond}))
	b.log.Add(eventlog.Event{Kind: "before"})
	c := dial(t, addr, "")
	snap := next(t, c, admin.MessageSnapshot)
	if snap.Feed == "" || snap.Last != 1 || snap.Gap || snap.Status == nil || snap.Status.Group.Primary != "main" {
		t.Errorf("got %+v", snap)
	}
	for want := uint64(2); want < 100; want++ {
		b.log.Add(eventlog.Event{Kind: "k"})
		if m := next(t, c, admin.MessageEvent); m.Event.N != want || m.Last != want {
			t.Fatalf("got %d, want %d", m.Event.N, want)
		}
	}
	for range 20 { // over several pings
		if m := next(t, c, admin.MessageSample); m.Status == nil || m.Last != 99 {
			t.Fatalf("got %+v", m)
		}
	}
}

func TestFeed_Resume(t *testing.T) {
	b := newBackend(t, "main")
	addr, _ := serve(t, admin.Handler(b, admin.Options{SampleEvery: 10 * time.Millisecond}))
	for range 10 {
		b.log.Add(eventlog.Event{Kind: "k"})
	}
	feed := next(t, dial(t, addr, ""), admin.MessageSnapshot).Feed
	c := dial(t, addr, "?since=7&feed="+feed)
	for want := uint64(8); want <= 10; want++ {
		if m := next(t, c, admin.MessageEvent); m.Event.N != want {
			t.Fatalf("got %d, want %d", m.Event.N, want)
		}
	}
	if m := next(t, c, admin.MessageSample); m.Feed != feed || m.Status == nil {
		t.Errorf("got %+v", m)
	}
	for _, query := range []string{"?since=11", "?since=7&feed=other"} {
		if m := next(t, dial(t, addr, query), admin.MessageSnapshot); !m.Gap || m.Last != 10 {
			t.Errorf("%s: got %+v", query, m)
		}
	}
	for range eventlog.RingEvents {
		b.log.Add(eventlog.Event{Kind: "k"})
	}
	if m := next(t, dial(t, addr, "?since=7"), admin.MessageSnapshot); !m.Gap {
		t.Errorf("got %+v", m)
	}
}

func TestFeed_Limits(t *testing.T) {
	b := newBackend(t, "main")
	addr, stop := serve(t, admin.Handler(b, admin.Options{}))
	// A page of another host may not read it.
	_, resp, err := websocket.DefaultDialer.Dial("ws://"+addr+"/api/v1/feed", http.Header{"Origin": {"http://elsewhere.example"}})
	if err == nil || resp == nil || resp.StatusCode != 403 {
		t.Fatalf("got %v, %v", resp, err)
	}
	var conns []*websocket.Conn
	for range 64 {
		c := dial(t, addr, "")
		next(t, c, admin.MessageSnapshot)
		conns = append(conns, c)
	}
	if _, resp, err = websocket.DefaultDialer.Dial("ws://"+addr+"/api/v1/feed", nil); err == nil || resp.StatusCode != 503 {
		t.Fatalf("got %v, %v", resp, err)
	}
	// One that sends too much is cut off, and its place is free again.
	if err := conns[0].WriteMessage(websocket.TextMessage, bytes.Repeat([]byte("x"), 8<<10)); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, _, err = conns[0].ReadMessage()
	}
	deadline := time.Now().Add(5 * time.Second)
	for {
		c, _, err := websocket.DefaultDialer.Dial("ws://"+addr+"/api/v1/feed", nil)
		if err == nil {
			_ = c.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	stop() // ends all feeds
	for err = nil; err == nil; {
		_, _, err = conns[1].ReadMessage()
	}
	if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("got %v", err)
	}
}

func TestServeUnix_ReplacesOldSocket(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.sock")
	h := admin.Handler(newBackend(t, "main"), admin.Options{})
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := admin.ServeUnix(context.Background(), path, h, 0o600); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("got %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	if err := admin.ServeUnix(context.Background(), path, h, 0o600); err == nil || !strings.Contains(err.Error(), "another daemon") {
		t.Errorf("got %v", err)
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- admin.ServeUnix(ctx, path, h, 0o600) }()
	if got := getUnix(t, path, "/api/v1/status"); got != 200 {
		t.Errorf("got %d", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is left: %v", err)
	}
}

// getUnix asks until somebody answers and returns the status; 0 means that the
// connection was closed instead.
func getUnix(t *testing.T, socket, path string) int {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", socket)
	}}
	deadline := time.Now().Add(5 * time.Second)
	for {
		resp, err := (&http.Client{Transport: tr}).Get("http://x" + path)
		if err == nil {
			_, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				return -1
			}
			return resp.StatusCode
		}
		var op *net.OpError
		if !errors.As(err, &op) || op.Op != "dial" {
			return 0
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestServeWAL_AnswersAllowedAccountsOnly(t *testing.T) {
	const segment, history = "/wal/000000010000000000000001", "/wal/00000002.history"
	var fail error
	partial := false
	h := admin.WALHandler(func(_ context.Context, name string, w io.Writer) error {
		if partial || fail == nil {
			if _, err := io.WriteString(w, strings.Repeat(name, 1000)); err != nil {
				return err
			}
		}
		return fail
	})
	for _, allowed := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "w.sock")
		uid := uint32(os.Getuid())
		if !allowed {
			uid++
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- admin.ServeWAL(ctx, path, h, []uint32{uid}) }()
		for _, tt := range []struct {
			path    string
			fail    error
			partial bool
			want    int
		}{
			{segment, nil, false, 200}, {history, nil, false, 200},
			{segment, admin.ErrNotYet, false, 404}, {segment, fmt.Errorf("x: %w", admin.ErrLedgerUnknown), false, 503},
			{segment, io.ErrUnexpectedEOF, false, 500}, {segment, io.ErrUnexpectedEOF, true, -1},
			{"/wal/000000010000000000000001.partial", nil, false, 404}, {"/wal/00000000000000000000000g", nil, false, 404},
			{"/wal/..%2F..%2Fetc%2Fpasswd", nil, false, 404}, {"/wal/00000001.history.x", nil, false, 404},
		} {
			fail, partial = tt.fail, tt.partial
			want := tt.want
			if !allowed {
				want = 0
			}
			if got := getUnix(t, path, tt.path); got != want {
				t.Errorf("allowed %v: %s with %v: got %d, want %d", allowed, tt.path, tt.fail, got, want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
