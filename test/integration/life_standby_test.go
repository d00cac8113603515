package integration_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/test/cluster"
)

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// code is the SQLSTATE of an error, "" when it has none.
func code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// TestStandby uses one standby: reads, feedback, tablespaces, and every way to
// lose its database.
func TestStandby(t *testing.T) {
	t.Parallel()
	g := healthy(t, cluster.WithParameter("hot_standby_feedback", "on"))

	run(t, "ReadsAndRefusesWrites", func(t *testing.T) {
		g.Main.Exec(t, "create table read_me (a int); insert into read_me values (41), (1)")
		cluster.CatchUp(t, g.Main, g.Backup)
		if got := g.Backup.Query(t, "select sum(a) from read_me"); got != "42" {
			t.Errorf("the standby reads %s, want 42", got)
		}
		if _, err := g.Backup.TryQuery("insert into read_me values (1)"); code(err) != "25006" {
			t.Errorf("a write on the standby: %v; want read_only_sql_transaction", err)
		}
	})

	run(t, "FeedbackReachesThePrimary", func(t *testing.T) {
		const held = "select coalesce(max(backend_xmin::text), '') from pg_stat_replication where application_name like 'understudy%'"
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		c, err := g.Backup.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close(ctx)
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		var xmin string
		if err := tx.QueryRow(ctx, "select pg_snapshot_xmin(pg_current_snapshot())::text from read_me limit 1").Scan(&xmin); err != nil {
			t.Fatal(err)
		}
		for range 5 { // the primary's own oldest transaction moves on
			g.Main.Exec(t, "insert into read_me values (0)")
		}
		cluster.Eventually(t, 10*time.Second, "the standby's oldest transaction "+xmin+" on the primary", func() bool {
			return g.Main.Query(t, held) == xmin
		})
		if err := tx.Rollback(ctx); err != nil {
			t.Fatal(err)
		}
		cluster.Eventually(t, 10*time.Second, "the feedback moving on", func() bool { return g.Main.Query(t, held) != xmin })
	})

	run(t, "Tablespace", func(t *testing.T) {
		g.Main.Exec(t, "create tablespace beside location ''")
		g.Main.Exec(t, "create table there (a int) tablespace beside; insert into there select generate_series(1, 1000)")
		cluster.CatchUp(t, g.Main, g.Backup)
		if got := g.Backup.Query(t, "select count(*) from there"); got != "1000" {
			t.Errorf("the standby has %s rows of the tablespace, want 1000", got)
		}
	})

	run(t, "ServerKilled", func(t *testing.T) {
		g.WaitHealthy(t)
		w := g.Writers(t, 4)
		before, failed := time.Now(), failures(w)
		old := g.Backup.PostgresPID()
		g.Backup.KillPostgres(t)
		cluster.Eventually(t, 20*time.Second, "the standby's server started again", func() bool {
			pid := g.Backup.PostgresPID()
			return pid != 0 && pid != old && g.Backup.Answers()
		})
		g.WaitHealthy(t)
		w.WaitMore(t, 20, 10*time.Second)
		if gap := w.LongestGap(before); gap > 2*time.Second || failures(w) != failed {
			t.Errorf("commits paused for %s and %d failed when the standby's server was killed", gap, failures(w)-failed)
		}
		w.CheckNoneLost(t)
	})

	for _, c := range []struct {
		name    string
		running bool
	}{{"WipedWhileRunning", true}, {"WipedWhileStopped", false}} {
		run(t, c.name, func(t *testing.T) {
			g.WaitHealthy(t)
			w := g.Writers(t, 4)
			before, failed := time.Now(), failures(w)
			if !c.running {
				g.Backup.Interrupt(t)
			}
			wipe(t, g.Backup.DataDir())
			if !c.running {
				g.Backup.Start(t)
			}
			// The ledger knows it as unseeded for a while; healthy before that
			// is the old answer.
			cluster.Eventually(t, 40*time.Second, "a new base on the standby", func() bool {
				_, err := os.Stat(filepath.Join(g.Backup.DataDir(), "global", "pg_control"))
				return err == nil && g.Backup.PostgresPID() != 0 && g.Backup.Answers()
			})
			g.WaitHealthy(t)
			w.WaitMore(t, 20, 10*time.Second)
			if gap := w.LongestGap(before); gap > 3*time.Second || failures(w) != failed {
				t.Errorf("commits paused for %s and %d failed while the standby was seeded", gap, failures(w)-failed)
			}
			w.CheckNoneLost(t)
			if got := g.Backup.Query(t, "select count(*) from there"); got != "1000" {
				t.Errorf("the new base has %s rows of the tablespace, want 1000", got)
			}
		})
	}
}

func failures(w *cluster.Writers) int {
	n, _ := w.Failures()
	return n
}

// wipe empties a directory, also while others create files in it.
func wipe(t *testing.T, dir string) {
	t.Helper()
	cluster.Eventually(t, 5*time.Second, "an empty "+filepath.Base(dir), func() bool {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			os.RemoveAll(filepath.Join(dir, e.Name())) // tried again
		}
		return len(entries) == 0 || !exists(filepath.Join(dir, "global", "pg_control"))
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
