package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"understudy/shipper/localsock"
)

const (
	maxConns = 4
	// maxTurned is how many clients are told at a time why they may not
	// connect; those above are closed.
	maxTurned = 4
)

// ListenConfig wires the end where the tool connects.
type ListenConfig struct {
	// Socket is the full path, DIR/.s.PGSQL.PORT, at most 107 bytes.
	Socket string
	// AllowUIDs are the accounts that may connect; empty means only that of
	// this process.
	AllowUIDs []uint32
	// Dial opens a connection to the other end, Serve. Its context ends when
	// the client leaves. Its error goes to the client.
	Dial func(context.Context) (net.Conn, error)
	// Ready is called once, when the socket takes connections: a tool that is
	// started sooner finds nobody. It may be nil.
	Ready func()
	// Logger receives what ends connections out of order; nil discards.
	Logger *slog.Logger
}

type listener struct {
	cfg    ListenConfig
	log    *slog.Logger
	slots  chan struct{} // one token per connection
	turned chan struct{} // one token per client that is told why it may not connect
}

// Listen takes connections on cfg.Socket until ctx ends, then closes them all
// and returns nil after the last one is done. At most 4 are served at once. A
// socket file that nobody listens on is removed first.
func Listen(ctx context.Context, cfg ListenConfig) error {
	if cfg.Dial == nil {
		return errors.New("listen for a tunnel: a way to dial is required")
	}
	t := &listener{cfg: cfg, log: cfg.Logger, slots: make(chan struct{}, maxConns), turned: make(chan struct{}, maxTurned)}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	l, err := localsock.Listen(cfg.Socket)
	if err != nil {
		return fmt.Errorf("listen for a tunnel: %w", err)
	}
	defer l.Close()
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// On the derived context, so that its end is visible when accept fails.
	unhook := context.AfterFunc(ctx, func() { l.Close() })
	defer unhook()
	if cfg.Ready != nil {
		cfg.Ready()
	}
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if err == nil {
				c.Close()
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("listen for a tunnel: %w", err)
		}
		t.take(ctx, &conns, c)
	}
}

// take starts the goroutine of a connection, if it gets one.
func (t *listener) take(ctx context.Context, conns *sync.WaitGroup, c *net.UnixConn) {
	no := t.admit(c)
	work, places := t.carry, t.slots
	if no != nil {
		work = func(ctx context.Context, c net.Conn) error { return turnAway(ctx, c, no) }
		select {
		case t.turned <- struct{}{}:
			places = t.turned
		default:
			c.Close()
			return
		}
	}
	conns.Go(func() {
		defer func() { <-places }()
		defer c.Close()
		if err := work(ctx, c); err != nil && ctx.Err() == nil {
			t.log.Warn("tunnel connection ended", "error", err)
		}
	})
}

// placePatience is how long a connection waits for a place.
const placePatience = 300 * time.Millisecond

// admit takes a place for the connection, or tells why it gets none. Strangers
// take no place.
func (t *listener) admit(c *net.UnixConn) error {
	uid, err := localsock.PeerUID(c)
	if err != nil {
		return fmt.Errorf("read peer credentials: %w", err)
	}
	if !localsock.Allowed(t.cfg.AllowUIDs, uid) {
		return &refusal{"28000", fmt.Sprintf("account %d may not connect to the tunnel's socket", uid)}
	}
	select {
	case t.slots <- struct{}{}:
		return nil
	case <-time.After(placePatience): // one that was just left is free in a moment
		return &refusal{"53300", fmt.Sprintf("more than %d tunnel connections", maxConns)}
	}
}

// turnAway reads the startup message first: clients do not listen before it is
// out.
func turnAway(ctx context.Context, c net.Conn, why error) error {
	if _, err := takeStartup(ctx, c); err == nil {
		lastWords(ctx, c, why)
	}
	return why
}

// carry serves one client. The other end is dialled when the client has proven
// to be one by its startup message, so that whoever only looks whether the
// socket answers costs nothing.
func (t *listener) carry(ctx context.Context, c net.Conn) error {
	s, err := takeStartup(ctx, c)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return err
	}
	return Forward(ctx, c, s.raw, t.cfg.Dial)
}

// Forward carries a client whose startup message somebody else has taken from
// c: it dials the other end, Serve, as Listen does, hands it the message and
// copies both ways until either side ends or ctx does. The client is told why
// there is no server for it. c is the caller's to close.
func Forward(ctx context.Context, c net.Conn, startup []byte, dial func(context.Context) (net.Conn, error)) error {
	var far net.Conn
	err := attend(ctx, c, func(ctx context.Context) (err error) {
		far, err = dial(ctx)
		return err
	})
	if far != nil {
		defer far.Close()
	}
	switch {
	case errors.Is(err, errGone):
		return err
	case err != nil:
		lastWords(ctx, c, err)
		return err
	}
	allowStalls(far)
	far.SetWriteDeadline(time.Now().Add(startupTime))
	if _, err := far.Write(startup); err != nil {
		err = fmt.Errorf("pass the startup message on: %w", err)
		lastWords(ctx, c, err)
		return err
	}
	// Silence is bounded at the other end, which has a server to protect.
	return splice(ctx, c, far, 0)
}
