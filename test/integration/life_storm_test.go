package integration_test

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestGroup_Storm: one fault after another, chosen by a seed, each within what
// the group promises to survive. UNDERSTUDY_TEST_SEED repeats a run.
func TestGroup_Storm(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("UNDERSTUDY_TEST_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("UNDERSTUDY_TEST_SEED=%d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	g := healthy(t)
	w := g.Writers(t, 4)
	pause := func(most time.Duration) { time.Sleep(time.Duration(r.Int64N(int64(most)))) } // the fault's own length
	again := func(n *cluster.Node, end func(testing.TB)) func() {
		return func() { end(t); pause(1200 * time.Millisecond); n.Start(t) }
	}
	faults := []struct {
		name string
		do   func()
	}{
		{"witness killed", again(g.Witness, g.Witness.Kill)},
		{"witness restarted", again(g.Witness, g.Witness.Term)},
		{"backup killed", again(g.Backup, g.Backup.Kill)},
		{"backup restarted", again(g.Backup, g.Backup.Term)},
		{"backup lost", again(g.Backup, g.Backup.KillEverything)},
		{"backup frozen", func() { g.Backup.Freeze(t); pause(3 * time.Second); g.Backup.Thaw(t) }},
		{"witness frozen", func() { g.Witness.Freeze(t); pause(3 * time.Second); g.Witness.Thaw(t) }},
		{"standby's server killed", func() { g.Backup.KillPostgres(t) }},
		{"main killed", again(g.Main, g.Main.Kill)},
		{"main restarted", again(g.Main, g.Main.Term)},
		{"main lost", again(g.Main, g.Main.KillEverything)},
		{"main frozen", func() { g.Main.Freeze(t); pause(3 * time.Second); g.Main.Thaw(t) }},
		{"primary's server killed", func() { g.Main.KillPostgres(t) }},
		{"all killed", func() {
			for _, n := range g.Nodes() {
				n.Kill(t)
			}
			pause(1200 * time.Millisecond)
			g.Start(t)
		}},
		{"all lost", func() {
			g.Main.KillEverything(t)
			g.Backup.KillEverything(t)
			g.Witness.Kill(t)
			g.Start(t)
		}},
	}
	for i, k := range r.Perm(len(faults)) {
		began := time.Now()
		t.Logf("%s: %s", began.Format("15:04:05.000"), faults[k].name)
		faults[k].do()
		w.WaitMore(t, 10, 40*time.Second)
		t.Logf("commits paused for %s", w.LongestGap(began).Round(10*time.Millisecond))
		if i%3 == 2 { // between, faults meet a group that has not recovered yet
			g.WaitHealthy(t)
		}
		serverUp(t, g)
	}
	g.WaitHealthy(t)
	w.CheckNoneLost(t)
}

// serverUp waits until both nodes have a server to kill.
func serverUp(t *testing.T, g *cluster.Group) {
	t.Helper()
	cluster.Eventually(t, 40*time.Second, "both servers running", func() bool {
		return g.Main.PostgresPID() != 0 && g.Backup.PostgresPID() != 0
	})
}
