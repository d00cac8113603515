// Package link connects the daemons of a group: mutually authenticated TLS 1.3
// on one port, where ALPN picks the protocol, and an in-memory twin for tests.
//
// A node is its certificate: the group is the certificate's organization, the
// node its common name, and both are trusted because the group's own CA signed
// them. Host names play no part. README.md shows the one byte that the link
// puts in front of a connection.
//
// A connection whose data is not taken for five seconds ends, also when the
// other side is alive and merely does not read. A handler that may stall
// longer, for instance on a slow disk, must keep reading meanwhile.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Protocol is an ALPN name. It tells what is spoken on a connection.
type Protocol string

// The protocols of the daemons.
const (
	Ledger  Protocol = "understudy-ledger/1"  // Raft between ledger members
	Stream  Protocol = "understudy-stream/1"  // WAL and seeding
	Control Protocol = "understudy-control/1" // reports and proposals
	Admin   Protocol = "understudy-admin/1"   // the operator's commands
	Place   Protocol = "understudy-place/1"   // objects of another node's location
)

// Limits of a link.
const (
	// HandshakeTimeout bounds the time from TCP connect to agreed protocol, on
	// either side, and separately the connect itself.
	HandshakeTimeout = 3 * time.Second
	// UserTimeout is how long sent data may stay unconfirmed before the
	// connection ends with a timeout.
	UserTimeout = 5 * time.Second
	// MaxHandshakes is how many connections a listener holds in handshakes;
	// those above are closed at once.
	MaxHandshakes = 64
	// MaxOpen is how many connections a listener serves; those above get
	// ErrBusy.
	MaxOpen = 256
)

var (
	// ErrForeignGroup is returned when the other side's certificate was not
	// issued by this group's CA, or ours not by theirs. Permanent until one of
	// the two certificates changes.
	ErrForeignGroup = errors.New("certificate of another group")
	// ErrWrongNode is returned when another node of the group answered than the
	// one expected.
	ErrWrongNode = errors.New("wrong node answered")
	// ErrExpired is returned when one of the two certificates is not valid now.
	ErrExpired = errors.New("certificate not valid at this time")
	// ErrProtocol is returned when the other side does not serve the protocol
	// at this moment.
	ErrProtocol = errors.New("protocol not served")
	// ErrBusy is returned when the other side serves MaxOpen connections.
	ErrBusy = errors.New("too many connections")
	// ErrNotTLS is returned when what answered does not speak TLS.
	ErrNotTLS = errors.New("not a node's port")
	// ErrCredentials is returned when certificate, key and CA cannot be used.
	ErrCredentials = errors.New("unusable credentials")
	// ErrAddrInUse is returned by Listen when another process has the port.
	ErrAddrInUse = errors.New("address in use")
)

// Identity is what a certificate says about its node.
type Identity struct {
	Node     string
	Group    string    // group id
	NotAfter time.Time // end of the certificate's validity
}

// Peer is the other side of a connection, as its certificate names it.
type Peer struct {
	Node  string
	Group string
	Addr  string // network address that the connection goes to or comes from
}

// Handler serves one connection. The connection is closed when it returns. ctx
// ends when the listener closes, and the connection is closed then, too, so a
// blocked Read or Write returns.
type Handler = func(ctx context.Context, c net.Conn, peer Peer)

// Network is how a node reaches the others and is reached. It is safe for
// concurrent use.
type Network interface {
	// Listen takes the address, without serving yet. A port in use is
	// ErrAddrInUse.
	Listen(addr string) (Listener, error)
	// Dial connects to addr for protocol p and returns once the other side has
	// proven to be a member of this group, has accepted this node and serves p.
	// node is the name expected; empty accepts any. The errors are
	// ErrForeignGroup, ErrWrongNode, ErrExpired, ErrProtocol, ErrBusy,
	// ErrNotTLS, those of ctx, and the network's: a closed port is
	// syscall.ECONNREFUSED.
	Dial(ctx context.Context, addr string, p Protocol, node string) (net.Conn, Peer, error)
}

// Listener serves the connections of one address. It is safe for concurrent
// use.
type Listener interface {
	// Handle names the handler of p, before or during Serve. Until then p is
	// not served. It panics when p has one already.
	Handle(p Protocol, h Handler)
	// Serve accepts until Close or the end of ctx, and returns after the last
	// handler did. It returns nil after Close or the end of ctx. It is called
	// once.
	Serve(ctx context.Context) error
	// Addr is the address that is listened on.
	Addr() net.Addr
	// Close stops accepting, ends the contexts of the handlers and closes their
	// connections. It does not wait; Serve does. Closing again does nothing.
	Close() error
	// Done is closed when the listener is.
	Done() <-chan struct{}
}

// peerConn is a connection that knows its peer.
type peerConn interface{ Peer() Peer }

// PeerOf tells who is on the other side of a connection that Accept returned.
func PeerOf(c net.Conn) (Peer, bool) {
	if p, ok := c.(peerConn); ok {
		return p.Peer(), true
	}
	return Peer{}, false
}

// checkNode is the comparison of the node that answered with the one expected.
func checkNode(got, want, addr string) error {
	if want == "" || got == want {
		return nil
	}
	return fmt.Errorf("%w: node %q at %s, expected %q", ErrWrongNode, got, addr, want)
}
