package link

import (
	"context"
	"net"
	"sync"
)

// acceptQueue is how many connections wait for Accept; those above are closed.
const acceptQueue = 16

// Accept turns the connections of protocol p into a net.Listener, for servers
// that want one (Raft's transport, net/http). It takes the handler of p. The
// connections answer PeerOf. Closing the net.Listener closes the connections
// that wait and refuses later ones, but leaves l and the accepted ones alone;
// closing l closes all.
func Accept(l Listener, p Protocol) net.Listener {
	a := &acceptor{from: l, queue: make(chan *acceptedConn, acceptQueue), done: make(chan struct{})}
	l.Handle(p, a.handle)
	return a
}

type acceptor struct {
	from  Listener
	queue chan *acceptedConn
	once  sync.Once
	done  chan struct{}
}

// handle holds the place of the connection until whoever accepted it closes it.
func (a *acceptor) handle(ctx context.Context, c net.Conn, peer Peer) {
	ac := &acceptedConn{Conn: c, peer: peer, closed: make(chan struct{})}
	select {
	case <-a.done:
		return
	default:
	}
	select {
	case a.queue <- ac:
	default:
		return // nobody accepts
	}
	select {
	case <-ac.closed:
	case <-ctx.Done():
	case <-a.done:
		// Accepted ones go on; one that still waits in the queue is found and
		// closed here or by a neighbour doing the same.
		a.drain()
		select {
		case <-ac.closed:
		case <-ctx.Done():
		}
	}
}

func (a *acceptor) drain() {
	for {
		select {
		case c := <-a.queue:
			c.Close()
		default:
			return
		}
	}
}

// Accept implements net.Listener.
func (a *acceptor) Accept() (net.Conn, error) {
	select {
	case <-a.done:
		return nil, net.ErrClosed
	case <-a.from.Done():
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-a.queue:
		return c, nil
	case <-a.done:
		return nil, net.ErrClosed
	case <-a.from.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (a *acceptor) Close() error {
	a.once.Do(func() { close(a.done) })
	return nil
}

// Addr implements net.Listener.
func (a *acceptor) Addr() net.Addr { return a.from.Addr() }

// acceptedConn tells the waiting handler when it is closed.
type acceptedConn struct {
	net.Conn
	peer   Peer
	once   sync.Once
	closed chan struct{}
}

// Peer is who is on the other side.
func (c *acceptedConn) Peer() Peer { return c.peer }

// NetConn is the connection underneath.
func (c *acceptedConn) NetConn() net.Conn { return c.Conn }

// Close implements net.Conn.
func (c *acceptedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { close(c.closed) })
	return err
}
