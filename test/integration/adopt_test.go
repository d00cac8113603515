package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// TestAdopt_AfterTheLossOfEverything: all nodes are gone, and one location is
// left. What is restored from it becomes a group again, which goes on with the
// backups that lie there.
func TestAdopt_AfterTheLossOfEverything(t *testing.T) {
	t.Parallel()
	host := hostFiles(t)
	g := healthy(t, cluster.WithPolicy("failover: manual\nbackup.extra: "+host+"\n"+cluster.QuietBackups))
	makeCounted(t, g)
	disk := g.AddPlace(t, g.Backup, "disk")
	old := g.WaitSet(t, 40*time.Second, "complete", func(s cluster.Set) bool { return s.State == cluster.Complete && s.Restorable })
	count(t, g, 100)
	disk.WaitLog(t)
	want := g.Primary(t).Query(t, counted)
	destroy(t, g)

	m := g.Main
	both := filepath.Join(t.TempDir(), "host")
	if out := m.MustRun(t, "restore", "--from", disk.Dir, "--to", m.DataDir(), "--extra", both, "--yes"); !strings.Contains(out, "timeline    2") || !strings.Contains(out, "below "+both) {
		t.Fatalf("restored:\n%s", out)
	}
	if _, err := os.Stat(filepath.Join(both, host, "key")); err != nil {
		t.Error(err)
	}
	run(t, "OtherFiles", func(t *testing.T) { otherFiles(t, m, disk, old.Label, host) })
	policy := filepath.Join(g.Dir, "adopted.yaml")
	lines := "failover: manual\n" + cluster.QuietBackups + "location.disk.kind: local\nlocation.disk.node: backup\nlocation.disk.path: " + disk.Dir + "\n"
	if err := os.WriteFile(policy, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	before := picture(t, m.Dir)
	m.Refused(t, 4, "init --adopt", "init", "--policy", policy)
	if out := m.MustRun(t, "init", "--adopt", "--dry-run"); !strings.Contains(out, "timeline 2") || !strings.Contains(out, old.Label) {
		t.Errorf("the plan:\n%s", out)
	}
	unchanged(t, before, picture(t, m.Dir))
	t.Log(m.MustRun(t, "init", "--adopt", "--policy", policy, "--yes"))
	m.Refused(t, 4, "belongs to a group already", "init", "--adopt", "--yes")

	g.Start(t)
	g.WaitHealthy(t)
	if got := g.Primary(t).Query(t, counted); got != want {
		t.Fatalf("the new group holds %s, want %s", got, want)
	}
	count(t, g, 50)
	run(t, "BackupsGoOn", func(t *testing.T) { backupsGoOn(t, g, disk, old) })
	run(t, "FailoverAndReturn", func(t *testing.T) { lostAndBack(t, g) })
}

// lostAndBack: the histories of all nodes agree also on what was before the
// group, or the old primary could not come back by a rewind.
func lostAndBack(t *testing.T, g *cluster.Group) {
	t.Helper()
	g.WaitNoJobs(t, 30*time.Second)
	lost := g.Primary(t)
	lost.KillEverything(t)
	c := g.Failover(t, g.Other(lost))
	count(t, g, 10)
	lost.Start(t)
	back := g.WaitReturned(t, c.Epoch)
	if c.Timeline != 3 || back.Return == nil || back.Return.Method != "follow" && back.Return.Method != "rewind" {
		t.Errorf("changed to timeline %d, came back as %+v", c.Timeline, back.Return)
	}
	g.WaitHealthy(t)
}

// TestAdopt_SomebodysDatabase: an existing database with settings of its own, one
// of which a group cannot have, gets standbys without being copied first.
func TestAdopt_SomebodysDatabase(t *testing.T) {
	onlyWithAll(t)
	t.Parallel()
	g := cluster.New(t, cluster.WithoutStart())
	destroy(t, g)
	c := pgtest.Init(t, "wal_level=minimal", "max_wal_senders=0", "work_mem=7MB", "max_connections=60")
	c.Start(t)
	c.Exec(t, "create table before (i int primary key); insert into before select generate_series(1, 1000)")
	c.Exec(t, "alter system set synchronous_standby_names = 'gone'")
	c.Stop(syscall.SIGINT)
	if err := os.Rename(c.Data, g.Main.DataDir()); err != nil {
		t.Fatal(err)
	}
	out := g.Main.MustRun(t, "init", "--adopt", "--yes")
	for _, want := range []string{"wal_level minimal becomes replica", "synchronous_standby_names", "no data checksums"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not said:\n%s", want, out)
		}
	}
	g.Start(t)
	g.WaitHealthy(t)
	g.Main.Exec(t, "insert into before select generate_series(1001, 2000)")
	cluster.CatchUp(t, g.Main, g.Backup)
	const sum = "select count(*) || ' ' || current_setting('work_mem') || ' ' || current_setting('wal_level') from before"
	for _, n := range []*cluster.Node{g.Main, g.Backup} {
		if got := n.Query(t, sum); got != "2000 7MB replica" {
			t.Errorf("%s holds %s", n.Name, got)
		}
	}
}

// hostFiles are files of the host that go into every set.
func hostFiles(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(pgtest.Dir(t), "app")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"app.conf": "of the application\n", "key": "secret\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// destroy leaves nothing of any node but its file and its certificate.
func destroy(t *testing.T, g *cluster.Group) {
	t.Helper()
	for _, n := range g.Nodes() {
		n.KillEverything(t)
	}
	for _, n := range g.Nodes() {
		for _, dir := range []string{n.StateDir(), n.DataDir(), n.RunDir()} {
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// otherFiles: what a set has beside the database comes back below a directory.
func otherFiles(t *testing.T, n *cluster.Node, p *cluster.Place, label, host string) {
	t.Helper()
	if out := n.MustRun(t, "sets", "files", label, "--from", p.Dir); !strings.Contains(out, host+"/app.conf") {
		t.Errorf("listed:\n%s", out)
	}
	to := filepath.Join(t.TempDir(), "host")
	out := n.MustRun(t, "restore", "--from", p.Dir, "--extra", to, "--yes")
	b, err := os.ReadFile(filepath.Join(to, host, "app.conf"))
	if err != nil || string(b) != "of the application\n" || !strings.Contains(out, host+"/app.conf") {
		t.Errorf("unpacked %q, %v:\n%s", b, err, out)
	}
	n.Refused(t, 4, "is not empty", "restore", "--from", p.Dir, "--extra", to, "--yes")
}

// backupsGoOn: the location that the lost group fed is fed by the new one, which
// learns what lies there.
func backupsGoOn(t *testing.T, g *cluster.Group, disk *cluster.Place, old cluster.Set) {
	t.Helper()
	g.WaitSet(t, 40*time.Second, "complete, of the new group", func(s cluster.Set) bool {
		return s.Label != old.Label && s.State == cluster.Complete && s.Restorable
	})
	disk.WaitLog(t)
	g.Main.MustRun(t, "ledger", "rebuild", "--from", disk.Name, "--yes")
	g.WaitSet(t, 10*time.Second, "known again", func(s cluster.Set) bool { return s.Label == old.Label && s.At(disk.Name).Restorable })
	if at := disk.WaitLog(t); len(at.Gaps) > 0 || at.Timeline != 2 {
		t.Errorf("location %+v, want timeline 2 without a gap", at)
	}
	// From the lost group's set along both groups' log.
	sameAs(t, disk, old.Label, g.Primary(t).Query(t, counted))
}
