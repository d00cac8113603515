package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// getHistory gives a history of the path: as it is stored, or, when no place
// has it, made from the path.
func (f *Fetcher) getHistory(ctx context.Context, t pos.Timeline, dest string) error {
	if !f.cfg.Path.Has(t) {
		return fmt.Errorf("history of timeline %d: %w", t, ErrOutside)
	}
	lines := f.cfg.Path.ancestors(t)
	found := f.storedHistory(ctx, t, lines)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case found == nil && len(lines) == 0:
		return fmt.Errorf("history of timeline %d, which is the first: %w", t, ErrNotExist)
	case found == nil:
		for i := range lines {
			lines[i].Reason = "as the restore knows it"
		}
		found = lines
	}
	return writeFile(dest, func(w io.Writer) error { _, err := w.Write(RenderHistory(found)); return err })
}

// storedHistory looks for a history that agrees with the path.
func (f *Fetcher) storedHistory(ctx context.Context, t pos.Timeline, want []Ancestor) []Ancestor {
	for _, p := range f.order() {
		lines, err := readHistory(ctx, p.Location, f.cfg.Root.History(t))
		if err != nil {
			if !errors.Is(err, location.ErrNotExist) {
				f.ill(p, err)
			}
			continue
		}
		i := slices.IndexFunc(lines, func(a Ancestor) bool { return a.Timeline == f.cfg.Path[0].Timeline })
		if len(want) == 0 && i < 0 || i >= 0 && sameAncestors(lines[i:], want) {
			return lines
		}
		f.cfg.Log.Error("a stored history is not that of this restore and is not used", "location", p.Name, "timeline", uint32(t), "says", oneLine(lines))
	}
	return nil
}

// order is the places, nearest first, those that failed a moment ago last.
func (f *Fetcher) order() []Place {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	out := slices.Clone(f.cfg.Places)
	slices.SortStableFunc(out, func(a, b Place) int {
		sick := func(p Place) int {
			if now.Before(f.sick[p.Name]) {
				return 1
			}
			return 0
		}
		return sick(a) - sick(b)
	})
	return out
}

// ill notes that a place failed.
func (f *Fetcher) ill(p Place, err error) {
	f.mu.Lock()
	before := f.sick[p.Name]
	f.sick[p.Name] = time.Now().Add(sickFor)
	f.mu.Unlock()
	if time.Now().After(before) {
		f.cfg.Log.Warn("log cannot be had from a place", "location", p.Name, "error", err)
	}
}
