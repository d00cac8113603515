package archive

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Place is a location by its name.
type Place struct {
	Name     string
	Location location.Location
}

// Problem is something at a location that is not as it should be.
type Problem struct {
	Key  string // object or folder
	What string
}

// String is for people.
func (p Problem) String() string { return p.Key + ": " + p.What }

const (
	maxProblems  = 1000
	sampledSeals = 64 // read of each span, for its marks
	scanReaders  = 4
	maxSets      = 10_000
)

// scan is what a listing found.
type scan struct {
	root     backupset.Root
	place    Place
	cat      catalog.Catalog
	segments map[pos.Timeline][]location.Info
	partials map[pos.Timeline][]location.Info
	history  []string
	sets     map[string]map[string]location.Info // objects by label and name
	problems []Problem
}

// Scan finds everything that lies at one location: sets by their set.json, log
// by names and by the seals of some segments (all partial ones, and some of
// each span for its marks), histories by their text. Contents are not proven.
//
// The error is for a location that could not be read to the end; what is
// merely wrong there is a Problem, of which the first 1000 are told.
func Scan(ctx context.Context, p Place, root backupset.Root) (catalog.Catalog, []Problem, error) {
	s := &scan{
		root: root, place: p, segments: map[pos.Timeline][]location.Info{}, partials: map[pos.Timeline][]location.Info{},
		sets: map[string]map[string]location.Info{},
		cat: catalog.Catalog{Group: root.Group, Profile: root.Profile, Timelines: map[pos.Timeline]catalog.Timeline{},
			Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{}},
	}
	for _, step := range []func(context.Context) error{s.list, s.readSets, s.findIdentity, s.readHistories, s.readLog} {
		if err := step(ctx); err != nil {
			return catalog.Catalog{}, s.problems, fmt.Errorf("scan location %s: %w", p.Name, err)
		}
	}
	return s.cat, s.problems, nil
}

func (s *scan) problem(key, format string, args ...any) {
	if len(s.problems) < maxProblems {
		s.problems = append(s.problems, Problem{key, fmt.Sprintf(format, args...)})
	}
}

// list sorts every object into its kind. The segment size is not known yet, so
// a segment's name is looked at later.
func (s *scan) list(ctx context.Context) error {
	n := 0
	return s.place.Location.List(ctx, s.root.Prefix(), func(o location.Info) error {
		if n++; n > maxListed {
			return fmt.Errorf("more than %d objects", maxListed)
		}
		if rest, ok := strings.CutPrefix(o.Key, s.root.Sets()); ok {
			s.addSetObject(rest, o)
			return nil
		}
		w, ok := s.root.ParseWAL(o.Key, minSegSize) // accepts the names of any size
		switch {
		case !ok:
			s.problem(o.Key, "is no object of a backup")
		case w.History:
			s.history = append(s.history, o.Key)
		case w.Partial:
			s.partials[w.Timeline] = append(s.partials[w.Timeline], o)
		default:
			s.segments[w.Timeline] = append(s.segments[w.Timeline], o)
		}
		return nil
	})
}

func (s *scan) addSetObject(rest string, o location.Info) {
	label, name, _ := strings.Cut(rest, "/")
	if _, err := backupset.ParseLabel(label); err != nil || name == "" {
		s.problem(o.Key, "is no object of a set")
		return
	}
	if s.sets[label] == nil {
		if len(s.sets) == maxSets {
			s.problem(o.Key, "is of one set more than %d", maxSets)
			return
		}
		s.sets[label] = map[string]location.Info{}
	}
	s.sets[label][name] = o
}

func (s *scan) readSets(ctx context.Context) error {
	for _, label := range slices.Sorted(maps.Keys(s.sets)) {
		objects := s.sets[label]
		info, ok := objects[backupset.SetName]
		if !ok {
			s.problem(s.root.SetDir(label), "has no %s: a backup that was not finished, or is being taken", backupset.SetName)
			continue
		}
		set, digest, err := s.readSet(ctx, info)
		switch {
		case errors.Is(err, backupset.ErrDamaged), errors.Is(err, backupset.ErrVersion), errors.Is(err, errNotASet):
			s.problem(info.Key, "%v", err)
			continue
		case err != nil:
			return err
		}
		s.addSet(set, digest, info)
	}
	return nil
}

var errNotASet = errors.New("cannot be read as a set")

func (s *scan) readSet(ctx context.Context, info location.Info) (backupset.Set, string, error) {
	if info.Size > backupset.MaxSetBytes {
		return backupset.Set{}, "", fmt.Errorf("%w: it has %d bytes", backupset.ErrDamaged, info.Size)
	}
	b, err := readObject(ctx, s.place.Location, info.Key, 0, info.Size)
	if err != nil {
		return backupset.Set{}, "", err
	}
	set, err := backupset.DecodeSet(b)
	if err != nil {
		return backupset.Set{}, "", fmt.Errorf("%w: %w", errNotASet, err)
	}
	if label, _, _ := strings.Cut(strings.TrimPrefix(info.Key, s.root.Sets()), "/"); label != set.Label {
		return backupset.Set{}, "", fmt.Errorf("%w: it describes set %s", errNotASet, set.Label)
	}
	return set, backupset.Digest(b), nil
}

func (s *scan) addSet(set backupset.Set, digest string, info location.Info) {
	cp := catalog.Copy{State: catalog.CopyComplete, At: info.At}
	for _, o := range set.Objects {
		there, ok := s.sets[set.Label][o.Name]
		if ok && there.Size == o.Bytes {
			continue
		}
		cp.State, cp.Problem = catalog.CopyDamaged, "object "+o.Name+" is missing"
		if ok {
			cp.Problem = fmt.Sprintf("object %s has %d bytes, not %d", o.Name, there.Size, o.Bytes)
		}
		s.problem(s.root.Object(set.Label, o.Name), "%s", cp.Problem)
	}
	out := catalog.Set{
		Label: set.Label, Parent: set.Parent, State: catalog.SetComplete, Timeline: set.Timeline, Start: set.Start, End: set.End, Began: set.Began, Ended: set.Ended,
		Node: set.Node, Bytes: set.StoredBytes() + info.Size, RawBytes: set.RawBytes, Digest: digest, Damaged: set.DamageN > 0,
		Notes: set.Notes, Copies: map[string]catalog.Copy{s.place.Name: cp},
	}
	if s.cat.SystemID != 0 && (s.cat.SystemID != set.SystemID || s.cat.SegSize != set.Server.SegSize) {
		s.problem(info.Key, "is of system %d with segments of %d bytes, the newer ones of %d and %d", set.SystemID, set.Server.SegSize, s.cat.SystemID, s.cat.SegSize)
	}
	s.cat.SystemID, s.cat.SegSize, s.cat.Major = set.SystemID, set.Server.SegSize, set.Server.Major // labels are sorted: the newest wins
	s.cat.Sets[set.Label] = out
	for i, l := range PathOf(set.Lineage) {
		if path := PathOf(set.Lineage); i > 0 {
			s.fork(info.Key, l.Timeline, catalog.Timeline{Parent: path[i-1].Timeline, Fork: l.Start})
		}
	}
}

// fork notes where a timeline left its parent; sources that contradict each
// other are a problem.
func (s *scan) fork(key string, t pos.Timeline, f catalog.Timeline) {
	old, ok := s.cat.Timelines[t]
	if ok && old.Parent != 0 && (old.Parent != f.Parent || old.Fork != f.Fork) {
		s.problem(key, "says that timeline %d left %d at %s, another object %d at %s", t, f.Parent, f.Fork, old.Parent, old.Fork)
		return
	}
	s.cat.Timelines[t] = f
	if _, ok := s.cat.Timelines[f.Parent]; !ok && f.Parent != 0 {
		s.cat.Timelines[f.Parent] = catalog.Timeline{}
	}
}

// findIdentity learns system and segment size from the newest seal that can be
// read. A seal is nearer to the log than a set.
func (s *scan) findIdentity(ctx context.Context) error {
	const tries = 8 // of each timeline
	for _, t := range slices.Backward(slices.Sorted(maps.Keys(s.timelines()))) {
		all := append(slices.Clone(s.partials[t]), s.segments[t]...)
		slices.SortFunc(all, func(a, b location.Info) int { return strings.Compare(b.Key, a.Key) })
		for _, o := range all[:min(len(all), tries)] {
			seal, err := readSeal(ctx, s.place.Location, o)
			if err == nil {
				s.cat.SystemID, s.cat.SegSize = seal.SystemID, seal.SegSize
				return nil
			}
			if err := s.tolerate(o.Key, err); err != nil {
				return err
			}
		}
	}
	if len(s.timelines()) > 0 && s.cat.SegSize == 0 {
		return errors.New("no segment of the log can be read")
	}
	return nil
}

func (s *scan) timelines() map[pos.Timeline]bool {
	out := map[pos.Timeline]bool{}
	for t := range s.segments {
		out[t] = true
	}
	for t := range s.partials {
		out[t] = true
	}
	return out
}

// tolerate makes a problem of an error that is about one object, and returns
// any other.
func (s *scan) tolerate(key string, err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, location.ErrDamaged) || errors.Is(err, location.ErrNotExist) || errors.Is(err, ErrForeign) {
		s.problem(key, "%v", err)
		return nil
	}
	return err
}

func (s *scan) readHistories(ctx context.Context) error {
	for _, key := range s.history {
		lines, err := readHistory(ctx, s.place.Location, key)
		if err != nil {
			if err := s.tolerate(key, err); err != nil {
				return err
			}
			continue
		}
		w, _ := s.root.ParseWAL(key, minSegSize)
		for i, l := range lines {
			child := w.Timeline
			if i+1 < len(lines) {
				child = lines[i+1].Timeline
			}
			if child <= l.Timeline {
				s.problem(key, "names timeline %d as an ancestor of %d", l.Timeline, child)
				break
			}
			s.fork(key, child, catalog.Timeline{Parent: l.Timeline, Fork: l.End})
		}
	}
	return nil
}

// readLog makes spans of segments.
func (s *scan) readLog(ctx context.Context) error {
	var place catalog.Place
	tlis := slices.Sorted(maps.Keys(s.timelines()))
	for i, t := range tlis {
		if _, ok := s.cat.Timelines[t]; !ok {
			s.cat.Timelines[t] = catalog.Timeline{}
			if i > 0 {
				s.problem(s.root.History(t), "is missing: where timeline %d left its parent is not known", t)
			}
		}
		spans, err := s.spans(ctx, t)
		if err != nil {
			return err
		}
		for i, sp := range spans {
			if i > 0 {
				place.Gaps = append(place.Gaps, catalog.Gap{Timeline: t, From: spans[i-1].To, To: sp.From, Cause: "not found at the location", Since: time.Now().UTC()})
			}
		}
		place.WAL = append(place.WAL, spans...)
	}
	s.cat.Places[s.place.Name] = place
	return nil
}

func (s *scan) spans(ctx context.Context, t pos.Timeline) ([]catalog.Span, error) {
	var starts []pos.LSN
	for _, o := range s.segments[t] {
		w, ok := s.root.ParseWAL(o.Key, s.cat.SegSize)
		switch {
		case !ok:
			s.problem(o.Key, "is no segment of %d bytes", s.cat.SegSize)
		case o.Size == 0 || o.Size > maxStored(s.cat.SegSize):
			s.problem(o.Key, "has %d bytes, which no segment has", o.Size)
		default:
			starts = append(starts, w.Start)
		}
	}
	have := runsOf(starts, s.cat.SegSize)
	for _, o := range s.partials[t] {
		w, ok := s.root.ParseWAL(o.Key, s.cat.SegSize)
		if _, whole := have.at(w.Start); !ok || whole {
			if !ok {
				s.problem(o.Key, "is no segment of %d bytes", s.cat.SegSize)
			}
			continue
		}
		seal, err := readSeal(ctx, s.place.Location, o)
		if err == nil {
			err = seal.mustBe(o.Key, Seal{SystemID: s.cat.SystemID, Timeline: t, Start: w.Start, SegSize: s.cat.SegSize}, false)
		}
		if err != nil {
			if err := s.tolerate(o.Key, err); err != nil {
				return nil, err
			}
			continue
		}
		have = have.with(pos.Range{From: seal.Start, To: seal.End()})
	}
	out := make([]catalog.Span, len(have))
	for i, r := range have {
		marks, err := s.marks(ctx, t, r)
		if err != nil {
			return nil, err
		}
		out[i] = catalog.Span{Timeline: t, From: r.From, To: r.To, Marks: marks}
	}
	return out, nil
}

// marks reads some seals of a span, the last one among them.
func (s *scan) marks(ctx context.Context, t pos.Timeline, r pos.Range) ([]catalog.Mark, error) {
	seg := uint64(s.cat.SegSize)
	n := (r.Len() + seg - 1) / seg
	samples := min(n, sampledSeals)
	seals := make([][]catalog.Mark, samples)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(scanReaders)
	for i := range samples {
		start := r.From + pos.LSN(((i+1)*n/samples-1)*seg)
		key := s.root.Segment(t, start, s.cat.SegSize)
		if start+pos.LSN(seg) > r.To {
			key = s.root.Partial(t, start, s.cat.SegSize)
		}
		g.Go(func() error {
			seal, err := ReadSeal(ctx, s.place.Location, key)
			if err == nil {
				err = seal.mustBe(key, Seal{SystemID: s.cat.SystemID, Timeline: t, Start: start, SegSize: s.cat.SegSize}, false)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				return s.tolerate(key, err)
			}
			seals[i] = seal.Marks
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(seals...), nil
}
