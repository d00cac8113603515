package integration_test

import (
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestPrimary_DaemonRestarts: the daemon is not the database. A restart that
// is announced or quick costs clients a pause, not their connections, and the
// primary its role neither. One that takes long may cost the role, since the
// group does not wait for a node that can take over.
func TestPrimary_DaemonRestarts(t *testing.T) {
	t.Parallel()
	g := healthy(t)

	for _, c := range []struct {
		name string
		end  func(*cluster.Node, testing.TB)
	}{
		{"Announced", (*cluster.Node).Term},
		{"KilledAndBackAtOnce", (*cluster.Node).Kill},
	} {
		run(t, c.name, func(t *testing.T) {
			g.WaitHealthy(t)
			p := g.Primary(t)
			before, pid := epoch(t, g), p.PostgresPID()
			w := g.Writers(t, 4)
			w.WaitMore(t, 20, 10*time.Second)
			failed, _ := w.Failures()
			ended := time.Now()
			c.end(p, t)
			p.Start(t)
			w.WaitMore(t, 100, 20*time.Second)
			t.Logf("commits paused for %s", w.LongestGap(ended).Round(10*time.Millisecond))
			if now := p.PostgresPID(); now != pid {
				t.Errorf("postmaster %d, %d before the restart", now, pid)
			}
			if now, err := w.Failures(); now != failed {
				t.Errorf("%d commits failed over a restart of the daemon: %v", now-failed, err)
			}
			g.WaitHealthy(t)
			if e := epoch(t, g); e != before {
				t.Errorf("epoch %s, %s before the restart", e, before)
			}
			w.CheckNoneLost(t)
		})
	}

	run(t, "AnnouncedAndLate", func(t *testing.T) {
		// Longer than the lease of a daemon that is gone, within the grace of
		// one that announced its restart.
		g.WaitHealthy(t)
		p := g.Primary(t)
		before, pid := epoch(t, g), p.PostgresPID()
		w := g.Writers(t, 2)
		failed, _ := w.Failures()
		p.Term(t)
		waits(t, w, 3*time.Second)
		p.Start(t)
		w.WaitMore(t, 50, 20*time.Second)
		if now := p.PostgresPID(); now != pid {
			t.Errorf("postmaster %d, %d before the restart", now, pid)
		}
		if now, err := w.Failures(); now != failed {
			t.Errorf("%d commits failed over a restart of the daemon: %v", now-failed, err)
		}
		g.WaitHealthy(t)
		if e := epoch(t, g); e != before {
			t.Errorf("epoch %s, %s before the restart", e, before)
		}
		w.CheckNoneLost(t)
	})

	run(t, "KilledAndLate", func(t *testing.T) {
		g.WaitHealthy(t)
		before, p := epoch(t, g), g.Primary(t)
		w := g.Writers(t, 4)
		killed := time.Now()
		p.Kill(t)
		gone(t, p, 1500*time.Millisecond)
		for time.Since(killed) < 3*time.Second {
			if p.PortOpen() {
				t.Fatal("a lost primary answers again without its daemon")
			}
			time.Sleep(50 * time.Millisecond)
		}
		p.Start(t)
		reopened(t, g, before)
		w.WaitMore(t, 50, 20*time.Second)
		w.CheckNoneLost(t)
	})
}

// TestPrimary_Crashes: whatever kills the primary's server, the group opens one
// again in a new epoch by itself, and nothing acknowledged is lost. It is the
// same node's, unless that takes too long; then the other one's.
func TestPrimary_Crashes(t *testing.T) {
	t.Parallel()
	g := healthy(t)

	run(t, "Postmaster", func(t *testing.T) {
		g.WaitHealthy(t)
		p, s := primaryAndStandby(t, g)
		before, standby := epoch(t, g), s.PostgresPID()
		w := g.Writers(t, 4)
		w.WaitMore(t, 50, 10*time.Second)
		killed := time.Now()
		p.KillPostgres(t)
		reopened(t, g, before)
		w.WaitMore(t, 50, 20*time.Second)
		t.Logf("commits paused for %s", w.LongestGap(killed).Round(10*time.Millisecond))
		// Neither a new epoch on the same timeline nor a promotion needs a restart.
		if pid := s.PostgresPID(); pid != standby {
			t.Errorf("the postmaster of %s, which was standby, is %d, %d before", s.Name, pid, standby)
		}
		w.CheckNoneLost(t)
	})

	run(t, "Backend", func(t *testing.T) {
		// A crashed backend would make PostgreSQL restart itself and open with
		// commits visible that nobody acknowledged.
		g.WaitHealthy(t)
		before := epoch(t, g)
		w := g.Writers(t, 4)
		w.WaitMore(t, 20, 10*time.Second)
		killBackend(t, g.Primary(t))
		reopened(t, g, before)
		w.WaitMore(t, 50, 20*time.Second)
		w.CheckNoneLost(t)
	})

	run(t, "Machine", func(t *testing.T) {
		g.WaitHealthy(t)
		before, p := epoch(t, g), g.Primary(t)
		w := g.Writers(t, 4)
		w.WaitMore(t, 50, 10*time.Second)
		p.KillEverything(t)
		p.Start(t)
		reopened(t, g, before)
		w.WaitMore(t, 50, 20*time.Second)
		w.CheckNoneLost(t)
	})

	run(t, "Guard", func(t *testing.T) {
		// Without its guard a server has no lease; it must not outlive it.
		g.WaitHealthy(t)
		before, p := epoch(t, g), g.Primary(t)
		w := g.Writers(t, 4)
		w.WaitMore(t, 20, 10*time.Second)
		pid, guard := p.PostgresPID(), p.GuardPID()
		if guard == 0 {
			t.Fatalf("PostgreSQL of %s runs without a guard", p.Name)
		}
		cluster.Kill(t, guard)
		cluster.Eventually(t, 2*time.Second, "the end of the unguarded postmaster", func() bool { return p.PostgresPID() != pid })
		reopened(t, g, before)
		w.WaitMore(t, 50, 20*time.Second)
		w.CheckNoneLost(t)
	})
}

// killBackend kills one server process of an ordinary client.
func killBackend(t *testing.T, n *cluster.Node) {
	t.Helper()
	pid := n.Query(t, "select pid from pg_stat_activity where backend_type = 'client backend' and query like 'insert into acked%' limit 1")
	cluster.Kill(t, atoi(t, pid))
}

// TestPrimary_Isolated: a primary that hears no majority is stopped by its
// guard when its lease ends. With the majority a primary comes back, this one or,
// when it is late, the other.
func TestPrimary_Isolated(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	before := epoch(t, g)
	w := g.Writers(t, 4)
	g.Backup.Freeze(t)
	g.Witness.Freeze(t)
	frozen := time.Now()
	gone(t, g.Main, 3*time.Second)
	if d := time.Since(frozen); d < time.Second {
		t.Errorf("PostgreSQL ended %s after the last contact: a short pause of the network must not cost the primary", d)
	}
	waits(t, w, 500*time.Millisecond)
	g.Backup.Thaw(t)
	g.Witness.Thaw(t)
	reopened(t, g, before)
	w.WaitMore(t, 50, 20*time.Second)
	w.CheckNoneLost(t)

	run(t, "Briefly", func(t *testing.T) {
		g.WaitHealthy(t)
		p, s := primaryAndStandby(t, g)
		before, pid := epoch(t, g), p.PostgresPID()
		w := g.Writers(t, 4)
		failed, _ := w.Failures()
		s.Freeze(t)
		g.Witness.Freeze(t)
		waits(t, w, 300*time.Millisecond)
		s.Thaw(t)
		g.Witness.Thaw(t)
		w.WaitMore(t, 50, 20*time.Second)
		if e := epoch(t, g); e != before || p.PostgresPID() != pid {
			t.Errorf("epoch %s and postmaster %d after a short silence, %s and %d before", e, p.PostgresPID(), before, pid)
		}
		if now, err := w.Failures(); now != failed {
			t.Errorf("%d commits failed over a short silence: %v", now-failed, err)
		}
		w.CheckNoneLost(t)
	})

	run(t, "FrozenItself", func(t *testing.T) {
		// The primary's daemon sleeps: the guard alone must end the server.
		g.WaitHealthy(t)
		before, p := epoch(t, g), g.Primary(t)
		w := g.Writers(t, 4)
		p.Freeze(t)
		gone(t, p, 3*time.Second)
		p.Thaw(t)
		reopened(t, g, before)
		w.WaitMore(t, 50, 20*time.Second)
		w.CheckNoneLost(t)
	})
}
