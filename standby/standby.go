// Package standby is what a node does while another one is the primary: take
// the log that is shipped, make it durable, acknowledge it, and give it to the
// local PostgreSQL. A witness does the same without a PostgreSQL.
//
// Two things make a byte durable here, whichever comes first: the spool's own
// fsync, or the flush that the local walreceiver reports for bytes it got from
// this daemon. So a commit never waits for two fsyncs on one host.
package standby

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby/walserver"
)

// Identity is what this node knows of its group; zero fields are unknown yet
// and accept any value.
type Identity struct {
	Group    string
	Ledger   string
	SystemID uint64
	Major    int
	SegSize  int64
}

// Config says who this node is and where its log lies.
type Config struct {
	Node     string
	Store    string
	Identity func() Identity
	Spool    *spool.Spool
	// Fill brings log that the primary no longer has from another peer's spool:
	// it appends from the spool's end up to the given LSN, or says why not.
	Fill func(ctx context.Context, h shipper.Hello, to pos.LSN) error
	// Refuse says why this node takes no stream now; "" when it does. Nil never
	// refuses.
	Refuse func() string
	// OnSession is called when a stream from a primary begins (its Hello) and
	// when it ends (nil error: the primary closed it).
	OnSession func(h shipper.Hello, up bool, err error)
	Log       *slog.Logger
}

// Snapshot is the receiver's state at one instant.
type Snapshot struct {
	Lineage   pos.Lineage
	Fence     pos.Epoch
	Received  pos.LSN
	Durable   pos.LSN
	Applied   pos.LSN
	Committed pos.LSN // highest heard of
	SourceEnd pos.LSN // newest byte known to exist on the primary
	Floor     pos.LSN
	From      string    // node that ships now, "" when none
	Since     time.Time // of the session, or of its end
	Feeding   bool      // the local walreceiver is connected
	Problem   string
	// Moved is when Committed last moved here, by log of the epoch MovedIn; zero
	// when it never has. Flushed is when the primary's PostgreSQL had flushed the
	// newest log that came, by that host's clock.
	Moved   time.Time
	MovedIn pos.Epoch
	Flushed time.Duration
}

// Receiver takes streams; at most one at a time, the newest wins.
type Receiver struct {
	cfg Config
	log *slog.Logger

	turn sync.Mutex // held by the stream that owns the spool's end

	mu        sync.Mutex
	cur       *stream
	held      bool // fenced beyond the adopted lineage, or no primary heard yet
	committed pos.LSN
	moved     time.Time // committed last did, by log of the epoch movedIn
	movedIn   pos.Epoch
	flushed   time.Duration // when the newest log was, by the primary's clock
	sourceEnd pos.LSN
	floor     pos.LSN
	fed       pos.LSN // durable by the local walreceiver's flush
	fedKnown  bool    // spool.SetFed is durable
	applied   pos.LSN
	redo      pos.LSN
	atOnce    bool
	feeding   bool
	fedSent   pos.LSN // last byte given to the walreceiver
	elected   pos.LSN // the walreceiver gets everything up to here, without a primary
	lastSync  time.Time
	back      walserver.Feedback
	since     time.Time
	problem   string
	changed   chan struct{} // closed and replaced when what walserver serves changes
}

// New makes a receiver. Its PostgreSQL is given nothing before a primary has
// been heard.
func New(cfg Config) *Receiver {
	return &Receiver{cfg: cfg, log: cfg.Log, held: true, changed: make(chan struct{}), since: time.Now()}
}

// stream is one accepted connection from a primary.
type stream struct {
	conn  net.Conn
	w     *frame.Writer
	hello shipper.Hello
	acked pos.LSN // last durable position sent
	belt  *shipper.Conveyor
	bulk  bool // log may be on the belt
	// cancel ends what the stream waits for besides its connection.
	cancel context.CancelFunc

	deadline time.Time // of writes; moved now and then, since moving it costs
	done     chan struct{}
}

// Fence refuses every frame of an epoch below e from now on: the running
// stream is closed, no acknowledgement leaves any more, everything received is
// fsynced, the promise is on disk. It returns the position that is durable
// here. The local walreceiver stays connected and gets nothing.
func (r *Receiver) Fence(e pos.Epoch) (pos.Lineage, pos.Pos, error) {
	r.mu.Lock()
	cur := r.cur
	if r.cfg.Spool.Lineage().Last().Epoch.Less(e) {
		r.held, r.elected = true, 0
		r.notify()
	}
	if cur != nil && cur.hello.Epoch.Less(e) {
		cur.cancel()
		cur.conn.Close() // before the lock is needed again by a blocked writer
		r.cur = nil
	} else {
		cur = nil
	}
	r.mu.Unlock()
	if cur != nil {
		<-cur.done
	}
	at, err := r.cfg.Spool.RaiseFence(e)
	if err != nil {
		return nil, pos.Pos{}, fmt.Errorf("fence epoch %s: %w", e, err)
	}
	return r.cfg.Spool.Lineage(), at, nil
}

// Cut ends the running stream, so that the primary asks again where the log
// ends. When it returns, that stream appends and acknowledges nothing any more.
func (r *Receiver) Cut() {
	r.mu.Lock()
	cur := r.cur
	if cur != nil {
		cur.cancel()
		cur.conn.Close()
		r.cur = nil
	}
	r.fed, r.fedKnown = 0, false // whatever comes now is of another log
	r.mu.Unlock()
	if cur != nil {
		<-cur.done
	}
}

// Handle serves one connection that a primary opened.
func (r *Receiver) Handle(ctx context.Context, c net.Conn) error {
	defer c.Close()
	fr, fw := frame.NewReader(c), frame.NewWriter(c)
	c.SetDeadline(time.Now().Add(shipper.HandshakeTimeout))
	var h shipper.Hello
	if err := shipper.Expect(fr, frame.Hello, &h); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if ref := r.check(h); ref != nil {
		return shipper.Refuse(fw, ref.Code, ref.Text)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &stream{conn: c, w: fw, hello: h, done: make(chan struct{}), cancel: cancel}
	defer close(s.done)
	if !r.take(s) {
		return shipper.Refuse(fw, shipper.RefuseStale, fmt.Sprintf("%s has promised a newer epoch than %s", r.cfg.Node, h.Epoch))
	}
	defer r.turn.Unlock()
	defer r.leave(s)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if err := r.prepare(ctx, s); err != nil {
		var ref *shipper.RefusedError
		if !errors.As(err, &ref) {
			ref = &shipper.RefusedError{Refusal: shipper.Refusal{Code: shipper.RefuseBroken, Text: err.Error()}}
		}
		r.setProblem(ref.Text)
		c.SetWriteDeadline(time.Now().Add(time.Second))
		return shipper.Refuse(fw, ref.Code, ref.Text)
	}
	c.SetDeadline(time.Time{})
	r.cfg.OnSession(h, true, nil)
	err := r.receive(ctx, s, fr)
	if ref := r.refusal(err); ref != nil {
		c.SetWriteDeadline(time.Now().Add(time.Second))
		r.mu.Lock()
		err = shipper.Refuse(fw, ref.Code, ref.Text)
		r.mu.Unlock()
	}
	r.cfg.OnSession(h, false, err)
	return err
}

// refusal says which errors of our own the primary must be told.
func (r *Receiver) refusal(err error) *shipper.Refusal {
	switch {
	case errors.Is(err, spool.ErrNoSpace):
		return &shipper.Refusal{Code: shipper.RefuseBusy, Text: fmt.Sprintf("no space left for the log of %s: %v", r.cfg.Node, err)}
	case errors.Is(err, spool.ErrStaleEpoch):
		return &shipper.Refusal{Code: shipper.RefuseStale, Text: err.Error()}
	case errors.Is(err, spool.ErrGap), errors.Is(err, spool.ErrCorrupt):
		return &shipper.Refusal{Code: shipper.RefuseBroken, Text: err.Error()}
	}
	return nil
}

func (r *Receiver) check(h shipper.Hello) *shipper.Refusal {
	id := r.cfg.Identity()
	if ref := shipper.CheckHello(h, id.Group, id.Ledger, id.SystemID, id.Major, id.SegSize); ref != nil {
		return ref
	}
	if r.cfg.Refuse != nil {
		if why := r.cfg.Refuse(); why != "" {
			return &shipper.Refusal{Code: shipper.RefuseBusy, Text: why}
		}
	}
	if h.To != r.cfg.Store {
		return &shipper.Refusal{Code: shipper.RefuseStore, Text: fmt.Sprintf("%s is now store %s, not %s", r.cfg.Node, r.cfg.Store, h.To)}
	}
	if f := r.cfg.Spool.Fence(); h.Epoch.Less(f) {
		return &shipper.Refusal{Code: shipper.RefuseStale, Text: fmt.Sprintf("%s has promised epoch %s and takes nothing of %s", r.cfg.Node, f, h.Epoch)}
	}
	return nil
}

// take makes s the one stream, after the older one has left. It returns with
// r.turn held, unless the epoch became stale meanwhile.
func (r *Receiver) take(s *stream) bool {
	r.mu.Lock()
	if old := r.cur; old != nil {
		if s.hello.Epoch.Less(old.hello.Epoch) {
			r.mu.Unlock()
			return false
		}
		old.cancel()
		old.conn.Close()
	}
	r.cur = s
	r.mu.Unlock()
	r.turn.Lock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur != s || s.hello.Epoch.Less(r.cfg.Spool.Fence()) {
		if r.cur == s {
			r.cur = nil
		}
		r.turn.Unlock()
		return false
	}
	return true
}

func (r *Receiver) leave(s *stream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cur == s {
		r.cur = nil
		r.since = time.Now()
	}
}

// prepare adopts the primary's lineage durably, finds where to go on, and
// answers with it.
func (r *Receiver) prepare(ctx context.Context, s *stream) error {
	h, sp := s.hello, r.cfg.Spool
	if sp.Lineage().Last() != h.Lineage.Last() {
		// The walserver stops giving before the log may be cut under it.
		r.mu.Lock()
		r.held = true
		r.notify()
		r.mu.Unlock()
	}
	if err := sp.Adopt(h.Lineage, h.Epoch); err != nil {
		return fmt.Errorf("adopt the lineage of epoch %s: %w", h.Epoch, err)
	}
	if sp.Meta().Base == 0 { // after the lineage, of which a log may begin anywhere
		if err := sp.Begin(h.SystemID, h.SegSize, h.Base); err != nil {
			return fmt.Errorf("begin the log at %s: %w", h.Base, err)
		}
	}
	if sp.End() < h.Oldest {
		if err := r.cfg.Fill(ctx, h, h.Oldest); err != nil {
			return &shipper.RefusedError{Refusal: shipper.Refusal{Code: shipper.RefusePruned,
				Text: fmt.Sprintf("%s needs log from %s, which neither the primary (from %s) nor a peer can give: %v", r.cfg.Node, sp.End(), h.Oldest, err)}}
		}
	}
	r.mu.Lock()
	r.fed = min(r.fed, sp.End())
	// After a change that lost log, what was committed there is no more.
	r.committed = max(min(r.committed, sp.End()), h.Committed)
	r.elected = 0
	r.sourceEnd = h.End
	r.atOnce = h.AtOnce
	r.held = false
	r.since = time.Now()
	r.problem = ""
	r.notify()
	r.mu.Unlock()
	wel := shipper.Welcome{Store: r.cfg.Store, Resume: sp.End()}
	crc, from, err := sp.TailCRC(wel.Resume, shipper.CheckWindow)
	if err != nil {
		return fmt.Errorf("read the log before %s: %w", wel.Resume, err)
	}
	wel.CRC, wel.CRCFrom = crc, from
	if err := s.w.WriteJSON(frame.Welcome, wel); err != nil {
		return err
	}
	return s.w.Flush()
}

func (r *Receiver) setProblem(text string) {
	r.mu.Lock()
	r.problem = text
	r.mu.Unlock()
}

// notify wakes the walserver; r.mu is held.
func (r *Receiver) notify() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Snapshot is the state now.
func (r *Receiver) Snapshot() Snapshot {
	sp := r.cfg.Spool
	r.mu.Lock()
	defer r.mu.Unlock()
	s := Snapshot{
		Lineage: sp.Lineage(), Fence: sp.Fence(), Received: sp.End(), Durable: r.durable(), Applied: r.applied,
		Committed: r.committed, SourceEnd: r.sourceEnd, Floor: r.floor, Since: r.since, Feeding: r.feeding, Problem: r.problem,
		Moved: r.moved, MovedIn: r.movedIn, Flushed: r.flushed,
	}
	if r.cur != nil {
		s.From = r.cur.hello.Node
	}
	return s
}

// durable is what is safe on this host's disks; r.mu is held.
func (r *Receiver) durable() pos.LSN {
	return max(r.cfg.Spool.Durable(), min(r.fed, r.cfg.Spool.End()))
}

// Redo is where a restart of the local PostgreSQL would begin to replay; zero
// while that is not known.
func (r *Receiver) Redo() pos.LSN {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.redo
}

// SetRedo tells where a restart of the local PostgreSQL would begin to
// replay: the primary keeps log from there.
func (r *Receiver) SetRedo(l pos.LSN) {
	r.mu.Lock()
	r.redo = l
	r.mu.Unlock()
}

// Elect gives the local walreceiver everything up to upto, without a primary
// that ships: this node was elected with it. It holds until the next fence or
// stream.
func (r *Receiver) Elect(upto pos.LSN) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.elected, r.held = upto, false
	r.notify()
}

// Heard is the highest committed LSN that this node has heard of.
func (r *Receiver) Heard() pos.LSN {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.committed
}

// Serve is what the walserver gives the local PostgreSQL, and a channel that
// is closed when that changes.
func (r *Receiver) Serve() (limit pos.LSN, held bool, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.elected != 0:
		limit = r.elected
	case !r.atOnce:
		limit = max(r.committed, 1)
	}
	return limit, r.held, r.changed
}
