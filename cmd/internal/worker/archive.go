package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

// reportEvery is how often the archive says how far it is; recordEvery how
// often that goes into the ledger while nobody waits for it.
const (
	reportEvery = 500 * time.Millisecond
	recordEvery = 5 * time.Second
)

// source is the log that is archived: the directory may change while a worker
// lives, when its node becomes primary or ceases to be it.
type source struct {
	segSize int64

	mu        sync.Mutex
	dir       string
	lineage   pos.Lineage
	committed pos.LSN
	wal       *spool.WALDir
}

// set takes an update.
func (s *source) set(u Update) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.committed = u.Committed
	if u.Dir == s.dir && len(u.Lineage) == len(s.lineage) && u.Lineage.Last() == s.lineage.Last() {
		return
	}
	if s.wal != nil {
		s.wal.Close() // a reader in it gets ErrClosed, and comes again
	}
	s.dir, s.lineage = u.Dir, u.Lineage
	s.wal = spool.Dir(u.Dir, s.segSize, u.Lineage)
}

// ReadWAL implements archive.Source.
func (s *source) ReadWAL(p []byte, at pos.LSN) (int, error) {
	s.mu.Lock()
	wal, dir := s.wal, s.dir
	s.mu.Unlock()
	n, err := wal.ReadWAL(p, at)
	// A file that is not there may be gone for good: what lies before the
	// oldest one is.
	if n == 0 && err != nil {
		if oldest, ok := oldestSegment(dir, s.segSize); ok && at.SegStart(s.segSize) < oldest {
			return 0, fmt.Errorf("%w: the log on this node begins at %s", spool.ErrPruned, oldest)
		}
	}
	return n, err
}

// oldestSegment is the first byte of the lowest segment in a directory.
func oldestSegment(dir string, segSize int64) (pos.LSN, bool) {
	names, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return 0, false
	}
	lowest, found := pos.LSN(0), false
	for _, e := range names {
		if _, at, err := pos.ParseSegName(e.Name(), segSize); err == nil && (!found || at < lowest) {
			lowest, found = at, true
		}
	}
	return lowest, found
}

func (s *source) history() pos.Lineage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lineage
}

func (s *source) end() (pos.LSN, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.committed, s.committed != 0
}

// feeder is one location's.
type feeder struct {
	*archive.Feeder
	name   string
	window location.Window
	from   pos.LSN
	new    bool // see Feed
	// told is what the ledger knows by this worker.
	told   pos.LSN
	toldTL pos.Timeline
	at     time.Time
	missed int
	// exports are those that the location does not have yet.
	exports chan []byte
}

// archive feeds locations with the log until ctx ends.
func (w *work) archive(ctx context.Context) (Done, error) {
	a := w.spec.Archive
	if a == nil {
		return Done{}, errNoPart
	}
	src := &source{segSize: w.spec.Group.SegSize}
	src.set(a.Update)
	marks := &moments{src: src, segSize: src.segSize, systemID: w.spec.Group.SystemID, major: w.spec.Group.PGMajor}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	var feeders []*feeder
	for _, f := range a.Feeds {
		fd, err := w.newFeeder(f, src, marks)
		if err != nil {
			return Done{}, err
		}
		feeders = append(feeders, fd)
		wg.Go(func() {
			w.clearStale(ctx, f)
			if err := fd.Run(ctx); err != nil && ctx.Err() == nil {
				w.log.Error("feed a location", "location", fd.name, "error", err)
			}
		})
		wg.Go(func() { w.keepExport(ctx, fd) })
	}
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	flush := pos.LSN(0)
	for {
		select {
		case <-ctx.Done():
			return Done{}, context.Cause(ctx)
		case u := <-w.port.updates:
			src.set(u)
			marks.add(u.Marks)
			flush = max(flush, u.Flush)
			for _, f := range feeders {
				if u.Flush != 0 && f.Status().Archived < u.Flush {
					f.Flush()
				}
				f.Wake()
			}
			continue
		case b := <-w.port.exports:
			for _, f := range feeders {
				replace(f.exports, b)
			}
			continue
		case <-tick.C:
		}
		w.tell(ctx, feeders, marks, flush)
	}
}

// staleTries is how often log that is stale is tried to be removed before the
// new log goes first, and staleRest the pause between.
const (
	staleTries = 5
	staleRest  = 3 * time.Second
)

// clearStale removes what the worker before this one may have brought again
// after it was removed: it had not heard of it. The ledger knows nothing there,
// so that no prune would ever find it.
func (w *work) clearStale(ctx context.Context, f Feed) {
	if f.Stale.Empty() {
		return
	}
	for try := 1; ctx.Err() == nil; try++ {
		err := w.clearStaleOnce(ctx, f)
		if err == nil {
			return
		}
		w.log.Warn("remove log that is not wanted any more", "location", f.Location, "from", f.Stale.From, "to", f.Stale.To, "error", err)
		if try == staleTries {
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(staleRest):
		}
	}
}

func (w *work) clearStaleOnce(ctx context.Context, f Feed) error {
	loc, err := w.location(f.Location)
	if err != nil {
		return err
	}
	var ranges []facts.WALRange
	for _, leg := range archive.PathOf(w.spec.Archive.Lineage) {
		ranges = append(ranges, facts.WALRange{Timeline: leg.Timeline, From: f.Stale.From, To: f.Stale.To})
	}
	return w.clearWAL(ctx, f.Location, loc, ranges)
}

func (w *work) newFeeder(f Feed, src *source, marks *moments) (*feeder, error) {
	loc, err := w.location(f.Location)
	if err != nil {
		return nil, err
	}
	window, err := location.ParseWindow(windowOf(w.spec, f.Location))
	if err != nil {
		return nil, fmt.Errorf("location %s: window: %w", f.Location, err)
	}
	fd, err := archive.NewFeeder(archive.Config{
		Root: w.spec.Root(), Location: loc, Name: f.Location, SystemID: w.spec.Group.SystemID, SegSize: w.spec.Group.SegSize,
		Lineage: src.history, Committed: src.end, Source: src, From: f.From, Marks: marks.of, Window: window.Open, Log: w.log,
	})
	if err != nil {
		return nil, err
	}
	return &feeder{Feeder: fd, name: f.Location, window: window, from: f.From, new: f.New, exports: make(chan []byte, 1)}, nil
}

// windowOf is a location's window with the policy's time zone.
func windowOf(s Spec, name string) string {
	p := s.Locations[name]
	if p.Window == "" {
		return ""
	}
	return p.Window + " " + s.Policy.TimeZone
}

// exportRetry is the pause after the ledger's export could not be stored; the
// next one replaces it.
const exportRetry = 10 * time.Second

// keepExport stores the newest export of the ledger at a location, within its
// time window.
func (w *work) keepExport(ctx context.Context, f *feeder) {
	var b []byte
	for {
		select {
		case <-ctx.Done():
			return
		case b = <-f.exports:
		}
		for b != nil && ctx.Err() == nil {
			if open, _ := f.window.Open(time.Now()); open {
				err := w.storeExport(ctx, f.name, b)
				if err == nil {
					break
				}
				w.log.Warn("store the ledger's export", "location", f.name, "error", err)
			}
			select {
			case <-ctx.Done():
			case b = <-f.exports:
			case <-time.After(exportRetry):
			}
		}
	}
}

func (w *work) storeExport(ctx context.Context, name string, b []byte) error {
	loc, err := w.location(name)
	if err != nil {
		return err
	}
	return writeObject(ctx, loc, backupset.LedgerKey(w.spec.Group.Name), b)
}

// tell reports how far the locations are, and records it from time to time.
func (w *work) tell(ctx context.Context, feeders []*feeder, marks *moments, flush pos.LSN) {
	var list []FeedStatus
	for _, f := range feeders {
		s := f.Status()
		fs := FeedStatus{Location: f.name, Timeline: s.Timeline, Archived: s.Archived, Whole: s.Whole, Backlog: int64(s.Backlog), Rate: int64(s.Rate)}
		if s.Err != nil {
			fs.Problem, fs.Since = location.Problem(s.Err), s.Since
		}
		if !s.Closed.IsZero() {
			fs.Waiting = "its time window opens at " + s.Closed.UTC().Format(time.RFC3339)
		}
		list = append(list, fs)
		f.record(ctx, w, s, marks, flush)
	}
	if err := w.port.send(Message{Feeds: list}); err != nil {
		w.log.Debug("report the archive", "error", err)
	}
}

// record tells the ledger what a location has.
func (f *feeder) record(ctx context.Context, w *work, s archive.Status, marks *moments, flush pos.LSN) {
	moved := s.Archived != f.told || s.Timeline != f.toldTL || len(s.Missing) != f.missed
	due := time.Since(f.at) >= recordEvery || f.told < flush && s.Archived >= flush
	if !s.Known || !moved || !due || s.Archived <= f.from.SegStart(w.spec.Group.SegSize) {
		return
	}
	f.at = time.Now()
	c := facts.RecordArchived{Profile: w.spec.Profile, Location: f.name, Store: w.spec.Archive.Store, Gaps: f.gaps(s.Missing, w.spec.Group.SegSize),
		Spans: f.spans(marks, s, w.spec.Group.SegSize)}
	if err := w.port.Propose(ctx, facts.Command{RecordArchived: &c}); err != nil {
		if ctx.Err() == nil && !errors.Is(err, ErrRefused) {
			w.log.Warn("record what is archived", "location", f.name, "error", err)
		}
		return
	}
	f.told, f.toldTL, f.missed = s.Archived, s.Timeline, len(s.Missing)
}

// gaps are what is missing at the location, without what was lost before its
// log began.
func (f *feeder) gaps(missing []catalog.Gap, segSize int64) []catalog.Gap {
	begins := f.from.SegStart(segSize)
	var out []catalog.Gap
	for _, g := range missing {
		if f.new && g.From <= begins {
			begins = max(begins, g.To)
			continue
		}
		out = append(out, g)
	}
	return out
}

// spans are what a location has more than it was last said, without what is
// missing.
func (f *feeder) spans(marks *moments, s archive.Status, segSize int64) []catalog.Span {
	from := f.from.SegStart(segSize)
	if f.told != 0 && f.toldTL == s.Timeline && f.missed == len(s.Missing) {
		from = f.told
	}
	var out []catalog.Span
	path := archive.PathOf(marks.src.history())
	for i, leg := range path {
		lo, hi := max(from, leg.Start), s.Archived
		if i == 0 {
			lo = from
		}
		if i+1 < len(path) {
			hi = min(hi, path[i+1].Start)
		}
		if lo < hi {
			out = append(out, without(catalog.Span{Timeline: leg.Timeline, From: lo, To: hi, Marks: marks.between(lo, hi)}, s.Missing)...)
		}
	}
	return out
}
