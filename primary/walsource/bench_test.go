package walsource_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"understudy/primary/walsource"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

type discard struct{ done func(end pos.LSN) }

func (d discard) Data(at pos.LSN, p []byte, _ pos.LSN, _ time.Time) error {
	d.done(at + pos.LSN(len(p)))
	return nil
}

func (discard) ServerEnd(pos.LSN, time.Time) {}

// The same stretch of old WAL, received by a Source and by pg_receivewal.
func BenchmarkSource_Throughput(b *testing.B) {
	c := cluster(b, "fsync=off", "max_wal_size=1GB")
	// pg_receivewal takes a file of segment 0 for no file.
	c.Exec(b, "create table w(i int); select pg_switch_wal(); insert into w values (1)")
	cfg := config(b, c)
	c.Exec(b, "create table a as select generate_series(1, 4000000) i; select pg_switch_wal()")
	end := flushed(b, c).SegStart(segSize)
	b.Run("Source", func(b *testing.B) {
		b.SetBytes(int64(end - cfg.Start))
		for b.Loop() {
			s, err := walsource.Open(b.Context(), cfg)
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			s.Run(ctx, discard{func(l pos.LSN) {
				if l >= end {
					cancel()
				}
			}})
			cancel()
			s.Close(b.Context())
		}
	})
	b.Run("ReceiveWal", func(b *testing.B) {
		b.SetBytes(int64(end - cfg.Start))
		for i := 0; b.Loop(); i++ {
			// It begins after the newest file that it finds.
			dir := filepath.Join(pgtest.Dir(b), fmt.Sprint(i))
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Fatal(err)
			}
			first := filepath.Join(dir, pos.SegName(1, cfg.Start-segSize, segSize))
			if err := os.WriteFile(first, make([]byte, segSize), 0o644); err != nil {
				b.Fatal(err)
			}
			pgtest.Own(b, dir)
			c.Tool(b, "pg_receivewal", "-D", dir, "--endpos", end.String(), "--no-sync")
		}
	})
}
