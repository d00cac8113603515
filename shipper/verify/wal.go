package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// Log is what a location must hold of the log.
type Log struct {
	SystemID uint64
	SegSize  int64
	// Stretches must be there without a gap.
	Stretches []archive.Stretch
	// Histories are the ancestors of the timelines that are known, whether they
	// must be there or not. Reasons are compared where they are given.
	Histories map[pos.Timeline][]archive.Ancestor
}

// LogOf is what the catalog says that a location holds. The lineage gives the
// reasons of histories; nil is fine.
func LogOf(c catalog.Catalog, location string, lin pos.Lineage) Log {
	l := Log{SystemID: c.SystemID, SegSize: c.SegSize, Histories: map[pos.Timeline][]archive.Ancestor{}}
	for _, s := range c.Places[location].WAL {
		l.Stretches = append(l.Stretches, archive.Stretch{Timeline: s.Timeline, Range: pos.Range{From: s.From, To: s.To}})
	}
	for _, t := range c.Known() {
		path, err := c.Path(t)
		if err != nil {
			continue // nothing certain is known of it
		}
		lines := []archive.Ancestor{}
		for i, s := range path[:len(path)-1] {
			if s.To > s.From || i == 0 {
				lines = append(lines, archive.Ancestor{Timeline: s.Timeline, End: s.To, Reason: reason(lin, path[i+1].Timeline)})
			}
		}
		l.Histories[t] = lines
	}
	return l
}

// reason is what a history says of the promotion that began a timeline.
func reason(lin pos.Lineage, t pos.Timeline) string {
	for _, e := range lin {
		if e.Timeline == t {
			return "promotion in epoch " + e.Epoch.String()
		}
	}
	return ""
}

// segment is one stored piece.
type segment struct {
	tli     pos.Timeline
	partial bool
	start   pos.LSN
	size    int64   // stored
	end     pos.LSN // of the log in it, once it was read; zero before
}

const (
	maxListed  = 2 << 20
	maxHistory = 1 << 20
)

// logProver is one verification of the log.
type logProver struct {
	*prover
	root      backupset.Root
	want      Log
	segments  []segment // sorted by timeline and start, whole ones first
	histories []string
}

// WAL proves the log at one location: every stored piece holds what was sealed
// and is what its name says, the stretches that must be there are without a
// gap, and histories say what the ledger knows. As for Set, damage is no error,
// and an error is no verdict.
func WAL(ctx context.Context, loc location.Location, root backupset.Root, want Log, o Options) (Report, error) {
	p := &logProver{prover: newProver(loc, o), root: root, want: want}
	err := p.run(ctx)
	return p.result(ctx, "verify the log", err)
}

func (p *logProver) run(ctx context.Context) error {
	switch {
	case p.want.SegSize <= 0 && len(p.want.Stretches) == 0:
		return nil // nothing was ever archived that is known of
	case p.want.SegSize <= 0:
		return archive.ErrSegmentSize
	}
	for _, step := range []func(context.Context) error{p.list, p.prove, p.continuous, p.proveHistories} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *logProver) list(ctx context.Context) error {
	var strange []string
	err := p.retry(ctx, func(ctx context.Context) error {
		p.segments, p.histories, strange = nil, nil, nil
		return p.loc.List(ctx, p.root.WAL(), func(i location.Info) error {
			w, ok := p.root.ParseWAL(i.Key, p.want.SegSize)
			switch {
			case len(p.segments)+len(p.histories) >= maxListed:
				return fmt.Errorf("more than %d objects", maxListed)
			case ok && w.History:
				p.histories = append(p.histories, i.Key)
			case ok:
				p.segments = append(p.segments, segment{tli: w.Timeline, start: w.Start, partial: w.Partial, size: i.Size})
			case len(strange) < maxFindings:
				strange = append(strange, i.Key)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, key := range strange {
		p.find(Finding{Object: key, Kind: Unknown, What: "is no piece of this log", At: -1})
	}
	slices.SortFunc(p.segments, func(a, b segment) int {
		return cmp.Or(cmp.Compare(a.tli, b.tli), cmp.Compare(a.start, b.start), strings.Compare(p.key(a), p.key(b)))
	})
	for _, s := range p.segments {
		p.total += max(s.size, 0)
	}
	return nil
}

func (p *logProver) key(s segment) string {
	if s.partial {
		return p.root.Partial(s.tli, s.start, p.want.SegSize)
	}
	return p.root.Segment(s.tli, s.start, p.want.SegSize)
}

// prove proves every piece.
func (p *logProver) prove(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range p.o.Workers {
		g.Go(func() error {
			t, err := p.newTool()
			if err != nil {
				return err
			}
			defer t.close()
			for {
				i := int(next.Add(1)) - 1
				if i >= len(p.segments) {
					return nil
				}
				s := &p.segments[i]
				if err := t.piece(ctx, s); err != nil {
					return err
				}
				p.passed(p.key(*s), s.size)
			}
		})
	}
	return g.Wait()
}

// tool is what one worker proves pieces with.
type tool struct {
	p   *logProver
	dec *archive.Decoder // nil unless deep
}

func (p *logProver) newTool() (*tool, error) {
	t := &tool{p: p}
	var err error
	if p.o.Deep {
		t.dec, err = archive.NewDecoder()
	}
	return t, err
}

func (t *tool) close() {
	if t.dec != nil {
		t.dec.Close()
	}
}

// piece proves one piece and notes what is wrong with it.
func (t *tool) piece(ctx context.Context, s *segment) error {
	p, key := t.p, t.p.key(*s)
	seal, err := t.read(ctx, key, *s)
	switch {
	case err == nil:
		s.end = seal.End()
		raw := int64(0)
		if t.dec != nil {
			raw = seal.Length
		}
		p.proven(s.size, raw)
		return nil
	case errors.Is(err, archive.ErrForeign):
		p.find(Finding{Object: key, Kind: Foreign, What: err.Error(), At: -1})
	case wrong(err):
		p.find(Finding{Object: key, Kind: Damaged, What: err.Error(), At: -1})
	case errors.Is(err, location.ErrNotExist):
		return nil // it went meanwhile; continuous tells whether it may
	case p.lost(ctx, key, err):
		return err
	}
	s.end = s.start + pos.LSN(p.want.SegSize) // something is there, and what is wrong with it was said
	return nil
}

// read reads a piece once and compares it with its name.
func (t *tool) read(ctx context.Context, key string, s segment) (seal archive.Seal, err error) {
	page := &firstPage{}
	err = t.p.retry(ctx, func(ctx context.Context) error {
		r, err := t.p.loc.Open(ctx, key, 0, -1)
		if err != nil {
			return err
		}
		if t.dec == nil {
			seal, err = archive.Check(r)
		} else {
			*page = firstPage{b: page.b[:0]}
			seal, err = t.dec.Decode(page, r, t.p.want.SegSize)
		}
		return errors.Join(err, r.Close())
	})
	if err != nil {
		return seal, err
	}
	if want := t.p.want; seal.Timeline != s.tli || seal.Start != s.start || seal.SegSize != want.SegSize || !s.partial && !seal.Whole() ||
		want.SystemID != 0 && seal.SystemID != want.SystemID {
		return seal, fmt.Errorf("%w: it holds %s", archive.ErrForeign, seal)
	}
	if t.dec != nil {
		err = page.check(seal)
	}
	return seal, err
}

// firstPage keeps the beginning of a segment.
type firstPage struct{ b []byte }

// Write implements io.Writer.
func (f *firstPage) Write(b []byte) (int, error) {
	f.b = append(f.b, b[:min(len(b), walfmt.PageSize-len(f.b))]...)
	return len(b), nil
}

// check compares what PostgreSQL wrote at the beginning with the seal. The
// first page of a segment may be of an older timeline than its name.
func (f *firstPage) check(s archive.Seal) error {
	if len(f.b) < walfmt.PageSize {
		return nil
	}
	id, err := walfmt.ParseLongHeader(f.b)
	if err != nil {
		return fmt.Errorf("%w: %w", archive.ErrDamaged, err)
	}
	if id.SystemID != s.SystemID || id.SegSize != s.SegSize || id.PageAddr != s.Start || id.Timeline > s.Timeline {
		return fmt.Errorf("%w: its first page is that of %s on timeline %d of system %d", archive.ErrForeign, id.PageAddr, id.Timeline, id.SystemID)
	}
	return nil
}

// continuous looks for gaps in the stretches.
func (p *logProver) continuous(ctx context.Context) error {
	t, err := p.newTool()
	if err != nil {
		return err
	}
	defer t.close()
	for _, st := range p.want.Stretches {
		gap := pos.Range{}
		for at := st.From.SegStart(p.want.SegSize); at < st.To; at += pos.LSN(p.want.SegSize) {
			need := min(at.SegEnd(p.want.SegSize), st.To)
			have := p.has(st.Timeline, at)
			if have < need {
				if have, err = t.late(ctx, st.Timeline, at, have); err != nil {
					return err
				}
			}
			if have >= need {
				p.gap(st.Timeline, &gap)
				continue
			}
			if gap.Empty() {
				gap.From = max(have, at, st.From)
			}
			gap.To = need
		}
		p.gap(st.Timeline, &gap)
	}
	return nil
}

// gap notes a gap that has come to its end.
func (p *logProver) gap(t pos.Timeline, g *pos.Range) {
	if !g.Empty() {
		key := p.root.Segment(t, g.From.SegStart(p.want.SegSize), p.want.SegSize)
		p.find(Finding{Object: key, Kind: Missing, What: fmt.Sprintf("is missing, and with it the log from %s to %s of timeline %d", g.From, g.To, t), At: -1})
	}
	*g = pos.Range{}
}

// has is up to where the log of a segment is there.
func (p *logProver) has(t pos.Timeline, start pos.LSN) (end pos.LSN) {
	i, _ := slices.BinarySearchFunc(p.segments, segment{tli: t, start: start}, func(a, b segment) int {
		return cmp.Or(cmp.Compare(a.tli, b.tli), cmp.Compare(a.start, b.start))
	})
	for ; i < len(p.segments) && p.segments[i].tli == t && p.segments[i].start == start; i++ {
		end = max(end, p.segments[i].end)
	}
	return end
}

// late looks for a piece that was stored after the listing, as when a whole
// segment took the place of a partial one.
func (t *tool) late(ctx context.Context, tli pos.Timeline, start, have pos.LSN) (pos.LSN, error) {
	for _, partial := range []bool{false, true} {
		s := segment{tli: tli, start: start, partial: partial}
		err := t.p.retry(ctx, func(ctx context.Context) error {
			i, err := t.p.loc.Stat(ctx, t.p.key(s))
			s.size = i.Size
			return err
		})
		switch {
		case errors.Is(err, location.ErrNotExist):
			continue
		case err != nil && t.p.lost(ctx, t.p.key(s), err):
			return have, err
		case err != nil:
			return start + pos.LSN(t.p.want.SegSize), nil // no verdict on it
		}
		if err := t.piece(ctx, &s); err != nil {
			return have, err
		}
		if have = max(have, s.end); !partial && s.end != 0 {
			break
		}
	}
	return have, nil
}
