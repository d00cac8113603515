package peer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/shipper/link"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/location/locationtest"
	"understudy/shipper/location/peer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a location in a folder; in memory where the machine has one, since
// nothing here is about disks and every commit waits for them.
func place(t *testing.T) *local.Location {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "location")
	if err != nil {
		dir = t.TempDir()
	}
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	loc := local.New(dir)
	t.Cleanup(func() {
		if err := errors.Join(loc.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return loc
}

// server serves loc as "disk" on a port until the test ends.
func server(t *testing.T, loc location.Location) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { _ = peer.Serve(ctx, c, named(loc)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		wg.Wait()
	})
	return l.Addr().String()
}

func named(loc location.Location) func(string) (location.Location, error) {
	return func(name string) (location.Location, error) {
		if name != "disk" {
			return nil, fmt.Errorf("%w: there is no location %q", location.ErrRefused, name)
		}
		return loc, nil
	}
}

func client(t *testing.T, addr string, o peer.Options) *peer.Location {
	t.Helper()
	loc := peer.New("disk", func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}, o)
	t.Cleanup(func() { loc.Close() })
	return loc
}

func TestLocation_Suite(t *testing.T) {
	locationtest.Run(t, func(t *testing.T) location.Location {
		return client(t, server(t, place(t)), peer.Options{})
	}, locationtest.Features{Resume: true, Space: true, Grain: 0})
}

// TestLocation_SuiteOverLink has two connections at most, and TLS's twin.
func TestLocation_SuiteOverLink(t *testing.T) {
	const proto = link.Protocol("understudy-place/1")
	locationtest.Run(t, func(t *testing.T) location.Location {
		loc := place(t)
		network := link.Memory()
		l, err := network.Node("b").Listen("b:1")
		if err != nil {
			t.Fatal(err)
		}
		l.Handle(proto, func(ctx context.Context, c net.Conn, _ link.Peer) { _ = peer.Serve(ctx, c, named(loc)) })
		done := make(chan error, 1)
		go func() { done <- l.Serve(context.Background()) }()
		t.Cleanup(func() {
			l.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		p := peer.New("disk", func(ctx context.Context) (net.Conn, error) {
			c, _, err := network.Node("a").Dial(ctx, "b:1", proto, "b")
			return c, err
		}, peer.Options{Conns: 6})
		t.Cleanup(func() { p.Close() })
		return p
	}, locationtest.Features{Resume: true, Space: true, Large: 20 << 20})
}

func TestLocation_Cuts(t *testing.T) {
	locationtest.RunCuts(t, func(t *testing.T) locationtest.Cuttable {
		loc := place(t)
		wire := locationtest.NewProxy(t, server(t, loc))
		return locationtest.Cuttable{
			Through:  client(t, wire.Addr(), peer.Options{Quiet: time.Second}),
			Direct:   loc,
			Wire:     wire,
			Patience: 4 * time.Second,
			Features: locationtest.Features{Resume: true},
		}
	})
}

// TestLocation_ErrorsKeepTheirMeaning: what the location at the other node
// says arrives as it is.
func TestLocation_ErrorsKeepTheirMeaning(t *testing.T) {
	for _, want := range []error{location.ErrNoSpace, location.ErrReadOnly, location.ErrRefused, location.ErrUnreachable,
		location.ErrDamaged, location.ErrNotExist, location.ErrUnsupported, location.ErrClosed} {
		bad := &failing{Location: place(t), err: fmt.Errorf("ask the disk: %w", want)}
		c := client(t, server(t, bad), peer.Options{})
		_, err := c.Stat(t.Context(), "k")
		if !errors.Is(err, want) {
			t.Errorf("stat: %v, want %v", err, want)
		}
		if _, err := c.Open(t.Context(), "k", 0, -1); !errors.Is(err, want) {
			t.Errorf("open: %v, want %v", err, want)
		}
		u, err := c.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if _, err = u.Write(make([]byte, 1<<20)); err != nil {
				break
			}
		}
		if !errors.Is(err, want) {
			t.Errorf("write: %v, want %v", err, want)
		}
		if _, err := u.Commit(t.Context()); !errors.Is(err, want) {
			t.Errorf("commit: %v, want %v", err, want)
		}
		if err := u.Abort(); err != nil {
			t.Errorf("abort: %v", err)
		}
		if err := c.List(t.Context(), "", func(location.Info) error { return nil }); !errors.Is(err, want) {
			t.Errorf("list: %v, want %v", err, want)
		}
	}
}

// failing answers with one error; its uploads fail at the second write.
type failing struct {
	location.Location
	err error
}

func (f *failing) Stat(context.Context, string) (location.Info, error) {
	return location.Info{}, f.err
}

func (f *failing) Open(context.Context, string, int64, int64) (io.ReadCloser, error) {
	return nil, f.err
}

func (f *failing) List(context.Context, string, func(location.Info) error) error { return f.err }

func (f *failing) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	u, err := f.Location.Create(ctx, key, o)
	return &failingUpload{Upload: u, err: f.err}, err
}

type failingUpload struct {
	location.Upload
	n   int
	err error
}

func (u *failingUpload) Write(b []byte) (int, error) {
	if u.n++; u.n > 1 {
		return 0, u.err
	}
	return u.Upload.Write(b)
}

func TestLocation_UnknownName(t *testing.T) {
	addr := server(t, place(t))
	loc := peer.New("other", func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	}, peer.Options{})
	defer loc.Close()
	if _, err := loc.Stat(t.Context(), "k"); !errors.Is(err, location.ErrRefused) {
		t.Errorf("a location that is not there: %v", err)
	}
}

func TestLocation_NobodyListens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	if _, err := client(t, addr, peer.Options{}).Stat(t.Context(), "k"); !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("nobody listens: %v", err)
	}
	foreign := peer.New("disk", func(context.Context) (net.Conn, error) { return nil, link.ErrForeignGroup }, peer.Options{})
	defer foreign.Close()
	if _, err := foreign.Stat(t.Context(), "k"); !errors.Is(err, location.ErrRefused) {
		t.Errorf("another group: %v", err)
	}
}

// TestLocation_ServerStartsAnew: connections that lay idle have ended, and
// nobody notices.
func TestLocation_ServerStartsAnew(t *testing.T) {
	loc := place(t)
	wire := locationtest.NewProxy(t, server(t, loc))
	c := client(t, wire.Addr(), peer.Options{})
	locationtest.Put(t, c, "k", []byte("x"), location.CreateOptions{Size: -1})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { _, _ = c.Stat(t.Context(), "k") })
	}
	wg.Wait()
	wire.CutAfter(0)
	wire.Heal()
	if got := locationtest.Get(t, c, "k"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
}

// TestLocation_FewConnections: more uploads than connections wait for each
// other, and a call that waits too long says so.
func TestLocation_FewConnections(t *testing.T) {
	c := client(t, server(t, place(t)), peer.Options{Conns: 2, Patience: 100 * time.Millisecond})
	var open []location.Upload
	for range 2 {
		u, err := c.Create(t.Context(), "k", location.CreateOptions{Size: -1})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, u)
	}
	if _, err := c.Stat(t.Context(), "k"); !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("a third call: %v", err)
	}
	for _, u := range open {
		if err := u.Abort(); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.Stat(t.Context(), "k"); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("after that: %v", err)
	}
}

// TestLocation_SlowReader: who does not read for longer than the quiet time is
// alive all the same, and is sent no more than the window.
func TestLocation_SlowReader(t *testing.T) {
	loc := place(t)
	data := locationtest.Bytes(1, 8<<20)
	locationtest.Put(t, loc, "k", data, location.CreateOptions{Size: -1})
	wire := locationtest.NewProxy(t, server(t, loc))
	c := client(t, wire.Addr(), peer.Options{Quiet: 200 * time.Millisecond})
	r, err := c.Open(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	u, err := c.Create(t.Context(), "slow", location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second) // the point of the test: nobody does anything
	if passed := wire.Passed(); passed > 3<<20 {
		t.Errorf("%d bytes were sent to a reader that rests", passed)
	}
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if _, err := u.Write(data); err != nil {
		t.Error(err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestServe_Strangers: who does not speak the protocol is cut off.
func TestServe_Strangers(t *testing.T) {
	loc := place(t)
	hello := append([]byte{1, 19, 0, 0}, "UPLC\x01\x04\x00disk\xe8\x03\x00\x00\x00\x00\x00\x00"...)
	for name, bytes := range map[string][]byte{
		"Nonsense":      []byte("GET / HTTP/1.0\r\n\r\n"),
		"NoHello":       {11, 0, 0, 0},
		"OtherVersion":  append([]byte{1, 19, 0, 0}, "UPLC\x02\x04\x00disk\xe8\x03\x00\x00\x00\x00\x00\x00"...),
		"TooLarge":      append(hello[:len(hello):len(hello)], 3, 1, 0, 4),
		"TwoHellos":     append(hello[:len(hello):len(hello)], hello...),
		"AnswerAsked":   append(hello[:len(hello):len(hello)], 32, 0, 0, 0),
		"DataAlone":     append(hello[:len(hello):len(hello)], 3, 1, 0, 0, 'x'),
		"TookTooMuch":   append(hello[:len(hello):len(hello)], 38, 8, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0),
		"NegativeSpace": append(hello[:len(hello):len(hello)], 11, 1, 0, 0, 0),
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			done := make(chan error, 1)
			go func() { done <- peer.Serve(t.Context(), theirs, named(loc)) }()
			go func() {
				_, _ = ours.Write(bytes)
				_, _ = io.Copy(io.Discard, ours)
			}()
			select {
			case err := <-done:
				if err == nil {
					t.Error("served")
				}
			case <-time.After(10 * time.Second):
				t.Error("still served")
			}
			ours.Close()
		})
	}
}

// TestServe_ChecksKeys: a client of another make does not check them.
func TestServe_ChecksKeys(t *testing.T) {
	seen := &recorder{Location: place(t)}
	for _, k := range []byte{2, 7, 8, 9, 10} {
		ours, theirs := net.Pipe()
		done := make(chan error, 1)
		go func() { done <- peer.Serve(t.Context(), theirs, named(seen)) }()
		if err := peer.RawRequest(ours, "disk", k, "../outside"); !errors.Is(err, location.ErrKey) {
			t.Errorf("kind %d: %v", k, err)
		}
		ours.Close()
		<-done
	}
	if seen.n > 0 {
		t.Errorf("%d calls reached the location", seen.n)
	}
}

type recorder struct {
	location.Location
	n int
}

func (r *recorder) Stat(context.Context, string) (location.Info, error) {
	r.n++
	return location.Info{}, nil
}
func (r *recorder) Remove(context.Context, string) error { r.n++; return nil }
func (r *recorder) Open(context.Context, string, int64, int64) (io.ReadCloser, error) {
	r.n++
	return nil, errors.New("opened")
}
func (r *recorder) Create(context.Context, string, location.CreateOptions) (location.Upload, error) {
	r.n++
	return nil, errors.New("created")
}
func (r *recorder) List(context.Context, string, func(location.Info) error) error { r.n++; return nil }
