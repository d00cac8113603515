package walsource_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/primary/walsource"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	segSize = 16 << 20
	appName = "understudy_1_1"
)

// recorder keeps what the stream brings.
type recorder struct {
	mu    sync.Mutex
	start pos.LSN
	data  []byte
	ends  int
	fail  error
	then  func(end pos.LSN) // called after each arrival
}

func (r *recorder) Data(at pos.LSN, p []byte, serverEnd pos.LSN, seen time.Time) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail != nil {
		return r.fail
	}
	if want := r.start + pos.LSN(len(r.data)); at != want {
		return fmt.Errorf("data at %s, want %s", at, want)
	}
	r.data = append(r.data, p...)
	end := at + pos.LSN(len(p))
	if serverEnd < end || seen.IsZero() {
		return fmt.Errorf("server end %s seen %s with data up to %s", serverEnd, seen, end)
	}
	if r.then != nil {
		r.then(end)
	}
	return nil
}

func (r *recorder) ServerEnd(pos.LSN, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ends++
}

func (r *recorder) bytes() []byte { r.mu.Lock(); defer r.mu.Unlock(); return r.data }

func cluster(t testing.TB, settings ...string) *pgtest.Cluster {
	t.Helper()
	return pgtest.New(t, append([]string{"wal_keep_size=1GB", "autovacuum=off", "max_connections=20", "shared_buffers=16MB"}, settings...)...)
}

func config(t testing.TB, c *pgtest.Cluster) walsource.Config {
	t.Helper()
	id, err := strconv.ParseUint(c.Query(t, "select system_identifier from pg_control_system()"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return walsource.Config{ConnString: c.DSN(), ApplicationName: appName, SystemID: id, Timeline: 1, Start: flushed(t, c).SegStart(segSize)}
}

func flushed(t testing.TB, c *pgtest.Cluster) pos.LSN {
	t.Helper()
	l, err := pos.ParseLSN(c.Query(t, "select pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// run opens a source and runs it into r until the test ends.
func run(t *testing.T, cfg walsource.Config, r *recorder) *walsource.Source {
	t.Helper()
	s, err := walsource.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.start = cfg.Start
	var wg sync.WaitGroup
	wg.Go(func() { s.Run(context.Background(), r) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			t.Errorf("close: %v", err)
		}
		wg.Wait()
	})
	return s
}

func TestSource_BytesEqualPgWal(t *testing.T) {
	c := cluster(t, "fsync=off")
	cfg, r := config(t, c), &recorder{}
	s := run(t, cfg, r)
	c.Exec(t, "create table a as select generate_series(1, 700000) i; select pg_switch_wal(); insert into a values (1)")
	end := flushed(t, c)
	pgtest.Eventually(t, 10*time.Second, "all is received", func() bool { return s.Received() >= end })
	got := r.bytes()
	if end.SegStart(segSize) <= cfg.Start+2*segSize {
		t.Fatalf("only %s to %s: too little for the test", cfg.Start, end)
	}
	for at := cfg.Start; at < end; at += segSize {
		want, err := os.ReadFile(filepath.Join(c.Data, "pg_wal", pos.SegName(1, at, segSize)))
		if err != nil {
			t.Fatal(err)
		}
		n := min(len(want), int(end-at))
		if off := int(at - cfg.Start); !bytes.Equal(want[:n], got[off:off+n]) {
			t.Errorf("segment at %s differs", at)
		}
	}
	if v, err := s.Show(t.Context(), "wal_keep_size"); err != nil || v != "1GB" {
		t.Errorf("Show: %q, %v", v, err)
	}
	if _, err := s.Show(t.Context(), "wal_level; drop"); err == nil {
		t.Error("Show accepts what is no name")
	}
	pgtest.Eventually(t, 5*time.Second, "the slotless walsender is there", func() bool {
		return c.Query(t, "select count(*) from pg_stat_replication where application_name = '"+appName+"' and state = 'streaming'") == "1"
	})
}

func TestSource_CommitWaitsForConfirm(t *testing.T) {
	c := cluster(t)
	c.Exec(t, "create table a(i int)")
	c.Exec(t, "alter system set synchronous_standby_names = 'FIRST 1 (\""+appName+"\")'")
	c.Exec(t, "select pg_reload_conf()")
	r := &recorder{}
	s := run(t, config(t, c), r)
	pgtest.Eventually(t, 5*time.Second, "the setting is in force", func() bool {
		v, err := s.Show(t.Context(), "synchronous_standby_names")
		return err == nil && v != ""
	})
	confirm := func() pos.LSN {
		l := s.Received()
		// Above what was received: it is cut.
		if err := s.Confirm(l+1<<40, l); err != nil {
			t.Error(err)
		}
		return l
	}
	confirm()
	stat := func(what string) string {
		return c.Query(t, "select coalesce(("+what+")::text, '') from pg_stat_replication where application_name = '"+appName+"'")
	}
	pgtest.Eventually(t, 5*time.Second, "sync_state is sync", func() bool { return stat("sync_state") == "sync" })

	done := make(chan struct{})
	go func() { defer close(done); c.Exec(t, "insert into a values (1)") }()
	pgtest.Eventually(t, 5*time.Second, "the commit waits", func() bool {
		return c.Query(t, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == "1"
	})
	if got := c.Query(t, "select count(*) from a"); got != "0" {
		t.Errorf("%s rows are visible before the commit is acknowledged", got)
	}
	confirmed := confirm()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("the commit still waits")
	}
	if err := s.Confirm(confirmed-8, confirmed-8); err != nil {
		t.Error(err)
	}
	pgtest.Eventually(t, 5*time.Second, "flush stays, apply follows", func() bool {
		return stat("flush_lsn = write_lsn and flush_lsn >= '"+confirmed.String()+"' and replay_lsn = '"+(confirmed-8).String()+"'") == "true"
	})
	if err := s.Feedback(uint64(700), 0); err != nil {
		t.Error(err)
	}
	pgtest.Eventually(t, 5*time.Second, "xmin arrives", func() bool { return stat("backend_xmin") == "700" })
	if n := testing.AllocsPerRun(100, func() { s.Confirm(confirmed, 0); s.Confirm(confirmed, 1) }); n > 0 {
		t.Errorf("Confirm allocates %v times", n)
	}
}

func TestSource_FastShutdownWaitsForConfirm(t *testing.T) {
	c := cluster(t)
	c.Exec(t, "create table a(i int)")
	r := &recorder{}
	s := run(t, config(t, c), r)
	s.Confirm(s.Received(), s.Received())
	pgtest.Eventually(t, 5*time.Second, "streaming", func() bool {
		return c.Query(t, "select count(*) from pg_stat_replication where state = 'streaming'") == "1"
	})
	exited := c.Exited()
	if err := syscall.Kill(c.PID(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	// The shutdown checkpoint arrives and is not confirmed: no end.
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Wait without confirmation: %v", err)
	}
	select {
	case <-exited:
		t.Fatal("the server stopped although its shutdown checkpoint was not confirmed")
	default:
	}
	confirm := func(end pos.LSN) { s.Confirm(end, end) }
	r.mu.Lock()
	r.then = confirm
	r.mu.Unlock()
	confirm(s.Received())
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := s.Wait(ctx); !errors.Is(err, walsource.ErrEnded) {
		t.Errorf("Wait: %v", err)
	}
	select {
	case <-exited:
	case <-ctx.Done():
		t.Error("the server still runs")
	}
}

func TestOpen_Refuses(t *testing.T) {
	c := cluster(t, "fsync=off")
	good := config(t, c)
	for name, tt := range map[string]struct {
		change func(*walsource.Config)
		want   error
	}{
		"SystemID":   {func(c *walsource.Config) { c.SystemID++ }, walsource.ErrSystemID},
		"Timeline":   {func(c *walsource.Config) { c.Timeline = 2 }, walsource.ErrTimeline},
		"NoStart":    {func(c *walsource.Config) { c.Start = 0 }, nil},
		"StartAhead": {func(c *walsource.Config) { c.Start += 1 << 40 }, nil},
		"NoServer":   {func(c *walsource.Config) { c.ConnString += " port=1" }, nil},
	} {
		cfg := good
		tt.change(&cfg)
		s, err := walsource.Open(t.Context(), cfg)
		if err == nil {
			s.Close(t.Context())
			t.Errorf("%s: no error", name)
		} else if tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSource_RunEnds(t *testing.T) {
	c := cluster(t, "fsync=off")
	cfg := config(t, c)
	t.Run("SinkRefuses", func(t *testing.T) {
		s, err := walsource.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		full := errors.New("full")
		if err := s.Run(t.Context(), &recorder{start: cfg.Start, fail: full}); !errors.Is(err, full) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Run("ContextEnds", func(t *testing.T) {
		s, err := walsource.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		why := errors.New("role lost")
		ctx, cancel := context.WithCancelCause(t.Context())
		cancelOnData := &recorder{start: cfg.Start, then: func(pos.LSN) { cancel(why) }}
		if err := s.Run(ctx, cancelOnData); !errors.Is(err, why) {
			t.Errorf("Run: %v", err)
		}
		if err := s.Run(ctx, cancelOnData); err == nil {
			t.Error("a second Run is accepted")
		}
	})
	t.Run("ServerDies", func(t *testing.T) {
		s, err := walsource.Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(t.Context())
		crash := sync.OnceFunc(func() { syscall.Kill(c.PID(), syscall.SIGQUIT) })
		err = s.Run(t.Context(), &recorder{start: cfg.Start, then: func(pos.LSN) { crash() }})
		if err == nil || errors.Is(err, walsource.ErrEnded) {
			t.Errorf("Run: %v", err)
		}
	})
}
