package link

import (
	"context"
	"fmt"
	"net"
	"sync"
)

// server is what the listeners of both networks share: the handlers, the bound
// on open connections, and the end of them all.
type server struct {
	done chan struct{}

	mu       sync.Mutex
	handlers map[Protocol]Handler
	open     int // connections whose handler runs or is about to
	closed   bool
}

func newServer() *server {
	return &server{done: make(chan struct{}), handlers: make(map[Protocol]Handler)}
}

// Handle implements Listener.
func (s *server) Handle(p Protocol, h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.handlers[p]; ok {
		panic("link: two handlers for " + string(p))
	}
	s.handlers[p] = h
}

// Done implements Listener.
func (s *server) Done() <-chan struct{} { return s.done }

// protocols lists what is served now.
func (s *server) protocols() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(s.handlers))
	for p := range s.handlers {
		out = append(out, string(p))
	}
	return out
}

// admit reserves a place for a connection of protocol p. Whoever gets the
// handler calls release when the connection has ended.
func (s *server) admit(p Protocol) (Handler, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h, ok := s.handlers[p]
	switch {
	case s.closed:
		return nil, net.ErrClosed
	case !ok:
		return nil, fmt.Errorf("%w: %q", ErrProtocol, p)
	case s.open >= MaxOpen:
		return nil, fmt.Errorf("%w: %d are open", ErrBusy, s.open)
	}
	s.open++
	return h, nil
}

func (s *server) release() {
	s.mu.Lock()
	s.open--
	s.mu.Unlock()
}

// shut marks the server closed; true the first time.
func (s *server) shut() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.closed = true
	close(s.done)
	return true
}

// serveConn runs h with c until it returns; c is closed then, or when ctx ends.
func serveConn(ctx context.Context, c net.Conn, peer Peer, h Handler) {
	closed := make(chan struct{})
	// Closing may take seconds when the other side does not read, so each
	// connection is closed by a goroutine of its own and all at once.
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		c.Close()
	})
	h(ctx, c, peer)
	if stop() {
		c.Close()
		return
	}
	<-closed
}
