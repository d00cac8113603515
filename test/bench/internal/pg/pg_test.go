package pg_test

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"understudy/test/bench/internal/pg"
	"understudy/test/pgtest"
)

func TestParseBench_Output(t *testing.T) {
	out := `pgbench (15.18)
transaction type: <builtin: TPC-B (sort of)>
number of transactions actually processed: 812
number of failed transactions: 3 (0.368%)
latency average = 1.231 ms
latency stddev = 0.4 ms
initial connection time = 4.321 ms
tps = 812.250000 (without initial connection time)
`
	r, err := pg.ParseBench(out)
	if err != nil || r.TPS != 812.25 || r.Latency != 1231*time.Microsecond || r.Failed != 3 {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, bad := range []string{"", "tps = 12 (x)", "latency average = x ms\ntps = 1 (x)", "latency average = 1 ms\ntps = inf? (x)"} {
		if _, err := pg.ParseBench(bad); !errors.Is(err, pg.ErrOutput) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

// A cluster, its synchronous standby, and a load: the native side in small.
func TestCluster_FollowsItsPrimary(t *testing.T) {
	tools, err := pg.FindTools(pgtest.BinDir(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, dir := t.Context(), pgtest.Dir(t)
	main, err := tools.Init(ctx, dir+"/m", pgtest.FreePort(t), true, map[string]string{"max_connections": "20", "fsync": "off"})
	if err != nil {
		t.Fatal(err)
	}
	start(t, main)
	standby, err := main.Backup(ctx, dir+"/s", pgtest.FreePort(t), "bench_standby")
	if err != nil {
		t.Fatal(err)
	}
	start(t, standby)
	if err := main.Exec(ctx, "alter system set synchronous_standby_names = 'bench_standby'", "select pg_reload_conf()"); err != nil {
		t.Fatal(err)
	}
	err = pg.Until(ctx, 10*time.Second, "the standby is synchronous", func() (bool, error) {
		n, err := main.Query(ctx, "select count(*) from pg_stat_replication where sync_state = 'sync'")
		return n == "1", err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := tools.FillBench(ctx, main.Server, 1); err != nil {
		t.Fatal(err)
	}
	r, err := tools.Bench(ctx, main.Server, pg.Load{Clients: 2, For: time.Second})
	if err != nil || r.TPS <= 0 || r.Latency <= 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	if got, err := standby.Query(ctx, "pg_is_in_recovery()"); err != nil || got != "true" {
		t.Errorf("got %q, %v", got, err)
	}
}

func start(t *testing.T, c *pg.Cluster) {
	t.Helper()
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(); err != nil {
			t.Error(err)
		}
		if c.PID() != 0 {
			t.Error("a stopped server has a process id")
		}
	})
}

func TestUntil_SaysWhatWasAwaited(t *testing.T) {
	err := pg.Until(t.Context(), time.Millisecond, "pigs fly", func() (bool, error) { return false, nil })
	if err == nil || err.Error() != "waited 1ms until pigs fly" {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := pg.Until(ctx, time.Minute, "", func() (bool, error) { return false, nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := pg.Until(t.Context(), time.Minute, "", func() (bool, error) { return false, os.ErrClosed }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
