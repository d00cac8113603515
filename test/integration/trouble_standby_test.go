package integration_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestTrouble_StandbyHost: whatever dies on the standby's host, in any order,
// it comes back by itself, and no commit is lost or held up for long.
func TestTrouble_StandbyHost(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	w := g.Writers(t, 2)
	for name, harm := range map[string]func(*testing.T, *cluster.Node){
		"PostgreSQL": func(t *testing.T, n *cluster.Node) { n.KillPostgres(t) },
		"Daemon":     func(t *testing.T, n *cluster.Node) { n.Kill(t); n.Start(t) },
		"Everything": func(t *testing.T, n *cluster.Node) { n.KillEverything(t); n.Start(t) },
		"DataWiped": func(t *testing.T, n *cluster.Node) {
			n.KillEverything(t)
			wipe(t, n.DataDir())
			n.Start(t)
		},
		"AllWiped": func(t *testing.T, n *cluster.Node) {
			n.KillEverything(t)
			wipe(t, n.DataDir())
			wipe(t, n.StateDir())
			n.Start(t)
		},
		"DataWipedAndKilledWhileSeeded": func(t *testing.T, n *cluster.Node) {
			n.KillEverything(t)
			wipe(t, n.DataDir())
			for range 5 {
				n.Start(t)
				time.Sleep(time.Duration(rand.IntN(400)) * time.Millisecond) // any moment of it
				n.Kill(t)
			}
			n.Start(t)
		},
	} {
		t.Run(name, func(t *testing.T) {
			g.WaitHealthy(t)
			since := time.Now()
			harm(t, g.Backup)
			w.WaitMore(t, 50, 20*time.Second)
			g.WaitHealthy(t)
			cluster.CatchUp(t, g.Main, g.Backup)
			if gap := w.LongestGap(since); gap > 5*time.Second {
				t.Errorf("no commit for %s", gap)
			}
		})
	}
	w.CheckNoneLost(t)
}
