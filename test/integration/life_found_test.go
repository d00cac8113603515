package integration_test

import (
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// healthy makes a group and waits until any one node may be lost.
func healthy(t *testing.T, opts ...cluster.Option) *cluster.Group {
	t.Helper()
	g := cluster.New(t, opts...)
	g.WaitHealthy(t)
	return g
}

// run is t.Run for tests that share a group: a group that one of them broke
// tells nothing about the next.
func run(t *testing.T, name string, f func(*testing.T)) {
	t.Helper()
	if !t.Run(name, f) {
		t.FailNow()
	}
}

// epoch is the one in force, of a group with an open primary.
func epoch(t *testing.T, g *cluster.Group) pos.Epoch {
	t.Helper()
	st := g.WaitStatus(t, 20*time.Second, "an open primary", func(s cluster.Status) bool { return s.Group.Phase == "opened" })
	return st.Group.Epoch
}

// reopened waits until a primary is open in an epoch after the given one and
// any one node may be lost again.
func reopened(t *testing.T, g *cluster.Group, after pos.Epoch) cluster.Status {
	t.Helper()
	return g.WaitStatus(t, 40*time.Second, "a healthy group in an epoch after "+after.String(), func(s cluster.Status) bool {
		return after.Less(s.Group.Epoch) && s.Group.Phase == "opened" && s.Healthy()
	})
}

// streaming tells whether the primary counts on a node for new commits.
func streaming(node string) func(cluster.Status) bool {
	return func(s cluster.Status) bool { return s.Of(node).Link.State == "streaming" }
}

func TestGroup_Founding(t *testing.T) {
	t.Parallel()
	began := time.Now()
	g := healthy(t)
	t.Logf("healthy after %s", time.Since(began).Round(time.Millisecond))
	w := g.Writers(t, 4)
	w.WaitMore(t, 100, 20*time.Second)

	run(t, "LedgerIsLedFromElsewhere", func(t *testing.T) {
		// Losing the primary must not also cost an election of the ledger.
		g.WaitStatus(t, 15*time.Second, "ledger leadership off the primary", func(s cluster.Status) bool {
			return s.Group.LedgerLeader != "" && s.Group.LedgerLeader != s.Group.Primary
		})
	})
	run(t, "CommitsNeedTwoOfThree", func(t *testing.T) {
		st := g.WaitHealthy(t)
		if m := st.Group.MustAcknowledge; len(m.Voters) != 3 || m.Needed != 2 {
			t.Errorf("voters %v, needed %d; want 3 and 2", m.Voters, m.Needed)
		}
	})
	w.CheckNoneLost(t)
	run(t, "StopsInOrder", func(t *testing.T) {
		began := time.Now()
		for _, n := range g.Nodes() {
			n.Interrupt(t)
			if code := n.ExitCode(); code != 0 {
				t.Errorf("the daemon of %s ended with code %d", n.Name, code)
			}
		}
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("a regular stop took %s", d)
		}
		for _, n := range []*cluster.Node{g.Main, g.Backup} {
			if pid := n.PostgresPID(); pid != 0 {
				t.Errorf("PostgreSQL of %s still runs as %d after the stop", n.Name, pid)
			}
		}
	})
	run(t, "StartsAgain", func(t *testing.T) {
		g.Start(t)
		g.WaitHealthy(t)
		w := g.Writers(t, 2)
		w.WaitMore(t, 20, 20*time.Second)
		w.CheckNoneLost(t)
	})
}
