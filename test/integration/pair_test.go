package integration_test

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/test/cluster"
)

// TestPair is a group of two hosts without a witness: a commit needs both, the
// operator breaks the tie, and one that goes on alone says so.
func TestPair(t *testing.T) {
	t.Parallel()
	p := cluster.NewPair(t, 3*time.Second) // longer than the lease of a primary of three
	p.WaitTogether(t)
	run(t, "AloneAndTogether", func(t *testing.T) { pairAlone(t, p) })
	run(t, "AloneAndRestarted", func(t *testing.T) { pairAloneRestarted(t, p) })
	run(t, "Switchover", func(t *testing.T) { pairSwitchover(t, p) })
	run(t, "MainLost", func(t *testing.T) { pairMainLost(t, p) })
}

// commitsWithin tells whether a commit on n returns within d.
func commitsWithin(n *cluster.Node, sql string, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	c, err := n.Connect(ctx)
	if err != nil {
		return false
	}
	defer c.Close(context.Background())
	_, err = c.Exec(ctx, sql)
	return err == nil
}

func pairAlone(t *testing.T, p *cluster.Pair) {
	e := p.WaitTogether(t).Group.Epoch
	p.Main.Exec(t, "create table if not exists kept (n int)")
	w := p.Writers(t, 2)
	lost := time.Now()
	p.Backup.KillEverything(t)
	if commitsWithin(p.Main, "insert into kept values (1)", 700*time.Millisecond) {
		t.Error("a commit returned without the other host")
	}
	st := p.Main.WaitStatus(t, 10*time.Second, "alone", func(s cluster.Status) bool { return s.Group.Safe.Rule == "alone" })
	w.WaitMore(t, 20, 10*time.Second)
	if gap := w.LongestGap(lost); gap < 2900*time.Millisecond || gap > 8*time.Second {
		t.Errorf("commits waited %s for the lost standby, the policy says 3 s", gap)
	}
	if !strings.Contains(st.Group.Safe.Sentence, "main goes on alone") || st.Group.Safe.Level != "unprotected" {
		t.Errorf("it says %q", st.Group.Safe.Sentence)
	}
	st = p.Main.WaitStatus(t, 5*time.Second, "an incident", func(s cluster.Status) bool { return len(s.Incidents) > 0 })
	if i := st.Incidents[0]; i.Key != "alone" || !strings.Contains(i.Text, "main goes on alone, without backup") {
		t.Errorf("the incident is %+v", st.Incidents)
	}
	if out := p.Main.MustRun(t, "status"); !strings.Contains(out, "goes on alone") {
		t.Errorf("status prints\n%s", out)
	}
	p.Main.Refused(t, 4, "backup", "switchover", "--to", "backup")
	p.Backup.Start(t)
	st = p.WaitTogether(t)
	p.Main.WaitStatus(t, 5*time.Second, "no incident", func(s cluster.Status) bool { return len(s.Incidents) == 0 })
	if st.Group.Epoch != e {
		t.Errorf("the loss of the standby made epoch %s of %s", st.Group.Epoch, e)
	}
	w.CheckNoneLost(t)
}

// A primary that went on alone and was restarted cannot know whether the other
// half was made primary meanwhile.
func pairAloneRestarted(t *testing.T, p *cluster.Pair) {
	p.WaitTogether(t)
	for _, forced := range []bool{false, true} {
		w := p.Writers(t, 2)
		p.Backup.KillEverything(t)
		p.WaitAlone(t, p.Main)
		w.WaitMore(t, 20, 10*time.Second)
		st, err := p.Main.Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		e := st.Group.Epoch
		p.Main.KillEverything(t)
		p.Main.Start(t)
		// While the ledger reads its log again, older epochs pass by.
		p.Main.WaitStatus(t, 15*time.Second, "waiting for its peer", func(s cluster.Status) bool { return s.Group.Phase == "fencing" && e.Less(s.Group.Epoch) })
		p.Main.Refused(t, 4, "backup is not heard and may have been made primary meanwhile", "failover", "--to", "main")
		if st, err := p.Main.Status(context.Background()); err != nil || st.Group.Phase != "fencing" {
			t.Errorf("it did not wait for its peer: %s, %v", st, err)
		}
		if forced {
			c := p.Order(t, p.Main, p.Main, "failover", "--force", "--yes")
			if !strings.Contains(c.Statement, "I confirm that backup cannot run") {
				t.Errorf("confirmed was %q", c.Statement)
			}
			w.WaitMore(t, 20, 20*time.Second)
		}
		p.Backup.Start(t)
		w.WaitMore(t, 20, 40*time.Second)
		p.WaitTogether(t)
		w.CheckNoneLost(t)
	}
}

func pairSwitchover(t *testing.T, p *cluster.Pair) {
	p.WaitTogether(t)
	w := p.Writers(t, 2)
	from, to := p.Main, p.Backup
	for range 2 {
		c := p.Order(t, from, to, "switchover")
		if c.Kind != "switchover" || c.From != from.Name || c.Proof == nil || c.Proof.Provisional || c.Proof.Lost != nil {
			t.Errorf("%s", c)
		}
		st := p.WaitTogether(t)
		if st.Group.LedgerLeader != to.Name {
			t.Errorf("the ledger is led by %s after a switchover to %s", st.Group.LedgerLeader, to.Name)
		}
		w.WaitMore(t, 20, 20*time.Second)
		c = to.WaitChange(t, 30*time.Second, c.Epoch, "the return", func(c cluster.Change) bool { return c.Return != nil })
		if c.Return.Method != "follow" {
			t.Errorf("%s came back by %s", from.Name, c.Return.Method)
		}
		from, to = to, from
	}
	w.CheckNoneLost(t)
}

func pairMainLost(t *testing.T, p *cluster.Pair) {
	before := p.WaitTogether(t)
	w := p.Writers(t, 2)
	p.Main.KillEverything(t)
	p.Backup.KillEverything(t) // the operator does not come at once
	p.Backup.Start(t)
	p.Backup.WaitStatus(t, 10*time.Second, "what is known of the group", func(s cluster.Status) bool { return s.Group.Primary == cluster.Main })
	p.Backup.Refused(t, 4, "use --force", "failover", "--to", "backup")
	p.Backup.Refused(t, 2, "--yes", "failover", "--to", "backup", "--force")
	c := p.Order(t, p.Backup, p.Backup, "failover", "--force", "--yes")
	if c.Kind != "forced" || !strings.Contains(c.Statement, "If main lived for more than 3s") || !strings.Contains(c.Proof.Sentence, "No majority was asked") {
		t.Errorf("%s", c)
	}
	if c.Epoch.Gen != before.Group.Epoch.Gen+1 || c.Timeline < before.Group.Timeline+17 {
		t.Errorf("epoch %s timeline %d after %s timeline %d", c.Epoch, c.Timeline, before.Group.Epoch, before.Group.Timeline)
	}
	w.WaitMore(t, 20, 20*time.Second)
	p.Main.Start(t)
	c = p.Backup.WaitChange(t, 60*time.Second, c.Epoch, "the return of main", func(c cluster.Change) bool { return c.Return != nil })
	p.WaitTogether(t)
	if c.Proof.Provisional || c.Proof.Lost != nil || !strings.Contains(c.Proof.Sentence, "Nothing acknowledged was lost") {
		t.Errorf("%s", c)
	}
	t.Logf("main came back by %s: %s", c.Return.Method, c.Proof.Closed)
	w.CheckNoneLost(t)
}

// TestPair_Cut: two halves that do not hear each other, of which the operator
// makes the second primary too. When they meet, the older one stops, and what it
// acknowledged alone is named.
func TestPair_Cut(t *testing.T) {
	t.Parallel()
	p := cluster.NewPair(t, time.Second)
	p.WaitTogether(t)
	p.Main.Exec(t, "create table kept (n int)")
	insert(t, p.Main, 1, 10)
	p.Cut()
	p.WaitAlone(t, p.Main)
	insert(t, p.Main, 101, 140)
	c := p.Order(t, p.Backup, p.Backup, "failover", "--force", "--yes")
	insert(t, p.Backup, 201, 210)
	insert(t, p.Main, 141, 150) // its clients may still reach it
	if !p.Main.Answers() {
		t.Fatal("main stopped before it heard of the other")
	}
	healed := time.Now()
	p.Heal()
	cluster.Eventually(t, 5*time.Second, "the end of the older primary", func() bool { return !p.Main.Answers() })
	t.Logf("the older primary served for %s after the link was back", time.Since(healed).Round(10*time.Millisecond))
	c = p.Backup.WaitChange(t, 60*time.Second, c.Epoch, "the return of main", func(c cluster.Change) bool { return c.Return != nil })
	if c.Proof.Lost == nil || c.Proof.Provisional || !strings.Contains(c.Proof.Sentence, "Acknowledged commits were lost") {
		t.Errorf("%s", c)
	}
	if n := len(c.Proof.Transactions); n != 50 {
		t.Errorf("%d transactions are named, main acknowledged 50 alone: %s", n, c)
	}
	for _, x := range c.Proof.Transactions {
		if len(x.Tables) == 0 {
			t.Errorf("transaction %d names no table", x.XID)
		}
	}
	p.WaitTogether(t)
	insert(t, p.Backup, 211, 215)
	cluster.CatchUp(t, p.Backup, p.Main)
	want := numbers(1, 10) + " " + numbers(201, 215)
	for _, n := range []*cluster.Node{p.Backup, p.Main} {
		if got := n.Query(t, "select string_agg(n::text, ' ' order by n) from kept"); got != want {
			t.Errorf("%s has rows %s, want %s", n.Name, got, want)
		}
	}
	if strings.Contains(p.Backup.Log(), "clearing log suffix") {
		t.Error("the older ledger wrote into the newer one")
	}

	run(t, "FrozenHalf", func(t *testing.T) {
		w := p.Writers(t, 2)
		p.Backup.Freeze(t)
		cluster.Eventually(t, 10*time.Second, "the guard to end the frozen primary", func() bool { return !p.Backup.Answers() })
		c := p.Order(t, p.Main, p.Main, "failover", "--force", "--yes")
		w.WaitMore(t, 20, 20*time.Second)
		p.Backup.Thaw(t)
		c = p.Main.WaitChange(t, 60*time.Second, c.Epoch, "the return of backup", func(c cluster.Change) bool { return c.Return != nil })
		if c.Epoch.Gen != 3 || c.Proof.Lost != nil {
			t.Errorf("%s", c)
		}
		p.WaitTogether(t)
		w.CheckNoneLost(t)
	})
}

func insert(t *testing.T, n *cluster.Node, from, to int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := n.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(ctx)
	for i := from; i <= to; i++ {
		if _, err := c.Exec(ctx, "insert into kept values ($1)", i); err != nil {
			t.Fatalf("row %d on %s: %v", i, n.Name, err)
		}
	}
}

func numbers(from, to int) string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, strconv.Itoa(i))
	}
	return strings.Join(out, " ")
}

// TestPair_SwitchoverInterrupted ends a daemon at each step of a switchover, on
// the node that takes it, in both directions.
func TestPair_SwitchoverInterrupted(t *testing.T) {
	t.Parallel()
	p := cluster.NewPair(t, time.Second, cluster.WithFaults())
	p.WaitTogether(t)
	w := p.Writers(t, 2)
	for _, c := range []struct {
		step string
		old  bool // on the old primary, else on the new one
	}{
		{"freeze", true}, {"stopped", true}, {"elect", false}, {"recorded", false}, {"promoting", false}, {"serve", false}, {"opened", false}, {"comeback-follow", true},
	} {
		run(t, c.step, func(t *testing.T) {
			from := p.Primary(t)
			to := p.Other(from)
			at := to
			if c.old {
				at = from
			}
			f := at.Arm(t, c.step, "kill")
			switchUntil(t, from, to, f)
			at.WaitExit(t, 10*time.Second)
			at.Start(t)
			w.WaitMore(t, 20, 60*time.Second)
			st := p.WaitTogether(t)
			t.Logf("from %s to %s, killed on %s: %s is primary in epoch %s", from.Name, to.Name, at.Name, st.Group.Primary, st.Group.Epoch)
		})
	}
	// The old half is lost with its host while the new one is about to start:
	// the ledger is there already, and so it goes on when the old one is back.
	run(t, "OldHostLost", func(t *testing.T) {
		from := p.Primary(t)
		to := p.Other(from)
		f := to.Arm(t, "elect", "hang:2")
		switchUntil(t, from, to, f)
		to.WaitStatus(t, 10*time.Second, "the ledger's only vote", func(s cluster.Status) bool { return s.Of(to.Name).LedgerVoter && !s.Of(from.Name).LedgerVoter })
		from.KillEverything(t)
		from.Start(t)
		w.WaitMore(t, 20, 60*time.Second)
		p.WaitTogether(t)
	})
	w.CheckNoneLost(t)
}

// switchUntil orders a switchover until a fault has happened. What becomes of the
// order does not matter; one is refused when the standby has just come back.
func switchUntil(t *testing.T, from, to *cluster.Node, f cluster.Fault) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !f.Happened() {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not come to the step", to.Name)
		}
		from.Command("switchover", "--to", to.Name, "--wait", "300ms").Run()
	}
}

// TestGroup_MajorityLostForGood: of three nodes one is left, which goes on by
// the operator's word; the others come back as new nodes.
func TestGroup_MajorityLostForGood(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	w := g.Writers(t, 2)
	w.WaitMore(t, 50, 10*time.Second)
	w.Stop() // else the witness may have acknowledged what the backup has not
	cluster.CatchUp(t, g.Main, g.Backup)
	g.Main.KillEverything(t)
	g.Witness.Kill(t)
	g.Backup.Refused(t, 4, "use --force", "failover", "--to", "backup")
	c := g.Failover(t, g.Backup, "--force", "--yes")
	if c.Kind != "forced" || c.Epoch.Gen != 2 || !strings.Contains(c.Statement, "I confirm that main and witness cannot run") {
		t.Errorf("%s", c)
	}
	cluster.Eventually(t, 10*time.Second, "clients let in", g.Backup.Answers) // right after the ledger says so
	g.Backup.Exec(t, "insert into acked select 99, 1")
	g.Backup.Exec(t, "delete from acked where writer = 99")
	g.Main.Start(t) // together they are a majority of the old ledger
	g.Witness.Start(t)
	c = g.Backup.WaitChange(t, 90*time.Second, c.Epoch, "the return of main", func(c cluster.Change) bool { return c.Return != nil })
	st := g.WaitHealthy(t)
	if st.Group.Primary != cluster.Backup || c.Proof.Lost != nil {
		t.Errorf("%s; %s", st, c)
	}
	w.CheckNoneLost(t)
}
