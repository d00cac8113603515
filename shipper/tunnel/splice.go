package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"
)

// chunk is the memory that a direction takes.
const chunk = 64 << 10

var errIdle = errors.New("no byte moved for too long")

// splicer copies between the two ends of one connection.
type splicer struct {
	client, server net.Conn
	idle           time.Duration // 0 is no limit
	began          time.Time
	last           atomic.Int64 // when a byte last moved, in ns after began
}

// splice copies both ways. The client may end its half first and still get its
// answers; when the server ends, all is over as soon as the client has its last
// words. Neither connection is usable afterwards.
func splice(ctx context.Context, client, server net.Conn, idle time.Duration) error {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s := &splicer{client: client, server: server, idle: idle, began: time.Now()}
	unhook := context.AfterFunc(ctx, func() {
		client.SetDeadline(time.Unix(1, 0))
		server.SetDeadline(time.Unix(1, 0))
	})
	defer unhook()
	up := make(chan error, 1)
	go func() {
		err := s.up(ctx)
		if err != nil {
			end(err)
		}
		up <- err
	}()
	told, err := s.down(ctx)
	if !told {
		end(err)
		<-up
		return result(context.Cause(ctx))
	}
	linger := time.NewTimer(lingerTime)
	defer linger.Stop()
	select {
	case <-up:
	case <-linger.C:
		end(errDone)
		<-up
	}
	return result(err)
}

// errDone ends a connection in good order.
var errDone = errors.New("connection is done")

func result(err error) error {
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// up copies from the client. It ends with nil when the client has closed and
// the server was told; the server goes on with what it was asked.
func (s *splicer) up(ctx context.Context) error {
	rerr, werr := s.copy(ctx, s.server, s.client)
	if errors.Is(werr, os.ErrDeadlineExceeded) && ctx.Err() == nil {
		return fmt.Errorf("write to the server: %w", werr)
	}
	if werr != nil && ctx.Err() == nil {
		// The server is gone. Its last words may be under way, and a client
		// whose bytes are not read might lose them with a reset.
		rerr, _ = s.copy(ctx, nil, s.client)
	}
	switch {
	case errors.Is(rerr, io.EOF):
		if werr == nil && !closeWrite(s.server) {
			return errDone
		}
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(rerr, errIdle):
		return rerr
	}
	return fmt.Errorf("read from the client: %w", rerr)
}

// down copies from the server. told is true when the server is gone and the
// client, which is to close next, knows; err is nil when the server closed in
// good order, errDone.
func (s *splicer) down(ctx context.Context) (told bool, err error) {
	rerr, werr := s.copy(ctx, s.client, s.server)
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case werr != nil:
		return false, fmt.Errorf("write to the client: %w", werr)
	case errors.Is(rerr, errIdle):
		return false, rerr
	case errors.Is(rerr, io.EOF):
		return closeWrite(s.client), errDone
	}
	// A server that closes with bytes unread resets the connection.
	return closeWrite(s.client), fmt.Errorf("read from the server: %w", rerr)
}

// copy moves bytes until one side fails; rerr is io.EOF when src has closed.
// Without a dst they are thrown away.
func (s *splicer) copy(ctx context.Context, dst, src net.Conn) (rerr, werr error) {
	buf := make([]byte, chunk)
	for {
		n, err := s.read(ctx, src, buf)
		if n > 0 && dst != nil {
			if werr := s.write(ctx, dst, buf[:n]); werr != nil {
				return nil, werr
			}
		}
		if err != nil {
			return err, nil
		}
	}
}

// read waits for bytes as long as there are any in either direction.
func (s *splicer) read(ctx context.Context, c net.Conn, buf []byte) (int, error) {
	for {
		var limit time.Time
		if s.idle > 0 {
			limit = s.began.Add(time.Duration(s.last.Load()) + s.idle)
		}
		c.SetReadDeadline(limit)
		if ctx.Err() != nil { // its end may have set the deadline before us
			return 0, context.Cause(ctx)
		}
		n, err := c.Read(buf)
		if n > 0 {
			s.moved()
			return n, err
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil {
			return 0, err
		}
		if quiet := time.Since(s.began) - time.Duration(s.last.Load()); quiet >= s.idle {
			return 0, fmt.Errorf("%w: %s", errIdle, s.idle)
		}
	}
}

func (s *splicer) write(ctx context.Context, c net.Conn, b []byte) error {
	c.SetWriteDeadline(time.Now().Add(stallTime))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, err := c.Write(b); err != nil {
		return err
	}
	s.moved()
	return nil
}

func (s *splicer) moved() { s.last.Store(int64(time.Since(s.began))) }
