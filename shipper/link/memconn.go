package link

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// memBuffer is how many bytes a connection in memory holds per direction.
const memBuffer = 256 << 10

// memLink is a connection in memory: two ends under one lock.
type memLink struct {
	mu   sync.Mutex
	wake *sync.Cond // broadcast at every change of anything below
	ends [2]*memConn
	cut  bool  // nothing arrives; writers fill the buffer and wait
	dead error // set once: the connection ended without a close
	doom *time.Timer
}

// memConn is one end. Its fields are guarded by link.mu.
type memConn struct {
	link          *memLink
	peer          *memConn
	local, remote memAddr
	in            []byte // arrived and not read, at most memBuffer
	closed        bool
	rd, wd        deadline
}

type memAddr string

func (memAddr) Network() string  { return "memory" }
func (a memAddr) String() string { return string(a) }

// newMemLink makes a connection; the first end is the dialling one.
func newMemLink(from, to memAddr) *memLink {
	l := &memLink{}
	l.wake = sync.NewCond(&l.mu)
	a := &memConn{link: l, local: from, remote: to}
	b := &memConn{link: l, local: to, remote: from}
	a.peer, b.peer = b, a
	l.ends = [2]*memConn{a, b}
	return l
}

// kill ends the connection for both sides with err.
func (l *memLink) kill(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead == nil {
		l.dead = err
	}
	l.stopDoom()
	l.wake.Broadcast()
}

// setCut stops or resumes delivery. A connection that stays cut for
// UserTimeout dies, as one over TCP does.
func (l *memLink) setCut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut == cut || l.over() {
		return
	}
	l.cut = cut
	l.stopDoom()
	if cut {
		l.doom = time.AfterFunc(UserTimeout, func() { l.kill(syscall.ETIMEDOUT) })
	}
	l.wake.Broadcast()
}

func (l *memLink) stopDoom() {
	if l.doom != nil {
		l.doom.Stop()
		l.doom = nil
	}
}

// over tells whether no side can use the connection any more. l.mu is held.
func (l *memLink) over() bool {
	return l.dead != nil || l.ends[0].closed && l.ends[1].closed
}

func (l *memLink) isOver() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.over()
}

// Read implements net.Conn.
func (c *memConn) Read(p []byte) (int, error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case l.dead != nil:
			return 0, c.fail("read", l.dead)
		case c.rd.expired():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case len(c.in) > 0 && !l.cut:
			n := copy(p, c.in)
			c.in = c.in[:copy(c.in, c.in[n:])]
			l.wake.Broadcast()
			return n, nil
		case c.peer.closed && !l.cut:
			return 0, io.EOF
		}
		l.wake.Wait()
	}
}

// Write implements net.Conn.
func (c *memConn) Write(p []byte) (n int, err error) {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case c.closed:
			return n, c.fail("write", net.ErrClosed)
		case l.dead != nil:
			return n, c.fail("write", l.dead)
		case c.wd.expired():
			return n, c.fail("write", os.ErrDeadlineExceeded)
		case c.peer.closed && !l.cut:
			return n, c.fail("write", syscall.EPIPE)
		case n == len(p):
			return n, nil
		}
		if room := memBuffer - len(c.peer.in); room > 0 {
			chunk := p[n:min(len(p), n+room)]
			c.peer.in = append(c.peer.in, chunk...)
			n += len(chunk)
			l.wake.Broadcast()
			continue
		}
		l.wake.Wait()
	}
}

// Close implements net.Conn. What was written before is still delivered.
func (c *memConn) Close() error {
	l := c.link
	l.mu.Lock()
	defer l.mu.Unlock()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	c.rd.set(time.Time{}, l)
	c.wd.set(time.Time{}, l)
	if l.over() {
		l.stopDoom()
	}
	l.wake.Broadcast()
	return nil
}

func (c *memConn) outstanding() int {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return len(c.peer.in)
}

func (c *memConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "memory", Source: c.local, Addr: c.remote, Err: err}
}

// LocalAddr implements net.Conn.
func (c *memConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *memConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *memConn) SetDeadline(t time.Time) error { return c.setDeadlines(t, &c.rd, &c.wd) }

// SetReadDeadline implements net.Conn.
func (c *memConn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, &c.rd) }

// SetWriteDeadline implements net.Conn.
func (c *memConn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, &c.wd) }

func (c *memConn) setDeadlines(t time.Time, which ...*deadline) error {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	if c.closed {
		return c.fail("set deadline", net.ErrClosed)
	}
	for _, d := range which {
		d.set(t, c.link)
	}
	c.link.wake.Broadcast()
	return nil
}

// deadline wakes those who wait on the link when it passes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) expired() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(t time.Time, l *memLink) {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = t
	if !t.IsZero() {
		d.timer = time.AfterFunc(time.Until(t), func() {
			l.mu.Lock()
			l.wake.Broadcast()
			l.mu.Unlock()
		})
	}
}
