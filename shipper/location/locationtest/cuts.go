package locationtest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"understudy/shipper/location"
)

// Proxy stands between a location and its server, for faults of the network.
type Proxy struct {
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	passed int64
	budget int64 // bytes that may still pass; -1 is no bound
	frozen chan struct{}
	closed bool
}

// NewProxy listens on a free port and passes bytes on to the address target,
// until the test ends.
func NewProxy(t *testing.T, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{target: target, l: l, conns: make(map[net.Conn]bool), budget: -1}
	p.wg.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

// Addr is where to connect to.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Passed is how many bytes have gone either way.
func (p *Proxy) Passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.passed
}

// CutAfter resets all connections once n more bytes have passed, and refuses
// new ones until Heal.
func (p *Proxy) CutAfter(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = n
	if n == 0 {
		p.reset()
	}
}

// Freeze holds back all bytes, without a sign, until Heal.
func (p *Proxy) Freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

// Heal undoes CutAfter and Freeze.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.budget = -1
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

func (p *Proxy) close() {
	p.l.Close()
	p.Heal()
	p.mu.Lock()
	p.closed = true
	p.reset()
	p.mu.Unlock()
	p.wg.Wait()
}

// reset is called with p.mu held.
func (p *Proxy) reset() {
	for c := range p.conns {
		if t, ok := c.(*net.TCPConn); ok {
			_ = t.SetLinger(0)
		}
		c.Close()
	}
	clear(p.conns)
}

func (p *Proxy) accept() {
	for {
		in, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.join(in) })
	}
}

// join connects in with the server, unless the wire is cut.
func (p *Proxy) join(in net.Conn) {
	defer in.Close()
	if !p.track(in) {
		return
	}
	out, err := net.DialTimeout("tcp", p.target, time.Second)
	if err != nil {
		return
	}
	defer out.Close()
	if !p.track(out) {
		return
	}
	var wg sync.WaitGroup
	wg.Go(func() { p.copy(out, in) })
	p.copy(in, out)
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, in)
	delete(p.conns, out)
}

func (p *Proxy) track(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.budget == 0 || p.closed {
		return false
	}
	p.conns[c] = true
	return true
}

func (p *Proxy) copy(dst, src net.Conn) {
	defer func() {
		if t, ok := dst.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if k := p.allow(n); k > 0 {
			if _, err := dst.Write(buf[:k]); err != nil {
				return
			}
		}
		if p.spent() || err != nil {
			return
		}
	}
}

// allow says how many of n bytes may pass, when they may.
func (p *Proxy) allow(n int) int {
	for {
		p.mu.Lock()
		frozen := p.frozen
		if frozen == nil {
			if p.budget >= 0 {
				n = int(min(int64(n), p.budget))
				p.budget -= int64(n)
			}
			p.passed += int64(n)
			p.mu.Unlock()
			return n
		}
		p.mu.Unlock()
		<-frozen
	}
}

func (p *Proxy) spent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.budget == 0 {
		p.reset()
	}
	return p.budget == 0
}

// Cuttable is one place reached in two ways.
type Cuttable struct {
	Through location.Location // over Wire
	Direct  location.Location // not over Wire
	Wire    *Proxy
	// Patience is how long calls over a frozen wire may take at most.
	Patience time.Duration
	Features Features
}

// RunCuts cuts the wire at many points of an upload: afterwards the key has the
// old object or the new one, never a mixture, and the location works again.
// open gives a new and empty place on every call.
func RunCuts(t *testing.T, open func(t *testing.T) Cuttable) {
	t.Run("Put", func(t *testing.T) { testCutPut(t, open(t)) })
	t.Run("Resume", func(t *testing.T) { testCutResume(t, open(t)) })
	t.Run("Read", func(t *testing.T) { testCutRead(t, open(t)) })
	t.Run("Frozen", func(t *testing.T) { testFrozen(t, open(t)) })
}

func testCutPut(t *testing.T, c Cuttable) {
	const size = 6 << 20
	before := c.Wire.Passed()
	now := Bytes(0, size)
	Put(t, c.Through, "a/k", now, known(now))
	total := c.Wire.Passed() - before
	points := []int64{0, 1, 100, 1000, total / 3, total / 2, size, total - 5000, total - 1000, total - 300, total - 100, total - 30, total - 1, total + 50}
	for i, at := range points {
		next := Bytes(uint64(i)+1, size)
		c.Wire.CutAfter(max(at, 0))
		_, err := put(t.Context(), c.Through, "a/k", next, known(next))
		c.Wire.Heal()
		got := Get(t, c.Direct, "a/k")
		switch {
		case bytes.Equal(got, next):
		case err == nil:
			t.Fatalf("cut after %d of %d bytes: reported as stored, has %s", at, total, sketch(got))
		case !bytes.Equal(got, now):
			t.Fatalf("cut after %d of %d bytes: %s is neither the old object nor the new", at, total, sketch(got))
		}
		now = got
	}
	Put(t, c.Through, "a/k", Bytes(99, size), unknown())
	(suite{c.Direct, c.Features}).same(t, "a/k", Bytes(99, size))
	if got := (suite{c.Direct, c.Features}).keys(t, ""); len(got) != 1 {
		t.Errorf("listed: %v", got)
	}
}

func testCutResume(t *testing.T, c Cuttable) {
	data := Bytes(5, 24<<20)
	o := location.CreateOptions{Size: int64(len(data)), Token: "cafe"}
	for _, at := range []int64{2 << 20, 11 << 20, 1000, 20 << 20} {
		c.Wire.CutAfter(at)
		u, err := c.Through.Create(t.Context(), "k", o)
		if err == nil {
			if _, err = finish(t.Context(), u, data); err != nil {
				_ = u.Suspend() // the wire is cut: it says so
			}
		}
		c.Wire.Heal()
		if err == nil {
			break // so much was stored before that this was enough
		}
		(suite{c.Direct, c.Features}).absent(t, "k")
	}
	u, err := c.Through.Create(t.Context(), "k", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("went on at %d of %d", u.Offset(), len(data))
	if _, err := finish(t.Context(), u, data); err != nil {
		t.Fatal(err)
	}
	(suite{c.Direct, c.Features}).same(t, "k", data)
}

func testCutRead(t *testing.T, c Cuttable) {
	data := Bytes(5, 6<<20)
	Put(t, c.Direct, "k", data, known(data))
	for _, at := range []int64{0, 100, 3 << 20, 6 << 20} {
		c.Wire.CutAfter(at)
		got, err := read(t.Context(), c.Through, "k", 0, -1)
		c.Wire.Heal()
		if err == nil && !bytes.Equal(got, data) || !bytes.HasPrefix(data, got) {
			t.Errorf("cut after %d: %s, %v", at, sketch(got), err)
		}
		if err != nil && errors.Is(err, location.ErrNotExist) {
			t.Errorf("cut after %d: a cut is taken for a missing object: %v", at, err)
		}
		if got := Get(t, c.Through, "k"); !bytes.Equal(got, data) {
			t.Errorf("after the cut: %s", sketch(got))
		}
	}
}

func testFrozen(t *testing.T, c Cuttable) {
	data := Bytes(5, 6<<20)
	Put(t, c.Through, "k", data, known(data))
	r, err := c.Through.Open(t.Context(), "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c.Wire.Freeze()
	defer c.Wire.Heal()
	began := time.Now()
	var wg sync.WaitGroup
	check := func(what string, err error) {
		if took := time.Since(began); !errors.Is(err, location.ErrUnreachable) || took > c.Patience {
			t.Errorf("%s over a frozen wire: %v after %s, want ErrUnreachable within %s", what, err, took, c.Patience)
		}
	}
	wg.Go(func() { _, err := c.Through.Stat(t.Context(), "k"); check("stat", err) })
	wg.Go(func() { _, err := put(t.Context(), c.Through, "j", data, unknown()); check("put", err) })
	wg.Go(func() {
		// What has arrived already may be more than all.
		if n, err := io.Copy(io.Discard, r); err != nil || n != int64(len(data)) {
			check("read", err)
		}
	})
	wg.Wait()
	c.Wire.Heal()
	if got := Get(t, c.Through, "k"); !bytes.Equal(got, data) {
		t.Errorf("after thawing: %s", sketch(got))
	}
}
