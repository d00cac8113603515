package backupservers

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy stands before a server and can slow, freeze and cut the connections to
// it.
type Proxy struct {
	Address string

	target string
	delay  time.Duration
	l      net.Listener

	mu    sync.Mutex
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// NewProxy starts a proxy to target that holds the bytes of each direction back
// for delay. What is on the way is not bounded, so the rate is not either.
func NewProxy(t testing.TB, target string, delay time.Duration) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Address: l.Addr().String(), target: target, delay: delay, l: l, conns: map[net.Conn]bool{}}
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
			both.Go(func() { p.carry(server, client) })
			both.Go(func() { p.carry(client, server) })
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
func (p *Proxy) carry(dst, src net.Conn) {
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
		b := make([]byte, 64<<10)
		n, err := src.Read(b)
		if n > 0 {
			road <- parcel{time.Now().Add(p.delay), b[:n]}
		}
		if err != nil {
			break
		}
	}
	close(road)
	<-done
}
