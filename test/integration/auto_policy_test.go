package integration_test

import (
	"strings"
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestAuto_Policy loses primaries whose loss is announced, or that nobody is to
// replace by himself.
func TestAuto_Policy(t *testing.T) {
	t.Parallel()
	g := acting(t)

	run(t, "AnnouncedRestart", func(t *testing.T) { announced(t, g) })
	run(t, "AnnouncedAndNotBack", func(t *testing.T) { announcedInVain(t, g) })

	run(t, "Observed", func(t *testing.T) {
		applyPolicy(t, g.Witness, "failover: observe\n")
		unreplaced(t, g, "would-failover", "Observed only: another node would become primary now")
		applyPolicy(t, g.Witness, "failover: automatic\n")
	})

	run(t, "NoFailover", func(t *testing.T) {
		_, s := primaryAndStandby(t, g)
		key := "node." + s.Name + ".no_failover: "
		applyPolicy(t, g.Witness, key+"true\n")
		unreplaced(t, g, "no-successor", s.Name+" is never chosen by itself (no_failover)")
		applyPolicy(t, g.Witness, key+"false\n")
	})

	run(t, "Paused", func(t *testing.T) { paused(t, g) })
	run(t, "PauseEnds", func(t *testing.T) { pauseEnds(t, g) })
	run(t, "NoVote", func(t *testing.T) { noVote(t, g) })
}

// notReplaced waits for the word that a primary is lost and why nobody replaces
// it, and checks that nobody does.
func notReplaced(t *testing.T, g *cluster.Group, key, why string) {
	t.Helper()
	st := g.Witness.WaitStatus(t, 20*time.Second, "incident "+key+": "+why, func(s cluster.Status) bool {
		return strings.Contains(standing(s, key), why)
	})
	t.Logf("incident: %s", standing(st, key))
	stays(t, g.Witness, st.Group.Epoch, time.Second)
}

func incidentOver(t *testing.T, g *cluster.Group, key string) {
	t.Helper()
	g.Witness.WaitStatus(t, 20*time.Second, "the end of the incident "+key, func(s cluster.Status) bool { return standing(s, key) == "" })
}

// unreplaced kills a primary that nobody replaces. Started again, it opens
// again.
func unreplaced(t *testing.T, g *cluster.Group, key, why string) {
	t.Helper()
	g.WaitHealthy(t)
	w := g.MultiHostWriters(t, 4)
	p, _ := primaryAndStandby(t, g)
	before := epoch(t, g)
	p.KillEverything(t)
	notReplaced(t, g, key, why)
	p.Start(t)
	c := takenOver(t, p, before)
	if c.Kind != "restart" {
		t.Errorf("change %s", c)
	}
	goOn(t, w)
	incidentOver(t, g, key)
	g.WaitHealthy(t)
	noneLost(t, g, w)
}

// noVote takes both votes of the standby, on the word of the policy, and gives
// them back.
func noVote(t *testing.T, g *cluster.Group) {
	w := g.MultiHostWriters(t, 4)
	_, s := primaryAndStandby(t, g)
	before, began := epoch(t, g), time.Now()
	key := "node." + s.Name + ".votes: "
	applyPolicy(t, g.Witness, key+"false\n")
	g.WaitStatus(t, 20*time.Second, s.Name+" without a vote", func(st cluster.Status) bool {
		n := st.Of(s.Name)
		return !n.WALVoter && !n.LedgerVoter && len(st.Group.MustAcknowledge.Voters) == 2
	})
	g.Witness.Refused(t, 4, "it has no WAL vote", "switchover", "--to", s.Name)
	cluster.CatchUp(t, g.Other(s), s) // it follows all the same
	stays(t, g.Witness, before, time.Second)
	goOn(t, w)
	applyPolicy(t, g.Witness, key+"true\n")
	g.WaitHealthy(t)
	pausedFor(t, w, began, unnoticed)
	noneLost(t, g, w)
	// The votes count: it takes over again.
	c := g.Switchover(t, s)
	g.WaitReturned(t, c.Epoch)
}

// announced restarts the daemon of a primary. Commits wait for it meanwhile, and
// the group does, too.
func announced(t *testing.T, g *cluster.Group) {
	w := g.Writers(t, 4)
	p, _ := primaryAndStandby(t, g)
	before, server, failed := epoch(t, g), p.PostgresPID(), failures(w)
	p.Term(t)
	waits(t, w, 3*time.Second)
	p.Start(t)
	w.WaitMore(t, 50, 20*time.Second)
	if p.PostgresPID() != server || failures(w) != failed {
		t.Errorf("postmaster %d, %d before; %d commits failed", p.PostgresPID(), server, failures(w)-failed)
	}
	g.WaitHealthy(t)
	if e := epoch(t, g); e != before {
		t.Errorf("epoch %s, %s before the restart", e, before)
	}
	w.CheckNoneLost(t)
}

// announcedInVain announces a restart and does not come back.
func announcedInVain(t *testing.T, g *cluster.Group) {
	const grace = 4 * time.Second
	applyPolicy(t, g.Witness, "restart_grace: "+grace.String()+"\n")
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, left := epoch(t, g), time.Now()
	p.Term(t)
	c := takenOver(t, s, before)
	pausedFor(t, w, left, grace+replacedWithin)
	if d := w.Outage(left); d < grace {
		t.Errorf("replaced after %s, it had %s to come back", d, grace)
	}
	byItself(t, c, p, s, "begin-refused")
	gone(t, p, 3*time.Second)
	p.Start(t)
	closed(t, g.WaitReturned(t, c.Epoch), "rewind")
	noneLost(t, g, w)
}

// paused loses a primary during a pause, which is ended then.
func paused(t *testing.T, g *cluster.Group) {
	g.Witness.MustRun(t, "pause", "--for", "1h")
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before := epoch(t, g)
	p.KillEverything(t)
	notReplaced(t, g, "would-failover", "since it is paused")
	g.Witness.MustRun(t, "resume")
	resumed := time.Now()
	c := takenOver(t, s, before)
	goOn(t, w)
	t.Logf("taken over %s after the end of the pause", time.Since(resumed).Round(10*time.Millisecond))
	p.Start(t)
	g.WaitReturned(t, c.Epoch)
	incidentOver(t, g, "would-failover")
	noneLost(t, g, w)
}

// pauseEnds loses a primary during a pause that ends by itself.
func pauseEnds(t *testing.T, g *cluster.Group) {
	const pause = 5 * time.Second
	w := g.MultiHostWriters(t, 4)
	p, s := primaryAndStandby(t, g)
	before, ordered := epoch(t, g), time.Now()
	g.Witness.MustRun(t, "pause", "--for", pause.String())
	p.KillEverything(t)
	c := takenOver(t, s, before)
	if d := time.Since(ordered); d < pause {
		t.Errorf("taken over %s after a pause of %s began", d, pause)
	}
	pausedFor(t, w, ordered, pause+replacedWithin)
	p.Start(t)
	g.WaitReturned(t, c.Epoch)
	noneLost(t, g, w)
}
