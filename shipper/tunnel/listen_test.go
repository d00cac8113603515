package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/tunnel"
	"understudy/test/pgtest"
)

func TestListen_Socket(t *testing.T) {
	dial := func(context.Context) (net.Conn, error) { return nil, errors.New("nobody is there") }
	for name, tt := range map[string]struct {
		cfg func(dir string) tunnel.ListenConfig
		err string
	}{
		"NoDial": {func(dir string) tunnel.ListenConfig { return tunnel.ListenConfig{Socket: socketIn(dir)} }, "a way to dial is required"},
		"NoPath": {func(string) tunnel.ListenConfig { return tunnel.ListenConfig{Dial: dial} }, "has 0 bytes"},
		"LongPath": {func(dir string) tunnel.ListenConfig {
			return tunnel.ListenConfig{Socket: filepath.Join(dir, strings.Repeat("x", 108)), Dial: dial}
		}, "1 to 107 are possible"},
		"FileInTheWay": {func(dir string) tunnel.ListenConfig {
			if err := os.WriteFile(socketIn(dir), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return tunnel.ListenConfig{Socket: socketIn(dir), Dial: dial}
		}, "is no socket"},
		"Taken": {func(string) tunnel.ListenConfig {
			return tunnel.ListenConfig{Socket: fakeServer(t, func(net.Conn) {}), Dial: dial}
		}, "another server listens"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tunnel.Listen(t.Context(), tt.cfg(pgtest.Dir(t))); err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("got %v, want %q", err, tt.err)
			}
		})
	}
}

func TestListen_StaleSocket(t *testing.T) {
	r := overMemory(t, "/nowhere", func(r *rig) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: r.listen.Socket, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
	})
	knock(t, r.listen.Socket, nil).Close()
	if fi, err := os.Stat(r.listen.Socket); err != nil || fi.Mode().Perm() != 0o666 {
		t.Errorf("socket is %v, %v", fi.Mode(), err)
	}
	r.stop(t)
	if _, err := os.Lstat(r.listen.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestListen_Refusals shows what clients read when there is no server for them.
func TestListen_Refusals(t *testing.T) {
	gone := socketIn(pgtest.Dir(t))
	for name, tt := range map[string]struct {
		change     func(*rig)
		send       string
		code, text string
	}{
		"DialFails": {change: func(r *rig) {
			r.listen.Dial = func(context.Context) (net.Conn, error) { return nil, errors.New("main does not answer\x00\xff") }
		}, code: "08006", text: "main does not answer??"},
		"NoServer":      {code: "08006", text: "reach the server: dial unix " + gone},
		"BeforeRefuses": {change: func(r *rig) { r.serve.Before = func(context.Context) error { return errors.New("main is no primary") } }, code: "08006", text: "main is no primary"},
		"Stranger":      {change: func(r *rig) { r.listen.AllowUIDs = []uint32{1<<31 + 7} }, code: "28000", text: "may not connect to the tunnel's socket"},
		"Replication":   {send: packet(pgproto3.ProtocolVersion30, "replication\x00true\x00\x00"), code: "0A000", text: "replication connections are not passed on"},
		"Nonsense":      {send: packet(pgproto3.ProtocolVersion30, "user"), code: "08P01", text: "has no end"},
		"OldProtocol":   {send: packet(2<<16, "\x00"), code: "0A000", text: "protocol 2.0"},
		"EarlyBytes": {change: func(r *rig) {
			r.listen.Dial = func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }
		}, send: string(plain(t)) + string(plain(t)), code: "08P01", text: "bytes follow the startup message"},
	} {
		t.Run(name, func(t *testing.T) {
			r := overMemory(t, gone, tt.change)
			if tt.send == "" {
				tt.send = string(plain(t))
			}
			wantFatal(t, fatal(t, knock(t, r.listen.Socket, []byte(tt.send))), tt.code, tt.text)
		})
	}
}

// TestListen_CancelIsRefused: without an answer, as PostgreSQL gives none, and
// without a connection to the other end.
func TestListen_CancelIsRefused(t *testing.T) {
	var dials atomic.Int32
	r := overMemory(t, "/nowhere", func(r *rig) {
		r.listen.Dial = func(context.Context) (net.Conn, error) { dials.Add(1); return nil, errors.New("no") }
	})
	c := knock(t, r.listen.Socket, []byte(cancel))
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 || dials.Load() > 0 {
		t.Errorf("got %q, %v, after %d dials", b, err, dials.Load())
	}
}

// TestListen_Places fills all places; strangers and those above take none.
func TestListen_Places(t *testing.T) {
	r := overMemory(t, fakeServer(t, hold), nil)
	var held []net.Conn
	for range 4 {
		c := knock(t, r.listen.Socket, plain(t))
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	wantFatal(t, fatal(t, knock(t, r.listen.Socket, plain(t))), "53300", "more than 4 tunnel connections")
	held[0].Close()
	pgtest.Eventually(t, 5*time.Second, "a place is free again", func() bool {
		c := knock(t, r.listen.Socket, plain(t))
		defer c.Close()
		b := make([]byte, 5)
		_, err := io.ReadFull(c, b)
		return err == nil && string(b) == "hello"
	})
	r.stop(t)
	for _, c := range held[1:] {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after the end: %v", err)
		}
	}
}

// hold is a server that greets and waits for the client's end.
func hold(c net.Conn) {
	if _, err := readPacket(c); err != nil {
		return
	}
	io.WriteString(c, "hello")
	io.Copy(io.Discard, c)
}

// TestListen_ClientLeaves while the other end is dialled, or while that
// prepares its server: the work for it ends.
func TestListen_ClientLeaves(t *testing.T) {
	for name, during := range map[string]func(r *rig, work func(context.Context) error){
		"Dial": func(r *rig, work func(context.Context) error) {
			r.listen.Dial = func(ctx context.Context) (net.Conn, error) { return nil, work(ctx) }
		},
		"Before": func(r *rig, work func(context.Context) error) { r.serve.Before = work },
	} {
		t.Run(name, func(t *testing.T) {
			began, left := make(chan struct{}), make(chan struct{})
			r := overMemory(t, "/nowhere", func(r *rig) {
				during(r, func(ctx context.Context) error {
					close(began)
					<-ctx.Done()
					close(left)
					return ctx.Err()
				})
			})
			c := knock(t, r.listen.Socket, plain(t))
			wait(t, began, "the work begins")
			c.Close()
			wait(t, left, "the work ends with the client")
		})
	}
}

func TestServe_Config(t *testing.T) {
	for _, cfg := range []tunnel.ServeConfig{
		{User: "a", Database: "b"}, {Target: "/nowhere", Database: "b"}, {Target: "/nowhere", User: "a"},
	} {
		a, b := net.Pipe()
		if err := tunnel.Serve(t.Context(), b, cfg); err == nil || !strings.Contains(err.Error(), "are required") {
			t.Errorf("%+v: %v", cfg, err)
		}
		if _, err := a.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the connection is open: %v", err)
		}
		a.Close()
	}
}

// TestServe_SlowStartup has peers that never finish their startup message, one
// of them byte by byte.
func TestServe_SlowStartup(t *testing.T) {
	for name, send := range map[string][]byte{"Silent": nil, "Drop": plain(t)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				var wg sync.WaitGroup
				wg.Go(func() {
					for _, x := range send {
						time.Sleep(time.Second)
						if _, err := a.Write([]byte{x}); err != nil {
							return
						}
					}
				})
				began := time.Now()
				err := tunnel.Serve(t.Context(), b, tunnel.ServeConfig{Target: "/nowhere", User: "a", Database: "b"})
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(began); d != tunnel.StartupTime {
					t.Errorf("took %s", d)
				}
				a.Close()
				wg.Wait()
			})
		})
	}
}

// TestServe_ContextEnds at each step before the copying.
func TestServe_ContextEnds(t *testing.T) {
	why := errors.New("the role ended")
	for name, tt := range map[string]struct {
		send  []byte
		words string
	}{"BeforeStartup": {nil, ""}, "InBefore": {plain(t), "ends its tunnel"}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				a, b := net.Pipe()
				heard := make(chan string, 1)
				go func() {
					a.Write(tt.send)
					all, _ := io.ReadAll(a)
					heard <- string(all)
				}()
				ended := make(chan error, 1)
				go func() {
					ended <- tunnel.Serve(ctx, b, tunnel.ServeConfig{Target: "/nowhere", User: "a", Database: "b",
						Before: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }})
				}()
				synctest.Wait()
				cancel(why)
				if err := <-ended; !errors.Is(err, why) {
					t.Errorf("got %v", err)
				}
				if got := <-heard; !strings.Contains(got, tt.words) || tt.words == "" && got != "" {
					t.Errorf("client heard %q", got)
				}
				a.Close()
			})
		})
	}
}

// TestServe_Newer has clients that ask for a later protocol: they are told
// that it is 3.0 before the server's own answer, and the server never hears.
func TestServe_Newer(t *testing.T) {
	target := fakeServer(t, func(c net.Conn) {
		m, err := readPacket(c)
		if err != nil || m.ProtocolVersion != pgproto3.ProtocolVersion30 || len(m.Parameters) != 2 {
			t.Errorf("server was sent %+v, %v", m, err)
		}
		b, _ := (&pgproto3.AuthenticationOk{}).Encode(nil)
		c.Write(b)
	})
	r := overMemory(t, target, nil)
	for _, send := range []string{
		packet(3<<16|2, "user\x00postgres\x00\x00"),
		packet(3<<16|9999, "_pq_.test\x001\x00\x00"),
		packet(3<<16, "_pq_.test\x001\x00\x00"),
	} {
		c := knock(t, r.listen.Socket, []byte(sslRequest+send))
		no := make([]byte, 1)
		if _, err := io.ReadFull(c, no); err != nil || no[0] != 'N' {
			t.Fatalf("encryption request: %q, %v", no, err)
		}
		f := pgproto3.NewFrontend(c, c)
		m, err := f.Receive()
		n, ok := m.(*pgproto3.NegotiateProtocolVersion)
		if !ok || strings.Contains(send, "_pq_") != (len(n.UnrecognizedOptions) == 1) {
			t.Errorf("%q: got %+v, %v", send, m, err)
		}
		if m, err := f.Receive(); err != nil {
			t.Errorf("%q: then %v, %v", send, m, err)
		}
	}
}
