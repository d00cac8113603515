package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

// world is a group's log as a model: which branch wrote which bytes, what is
// committed, and what the source has.
type world struct {
	mu        sync.Mutex
	lin       pos.Lineage
	branch    []uint64 // of each entry
	committed pos.LSN
	base, end pos.LSN // of the source
	branches  uint64
}

func newWorld(start pos.LSN) *world {
	return &world{lin: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: start}}, branch: []uint64{0}, committed: start, base: start.SegStart(segSize), end: start}
}

func (w *world) lineage() pos.Lineage {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lin
}

func (w *world) commit() (pos.LSN, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.committed, true
}

// truth is the log along the lineage.
func (w *world) truth(from, to pos.LSN) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.truthLocked(from, to)
}

func (w *world) truthLocked(from, to pos.LSN) []byte {
	var out []byte
	for i := range w.lin {
		a, b := from, to
		if i > 0 {
			a = max(a, w.lin[i].Start)
		}
		if i+1 < len(w.lin) {
			b = min(b, w.lin[i+1].Start)
		}
		if a < b {
			out = append(out, walBytes(w.branch[i], a, b)...)
		}
	}
	return out
}

// ReadWAL is the source's.
func (w *world) ReadWAL(p []byte, at pos.LSN) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case at < w.base:
		return 0, fmt.Errorf("read: %w", spool.ErrPruned)
	case at >= w.end:
		return 0, io.EOF
	}
	n := copy(p, w.truthLocked(at, min(w.end, at+pos.LSN(len(p)))))
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (w *world) grow(n, commit pos.LSN) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end += n
	w.committed = max(w.committed, w.end-min(commit, n))
}

// promote begins a timeline at fork.
func (w *world) promote(fork pos.LSN, skip pos.Timeline) {
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.lin.Last()
	w.branches++
	w.lin = w.lin.With(pos.Entry{Epoch: last.Epoch.Next(), Timeline: last.Timeline + 1 + skip, Start: fork})
	w.branch = append(w.branch, w.branches)
	w.end, w.committed = fork, fork
}

func config(w *world, m location.Location) archive.Config {
	return archive.Config{
		Root: root, Location: m, Name: "vault", SystemID: systemID, SegSize: segSize,
		Lineage: w.lineage, Committed: w.commit, Source: w, From: w.lineage()[0].Start, Log: quiet(),
	}
}

// running is a feeder under test.
type running struct {
	*archive.Feeder
	cancel context.CancelFunc
	done   chan error
}

func run(t testing.TB, cfg archive.Config) *running {
	t.Helper()
	f := must(archive.NewFeeder(cfg))(t)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{f, cancel, make(chan error, 1)}
	go func() { r.done <- f.Run(ctx) }()
	return r
}

func (r *running) stop(t testing.TB) {
	t.Helper()
	r.cancel()
	if err := <-r.done; err != nil {
		t.Errorf("run: %v", err)
	}
}

func (r *running) reaches(t testing.TB, lsn pos.LSN) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	if err := r.WaitFor(ctx, lsn); err != nil {
		t.Fatal(err)
	}
}

func decodeObject(t testing.TB, m *mem, key string) (archive.Seal, []byte) {
	t.Helper()
	b, ok := m.get(key)
	if !ok {
		t.Fatalf("%s is missing", key)
	}
	d := must(archive.NewDecoder())(t)
	defer d.Close()
	var out bytes.Buffer
	s, err := d.Decode(&out, bytes.NewReader(b), segSize)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return s, out.Bytes()
}

// Random appends, commits, promotions, failures and restarts: afterwards the
// location has exactly the committed log, each segment once.
func TestFeeder_ExactlyTheCommittedLog(t *testing.T) {
	for seed := range uint64(seeds()) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { feedAtRandom(t, seed) })
		})
	}
}

func feedAtRandom(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	w, m := newWorld(5*segSize+4096), newMem()
	cfg := config(w, m)
	cfg.Workers = 1 + rnd.IntN(4)
	lost := false
	f := run(t, cfg)
	for range 40 {
		switch rnd.IntN(10) {
		case 0, 1, 2, 3:
			w.grow(pos.LSN(rnd.IntN(3*segSize)&^7), pos.LSN(rnd.IntN(segSize/2)&^7))
		case 4:
			fork := w.committed + pos.LSN(rnd.Uint64N(w.end.Sub(w.committed)+1))&^7
			if rnd.IntN(4) == 0 && fork > fork.SegStart(segSize)+segSize/2 { // at a boundary
				fork = max(w.committed, fork.SegStart(segSize))
			}
			if rnd.IntN(6) == 0 && w.committed > w.lin.Last().Start+4096 { // forced: committed log is given up
				fork, lost = w.lin.Last().Start+4096+pos.LSN(rnd.Uint64N(w.committed.Sub(w.lin.Last().Start+4096)))&^7, true
			}
			w.promote(fork, pos.Timeline(rnd.IntN(2)))
		case 5:
			share := rnd.IntN(100)
			var mu sync.Mutex
			faults := rand.New(rand.NewPCG(seed, rnd.Uint64()))
			m.setFault(func(op, key string) error {
				mu.Lock()
				defer mu.Unlock()
				if faults.IntN(100) < share {
					return fmt.Errorf("%s %s: %w", op, key, location.ErrUnreachable)
				}
				return nil
			})
		case 6:
			m.setFault(nil)
		case 7:
			f.stop(t)
			f = run(t, cfg)
		default:
			time.Sleep(time.Duration(rnd.IntN(15_000)) * time.Millisecond)
		}
	}
	m.setFault(nil)
	w.grow(8, 8)
	f.cfgSettles(t, w)
	f.reaches(t, w.committed)
	f.stop(t)
	checkStored(t, w, m, lost)
}

// cfgSettles waits until the feeder goes by the present lineage.
func (r *running) cfgSettles(t testing.TB, w *world) {
	t.Helper()
	for range 100_000 {
		if s := r.Status(); s.Known && s.Archived == w.committed && s.Err == nil && s.Backlog == 0 {
			return
		}
		r.Flush()
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("does not settle at %s: %+v", w.committed, r.Status())
}

func checkStored(t *testing.T, w *world, m *mem, lost bool) {
	t.Helper()
	path := archive.PathOf(w.lin)
	from := w.lin[0].Start.SegStart(segSize)
	for at := from; at < w.committed; at += segSize {
		tli, end := path.Holder(at, segSize), min(at+segSize, w.committed)
		key := root.Segment(tli, at, segSize)
		if end < at+segSize {
			for _, l := range path { // the holder may not have written yet
				if l.Start < end {
					tli = l.Timeline
				}
			}
			key = root.Partial(tli, at, segSize)
			if _, old := m.get(root.Segment(tli, at, segSize)); old && lost {
				continue // the branch that was given up holds more, and nobody has written on yet
			}
		} else if _, ok := m.get(root.Partial(tli, at, segSize)); ok {
			t.Errorf("a partial segment beside %s", key)
		}
		s, raw := decodeObject(t, m, key)
		if s.Start != at || s.Timeline != tli || s.End() != end || !bytes.Equal(raw, w.truth(at, end)) {
			t.Errorf("%s holds %s, wanted up to %s", key, s, end)
		}
		if s.Whole() && m.commits[key] != 1 {
			t.Errorf("%s was stored %d times", key, m.commits[key])
		}
	}
	for i := 1; i < len(path); i++ {
		if _, ok := m.get(root.History(path[i].Timeline)); !ok {
			t.Errorf("no history of timeline %d", path[i].Timeline)
		}
		fork := path[i].Start
		if at := fork.SegStart(segSize); at < fork && path[i-1].Start < fork && !lost {
			s, raw := decodeObject(t, m, root.Partial(path[i-1].Timeline, at, segSize))
			if s.End() != fork || !bytes.Equal(raw, w.truth(at, fork)) {
				t.Errorf("the end of timeline %d holds %s, wanted up to %s", path[i-1].Timeline, s, fork)
			}
		}
	}
	checkScan(t, w, m, path, lost)
}

// checkScan compares what Scan says with the lineage.
func checkScan(t *testing.T, w *world, m *mem, path archive.Path, lost bool) {
	t.Helper()
	cat, problems, err := archive.Scan(context.Background(), archive.Place{Name: "vault", Location: m}, root)
	if err != nil || len(problems) > 0 {
		t.Fatalf("scan: %v, %v", err, problems)
	}
	if cat.SystemID != systemID || cat.SegSize != segSize {
		t.Errorf("scan says system %d, segments of %d", cat.SystemID, cat.SegSize)
	}
	for i := 1; i < len(path); i++ {
		if got := cat.Timelines[path[i].Timeline]; got.Parent != path[i-1].Timeline || got.Fork != path[i].Start {
			t.Errorf("timeline %d: %+v, wanted to leave %d at %s", path[i].Timeline, got, path[i-1].Timeline, path[i].Start)
		}
	}
	if gaps := cat.Places["vault"].Gaps; len(gaps) > 0 && !lost {
		t.Errorf("gaps %v", gaps)
	}
	// Each timeline's part of the way is inside one span.
	for i, l := range path {
		need := pos.Range{From: w.lin[0].Start, To: w.committed}
		if i > 0 {
			need.From = l.Start
		}
		if i+1 < len(path) {
			need.To = path[i+1].Start
		}
		if need.Empty() {
			continue
		}
		found := false
		for _, s := range cat.Places["vault"].WAL {
			found = found || s.Timeline == l.Timeline && s.From <= need.From && s.To >= need.To
		}
		if !found && !lost {
			t.Errorf("timeline %d has no span with %s: %+v", l.Timeline, need, cat.Places["vault"].WAL)
		}
	}
}

func TestFeeder_PartialGrowsAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(5*segSize), newMem()
		f := run(t, config(w, m))
		defer f.stop(t)
		w.grow(1000, 0)
		f.reaches(t, 5*segSize+1000)
		key := root.Partial(1, 5*segSize, segSize)
		w.grow(1000, 0)
		time.Sleep(5 * time.Second)
		if s, _ := decodeObject(t, m, key); s.Length != 1000 {
			t.Errorf("stored again after 5 s: %s", s)
		}
		time.Sleep(6 * time.Second)
		if s, _ := decodeObject(t, m, key); s.Length != 2000 {
			t.Errorf("not stored again after 11 s: %s", s)
		}
		before := m.commits[key]
		time.Sleep(time.Minute)
		if m.commits[key] != before {
			t.Error("stored again though it has not grown")
		}
		w.grow(8, 0)
		f.Flush()
		time.Sleep(time.Second)
		if got := f.Status().Archived; got != 5*segSize+2008 {
			t.Errorf("after Flush archived up to %s", got)
		}
		if got := f.Status().Whole; got != 5*segSize {
			t.Errorf("whole segments up to %s", got)
		}
		w.grow(segSize, 0)
		f.reaches(t, 6*segSize+2008)
		if _, ok := m.get(key); ok {
			t.Error("the partial segment stays beside the whole one")
		}
	})
}

// What the source has lost is a gap, told and passed by; nothing else is.
func TestFeeder_Gap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(5*segSize), newMem()
		w.grow(6*segSize, 0)
		w.base = 8*segSize + 4096
		f := run(t, config(w, m))
		defer f.stop(t)
		f.reaches(t, 11*segSize)
		miss := f.Status().Missing
		if len(miss) != 1 || miss[0].Timeline != 1 || miss[0].From != 5*segSize || miss[0].To != 9*segSize || miss[0].Cause == "" {
			t.Errorf("missing: %+v", miss)
		}
		if got := len(m.keys()); got != 2 {
			t.Errorf("%d objects", got)
		}
	})
}

// A source like pg_wal says nothing of what it removed; what is behind what it
// has is gone, what is before is not yet there.
func TestFeeder_SourceBehindOrPruned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(5*segSize), newMem()
		w.grow(3*segSize, 0)
		cfg := config(w, m)
		var mu sync.Mutex
		hide := func(at pos.LSN) bool { return at < 6*segSize || at >= 7*segSize }
		cfg.Source = sourceFunc(func(p []byte, at pos.LSN) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			if hide(at) {
				return 0, io.EOF
			}
			return w.ReadWAL(p[:min(uint64(len(p)), at.SegEnd(segSize).Sub(at))], at)
		})
		f := run(t, cfg)
		defer f.stop(t)
		time.Sleep(time.Minute)
		if s := f.Status(); len(s.Missing) != 0 || s.Err != nil || s.Archived != 5*segSize {
			t.Errorf("a source that is behind: %+v", s)
		}
		mu.Lock()
		hide = func(at pos.LSN) bool { return at < 6*segSize }
		mu.Unlock()
		f.reaches(t, 8*segSize)
		if s := f.Status(); len(s.Missing) != 1 || s.Missing[0].To != 6*segSize {
			t.Errorf("a source that removed a file: %+v", s)
		}
	})
}

type sourceFunc func(p []byte, at pos.LSN) (int, error)

func (f sourceFunc) ReadWAL(p []byte, at pos.LSN) (int, error) { return f(p, at) }

func TestFeeder_NewestIsProven(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(5*segSize), newMem()
		w.grow(3*segSize, 0)
		f := run(t, config(w, m))
		f.reaches(t, 8*segSize)
		f.stop(t)
		key := root.Segment(1, 7*segSize, segSize)
		b, _ := m.get(key)
		bad := bytes.Clone(b)
		bad[len(bad)/3] ^= 4
		m.put(key, bad)
		f = run(t, config(w, m))
		w.grow(10, 0)
		f.reaches(t, 8*segSize+10)
		f.stop(t)
		if s, _ := decodeObject(t, m, key); !s.Whole() {
			t.Errorf("%s", s)
		}
	})
}

// Other bytes under a name are never overwritten, whatever they are.
func TestFeeder_Conflict(t *testing.T) {
	at := pos.LSN(5 * segSize)
	own := archive.Seal{SystemID: systemID, Timeline: 1, Start: at, Length: segSize, SegSize: segSize}
	other := own
	other.SystemID++
	short := own
	short.Length = 100
	tests := map[string]struct {
		key  string
		seal archive.Seal
		want error
	}{
		"OtherBytes":   {root.Segment(1, at, segSize), own, archive.ErrConflict},
		"OtherSystem":  {root.Segment(1, at, segSize), other, archive.ErrForeign},
		"ShortWhole":   {root.Segment(1, at, segSize), short, archive.ErrForeign},
		"OtherPartial": {root.Partial(1, at+segSize, segSize), archive.Seal{SystemID: systemID, Timeline: 1, Start: at + segSize, Length: 50, SegSize: segSize}, archive.ErrConflict},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, m := newWorld(at), newMem()
				w.grow(segSize+100, 0)
				there := encode(t, tt.seal, walBytes(99, tt.seal.Start, tt.seal.End()))
				// The object appears after the listing, as another feeder's would.
				m.setFault(func(op, key string) error {
					if op == "stat" && key == tt.key {
						m.put(key, there)
					}
					return nil
				})
				f := run(t, config(w, m))
				defer f.stop(t)
				time.Sleep(5 * time.Minute)
				if got, _ := m.get(tt.key); !bytes.Equal(got, there) {
					t.Error("it was overwritten")
				}
				if s := f.Status(); !errors.Is(s.Err, tt.want) || !strings.Contains(s.Err.Error(), tt.key) || s.Since.IsZero() {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestFeeder_WindowAndDeadLocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m, dead := newWorld(5*segSize), newMem(), newMem()
		opens := time.Now().Add(time.Hour)
		cfg := config(w, m)
		cfg.Window = func(now time.Time) (bool, time.Time) { return !now.Before(opens), opens }
		deadCfg := config(w, dead)
		deadCfg.Name = "dead"
		dead.setFault(func(string, string) error { return location.ErrUnreachable })
		waiting, failing, fine := run(t, cfg), run(t, deadCfg), run(t, config(w, newMem()))
		w.grow(4*segSize, 0)
		fine.reaches(t, 9*segSize)
		if s := waiting.Status(); s.Known || !s.Closed.Equal(opens) || len(m.keys()) > 0 {
			t.Errorf("out of its window: %+v", s)
		}
		if s := failing.Status(); !errors.Is(s.Err, location.ErrUnreachable) {
			t.Errorf("a dead location: %+v", s)
		}
		time.Sleep(2 * time.Hour)
		if s := waiting.Status(); s.Archived != 9*segSize || !s.Closed.IsZero() {
			t.Errorf("within its window: %+v", s)
		}
		dead.setFault(nil)
		failing.reaches(t, 9*segSize)
		for _, f := range []*running{waiting, failing, fine} {
			f.stop(t)
		}
	})
}

func TestFeeder_Marks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, m := newWorld(5*segSize), newMem()
		cfg := config(w, m)
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		cfg.Marks = func(from, to pos.LSN) []catalog.Mark {
			var out []catalog.Mark
			for l := from; l <= to+64; l += 64 { // far too many, some outside
				out = append(out, catalog.Mark{LSN: l, At: at.Add(time.Duration(l))})
			}
			return append(out, catalog.Mark{LSN: from + 8, At: at, Name: strings.Repeat("é", 60)})
		}
		f := run(t, cfg)
		defer f.stop(t)
		w.grow(segSize, 0)
		f.reaches(t, 6*segSize)
		s, _ := decodeObject(t, m, root.Segment(1, 5*segSize, segSize))
		if len(s.Marks) != 256 || s.Marks[255].LSN != 6*segSize || s.Marks[0].Name != strings.Repeat("é", 31) {
			t.Errorf("%d marks, first %+v, last %+v", len(s.Marks), s.Marks[0], s.Marks[255])
		}
	})
}

// seeds is how many random courses are tried; ARCHIVE_SEEDS for more.
func seeds() int {
	if n, err := strconv.Atoi(os.Getenv("ARCHIVE_SEEDS")); err == nil {
		return n
	}
	return 8
}

// Segments that are too large for memory are passed through.
func TestFeeder_LargeSegments(t *testing.T) {
	const large = 32 << 20
	synctest.Test(t, func(t *testing.T) {
		m := newMem()
		pattern := walBytes(0, 0, 1<<20)
		end := pos.LSN(large + 20<<20)
		f := run(t, archive.Config{
			Root: root, Location: m, Name: "vault", SystemID: systemID, SegSize: large, Log: quiet(), From: large,
			Lineage:   func() pos.Lineage { return pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: large}} },
			Committed: func() (pos.LSN, bool) { return end + large, true },
			Source: sourceFunc(func(p []byte, at pos.LSN) (int, error) {
				return copy(p, pattern[at%(1<<20):]), nil
			}),
		})
		f.reaches(t, end+large)
		f.stop(t)
		d := must(archive.NewDecoder())(t)
		defer d.Close()
		for key, want := range map[string]int64{root.Segment(1, large, large): large, root.Partial(1, 2*large, large): 20 << 20} {
			b, _ := m.get(key)
			if s, err := d.Decode(io.Discard, bytes.NewReader(b), large); err != nil || s.Length != want {
				t.Errorf("%s: %s, %v", key, s, err)
			}
		}
	})
}
