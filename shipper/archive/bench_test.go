package archive_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"understudy/shipper/archive"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/pgtest"
)

// BenchmarkFeeder archives the log that pgbench made, with two workers, to a
// folder, and reads it back.
func BenchmarkFeeder(b *testing.B) {
	const segment = 16 << 20
	c := pgtest.New(b, "autovacuum=off", "wal_keep_size=8GB", "max_wal_size=8GB", "checkpoint_timeout=1h", "fsync=off")
	start := must(pos.ParseLSN(c.Query(b, "SELECT pg_current_wal_flush_lsn()::text")))(b).SegStart(segment)
	c.Tool(b, "pgbench", "-i", "-q", "-s", "20", "--foreign-keys")
	c.Exec(b, "CHECKPOINT")
	c.Tool(b, "pgbench", "-n", "-c", "2", "-t", "4000")
	end := must(pos.ParseLSN(c.Query(b, "SELECT pg_current_wal_flush_lsn()::text")))(b).SegStart(segment)
	sysid := must(strconv.ParseUint(c.Query(b, "SELECT system_identifier::text FROM pg_control_system()"), 10, 64))(b)
	lin := pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: start}}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedFastest, zstd.SpeedDefault} {
		var dir string
		b.Run(level.String(), func(b *testing.B) {
			n, before := 0, cpuSeconds(b)
			for b.Loop() {
				n++
				dir = b.TempDir()
				if err := local.Init(dir); err != nil {
					b.Fatal(err)
				}
				wal := spool.Dir(filepath.Join(c.Data, "pg_wal"), segment, lin)
				loc := local.New(dir)
				f := run(b, archive.Config{Root: root, Location: loc, Name: "folder", SystemID: sysid, SegSize: segment, From: start, Source: wal, Log: quiet(), Level: level,
					Lineage: func() pos.Lineage { return lin }, Committed: func() (pos.LSN, bool) { return end, true }})
				f.reaches(b, end)
				f.stop(b)
				loc.Close()
				wal.Close()
			}
			b.ReportMetric(float64(n)*float64(end.Sub(start))/1e6/(cpuSeconds(b)-before), "MB/cpu-s") // tells more than MB/s on a busy machine
			var stored int64
			filepath.Walk(dir, func(_ string, fi os.FileInfo, err error) error {
				if err == nil && fi.Mode().IsRegular() {
					stored += fi.Size()
				}
				return nil
			})
			b.SetBytes(int64(end.Sub(start)))
			b.ReportMetric(float64(stored)/float64(end.Sub(start)), "stored/raw")
			readBack(b, dir, sysid, start, end)
		})
	}
}

func cpuSeconds(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// readBack reports how fast segments come out of a Fetcher.
func readBack(b *testing.B, dir string, sysid uint64, start, end pos.LSN) {
	b.Helper()
	const segment = 16 << 20
	loc := local.New(dir)
	defer loc.Close()
	f := must(archive.NewFetcher(archive.FetchConfig{Places: []archive.Place{{Name: "folder", Location: loc}}, Root: root, SystemID: sysid, SegSize: segment,
		Path: archive.Path{{Timeline: 1}}, Dir: filepath.Join(b.TempDir(), "ahead"), Log: quiet()}))(b)
	defer f.Close()
	began, before := time.Now(), cpuSeconds(b)
	dest := filepath.Join(b.TempDir(), "RECOVERYXLOG")
	for at := start; at < end; at += segment {
		if err := f.Get(context.Background(), pos.SegName(1, at, segment), dest); err != nil {
			b.Fatal(fmt.Errorf("get %s: %w", at, err))
		}
	}
	b.ReportMetric(float64(end.Sub(start))/1e6/time.Since(began).Seconds(), "fetched-MB/s")
	b.ReportMetric(float64(end.Sub(start))/1e6/(cpuSeconds(b)-before), "fetched-MB/cpu-s")
}
