package verify_test

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"understudy/shipper/archive"
	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/pos"
	"understudy/shipper/verify"
	"understudy/test/pgtest"
)

// taken is a backup of a real server and its log.
func taken(t *testing.T, m *mem) (*made, verify.Log) {
	t.Helper()
	space := pgtest.Dir(t)
	c := pgtest.New(t, "--data-checksums", "--wal-segsize=1", "allow_in_place_tablespaces=on", "fsync=off", "max_wal_senders=4")
	c.Exec(t, "create tablespace far location '"+space+"'")
	c.Exec(t, "create tablespace inside location ''")
	c.Exec(t, "create table x as select i, repeat(md5(i::text), 3) as s from generate_series(1, 20000) i")
	c.Exec(t, "create table y tablespace far as select * from x; create table z tablespace inside as select * from x where i < 1000")
	extra := filepath.Join(t.TempDir(), "app.conf")
	if err := os.WriteFile(extra, []byte("shop = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lin := pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: segSize}}
	res, err := backup.Take(ctx, backup.Config{ConnString: c.DSN(), Root: root(), GroupID: "g", Node: "main", Program: "test", Lineage: lin,
		Dests: []backup.Dest{{Name: "here", Location: m}}, Workers: 2, Extra: []string{extra}, SecondLook: time.Millisecond, Scratch: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	c.Exec(t, "create table more as select * from x; select pg_switch_wal()")
	end, err := pos.ParseLSN(c.Query(t, "select pg_current_wal_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := strconv.ParseUint(c.Query(t, "select system_identifier::text from pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	l := verify.Log{SystemID: id, SegSize: segSize, Stretches: []archive.Stretch{{Timeline: 1, Range: pos.Range{From: res.Set.Start.SegStart(segSize), To: end.SegStart(segSize)}}}}
	enc, err := archive.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	for at := l.Stretches[0].From; at < l.Stretches[0].To; at += segSize {
		raw, err := os.ReadFile(filepath.Join(c.Data, "pg_wal", pos.SegName(1, at, segSize)))
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := enc.Encode(&b, bytes.NewReader(raw), archive.Seal{SystemID: id, Timeline: 1, Start: at, Length: segSize, SegSize: segSize}); err != nil {
			t.Fatal(err)
		}
		m.put(root().Segment(1, at, segSize), b.Bytes())
	}
	return &made{set: res.Set, digest: res.Digest}, l
}

// A set that a real server gave, its files against its list and PostgreSQL's
// manifest, and changes of its bytes where they matter most.
func TestVerify_RealDatabase(t *testing.T) {
	m := newMem()
	s, l := taken(t, m)
	if len(s.set.Tablespaces) == 0 || len(s.set.Archives()) < 3 {
		t.Fatalf("a set of %v", s.set.Archives())
	}
	if r := proveSet(t, m, s, true); r.FindingN > 0 || r.Damaged() || r.RawBytes < s.set.RawBytes {
		t.Fatalf("set: %+v", r)
	}
	if r := proveLog(t, m, l, true); r.FindingN > 0 || r.Objects < 2 {
		t.Fatalf("log: %+v", r)
	}
	r := rand.New(rand.NewPCG(8, 9))
	n, total := 0, 0
	all := clone(m)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		b := all[key]
		total += len(b)
		_, isLog := root().ParseWAL(key, segSize)
		for _, i := range places(r, b, isLog) {
			campaign(t, m, flips(r, key, b, i)[n%2:n%2+1], func(c change) {
				var rep verify.Report
				if n++; isLog {
					rep = proveLog(t, m, l, false)
				} else {
					rep = proveSet(t, m, s, n%16 == 0)
				}
				if !rep.Damaged() {
					t.Errorf("%s at %d of %s: %+v", c.what, i, key, rep)
				}
				for _, f := range rep.Findings {
					if f.At > int64(i) || f.At >= 0 && f.At < int64(i)-2*backupset.MaxFrame {
						t.Errorf("%s at %d of %s is told to be at %d", c.what, i, key, f.At)
					}
				}
			})
		}
	}
	t.Logf("%d changed bytes of %d objects with %d bytes, all found", n, len(all), total)
}

// places are bytes to be changed: the first and last ones, the seek table, and
// some of the rest.
func places(r *rand.Rand, b []byte, isLog bool) (out []int) {
	n := 8
	if len(b) > 1<<20 {
		n = 3
	}
	for i := range n {
		out = append(out, min(i*5, len(b)-1), r.IntN(len(b)), len(b)-1-min(i*3, len(b)-1))
	}
	if isLog {
		out = append(out, max(0, len(b)-100), max(0, len(b)-128))
	}
	return out
}
