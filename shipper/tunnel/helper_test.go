package tunnel_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"understudy/shipper/link"
	"understudy/shipper/tunnel"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// port names the sockets; nothing listens on it as a TCP port.
const port = "5999"

func socketIn(dir string) string { return filepath.Join(dir, ".s.PGSQL."+port) }

// rig is a whole tunnel: Listen on node backup, Serve on node main.
type rig struct {
	listen tunnel.ListenConfig
	serve  tunnel.ServeConfig
	dir    string // of the socket
	cancel context.CancelFunc
	ended  chan struct{} // closed after Listen and every Serve

	mu     sync.Mutex
	served []error // what each Serve returned
}

// start makes a tunnel to target over networks of the nodes main and backup.
func start(t testing.TB, main, backup link.Network, target string, change func(*rig)) *rig {
	t.Helper()
	r := &rig{dir: pgtest.Dir(t), ended: make(chan struct{})}
	ready := make(chan struct{})
	r.listen = tunnel.ListenConfig{Socket: socketIn(r.dir), AllowUIDs: accounts(t), Ready: func() { close(ready) }}
	r.serve = tunnel.ServeConfig{Target: target, User: "rewinder", Database: "ours"}
	far, err := main.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.listen.Dial = func(ctx context.Context) (net.Conn, error) {
		c, _, err := backup.Dial(ctx, far.Addr().String(), link.Stream, "main")
		return c, err
	}
	if change != nil {
		change(r)
	}
	far.Handle(link.Stream, func(ctx context.Context, c net.Conn, _ link.Peer) {
		err := tunnel.Serve(ctx, c, r.serve)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.served = append(r.served, err)
	})
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := tunnel.Listen(ctx, r.listen); err != nil {
			t.Errorf("Listen: %v", err)
		}
	})
	wg.Go(func() {
		if err := far.Serve(ctx); err != nil {
			t.Errorf("serve the link: %v", err)
		}
	})
	go func() { wg.Wait(); close(r.ended) }()
	t.Cleanup(func() { r.stop(t) })
	wait(t, ready, "the socket takes connections")
	return r
}

func (r *rig) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	select {
	case <-r.ended:
	case <-time.After(10 * time.Second):
		t.Error("the tunnel did not end")
	}
}

func (r *rig) results() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.served)
}

// overMemory is start over a network in memory.
func overMemory(t testing.TB, target string, change func(*rig)) *rig {
	t.Helper()
	m := link.Memory()
	return start(t, m.Node("main"), m.Node("backup"), target, change)
}

// overTLS is start over the real link.
func overTLS(t testing.TB, target string, change func(*rig)) *rig {
	t.Helper()
	ca, key, err := link.NewCA("g1")
	if err != nil {
		t.Fatal(err)
	}
	node := func(name string) link.Network {
		cert, nodeKey, err := link.Issue(ca, key, name, []string{"127.0.0.1"})
		if err != nil {
			t.Fatal(err)
		}
		c, err := link.NewCredentials(cert, nodeKey, ca)
		if err != nil {
			t.Fatal(err)
		}
		return link.TLS(c, slog.New(slog.DiscardHandler))
	}
	return start(t, node("main"), node("backup"), target, change)
}

// accounts are those of this process and of the database.
func accounts(t testing.TB) []uint32 {
	list := []uint32{uint32(os.Geteuid())}
	if c := pgtest.Credential(t); c != nil {
		list = append(list, c.Uid)
	}
	return list
}

// startupPacket encodes a startup message; the parameters come in pairs.
func startupPacket(t testing.TB, version uint32, pairs ...string) []byte {
	t.Helper()
	m := pgproto3.StartupMessage{ProtocolVersion: version, Parameters: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		m.Parameters[pairs[i]] = pairs[i+1]
	}
	b, err := m.Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plain is a startup message as any tool sends it.
func plain(t testing.TB) []byte {
	return startupPacket(t, pgproto3.ProtocolVersion30, "user", "postgres", "database", "postgres")
}

func query(t testing.TB, sql string) []byte {
	t.Helper()
	b, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// knock connects to a socket and sends b.
func knock(t testing.TB, socket string, b []byte) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Write(b); err != nil {
		t.Fatal(err)
	}
	return c
}

// fatal reads up to the error that ends a connection and returns it.
func fatal(t testing.TB, c net.Conn) *pgproto3.ErrorResponse {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	f := pgproto3.NewFrontend(c, c)
	for {
		m, err := f.Receive()
		if err != nil {
			t.Fatalf("no error response came: %v", err)
		}
		if e, ok := m.(*pgproto3.ErrorResponse); ok && e.Severity == "FATAL" {
			no := *e
			_, err := io.Copy(io.Discard, c)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the connection stays open after the error")
			}
			return &no
		}
	}
}

// wantFatal fails the test when the error is another one.
func wantFatal(t testing.TB, e *pgproto3.ErrorResponse, code, text string) {
	t.Helper()
	if e.Code != code || !strings.Contains(e.Message, text) {
		t.Errorf("got %s %q, want %s with %q", e.Code, e.Message, code, text)
	}
}

// fakeServer listens on a unix socket and hands each connection to f, until
// the test ends.
func fakeServer(t testing.TB, f func(net.Conn)) (socket string) {
	t.Helper()
	socket = socketIn(pgtest.Dir(t))
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			wg.Go(func() { defer c.Close(); f(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return socket
}

// readPacket reads what a server is told first.
func readPacket(c net.Conn) (*pgproto3.StartupMessage, error) {
	c.SetDeadline(time.Now().Add(10 * time.Second))
	m, err := pgproto3.NewBackend(c, c).ReceiveStartupMessage()
	if err != nil {
		return nil, err
	}
	s, ok := m.(*pgproto3.StartupMessage)
	if !ok {
		return nil, errors.New("the server was sent something else than a startup message")
	}
	return s, nil
}

func wait(t testing.TB, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("still not: %s", what)
	}
}
