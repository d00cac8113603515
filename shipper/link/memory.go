package link

import (
	"context"
	"fmt"
	"maps"
	"net"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// memGroup is the group of the nodes that Node makes.
const memGroup = "memory"

// MemNetwork connects nodes in memory, with the rules and errors of TLS and
// faults on demand. It is safe for concurrent use.
type MemNetwork struct {
	mu        sync.Mutex
	listeners map[string]*memListener
	owners    map[string]string // who listened last on an address, also after Close
	links     map[*memLink]pair
	cuts      map[pair]chan struct{} // closed by Heal
	nextPort  int
}

// pair is two node names in order.
type pair struct{ a, b string }

func pairOf(a, b string) pair {
	if b < a {
		a, b = b, a
	}
	return pair{a, b}
}

// Memory makes a network without nodes.
func Memory() *MemNetwork {
	return &MemNetwork{
		listeners: make(map[string]*memListener),
		owners:    make(map[string]string),
		links:     make(map[*memLink]pair),
		cuts:      make(map[pair]chan struct{}),
		nextPort:  1,
	}
}

// Node is the network as the node called name sees it. All nodes made by it
// are of one group.
func (m *MemNetwork) Node(name string) Network { return m.Member(memGroup, name) }

// Member is Node in a group of choice.
func (m *MemNetwork) Member(group, name string) Network {
	return &memNode{net: m, id: Identity{Node: name, Group: group}}
}

// Cut stops all traffic between nodes a and b, in both directions and without a
// sign: what is written waits, dialling hangs until its time is up. Connections
// that are cut for UserTimeout end with syscall.ETIMEDOUT.
func (m *MemNetwork) Cut(a, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := pairOf(a, b)
	if _, ok := m.cuts[p]; !ok {
		m.cuts[p] = make(chan struct{})
	}
	m.setCut(p, true)
}

// Heal undoes Cut; what waited arrives.
func (m *MemNetwork) Heal(a, b string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := pairOf(a, b)
	if ch, ok := m.cuts[p]; ok {
		close(ch)
		delete(m.cuts, p)
	}
	m.setCut(p, false)
}

// setCut is called with m.mu held; a link's lock is always taken after it.
func (m *MemNetwork) setCut(p pair, cut bool) {
	for l, of := range m.links {
		if of == p {
			l.setCut(cut)
		}
	}
}

// CloseAll ends every open connection with syscall.ECONNRESET on both sides.
// Listeners and cuts stay.
func (m *MemNetwork) CloseAll() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for l := range m.links {
		l.kill(syscall.ECONNRESET)
		delete(m.links, l)
	}
}

type memNode struct {
	net *MemNetwork
	id  Identity
}

// Listen implements Network. Any text is an address; one that ends in ":0"
// gets a number of its own.
func (n *memNode) Listen(addr string) (Listener, error) {
	m := n.net
	m.mu.Lock()
	defer m.mu.Unlock()
	if host, ok := strings.CutSuffix(addr, ":0"); ok {
		addr = host + ":" + strconv.Itoa(m.nextPort)
		m.nextPort++
	}
	if _, ok := m.listeners[addr]; ok {
		return nil, fmt.Errorf("%w: another node listens on %s", ErrAddrInUse, addr)
	}
	l := &memListener{server: newServer(), net: m, id: n.id, addr: memAddr(addr), pending: make(chan *memDial, MaxHandshakes)}
	m.listeners[addr], m.owners[addr] = l, n.id.Node
	return l, nil
}

// Dial implements Network.
func (n *memNode) Dial(ctx context.Context, addr string, p Protocol, node string) (net.Conn, Peer, error) {
	c, peer, err := n.dial(ctx, addr, p, node)
	if err != nil {
		return nil, Peer{}, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, peer, nil
}

func (n *memNode) dial(ctx context.Context, addr string, p Protocol, node string) (net.Conn, Peer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, HandshakeTimeout, errSlowHandshake)
	defer cancel()
	if ctx.Err() != nil {
		return nil, Peer{}, context.Cause(ctx)
	}
	l, err := n.net.reach(ctx, n.id.Node, addr)
	if err != nil {
		return nil, Peer{}, err
	}
	if l.id.Group != n.id.Group {
		return nil, Peer{}, fmt.Errorf("%w: node %q is of group %q, not %q", ErrForeignGroup, l.id.Node, l.id.Group, n.id.Group)
	}
	if err := checkNode(l.id.Node, node, addr); err != nil {
		return nil, Peer{}, err
	}
	link := newMemLink(memAddr(n.id.Node), l.addr)
	d := &memDial{conn: link.ends[1], p: p, peer: Peer{Node: n.id.Node, Group: n.id.Group, Addr: n.id.Node}, verdict: make(chan error, 1)}
	n.net.track(link, pairOf(n.id.Node, l.id.Node))
	if err := l.knock(ctx, d); err != nil {
		link.kill(syscall.ECONNRESET)
		n.net.forget(link)
		return nil, Peer{}, err
	}
	return link.ends[0], Peer{Node: l.id.Node, Group: l.id.Group, Addr: addr}, nil
}

// reach finds the listener of addr. While the two nodes are cut it waits, also
// when nobody listens: not even a refusal comes through.
func (m *MemNetwork) reach(ctx context.Context, from, addr string) (*memListener, error) {
	for {
		m.mu.Lock()
		l, ok := m.listeners[addr]
		healed := m.cuts[pairOf(from, m.owners[addr])]
		m.mu.Unlock()
		switch {
		case healed == nil && ok:
			return l, nil
		case healed == nil:
			return nil, &net.OpError{Op: "connect", Net: "memory", Addr: memAddr(addr), Err: syscall.ECONNREFUSED}
		}
		select {
		case <-healed:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// track makes l subject to faults, and lets go of the links that are over.
func (m *MemNetwork) track(l *memLink, p pair) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.links, func(old *memLink, _ pair) bool { return old.isOver() })
	m.links[l] = p
	l.setCut(m.cuts[p] != nil)
}

func (m *MemNetwork) forget(l *memLink) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.links, l)
}

// memDial is a connection on its way to a listener.
type memDial struct {
	conn    *memConn
	p       Protocol
	peer    Peer
	verdict chan error // takes one value
}

type memListener struct {
	*server
	net     *MemNetwork
	id      Identity
	addr    memAddr
	pending chan *memDial
}

// Addr implements Listener.
func (l *memListener) Addr() net.Addr { return l.addr }

// Close implements Listener.
func (l *memListener) Close() error {
	if !l.shut() {
		return nil
	}
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	delete(l.net.listeners, string(l.addr))
	return nil
}

// knock hands d over and waits for the verdict.
func (l *memListener) knock(ctx context.Context, d *memDial) error {
	select {
	case l.pending <- d:
	case <-l.done:
		return syscall.ECONNREFUSED
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case err := <-d.verdict:
		return err
	case <-l.done:
		return syscall.ECONNRESET
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Serve implements Listener.
func (l *memListener) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer l.Close()
	for {
		select {
		case <-l.done:
			return nil
		case <-ctx.Done():
			return nil
		case d := <-l.pending:
			h, err := l.admit(d.p)
			d.verdict <- err
			if err != nil {
				continue
			}
			wg.Go(func() {
				defer l.release()
				serveConn(ctx, d.conn, d.peer, h)
			})
		}
	}
}
