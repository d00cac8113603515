package worker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/configs"
	"understudy/ledger/facts"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
)

const testSeg = 1 << 20

// bench is a worker with one location in a directory, and the daemon that it
// talks to.
type bench struct {
	*work
	t   *testing.T
	dir string // of the location

	mu    sync.Mutex
	said  []facts.Command
	heard func(Message)
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: filepath.Join(t.TempDir(), "place")}
	if err := local.Init(b.dir); err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	p := &port{out: json.NewEncoder(in), waiting: map[int]chan Answer{}, updates: make(chan Update, 1), exports: make(chan []byte, 1)}
	loc := local.New(b.dir)
	b.work = &work{
		cfg: &configs.Node{Name: "main", StateDir: t.TempDir()}, port: p, log: slog.New(slog.DiscardHandler), open: map[string]location.Location{"nas": loc},
		spec: Spec{
			Group: facts.Group{Name: "g", SystemID: 7, SegSize: testSeg, PGMajor: 15}, Profile: facts.ProfilePostgres, Lineage: lineage(0),
			Locations: map[string]facts.LocationPolicy{"nas": {Kind: facts.LocationLocal}}, Catalog: &catalog.Catalog{Sets: map[string]catalog.Set{}},
		},
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for dec := json.NewDecoder(out); ; {
			var m Message
			if dec.Decode(&m) != nil {
				return
			}
			b.hear(m)
		}
	}()
	t.Cleanup(func() { in.Close(); <-done; loc.Close() })
	return b
}

// hear takes a message as a daemon does; everything is accepted.
func (b *bench) hear(m Message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if m.Propose != nil {
		b.said = append(b.said, *m.Propose)
		b.port.mu.Lock()
		ch := b.port.waiting[m.N]
		b.port.mu.Unlock()
		ch <- Answer{N: m.N}
	}
	if b.heard != nil {
		b.heard(m)
	}
}

// put stores an object that was stored some time ago.
func (b *bench) put(key string, age time.Duration) {
	b.t.Helper()
	name := filepath.Join(b.dir, key)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(key), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.age(name, age)
}

func (b *bench) age(name string, age time.Duration) {
	b.t.Helper()
	at := time.Now().Add(-age)
	if err := os.Chtimes(name, at, at); err != nil {
		b.t.Fatal(err)
	}
}

// objects are the keys at the location, without those of unfinished uploads.
func (b *bench) objects() (keys []string) {
	b.t.Helper()
	err := b.open["nas"].List(b.t.Context(), "", func(i location.Info) error { keys = append(keys, i.Key); return nil })
	if err != nil {
		b.t.Fatal(err)
	}
	slices.Sort(keys)
	return keys
}

// The pieces of a failed set go as soon as nobody can be writing them any more,
// and those that nobody knows when they are old. What may become a whole set,
// or is one, stays.
func TestSweep_Sets(t *testing.T) {
	const label = "20260101-020304F"
	copies := func(s catalog.CopyState) map[string]catalog.Copy { return map[string]catalog.Copy{"nas": {State: s}} }
	failed := &catalog.Set{State: catalog.SetFailed, Copies: copies(catalog.CopyWriting)}
	for name, tt := range map[string]struct {
		set   *catalog.Set
		over  bool
		age   time.Duration
		whole bool
		stays bool
	}{
		"FailedAndOver":        {set: failed, over: true},
		"FailedNotOver":        {set: failed, age: 48 * time.Hour, stays: true},
		"FailedElsewhere":      {set: &catalog.Set{State: catalog.SetFailed}, over: true},
		"FailedWithItsEnd":     {set: failed, over: true, whole: true, stays: true},
		"Running":              {set: &catalog.Set{State: catalog.SetRunning, Copies: copies(catalog.CopyWriting)}, age: 48 * time.Hour, stays: true},
		"RunningAndSaidOver":   {set: &catalog.Set{State: catalog.SetRunning, Copies: copies(catalog.CopyWriting)}, over: true, age: 48 * time.Hour, stays: true},
		"FilledAndInterrupted": {set: &catalog.Set{State: catalog.SetComplete, Copies: copies(catalog.CopyWriting)}, over: true, age: 48 * time.Hour, stays: true},
		"UnknownYoung":         {age: time.Hour, stays: true},
		"UnknownOld":           {age: 25 * time.Hour},
		"UnknownOver":          {over: true},
		"UnknownWhole":         {over: true, age: 48 * time.Hour, whole: true, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			root := b.spec.Root()
			b.put(root.Object(label, "base.tar.zst"), tt.age)
			if tt.whole {
				b.put(root.Object(label, backupset.SetName), tt.age)
			}
			if tt.set != nil {
				b.spec.Catalog.Sets[label] = *tt.set
			}
			s := Sweep{Location: "nas"}
			if tt.over {
				s.Over = []string{label}
			}
			if err := b.sweep(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if left := b.objects(); (len(left) > 0) != tt.stays {
				t.Errorf("left: %v", left)
			}
			if len(b.said) > 0 {
				t.Errorf("it says %+v: what is known of a failed set stays known", b.said)
			}
		})
	}
}

// An upload that was cut off goes when nobody who may have begun it can be at
// work any more.
func TestSweep_Uploads(t *testing.T) {
	for name, tt := range map[string]struct {
		age, busy time.Duration
		alive     bool
		stays     bool
	}{
		"Young":           {age: 30 * time.Minute, stays: true},
		"Old":             {age: 2 * time.Hour},
		"OfAJobThatRuns":  {age: 2 * time.Hour, busy: 3 * time.Hour, stays: true},
		"OfOneBefore":     {age: 3 * time.Hour, busy: 2 * time.Hour},
		"GoesOn":          {age: 48 * time.Hour, alive: true, stays: true},
		"ClocksDiffer":    {age: 2*time.Hour + 3*time.Minute, busy: 2 * time.Hour, stays: true},
		"ClocksAreRight":  {age: 2*time.Hour + 7*time.Minute, busy: 2 * time.Hour},
		"OfALaterJobOnly": {age: 2 * time.Hour, busy: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			u, err := b.open["nas"].Create(t.Context(), "g/x", location.CreateOptions{Size: 100, Token: "abc"})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.Write(make([]byte, 50)); err != nil {
				t.Fatal(err)
			}
			if tt.alive {
				defer func() { _ = u.Abort() }()
			} else if err := u.Suspend(); err != nil { // what a killed process leaves
				t.Fatal(err)
			}
			for _, name := range b.unfinished() {
				b.age(name, tt.age)
			}
			s := Sweep{Location: "nas"}
			if tt.busy != 0 {
				s.Busy = time.Now().Add(-tt.busy)
			}
			if err := b.sweep(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if left := b.unfinished(); (len(left) > 0) != tt.stays {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// unfinished are the files of uploads.
func (b *bench) unfinished() (names []string) {
	b.t.Helper()
	err := filepath.WalkDir(filepath.Join(b.dir, ".tmp"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	return names
}

// remote is a location whose clock is not this one's.
type remote struct {
	location.Location
	ahead  time.Duration
	full   bool
	before time.Time // of the last sweep
}

func (r *remote) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if r.full {
		return nil, location.ErrNoSpace
	}
	return r.Location.Create(ctx, key, o)
}

func (r *remote) Stat(ctx context.Context, key string) (location.Info, error) {
	i, err := r.Location.Stat(ctx, key)
	i.At = i.At.Add(r.ahead)
	return i, err
}

func (r *remote) Sweep(_ context.Context, before time.Time) (int, error) {
	r.before = before
	return 0, nil
}

// Times of uploads are those of the place's clock, which may be wrong by hours;
// where it cannot be asked, only what is a day old goes.
func TestSweep_ClockOfThePlace(t *testing.T) {
	for name, tt := range map[string]struct {
		ahead time.Duration
		full  bool
		want  time.Duration // before now
	}{
		"Same":   {0, false, time.Hour},
		"Ahead":  {5 * time.Hour, false, -4 * time.Hour},
		"Behind": {-30 * time.Hour, false, 31 * time.Hour},
		"Full":   {5 * time.Hour, true, 24 * time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := &remote{Location: b.open["nas"], ahead: tt.ahead, full: tt.full}
			b.open["nas"], b.spec.Locations["nas"] = r, facts.LocationPolicy{Kind: facts.LocationSFTP}
			if err := b.sweep(t.Context(), Sweep{Location: "nas"}); err != nil {
				t.Fatal(err)
			}
			if off := time.Since(r.before) - tt.want; off.Abs() > 20*time.Second {
				t.Errorf("swept what is older than %s", r.before)
			}
			if left := b.objects(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// log makes a directory with segments, and returns what a worker is told of it.
func (b *bench) log(segments int) Update {
	b.t.Helper()
	dir := b.t.TempDir()
	for i := range segments {
		if err := os.WriteFile(filepath.Join(dir, pos.SegName(1, pos.LSN(i+1)*testSeg, testSeg)), make([]byte, testSeg), 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	return Update{Dir: dir, Lineage: lineage(0), Committed: pos.LSN(segments+1) * testSeg}
}

// feed lets a worker archive until the location is said to have the whole log.
func (b *bench) feed(u Update, f Feed) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), 10*time.Second)
	defer cancel()
	b.mu.Lock()
	b.said = nil
	b.heard = func(m Message) {
		if c := m.Propose; c != nil && c.RecordArchived != nil {
			cancel()
		}
	}
	b.mu.Unlock()
	b.spec.Archive = &Archive{Store: "s", Feeds: []Feed{f}, Update: u}
	if _, err := b.archive(ctx); !errors.Is(err, context.Canceled) {
		b.t.Fatalf("the archive ended: %v", err)
	}
}

func (b *bench) segments() (names []string) {
	for _, k := range b.objects() {
		names = append(names, strings.TrimSuffix(filepath.Base(k), ".zst"))
	}
	return names
}

func segments(from, to int) (names []string) {
	for i := from; i <= to; i++ {
		names = append(names, pos.SegName(1, pos.LSN(i)*testSeg, testSeg))
	}
	return names
}

// A worker that does not know of a removal brings the log again that its node
// still has. The one after it, which knows, takes it away: no prune would ever
// find it.
func TestArchive_TakesBackWhatItBroughtAgain(t *testing.T) {
	b := newBench(t)
	u := b.log(4)
	b.feed(u, Feed{Location: "nas", From: testSeg})
	if d := cmp.Diff(segments(1, 4), b.segments()); d != "" {
		t.Fatal(d)
	}
	gone := []facts.WALRange{{Timeline: 1, From: testSeg, To: 3 * testSeg}}
	if err := b.clearWAL(t.Context(), "nas", b.open["nas"], gone); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(segments(3, 4), b.segments()); d != "" {
		t.Fatal(d)
	}
	b.feed(u, Feed{Location: "nas", From: testSeg}) // begun before, and it looks afterwards
	if d := cmp.Diff(segments(1, 4), b.segments()); d != "" {
		t.Fatal(d)
	}
	b.feed(u, Feed{Location: "nas", From: 3 * testSeg, Stale: pos.Range{From: testSeg, To: 3 * testSeg}})
	if d := cmp.Diff(segments(3, 4), b.segments()); d != "" {
		t.Error(d)
	}
	if s := b.said[0].RecordArchived.Spans; len(s) != 1 || s[0].From != 3*testSeg || s[0].To != 5*testSeg {
		t.Errorf("it reports %+v", s)
	}
}

// A location that cannot be cleared keeps nobody from archiving to it later.
func TestArchive_StaleOnADeadLocation(t *testing.T) {
	b := newBench(t)
	b.open = map[string]location.Location{}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	b.clearStale(ctx, Feed{Location: "nas", Stale: pos.Range{From: 1, To: 2}})
}

// A removal of log that was cut off is ended by the next prune: the ledger does
// not count on that log any more, so that no plan names it again.
func TestPrune_EndsWhatWasBegun(t *testing.T) {
	b := newBench(t)
	b.feed(b.log(4), Feed{Location: "nas", From: testSeg})
	b.mu.Lock()
	b.said, b.heard = nil, nil
	b.mu.Unlock()
	begun := []facts.WALRange{{Timeline: 1, From: testSeg, To: 2 * testSeg}, {Timeline: 1, From: 2 * testSeg, To: 4 * testSeg}}
	b.spec.Job = facts.JobRef{ID: "p", Lease: "boot"}
	b.spec.Prune = &Prune{Begun: map[string][]facts.WALRange{"nas": begun}}
	if _, err := b.prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(segments(4, 4), b.segments()); d != "" {
		t.Error(d)
	}
	want := []facts.Command{{RemoveWAL: &facts.RemoveWAL{Job: b.spec.Job, Location: "nas", Ranges: begun, Gone: true}}}
	if d := cmp.Diff(want, b.said); d != "" {
		t.Error(d)
	}
	// It is not said to be gone while it is not.
	b.said = nil
	b.open["nas"] = unremovable{b.open["nas"]}
	b.spec.Prune.Begun["nas"] = []facts.WALRange{{Timeline: 1, From: 4 * testSeg, To: 5 * testSeg}}
	if _, err := b.prune(t.Context()); !errors.Is(err, location.ErrReadOnly) || len(b.said) != 0 {
		t.Errorf("%v, it says %+v", err, b.said)
	}
}

type unremovable struct{ location.Location }

func (unremovable) Remove(context.Context, string) error { return location.ErrReadOnly }
