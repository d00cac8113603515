package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// PruneConfig says what of a location's log goes. It was decided elsewhere.
type PruneConfig struct {
	Place   Place
	Root    backupset.Root
	SegSize int64
	Ranges  []Stretch
	// Keep are timelines that anything kept is on: those of sets, and of the
	// present lineage. Their histories stay, and those of their ancestors.
	Keep []pos.Timeline
	// OnObject is called after each object that was removed. Nil for none.
	OnObject func(PruneReport)
}

// PruneReport is what a Prune has done.
type PruneReport struct {
	Objects   int
	Histories int
	Bytes     int64 // as stored
}

// pruneBatch is how many objects are removed at once: what a crash in the
// midst of it can leave behind out of order.
const pruneBatch = 8

// Prune removes the segments, whole and partial, that lie wholly within the
// ranges, oldest first. A range that a segment is only in part in leaves it. The
// history of a timeline goes when nothing is left of its log, it is none of
// Keep, and no timeline of which anything is left descends from it; without
// certainty about that, none goes. A later call goes on where one was cut off.
func Prune(ctx context.Context, cfg PruneConfig) (PruneReport, error) {
	if err := checkSegSize(cfg.SegSize); err != nil {
		return PruneReport{}, err
	}
	if cfg.OnObject == nil {
		cfg.OnObject = func(PruneReport) {}
	}
	p := &pruner{cfg: cfg, left: map[pos.Timeline]int{}, named: map[pos.Timeline]bool{}}
	for _, step := range []func(context.Context) error{p.list, p.remove, p.histories} {
		if err := step(ctx); err != nil {
			return p.report, fmt.Errorf("prune location %s: %w", cfg.Place.Name, err)
		}
	}
	return p.report, nil
}

type pruneItem struct {
	start pos.LSN
	tli   pos.Timeline
	info  location.Info
}

type pruner struct {
	cfg    PruneConfig
	items  []pruneItem
	left   map[pos.Timeline]int  // objects that stay
	named  map[pos.Timeline]bool // in Ranges
	hist   map[pos.Timeline]bool // histories at the location
	report PruneReport
}

func (p *pruner) list(ctx context.Context) error {
	p.hist = map[pos.Timeline]bool{}
	for _, r := range p.cfg.Ranges {
		p.named[r.Timeline] = true
	}
	n := 0
	err := p.cfg.Place.Location.List(ctx, p.cfg.Root.WAL(), func(o location.Info) error {
		w, ok := p.cfg.Root.ParseWAL(o.Key, p.cfg.SegSize)
		if n++; n > maxListed {
			return fmt.Errorf("more than %d objects", maxListed)
		}
		switch {
		case !ok:
		case w.History:
			p.hist[w.Timeline] = true
		case p.within(w.Timeline, w.Start):
			p.items = append(p.items, pruneItem{w.Start, w.Timeline, o})
		default:
			p.left[w.Timeline]++
		}
		return nil
	})
	slices.SortFunc(p.items, func(a, b pruneItem) int {
		if a.start != b.start {
			return int(min(a.start.Sub(b.start), 1)) - int(min(b.start.Sub(a.start), 1))
		}
		return strings.Compare(a.info.Key, b.info.Key)
	})
	return err
}

func (p *pruner) within(t pos.Timeline, start pos.LSN) bool {
	end := start + pos.LSN(p.cfg.SegSize)
	return slices.ContainsFunc(p.cfg.Ranges, func(r Stretch) bool { return r.Timeline == t && r.From <= start && end <= r.To })
}

func (p *pruner) remove(ctx context.Context) error {
	for batch := range slices.Chunk(p.items, pruneBatch) {
		g, ctx := errgroup.WithContext(ctx)
		for _, it := range batch {
			g.Go(func() error { return p.cfg.Place.Location.Remove(ctx, it.info.Key) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, it := range batch {
			p.report.Objects++
			p.report.Bytes += it.info.Size
		}
		p.cfg.OnObject(p.report)
	}
	return nil
}

// histories removes those that nothing needs any more.
func (p *pruner) histories(ctx context.Context) error {
	needed := map[pos.Timeline]bool{}
	for _, t := range p.cfg.Keep {
		needed[t] = true
	}
	for t := range p.hist {
		if !p.named[t] || p.left[t] > 0 {
			needed[t] = true
		}
	}
	// The ancestors of each that stays stay too.
	for _, t := range slices.Sorted(maps.Keys(needed)) {
		lines, err := readHistory(ctx, p.cfg.Place.Location, p.cfg.Root.History(t))
		switch {
		case errors.Is(err, location.ErrNotExist):
			if !p.hist[t] {
				continue // a first timeline, or one that was never stored here
			}
		case err != nil:
			return fmt.Errorf("no history is removed, since not all can be read: %w", err)
		}
		for _, l := range lines {
			needed[l.Timeline] = true
		}
	}
	for _, t := range slices.Sorted(maps.Keys(p.hist)) {
		if needed[t] {
			continue
		}
		if err := p.cfg.Place.Location.Remove(ctx, p.cfg.Root.History(t)); err != nil {
			return err
		}
		p.report.Histories++
		p.cfg.OnObject(p.report)
	}
	return nil
}
