package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) {
	if handled, code := helper(); handled {
		os.Exit(code)
	}
	goleak.VerifyTestMain(m)
}

// archived makes a location with a log: timeline 1 from segment 5, left within
// segment 7 for timeline 3, which ends within segment 9. Segment 8 of timeline
// 1 is one of the old branch that went on.
func archived(t *testing.T) (*world, *mem) {
	t.Helper()
	w, m := newWorld(5*segSize), newMem()
	synctest.Test(t, func(t *testing.T) {
		w.grow(2*segSize+5000, 0)
		f := run(t, config(w, m))
		f.reaches(t, 7*segSize+5000)
		w.promote(7*segSize+5000, 1)
		w.grow(2*segSize, 0)
		f.cfgSettles(t, w)
		f.stop(t)
	})
	old := archive.Seal{SystemID: systemID, Timeline: 1, Start: 8 * segSize, Length: segSize, SegSize: segSize}
	m.put(root.Segment(1, 8*segSize, segSize), encode(t, old, walBytes(0, 8*segSize, 9*segSize)))
	return w, m
}

func fetcher(t *testing.T, w *world, change func(*archive.FetchConfig), places ...*mem) *archive.Fetcher {
	t.Helper()
	cfg := archive.FetchConfig{Root: root, SystemID: systemID, SegSize: segSize, Path: archive.PathOf(w.lin), Dir: filepath.Join(t.TempDir(), "ahead"), Log: quiet()}
	for i, m := range places {
		cfg.Places = append(cfg.Places, archive.Place{Name: fmt.Sprint("place", i), Location: m})
	}
	if change != nil {
		change(&cfg)
	}
	f := must(archive.NewFetcher(cfg))(t)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(cfg.Dir); len(left) > 0 {
			t.Errorf("left in the folder: %v", left)
		}
	})
	return f
}

func get(t *testing.T, f *archive.Fetcher, name string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	err := f.Get(ctx, name, dest)
	b, rerr := os.ReadFile(dest)
	if (err == nil) != (rerr == nil) {
		t.Errorf("%s: %v, and the file: %v", name, err, rerr)
	}
	return b, err
}

func TestFetcher_Get(t *testing.T) {
	w, m := archived(t)
	f := fetcher(t, w, nil, m)
	for _, tt := range []struct {
		name string
		want error
		from pos.LSN
	}{
		{segName(1, 5*segSize), nil, 5 * segSize},
		{segName(1, 6*segSize), nil, 6 * segSize},
		{segName(3, 7*segSize), nil, 7 * segSize},
		{segName(3, 8*segSize), nil, 8 * segSize},
		{segName(1, 6*segSize), nil, 6 * segSize}, // back again
		{segName(3, 9*segSize), archive.ErrNotExist, 0},
		{segName(3, 40*segSize), archive.ErrNotExist, 0},
		{segName(1, 8*segSize), archive.ErrOutside, 0}, // there, and of the old branch
		{segName(1, 7*segSize), archive.ErrOutside, 0},
		{segName(2, 7*segSize), archive.ErrOutside, 0},
		{segName(4, 8*segSize), archive.ErrOutside, 0},
		{"00000004.history", archive.ErrOutside, 0},
		{"00000001.history", archive.ErrNotExist, 0},
		{segName(1, 5*segSize) + ".partial", archive.ErrNotExist, 0},
		{"000000010000000000000005.00000028.backup", archive.ErrNotExist, 0},
		{"../../etc/passwd", archive.ErrNotExist, 0},
		{"", archive.ErrNotExist, 0},
	} {
		b, err := get(t, f, tt.name)
		if !errors.Is(err, tt.want) || err == nil && !bytes.Equal(b, w.truth(tt.from, tt.from+segSize)) {
			t.Errorf("%s: %v, %d bytes", tt.name, err, len(b))
		}
	}
	want, _ := m.get(root.History(3))
	if b, err := get(t, f, "00000003.history"); err != nil || !bytes.Equal(b, want) {
		t.Errorf("history: %q, %v, wanted %q", b, err, want)
	}
}

// The nearest place is asked first; a damaged or dead one is passed by.
func TestFetcher_Places(t *testing.T) {
	w, m := archived(t)
	name, key := segName(3, 8*segSize), root.Segment(3, 8*segSize, segSize)
	good, _ := m.get(key)
	other := archive.Seal{SystemID: systemID + 1, Timeline: 3, Start: 8 * segSize, Length: segSize, SegSize: segSize}
	moved := archive.Seal{SystemID: systemID, Timeline: 3, Start: 7 * segSize, Length: segSize, SegSize: segSize}
	down := func(string, string) error { return location.ErrUnreachable }
	first := map[string]func(*mem){
		"Missing":     func(*mem) {},
		"Flipped":     func(p *mem) { b := bytes.Clone(good); b[len(b)/2] ^= 1; p.put(key, b) },
		"Cut":         func(p *mem) { p.put(key, good[:len(good)-1]) },
		"Empty":       func(p *mem) { p.put(key, nil) },
		"OtherSystem": func(p *mem) { p.put(key, encode(t, other, walBytes(5, 0, segSize))) },
		"OtherPlace":  func(p *mem) { p.put(key, encode(t, moved, walBytes(5, 0, segSize))) },
		"Dead":        func(p *mem) { p.setFault(down) },
	}
	for what, prepare := range first {
		t.Run(what, func(t *testing.T) {
			p := newMem()
			prepare(p)
			b, err := get(t, fetcher(t, w, nil, p, m), name)
			if err != nil || !bytes.Equal(b, w.truth(8*segSize, 9*segSize)) {
				t.Errorf("with a second place: %v", err)
			}
			want := archive.ErrUnknown
			if what == "Missing" {
				want = archive.ErrNotExist
			}
			if _, err := get(t, fetcher(t, w, nil, p), name); !errors.Is(err, want) {
				t.Errorf("alone: %v, wanted %v", err, want)
			}
		})
	}
}

// The end of the log, a hole in it, and what cannot be told are three things.
func TestFetcher_EndOrHole(t *testing.T) {
	w, m := archived(t)
	end, hole := segName(3, 9*segSize), segName(3, 7*segSize)
	m.Remove(context.Background(), root.Segment(3, 7*segSize, segSize))
	dead := newMem()
	dead.setFault(func(string, string) error { return location.ErrUnreachable })
	live := func(c *archive.FetchConfig) { c.Live = true }
	known := func(c *archive.FetchConfig) { c.Known = 10 * segSize }
	partial := func(c *archive.FetchConfig) { c.AllowPartial = true }
	for name, tt := range map[string]struct {
		file   string
		change func(*archive.FetchConfig)
		places []*mem
		want   error
	}{
		"End":             {end, nil, []*mem{m}, archive.ErrNotExist},
		"EndLive":         {end, live, []*mem{m}, archive.ErrNotYet},
		"EndKnown":        {end, known, []*mem{m}, archive.ErrUnknown},
		"EndDead":         {end, nil, []*mem{m, dead}, archive.ErrUnknown},
		"EndDeadLive":     {end, live, []*mem{m, dead}, archive.ErrUnknown},
		"EndPartial":      {end, partial, []*mem{newMem(), m}, nil},
		"EndPartialDead":  {end, partial, []*mem{m, dead}, archive.ErrUnknown},
		"NothingAnywhere": {end, partial, []*mem{newMem()}, archive.ErrNotExist},
		"Hole":            {hole, nil, []*mem{m}, archive.ErrUnknown},
		"HolePartial":     {hole, partial, []*mem{m}, archive.ErrUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := get(t, fetcher(t, w, tt.change, tt.places...), tt.file)
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, wanted %v", err, tt.want)
			}
			want := append(w.truth(9*segSize, w.committed), make([]byte, 10*segSize-w.committed)...)
			if err == nil && !bytes.Equal(b, want) {
				t.Errorf("%d bytes, not the log with zeros", len(b))
			}
		})
	}
	if _, err := archive.NewFetcher(archive.FetchConfig{Path: archive.Path{{Timeline: 1}}, SegSize: segSize, SystemID: 1, Dir: t.TempDir(), Drop: "/", Log: quiet(), Live: true, AllowPartial: true}); err == nil {
		t.Error("a partial segment for a log that grows")
	}
}

// Files are fetched ahead of what is asked for, within bounds, and what was
// fetched is not fetched again.
func TestFetcher_Ahead(t *testing.T) {
	w := newWorld(5 * segSize)
	w.grow(40*segSize, 0)
	m := newMem()
	synctest.Test(t, func(t *testing.T) {
		f := run(t, config(w, m))
		f.reaches(t, 45*segSize)
		f.stop(t)
	})
	opened := make(chan string, 1000)
	m.setFault(func(op, key string) error {
		if op == "open" {
			opened <- key
		}
		return nil
	})
	var dir string
	f := fetcher(t, w, func(c *archive.FetchConfig) { c.Ahead, dir = 4, c.Dir }, m)
	for at := pos.LSN(5 * segSize); at < 30*segSize; at += segSize {
		b, err := get(t, f, segName(1, at))
		if err != nil || !bytes.Equal(b, w.truth(at, at+segSize)) {
			t.Fatalf("%s: %v", at, err)
		}
		if files, _ := os.ReadDir(dir); len(files) > 5 {
			t.Fatalf("%d files in the folder", len(files))
		}
	}
	deadline := time.After(5 * time.Second)
	for n := range 29 { // 25 asked for, 4 ahead
		select {
		case <-opened:
		case <-deadline:
			t.Fatalf("%d objects were opened", n)
		}
	}
	select {
	case key := <-opened:
		t.Errorf("one more was opened: %s", key)
	case <-time.After(50 * time.Millisecond):
	}
}

// A server takes what was fetched ahead by itself; the Fetcher notices and goes
// on, and gives what is asked for all the same.
func TestFetcher_Hand(t *testing.T) {
	w := newWorld(5 * segSize)
	w.grow(30*segSize, 0)
	m := newMem()
	synctest.Test(t, func(t *testing.T) {
		f := run(t, config(w, m))
		f.reaches(t, 35*segSize)
		f.stop(t)
	})
	hand := t.TempDir()
	owned := 0
	f := fetcher(t, w, func(c *archive.FetchConfig) {
		c.Ahead, c.Hand, c.Workers = 4, hand, 1
		c.Own = func(string) error { owned++; return nil }
	}, m)
	asked := 0
	for at := pos.LSN(5 * segSize); at < 35*segSize; at += segSize {
		name := segName(1, at)
		var b []byte
		var err error
		if at == 5*segSize || at == 15*segSize { // one is asked for although it lies there
			asked++
			b, err = get(t, f, name)
		} else {
			pgtest.Eventually(t, 10*time.Second, name+" is handed out", func() bool {
				b, err = os.ReadFile(filepath.Join(hand, name))
				return err == nil
			})
			if files, _ := os.ReadDir(hand); len(files) > 5 {
				t.Fatalf("%d files in the folder", len(files))
			}
			err = os.Remove(filepath.Join(hand, name))
		}
		if err != nil || !bytes.Equal(b, w.truth(at, at+segSize)) {
			t.Fatalf("%s: %v", at, err)
		}
	}
	if _, err := get(t, f, segName(1, 35*segSize)); !errors.Is(err, archive.ErrNotExist) {
		t.Errorf("beyond the end: %v", err)
	}
	pgtest.Eventually(t, 5*time.Second, "all are counted", func() bool { return f.Given() == 30*segSize })
	if owned != 30 {
		t.Errorf("%d files were given to the account", owned)
	}
	if files, _ := os.ReadDir(hand); len(files) > 0 {
		t.Errorf("left: %v", files)
	}
}

func TestFetcher_DropFolder(t *testing.T) {
	w, m := archived(t)
	drop := t.TempDir()
	piece, _ := m.get(root.Segment(3, 8*segSize, segSize))
	os.WriteFile(filepath.Join(drop, segName(3, 8*segSize)+".zst"), piece, 0o600)
	// As PostgreSQL keeps it: a long page header first.
	stock := append([]byte{0x10, 0xD1, 2, 0, 1, 0, 0, 0}, make([]byte, segSize-8)...)
	le := func(at int, v uint64, n int) {
		for i := range n {
			stock[at+i] = byte(v >> (8 * i))
		}
	}
	le(8, 5*segSize, 8)
	le(24, systemID, 8)
	le(32, segSize, 4)
	le(36, 8192, 4)
	os.WriteFile(filepath.Join(drop, segName(1, 5*segSize)), stock, 0o600)
	os.WriteFile(filepath.Join(drop, segName(1, 6*segSize)), stock, 0o600) // not its place
	f := fetcher(t, w, func(c *archive.FetchConfig) { c.Drop = drop })
	if b, err := get(t, f, segName(3, 8*segSize)); err != nil || !bytes.Equal(b, w.truth(8*segSize, 9*segSize)) {
		t.Errorf("a stored piece: %v", err)
	}
	if b, err := get(t, f, segName(1, 5*segSize)); err != nil || !bytes.Equal(b, stock) {
		t.Errorf("a segment file: %v", err)
	}
	if _, err := get(t, f, segName(1, 6*segSize)); !errors.Is(err, archive.ErrUnknown) {
		t.Errorf("a segment file in the wrong place: %v", err)
	}
	if _, err := get(t, f, segName(3, 7*segSize)); !errors.Is(err, archive.ErrUnknown) {
		t.Errorf("a hole before a dropped segment: %v", err)
	}
	piece, _ = m.get(root.Partial(3, 9*segSize, segSize))
	os.WriteFile(filepath.Join(drop, segName(3, 9*segSize)+".partial.zst"), piece, 0o600)
	latest := fetcher(t, w, func(c *archive.FetchConfig) { c.Drop, c.AllowPartial = drop, true })
	if b, err := get(t, latest, segName(3, 9*segSize)); err != nil || !bytes.HasPrefix(b, w.truth(9*segSize, w.committed)) || len(b) != segSize {
		t.Errorf("a stored partial piece: %v", err)
	}
	if b, err := get(t, f, "00000003.history"); err != nil || len(must(archive.ParseHistory(b))(t)) != 1 {
		t.Errorf("a history that nobody has: %q, %v", b, err)
	}
}

func TestServeFetch(t *testing.T) {
	w, m := archived(t)
	f := fetcher(t, w, nil, m)
	socket := filepath.Join(t.TempDir(), "s")
	l := must(net.Listen("unix", socket))(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- archive.ServeFetch(ctx, l, f) }()
	dest := filepath.Join(t.TempDir(), "RECOVERYXLOG")
	if err := archive.RequestFile(ctx, socket, segName(1, 6*segSize), dest); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(dest); err != nil || !bytes.Equal(b, w.truth(6*segSize, 7*segSize)) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for name, want := range map[string]error{
		segName(3, 9*segSize): archive.ErrNotExist, segName(1, 8*segSize): archive.ErrOutside, "00000009.history": archive.ErrOutside, "x\nGET y": archive.ErrNotExist,
	} {
		if err := archive.RequestFile(ctx, socket, name, dest); !errors.Is(err, want) {
			t.Errorf("%q: %v, wanted %v", name, err, want)
		}
	}
	m.setFault(func(string, string) error { return location.ErrUnreachable })
	if err := archive.RequestFile(ctx, socket, segName(3, 8*segSize), dest); !errors.Is(err, archive.ErrUnknown) && err != nil {
		t.Errorf("a dead place: %v", err)
	}
	for _, junk := range []string{"", "\n", "PUT x\n", "GET " + string(make([]byte, 500)) + "\n"} { // is cut off
		c := must(net.Dial("unix", socket))(t)
		c.Write([]byte(junk))
		c.(*net.UnixConn).CloseWrite()
		c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("junk %.10q was answered, or waits: %v", junk, err)
		}
		c.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := archive.RequestFile(context.Background(), socket, segName(1, 6*segSize), dest); !errors.Is(err, archive.ErrUnknown) {
		t.Errorf("nobody answers: %v", err)
	}
}

func TestFill(t *testing.T) {
	w, m := archived(t)
	damaged, to := newMem(), newMem()
	for _, key := range m.keys() {
		b, _ := m.get(key)
		b = bytes.Clone(b)
		b[len(b)/2] ^= 0x10
		damaged.put(key, b)
	}
	m.Remove(context.Background(), root.Segment(1, 6*segSize, segSize)) // only the damaged one has it
	cfg := archive.FillConfig{
		From: []archive.Place{{Name: "damaged", Location: damaged}, {Name: "good", Location: m}}, To: archive.Place{Name: "new", Location: to},
		Root: root, SystemID: systemID, SegSize: segSize, Log: quiet(),
		Ranges: []archive.Stretch{{Timeline: 1, Range: pos.Range{From: 5 * segSize, To: 7*segSize + 5000}}, {Timeline: 3, Range: pos.Range{From: 7*segSize + 5000, To: w.committed}}},
	}
	want := archive.FillReport{Copied: 5, Missing: []catalog.Gap{{Timeline: 1, From: 6 * segSize, To: 7 * segSize}}}
	for round := range 2 {
		rep, err := archive.Fill(context.Background(), cfg)
		if err != nil || rep.Copied != want.Copied || rep.There != want.There || len(rep.Missing) != 1 ||
			rep.Missing[0].From != want.Missing[0].From || rep.Missing[0].To != want.Missing[0].To {
			t.Errorf("round %d: %+v, %v", round, rep, err)
		}
		want.Copied, want.There = 0, 5
	}
	for _, key := range to.keys() {
		a, _ := m.get(key)
		if b, _ := to.get(key); !bytes.Equal(a, b) && key != root.History(3) {
			t.Errorf("%s differs", key)
		}
	}
	other := archive.Seal{SystemID: systemID + 5, Timeline: 1, Start: 5 * segSize, Length: segSize, SegSize: segSize}
	to.put(root.Segment(1, 5*segSize, segSize), encode(t, other, walBytes(0, 0, segSize)))
	if _, err := archive.Fill(context.Background(), cfg); !errors.Is(err, archive.ErrConflict) {
		t.Errorf("another database at the destination: %v", err)
	}
	to.setFault(func(op, _ string) error {
		if op == "write" {
			return location.ErrNoSpace
		}
		return nil
	})
	to.Remove(context.Background(), root.Segment(1, 5*segSize, segSize))
	if _, err := archive.Fill(context.Background(), cfg); !errors.Is(err, location.ErrNoSpace) {
		t.Errorf("a full destination: %v", err)
	}
}

func TestPrune(t *testing.T) {
	w, m := archived(t)
	all := pos.Range{To: 1 << 60}
	prune := func(keep []pos.Timeline, ranges ...archive.Stretch) (archive.PruneReport, error) {
		return archive.Prune(context.Background(), archive.PruneConfig{Place: archive.Place{Name: "p", Location: m}, Root: root, SegSize: segSize, Ranges: ranges, Keep: keep})
	}
	m.put(root.History(2), archive.RenderHistory([]archive.Ancestor{{Timeline: 1, End: 6 * segSize}}))
	rep, err := prune([]pos.Timeline{3}, archive.Stretch{Timeline: 1, Range: pos.Range{To: 6*segSize + 10}}, archive.Stretch{Timeline: 2, Range: all})
	if err != nil || rep.Objects != 1 || rep.Histories != 1 || len(m.removed) < 2 {
		t.Errorf("%+v, %v, %v", rep, err, m.removed)
	}
	if _, ok := m.get(root.Segment(1, 6*segSize, segSize)); !ok {
		t.Error("a segment that is only in part below the bound is gone")
	}
	if _, ok := m.get(root.History(2)); ok {
		t.Error("the history of timeline 2, of which nothing is left, stays")
	}
	// Timeline 1 goes wholly: that of 3 stays, since it is kept.
	rep, err = prune([]pos.Timeline{3}, archive.Stretch{Timeline: 1, Range: all}, archive.Stretch{Timeline: 3, Range: pos.Range{To: 9 * segSize}})
	if _, ok := m.get(root.History(3)); err != nil || rep.Objects != 5 || !ok {
		t.Errorf("%+v, %v, history of 3 %v", rep, err, ok)
	}
	// Nobody keeps 3, but one that cannot be read may descend from it.
	m.put(root.History(4), []byte("3 nonsense\n"))
	if _, err := prune(nil, archive.Stretch{Timeline: 3, Range: all}); !errors.Is(err, archive.ErrDamaged) {
		t.Errorf("an unreadable history: %v", err)
	}
	m.put(root.History(4), archive.RenderHistory([]archive.Ancestor{{Timeline: 1, End: 7*segSize + 5000}, {Timeline: 3, End: w.committed}}))
	if rep, err := prune(nil, archive.Stretch{Timeline: 3, Range: all}); err != nil || rep.Histories != 0 {
		t.Errorf("a descendant is left: %+v, %v", rep, err)
	}
	m.Remove(context.Background(), root.History(4))
	if rep, err := prune(nil, archive.Stretch{Timeline: 3, Range: all}); err != nil || rep.Histories != 1 || len(m.keys()) != 0 {
		t.Errorf("the last: %+v, %v, %v", rep, err, m.keys())
	}
}

// An interrupted prune has taken the oldest, and goes on.
func TestPrune_Interrupted(t *testing.T) {
	w := newWorld(5 * segSize)
	w.grow(30*segSize, 0)
	m := newMem()
	for at := pos.LSN(5 * segSize); at < 35*segSize; at += segSize {
		m.put(root.Segment(1, at, segSize), []byte("x"))
	}
	var n atomic.Int64
	m.setFault(func(op, _ string) error {
		if op == "remove" && n.Add(1) > 12 {
			return location.ErrUnreachable
		}
		return nil
	})
	cfg := archive.PruneConfig{Place: archive.Place{Name: "p", Location: m}, Root: root, SegSize: segSize, Ranges: []archive.Stretch{{Timeline: 1, Range: pos.Range{To: 30 * segSize}}}}
	if _, err := archive.Prune(context.Background(), cfg); !errors.Is(err, location.ErrUnreachable) {
		t.Fatal(err)
	}
	// 12 of the oldest 16 are gone, nothing of the later ones.
	if left := m.keys(); len(left) != 18 || left[4] != root.Segment(1, 21*segSize, segSize) {
		t.Errorf("left: %v", left)
	}
	m.setFault(nil)
	if _, err := archive.Prune(context.Background(), cfg); err != nil || len(m.keys()) != 5 {
		t.Errorf("%v, %v", err, m.keys())
	}
}

func TestScan_Problems(t *testing.T) {
	_, m := archived(t)
	key := root.Segment(3, 8*segSize, segSize)
	m.put(root.Prefix()+"wal/readme.txt", []byte("hello"))
	m.put(root.History(5), []byte("x"))
	m.put(root.Segment(7, 8*segSize, segSize), []byte("junk"))
	m.put(root.SetDir("20260101-000000F")+"base.tar.zst", []byte("orphan"))
	m.put(root.SetDir("20260102-000000F")+"set.json", []byte("{}"))
	m.Remove(context.Background(), key)
	cat, problems, err := archive.Scan(context.Background(), archive.Place{Name: "p", Location: m}, root)
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, p := range problems {
		told[p.Key] = true
	}
	for _, want := range []string{root.Prefix() + "wal/readme.txt", root.History(5), root.Segment(7, 8*segSize, segSize), root.History(7),
		root.SetDir("20260101-000000F"), root.SetDir("20260102-000000F") + "set.json"} {
		if !told[want] {
			t.Errorf("no word of %s in %v", want, problems)
		}
	}
	gaps := cat.Places["p"].Gaps
	if len(gaps) != 2 || gaps[1].Timeline != 3 || gaps[1].From != 8*segSize || gaps[1].To != 9*segSize {
		t.Errorf("gaps %+v", gaps)
	}
	m.setFault(func(op, _ string) error {
		if op == "open" {
			return location.ErrUnreachable
		}
		return nil
	})
	if _, _, err := archive.Scan(context.Background(), archive.Place{Name: "p", Location: m}, root); !errors.Is(err, location.ErrUnreachable) {
		t.Errorf("a location that dies: %v", err)
	}
}
