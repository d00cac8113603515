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
// the group promises to survive. Roles change hands by order, and where a
// primary is late to come back. UNDERSTUDY_TEST_SEED repeats a run.
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
	again := func(n *cluster.Node, end func(testing.TB)) {
		end(t)
		pause(1200 * time.Millisecond)
		n.Start(t)
	}
	freeze := func(n *cluster.Node) {
		n.Freeze(t)
		pause(3 * time.Second)
		n.Thaw(t)
	}
	killServer := func(n *cluster.Node) {
		cluster.Eventually(t, 40*time.Second, "a server of "+n.Name, func() bool { return n.PostgresPID() != 0 })
		n.KillPostgres(t)
	}
	primary := func() *cluster.Node { return g.Primary(t) }
	standby := func() *cluster.Node { return g.Other(g.Primary(t)) }
	faults := []struct {
		name string
		do   func()
	}{
		{"witness killed", func() { again(g.Witness, g.Witness.Kill) }},
		{"witness restarted", func() { again(g.Witness, g.Witness.Term) }},
		{"standby killed", func() { n := standby(); again(n, n.Kill) }},
		{"standby restarted", func() { n := standby(); again(n, n.Term) }},
		{"standby lost", func() { n := standby(); again(n, n.KillEverything) }},
		{"standby frozen", func() { freeze(standby()) }},
		{"witness frozen", func() { freeze(g.Witness) }},
		{"standby's server killed", func() { killServer(standby()) }},
		{"primary killed", func() { n := primary(); again(n, n.Kill) }},
		{"primary restarted", func() { n := primary(); again(n, n.Term) }},
		{"primary lost", func() { n := primary(); again(n, n.KillEverything) }},
		{"primary frozen", func() { freeze(primary()) }},
		{"primary's server killed", func() { killServer(primary()) }},
		{"switchover", func() { g.Switchover(t, standby()) }},
		{"failover", func() {
			n, s := primary(), standby()
			n.KillEverything(t)
			g.Failover(t, s)
			n.Start(t)
		}},
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
		if n := faults[k].name; n == "switchover" || n == "failover" {
			g.WaitHealthy(t) // else they are refused, with good reason
		}
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
