package backup_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/test/pgtest"
)

// holdsUp waits for the end of ctx, as a location does that takes nothing.
func holdsUp(ctx context.Context, _ int, what string) error {
	if what != "write" {
		return nil
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestTake_Locations(t *testing.T) {
	c := pgtest.New(t)
	t.Run("NoneLeft", func(t *testing.T) { noneLeft(t, c) })
	t.Run("OtherSystemAndTakenLabel", func(t *testing.T) { refuses(t, c) })
	fill(t, c, 160<<20)
	t.Run("OneIsBad", func(t *testing.T) { oneIsBad(t, c) })
	fill(t, c, 0)
	fillRandom(t, c, 300<<20)
	t.Run("MemoryIsBounded", func(t *testing.T) { bounded(t, c) })
}

// oneIsBad checks that a bad location does not harm a good one.
func oneIsBad(t *testing.T, c *pgtest.Cluster) {
	tests := map[string]struct {
		call func(ctx context.Context, n int, what string) error
		want error
	}{
		"Unreachable": {func(context.Context, int, string) error { return location.ErrUnreachable }, location.ErrUnreachable},
		"Full": {func(_ context.Context, n int, what string) error {
			if what == "write" && n > 6 {
				return location.ErrNoSpace
			}
			return nil
		}, location.ErrNoSpace},
		"ReadOnly": {func(_ context.Context, _ int, what string) error {
			if strings.HasPrefix(what, "create") {
				return location.ErrReadOnly
			}
			return nil
		}, location.ErrReadOnly},
		"Frozen": {holdsUp, backup.ErrTooSlow},
		"Slow": {func(ctx context.Context, _ int, what string) error {
			if what != "write" {
				return nil
			}
			select {
			case <-time.After(250 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}, backup.ErrTooSlow},
		"FailsAtTheEnd": {func(_ context.Context, _ int, what string) error {
			if strings.HasSuffix(what, backupset.SetName) {
				return location.ErrNoSpace
			}
			return nil
		}, location.ErrNoSpace},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			good, _ := place(t)
			bad, _ := place(t)
			cfg := config(c, backup.Dest{Name: "bad", Location: &faulty{Location: bad, call: tt.call}}, backup.Dest{Name: "good", Location: good})
			cfg.Patience = 300 * time.Millisecond
			cfg.Label = "20260101-000000F"
			res := take(t, cfg)
			if !errors.Is(res.Dests[0].Err, tt.want) || res.Dests[1].Err != nil {
				t.Errorf("bad: %v, want %v; good: %v", res.Dests[0].Err, tt.want, res.Dests[1].Err)
			}
			if left := listed(t, bad); len(left) > 0 {
				t.Errorf("left at the bad location: %q", left)
			}
			sealed(t, good, res)
		})
	}
}

// fill puts a file of zeros into the data directory: many frames, little work.
func fill(t *testing.T, c *pgtest.Cluster, size int64) {
	t.Helper()
	path := filepath.Join(c.Data, "base", "big")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
}

// fillRandom puts a file that no frame can make smaller into the data
// directory.
func fillRandom(t *testing.T, c *pgtest.Cluster, size int64) {
	t.Helper()
	path := filepath.Join(c.Data, "base", "random")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 5<<20)
	rand.Read(b)
	for ; size > 0; size -= int64(len(b)) {
		if _, err := f.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	pgtest.Own(t, path)
}

// bounded takes a backup much larger than its buffers, with one location that
// takes nothing for a while, and looks at the memory all the time.
func bounded(t *testing.T, c *pgtest.Cluster) {
	good, _ := place(t)
	frozen, _ := place(t)
	cfg := config(c, backup.Dest{Name: "frozen", Location: &faulty{Location: frozen, call: holdsUp}}, backup.Dest{Name: "good", Location: good})
	cfg.Patience = 500 * time.Millisecond
	debug.FreeOSMemory()
	before, most := memory(), int64(0)
	done := int64(0)
	cfg.OnProgress = func(p backup.Progress) { most, done = max(most, memory()-before), p.Done }
	res := take(t, cfg)
	const limit = 160 << 20
	if most > limit || done < 300<<20 {
		t.Errorf("%d MiB of memory for %d MiB read, want at most %d", most>>20, done>>20, limit>>20)
	}
	t.Logf("%d MiB of memory for %d MiB", most>>20, res.Set.RawBytes>>20)
}

// memory is what the process has from the system now, in bytes.
func memory() int64 {
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(m)
	return int64(m[0].Value.Uint64() - m[1].Value.Uint64())
}

func noneLeft(t *testing.T, c *pgtest.Cluster) {
	bad, _ := place(t)
	frozen, _ := place(t)
	cfg := config(c, backup.Dest{Name: "bad", Location: &faulty{Location: bad, call: func(_ context.Context, n int, _ string) error {
		if n > 3 {
			return location.ErrRefused
		}
		return nil
	}}}, backup.Dest{Name: "frozen", Location: &faulty{Location: frozen, call: holdsUp}})
	cfg.Patience = 300 * time.Millisecond
	_, err := backup.Take(t.Context(), cfg)
	if !errors.Is(err, backup.ErrNoDestination) || !errors.Is(err, location.ErrRefused) || !errors.Is(err, backup.ErrTooSlow) {
		t.Errorf("got %v", err)
	}
	if left := append(listed(t, bad), listed(t, frozen)...); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestTake_EndsAtEveryCall ends the backup, or fails its one location, before
// the nth call of the location, for each n. No set may stand that Take did not
// return, and nothing may be left.
func TestTake_EndsAtEveryCall(t *testing.T) {
	c := pgtest.New(t)
	for n := 0; ; n++ {
		cancels := n%3 == 2 // the same way out, from another side
		loc, _ := place(t)
		ctx, cancel := context.WithCancelCause(t.Context())
		gone := errors.New("gone")
		var reached atomic.Bool
		f := &faulty{Location: loc, call: func(_ context.Context, at int, _ string) error {
			if at != n {
				return nil
			}
			reached.Store(true)
			if cancels {
				cancel(gone)
				return nil
			}
			return gone
		}}
		res, err := backup.Take(ctx, config(c, backup.Dest{Name: "disk", Location: f}))
		cancel(nil)
		left := listed(t, loc)
		if err != nil && (len(left) > 0 || !errors.Is(err, gone)) {
			t.Fatalf("ended at call %d: %v; left behind: %q", n, err, left)
		}
		if err == nil {
			sealed(t, loc, res)
		}
		if !reached.Load() {
			if n < 8 {
				t.Errorf("only %d calls", n)
			}
			return
		}
		if err == nil && !cancels {
			t.Fatalf("no error at call %d", n)
		}
	}
}

// sealed checks that every object of a set is there.
func sealed(t *testing.T, loc location.Location, res backup.Result) {
	t.Helper()
	for _, o := range res.Set.Objects {
		if i, err := loc.Stat(t.Context(), root().Object(res.Set.Label, o.Name)); err != nil || i.Size != o.Bytes {
			t.Errorf("%s: %+v, %v", o.Name, i, err)
		}
	}
}

func TestTake_ServerEnds(t *testing.T) {
	c := pgtest.New(t)
	loc, _ := place(t)
	f := &faulty{Location: loc, call: func(_ context.Context, n int, what string) error {
		if n == 2 {
			c.Crash()
		}
		return nil
	}}
	fill(t, c, 160<<20)
	if _, err := backup.Take(t.Context(), config(c, backup.Dest{Name: "disk", Location: f})); err == nil {
		t.Error("no error")
	}
	if left := listed(t, loc); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func refuses(t *testing.T, c *pgtest.Cluster) {
	loc, _ := place(t)
	cfg := config(c, backup.Dest{Name: "disk", Location: loc})
	cfg.Label = "20260101-000000F"
	cfg.SystemID = 1
	if _, err := backup.Take(t.Context(), cfg); !errors.Is(err, backup.ErrOtherSystem) {
		t.Errorf("got %v, want %v", err, backup.ErrOtherSystem)
	}
	cfg.SystemID = 0
	first := take(t, cfg)
	if _, err := backup.Take(t.Context(), cfg); !errors.Is(err, backup.ErrNoDestination) {
		t.Errorf("got %v, want %v", err, backup.ErrNoDestination)
	}
	sealed(t, loc, first)
}

func TestOrphans_AndRemove(t *testing.T) {
	loc, _ := place(t)
	put := func(key string) {
		up, err := loc.Create(t.Context(), key, location.CreateOptions{Size: 3})
		if err != nil {
			t.Fatal(err)
		}
		up.Write([]byte("abc"))
		if _, err := up.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	r := root()
	whole, cut := "20260101-000000F", "20260102-000000F"
	put(r.Object(whole, backupset.BaseName))
	put(r.Object(whole, backupset.SetName))
	put(r.Object(cut, backupset.BaseName))
	put(r.Object(cut, backupset.ManifestName))
	put(r.Sets() + "notes/of-the-operator")
	got, err := backup.Orphans(t.Context(), loc, r)
	if err != nil || len(got) != 1 || got[0].Label != cut || len(got[0].Keys) != 2 || got[0].Bytes != 6 || got[0].Newest.IsZero() {
		t.Fatalf("orphans %+v, %v", got, err)
	}
	for _, label := range []string{cut, whole} {
		if err := backup.Remove(t.Context(), loc, r, label); err != nil {
			t.Fatal(err)
		}
	}
	if left := fmt.Sprint(listed(t, loc)); left != "["+r.Sets()+"notes/of-the-operator]" {
		t.Errorf("left: %s", left)
	}
	if err := backup.Remove(t.Context(), loc, r, "notes"); err == nil {
		t.Error("removed what is no set")
	}
}
