package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// ServeConfig says what a peer's connection gets. What User may do in
// Database, the peer may do; it can become nobody else and reach no other
// database.
type ServeConfig struct {
	// Target is the unix socket of the local server, DIR/.s.PGSQL.PORT. The
	// server must let User in without a password.
	Target string
	// User and Database replace those that the client asks for.
	User, Database string
	// Before runs before the server is asked, once the client has said a
	// proper startup message: is this node the primary, and a checkpoint.
	// Its error goes to the client. Its context ends when the client leaves.
	// nil is nothing to do.
	Before func(context.Context) error
	// Idle ends a connection on which no byte moved either way for so long;
	// 0 means 60 s. pg_rewind is silent while it reads its own log and data
	// directory, which with much of either takes minutes: too short a value
	// cuts it off there.
	Idle time.Duration
}

// Serve answers one connection of a peer: it reads the startup message,
// connects to the server as cfg.User, and copies both ways until either side
// ends or ctx does. c is closed when it returns. A client that waits for an
// answer is told why there is none. The error is nil when a side closed in
// good order, and the cause of ctx when that ended it.
func Serve(ctx context.Context, c net.Conn, cfg ServeConfig) error {
	defer c.Close()
	allowStalls(c)
	server, hello, err := cfg.open(ctx, c)
	if err != nil {
		if server != nil {
			server.Close()
		}
		return err
	}
	defer server.Close()
	if len(hello) > 0 {
		c.SetWriteDeadline(time.Now().Add(startupTime))
		if _, err := c.Write(hello); err != nil {
			return fmt.Errorf("answer startup message: %w", err)
		}
	}
	idle := cfg.Idle
	if idle <= 0 {
		idle = idleTime
	}
	return splice(ctx, c, server, idle)
}

// open does all that comes before the copying. hello is what the client is
// told before the server's own answer. A client that can understand it has
// been told the error.
func (cfg ServeConfig) open(ctx context.Context, c net.Conn) (server net.Conn, hello []byte, err error) {
	if cfg.Target == "" || cfg.User == "" || cfg.Database == "" {
		return nil, nil, errors.New("serve a tunnel: target, user and database are required")
	}
	s, err := takeStartup(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil && !errors.Is(err, errGone) {
			lastWords(ctx, c, err)
		}
	}()
	packet, err := s.forward(cfg.User, cfg.Database)
	if err != nil {
		return nil, nil, err
	}
	if hello, err = s.negotiation(); err != nil {
		return nil, nil, err
	}
	err = attend(ctx, c, func(ctx context.Context) error {
		server, err = cfg.connect(ctx, packet)
		return err
	})
	return server, hello, err
}

// connect readies the server and hands it the startup message.
func (cfg ServeConfig) connect(ctx context.Context, packet []byte) (net.Conn, error) {
	if cfg.Before != nil {
		if err := cfg.Before(ctx); err != nil {
			return nil, fmt.Errorf("prepare the server: %w", err)
		}
	}
	d := net.Dialer{Timeout: dialTime}
	server, err := d.DialContext(ctx, "unix", cfg.Target)
	if err != nil {
		return nil, fmt.Errorf("reach the server: %w", err)
	}
	server.SetWriteDeadline(time.Now().Add(dialTime))
	if _, err := server.Write(packet); err != nil {
		server.Close()
		return nil, fmt.Errorf("reach the server: %w", err)
	}
	return server, nil
}

// takeStartup reads the startup message of c in the time that there is for it.
// A client that sent nonsense is told so.
func takeStartup(ctx context.Context, c net.Conn) (*startup, error) {
	defer interrupt(ctx, c)()
	c.SetDeadline(time.Now().Add(startupTime))
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	s, err := readStartup(c)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if no := new(refusal); errors.As(err, &no) {
		lastWords(ctx, c, no)
	}
	return s, err
}

// allowStalls gives a connection of the link as long as stallTime to take what
// was sent. The link's own few seconds are meant for log streams, whose
// readers never stop reading.
func allowStalls(c net.Conn) {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = t.NetConn()
	}
	t, ok := c.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := t.SyscallConn()
	if err != nil {
		return // closed: the next read says so
	}
	_ = raw.Control(func(fd uintptr) {
		// Without it a stall ends the connection sooner, no more.
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stallTime.Milliseconds()))
	})
}
