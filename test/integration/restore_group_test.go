package integration_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// backedUp is a healthy group with a location on the witness, and one backup.
func backedUp(t *testing.T, opts ...cluster.Option) (g *cluster.Group, location string) {
	t.Helper()
	location = filepath.Join(t.TempDir(), "here")
	policy := "failover: manual\nlocation.here.kind: local\nlocation.here.node: witness\nlocation.here.path: " + location + "\n"
	g = healthy(t, append(opts, cluster.WithPolicy(policy))...)
	g.Witness.MustRun(t, "locations", "init", "here", "--yes")
	p := g.Primary(t)
	p.Exec(t, "create table kept (id int primary key, was text)")
	p.Exec(t, "insert into kept select i, 'before the backup' from generate_series(1, 1000) i")
	backup(t, p)
	return g, location
}

// backup takes one. Another may have begun by itself.
func backup(t *testing.T, n *cluster.Node) {
	t.Helper()
	cluster.Eventually(t, 60*time.Second, "a backup", func() bool {
		out, code := n.Run(t, "backup")
		if code != 0 && !strings.Contains(out, "runs already") {
			t.Fatalf("understudy backup ended with %d: %s", code, out)
		}
		return code == 0
	})
}

// moment is a position of the primary's log between commits.
func moment(t *testing.T, p *cluster.Node) string {
	t.Helper()
	p.Exec(t, "insert into kept values ((select max(id) from kept) + 1, 'before the moment')")
	at := p.Query(t, "select pg_current_wal_insert_lsn()")
	p.Exec(t, "insert into kept select i, 'after the moment' from generate_series(2001, 2500) i")
	p.Exec(t, "insert into kept values (2600, 'after the moment')")
	p.WaitPossible(t, "restore", "--group", "--target", "lsn:"+at) // the locations have it
	return at
}

func rows(t *testing.T, n *cluster.Node) string {
	t.Helper()
	return n.Query(t, "select count(*) || ' ' || count(*) filter (where was = 'after the moment') || ' ' || md5(string_agg(kept::text, ',' order by id)) from kept")
}

// converged waits until both servers have the same rows, and returns them.
func converged(t *testing.T, g *cluster.Group) string {
	t.Helper()
	g.WaitHealthy(t)
	p, s := primaryAndStandby(t, g)
	want := rows(t, p)
	cluster.Eventually(t, 30*time.Second, "equal digests", func() bool {
		got, err := s.TryQuery("select count(*) || ' ' || count(*) filter (where was = 'after the moment') || ' ' || md5(string_agg(kept::text, ',' order by id)) from kept")
		return err == nil && got == want
	})
	return want
}

// TestRestoreGroup_ThereAndBack brings a group back to a moment with the
// primary's own node, then undoes that with the other one.
func TestRestoreGroup_ThereAndBack(t *testing.T) {
	t.Parallel()
	g, location := backedUp(t)
	p, s := primaryAndStandby(t, g)
	old := g.WaitHealthy(t).Group.Timeline
	at := moment(t, p)
	all := rows(t, p)

	run(t, "Refused", func(t *testing.T) {
		s.Refused(t, 4, "oldest set", "restore", "--group", "--target", "2001-01-01 00:00:00+00", "--yes")
		s.Refused(t, 4, "has no PostgreSQL", "restore", "--group", "--target", "lsn:"+at, "--node", "witness", "--yes")
		s.Refused(t, 2, "terminal", "restore", "--group", "--target", "lsn:"+at)
		if out := s.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--dry-run"); !strings.Contains(out, "Thrown away") {
			t.Errorf("the plan: %s", out)
		}
		if got := rows(t, p); got != all {
			t.Errorf("refused, and yet %s became %s", all, got)
		}
	})
	run(t, "There", func(t *testing.T) {
		t.Log(s.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--yes"))
		if got := converged(t, g); !strings.HasPrefix(got, "1001 0 ") {
			t.Errorf("rows %s, want 1001 and none of after the moment", got)
		}
		if now := g.Primary(t); now != p {
			t.Errorf("%s is primary, want %s", now.Name, p.Name)
		}
	})
	next := g.WaitHealthy(t).Group.Timeline
	run(t, "ArchiveGoesOn", func(t *testing.T) {
		if next <= old {
			t.Errorf("timeline %d after %d", next, old)
		}
		p.Exec(t, "insert into kept values (5000, 'of the new history')")
		p.Exec(t, "select pg_switch_wal()")
		cluster.Eventually(t, 60*time.Second, "log of the new timeline at the location", func() bool {
			segs, _ := filepath.Glob(filepath.Join(location, "*", "*", "wal", fmt.Sprintf("%08X", uint32(next)), "*.zst"))
			hist, _ := filepath.Glob(filepath.Join(location, "*", "*", "wal", fmt.Sprintf("%08X.history*", uint32(next))))
			return len(segs) > 0 && len(hist) == 1
		})
		backup(t, p)
	})
	run(t, "AndBack", func(t *testing.T) {
		t.Log(p.MustRun(t, "restore", "--group", "--target", "latest", "--timeline", fmt.Sprint(uint32(old)), "--node", s.Name, "--yes"))
		if got := converged(t, g); got != all {
			t.Errorf("rows %s, want those of before, %s", got, all)
		}
		if now := g.Primary(t); now != s {
			t.Errorf("%s is primary, want %s", now.Name, s.Name)
		}
		if tli := g.WaitHealthy(t).Group.Timeline; tli <= next {
			t.Errorf("timeline %d after %d", tli, next)
		}
	})
	g.CheckTimelines(t)
}

// TestRestoreGroup_Interrupted kills the daemon that restores at each step; the
// next one goes on by itself.
func TestRestoreGroup_Interrupted(t *testing.T) {
	t.Parallel()
	g, _ := backedUp(t, cluster.WithFaults())
	at := moment(t, g.Primary(t))
	timeline := pos.Timeline(0)
	for _, step := range []string{"restore-planned", "restore-log", "restore-promoted", "restore-final", "restore-taken", "restore-reform"} {
		run(t, step, func(t *testing.T) {
			to := g.Other(g.Primary(t))
			fault := to.Arm(t, step, "kill")
			done := make(chan string, 1)
			go func() {
				out, code := g.Witness.Run(t, "restore", "--group", "--target", "lsn:"+at, "--node", to.Name, "--timeline", "1", "--yes")
				done <- fmt.Sprintf("%d: %s", code, out)
			}()
			cluster.Eventually(t, 60*time.Second, "the daemon killed at "+step, fault.Happened)
			to.WaitExit(t, 20*time.Second)
			if g.Other(to).Answers() && g.Other(to).PostgresPID() != 0 {
				if v, err := g.Other(to).TryQuery("select pg_is_in_recovery()"); err == nil && v != "t" {
					t.Errorf("%s writes while the group is restored", g.Other(to).Name)
				}
			}
			to.Start(t)
			t.Log(<-done)
			if got := converged(t, g); !strings.HasPrefix(got, "1001 0 ") {
				t.Errorf("rows %s", got)
			}
			if now := g.WaitHealthy(t).Group.Timeline; now <= timeline {
				t.Errorf("timeline %d after %d", now, timeline)
			} else {
				timeline = now
			}
			g.Primary(t).Exec(t, "insert into kept select i, 'after the moment' from generate_series(3001, 3010) i")
		})
	}
}

// TestRestoreGroup_Withdrawn takes a restore back while the database is being
// overwritten: the others go on with everything.
func TestRestoreGroup_Withdrawn(t *testing.T) {
	t.Parallel()
	g, _ := backedUp(t, cluster.WithFaults())
	p, _ := primaryAndStandby(t, g)
	at := moment(t, p)
	all := rows(t, p)
	fault := p.Arm(t, "restore-log", "kill")
	if out, code := g.Witness.Run(t, "restore", "--group", "--target", "lsn:"+at, "--yes", "--wait", "15s"); code == 0 {
		t.Errorf("ended well although the daemon was to be killed: %s", out)
	}
	if !fault.Happened() {
		t.Fatal("nobody was killed")
	}
	g.Witness.MustRun(t, "restore", "--group", "--cancel")
	cluster.Eventually(t, 60*time.Second, "the other node open", func() bool {
		v, err := g.Other(p).TryQuery("select pg_is_in_recovery()")
		return err == nil && v == "f"
	})
	p.Start(t)
	if got := converged(t, g); got != all {
		t.Errorf("rows %s, want %s", got, all)
	}
}
