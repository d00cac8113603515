package backupservers

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands before a server and can slow and cut the connections to it, and
// alter what goes over them.
type Proxy struct {
	Address string

	target string
	delay  time.Duration
	l      net.Listener
	// up and down are the two directions of the link, shared by all connections.
	up, down *lane

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// lane is one direction.
type lane struct {
	mu    sync.Mutex
	rate  int64     // bytes per second; 0 is no bound
	next  time.Time // when what has passed so far has had its time
	flips int       // large parcels that are still to be altered
}

// leastFlipped is the size of a parcel that holds more than the beginning of a
// request or an answer.
const leastFlipped = 16 << 10

// pass waits until b may go on, and alters it when that is asked for.
func (d *lane) pass(b []byte) {
	d.mu.Lock()
	if d.flips > 0 && len(b) >= leastFlipped {
		d.flips--
		b[len(b)/2] ^= 0x10
	}
	var wait time.Duration
	if d.rate > 0 {
		if now := time.Now(); d.next.Before(now) {
			d.next = now
		}
		d.next = d.next.Add(time.Duration(float64(len(b)) / float64(d.rate) * float64(time.Second)))
		wait = time.Until(d.next)
	}
	d.mu.Unlock()
	time.Sleep(wait)
}

// piece is how much to read at once, so that the flow is even.
func (d *lane) piece() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rate <= 0 {
		return 64 << 10
	}
	return int(min(max(d.rate/10, 1<<10), 64<<10))
}

// SetRate bounds the bytes per second of each direction, all connections
// together; 0 takes the bound away.
func (p *Proxy) SetRate(bytesPerSecond int64) {
	for _, d := range []*lane{p.up, p.down} {
		d.mu.Lock()
		d.rate, d.next = bytesPerSecond, time.Time{}
		d.mu.Unlock()
	}
}

// FlipSent flips a bit in each of the next n large parcels that go to the
// server.
func (p *Proxy) FlipSent(n int) { p.up.flip(n) }

// FlipReceived is FlipSent for what comes from the server.
func (p *Proxy) FlipReceived(n int) { p.down.flip(n) }

func (d *lane) flip(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flips = n
}

// Flips is how many parcels are still to be altered.
func (p *Proxy) Flips() int {
	n := 0
	for _, d := range []*lane{p.up, p.down} {
		d.mu.Lock()
		n += d.flips
		d.mu.Unlock()
	}
	return n
}

// NewProxy starts a proxy to target that holds the bytes of each direction back
// for delay. What is on the way is not bounded, so the rate is not either until
// SetRate.
func NewProxy(t testing.TB, target string, delay time.Duration) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: l.Addr().String(), target: target, delay: delay, l: l, up: &lane{}, down: &lane{}, conns: map[net.Conn]bool{}}
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.Cut()
		p.wg.Wait()
	})
	return p
}

// Cut resets all connections that stand.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			tcp.SetLinger(0)
		}
		c.Close()
	}
}

// Conns is how many connections clients have now.
func (p *Proxy) Conns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) / 2
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.conns[client], p.conns[server] = true, true
		p.mu.Unlock()
		p.wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { p.carry(p.up, server, client) })
			both.Go(func() { p.carry(p.down, client, server) })
			both.Wait()
			p.mu.Lock()
			delete(p.conns, client)
			delete(p.conns, server)
			p.mu.Unlock()
		})
	}
}

// parcel is what was read at once, and when it is due.
type parcel struct {
	due  time.Time
	data []byte
}

// carry copies from src to dst until either ends, which ends both. Each parcel
// leaves the delay after it came.
func (p *Proxy) carry(way *lane, dst, src net.Conn) {
	defer dst.Close()
	defer src.Close()
	road := make(chan parcel, 1<<14)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for x := range road {
			time.Sleep(time.Until(x.due))
			if _, err := dst.Write(x.data); err != nil {
				src.Close()
				for range road {
				}
				return
			}
		}
	}()
	for {
		b := make([]byte, way.piece())
		n, err := src.Read(b)
		if n > 0 {
			way.pass(b[:n])
			road <- parcel{time.Now().Add(p.delay), b[:n]}
		}
		if err != nil {
			break
		}
	}
	close(road)
	<-done
}
