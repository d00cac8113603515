package clients_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/test/cluster/clients"
	"understudy/test/pgtest"
)

func host(c *pgtest.Cluster) string { return fmt.Sprintf("127.0.0.1:%d", c.Port) }

func server(t *testing.T) *pgtest.Cluster {
	t.Helper()
	return pgtest.New(t, "fsync=off", "shared_buffers=16MB", "max_connections=20", "autovacuum=off")
}

func start(t *testing.T, hosts ...string) *clients.Clients {
	t.Helper()
	c, err := clients.Start(t.Context(), clients.Config{Hosts: hosts, Writers: 4, Think: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	return c
}

func connect(t *testing.T, s *pgtest.Cluster) *pgx.Conn {
	t.Helper()
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// waitBegun waits for a commit that was begun after at.
func waitBegun(t *testing.T, c *clients.Clients, at time.Time) (first time.Time) {
	t.Helper()
	pgtest.Eventually(t, 10*time.Second, "a commit", func() bool {
		var ok bool
		first, ok = c.FirstBegun(at)
		return ok
	})
	return first
}

// A lock that outlasts the deadline of a statement is an outage of its length,
// and one that is over later is not counted in.
func TestClients_PlantedGap(t *testing.T) {
	s := server(t)
	c := start(t, host(s))
	conn := connect(t, s)
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "lock table outage_acked in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	locked := time.Now()
	pgtest.Eventually(t, 10*time.Second, "two statements given up by every writer", func() bool { n, _ := c.Failures(); return n >= 8 })
	running := c.Outage(locked)
	unlocked := time.Now()
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := waitBegun(t, c, unlocked)
	later := time.Now()
	held, got := unlocked.Sub(locked), c.Outage(locked)
	if held < 2*clients.Deadline {
		t.Errorf("two statements were given up after %s", held)
	}
	// A commit whose statement waited for the lock may be acknowledged at once.
	if got < held || got > later.Sub(locked)+clients.Deadline {
		t.Errorf("outage %s; the lock was held for %s, the first commit after it came after %s", got, held, first.Sub(locked))
	}
	if running < held-100*time.Millisecond || running > held+100*time.Millisecond {
		t.Errorf("outage %s while it ran, after %s of the lock", running, held)
	}
	if slow := c.SlowestWriter(locked, later); slow < got {
		t.Errorf("the slowest writer waited %s, all of them %s", slow, got)
	}
	waitBegun(t, c, later)
	if o := c.Outage(later); o >= held {
		t.Errorf("an outage that was over is counted: %s", o)
	}
	c.Stop()
	v, err := c.Check(t.Context(), conn)
	if err != nil || v.Err() != nil || v.Acked != c.Acked() || v.Unknown < 8 {
		t.Errorf("got %+v, %v", v, err)
	}
}

// The writers find the host that takes writes, and a restart is as long an
// outage as the server was away.
func TestClients_RestartBehindADeadHost(t *testing.T) {
	s := server(t)
	c := start(t, fmt.Sprintf("127.0.0.1:%d", pgtest.FreePort(t)), host(s))
	down := time.Now()
	s.Stop(syscall.SIGQUIT)
	pgtest.Eventually(t, 5*time.Second, "the writers notice", func() bool { n, _ := c.Failures(); return n >= 4 })
	stopped := time.Now()
	s.Start(t)
	up := time.Now()
	waitBegun(t, c, stopped)
	// From here on every connect finds it within one round over the hosts.
	got := c.Outage(down)
	if got < stopped.Sub(down)/2 || got > up.Sub(down)+2*clients.Deadline {
		t.Errorf("outage %s of a server that was away for %s", got, up.Sub(down))
	}
	c.Stop()
	v, err := c.Check(t.Context(), connect(t, s))
	if err != nil || v.Err() != nil {
		t.Errorf("got %+v, %v", v, err)
	}
}

func TestClients_PlantedRows(t *testing.T) {
	s := server(t)
	c := start(t, host(s))
	conn := connect(t, s)
	if _, err := c.Check(t.Context(), conn); !errors.Is(err, clients.ErrRunning) {
		t.Errorf("running writers are judged: %v", err)
	}
	c.Stop()
	ended := time.Now()
	s.Exec(t, "delete from outage_acked where (writer, seq) = (2, 0); insert into outage_acked values (1, 0), (0, 1000000000)")
	v, err := c.Check(t.Context(), conn)
	if err != nil || v.Err() == nil || !slices.Equal(v.Missing, []clients.Row{{Writer: 2}}) ||
		!slices.Equal(v.Duplicates, []clients.Row{{Writer: 1}}) || !slices.Equal(v.Foreign, []clients.Row{{Seq: 1000000000}}) {
		t.Errorf("got %+v, %v", v, err)
	}
	if m, err := c.Missing(t.Context(), conn); err != nil || len(m) != 1 {
		t.Errorf("got %v, %v", m, err)
	}
	if d, err := c.Duplicates(t.Context(), conn); err != nil || len(d) != 1 {
		t.Errorf("got %v, %v", d, err)
	}
	// Time after the stop is no outage.
	if o := c.OutageBetween(ended.Add(-time.Second), ended.Add(time.Hour)); o > 10*time.Second {
		t.Errorf("outage %s after the stop", o)
	}
}

func TestStart_NobodyTakesWrites(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	_, err := clients.Start(ctx, clients.Config{Hosts: []string{fmt.Sprintf("127.0.0.1:%d", pgtest.FreePort(t))}, Writers: 1})
	if err == nil {
		t.Error("writers of nowhere were started")
	}
}

func TestClients_Digests(t *testing.T) {
	s := server(t)
	standby := pgtest.Init(t)
	if err := os.RemoveAll(standby.Data); err != nil {
		t.Fatal(err)
	}
	s.Tool(t, "pg_basebackup", "-D", standby.Data, "-X", "stream", "-R", "-c", "fast")
	standby.Start(t)
	c := start(t, host(standby), host(s)) // the first host refuses writes
	s.Exec(t, "create table \"Odd name\" (t text); insert into \"Odd name\" values ('x'), (null); create unlogged table not_there (i int)")
	c.Stop()
	d, err := c.Digests(t.Context())
	if err != nil || d.Err() != nil || len(d.Primary) != 2 || d.Primary[0].Name != `public."Odd name"` || d.Primary[1].Rows < int64(c.Acked()) {
		t.Errorf("got %+v, %v, %v", d, err, d.Err())
	}
	standby.Exec(t, "select pg_promote()")
	if _, err := c.Digests(t.Context()); err == nil {
		t.Error("two primaries are compared")
	}
}
