package pgctl_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/test/pgtest"
)

func TestServer_Promotion(t *testing.T) {
	p, gp := founded(t)
	s := standbyOf(t, p)
	start(t, s, following(p))
	do(t, p, "create table t (n int)", "insert into t values (1)")
	caughtUp(t, p, s)
	testPrepare(t, s)
	before, err := s.Facts(context30(t))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := s.Replayed(context30(t)); err != nil || at != before.Replay {
		t.Errorf("replayed %s, %v, want %s", at, err, before.Replay)
	}
	if err := s.BurnTimelines(1, 7); err != nil {
		t.Fatal(err)
	}
	var first pgctl.Promotion
	for i := range 2 { // promoted already, it just reports
		began := time.Now()
		got, err := s.Promote(context30(t))
		if err != nil || got.Timeline != 7 || got.Fork != before.Replay || i > 0 && got != first {
			t.Fatalf("promotion %d: %+v, %v, want timeline 7 from %s", i, got, err, before.Replay)
		}
		t.Logf("promote %d: %s", i, time.Since(began))
		first = got
	}
	lines, err := pgctl.ParseHistory([]byte(histories(t, s)["00000007"]))
	if err != nil || len(lines) != 1 || lines[0].Timeline != 1 || lines[0].End != first.Fork {
		t.Errorf("history %+v, %v", lines, err)
	}
	if n := len(histories(t, s)); n != 6 { // 7 and the burned ones
		t.Errorf("%d histories", n)
	}
	if at, err := s.Replayed(context30(t)); err == nil {
		t.Errorf("a primary says that it replayed %s", at)
	}
	if err := client(t, s); err == nil {
		t.Error("a client is let in after the promotion")
	}
	testRewindRole(t, s)
	if got, err := p.Promote(context30(t)); err != nil || got != (pgctl.Promotion{Timeline: 1}) {
		t.Errorf("a primary that never was a standby: %+v, %v", got, err)
	}
	if n, err := p.Sessions(context30(t)); err != nil || n != 0 {
		t.Errorf("only our own sessions: %d, %v", n, err)
	}
	stop(t, gp, guard.Immediate)
	testIdlePrimary(t, p, s)
}

// testIdlePrimary rewinds a crashed server that has not a byte of its own: its
// log ends where the new timeline begins.
func testIdlePrimary(t *testing.T, p, s *pgctl.Server) {
	t.Helper()
	do(t, s, "checkpoint")
	if err := p.Unpermit(); err != nil {
		t.Fatal(err)
	}
	if err := p.Rewind(context30(t), pgctl.RewindSpec{SourceSocketDir: s.SocketDir, SourcePort: s.Port}); err != nil {
		t.Fatal(err)
	}
	if err := p.ClearMark(); err != nil {
		t.Fatal(err)
	}
	start(t, p, following(s))
	caughtUp(t, s, p)
}

// testPrepare locks a standby with a reader, with our own session and with a
// connection that has said nothing yet.
func testPrepare(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	if err := s.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	own, err := s.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close(ctx)
	testTerminate(t, s)
	reader := tcp(t, s)
	silent, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	began := time.Now()
	if err := s.PreparePromotion(ctx, "understudy_1_2", false); err != nil {
		t.Fatal(err)
	}
	t.Logf("prepare with a reader and a silent connection: %s", time.Since(began))
	if _, err := reader.Exec(ctx, "select 1"); err == nil {
		t.Error("the reader's session goes on")
	}
	silent.SetReadDeadline(time.Now().Add(5 * time.Second))
	var timeout net.Error
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
		t.Errorf("a connection from before the lock may still log in: %v", err)
	}
	if err := client(t, s); err == nil {
		t.Error("a new client is let in")
	}
	if _, err := own.Exec(ctx, "select 1"); err != nil {
		t.Errorf("our own session: %v", err)
	}
	for range 3 {
		began = time.Now()
		if err := s.PreparePromotion(ctx, "understudy_1_2", false); err != nil {
			t.Fatalf("again: %v", err)
		}
		t.Logf("prepare again: %s", time.Since(began))
	}
	for name, want := range map[string]string{"synchronous_standby_names": `FIRST 1 ("understudy_1_2")`, "primary_conninfo": "", "restore_command": "", "primary_slot_name": ""} {
		if got := query(t, s, "show "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	testPrepareRefuses(t, s)
	testPrepareWaits(t, s)
}

// testPrepareWaits holds the postmaster back while the kept session has still
// to take an earlier reload over: what that session shows then is read from the
// new files and says nothing of the postmaster.
func testPrepareWaits(t *testing.T, s *pgctl.Server) {
	t.Helper()
	if _, err := s.Sessions(context30(t)); err != nil { // leaves its session behind
		t.Fatal(err)
	}
	const loadTime = "select pg_conf_load_time()::text"
	loaded := query(t, s, loadTime)
	do(t, s, "select pg_reload_conf()")
	pgtest.Eventually(t, 5*time.Second, "an earlier reload", func() bool { return query(t, s, loadTime) != loaded })
	pid, err := strconv.Atoi(strings.Fields(read(t, filepath.Join(s.DataDir, "postmaster.pid")))[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	err = s.PreparePromotion(ctx, "understudy_1_2", false)
	if cerr := syscall.Kill(pid, syscall.SIGCONT); cerr != nil {
		t.Fatal(cerr)
	}
	if !errors.Is(err, pgctl.ErrNotReloaded) {
		t.Errorf("with a postmaster that has read nothing: %v", err)
	}
	if err := s.PreparePromotion(context30(t), "understudy_1_2", false); err != nil {
		t.Errorf("once it goes on: %v", err)
	}
}

func testPrepareRefuses(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	if err := s.PreparePromotion(ctx, "", false); err == nil {
		t.Error("a quorum without a name")
	}
	do(t, s, "alter system set synchronous_standby_names = 'x'")
	if err := s.PreparePromotion(ctx, "understudy_1_2", false); !errors.Is(err, pgctl.ErrForeignSetting) {
		t.Errorf("foreign name: %v", err)
	}
	do(t, s, "alter system reset all")
	if err := s.PreparePromotion(ctx, "", true); err != nil || query(t, s, "show synchronous_standby_names") != "" {
		t.Errorf("nobody to wait for: %v", err)
	}
	if err := s.PreparePromotion(ctx, "understudy_1_2", false); err != nil {
		t.Error(err)
	}
	other := elsewhere(s)
	other.DataDir += "-none"
	if err := other.PreparePromotion(ctx, "understudy_1_2", false); !errors.Is(err, pgctl.ErrNotReloaded) {
		t.Errorf("no server: %v", err)
	}
}

func testTerminate(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	one, two := tcp(t, s), tcp(t, s)
	if n, err := s.Sessions(ctx); err != nil || n != 2 {
		t.Errorf("sessions: %d, %v", n, err)
	}
	if n, err := s.TerminateSessions(ctx); err != nil || n != 2 {
		t.Errorf("ended: %d, %v", n, err)
	}
	if one.Ping(ctx) == nil || two.Ping(ctx) == nil {
		t.Error("an ended session answers")
	}
	if n, err := s.TerminateSessions(ctx); err != nil || n != 0 {
		t.Errorf("ended again: %d, %v", n, err)
	}
}

// testRewindRole makes the role on a server whose commits wait for somebody who
// is not there.
func testRewindRole(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	const xmax = "select pg_snapshot_xmax(pg_current_snapshot())::text"
	for i, spoil := range []string{"", "select 1", "alter role understudy_rewind superuser", "revoke execute on function pg_stat_file(text, boolean) from understudy_rewind"} {
		if spoil != "" {
			do(t, s, "set synchronous_commit = local", spoil)
		}
		before := query(t, s, xmax)
		if err := s.EnsureRewindRole(ctx); err != nil {
			t.Fatal(err)
		}
		if wrote := query(t, s, xmax) != before; wrote != (i != 1) {
			t.Errorf("after %q: wrote %v", spoil, wrote)
		}
		if got := query(t, s, `select rolsuper::text || has_function_privilege(oid, 'pg_stat_file(text, boolean)', 'execute')::text
 from pg_roles where rolname = 'understudy_rewind'`); got != "falsetrue" {
			t.Errorf("after %q: %s", spoil, got)
		}
	}
	testRewindLogin(t, s)
}
