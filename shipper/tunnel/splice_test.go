package tunnel_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"understudy/shipper/tunnel"
	"understudy/test/pgtest"
)

// half is a connection in memory that can end one direction, as TLS can.
type half struct {
	net.Conn
	w net.Conn // what CloseWrite closes
}

func (h half) CloseWrite() error { return h.w.Close() }

// joined makes a connection of two pipes, so that a direction ends by itself.
// The first end is the test's.
func joined() (outer, inner *duplex) {
	toR, toW := io.Pipe()
	fromR, fromW := io.Pipe()
	return &duplex{r: fromR, w: toW}, &duplex{r: toR, w: fromW}
}

// duplex has no deadlines; it serves where nothing is late.
type duplex struct {
	net.Conn
	r *io.PipeReader
	w *io.PipeWriter
}

func (d *duplex) Read(p []byte) (int, error)       { return d.r.Read(p) }
func (d *duplex) Write(p []byte) (int, error)      { return d.w.Write(p) }
func (d *duplex) CloseWrite() error                { return d.w.Close() }
func (d *duplex) Close() error                     { return errors.Join(d.r.Close(), d.w.Close()) }
func (d *duplex) SetDeadline(time.Time) error      { return nil }
func (d *duplex) SetReadDeadline(time.Time) error  { return nil }
func (d *duplex) SetWriteDeadline(time.Time) error { return nil }

// TestSplice_AllBytesArrive moves random writes both ways at once, ended by the
// client's half first.
func TestSplice_AllBytesArrive(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		up := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 300), 0, 20).Draw(t, "up")
		down := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 1, 300), 0, 20).Draw(t, "down")
		client, near := joined()
		server, far := joined()
		var wg sync.WaitGroup
		write := func(c *duplex, parts [][]byte) {
			for _, p := range parts {
				if _, err := c.Write(p); err != nil {
					t.Error(err)
				}
			}
			c.CloseWrite()
		}
		var asked, answered []byte
		wg.Go(func() { write(client, up) })
		wg.Go(func() { answered, _ = io.ReadAll(client) })
		wg.Go(func() {
			asked, _ = io.ReadAll(server) // the client's half ends first
			write(server, down)
		})
		if err := tunnel.Splice(context.Background(), near, far, 0); err != nil {
			t.Errorf("splice: %v", err)
		}
		wg.Wait()
		if !bytes.Equal(asked, bytes.Join(up, nil)) || !bytes.Equal(answered, bytes.Join(down, nil)) {
			t.Errorf("%d of %d bytes up, %d of %d down", len(asked), len(bytes.Join(up, nil)), len(answered), len(bytes.Join(down, nil)))
		}
	})
}

// spliced runs Splice between two pipes in a bubble of fake time; client and
// server are the test's ends.
func spliced(ctx context.Context, idle time.Duration) (client, server net.Conn, ended <-chan error) {
	client, near := net.Pipe()
	server, far := net.Pipe()
	ch := make(chan error, 1)
	go func() {
		err := tunnel.Splice(ctx, near, far, idle)
		near.Close()
		far.Close()
		ch <- err
	}()
	return client, server, ch
}

func TestSplice_Idle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = 60 * time.Second
		client, server, ended := spliced(t.Context(), idle)
		go io.Copy(io.Discard, client)
		// A byte in either direction counts for both.
		for range 5 {
			time.Sleep(idle - time.Second)
			if _, err := server.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		began := time.Now()
		if err := <-ended; err == nil || !strings.Contains(err.Error(), "no byte moved for too long: 1m0s") {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d != idle {
			t.Errorf("ended after %s", d)
		}
		server.Close()
	})
}

func TestSplice_NoIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server, ended := spliced(t.Context(), 0)
		time.Sleep(24 * time.Hour)
		go client.Write([]byte("still here"))
		b := make([]byte, 10)
		if _, err := io.ReadFull(server, b); err != nil || string(b) != "still here" {
			t.Errorf("%q, %v", b, err)
		}
		client.Close()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		server.Close()
	})
}

// TestSplice_Stalls has a side that takes no byte: the connection ends then,
// and the other side's bytes are not thrown away behind its back.
func TestSplice_Stalls(t *testing.T) {
	for name, deaf := range map[string]bool{"Client": true, "Server": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, server, ended := spliced(t.Context(), 24*time.Hour)
				defer client.Close()
				defer server.Close()
				talker, side := client, "server"
				if deaf {
					talker, side = server, "client"
				}
				began := time.Now()
				if _, err := talker.Write([]byte("hello")); err != nil {
					t.Fatal(err)
				}
				if err := <-ended; err == nil || !strings.Contains(err.Error(), "write to the "+side) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(began); d != tunnel.StallTime {
					t.Errorf("ended after %s", d)
				}
			})
		})
	}
}

// TestSplice_Lingers has a client that does not close after the server has.
func TestSplice_Lingers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := net.Pipe()
		w, r := net.Pipe() // the client's other direction
		server, far := net.Pipe()
		defer client.Close()
		began := time.Now()
		server.Close()
		if err := tunnel.Splice(t.Context(), half{near, w}, far, 0); err != nil {
			t.Errorf("got %v", err)
		}
		if d := time.Since(began); d != tunnel.LingerTime {
			t.Errorf("ended after %s", d)
		}
		if _, err := r.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client was not told: %v", err)
		}
	})
}

func TestSplice_ContextEnds(t *testing.T) {
	why := errors.New("the role ended")
	for name, busy := range map[string]bool{"Silent": false, "Writing": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				client, server, ended := spliced(ctx, time.Minute)
				defer client.Close()
				if busy {
					go server.Write(make([]byte, 1<<20)) // nobody reads it
				}
				synctest.Wait()
				began := time.Now()
				cancel(why)
				if err := <-ended; !errors.Is(err, why) {
					t.Errorf("got %v", err)
				}
				if d := time.Since(began); d != 0 {
					t.Errorf("took %s", d)
				}
				server.Close()
			})
		})
	}
}

// TestSplice_LastWords has a server that ends while the client still sends:
// what the server said last arrives.
func TestSplice_LastWords(t *testing.T) {
	dir := pgtest.Dir(t)
	client, near := unixPair(t, dir+"/c")
	server, far := unixPair(t, dir+"/s")
	ended := make(chan error, 1)
	go func() { ended <- tunnel.Splice(t.Context(), near, far, time.Minute); near.Close(); far.Close() }()
	var wg sync.WaitGroup
	wg.Go(func() {
		for b := make([]byte, 8<<10); ; {
			if _, err := client.Write(b); err != nil {
				return
			}
		}
	})
	if _, err := io.ReadFull(server, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(server, "last words"); err != nil {
		t.Fatal(err)
	}
	server.Close() // with bytes unread
	b, _ := io.ReadAll(client)
	if string(b) != "last words" {
		t.Errorf("got %q", b)
	}
	client.Close()
	wg.Wait()
	<-ended
}

func unixPair(t *testing.T, path string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial("unix", path); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}
