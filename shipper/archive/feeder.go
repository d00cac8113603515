package archive

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/flow"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Source is where a Feeder reads the log: spool.Spool and spool.WALDir are
// Sources. spool.ErrPruned says that bytes are gone for good, io.EOF that the
// log ends. It may be called concurrently.
type Source interface {
	ReadWAL(p []byte, at pos.LSN) (int, error)
}

// Config says what a Feeder stores where.
type Config struct {
	Root     backupset.Root
	Location location.Location
	Name     string // of the location
	SystemID uint64
	SegSize  int64 // bytes of a WAL segment
	// Lineage is the history as the ledger recorded it: an entry is there only
	// when the promotion took place. Called again and again.
	Lineage func() pos.Lineage
	// Committed is the end of the committed log; false while it is not known.
	// Nothing beyond is stored. Called again and again.
	Committed func() (pos.LSN, bool)
	Source    Source
	// From is the first byte that the location is to have; stored from its
	// segment's start on.
	From pos.LSN
	// Marks are moments of a stretch of log, of any number; nil when none are
	// known.
	Marks func(from, to pos.LSN) []catalog.Mark
	// PartialEvery is how often the segment that is being written is stored
	// while it grows; default 10 s.
	PartialEvery time.Duration
	// Workers is how many pieces are compressed and sent at once; default 2, at
	// most 16. Each takes up to the larger of two segments of 16 MiB or 8 MiB.
	Workers int
	// Level is that of zstd; default SpeedFastest.
	Level zstd.EncoderLevel
	// Window tells whether the location may be written to now, and when that
	// changes; nil for always.
	Window func(now time.Time) (open bool, changes time.Time)
	// The pauses after failures; default 500 ms to 30 s.
	RetryMin, RetryMax time.Duration
	Log                *slog.Logger // required
	// OnProgress is called after every change of the status, by one goroutine;
	// it must not block.
	OnProgress func(Status)
}

const (
	defaultPartialEvery = 10 * time.Second
	defaultWorkers      = 2
	maxWorkers          = 16
	pollEvery           = 200 * time.Millisecond
	longest             = time.Minute // without looking again
)

func (c *Config) check() error {
	if err := checkSegSize(c.SegSize); err != nil {
		return err
	}
	if c.Location == nil || c.Lineage == nil || c.Committed == nil || c.Source == nil || c.Log == nil || c.SystemID == 0 {
		return errors.New("location, lineage, committed, source, log and system id are required")
	}
	if c.Marks == nil {
		c.Marks = func(pos.LSN, pos.LSN) []catalog.Mark { return nil }
	}
	if c.Window == nil {
		c.Window = func(time.Time) (bool, time.Time) { return true, time.Time{} }
	}
	if c.OnProgress == nil {
		c.OnProgress = func(Status) {}
	}
	if c.PartialEvery <= 0 {
		c.PartialEvery = defaultPartialEvery
	}
	if c.Workers <= 0 {
		c.Workers = defaultWorkers
	}
	c.Workers = min(c.Workers, maxWorkers)
	if c.Level == 0 {
		c.Level = zstd.SpeedFastest
	}
	if c.RetryMin <= 0 {
		c.RetryMin = 500 * time.Millisecond
	}
	if c.RetryMax < c.RetryMin {
		c.RetryMax = max(c.RetryMin, 30*time.Second)
	}
	return nil
}

// Feeder feeds one location with the log. Feeders share nothing but their
// source.
type Feeder struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex
	status  Status
	changed chan struct{} // closed at the next change of status
	flush   bool          // somebody asked for the open segment

	// The rest belongs to Run's goroutine.
	st      *standing
	results chan result
	tools   chan *tool
	busy    map[piece]bool
	pause   time.Time // nothing is begun before
	backoff flow.Backoff
	failing bool
	rate    flow.Rate
	wanted  bool      // the open segment is to be stored at once
	openAt  time.Time // when it was last begun to be stored
}

// standing is where the location stands along one lineage.
type standing struct {
	lin  pos.Lineage
	path Path
	// have are whole segments at the location by timeline, gone those that can
	// no longer be had.
	have, gone map[pos.Timeline]runs
	partials   map[string]bool // keys of partial pieces at the location
	bad        map[string]bool // keys of objects that are damaged there
	leftDone   map[piece]bool
	next       pos.LSN // start of the first segment that is not done
	openEnd    pos.LSN // end of what is stored of it
	missing    []catalog.Gap
}

type result struct {
	piece piece
	err   error
}

// NewFeeder makes a Feeder; Run starts it.
func NewFeeder(cfg Config) (*Feeder, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("feed location %s: %w", cfg.Name, err)
	}
	cfg.Log = cfg.Log.With("location", cfg.Name)
	return &Feeder{
		cfg: cfg, wake: make(chan struct{}, 1), changed: make(chan struct{}), status: Status{Name: cfg.Name},
		results: make(chan result, cfg.Workers), tools: make(chan *tool, cfg.Workers), busy: map[piece]bool{},
		backoff: flow.Backoff{Min: cfg.RetryMin, Max: cfg.RetryMax},
	}, nil
}

// Run feeds the location until ctx ends. It never gives up: errors are in the
// Status. It is called once.
func (f *Feeder) Run(ctx context.Context) error {
	for range f.cfg.Workers {
		t, err := newTool(f.cfg.Level)
		if err != nil {
			return err
		}
		f.tools <- t
	}
	defer func() {
		for len(f.busy) > 0 {
			delete(f.busy, (<-f.results).piece)
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wait := f.step(ctx)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return nil
		case r := <-f.results:
			f.finish(r)
		case <-f.wake:
		case <-timer.C:
		}
	}
}

// Flush asks for the open segment to be stored at once.
func (f *Feeder) Flush() {
	f.mu.Lock()
	f.flush = true
	f.mu.Unlock()
	f.Wake()
}

// Wake says that the committed log has grown or the lineage has changed; it is
// noticed within 200 ms without.
func (f *Feeder) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Status is how far the location has come.
func (f *Feeder) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.status
	s.Missing = slices.Clone(s.Missing)
	return s
}

// WaitFor returns when the location has the log up to lsn, or the context's
// error with the location's. It asks for what is open.
func (f *Feeder) WaitFor(ctx context.Context, lsn pos.LSN) error {
	for {
		f.mu.Lock()
		s, changed := f.status, f.changed
		f.mu.Unlock()
		if s.Known && s.Archived >= lsn {
			return nil
		}
		f.Flush()
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("location %s has the log up to %s, not %s: %w", f.cfg.Name, s.Archived, lsn, context.Cause(ctx)), s.Err)
		case <-changed:
		case <-time.After(pollEvery):
		}
	}
}

// step begins what can be begun, and returns when to look again at the latest.
func (f *Feeder) step(ctx context.Context) time.Duration {
	now := time.Now()
	if open, changes := f.cfg.Window(now); !open {
		f.publish(func(s *Status) { s.Closed = changes })
		return min(max(changes.Sub(now), pollEvery), longest)
	}
	if d := f.pause.Sub(now); d > 0 {
		return d
	}
	if lin := f.cfg.Lineage(); f.st == nil || !slices.Equal(f.st.lin, lin) {
		if len(f.busy) > 0 {
			return longest // until the last one reports
		}
		if err := f.establish(ctx, lin); err != nil {
			f.st = nil
			return f.failed(ctx, err)
		}
	}
	f.mu.Lock()
	f.wanted = f.wanted || f.flush // taken before the end of the log is asked for
	f.flush = false
	f.mu.Unlock()
	committed, known := f.cfg.Committed()
	if known {
		f.advance(committed)
		f.begin(ctx, committed)
	}
	f.report(committed, known)
	if len(f.busy) > 0 {
		return longest
	}
	return pollEvery
}

// failed notes an error and returns how long to wait.
func (f *Feeder) failed(ctx context.Context, err error) time.Duration {
	if ctx.Err() != nil {
		return longest
	}
	wait := f.backoff.Next(rand.Float64())
	if location.Permanent(err) || errors.Is(err, ErrConflict) || errors.Is(err, ErrForeign) {
		wait = f.cfg.RetryMax
	}
	if !f.failing {
		f.cfg.Log.Warn("log does not reach the location", "error", err)
	}
	f.failing = true
	f.pause = time.Now().Add(wait)
	f.publish(func(s *Status) {
		if s.Err == nil {
			s.Since = time.Now()
		}
		s.Err = err
	})
	return wait
}

// begin starts as many pieces as may be under way.
func (f *Feeder) begin(ctx context.Context, committed pos.LSN) {
	limit := f.cfg.Workers
	if f.failing {
		limit = 1 // one is enough to see whether it works again
	}
	seg := pos.LSN(f.cfg.SegSize)
	for at := f.st.next; len(f.busy) < limit && at < committed; at += seg {
		if end, ok := f.st.skip(at, f.cfg.SegSize); ok {
			at = end - seg
			continue
		}
		for _, p := range f.st.path.pieces(at, committed, f.cfg.SegSize) {
			if len(f.busy) < limit && !f.underWay(p) && !f.st.done(p) && (p.kind != open || f.openDue(p)) {
				f.start(ctx, p)
			}
		}
	}
}

// underWay tells whether a piece of the same segment is being stored: the part
// of one must not come to lie beside the whole.
func (f *Feeder) underWay(p piece) bool {
	for b := range f.busy {
		if b.tli == p.tli && b.start == p.start {
			return true
		}
	}
	return false
}

// openDue tells whether the open segment is to be stored now: all before it is
// there, it has grown, and it is time or somebody asked.
func (f *Feeder) openDue(p piece) bool {
	for b := range f.busy {
		if b.kind == open {
			return false
		}
	}
	if p.start != f.st.next {
		return false
	}
	if p.end <= f.st.openEnd {
		f.wanted = false
		return false
	}
	return f.wanted || time.Since(f.openAt) >= f.cfg.PartialEvery
}

func (f *Feeder) start(ctx context.Context, p piece) {
	if p.kind == open {
		f.openAt, f.wanted = time.Now(), false
	}
	key := f.key(p)
	// What a piece is stored over is decided here: the maps are not the
	// worker's to read.
	o := order{piece: p, key: key, repair: f.st.bad[key], first: p.kind != open || f.st.openEnd <= p.start,
		partial: p.kind == whole && f.st.partials[f.cfg.Root.Partial(p.tli, p.start, f.cfg.SegSize)]}
	f.busy[p] = true
	t := <-f.tools
	go func() {
		err := f.store(ctx, t, o)
		f.tools <- t
		f.results <- result{p, err}
	}()
}

// finish takes note of a piece's outcome.
func (f *Feeder) finish(r result) {
	delete(f.busy, r.piece)
	switch {
	case errors.Is(r.err, errNotYet): // the source is behind what is committed
		f.pause = time.Now().Add(pollEvery)
		return
	case errors.Is(r.err, errGone):
		f.lost(r.piece, r.err)
	case r.err != nil:
		// The context of Run may have ended; then nobody looks at this.
		f.failed(context.Background(), fmt.Errorf("store %s: %w", f.key(r.piece), r.err))
		return
	default:
		f.stored(r.piece)
	}
	if f.failing {
		f.cfg.Log.Info("log reaches the location again")
	}
	f.failing, f.pause = false, time.Time{}
	f.backoff.Reset()
	f.publish(func(s *Status) { s.Err, s.Since = nil, time.Time{} })
}

func (f *Feeder) stored(p piece) {
	key := f.key(p)
	delete(f.st.bad, key)
	switch p.kind {
	case whole:
		f.st.have[p.tli] = f.st.have[p.tli].with(pos.Range{From: p.start, To: p.end})
		delete(f.st.partials, f.cfg.Root.Partial(p.tli, p.start, f.cfg.SegSize))
		f.rate.Add(time.Now(), p.end.Sub(p.start))
	case left:
		f.st.leftDone[p] = true
		f.st.partials[key] = true
	case open:
		if p.start == f.st.next {
			f.st.openEnd = max(f.st.openEnd, p.end)
		}
		f.st.partials[key] = true
	}
}

// lost goes on behind what the source no longer has.
func (f *Feeder) lost(p piece, cause error) {
	f.cfg.Log.Error("log is lost to the location", "timeline", uint32(p.tli), "from", p.start, "to", p.end, "error", cause)
	if p.kind == left {
		f.st.leftDone[p] = true
	}
	to := p.start + pos.LSN(f.cfg.SegSize)
	if p.kind != left {
		f.st.gone[p.tli] = f.st.gone[p.tli].with(pos.Range{From: p.start, To: to})
	}
	gap := catalog.Gap{Timeline: p.tli, From: p.start, To: p.end, Cause: cause.Error(), Since: time.Now().UTC()}
	f.st.missing = slices.DeleteFunc(f.st.missing, func(g catalog.Gap) bool {
		if g.Timeline != gap.Timeline || g.To < gap.From || gap.To < g.From {
			return false
		}
		gap.From, gap.To, gap.Since = min(g.From, gap.From), max(g.To, gap.To), g.Since
		return true
	})
	f.st.missing = append(f.st.missing, gap)
}
