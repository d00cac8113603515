package raftnode

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// streams is a StreamLayer that names itself by the advertised address and
// ends every connection when it is closed: Raft's transport leaves accepted
// ones to the peer, which may never close them, and waits for the answer on
// dialed ones until it times out.
type streams struct {
	raft.StreamLayer
	addr advertised

	mu     sync.Mutex
	closed bool                  // guarded by mu
	open   map[*tracked]struct{} // guarded by mu
}

func newStreams(s raft.StreamLayer, advertise string) *streams {
	if advertise == "" {
		advertise = s.Addr().String()
	}
	return &streams{StreamLayer: s, addr: advertised(advertise), open: map[*tracked]struct{}{}}
}

// advertised is the address under which other nodes reach this one.
type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

// Addr is the advertised address.
func (s *streams) Addr() net.Addr { return s.addr }

// Accept waits for the next connection.
func (s *streams) Accept() (net.Conn, error) {
	c, err := s.StreamLayer.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(c)
}

// Dial connects to another node.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := s.StreamLayer.Dial(addr, timeout)
	if err != nil {
		return nil, err
	}
	return s.track(c)
}

func (s *streams) track(c net.Conn) (net.Conn, error) {
	t := &tracked{Conn: c, from: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		c.Close()
		return nil, net.ErrClosed
	}
	s.open[t] = struct{}{}
	return t, nil
}

// Close stops accepting and ends every connection.
func (s *streams) Close() error {
	err := s.StreamLayer.Close()
	s.mu.Lock()
	s.closed = true
	var open []*tracked
	for t := range s.open {
		open = append(open, t)
	}
	s.mu.Unlock()
	for _, t := range open {
		t.Close()
	}
	return err
}

// tracked is a connection that leaves its list when it is closed.
type tracked struct {
	net.Conn
	from *streams
}

// Close ends the connection.
func (t *tracked) Close() error {
	t.from.mu.Lock()
	delete(t.from.open, t)
	t.from.mu.Unlock()
	return t.Conn.Close()
}
