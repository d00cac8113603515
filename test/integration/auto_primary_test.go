package integration_test

import (
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/test/cluster"
	"understudy/test/cluster/clients"
)

// TestAuto_PrimaryLost takes the primary away in the ways that only others can
// see. Nobody orders anything: another node becomes primary, and the lost one
// follows it when it is back.
func TestAuto_PrimaryLost(t *testing.T) {
	t.Parallel()
	g := acting(t)

	run(t, "LedgerLeaderFrozen", func(t *testing.T) {
		leader := leaderBeside(t, g)
		hiccup(t, g, func() {
			leader.Freeze(t)
			stays(t, g.Primary(t), epoch(t, g), 3*time.Second)
			leader.Thaw(t)
		})
	})

	run(t, "LedgerLeaderKilled", func(t *testing.T) {
		leader := leaderBeside(t, g)
		hiccup(t, g, func() {
			leader.Kill(t)
			stays(t, g.Primary(t), epoch(t, g), 2*time.Second)
			leader.Start(t)
		})
	})

	run(t, "EverythingKilled", func(t *testing.T) {
		lose(t, g, "begin-refused", func(p *cluster.Node) { p.KillEverything(t) }, func(p *cluster.Node) { p.Start(t) })
	})

	run(t, "DaemonKilled", func(t *testing.T) {
		lose(t, g, "begin-refused", func(p *cluster.Node) { p.Kill(t) }, func(p *cluster.Node) {
			gone(t, p, 2*time.Second)
			p.Start(t)
		})
	})

	run(t, "DaemonFrozen", func(t *testing.T) {
		lose(t, g, "begin-silent", func(p *cluster.Node) { p.Freeze(t) }, func(p *cluster.Node) {
			gone(t, p, 3*time.Second)
			p.Thaw(t)
		})
	})

	run(t, "StrictReads", func(t *testing.T) { strictReads(t, g) })
}

// lose takes the primary away under load and gives it back once another node
// has taken over.
func lose(t *testing.T, g *cluster.Group, rule string, away, back func(p *cluster.Node)) {
	t.Helper()
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, lost := epoch(t, g), time.Now()
	away(p)
	c := takenOver(t, s, before)
	pausedFor(t, w, lost, replacedWithin)
	byItself(t, c, p, s, rule)
	back(p)
	closed(t, g.WaitReturned(t, c.Epoch), "rewind")
	noneLost(t, g, w)
}

// leaderBeside waits until the ledger is led by a node that is not the primary,
// where it belongs.
func leaderBeside(t *testing.T, g *cluster.Group) *cluster.Node {
	t.Helper()
	st := g.WaitStatus(t, 30*time.Second, "a ledger that is not led by the primary", func(s cluster.Status) bool {
		return s.Healthy() && s.Group.LedgerLeader != "" && s.Group.LedgerLeader != s.Group.Primary
	})
	return g.Node(st.Group.LedgerLeader)
}

// hiccup disturbs what no commit needs: writers go on, and no epoch begins.
func hiccup(t *testing.T, g *cluster.Group, disturb func()) {
	t.Helper()
	before := epoch(t, g)
	w := g.MultiHostWriters(t, 4)
	began := time.Now()
	disturb()
	pausedFor(t, w, began, unnoticed)
	g.WaitHealthy(t)
	if e := epoch(t, g); e != before {
		t.Errorf("epoch %s, %s before", e, before)
	}
	noneLost(t, g, w)
}

// strictReads freezes the daemon of a primary whose server goes on answering
// readers: the next one opens when that has certainly ended.
func strictReads(t *testing.T, g *cluster.Group) {
	applyPolicy(t, g.Witness, "strict_reads: true\n")
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 2)
	p, s := primaryAndStandby(t, g)
	before := epoch(t, g)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	last := answers(ctx, p)

	p.Freeze(t)
	frozen := time.Now()
	c := takenOver(t, s, before)
	// What was under way when it was frozen may still come back.
	opened := firstCommit(t, w, frozen.Add(200*time.Millisecond))
	cancel()
	read := <-last
	t.Logf("the last answer came %s, the first commit %s after the freeze", read.Sub(frozen).Round(10*time.Millisecond), opened.Sub(frozen).Round(10*time.Millisecond))
	if !read.After(frozen) {
		t.Error("nobody could read from the primary whose daemon was frozen, so nothing was tested")
	}
	if read.After(opened) {
		t.Errorf("%s answered a reader %s after a commit on %s", p.Name, read.Sub(opened), s.Name)
	}
	byItself(t, c, p, s, "begin-silent")
	p.Thaw(t)
	g.WaitReturned(t, c.Epoch)
	noneLost(t, g, w)
	applyPolicy(t, g.Witness, "strict_reads: false\n")
}

// firstCommit is when the first commit came back that was sent after a moment.
func firstCommit(t *testing.T, w *clients.Clients, after time.Time) time.Time {
	t.Helper()
	var at time.Time
	cluster.Eventually(t, 20*time.Second, "a commit", func() (ok bool) {
		at, ok = w.FirstBegun(after)
		return ok
	})
	return at
}

// answers reads from a node until ctx ends, and then says when the last answer
// came.
func answers(ctx context.Context, n *cluster.Node) <-chan time.Time {
	out := make(chan time.Time, 1)
	go func() {
		var last time.Time
		var c *pgx.Conn
		for ctx.Err() == nil {
			look, cancel := context.WithTimeout(ctx, clients.Deadline)
			var err error
			if c == nil {
				c, err = n.Connect(look)
			}
			if err == nil {
				_, err = c.Exec(look, "select 1")
			}
			cancel()
			switch {
			case err == nil:
				last = time.Now()
			case c != nil:
				c.PgConn().Conn().Close()
				c = nil
			}
			select {
			case <-ctx.Done():
			case <-time.After(5 * time.Millisecond):
			}
		}
		if c != nil {
			c.PgConn().Conn().Close()
		}
		out <- last
	}()
	return out
}
