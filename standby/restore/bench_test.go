package restore_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"understudy/standby/restore"
	"understudy/test/pgtest"
)

// TestSeed_Throughput prints the rate of a seed beside pg_basebackup's; it
// runs when UNDERSTUDY_BENCH is set.
func TestSeed_Throughput(t *testing.T) {
	if os.Getenv("UNDERSTUDY_BENCH") == "" {
		t.Skip("UNDERSTUDY_BENCH is not set")
	}
	o := newOrigin(t, 600)
	o.Exec(t, "checkpoint")
	for range 2 {
		d := pgtest.Dir(t)
		start := time.Now()
		o.Tool(t, "pg_basebackup", "-D", filepath.Join(d, "data"), "--wal-method=none", "--checkpoint=fast", "-T", o.space+"="+filepath.Join(d, "ts"))
		stock := time.Since(start)
		cfg := o.target(t)
		cfg.Step = func(s string) error {
			if s != restore.StepFiles {
				t.Logf("%s at %s", s, time.Since(start))
			}
			return nil
		}
		start = time.Now()
		res, err, serr := run(t, o.sender(), cfg, 0)
		if err != nil || serr != nil {
			t.Fatalf("Seed: %v; Serve: %v", err, serr)
		}
		ours := time.Since(start)
		t.Logf("%d MiB: pg_basebackup %s, seed %s", res.Bytes>>20, stock, ours)
		os.RemoveAll(filepath.Dir(cfg.DataDir))
		os.RemoveAll(d)
	}
}
