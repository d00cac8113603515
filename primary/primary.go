// Package primary is what a node does while its PostgreSQL is the primary:
// receive the log from it, ship it to every peer, count acknowledgements, and
// tell PostgreSQL "flushed" only for what a majority holds.
//
// A Primary lives exactly as long as one epoch's claim on this node: Start
// makes it, the context or Stop ends it, and after Stop has returned nothing
// of it acknowledges anything any more.
package primary

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"understudy/primary/quorum"
	"understudy/primary/walsource"
	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

// Peer is one node that the log is shipped to.
type Peer struct {
	Name    string
	Store   string
	Address string
	Data    bool // has a PostgreSQL; its replay counts for "applied"
}

// Config says what this node ships and how it reaches the rest.
type Config struct {
	Group    string // group id
	Ledger   string // ledger id
	Node     string
	Store    string
	SystemID uint64
	Major    int
	SegSize  int64

	Epoch   pos.Epoch
	Lineage pos.Lineage // ends with Epoch's entry
	// From is where receiving begins: the end of the recovered log at a start,
	// PostgreSQL's flush pointer when a running server is adopted.
	From pos.LSN
	// Heard is the highest committed LSN this node knew before.
	Heard pos.LSN
	Async bool // commits do not wait; committed is counted all the same

	// Begin is called once peers may be told of with SetGroup, before the receiver
	// is connected, so that both take their time together; nil for none.
	Begin func(p *Primary)
	// Open connects a receiver that streams from the given LSN.
	Open func(ctx context.Context, from pos.LSN) (*walsource.Source, error)
	// Log reads the local pg_wal.
	WAL shipper.Log
	// Oldest is the first LSN that pg_wal still holds for sure.
	Oldest func() pos.LSN
	// Dial opens a stream to a peer.
	Dial func(ctx context.Context, p Peer) (net.Conn, error)
	// Now is the monotonic clock that leases count by.
	Now func() time.Duration

	// WindowBytes is the memory for the newest log; a power of two. Zero means
	// 8 MiB.
	WindowBytes int
	// BeatEvery is the pace of heartbeats. Zero means 100 ms.
	BeatEvery time.Duration
	Log       *slog.Logger
}

// LinkState is what Snapshot says of one peer.
type LinkState struct {
	Peer        Peer
	State       string
	Since       time.Time
	RTT         time.Duration
	Sent        pos.LSN
	Received    pos.LSN
	Acked       pos.LSN
	Applied     pos.LSN
	Redo        pos.LSN
	Delay       time.Duration
	BytesPerSec uint64
	Problem     string
	ProblemCode string
}

// Snapshot is the state of a primary at one instant.
type Snapshot struct {
	Epoch     pos.Epoch
	Received  pos.LSN
	Committed pos.LSN
	Applied   pos.LSN
	Voters    uint64
	Contact   time.Duration // Config.Now when a majority's last answered heartbeat was sent
	Links     []LinkState
	Streaming bool // the receiver is connected to PostgreSQL
	Problem   string
}

// Primary ships one epoch.
type Primary struct {
	cfg    Config
	log    *slog.Logger
	win    *window
	cancel context.CancelCauseFunc
	done   chan struct{}

	src  atomic.Pointer[walsource.Source]
	live atomic.Pointer[[]*session] // the sessions, for the receive goroutine

	mu        sync.Mutex
	stopped   bool // fenced: no acknowledgement leaves any more
	count     *quorum.Counter
	committed pos.LSN
	sessions  map[string]*session
	setCh     chan struct{} // closed and replaced when the peers change
	peers     []Peer
	atOnce    map[string]bool
	waitCh    chan struct{} // closed and replaced when committed moves
	floor     pos.LSN
	problem   string
	async     bool
}

// ErrStopped is the cause of a context that Stop ended.
var ErrStopped = errors.New("primary role ended")

// Start begins to receive and ship. Nothing counts before SetVoters.
func Start(ctx context.Context, cfg Config) (*Primary, error) {
	if cfg.WindowBytes == 0 {
		cfg.WindowBytes = 8 << 20
	}
	if cfg.BeatEvery == 0 {
		cfg.BeatEvery = 100 * time.Millisecond
	}
	if err := cfg.Lineage.Validate(); err != nil || cfg.Lineage.Last().Epoch != cfg.Epoch {
		return nil, fmt.Errorf("start primary of epoch %s: lineage %v does not end there", cfg.Epoch, cfg.Lineage)
	}
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	p := &Primary{
		cfg:       cfg,
		log:       cfg.Log.With("epoch", cfg.Epoch.String()),
		win:       newWindow(cfg.WindowBytes, cfg.From),
		cancel:    cancel,
		done:      make(chan struct{}),
		count:     quorum.New(cfg.Store, cfg.Lineage.Last().Start, cfg.Heard),
		committed: cfg.Heard,
		sessions:  map[string]*session{},
		setCh:     make(chan struct{}),
		waitCh:    make(chan struct{}),
		atOnce:    map[string]bool{},
		async:     cfg.Async,
	}
	p.live.Store(&[]*session{})
	p.count.Durable(cfg.Store, cfg.From)
	first := make(chan *walsource.Source, 1)
	go p.run(ctx, first)
	if cfg.Begin != nil {
		cfg.Begin(p)
	}
	src, err := cfg.Open(outer, cfg.From)
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("open the receiver: %w", err)
	}
	p.connected(src)
	first <- src
	if ctx.Err() != nil { // stopped meanwhile, so that perhaps nobody takes it
		select {
		case src := <-first:
			src.Close(context.WithoutCancel(outer))
		default:
		}
	}
	return p, nil
}

// Stop ends the role: acknowledgements stop at once, then sessions and
// receiver are closed and waited for.
func (p *Primary) Stop() {
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.cancel(ErrStopped)
	<-p.done
}

// Done is closed when the role has ended.
func (p *Primary) Done() <-chan struct{} { return p.done }

// SetGroup tells who is shipped to, who counts, and which peers may feed
// their PostgreSQL before commit. It returns when the counter uses the set.
func (p *Primary) SetGroup(peers []Peer, version uint64, voters []string, atOnce bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.peers = peers
	p.count.SetVoters(version, voters)
	clear(p.atOnce)
	for _, v := range voters {
		p.atOnce[v] = atOnce
	}
	for store, s := range p.sessions {
		if s.peer.Data && s.greeted != p.atOnce[store] {
			s.greetAnew()
		}
	}
	close(p.setCh)
	p.setCh = make(chan struct{})
	p.advance()
}

// Settled tells whether a majority of the voters of this version, or of a newer
// one, holds everything that was called committed.
func (p *Primary) Settled(version uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count.Version() >= version && p.count.Settled()
}

// SetAsync changes whether PostgreSQL is told "flushed" for everything received
// or for what a majority holds. It holds when the call returns.
func (p *Primary) SetAsync(async bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.async = async
	if async && !p.stopped {
		p.confirm(p.win.bounds().To)
	}
}

// SetFloor publishes the LSN below which no peer needs to keep log.
func (p *Primary) SetFloor(l pos.LSN) {
	p.mu.Lock()
	p.floor = max(p.floor, l)
	p.mu.Unlock()
}

// Committed is the highest LSN that a majority holds.
func (p *Primary) Committed() pos.LSN {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.committed
}

// WaitCommitted waits until a majority holds everything below lsn.
func (p *Primary) WaitCommitted(ctx context.Context, lsn pos.LSN) error {
	for {
		p.mu.Lock()
		ok, ch := p.committed >= lsn, p.waitCh
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ch:
		case <-p.done:
			return ErrStopped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Snapshot is the state now.
func (p *Primary) Snapshot() Snapshot {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Snapshot{
		Epoch: p.cfg.Epoch, Received: p.win.bounds().To, Committed: p.committed, Applied: p.applied(),
		Voters: p.count.Version(), Contact: p.contact(), Streaming: p.src.Load() != nil, Problem: p.problem,
	}
	for _, peer := range p.peers {
		l := LinkState{Peer: peer, State: "connecting", Acked: p.count.Acked(peer.Store)}
		if ses := p.sessions[peer.Store]; ses != nil {
			l = ses.state(now)
			l.Acked = p.count.Acked(peer.Store)
		}
		if l.Acked < s.Received {
			if at := p.win.flushedAt(l.Acked); !at.IsZero() {
				l.Delay = now.Sub(at)
			}
		}
		s.Links = append(s.Links, l)
	}
	return s
}

// Data takes bytes from the receiver; it runs on the receive goroutine.
func (p *Primary) Data(at pos.LSN, b []byte, serverEnd pos.LSN, seen time.Time) error {
	if end := p.win.bounds().To; at != end {
		return fmt.Errorf("receive log: bytes at %s where %s belongs", at, end)
	}
	p.win.sighted(serverEnd, seen)
	end := p.win.add(b)
	head := p.head(at, end)
	head.FlushedAt = seen.UnixNano()
	for _, s := range *p.live.Load() {
		s.push(head, b)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.async && !p.stopped {
		p.confirm(end)
	}
	if p.count.Durable(p.cfg.Store, end) { // sent by PostgreSQL only after its own flush
		p.advance()
	}
	return nil
}

// head is that of a data frame at an LSN.
func (p *Primary) head(at, end pos.LSN) frame.DataHead {
	p.mu.Lock()
	defer p.mu.Unlock()
	return frame.DataHead{Epoch: p.cfg.Epoch, LineageEpoch: p.cfg.Epoch, LSN: at, SourceEnd: end, Committed: p.committed, Voters: p.count.Version()}
}

// ServerEnd notes PostgreSQL's flush pointer.
func (p *Primary) ServerEnd(l pos.LSN, seen time.Time) { p.win.sighted(l, seen) }

// acked takes a peer's durable position. Nothing counts after Stop.
func (p *Primary) acked(store string, durable pos.LSN) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	// What is beyond our own end cannot be acknowledged; it is a stray.
	if p.count.Durable(store, min(durable, p.win.bounds().To)) {
		p.advance()
	}
}

// advance passes a new committed LSN on; p.mu is held.
func (p *Primary) advance() {
	if c := p.count.Committed(); c > p.committed && !p.stopped {
		p.committed = c
		if !p.async {
			p.confirm(c)
		}
		close(p.waitCh)
		p.waitCh = make(chan struct{})
		for _, s := range p.sessions {
			if s.limited {
				s.wake()
			}
		}
	}
}

// confirm tells PostgreSQL; p.mu is held, so that nothing passes a Stop.
func (p *Primary) confirm(flushed pos.LSN) {
	if src := p.src.Load(); src != nil {
		if err := src.Confirm(flushed, min(flushed, p.applied())); err != nil {
			p.log.Warn("confirm to postgresql", "error", err)
		}
	}
}

// applied is the lowest replay position among connected data peers that vote;
// p.mu is held. Zero when there is none.
func (p *Primary) applied() pos.LSN {
	var low pos.LSN
	for _, s := range p.sessions {
		if !s.peer.Data || !p.count.IsVoter(s.peer.Store) {
			continue
		}
		if a := s.appliedLSN(); a != 0 && (low == 0 || a < low) {
			low = a
		}
	}
	return low
}

// contact is when the last heartbeat was sent that a majority has answered;
// p.mu is held. With one or two voters no majority exists without this node, so
// nobody can be primary behind its back and it needs no answer.
func (p *Primary) contact() time.Duration {
	if p.count.VoterN() <= 2 {
		return p.cfg.Now()
	}
	need := p.count.Needed() - 1
	var at []time.Duration
	for _, s := range p.sessions {
		if p.count.IsVoter(s.peer.Store) {
			at = append(at, s.contact())
		}
	}
	return kthLargest(at, need)
}

func kthLargest(at []time.Duration, k int) time.Duration {
	if len(at) < k {
		return 0
	}
	for i := range k {
		for j := i + 1; j < len(at); j++ {
			if at[j] > at[i] {
				at[i], at[j] = at[j], at[i]
			}
		}
	}
	return at[k-1]
}

// read gives sessions the log: the window first, pg_wal for older bytes.
func (p *Primary) read(b []byte, at pos.LSN) (int, error) {
	if n, ok := p.win.read(b, at); ok {
		return n, nil
	}
	end := p.win.bounds().To
	if at >= end {
		return 0, nil
	}
	return p.cfg.WAL.ReadWAL(b[:min(uint64(len(b)), end.Sub(at))], at)
}
