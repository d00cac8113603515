package integration_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestSettings changes what a standby must follow: settings of the primary, the
// delay of the policy, and a pause that somebody asked for.
func TestSettings(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	p, s := primaryAndStandby(t, g)
	w := g.Writers(t, 2)

	run(t, "RaisedOnThePrimary", func(t *testing.T) {
		applyPolicy(t, p, "failover: manual\n")
		server := s.PostgresPID()
		p.Exec(t, "alter system set max_connections = 130")
		p.Exec(t, "alter system set max_locks_per_transaction = 70")
		p.Interrupt(t)
		p.Start(t)
		cluster.Eventually(t, 40*time.Second, "the standby's settings", func() bool {
			v, err := s.TryQuery("select current_setting('max_connections') || ' ' || current_setting('max_locks_per_transaction')")
			return err == nil && v == "130 70"
		})
		g.WaitHealthy(t)
		w.WaitMore(t, 20, 20*time.Second)
		cluster.CatchUp(t, p, s)
		if s.PostgresPID() == server {
			t.Error("the standby's server is the same")
		}
		if !told(t, s, "settings-raised", "max_connections = 100, the primary's is 130; max_locks_per_transaction = 64, the primary's is 70") {
			t.Error("no event tells of it")
		}
	})

	run(t, "RaisedBySwitchover", func(t *testing.T) {
		s.Exec(t, "alter system set max_worker_processes = 12")
		c := g.Switchover(t, s)
		g.WaitReturned(t, c.Epoch)
		c = g.Switchover(t, p)
		g.WaitReturned(t, c.Epoch) // s starts with it
		c = g.Switchover(t, s)
		g.WaitReturned(t, c.Epoch)
		cluster.Eventually(t, 40*time.Second, "the standby's settings", func() bool {
			v, err := p.TryQuery("show max_worker_processes")
			return err == nil && v == "12"
		})
		c = g.Switchover(t, p)
		g.WaitReturned(t, c.Epoch)
		cluster.CatchUp(t, p, s)
	})

	run(t, "PausedByHand", func(t *testing.T) {
		s.Exec(t, "select pg_wal_replay_pause()")
		paused := func(st cluster.Status) bool {
			return slices.ContainsFunc(st.Incidents, func(i cluster.Incident) bool {
				return i.Key == s.Name+"/replay" && strings.Contains(i.Text, "pg_wal_replay_resume()")
			})
		}
		g.WaitStatus(t, 20*time.Second, "an incident about the pause", paused)
		w.WaitMore(t, 20, 20*time.Second)
		s.Exec(t, "select pg_wal_replay_resume()")
		g.WaitStatus(t, 20*time.Second, "its end", func(st cluster.Status) bool { return !paused(st) })
		g.WaitHealthy(t)
		cluster.CatchUp(t, p, s)
	})

	run(t, "Delayed", func(t *testing.T) { delayed(t, g, w) })
	run(t, "ReturnsToADelay", func(t *testing.T) { returnsToADelay(t, g) })
	w.CheckNoneLost(t)
}

// delayed keeps a standby behind, over ends of its daemon and of its server.
func delayed(t *testing.T, g *cluster.Group, w *cluster.Writers) {
	const late = "select to_regclass('late')::text"
	p, s := primaryAndStandby(t, g)
	shows := func(want string) {
		t.Helper()
		cluster.Eventually(t, 20*time.Second, "a delay of "+want, func() bool {
			v, err := s.TryQuery("show recovery_min_apply_delay")
			return err == nil && v == want
		})
	}
	cluster.CatchUp(t, p, s)
	key := "node." + s.Name + ".apply_delay: "
	applyPolicy(t, p, key+"1h\n")
	shows("1h")
	p.Exec(t, "create table late ()")
	unseen := func() {
		t.Helper()
		w.WaitMore(t, 50, 20*time.Second)
		if s.Query(t, late) != "" {
			t.Error("it is applied")
		}
	}
	unseen()
	s.Term(t)
	s.Start(t)
	shows("1h")
	unseen()
	s.KillPostgres(t)
	shows("1h")
	unseen()
	applyPolicy(t, p, key+"0s\n")
	shows("0")
	cluster.CatchUp(t, p, s)
	if s.Query(t, late) != "late" {
		t.Error("it is not applied after the delay")
	}
	g.WaitHealthy(t)
}

// returnsToADelay hands over to a node from one that has a delay as a standby,
// which comes back before it is delayed.
func returnsToADelay(t *testing.T, g *cluster.Group) {
	p, s := primaryAndStandby(t, g)
	key := "node." + p.Name + ".apply_delay: "
	applyPolicy(t, p, key+"2h\n")
	c := g.Switchover(t, s)
	g.WaitReturned(t, c.Epoch)
	for _, want := range []string{"2h", "0"} {
		cluster.Eventually(t, 20*time.Second, "a delay of "+want, func() bool {
			v, err := p.TryQuery("show recovery_min_apply_delay")
			return err == nil && v == want
		})
		applyPolicy(t, s, key+"0s\n")
	}
	cluster.CatchUp(t, s, p)
}

// applyPolicy changes keys of the policy by a command on n.
func applyPolicy(t *testing.T, n *cluster.Node, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n.MustRun(t, "policy", "apply", file)
}

// told tells whether an event of n's log holds the text.
func told(t *testing.T, n *cluster.Node, kind, text string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	events, err := n.Events(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(events, func(e cluster.Event) bool { return e.Kind == kind && strings.Contains(e.Text, text) })
}
