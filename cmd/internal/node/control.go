package node

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/shipper/flow"
	"understudy/shipper/link"
)

// The control stream carries reports, every 100 ms from every node to every
// other, and requests to the ledger's leader. Reports go to all nodes and not
// only to the leader, so that every node can show the whole group, and so that
// a new leader knows it at once.

// message is one unit of the control stream: four bytes of length, then JSON.
type message struct {
	Kind   string          `json:"kind"` // "report", "request", "reply"
	ID     uint64          `json:"id,omitempty"`
	Op     string          `json:"op,omitempty"` // "propose", "read"
	Body   json.RawMessage `json:"body,omitempty"`
	Error  string          `json:"error,omitempty"`
	Leader bool            `json:"leader,omitempty"` // reply: the error is "not the leader"
}

const (
	maxMessage  = 8 << 20
	reportEvery = 100 * time.Millisecond
	// controlSilence ends a connection on which no report came.
	controlSilence = 3 * time.Second
)

func writeMessage(w io.Writer, m message) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if len(b) > maxMessage {
		return fmt.Errorf("control message of %d bytes is above the limit", len(b))
	}
	_, err = w.Write(append(binary.LittleEndian.AppendUint32(make([]byte, 0, len(b)+4), uint32(len(b))), b...))
	return err
}

func readMessage(r *bufio.Reader) (message, error) {
	var m message
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return m, err
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n > maxMessage {
		return m, fmt.Errorf("control message of %d bytes is above the limit", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return m, err
	}
	return m, json.Unmarshal(b, &m)
}

// target is a node to talk to.
type target struct{ Name, Address string }

// control keeps one connection to every other node and answers theirs.
type control struct {
	self    string
	net     link.Network
	log     *slog.Logger
	report  func() decide.Report
	targets func() []target
	propose func(context.Context, []byte) ([]byte, error)
	read    func(context.Context) ([]byte, error)
	reseed  func(context.Context, []byte) ([]byte, error)
	restore func(ctx context.Context, op string, body []byte) ([]byte, error)
	audit   func(body []byte) ([]byte, error)

	ears *ears

	mu    sync.Mutex
	heard map[string]decide.Heard // by store
	out   map[string]*outgoing    // by node name
	last  []byte                  // newest report, encoded
	fresh chan struct{}           // closed and replaced with last when it says something new
	kick  chan struct{}
	wake  chan struct{} // signalled when another node's report says something new
}

func newControl(self string, n link.Network, log *slog.Logger) *control {
	return &control{ears: newEars(), self: self, net: n, log: log, heard: map[string]decide.Heard{}, out: map[string]*outgoing{}, fresh: make(chan struct{}),
		kick: make(chan struct{}, 1), wake: make(chan struct{}, 1)}
}

// outgoing is our connection to one node.
type outgoing struct {
	to     target
	cancel context.CancelFunc
	done   chan struct{}
	send   chan message // requests

	mu      sync.Mutex
	up      bool
	pending map[uint64]chan message
	next    uint64
}

// hurry sends the next report now, and has the controller look at it.
func (c *control) hurry() {
	for _, ch := range []chan struct{}{c.kick, c.wake} {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// reports are the newest of every node by store, our own included.
func (c *control) reports() map[string]decide.Heard {
	own := c.report()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]decide.Heard, len(c.heard)+1)
	for s, h := range c.heard {
		out[s] = h
	}
	out[own.Store] = decide.Heard{Report: own, At: time.Now()}
	return out
}

// heardByNode are the newest reports of the other nodes by name.
func (c *control) heardByNode() map[string]decide.Heard {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]decide.Heard, len(c.heard))
	for _, h := range c.heard {
		if old, ok := out[h.Report.Node]; !ok || old.At.Before(h.At) {
			out[h.Report.Node] = h
		}
	}
	return out
}

// run keeps the connections that targets name until ctx ends.
func (c *control) run(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	defer func() {
		c.mu.Lock()
		outs := c.out
		c.out = map[string]*outgoing{}
		c.mu.Unlock()
		for _, o := range outs {
			o.cancel()
			<-o.done
		}
	}()
	kicked := false
	for {
		c.align(ctx, kicked)
		kicked = false
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.kick:
			kicked = true
		}
	}
}

// align starts and ends connections, and encodes the newest report, which is
// sent at once when it is news.
func (c *control) align(ctx context.Context, news bool) {
	c.ears.listen()
	body, err := json.Marshal(c.report())
	if err != nil {
		c.log.Error("encode report", "error", err)
		return
	}
	want := map[string]target{}
	for _, t := range c.targets() {
		if t.Name != c.self && t.Address != "" {
			want[t.Name] = t
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = body
	if news {
		close(c.fresh)
		c.fresh = make(chan struct{})
	}
	for name, o := range c.out {
		if want[name] != o.to {
			o.cancel()
			delete(c.out, name)
		}
	}
	for name, t := range want {
		if c.out[name] == nil {
			octx, cancel := context.WithCancel(ctx)
			o := &outgoing{to: t, cancel: cancel, done: make(chan struct{}), send: make(chan message, 16), pending: map[uint64]chan message{}}
			c.out[name] = o
			go c.keep(octx, o)
		}
	}
}

// keep dials a node again and again.
func (c *control) keep(ctx context.Context, o *outgoing) {
	defer close(o.done)
	back := flow.Backoff{Min: 20 * time.Millisecond, Max: 500 * time.Millisecond}
	for ctx.Err() == nil {
		began := time.Now()
		err := c.talk(ctx, o)
		if ctx.Err() != nil {
			return
		}
		c.log.Debug("control connection", "to", o.to.Name, "error", err)
		if time.Since(began) > time.Second {
			back.Reset()
		}
		select {
		case <-ctx.Done():
		case <-time.After(back.Next(0.5)):
		}
	}
}

func (c *control) talk(ctx context.Context, o *outgoing) error {
	conn, _, err := c.net.Dial(ctx, o.to.Address, link.Control, o.to.Name)
	if c.ears.answered(o.to.Name, errors.Is(err, syscall.ECONNREFUSED)) {
		c.hurry()
	}
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	o.setUp(true)
	defer o.setUp(false)
	replies := make(chan error, 1)
	go func() {
		r := bufio.NewReader(conn)
		for {
			m, err := readMessage(r)
			if err != nil {
				conn.Close()
				replies <- err
				return
			}
			o.deliver(m)
		}
	}()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		c.mu.Lock()
		m, fresh := message{Kind: "report", Body: c.last}, c.fresh
		c.mu.Unlock()
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		if err := writeMessage(conn, m); err != nil {
			return errors.Join(err, <-replies)
		}
		for wait := true; wait; {
			select {
			case err := <-replies:
				return err
			case q := <-o.send:
				conn.SetWriteDeadline(time.Now().Add(time.Second))
				if err := writeMessage(conn, q); err != nil {
					return errors.Join(err, <-replies)
				}
			case <-tick.C:
				wait = false
			case <-fresh:
				wait = false
			}
		}
	}
}

func (o *outgoing) setUp(up bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.up = up
	if !up {
		for id, ch := range o.pending {
			close(ch)
			delete(o.pending, id)
		}
	}
}

func (o *outgoing) deliver(m message) {
	o.mu.Lock()
	ch := o.pending[m.ID]
	delete(o.pending, m.ID)
	o.mu.Unlock()
	if ch != nil {
		ch <- m
	}
}

// ErrUnreached is returned when the ledger's leader has no open connection.
var errUnreached = errors.New("no connection to the ledger's leader")

// ask sends a request to a node and waits for its reply.
func (c *control) ask(ctx context.Context, addr, op string, body []byte) ([]byte, error) {
	var o *outgoing
	c.mu.Lock()
	for _, x := range c.out {
		if x.to.Address == addr {
			o = x
		}
	}
	c.mu.Unlock()
	if o == nil {
		return nil, errUnreached
	}
	ch := make(chan message, 1)
	o.mu.Lock()
	if !o.up {
		o.mu.Unlock()
		return nil, errUnreached
	}
	o.next++
	id := o.next
	o.pending[id] = ch
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		delete(o.pending, id)
		o.mu.Unlock()
	}()
	select {
	case o.send <- message{Kind: "request", ID: id, Op: op, Body: body}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case m, ok := <-ch:
		switch {
		case !ok:
			return nil, errUnreached
		case m.Leader:
			return nil, ledger.ErrNotLeader
		case m.Error != "":
			return nil, errors.New(m.Error)
		}
		return m.Body, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Propose and Read forward to the leader; control is the ledger's Forwarder.
func (c *control) Propose(ctx context.Context, _, addr string, cmd []byte) ([]byte, error) {
	return c.ask(ctx, addr, "propose", cmd)
}

// Read asks the leader for a confirmed state.
func (c *control) Read(ctx context.Context, _, addr string) ([]byte, error) {
	return c.ask(ctx, addr, "read", nil)
}

// handle serves one connection of another node.
func (c *control) handle(ctx context.Context, conn net.Conn, peer link.Peer) {
	r := bufio.NewReader(conn)
	var wmu sync.Mutex
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, 32)
	var store string // that speaks here
	defer func() { c.hungUp(store) }()
	for {
		conn.SetReadDeadline(time.Now().Add(controlSilence))
		m, err := readMessage(r)
		if err != nil {
			return
		}
		switch m.Kind {
		case "report":
			var rep decide.Report
			if err := json.Unmarshal(m.Body, &rep); err != nil || rep.Node != peer.Node {
				c.log.Warn("report refused", "from", peer.Node, "says", rep.Node, "error", err)
				return
			}
			store = rep.Store
			c.hear(rep)
		case "request":
			slots <- struct{}{}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer func() { <-slots }()
				rep := c.answer(ctx, m)
				wmu.Lock()
				defer wmu.Unlock()
				conn.SetWriteDeadline(time.Now().Add(2 * time.Second))
				if err := writeMessage(conn, rep); err != nil {
					conn.Close()
				}
			}()
		default:
			return
		}
	}
}

// says is what a report may say that the controller should look at now: that
// the server is failing, or that a host refuses connections.
func says(r decide.Report) string {
	text := r.Server.Failing
	for _, h := range r.Hears {
		if decide.Refuses(h.Refusals, h.RefusedFor) {
			text += "/" + h.Store
		}
	}
	return text
}

func (c *control) hear(rep decide.Report) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.heard[rep.Store].Report
	c.heard[rep.Store] = decide.Heard{Report: rep, At: time.Now()}
	c.ears.report(rep)
	if old.Server.Ended != rep.Server.Ended || old.Server.State != rep.Server.State || old.Role != rep.Role || old.Boot != rep.Boot || says(old) != says(rep) {
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	c.forgetLost(rep)
}

// A node speaks with one store. What its lost ones said is no longer news after
// lostFor, and of more than maxLost of them nobody has to know.
const (
	lostFor = 10 * time.Second
	maxLost = 4
)

// forgetLost drops what the stores said with which the sender of a report spoke
// before. mu is held.
func (c *control) forgetLost(rep decide.Report) {
	var lost []string
	for s, h := range c.heard {
		if h.Report.Node == rep.Node && s != rep.Store {
			lost = append(lost, s)
		}
	}
	slices.SortFunc(lost, func(a, b string) int { return c.heard[b].At.Compare(c.heard[a].At) }) // newest first
	for i, s := range lost {
		if i >= maxLost || time.Since(c.heard[s].At) > lostFor {
			delete(c.heard, s)
			c.ears.forget(s)
		}
	}
}

// hungUp makes a node's word no longer fresh: its connection has ended, so its
// process has, or the way to it. One that lives is heard again within moments.
func (c *control) hungUp(store string) {
	c.ears.ended(store)
	c.mu.Lock()
	if h, ok := c.heard[store]; ok {
		h.Gone = true
		c.heard[store] = h
	}
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *control) answer(ctx context.Context, m message) message {
	ctx, cancel := context.WithTimeout(ctx, answerWithin(m.Op))
	defer cancel()
	rep := message{Kind: "reply", ID: m.ID}
	var err error
	switch m.Op {
	case "propose":
		rep.Body, err = c.propose(ctx, m.Body)
	case "read":
		rep.Body, err = c.read(ctx)
	case "reseed":
		rep.Body, err = c.reseed(ctx, m.Body)
	case opAudit:
		rep.Body, err = c.audit(m.Body)
	case opRestorePlan, opRestoreShut:
		rep.Body, err = c.restore(ctx, m.Op, m.Body)
	default:
		err = fmt.Errorf("unknown request %q", m.Op)
	}
	if err != nil {
		rep.Error, rep.Leader = err.Error(), errors.Is(err, ledger.ErrNotLeader)
	}
	return rep
}
