// Package peer is a location of another node, reached over the link between
// the daemons: New is the end that uses it, Serve the end that has it. See
// README.md for the bytes between them.
package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"understudy/shipper/link"
	"understudy/shipper/location"
)

// Options bound what a Location waits for. The zero value is good.
type Options struct {
	// Conns is how many connections are open at most, that is how many calls,
	// uploads and readers there are at a time; those above wait. Default 16.
	Conns int
	// Quiet is how long the other node may be silent before a connection to it
	// ends. Default 15 s.
	Quiet time.Duration
	// Patience is how long the other node, while not silent, may take to answer
	// or to take more bytes, and how long a call waits for a connection.
	// Default 5 min.
	Patience time.Duration
}

const (
	defaultConns    = 16
	defaultQuiet    = 15 * time.Second
	defaultPatience = 5 * time.Minute
	minQuiet        = 200 * time.Millisecond
	maxQuiet        = 2 * time.Minute
	// keepIdle is how long a connection that nobody uses is kept.
	keepIdle = 30 * time.Second
)

// Location is the location called name of another node. It implements
// location.Location.
type Location struct {
	name string
	dial func(context.Context) (net.Conn, error)
	o    Options

	slots chan struct{} // one for each connection in use
	wg    sync.WaitGroup

	mu     sync.Mutex
	idle   []*idleSession // the last used one last
	closed bool
}

type idleSession struct {
	*session
	timer *time.Timer
}

var _ location.Location = (*Location)(nil)

// New is the location called name of the node that dial connects with.
// Connections are made when they are needed.
func New(name string, dial func(context.Context) (net.Conn, error), o Options) *Location {
	if o.Conns <= 0 {
		o.Conns = defaultConns
	}
	if o.Quiet <= 0 {
		o.Quiet = defaultQuiet
	}
	o.Quiet = min(max(o.Quiet, minQuiet), maxQuiet)
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	return &Location{name: name, dial: dial, o: o, slots: make(chan struct{}, o.Conns)}
}

// lease is a session in use.
type lease struct {
	*session
	l      *Location
	ctx    context.Context // of the call
	unhook func() bool
	reused bool
	over   bool
}

// acquire is a session for one call; it ends when ctx does.
func (l *Location) acquire(ctx context.Context) (*lease, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	t := time.NewTimer(l.o.Patience)
	defer t.Stop()
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-t.C:
		return nil, fmt.Errorf("%w: all %d connections have been in use for %s", location.ErrUnreachable, l.o.Conns, l.o.Patience)
	}
	le := &lease{l: l, ctx: ctx}
	var err error
	if le.session, err = l.pick(); err == nil && le.session == nil {
		le.session, err = l.connect(ctx)
	} else {
		le.reused = true
	}
	if err != nil {
		<-l.slots
		return nil, err
	}
	le.unhook = context.AfterFunc(ctx, func() { le.cancel(context.Cause(ctx)) })
	return le, nil
}

// pick takes an idle session; nil when there is none.
func (l *Location) pick() (*session, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, location.ErrClosed
	}
	for n := len(l.idle); n > 0; n = len(l.idle) {
		s := l.idle[n-1]
		l.idle = l.idle[:n-1]
		if s.timer.Stop() && !s.session.over() {
			return s.session, nil
		}
		l.wg.Go(s.end)
	}
	return nil, nil
}

// connect makes a session and names the location.
func (l *Location) connect(ctx context.Context) (*session, error) {
	dctx, cancel := context.WithTimeout(ctx, l.o.Quiet)
	defer cancel()
	c, err := l.dial(dctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, dialError(err)
	}
	// Not of ctx: the session serves later calls, too.
	s := newSession(context.Background(), c, l.o.Quiet)
	unhook := context.AfterFunc(ctx, func() { s.cancel(context.Cause(ctx)) })
	defer unhook()
	err = s.send(message{kind: kindHello, key: l.name, a: l.o.Quiet.Milliseconds()})
	var m message
	if err == nil {
		m, err = s.receive(l.o.Quiet, false)
	}
	switch {
	case err == nil && m.kind == kindDone:
		return s, nil
	case err == nil:
		err = unexpected(m)
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	default:
		err = fmt.Errorf("%w: %w", location.ErrUnreachable, err)
	}
	s.end()
	return nil, err
}

func dialError(err error) error {
	for _, no := range []error{link.ErrForeignGroup, link.ErrWrongNode, link.ErrExpired, link.ErrCredentials} {
		if errors.Is(err, no) {
			return fmt.Errorf("%w: %w", location.ErrRefused, err)
		}
	}
	return fmt.Errorf("%w: %w", location.ErrUnreachable, err)
}

// unexpected is the error for a frame that is not the one waited for.
func unexpected(m message) error {
	if m.kind == kindFail {
		return m.error()
	}
	return fmt.Errorf("%w: %w: a frame of kind %d is no answer", location.ErrUnreachable, errProtocol, m.kind)
}

// release ends the lease. A session with nothing under way serves again.
func (le *lease) release(clean bool) {
	if le.over {
		return
	}
	le.over = true
	le.unhook()
	l := le.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if clean && !l.closed && !le.session.over() {
		le.rest()
		s := &idleSession{session: le.session}
		s.timer = time.AfterFunc(keepIdle, func() { s.cancel(net.ErrClosed) })
		l.idle = append(l.idle, s)
	} else {
		le.cancel(net.ErrClosed)
		l.wg.Go(le.session.end)
	}
	<-l.slots
}

// failed makes an error of the connection one of the location.
func (le *lease) failed(err error) error {
	if le.ctx.Err() != nil {
		return context.Cause(le.ctx)
	}
	return fmt.Errorf("%w: %w", location.ErrUnreachable, err)
}

// await is the next frame; it must be of the kind wanted. After an error the
// lease is over.
func (le *lease) await(want kind) (message, error) {
	m, err := le.receive(le.l.o.Patience, false)
	switch {
	case err != nil:
		err = le.failed(err)
	case m.kind == want:
		return m, nil
	default:
		err = unexpected(m)
	}
	le.release(m.kind == kindFail)
	return message{}, err
}

// ask sends a request and waits for its first answer. A connection that lay
// idle may have ended meanwhile, for instance because the other node was
// started anew; nothing was asked then, and another is tried.
func (l *Location) ask(ctx context.Context, request message, want kind) (*lease, message, error) {
	for {
		le, err := l.acquire(ctx)
		if err != nil {
			return nil, message{}, err
		}
		if err := le.send(request); err != nil {
			le.release(false)
			if le.reused && ctx.Err() == nil {
				continue
			}
			return nil, message{}, le.failed(err)
		}
		m, err := le.await(want)
		if err == nil {
			return le, m, nil
		}
		if le.reused && le.session.over() && ctx.Err() == nil && !errors.Is(err, errPatience) {
			continue
		}
		return nil, message{}, err
	}
}

// call is a request with one answer.
func (l *Location) call(ctx context.Context, request message, want kind) (message, error) {
	le, m, err := l.ask(ctx, request, want)
	if err == nil {
		le.release(true)
	}
	return m, err
}

// Stat implements location.Location.
func (l *Location) Stat(ctx context.Context, key string) (location.Info, error) {
	if err := location.CheckKey(key); err != nil {
		return location.Info{}, err
	}
	m, err := l.call(ctx, message{kind: kindStat, key: key}, kindObject)
	if err != nil {
		return location.Info{}, fmt.Errorf("look at %s: %w", key, err)
	}
	return m.infos[0], checkInfo(m.infos[0], key)
}

// checkInfo: a node gets no other object than it asked for.
func checkInfo(i location.Info, key string) error {
	if i.Key != key {
		return fmt.Errorf("%w: %w: %q instead of %s", location.ErrUnreachable, errProtocol, i.Key, key)
	}
	return nil
}

// Remove implements location.Location.
func (l *Location) Remove(ctx context.Context, key string) error {
	if err := location.CheckKey(key); err != nil {
		return err
	}
	if _, err := l.call(ctx, message{kind: kindRemove, key: key}, kindDone); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// Space implements location.Location.
func (l *Location) Space(ctx context.Context) (location.Space, error) {
	m, err := l.call(ctx, message{kind: kindSpace}, kindRoom)
	if err != nil {
		return location.Space{}, fmt.Errorf("measure: %w", err)
	}
	return location.Space{Free: m.a, Total: m.b}, nil
}

// Sweep implements location.Location.
func (l *Location) Sweep(ctx context.Context, before time.Time) (int, error) {
	m, err := l.call(ctx, message{kind: kindSweep, a: toNanos(before)}, kindNumber)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	return int(m.a), nil
}

// Close implements location.Location.
func (l *Location) Close() error {
	l.mu.Lock()
	l.closed = true
	for _, s := range l.idle {
		s.timer.Stop()
		l.wg.Go(s.end)
	}
	l.idle = nil
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}
