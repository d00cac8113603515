package integration_test

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/test/cluster"
)

// TestAuto_ServerLost breaks the primary's PostgreSQL below a daemon that lives,
// and finds it.
func TestAuto_ServerLost(t *testing.T) {
	t.Parallel()
	// No checkpoint comes unless a test asks for one.
	g := acting(t, cluster.WithParameter("checkpoint_timeout", "1h"), cluster.WithParameter("max_wal_size", "4GB"),
		cluster.WithParameter("max_connections", "25"))

	run(t, "OpensInPlace", func(t *testing.T) { opensInPlace(t, g) })
	run(t, "NoConnectionLeft", func(t *testing.T) { noConnectionLeft(t, g) })
	run(t, "ServerFrozen", func(t *testing.T) { serverFrozen(t, g) })
	run(t, "MuchToReplay", func(t *testing.T) { muchToReplay(t, g) })
}

// serverFrozen stops every process of the primary's PostgreSQL. Its port is
// still open.
func serverFrozen(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, server, frozen := epoch(t, g), p.PostgresPID(), time.Now()
	freeze(t, p)
	c := takenOver(t, s, before)
	pausedFor(t, w, frozen, replacedWithin)
	byItself(t, c, p, s, "begin-failing")
	if !strings.Contains(c.Cause, "cannot serve") {
		t.Errorf("cause %q", c.Cause)
	}
	cluster.Eventually(t, 10*time.Second, "the end of the frozen server", func() bool { return p.PostgresPID() != server })
	closed(t, g.WaitReturned(t, c.Epoch), "rewind")
	noneLost(t, g, w)
}

// freeze stops the processes of a node's PostgreSQL, the one first that makes
// others.
func freeze(t *testing.T, n *cluster.Node) {
	t.Helper()
	postmaster := n.Processes(cluster.Postmaster)
	stop := func(pids []int) {
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
				t.Fatalf("stop process %d of %s: %v", pid, n.Name, err)
			}
		}
	}
	stop(postmaster)
	spared := slices.Concat(postmaster, n.Processes(cluster.Daemon), n.Processes(cluster.Guard))
	stop(slices.DeleteFunc(n.Processes(cluster.Host), func(pid int) bool { return slices.Contains(spared, pid) }))
}

// noConnectionLeft has clients take every connection, the reserved ones too.
// That is no failure of the server's: it serves those who are in.
func noConnectionLeft(t *testing.T, g *cluster.Group) {
	applyPolicy(t, g.Witness, "stall_timeout: 1s\n")
	g.WaitHealthy(t)
	p := g.Primary(t)
	p.Exec(t, "create table if not exists held (a int)")
	before := epoch(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var taken []*pgx.Conn
	defer func() {
		for _, c := range taken {
			c.Close(context.WithoutCancel(ctx))
		}
	}()
	full := 0
	// What the daemon has is ended as well, so that it finds none either.
	const others = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'understudy' and backend_type = 'client backend'"
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); {
		c, err := p.Connect(ctx)
		var pgErr *pgconn.PgError
		switch {
		case err == nil:
			taken = append(taken, c)
			continue
		case !errors.As(err, &pgErr) || pgErr.Code != "53300":
			t.Fatal(err)
		}
		full++
		for _, sql := range []string{"insert into held values (1)", others} {
			if _, err := taken[0].Exec(ctx, sql); err != nil {
				t.Fatalf("%s, for a client that is connected: %v", sql, err)
			}
		}
	}
	t.Logf("%d clients were let in, %d found no connection left", len(taken), full)
	complaint(t, g, p.Name, "all connections")
	if now := g.Primary(t); now != p || epoch(t, g) != before {
		t.Errorf("%s is primary in %s, %s before in %s", now.Name, epoch(t, g), p.Name, before)
	}
	for _, c := range taken {
		c.Close(ctx)
	}
	taken = nil
	noComplaint(t, g, p.Name)
	g.WaitHealthy(t)
	applyPolicy(t, g.Witness, "stall_timeout: 5s\n")
}

// TestAuto_DiskFull fills the disk of the primary's database. Another node takes
// over, and the one without room is nobody's successor until it has some.
func TestAuto_DiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a full disk is made by mounting file systems, which needs root")
	}
	t.Parallel()
	g := acting(t, cluster.WithDisks())
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, full := epoch(t, g), time.Now()
	p.Fill(t, cluster.DataDisk)
	c := takenOver(t, s, before)
	pausedFor(t, w, full, replacedWithin)
	if c.Kind == "switchover" || c.From != p.Name || !strings.HasPrefix(c.Proof.Sentence, "Nothing acknowledged was lost") {
		t.Errorf("change %s", c)
	}
	t.Logf("cause: %s", c.Cause)
	complaint(t, g, p.Name, "disk")

	// Lost as well, the successor has none itself.
	s.KillEverything(t)
	g.WaitStatus(t, 20*time.Second, "the word that nobody can take over", func(st cluster.Status) bool {
		return strings.Contains(standing(st, "no-successor"), p.Name+" ")
	})
	stays(t, g.Witness, c.Epoch, time.Second)
	s.Start(t)
	again := takenOver(t, s, c.Epoch)
	goOn(t, w)
	g.WaitStatus(t, 20*time.Second, "the end of the incident", func(st cluster.Status) bool { return standing(st, "no-successor") == "" })
	if again.To != s.Name {
		t.Errorf("change %s", again)
	}

	p.Free(t, cluster.DataDisk)
	g.WaitHealthy(t)
	cluster.Eventually(t, 20*time.Second, p.Name+" answering readers", p.Answers)
	noneLost(t, g, w)
}

// muchToReplay ends the server of a primary that would be long at its recovery,
// where another node has replayed everything.
func muchToReplay(t *testing.T, g *cluster.Group) {
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	p.Exec(t, "create table much as select g, repeat(md5(g::text), 60) from generate_series(1, 30000) g") // about 60 MB
	end := lsn(t, p, "pg_current_wal_flush_lsn()")
	g.WaitStatus(t, 20*time.Second, "the word that "+s.Name+" has replayed it", func(st cluster.Status) bool { return st.Of(s.Name).Applied >= end })
	before, killed := epoch(t, g), time.Now()
	p.KillPostgres(t)
	c := takenOver(t, s, before)
	pausedFor(t, w, killed, replacedWithin)
	if c.From != p.Name || c.Proof == nil || !strings.HasPrefix(c.Proof.Sentence, "Nothing acknowledged was lost") {
		t.Errorf("change %s", c)
	}
	if out := s.MustRun(t, "explain"); !strings.Contains(out, p.Name) || !strings.Contains(out, "would have to replay") {
		t.Errorf("the election is explained without what %s would have to replay:\n%s", p.Name, out)
	}
	closed(t, g.WaitReturned(t, c.Epoch), "rewind")
	noneLost(t, g, w)
}

// opensInPlace ends the server of a primary that has little to replay: it needs
// no promotion.
func opensInPlace(t *testing.T, g *cluster.Group) {
	w := g.MultiHostWriters(t, 4)
	p, _ := primaryAndStandby(t, g)
	p.Exec(t, "checkpoint")
	before, killed := epoch(t, g), time.Now()
	p.KillPostgres(t)
	c := takenOver(t, p, before)
	pausedFor(t, w, killed, replacedWithin)
	if c.Kind != "restart" || c.From != p.Name || c.Proof == nil || !strings.HasPrefix(c.Proof.Sentence, "Nothing acknowledged was lost") {
		t.Errorf("change %s", c)
	}
	g.WaitHealthy(t)
	noneLost(t, g, w)
}
