// Package tunnel carries one kind of PostgreSQL connection between two nodes:
// a tool of a returning node, pg_rewind above all, reads from the new primary's
// server through the daemons' own link. Listen is the end where the tool
// connects, Serve the end where the server is; Forward is for who has another
// place where clients connect. See DESIGN.md.
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

const (
	// startupTime bounds a startup message, from the first byte awaited to the
	// last one read.
	startupTime = 5 * time.Second
	// dialTime bounds the connect to the local server.
	dialTime = 5 * time.Second
	// stallTime is how long a side may leave bytes untaken. A tool that writes
	// to a busy disk pauses for seconds, and a rewind that is cut leaves a data
	// directory that can only be seeded anew.
	stallTime = 60 * time.Second
	// idleTime is the default of ServeConfig.Idle.
	idleTime = 60 * time.Second
	// lingerTime is how long a client may take to close after the server has.
	lingerTime = time.Second
	// wordsTime bounds the telling of why a connection ends.
	wordsTime = time.Second
)

var (
	errEarly = &refusal{"08P01", "bytes follow the startup message before the server has answered it"}
	errGone  = errors.New("client went away before the server answered")
)

// interrupt makes the reads of c return at once when ctx ends, until stop. Who
// sets a read deadline of its own looks at ctx afterwards: the deadline may
// have replaced this one.
func interrupt(ctx context.Context, c net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
}

// attend runs f, whose context ends also when the client closes, so that
// nobody works for a client that is gone. A client has nothing to say yet:
// bytes from it are an error.
func attend(outer context.Context, c net.Conn, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(outer)
	defer cancel(nil)
	c.SetReadDeadline(time.Time{})
	stop := interrupt(ctx, c)
	defer stop()
	done := make(chan struct{})
	watched := make(chan error, 1)
	go func() {
		err := listenFor(ctx, c, done)
		if err != nil {
			cancel(err)
		}
		watched <- err
	}()
	err := f(ctx)
	close(done)
	c.SetReadDeadline(time.Unix(1, 0))
	heard := <-watched
	switch {
	case outer.Err() != nil:
		return context.Cause(outer)
	case heard != nil:
		return heard
	}
	return err
}

// listenFor reads until the client speaks or closes, which are errors, or
// until its reads are interrupted.
func listenFor(ctx context.Context, c net.Conn, done <-chan struct{}) error {
	var b [1]byte
	n, err := c.Read(b[:])
	if n > 0 {
		return errEarly
	}
	select {
	case <-done:
		return nil
	default:
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", errGone, err)
}

// closeWrite tells the other side that no more bytes come, where c has a way
// to say so short of closing.
func closeWrite(c net.Conn) bool {
	h, ok := c.(interface{ CloseWrite() error })
	return ok && h.CloseWrite() == nil
}
