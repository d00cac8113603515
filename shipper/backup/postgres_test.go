package backup_test

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/test/pgtest"
)

func TestTake_RestoresWithStockTools(t *testing.T) {
	hasTools(t)
	wal := pgtest.Dir(t)
	space := pgtest.Dir(t)
	c := pgtest.New(t, "--data-checksums", "archive_mode=on", "archive_command=cp %p "+wal+"/%f", "allow_in_place_tablespaces=on")
	c.Exec(t, "create tablespace far location '"+space+"'")
	c.Exec(t, "set allow_in_place_tablespaces = on; create table near as select i from generate_series(1, 10000) i")
	c.Exec(t, "create tablespace inside location ''")
	c.Exec(t, "create table x as select i, repeat(md5(i::text), 5) as s from generate_series(1, 60000) i")
	c.Exec(t, "create table y tablespace far as select * from x; create table z tablespace inside as select * from x where i < 1000")
	c.Exec(t, "create unlogged table u as select 1")

	extra := t.TempDir()
	os.WriteFile(filepath.Join(extra, "app.conf"), []byte("shop = 1\n"), 0o640)
	os.Symlink("app.conf", filepath.Join(extra, "link"))
	syscall.Mkfifo(filepath.Join(extra, "fifo"), 0o600)
	loc, dir := place(t)
	cfg := config(c, backup.Dest{Name: "disk", Location: loc})
	cfg.Extra = []string{extra, filepath.Join(extra, "no-*"), "/nowhere/at/all"}

	stop := make(chan struct{})
	wrote := make(chan int)
	go func() { wrote <- write(c, stop) }()
	res := take(t, cfg)
	close(stop)
	rows := <-wrote
	c.Exec(t, "select pg_switch_wal()")
	pgtest.Eventually(t, 20*time.Second, "WAL is archived", func() bool {
		return c.Query(t, "select last_archived_wal >= pg_walfile_name(pg_current_wal_lsn() - 1) from pg_stat_archiver") == "t"
	})

	set := filepath.Join(dir, root().SetDir(res.Set.Label))
	checkSet(t, res, loc, set)
	if len(res.Set.Damage) != 0 || res.Set.DamageN != 0 {
		t.Errorf("false alarm: %+v", res.Set.Damage)
	}
	contains(t, res.Set.Warnings, "/nowhere/at/all was not taken")
	contains(t, res.Set.Warnings, "fifo was not taken: it is neither")
	contains(t, res.Set.Warnings, "no-* was not taken")

	spaces := map[uint32]string{}
	for _, s := range res.Set.Tablespaces {
		at := pgtest.Dir(t)
		if s.InPlace {
			at = ""
		}
		spaces[s.OID] = at
	}
	// Version 15 has a tablespace in place within the data directory's archive,
	// later ones as a tablespace of its own.
	if n := len(spaces); n < 1 || n > 2 {
		t.Fatalf("tablespaces %+v", res.Set.Tablespaces)
	}
	shell0(t, "chmod", "-R", "a+rX", dir)
	r := fullyRestore(t, c, set, spaces, wal)
	r.Start(t)
	pgtest.Eventually(t, 20*time.Second, "recovery ends", func() bool { return r.Query(t, "select pg_is_in_recovery()") == "f" })
	for table, want := range map[string]int{"x": 60000, "y": 60000, "z": 999, "w": rows} {
		if got := r.Query(t, "select count(*) from "+table); got != strconv.Itoa(want) {
			t.Errorf("%s has %s rows, want %d", table, got, want)
		}
	}
	r.Stop(syscall.SIGINT)
	r.Tool(t, "pg_checksums", "--check", "-D", r.Data)

	checkExtra(t, set, extra)
}

// checkExtra unpacks the files beside the database.
func checkExtra(t *testing.T, set, extra string) {
	t.Helper()
	out := pgtest.Dir(t)
	shell(t, fmt.Sprintf("zstd -dc %s/extra.tar.zst | tar -x -C %s --no-same-owner", set, out))
	if got := string(read(t, filepath.Join(out, extra, "app.conf"))); got != "shop = 1\n" {
		t.Errorf("extra file has %q", got)
	}
	if to, err := os.Readlink(filepath.Join(out, extra, "link")); err != nil || to != "app.conf" {
		t.Errorf("link %q, %v", to, err)
	}
}

// write inserts and updates rows until stop, with checkpoints, and returns how
// many rows there are.
func write(c *pgtest.Cluster, stop <-chan struct{}) int {
	ctx := context.Background()
	conn, err := c.Connect(ctx)
	if err != nil {
		return -1
	}
	defer conn.Close(ctx)
	conn.Exec(ctx, "create table w (i int, s text)")
	n := 0
	for {
		select {
		case <-stop:
			return n
		default:
		}
		tag, err := conn.Exec(ctx, "insert into w select i, repeat('x', 300) from generate_series(1, 200) i")
		if err != nil {
			return -1
		}
		n += int(tag.RowsAffected())
		conn.Exec(ctx, "update x set s = s || '.' where i % 97 = $1", n/200%97)
		if n%1000 == 0 {
			conn.Exec(ctx, "checkpoint")
		}
	}
}

// checkSet proves a set by its own words: the objects' digests, and every
// chunk of every file by way of the seek table.
func checkSet(t *testing.T, res backup.Result, loc location.Location, dir string) {
	t.Helper()
	b := read(t, filepath.Join(dir, backupset.SetName))
	set, err := backupset.DecodeSet(b)
	if err != nil {
		t.Fatal(err)
	}
	if backupset.Digest(b) != res.Digest || set.Label != res.Set.Label || set.End != res.Set.End {
		t.Errorf("set.json is %+v, digest %s; Take said %+v, %s", set, backupset.Digest(b), res.Set, res.Digest)
	}
	for _, o := range set.Objects {
		b := read(t, filepath.Join(dir, o.Name))
		sum := blake3.Sum256(b)
		if int64(len(b)) != o.Bytes || hex.EncodeToString(sum[:]) != o.BLAKE3 {
			t.Errorf("%s has %d bytes with another digest than %+v", o.Name, len(b), o)
		}
	}
	checkChunks(t, loc, dir, set)
}

func TestTake_FindsDamagedPage(t *testing.T) {
	c := pgtest.New(t, "--data-checksums")
	c.Exec(t, "create table x as select i, repeat(md5(i::text), 5) as s from generate_series(1, 20000) i")
	c.Exec(t, "checkpoint")
	path := c.Query(t, "select pg_relation_filepath('x')")
	f, err := os.OpenFile(filepath.Join(c.Data, path), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("flip"), 17*8192+4000); err != nil {
		t.Fatal(err)
	}
	loc, dir := place(t)
	res := take(t, config(c, backup.Dest{Name: "disk", Location: loc}))
	if len(res.Set.Damage) != 1 || res.Set.DamageN != 1 || res.Set.Damage[0].Path != path || res.Set.Damage[0].Block != 17 {
		t.Errorf("damage %+v of %d, want block 17 of %s", res.Set.Damage, res.Set.DamageN, path)
	}
	checkSet(t, res, loc, filepath.Join(dir, root().SetDir(res.Set.Label)))
}

func TestTake_IncompressibleAndLargeFiles(t *testing.T) {
	c := pgtest.New(t)
	big := filepath.Join(c.Data, "base", "big")
	b := make([]byte, 9<<20+12345)
	rand.Read(b[:5<<20])
	if err := os.WriteFile(big, b, 0o644); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, big)
	loc, dir := place(t)
	res := take(t, config(c, backup.Dest{Name: "disk", Location: loc}))
	checkSet(t, res, loc, filepath.Join(dir, root().SetDir(res.Set.Label)))
	got := files(t, loc, res.Set.Label)["base.tar.zst:base/big"]
	if got.Size != int64(len(b)) || len(got.Digests) != 10*16 {
		t.Errorf("file %+v", got)
	}
}
