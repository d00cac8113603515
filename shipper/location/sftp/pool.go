package sftp

import (
	"context"
	"errors"
	"sync"
	"time"

	"understudy/shipper/location"
)

const (
	// crowded is the number of users of a connection at which another one is
	// opened.
	crowded = 8
	// idleTime is how long a connection stays open without a user.
	idleTime = time.Minute
	// growPause is how long the pool makes do with the connections it has when
	// the server did not accept one more.
	growPause = 30 * time.Second
)

// pool holds the connections to one server. The first user opens one; more are
// opened beside it while all are crowded.
type pool struct {
	dial      func(context.Context) (*conn, error)
	max       int
	keepAlive time.Duration

	ctx    context.Context // of dialling, ended by close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	conns   []*conn
	dials   int       // under way
	first   *attempt  // of those, the last that was begun without a connection
	refused time.Time // when a dial last failed, zero since one succeeded
}

// attempt is one try to connect, for all who wait for it.
type attempt struct {
	done chan struct{}
	err  error
}

func newPool(dial func(context.Context) (*conn, error), max int, keepAlive time.Duration) *pool {
	p := &pool{dial: dial, max: max, keepAlive: keepAlive}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// take returns the connection with the fewest users, with one more; release
// gives it back.
func (p *pool) take(ctx context.Context) (*conn, error) {
	for {
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return nil, location.ErrClosed
		}
		if best := p.best(); best != nil {
			best.load.Add(1)
			p.grow(int(best.load.Load()))
			p.mu.Unlock()
			return best, nil
		}
		if p.first == nil {
			p.first = &attempt{done: make(chan struct{})}
			p.startDial(p.first)
		}
		a := p.first
		p.mu.Unlock()
		select {
		case <-a.done:
			if a.err != nil {
				return nil, a.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// grow opens as many more connections as the least crowded one has users too
// many, all at once: far away each takes half a second. p.mu is held.
func (p *pool) grow(users int) {
	if time.Since(p.refused) < growPause {
		return
	}
	for n := users / crowded; n > p.dials && len(p.conns)+p.dials < p.max; {
		p.startDial(nil)
	}
}

func (p *pool) release(c *conn) { c.load.Add(-1) }

// best is the living connection with the fewest users; p.mu is held.
func (p *pool) best() *conn {
	var best *conn
	for _, c := range p.conns {
		if c.ended() {
			continue
		}
		if best == nil || c.load.Load() < best.load.Load() {
			best = c
		}
	}
	return best
}

// startDial opens one more connection in the background, and tells those who
// wait for a; p.mu is held.
func (p *pool) startDial(a *attempt) {
	p.dials++
	p.wg.Go(func() {
		c, err := p.dial(p.ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.dials--
		switch {
		case p.closed:
			if err == nil {
				c.close(location.ErrClosed)
			}
			err = location.ErrClosed
		case err != nil:
			p.refused = time.Now()
		default:
			p.conns = append(p.conns, c)
			p.refused = time.Time{}
			p.wg.Go(func() {
				c.run(p.keepAlive, idleTime)
				p.forget(c)
			})
		}
		if a != nil {
			a.err, p.first = err, nil
			close(a.done)
		}
	})
}

func (p *pool) forget(c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, x := range p.conns {
		if x == c {
			p.conns = append(p.conns[:i], p.conns[i+1:]...)
			return
		}
	}
}

// close ends all connections and waits for what ran on them.
func (p *pool) close() {
	p.mu.Lock()
	p.closed = true
	conns := append([]*conn(nil), p.conns...)
	p.mu.Unlock()
	p.cancel()
	for _, c := range conns {
		c.close(location.ErrClosed)
	}
	p.wg.Wait()
}

// errLost marks a request whose connection ended before the answer came.
var errLost = errors.New("the connection was lost")
