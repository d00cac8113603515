package integration_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/test/pgtest"
)

// The tests of this file are of PostgreSQL alone: what the protocol relies on,
// and what it had to be built around.

func scratch(t *testing.T, settings ...string) *pgtest.Cluster {
	t.Helper()
	return pgtest.New(t, append([]string{"fsync=off", "shared_buffers=16MB", "max_connections=20", "autovacuum=off"}, settings...)...)
}

// standbyOf makes a copy of a server, which recovers for ever with what is in
// its own pg_wal.
func standbyOf(t *testing.T, p *pgtest.Cluster, extra ...string) *pgtest.Cluster {
	t.Helper()
	s := pgtest.Init(t)
	if err := os.RemoveAll(s.Data); err != nil {
		t.Fatal(err)
	}
	p.Tool(t, "pg_basebackup", "-D", s.Data, "-c", "fast", "-X", "stream", "--no-sync", "--no-manifest")
	s.AppendConf(t, "wal_retrieve_retry_interval = 50ms\n"+strings.Join(extra, "\n"))
	put(t, filepath.Join(s.Data, "standby.signal"), "")
	return s
}

// put writes a file of the database account.
func put(t *testing.T, path, text string) {
	t.Helper()
	// It appears with its owner: a server that looks at one that is not its own
	// ends.
	temp := filepath.Join(filepath.Dir(path), "understudy.tmp")
	if err := os.WriteFile(temp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, temp)
	if err := os.Rename(temp, path); err != nil {
		t.Fatal(err)
	}
}

func history(s *pgtest.Cluster, tli int) string {
	return filepath.Join(s.Data, "pg_wal", fmt.Sprintf("%08X.history", tli))
}

// promote promotes a standby and names its new timeline. Until the first
// checkpoint on it only the history tells.
func promote(t *testing.T, s *pgtest.Cluster) string {
	t.Helper()
	if got := s.Query(t, "select pg_promote(true, 20)"); got != "t" {
		t.Fatalf("pg_promote: %s\n%s", got, s.Log())
	}
	return s.Query(t, "select ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int")
}

// Waiting for a standby fences synchronous commits only: with the receiver gone
// a local one returns, and its row is read by everybody; and whoever ends the
// wait of another makes that commit visible. So acknowledgement alone is no
// fence.
func TestPostgres_LocalCommitsNeedNobody(t *testing.T) {
	t.Parallel()
	s := scratch(t, `synchronous_standby_names=FIRST 1 ("nobody")`)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := s.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	if _, err := c.Exec(ctx, "set synchronous_commit = local; create table a (i int); insert into a values (1)"); err != nil {
		t.Fatalf("a local commit: %v", err)
	}
	waiting := make(chan error, 1)
	go func() {
		w, err := s.Connect(ctx)
		if err == nil {
			defer w.Close(context.WithoutCancel(ctx))
			_, err = w.Exec(ctx, "insert into a values (2)")
		}
		waiting <- err
	}()
	pgtest.Eventually(t, 10*time.Second, "a commit that waits", func() bool {
		return s.Query(t, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == "1"
	})
	if n := s.Query(t, "select count(*) from a"); n != "1" {
		t.Errorf("%s rows are seen while one commit waits, want 1", n)
	}
	select {
	case err := <-waiting:
		t.Errorf("a commit returned with nobody to acknowledge it: %v", err)
	default:
	}
	// What ends the wait is not an acknowledgement, and makes it visible.
	s.Exec(t, "select pg_cancel_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'")
	if err := <-waiting; err != nil {
		t.Errorf("a cancelled wait: %v; PostgreSQL says with a warning that it is committed here", err)
	}
	if n := s.Query(t, "select count(*) from a"); n != "2" {
		t.Errorf("%s rows after the wait was cancelled, want 2", n)
	}
}

// A crash makes a waiting commit visible with nobody asked: the server must not
// open by itself after one.
func TestPostgres_ACrashShowsWhatWaited(t *testing.T) {
	t.Parallel()
	s := scratch(t, `synchronous_standby_names=FIRST 1 ("nobody")`)
	s.Exec(t, "set synchronous_commit = local; create table a (i int)")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := s.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	go c.Exec(ctx, "insert into a values (1)")
	pgtest.Eventually(t, 10*time.Second, "a commit that waits", func() bool {
		return s.Query(t, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'") == "1"
	})
	s.Crash()
	s.Start(t)
	if n := s.Query(t, "select count(*) from a"); n != "1" {
		t.Errorf("%s rows after the crash: PostgreSQL would no longer show what nobody acknowledged", n)
	}
}

// The next timeline's id is the first without a history file, and what is in
// the file matters only when it names a parent.
func TestPostgres_PlaceholderHistories(t *testing.T) {
	t.Parallel()
	p := scratch(t)
	p.Exec(t, "create table a (i int)")

	t.Run("EmptyBurnsTheID", func(t *testing.T) {
		s := standbyOf(t, p)
		s.Start(t)
		put(t, history(s, 2), "")
		put(t, history(s, 3), "")
		if got := promote(t, s); got != "4" {
			t.Errorf("promoted to timeline %s, want 4", got)
		}
		b, err := os.ReadFile(history(s, 4))
		if err != nil || !strings.HasPrefix(string(b), "1\t") || strings.Count(strings.TrimSpace(string(b)), "\n") != 0 {
			t.Errorf("the history of timeline 4 is %q, %v; want one line that names timeline 1", b, err)
		}
	})
	t.Run("AParentBecomesAnAncestor", func(t *testing.T) {
		// In place before the standby starts, it is the newest timeline to follow.
		s := standbyOf(t, p)
		put(t, history(s, 2), "1\t0/9000000\tplaceholder\n")
		s.Start(t)
		s.Exec(t, "select 1")
		if got := promote(t, s); got != "3" {
			t.Errorf("promoted to timeline %s, want 3", got)
		}
		b, err := os.ReadFile(history(s, 3))
		if err != nil || !strings.Contains(string(b), "placeholder") {
			t.Errorf("the history of timeline 3 is %q, %v; want the placeholder's line in it", b, err)
		}
	})
}

// A standby whose upstream goes to another timeline follows without a restart,
// also over ids that were used up, when their histories are empty files.
func TestPostgres_ReceiverFollowsOverBurnedIDs(t *testing.T) {
	t.Parallel()
	p := scratch(t)
	p.Exec(t, "create table a (i int); insert into a values (1)")
	b := standbyOf(t, p, conninfo(p))
	b.Start(t)
	f := standbyOf(t, p, conninfo(b))
	f.Start(t)
	pid := f.PID()
	// The end of the first timeline is the same for all three.
	end := p.Query(t, "select pg_current_wal_flush_lsn()")
	for _, s := range []*pgtest.Cluster{b, f} {
		pgtest.Eventually(t, 10*time.Second, "replay of "+end, func() bool {
			return s.Query(t, "select coalesce(pg_last_wal_replay_lsn() >= '"+end+"', false)") == "t"
		})
	}
	p.Stop(syscall.SIGINT)
	put(t, history(b, 2), "")
	if got := promote(t, b); got != "3" {
		t.Fatalf("promoted to timeline %s, want 3", got)
	}
	b.Exec(t, "insert into a values (2)")
	pgtest.Eventually(t, 20*time.Second, "the follower on timeline 3", func() bool {
		return f.Query(t, "select count(*) from a") == "2" && f.Query(t, "select coalesce(max(received_tli), 0) from pg_stat_wal_receiver") == "3"
	})
	if f.PID() != pid {
		t.Error("the follower was started anew")
	}
	if fi, err := os.Stat(history(f, 2)); err == nil && fi.Size() > 0 {
		t.Errorf("the follower has a history of %d bytes for an id that was never written on", fi.Size())
	}
}

func conninfo(p *pgtest.Cluster) string {
	return fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres'", p.Socket, p.Port)
}

// A server that stops in the regular way waits until its log's end was confirmed
// by whoever streams it: without an end, if nobody confirms.
func TestPostgres_FastStopWaitsForTheReceiver(t *testing.T) {
	t.Parallel()
	p := scratch(t, "wal_sender_timeout=0")
	s := standbyOf(t, p, conninfo(p))
	s.Start(t)
	pgtest.Eventually(t, 10*time.Second, "the stream", func() bool {
		return p.Query(t, "select count(*) from pg_stat_replication where state = 'streaming'") == "1"
	})
	receiver := s.Query(t, "select pid from pg_stat_wal_receiver")
	pid := atoi(t, receiver)
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer syscall.Kill(pid, syscall.SIGCONT)
	exited := p.Exited()
	if err := syscall.Kill(p.PID(), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exited:
		t.Error("the server ended although nobody had confirmed its last record")
	case <-time.After(1500 * time.Millisecond): // the absence of an end has no event
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	select {
	case <-exited:
	case <-time.After(20 * time.Second):
		t.Error("the server does not end after its last record was confirmed")
	}
}
