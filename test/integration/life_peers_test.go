package integration_test

import (
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestPeers loses the nodes that acknowledge, one at a time and both.
func TestPeers(t *testing.T) {
	t.Parallel()
	g := healthy(t)

	for _, n := range []*cluster.Node{g.Witness, g.Backup} {
		run(t, "Killed/"+n.Name, func(t *testing.T) {
			before := epoch(t, g)
			w := g.Writers(t, 4)
			failed, _ := w.Failures()
			killed := time.Now()
			n.Kill(t)
			w.WaitMore(t, 200, 20*time.Second)
			if gap := w.LongestGap(killed); gap > 2*time.Second {
				t.Errorf("with one peer gone commits paused for %s", gap)
			}
			n.Start(t)
			g.WaitStatus(t, 20*time.Second, n.Name+" streaming again", streaming(n.Name))
			g.WaitHealthy(t)
			if now, err := w.Failures(); now != failed {
				t.Errorf("%d commits failed with one peer gone: %v", now-failed, err)
			}
			if e := epoch(t, g); e != before {
				t.Errorf("epoch %s after the loss of one peer, %s before", e, before)
			}
			w.CheckNoneLost(t)
		})
	}

	run(t, "BothKilled", func(t *testing.T) {
		g.WaitHealthy(t)
		_, s := primaryAndStandby(t, g)
		w := g.Writers(t, 4)
		g.Witness.Kill(t)
		s.Kill(t)
		waits(t, w, time.Second)
		g.Witness.Start(t)
		w.WaitMore(t, 50, 30*time.Second)
		s.Start(t)
		g.WaitHealthy(t)
		w.CheckNoneLost(t)
	})

	run(t, "AllKilled", func(t *testing.T) {
		st := g.WaitHealthy(t)
		w := g.Writers(t, 4)
		w.WaitMore(t, 20, 10*time.Second)
		main, backup := primaryAndStandby(t, g)
		standby := backup.PostgresPID()
		for _, n := range g.Nodes() {
			n.Kill(t)
		}
		gone(t, main, 1500*time.Millisecond)
		g.Start(t)
		reopened(t, g, st.Group.Epoch)
		w.WaitMore(t, 50, 20*time.Second)
		// Its guard kept it over the daemon's absence, whoever is primary now.
		if pid := backup.PostgresPID(); pid != standby {
			t.Errorf("the postmaster of %s, which was standby, is %d, %d before", backup.Name, pid, standby)
		}
		w.CheckNoneLost(t)
	})
}

// waits checks that no commit is acknowledged for d, once those under way when
// it is called have had time to return.
func waits(t *testing.T, w *cluster.Writers, d time.Duration) {
	t.Helper()
	settled := time.Now().Add(300 * time.Millisecond)
	for time.Now().Before(settled) {
		time.Sleep(10 * time.Millisecond)
	}
	n := w.Acked()
	for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if now := w.Acked(); now != n {
			t.Fatalf("%d commits were acknowledged without a majority", now-n)
		}
	}
}

// gone waits until a node's PostgreSQL has ended and checks that it no longer
// answers.
func gone(t *testing.T, n *cluster.Node, within time.Duration) {
	t.Helper()
	began := time.Now()
	cluster.Eventually(t, within, "the end of PostgreSQL of "+n.Name, func() bool { return n.PostgresPID() == 0 && !n.PortOpen() })
	t.Logf("PostgreSQL of %s ended after %s", n.Name, time.Since(began).Round(10*time.Millisecond))
}
