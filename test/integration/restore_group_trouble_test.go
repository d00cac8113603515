package integration_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/test/cluster"
)

// oldRows watches a node until the test's end, or until stop is called: a client
// of it must never see what a restore has thrown away.
func oldRows(t *testing.T, n *cluster.Node) (stop func()) {
	t.Helper()
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			if v, err := n.TryQuery("select count(*) from kept where was = 'after the moment'"); err == nil && v != "0" {
				t.Errorf("a client of %s sees %s rows of the history that was left", n.Name, v)
				return
			}
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	stop = func() {
		select {
		case <-end:
		default:
			close(end)
		}
		<-done
	}
	t.Cleanup(stop)
	return stop
}

// TestRestoreGroup_StandbyAway restores the group while a standby is down. What
// that one has of the history that was left is shown to nobody and goes nowhere,
// also where its log alone goes further than the moment, and its pages do not.
func TestRestoreGroup_StandbyAway(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	g, _ := backedUp(t)
	p, s := primaryAndStandby(t, g)
	at := moment(t, p)
	cluster.CatchUp(t, p, s)
	s.KillEverything(t)
	p.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--yes")
	p.Exec(t, "insert into kept values (5000, 'of the new history')")
	want := rows(t, p)
	if !strings.HasPrefix(want, "1002 0 ") {
		t.Errorf("rows %s, want 1002 and none of after the moment", want)
	}
	stop := oldRows(t, s)
	s.Start(t)
	if got := converged(t, g); got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
	stop()
	g.Switchover(t, s)
	if got := converged(t, g); got != want {
		t.Errorf("rows %s after a switchover, want %s", got, want)
	}
	g.CheckTimelines(t)
}

// TestRestoreGroup_BeforeAChangeOfPrimary brings a group back to a moment that
// lies before the present timeline began, which nobody has to name.
func TestRestoreGroup_BeforeAChangeOfPrimary(t *testing.T) {
	t.Parallel()
	g, _ := backedUp(t)
	p, s := primaryAndStandby(t, g)
	at := moment(t, p)
	g.Switchover(t, s)
	g.WaitHealthy(t)
	s.Exec(t, "insert into kept values (2700, 'after the moment')")
	for _, to := range []*cluster.Node{s, p} {
		g.Witness.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--node", to.Name, "--yes")
		if got := converged(t, g); !strings.HasPrefix(got, "1001 0 ") {
			t.Errorf("rows %s, want 1001 and none of after the moment", got)
		}
		if now := g.Primary(t); now != to {
			t.Errorf("%s is primary, want %s", now.Name, to.Name)
		}
		to.Exec(t, "insert into kept select i, 'after the moment' from generate_series(3001, 3010) i")
	}
	g.CheckTimelines(t)
}

// TestRestoreGroup_PrimaryLost: what no location has is given up on the
// operator's word only.
func TestRestoreGroup_PrimaryLost(t *testing.T) {
	t.Parallel()
	g, _ := backedUp(t)
	p, s := primaryAndStandby(t, g)
	at := moment(t, p)
	cluster.CatchUp(t, p, s)
	p.KillEverything(t)
	restore := []string{"restore", "--group", "--target", "lsn:" + at, "--node", s.Name, "--archive-wait", "2s", "--yes"}
	if out, code := g.Witness.Run(t, restore...); code == 0 || !strings.Contains(out, "given up") {
		t.Errorf("without the primary's word it ended with %d: %s", code, out)
	}
	g.Witness.MustRun(t, append(restore, "--force")...)
	want := rows(t, s)
	if !strings.HasPrefix(want, "1001 0 ") {
		t.Errorf("rows %s, want 1001 and none of after the moment", want)
	}
	stop := oldRows(t, p)
	p.Start(t)
	if got := converged(t, g); got != want {
		t.Errorf("rows %s, want %s", got, want)
	}
	stop()
	if now := g.Primary(t); now != s {
		t.Errorf("%s is primary, want %s", now.Name, s.Name)
	}
	g.CheckTimelines(t)
}

// TestRestoreGroup_LocationAway: a location that cannot take the last log ends a
// restore, and clients are let in again, unless the operator gives that log up.
func TestRestoreGroup_LocationAway(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	g, _ := backedUp(t)
	p, _ := primaryAndStandby(t, g)
	other := g.AddPlace(t, g.Witness, "there")
	at := moment(t, p)
	other.Away(t)
	p.Exec(t, "insert into kept values (2700, 'after the moment')")
	all := rows(t, p)
	restore := []string{"restore", "--group", "--target", "lsn:" + at, "--archive-wait", "3s", "--yes"}
	if out, code := g.Witness.Run(t, restore...); code == 0 {
		t.Errorf("restored although a location lacks log: %s", out)
	}
	letIn(t, p, 2701)
	for i := range 3 { // also when it is withdrawn just while they are shut out
		ended := make(chan int, 1)
		go func() {
			_, code := g.Witness.Run(t, restore...)
			ended <- code
		}()
		cluster.Eventually(t, 20*time.Second, "the restore withdrawn", func() bool {
			_, code := g.Witness.Run(t, "restore", "--group", "--cancel")
			return code == 0
		})
		if code := <-ended; code == 0 {
			t.Error("restored although that was withdrawn")
		}
		letIn(t, p, 2702+i)
	}
	if got := rows(t, p); got == all || !strings.HasPrefix(got, "1507 ") {
		t.Errorf("rows %s after a restore that was given up, before it %s", got, all)
	}
	g.Witness.MustRun(t, append(restore, "--force")...)
	other.Back(t)
	if got := converged(t, g); !strings.HasPrefix(got, "1001 0 ") {
		t.Errorf("rows %s, want 1001 and none of after the moment", got)
	}
}

// letIn waits until clients of a node can write again, which they do.
func letIn(t *testing.T, n *cluster.Node, id int) {
	t.Helper()
	cluster.Eventually(t, 15*time.Second, "clients let in again", func() bool {
		_, err := n.TryQuery(fmt.Sprintf("insert into kept values (%d, 'after the moment') returning id", id))
		return err == nil
	})
}

// TestRestoreGroup_Tablespace: tables outside the data directory go back, too.
func TestRestoreGroup_Tablespace(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	g, _ := backedUp(t)
	p, s := primaryAndStandby(t, g)
	p.Exec(t, "create tablespace elsewhere location ''")
	p.Exec(t, "create table far tablespace elsewhere as select i from generate_series(1, 5000) i")
	backup(t, p)
	at := moment(t, p)
	p.Exec(t, "delete from far where i > 100")
	p.Exec(t, "create tablespace later location ''")
	p.Exec(t, "create table farther tablespace later as select 1 as i")
	for _, to := range []*cluster.Node{p, s} {
		g.Witness.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--timeline", "1", "--node", to.Name, "--yes")
		converged(t, g)
		for _, n := range []*cluster.Node{p, s} {
			if got := n.Query(t, "select count(*) || ' ' || sum(i) from far"); got != "5000 12502500" {
				t.Errorf("%s has %s in its tablespace", n.Name, got)
			}
			if got := n.Query(t, "select count(*) from pg_tablespace where spcname = 'later'"); got != "0" {
				t.Errorf("%s knows a tablespace of after the moment", n.Name)
			}
		}
	}
}

// TestRestoreGroup_HostLost loses the whole host that restores, its server of
// the recovery included; it goes on when it is back.
func TestRestoreGroup_HostLost(t *testing.T) {
	t.Parallel()
	g, _ := backedUp(t, cluster.WithFaults())
	at := moment(t, g.Primary(t))
	for _, step := range []string{"restore-files", "restore-promoted", "restore-final"} {
		run(t, step, func(t *testing.T) {
			to := g.Other(g.Primary(t))
			fault := to.Arm(t, step, "kill")
			done := make(chan string, 1)
			go func() {
				out, code := g.Witness.Run(t, "restore", "--group", "--target", "lsn:"+at, "--node", to.Name, "--timeline", "1", "--yes")
				done <- fmt.Sprintf("%d: %s", code, out)
			}()
			cluster.Eventually(t, 60*time.Second, "the daemon killed at "+step, fault.Happened)
			to.KillEverything(t)
			to.Start(t)
			t.Log(<-done)
			if got := converged(t, g); !strings.HasPrefix(got, "1001 0 ") {
				t.Errorf("rows %s", got)
			}
			g.Primary(t).Exec(t, "insert into kept select i, 'after the moment' from generate_series(3001, 3010) i")
		})
	}
}

// TestRestoreGroup_WhileClientsWrite goes back to a moment in the middle of
// clients' commits: what was visible then is there, and what came later is not.
func TestRestoreGroup_WhileClientsWrite(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	g, _ := backedUp(t)
	p, _ := primaryAndStandby(t, g)
	w := g.Writers(t, 4)
	w.WaitMore(t, 100, 20*time.Second)
	// The snapshot is older than the position.
	at, before, _ := strings.Cut(p.Query(t, "select pg_current_wal_insert_lsn() || '|' || string_agg(writer || ':' || seq, ',') from acked"), "|")
	w.WaitMore(t, 200, 20*time.Second)
	later := strings.Split(p.Query(t, "select string_agg(writer || ':' || seq, ',') from acked"), ",")
	p.WaitPossible(t, "restore", "--group", "--target", "lsn:"+at)
	p.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--yes")
	w.WaitMore(t, 50, 30*time.Second)
	w.Stop()
	converged(t, g)
	have := map[string]bool{}
	for _, r := range strings.Split(g.Primary(t).Query(t, "select string_agg(writer || ':' || seq, ',') from acked"), ",") {
		have[r] = true
	}
	was := strings.Split(before, ",")
	for _, r := range was {
		if !have[r] {
			t.Errorf("row %s was there at the moment and is gone", r)
		}
	}
	stayed := 0
	for _, r := range later {
		if have[r] && !slices.Contains(was, r) {
			stayed++ // committed between the snapshot and the position
		}
	}
	if stayed > 16 {
		t.Errorf("%d of %d rows of after the moment are there", stayed, len(later)-len(was))
	}
}

// TestRestoreGroup_Pair restores a group of two hosts without a witness, with
// either of them.
func TestRestoreGroup_Pair(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	p := cluster.NewPair(t, 20*time.Second)
	p.WaitTogether(t)
	dir := filepath.Join(t.TempDir(), "here")
	p.Main.ApplyPolicy(t, "location.here.kind: local\nlocation.here.node: main\nlocation.here.path: "+dir+"\n")
	p.Main.MustRun(t, "locations", "init", "here", "--yes")
	p.Main.Exec(t, "create table kept (id int primary key, was text)")
	p.Main.Exec(t, "insert into kept select i, 'before the backup' from generate_series(1, 1000) i")
	backup(t, p.Main)
	at := moment(t, p.Main)
	for _, to := range []*cluster.Node{p.Main, p.Backup} {
		run(t, to.Name, func(t *testing.T) {
			to.MustRun(t, "restore", "--group", "--target", "lsn:"+at, "--node", to.Name, "--timeline", "1", "--yes")
			p.WaitOpen(t, to)
			p.WaitTogether(t)
			for _, n := range []*cluster.Node{p.Main, p.Backup} {
				cluster.Eventually(t, 20*time.Second, "the rows of the moment on "+n.Name, func() bool {
					v, err := n.TryQuery("select count(*) || ' ' || count(*) filter (where was = 'after the moment') from kept")
					return err == nil && v == "1001 0"
				})
			}
			to.Exec(t, "insert into kept select i, 'after the moment' from generate_series(3001, 3010) i")
		})
	}
}
