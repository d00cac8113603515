package integration_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/test/cluster"
)

// primaryAndStandby are the two data nodes by their present roles.
func primaryAndStandby(t *testing.T, g *cluster.Group) (p, s *cluster.Node) {
	t.Helper()
	p = g.Primary(t)
	return p, g.Other(p)
}

// TestRoles_Switchover hands the primary over on purpose, which costs clients a
// pause and nothing else.
func TestRoles_Switchover(t *testing.T) {
	t.Parallel()
	g := healthy(t)

	run(t, "ThereAndBackAndThere", func(t *testing.T) {
		witness := g.Witness.PID()
		w := g.Writers(t, 4)
		for range 3 {
			from, to := primaryAndStandby(t, g)
			timeline := g.WaitHealthy(t).Group.Timeline
			server, began := to.PostgresPID(), time.Now()
			c := g.Switchover(t, to)
			w.WaitMore(t, 50, 20*time.Second)
			t.Logf("%s to %s: commits paused for %s", from.Name, to.Name, w.LongestGap(began).Round(10*time.Millisecond))
			c = g.WaitReturned(t, c.Epoch)
			checkSwitchover(t, c, from, to)
			if c.Timeline != timeline+1 {
				t.Errorf("timeline %d after %d", c.Timeline, timeline)
			}
			if now := to.PostgresPID(); now != server {
				t.Errorf("the postmaster of %s is %d, %d before: a promotion needs no restart", to.Name, now, server)
			}
		}
		if now := g.Witness.PID(); now != witness {
			t.Errorf("the daemon of the witness is %d, %d before", now, witness)
		}
		w.CheckNoneLost(t)
	})

	run(t, "IsExplained", func(t *testing.T) {
		all, err := g.Witness.History(t.Context())
		if err != nil || len(all) == 0 {
			t.Fatalf("history %v, %v", all, err)
		}
		c := all[len(all)-1]
		for _, n := range g.Nodes() {
			out := n.MustRun(t, "explain", c.Plan)
			for _, want := range []string{"begin-ordered", "operator", "switchover to " + c.To + " ordered", "first-hand"} {
				if !strings.Contains(out, want) {
					t.Errorf("%s explains %s without %q:\n%s", n.Name, c.Plan, want, out)
				}
			}
			if out := n.MustRun(t, "history", "1"); !strings.Contains(out, "Nothing acknowledged was lost") || !strings.Contains(out, c.To) {
				t.Errorf("%s tells of the last change:\n%s", n.Name, out)
			}
		}
		events, err := g.Witness.Events(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, phase := range []string{"frozen", "stopped", "replayed", "promoted"} {
			if !slices.ContainsFunc(events, func(e cluster.Event) bool { return e.Kind == "phase" && strings.Contains(e.Text, ": "+phase) }) {
				t.Errorf("no event tells of the phase %s", phase)
			}
		}
	})

	run(t, "Refused", func(t *testing.T) {
		p, s := primaryAndStandby(t, g)
		before := epoch(t, g)
		g.Witness.Refused(t, 4, p.Name+" is the primary already", "switchover", "--to", p.Name)
		g.Witness.Refused(t, 4, "witness cannot be primary", "switchover", "--to", cluster.Witness)
		g.Witness.Refused(t, 4, `no node "nobody"`, "switchover", "--to", "nobody")
		g.Witness.Refused(t, 4, p.Name+" is the primary", "reseed", p.Name)
		g.Witness.Refused(t, 4, "has no PostgreSQL", "reseed", cluster.Witness)
		g.Witness.Refused(t, 0, "PostgreSQL of "+p.Name+" stops", "switchover", "--to", s.Name, "--dry-run")
		if e := epoch(t, g); e != before {
			t.Errorf("epoch %s after what was refused, %s before", e, before)
		}
	})

	run(t, "Offline", func(t *testing.T) { offline(t, g) })
	for _, method := range []string{"follow", "rewind", "delta", "full"} {
		run(t, "Reseed/"+method, func(t *testing.T) { reseed(t, g, method) })
	}
}

// checkSwitchover checks how a switchover between healthy nodes went, with the
// old primary back.
func checkSwitchover(t *testing.T, c cluster.Change, from, to *cluster.Node) {
	t.Helper()
	if c.Kind != "switchover" || c.From != from.Name || c.To != to.Name || !c.Opened || c.Plan == "" {
		t.Errorf("change %s", c)
	}
	var phases []string
	for _, p := range c.Phases {
		if p.Name != "copied" { // only when the candidate lacked something
			phases = append(phases, p.Name)
		}
	}
	want := []string{"ordered", "frozen", "stopped", "epoch", "fenced", "assigned", "replayed", "promoting", "promoted", "opened", "returned"}
	if !slices.Equal(phases, want) {
		t.Errorf("phases %v, want %v", phases, want)
	}
	if p := c.Proof; p == nil || p.Provisional || p.Lost != nil || p.MayLost != nil || len(p.Missing) > 0 ||
		p.Sentence != fmt.Sprintf("Nothing acknowledged was lost: everything up to %s is there.", c.Start) {
		t.Errorf("proof %s", c)
	}
	// A server that does not stop in a second is stopped at once, and its log
	// then ends without the record that a follower needs.
	method := "follow"
	if ms := stoppedIn(c); ms >= 1000 {
		method = "rewind"
	}
	if r := c.Return; r == nil || r.Node != from.Name || r.Method != method {
		t.Errorf("%s, want a return by %s", c, method)
	}
}

// stoppedIn is how long the stop of the old primary took, in milliseconds.
func stoppedIn(c cluster.Change) (ms int) {
	for _, p := range c.Phases {
		if p.Name == "stopped" {
			fmt.Sscanf(p.Text, "in %d ms", &ms)
		}
	}
	return ms
}

// offline keeps clients out, over a switchover, and lets them in again.
func offline(t *testing.T, g *cluster.Group) {
	p, s := primaryAndStandby(t, g)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := p.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	ordered := time.Now()
	g.Witness.MustRun(t, "offline", "--wait", "2s")
	cluster.Eventually(t, 5*time.Second, "new clients refused", func() bool { return !p.Answers() })
	if _, err := c.Exec(ctx, "create table if not exists left_in_time (a int)"); err != nil {
		t.Errorf("a client that had time to leave was cut off after %s: %v", time.Since(ordered), err)
	}
	cluster.Eventually(t, 10*time.Second, "the client cut off", func() bool {
		_, err := c.Exec(ctx, "select 1")
		return err != nil
	})
	if d := time.Since(ordered); d < 2*time.Second {
		t.Errorf("cut off after %s", d)
	}
	change := g.Switchover(t, s)
	for range 20 { // it opened, for the daemons alone
		if _, err := pgx.Connect(ctx, s.DSN()); err == nil {
			t.Fatalf("a client is let in by %s although the group is offline", s.Name)
		}
		time.Sleep(25 * time.Millisecond)
	}
	g.Witness.WaitChange(t, time.Minute, change.Epoch, "the old primary's return", func(c cluster.Change) bool { return c.Return != nil })
	g.WaitStatus(t, 10*time.Second, "the word that clients are kept out", func(st cluster.Status) bool {
		return st.Group.Primary == s.Name && strings.Contains(st.Group.Safe.Sentence, "understudy online")
	})
	g.Witness.MustRun(t, "online")
	cluster.Eventually(t, 10*time.Second, "clients let in again", s.Answers)
	s.Exec(t, "insert into left_in_time values (1)")
	g.WaitHealthy(t)
}

// reseed brings the standby back by a method, while writers go on.
func reseed(t *testing.T, g *cluster.Group, method string) {
	p, s := primaryAndStandby(t, g)
	w := g.Writers(t, 2)
	w.WaitMore(t, 20, 10*time.Second)
	began, failed, server := time.Now(), failures(w), s.PostgresPID()
	inode := inodeOf(t, filepath.Join(s.DataDir(), "base"))
	g.Witness.MustRun(t, "reseed", s.Name, "--method", method, "--yes")
	cluster.Eventually(t, 60*time.Second, s.Name+" started again", func() bool {
		pid := s.PostgresPID()
		return pid != 0 && pid != server && s.Answers()
	})
	g.WaitHealthy(t)
	if gap := w.LongestGap(began); gap > 3*time.Second || failures(w) != failed {
		t.Errorf("commits paused for %s and %d failed during a reseed", gap, failures(w)-failed)
	}
	w.CheckNoneLost(t)
	events, err := s.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var used []string
	for _, e := range events {
		if e.Kind == "coming-back" && e.At.After(began) {
			used = append(used, e.Text)
		}
	}
	if len(used) != 1 || !strings.Contains(used[0], " by "+method) {
		t.Errorf("%s came back by %q, want one by %s", s.Name, used, method)
	}
	if same := inodeOf(t, filepath.Join(s.DataDir(), "base")) == inode; same == (method == "full") {
		t.Errorf("the old directory was kept is %v after a reseed by %s", same, method)
	}
	if now := g.Primary(t); now != p {
		t.Errorf("%s is primary after a reseed, %s before", now.Name, p.Name)
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}
