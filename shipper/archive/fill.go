package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Stretch is a range of one timeline's log.
type Stretch struct {
	Timeline pos.Timeline
	pos.Range
}

// FillConfig says what a Fill brings where.
type FillConfig struct {
	From     []Place // asked in this order
	To       Place
	Root     backupset.Root
	SystemID uint64
	SegSize  int64
	Ranges   []Stretch
	// Workers is how many objects are copied at once; default 2. They are passed
	// through, not kept in memory.
	Workers int
	Log     *slog.Logger // required
	// OnObject is called after each object; it must not block. Nil for none.
	OnObject func(FillReport)
}

// FillReport is what a Fill has done.
type FillReport struct {
	Copied int
	There  int // were at the destination already
	Bytes  int64
	// Missing is what no place has whole and undamaged.
	Missing []catalog.Gap
}

// Fill brings the log of some ranges to a location from others, object by
// object, oldest first. Of every object all bytes are proven by its seal
// before it is seen under its name. What is at the destination already stays
// as it is; other contents there are ErrConflict.
//
// What nobody has is in the report and no error. The error is for a
// destination that fails; a later call goes on.
func Fill(ctx context.Context, cfg FillConfig) (FillReport, error) {
	if err := checkSegSize(cfg.SegSize); err != nil {
		return FillReport{}, err
	}
	f := &filler{cfg: cfg}
	if f.cfg.OnObject == nil {
		f.cfg.OnObject = func(FillReport) {}
	}
	done := map[pos.Timeline]bool{}
	for _, r := range cfg.Ranges {
		if !done[r.Timeline] {
			if err := f.history(ctx, r.Timeline); err != nil {
				return f.report, fmt.Errorf("fill location %s: %w", cfg.To.Name, err)
			}
			done[r.Timeline] = true
		}
	}
	if cfg.Workers <= 0 {
		cfg.Workers = defaultWorkers
	}
	g, work := errgroup.WithContext(ctx)
	g.SetLimit(min(cfg.Workers, maxWorkers))
	for _, r := range cfg.Ranges {
		for at := r.From.SegStart(cfg.SegSize); at < r.To && work.Err() == nil; at += pos.LSN(cfg.SegSize) {
			g.Go(func() error { return f.segment(work, r, at) })
		}
	}
	if err := g.Wait(); err != nil {
		return f.report, fmt.Errorf("fill location %s: %w", cfg.To.Name, err)
	}
	slices.SortFunc(f.report.Missing, func(a, b catalog.Gap) int {
		return int(min(a.From.Sub(b.From), 1)) - int(min(b.From.Sub(a.From), 1))
	})
	return f.report, context.Cause(ctx)
}

type filler struct {
	cfg    FillConfig
	mu     sync.Mutex
	report FillReport
}

func (f *filler) note(change func(*FillReport)) {
	f.mu.Lock()
	change(&f.report)
	r := f.report
	r.Missing = slices.Clone(r.Missing)
	f.mu.Unlock()
	f.cfg.OnObject(r)
}

// errTo marks errors of the destination.
var errTo = errors.New("the destination failed")

// history copies a timeline's history, if there is one.
func (f *filler) history(ctx context.Context, t pos.Timeline) error {
	key := f.cfg.Root.History(t)
	there, err := readHistory(ctx, f.cfg.To.Location, key)
	have := err == nil
	if err != nil && !errors.Is(err, location.ErrNotExist) && !errors.Is(err, ErrDamaged) {
		return err
	}
	for _, p := range f.cfg.From {
		lines, err := readHistory(ctx, p.Location, key)
		switch {
		case err != nil:
			continue // what is missing shows at the segments
		case have && !sameAncestors(lines, there):
			return fmt.Errorf("%w: %s says %q, that of location %s %q", ErrConflict, key, oneLine(there), p.Name, oneLine(lines))
		case have:
			return nil
		}
		return putBytes(ctx, f.cfg.To.Location, key, RenderHistory(lines))
	}
	return nil
}

// segment brings one segment: the whole one, or, when that is nowhere and the
// range ends within it, the partial one.
func (f *filler) segment(ctx context.Context, r Stretch, at pos.LSN) error {
	end := at + pos.LSN(f.cfg.SegSize)
	seg := f.cfg.Root.Segment(r.Timeline, at, f.cfg.SegSize)
	want := Seal{SystemID: f.cfg.SystemID, Timeline: r.Timeline, Start: at, SegSize: f.cfg.SegSize, Length: f.cfg.SegSize}
	ok, why, err := f.object(ctx, seg, want)
	if err != nil || ok {
		return err
	}
	if r.To < end {
		want.Length = int64(r.To.Sub(at))
		var partial error
		if ok, partial, err = f.object(ctx, f.cfg.Root.Partial(r.Timeline, at, f.cfg.SegSize), want); err != nil || ok {
			return err
		}
		why = errors.Join(why, partial)
	}
	f.note(func(rep *FillReport) {
		rep.Missing = append(rep.Missing, catalog.Gap{Timeline: r.Timeline, From: max(at, r.From), To: min(end, r.To), Cause: why.Error(), Since: time.Now().UTC()})
	})
	return nil
}

// object brings one object with at least want.Length bytes of log. why tells
// what stood against it when it is not ok; err is for the destination.
func (f *filler) object(ctx context.Context, key string, want Seal) (ok bool, why, err error) {
	there, err := ReadSeal(ctx, f.cfg.To.Location, key)
	switch {
	case err == nil:
		if err := there.mustBe(key, want, want.Whole()); err != nil {
			return false, nil, fmt.Errorf("%w: %w", ErrConflict, err)
		}
		if there.Length >= want.Length {
			f.note(func(r *FillReport) { r.There++ })
			return true, nil, nil
		}
	case !errors.Is(err, location.ErrNotExist) && !errors.Is(err, ErrDamaged):
		return false, nil, err
	}
	var doubts []error
	for _, p := range f.cfg.From {
		n, err := f.copy(ctx, p, key, want)
		switch {
		case err == nil:
			f.note(func(r *FillReport) { r.Copied, r.Bytes = r.Copied+1, r.Bytes+n })
			return true, nil, nil
		case ctx.Err() != nil:
			return false, nil, context.Cause(ctx)
		case errors.Is(err, errTo):
			return false, nil, err
		}
		f.cfg.Log.Warn("an object cannot be copied", "key", key, "from", p.Name, "to", f.cfg.To.Name, "error", err)
		doubts = append(doubts, fmt.Errorf("location %s: %w", p.Name, err))
	}
	if len(doubts) == 0 {
		doubts = append(doubts, errors.New("there is no other location"))
	}
	return false, errors.Join(doubts...), nil
}

// toWriter marks the errors of the destination.
type toWriter struct{ w io.Writer }

func (w toWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err != nil {
		err = fmt.Errorf("%w: %w", errTo, err)
	}
	return n, err
}

// copy passes one object through, and commits it when its seal proves it.
func (f *filler) copy(ctx context.Context, p Place, key string, want Seal) (int64, error) {
	info, err := p.Location.Stat(ctx, key)
	if err != nil {
		return 0, err
	}
	if info.Size > maxStored(f.cfg.SegSize) {
		return 0, fmt.Errorf("%w: %s has %d bytes", ErrDamaged, key, info.Size)
	}
	r, err := p.Location.Open(ctx, key, 0, info.Size)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	u, err := f.cfg.To.Location.Create(ctx, key, location.CreateOptions{Size: info.Size})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errTo, err)
	}
	seal, err := Check(io.TeeReader(r, toWriter{u}))
	if err == nil {
		err = seal.mustBe(key, want, want.Whole())
	}
	if err == nil && seal.Length < want.Length {
		err = fmt.Errorf("%s ends at %s", key, seal.End())
	}
	if err != nil {
		return 0, errors.Join(err, u.Abort())
	}
	if _, err := u.Commit(ctx); err != nil {
		return 0, errors.Join(fmt.Errorf("%w: commit %s: %w", errTo, key, err), u.Abort())
	}
	return info.Size, nil
}
