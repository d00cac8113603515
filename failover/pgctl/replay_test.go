package pgctl_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/test/pgtest"
)

// TestServer_ReplayPause raises a setting of the primary: the standby pauses,
// which is told from a pause by hand, and goes on after a start.
func TestServer_ReplayPause(t *testing.T) {
	t.Parallel()
	p, gp := founded(t)
	s := standbyOf(t, p)
	gs := start(t, s, following(p))
	do(t, p, "create table t (n int)")
	caughtUp(t, p, s)
	ctx := context30(t)
	paused := func(want bool, low string) {
		t.Helper()
		got, err := s.ReplayPause(ctx)
		if err != nil || got.Paused != want || strings.Join(got.TooLow, "; ") != low {
			t.Errorf("got %+v, %v, want %v %q", got, err, want, low)
		}
	}
	resumed := func() bool { return query(t, s, "select pg_get_wal_replay_pause_state()") == "not paused" }
	paused(false, "")
	if err := s.ResumeReplay(ctx); err != nil {
		t.Errorf("resume what is not paused: %v", err)
	}
	query(t, s, "select pg_wal_replay_pause()::text")
	paused(true, "")
	if err := s.ResumeReplay(ctx); err != nil || !resumed() {
		t.Errorf("resume: %v", err)
	}

	stop(t, gp, guard.Fast)
	raised := pgctl.Mode{Primary: true, Async: true, MinSettings: map[string]int{"max_prepared_transactions": 5, "max_connections": 130, "max_locks_per_transaction": 70}}
	start(t, p, raised)
	do(t, p, "insert into t values (1)")
	pgtest.Eventually(t, 10*time.Second, "replay paused", func() bool { return !resumed() })
	const low = "max_connections = 100, the primary's is 130; max_locks_per_transaction = 64, the primary's is 70"
	paused(true, low)
	if err := s.ResumeReplay(ctx); !errors.Is(err, pgctl.ErrSettingsTooLow) || !strings.HasSuffix(err.Error(), low) {
		t.Errorf("resume: %v", err)
	}
	paused(true, low)
	stop(t, gs, guard.Fast)
	start(t, s, following(p))
	caughtUp(t, p, s)
	paused(false, "")
	if _, err := p.ReplayPause(ctx); err != nil {
		t.Errorf("a primary: %v", err)
	}
}

// TestServer_SetApplyDelay: a delayed standby acknowledges what it does not
// apply, and applies it as soon as the delay ends.
func TestServer_SetApplyDelay(t *testing.T) {
	t.Parallel()
	p, _ := founded(t)
	s := standbyOf(t, p)
	ctx := context30(t)
	m := following(p)
	g := start(t, s, m)
	do(t, p, "create table t (n int)")
	caughtUp(t, p, s)
	conf := filepath.Join(s.StateDir, "postgresql.understudy.conf")
	set := func(d time.Duration, writes bool) {
		t.Helper()
		before := read(t, conf)
		if err := s.SetApplyDelay(ctx, d); err != nil {
			t.Fatalf("delay %s: %v", d, err)
		}
		if got := read(t, conf) != before; got != writes {
			t.Errorf("delay %s: written %v, want %v", d, got, writes)
		}
	}
	shows := func(want string) {
		t.Helper()
		if got := query(t, s, "show recovery_min_apply_delay"); got != want {
			t.Errorf("delay %s, want %s", got, want)
		}
	}
	set(0, false)
	set(time.Hour, true)
	set(time.Hour, false)
	shows("1h")
	delayed(t, p, s)
	began := time.Now()
	set(0, true)
	caughtUp(t, p, s)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("applied %s after the delay ended", d)
	}
	set(365*24*time.Hour, true)
	shows("2147483647ms")

	do(t, s, "alter system set recovery_min_apply_delay = '2h'", "select pg_reload_conf()")
	set(0, true)
	shows("0")
	do(t, s, "alter system set recovery_min_apply_delay = '2h'")
	stop(t, g, guard.Fast)
	m.ApplyDelay = 90 * time.Minute
	foreign := append(s.Args(m), "-c", "recovery_min_apply_delay=3h")
	g = startAs(t, s, m, foreign)
	if err := s.SetApplyDelay(ctx, 0); !errors.Is(err, pgctl.ErrForeignSetting) || !strings.Contains(err.Error(), "by the command line") {
		t.Errorf("a foreign delay: %v", err)
	}
	stop(t, g, guard.Fast)
	start(t, s, m)
	shows("90min")
	set(90*time.Minute, false)
	// What an older daemon wrote has no line for it.
	write(t, conf, strings.Replace(read(t, conf), "recovery_min_apply_delay = '5400000'\n", "", 1))
	set(time.Minute, true)
	shows("1min")
	promoteDelayed(t, s)
}

// delayed checks that a standby with a long delay flushes a commit and does not
// apply it.
func delayed(t *testing.T, p, s *pgctl.Server) {
	t.Helper()
	do(t, p, "insert into t values (1)")
	end := query(t, p, "select pg_current_wal_flush_lsn()::text")
	pgtest.Eventually(t, 10*time.Second, "the standby acknowledges the commit", func() bool {
		return query(t, p, "select coalesce((select flush_lsn >= '"+end+"' from pg_stat_replication), false)::text") == "true"
	})
	pgtest.Eventually(t, 10*time.Second, "replay waits", func() bool {
		return query(t, s, "select count(*)::text from pg_stat_activity where wait_event = 'RecoveryApplyDelay'") == "1"
	})
	if n := query(t, s, "select count(*)::text from t"); n != "0" {
		t.Errorf("%s rows are applied", n)
	}
}

// promoteDelayed promotes a standby whose delay was not taken back: the new
// primary's file has none.
func promoteDelayed(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	if err := s.PreparePromotion(ctx, "", true); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Promote(ctx); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s, "show recovery_min_apply_delay"); got != "0" {
		t.Errorf("delay %s after a promotion", got)
	}
	if p, err := s.ReplayPause(ctx); err != nil || p.Paused {
		t.Errorf("pause of a promoted server: %+v, %v", p, err)
	}
}
