package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// maxListed bounds how many objects are remembered of a listing: 64 TiB of log
// in segments of 16 MiB.
const maxListed = 4 << 20

// establish finds out where the location stands along a lineage. Names are
// believed, except that of the newest segment.
func (f *Feeder) establish(ctx context.Context, lin pos.Lineage) error {
	if len(lin) == 0 {
		return errors.New("the group's history is not known yet")
	}
	if err := lin.Validate(); err != nil {
		return err
	}
	s := &standing{
		lin: slices.Clone(lin), path: PathOf(lin), have: map[pos.Timeline]runs{}, gone: map[pos.Timeline]runs{},
		partials: map[string]bool{}, bad: map[string]bool{}, leftDone: map[piece]bool{}, next: f.cfg.From.SegStart(f.cfg.SegSize),
	}
	if err := f.list(ctx, s); err != nil {
		return fmt.Errorf("list the log: %w", err)
	}
	if err := f.proveNewest(ctx, s); err != nil {
		return fmt.Errorf("check the newest segment: %w", err)
	}
	for i, l := range s.path {
		if needed := i > 0 && (i+1 == len(s.path) || s.path[i+1].Start > s.next); !needed {
			continue
		}
		if err := f.storeHistory(ctx, lin, l.Timeline); err != nil {
			return fmt.Errorf("store the history of timeline %d: %w", l.Timeline, err)
		}
	}
	f.dropPartials(ctx, s)
	f.st = s
	f.cfg.Log.Info("looked at the location", "lineage_end", lin.Last().Start, "timeline", uint32(s.path.Last()), "have", s.have[s.path.Last()])
	return nil
}

// list reads the folders of the timelines from the one that was in force at
// the first byte wanted.
func (f *Feeder) list(ctx context.Context, s *standing) error {
	n := 0
	for i, l := range s.path {
		if i+1 < len(s.path) && s.path[i+1].Start <= s.next {
			continue
		}
		var starts []pos.LSN
		err := f.cfg.Location.List(ctx, f.cfg.Root.Timeline(l.Timeline), func(o location.Info) error {
			w, ok := f.cfg.Root.ParseWAL(o.Key, f.cfg.SegSize)
			switch {
			case !ok || w.History:
				return nil
			case n >= maxListed:
				return fmt.Errorf("more than %d objects", maxListed)
			case w.Partial:
				s.partials[o.Key] = true
			default:
				starts = append(starts, w.Start)
			}
			n++
			return nil
		})
		if err != nil {
			return err
		}
		s.have[l.Timeline] = runsOf(starts, f.cfg.SegSize)
	}
	return nil
}

// proveNewest does not trust a name alone for the newest segment: of it, all
// bytes are read. A damaged one is stored anew.
func (f *Feeder) proveNewest(ctx context.Context, s *standing) error {
	for _, l := range slices.Backward(s.path) {
		have := s.have[l.Timeline]
		if len(have) == 0 {
			continue
		}
		start := have[len(have)-1].To - pos.LSN(f.cfg.SegSize)
		key := f.cfg.Root.Segment(l.Timeline, start, f.cfg.SegSize)
		seal, err := checkObject(ctx, f.cfg.Location, key)
		switch {
		case errors.Is(err, ErrDamaged), errors.Is(err, location.ErrDamaged):
			f.cfg.Log.Error("the newest segment is damaged and is stored again", "key", key, "error", err)
			s.bad[key] = true
			s.have[l.Timeline] = have.without(pos.Range{From: start, To: start + pos.LSN(f.cfg.SegSize)})
		case errors.Is(err, location.ErrNotExist):
			s.have[l.Timeline] = have.without(pos.Range{From: start, To: start + pos.LSN(f.cfg.SegSize)})
		case err != nil:
			return err
		default:
			return f.mustBe(key, seal, piece{l.Timeline, start, start + pos.LSN(f.cfg.SegSize), whole})
		}
		return nil
	}
	return nil
}

// mustBe refuses an object that is not the piece under whose name it lies.
func (f *Feeder) mustBe(key string, s Seal, p piece) error {
	return s.mustBe(key, Seal{SystemID: f.cfg.SystemID, Timeline: p.tli, Start: p.start, SegSize: f.cfg.SegSize}, p.kind == whole)
}

// mustBe refuses an object that is not what its key promises; want has the
// identity.
func (s Seal) mustBe(key string, want Seal, whole bool) error {
	want.Length, want.Raw = s.Length, s.Raw
	if whole {
		want.Length = s.SegSize
	}
	if !s.same(want) {
		return fmt.Errorf("%w: %s holds %s, wanted %s", ErrForeign, key, s, want)
	}
	return nil
}

// dropPartials removes partial pieces of segments that are there whole. One
// that stays harms nobody.
func (f *Feeder) dropPartials(ctx context.Context, s *standing) {
	for _, key := range slices.Sorted(maps.Keys(s.partials)) {
		w, _ := f.cfg.Root.ParseWAL(key, f.cfg.SegSize)
		if _, ok := s.have[w.Timeline].at(w.Start); !ok {
			continue
		}
		if err := f.cfg.Location.Remove(ctx, key); err != nil {
			f.cfg.Log.Warn("a partial segment stays beside the whole one", "key", key, "error", err)
			return
		}
		delete(s.partials, key)
	}
}

// storeHistory stores the history file of a timeline that was promoted to.
func (f *Feeder) storeHistory(ctx context.Context, lin pos.Lineage, t pos.Timeline) error {
	key, lines := f.cfg.Root.History(t), ancestors(lin, t)
	there, err := readHistory(ctx, f.cfg.Location, key)
	switch {
	case errors.Is(err, location.ErrNotExist):
	case errors.Is(err, ErrDamaged):
		f.cfg.Log.Error("a history is damaged and is stored again", "key", key, "error", err)
	case err != nil:
		return err
	default:
		// A database that the group took over may have a past.
		for len(there) > 0 && there[0].Timeline < lin[0].Timeline {
			there = there[1:]
		}
		if !sameAncestors(there, lines) {
			return fmt.Errorf("%w: %s says %q, the ledger %q", ErrConflict, key, oneLine(there), oneLine(lines))
		}
		return nil
	}
	return putBytes(ctx, f.cfg.Location, key, RenderHistory(lines))
}

func oneLine(a []Ancestor) string {
	return strings.ReplaceAll(strings.TrimSpace(string(RenderHistory(a))), "\n", "; ")
}

// readHistory reads a history file; one that cannot be read by PostgreSQL is
// ErrDamaged.
func readHistory(ctx context.Context, loc location.Location, key string) ([]Ancestor, error) {
	r, err := loc.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxHistory+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	out, err := ParseHistory(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, key, err)
	}
	return out, nil
}

// putBytes stores a small object.
func putBytes(ctx context.Context, loc location.Location, key string, b []byte) error {
	u, err := loc.Create(ctx, key, location.CreateOptions{Size: int64(len(b))})
	if err != nil {
		return err
	}
	if _, err := io.Copy(u, bytes.NewReader(b)); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", key, err), u.Abort())
	}
	if _, err := u.Commit(ctx); err != nil {
		return errors.Join(fmt.Errorf("commit %s: %w", key, err), u.Abort())
	}
	return nil
}
