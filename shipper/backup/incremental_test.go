package backup_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/basestream"
	"understudy/shipper/location"
	"understudy/test/pgtest"
)

// built is the configuration of a backup that is built on a set, one second
// after it.
func built(t testing.TB, c *pgtest.Cluster, on backup.Result, dests ...backup.Dest) backup.Config {
	t.Helper()
	at, err := backupset.ParseLabel(on.Set.Label)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(c, dests...)
	cfg.Label = backupset.NewIncrementalLabel(at.Add(time.Second))
	cfg.Parent = &backup.Parent{Label: on.Set.Label, Digest: on.Digest, From: dests}
	return cfg
}

// On a server that does not offer incremental backups nothing is left behind.
func TestTake_IncrementalIsNotOffered(t *testing.T) {
	if pgtest.Major(t) >= basestream.MinIncremental {
		t.Skip("this server takes incremental backups")
	}
	c := pgtest.New(t)
	loc, _ := place(t)
	disk := backup.Dest{Name: "disk", Location: loc}
	full := take(t, config(c, disk))
	before := len(listed(t, loc))
	if changed, err := backup.Summarize(t.Context(), c.DSN()); changed || err != nil {
		t.Errorf("turned something on: %v, %v", changed, err)
	}
	for name, tt := range map[string]struct {
		change func(*backup.Config)
		want   string
	}{
		"Server":   {func(*backup.Config) {}, "the server is PostgreSQL"},
		"Digest":   {func(c *backup.Config) { c.Parent.Digest = strings.Repeat("0", 64) }, "is not the one that was stored"},
		"NoPlace":  {func(c *backup.Config) { c.Parent.From = nil }, "no location has it"},
		"NotThere": {func(c *backup.Config) { c.Parent.Label, c.Parent.Digest = "20200101-000000F", "" }, "cannot be read"},
	} {
		cfg := built(t, c, full, disk)
		tt.change(&cfg)
		if _, err := backup.Take(t.Context(), cfg); !errors.Is(err, backup.ErrNotIncremental) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
	if n := len(listed(t, loc)); n != before {
		t.Errorf("%d objects at the location, %d before", n, before)
	}
}

func TestConfig_LabelTellsTheKind(t *testing.T) {
	cfg := backup.Config{ConnString: "x", Root: root(), Dests: []backup.Dest{{Name: "a", Location: location.Location(nil)}}}
	for _, tt := range []struct {
		label  string
		parent *backup.Parent
	}{{"20260101-000000I", nil}, {"20260101-000000F", &backup.Parent{Label: "20250101-000000F"}}} {
		cfg.Label, cfg.Parent = tt.label, tt.parent
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), "kind of backup") {
			t.Errorf("%s: %v", tt.label, err)
		}
	}
}

// The pages of blocks are checked as what they are in the file that they change.
func TestTake_IncrementalFindsDamagedPage(t *testing.T) {
	pgtest.Need(t, basestream.MinIncremental)
	c := pgtest.New(t, "--data-checksums", "summarize_wal=on", "autovacuum=off")
	loc, _ := place(t)
	disk := backup.Dest{Name: "disk", Location: loc}
	c.Exec(t, "create table x as select i, repeat('x', 1000) as s from generate_series(1, 7000) i")
	c.Exec(t, "vacuum x") // no hints are left to be set
	full := take(t, config(c, disk))
	c.Exec(t, "update x set i = -i where i % 700 = 0")
	c.Exec(t, "checkpoint")
	sound := take(t, built(t, c, full, disk))
	if sound.Set.DamageN != 0 {
		t.Fatalf("false alarm: %+v", sound.Set.Damage)
	}
	rel := c.Query(t, "select pg_relation_filepath('x')")
	found := files(t, loc, sound.Set.Label)
	dir, name := filepath.Split(rel)
	inc, ok := found[backupset.BaseName+":"+dir+"INCREMENTAL."+name]
	if !ok || inc.Size > 40*8192 {
		t.Fatalf("the table was not sent as blocks: %+v", inc)
	}

	c.Exec(t, "update x set i = i * 10 where i = -4200")
	n, err := strconv.Atoi(c.Query(t, "select (ctid::text::point)[0]::int from x where i = -42000"))
	if err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "checkpoint") // after the look, which sets hints
	spoilPage(t, filepath.Join(c.Data, rel), n)
	res := take(t, built(t, c, sound, disk))
	if res.Set.DamageN != 1 || res.Set.Damage[0].Path != rel || int(res.Set.Damage[0].Block) != n {
		t.Errorf("damage %d %+v, want block %d of %s", res.Set.DamageN, res.Set.Damage, n, rel)
	}
}

// spoilPage changes bytes in the middle of a page on the disk.
func spoilPage(t *testing.T, path string, block int) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("spoilt"), int64(block)*8192+5000); err != nil {
		t.Fatal(err)
	}
}

// However the head of an incremental file is cut, the blocks behind it are found.
func TestBlockMap_InPieces(t *testing.T) {
	s := backupset.Server{BlockSize: 1024, SegPages: 1 << 20}
	m := backupset.BlockMap{Keep: 9}
	var want []int64
	for i := range 600 {
		m.Blocks, want = append(m.Blocks, uint32(7*i)), append(want, int64(7*i))
	}
	b := s.AppendBlockMap(nil, m)
	size := int64(len(b) + len(m.Blocks)*s.BlockSize)
	for _, n := range []int{1, 5, 12, 1000, 1 << 20} {
		if got, err := backup.PagesOf(s, b, size, n); err != nil || !slices.Equal(got, want) {
			t.Errorf("in pieces of %d: %d pages, %v", n, len(got), err)
		}
	}
	b[0]++
	if _, err := backup.PagesOf(s, b, size, 5); !errors.Is(err, backupset.ErrDamaged) {
		t.Errorf("no incremental file: %v", err)
	}
}
