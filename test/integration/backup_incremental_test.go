package integration_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/shipper/basestream"
	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// TestBackup_Incremental builds sets on one another where the server offers it;
// where it does not, full ones are taken and say why.
func TestBackup_Incremental(t *testing.T) {
	t.Parallel()
	g, disk := guarded(t)
	full := g.WaitSet(t, 40*time.Second, "complete", func(s cluster.Set) bool { return s.State == cluster.Complete && s.Restorable })
	if full.Kind != "full" {
		t.Errorf("the first set is %+v", full)
	}
	if pgtest.Major(t) < basestream.MinIncremental {
		got := g.Witness.TakeBackup(t, "--incremental")
		if out := g.Main.MustRun(t, "sets", got.Label); got.Kind != "full" || !strings.Contains(out, "a full backup was taken instead of an incremental one: the server is PostgreSQL") {
			t.Errorf("set %+v\n%s", got, out)
		}
		return
	}
	g.Witness.ApplyPolicy(t, "backup.incremental: true\n")
	// The servers have not summarized their log so far; the full one turns it on.
	base := g.Witness.TakeBackup(t, "--full")
	var sets []cluster.Set
	for range 2 {
		count(t, g, 200)
		checkpointed(t, g)
		sets = append(sets, g.Witness.TakeBackup(t))
	}
	top := sets[1]
	if want := []string{base.Label, sets[0].Label, top.Label}; !strings.HasSuffix(top.Label, "I") || strings.Join(top.Chain, " ") != strings.Join(want, " ") {
		t.Fatalf("the newest set is %+v, want it to be the last of %v; the notes of the one before:\n%s", top, want, g.Main.MustRun(t, "sets", sets[0].Label))
	}
	if out := g.Main.MustRun(t, "status"); !strings.Contains(out, "The last incremental is "+top.Label) {
		t.Errorf("status:\n%s", out)
	}
	g.Witness.MustRun(t, "verify", top.Label)

	count(t, g, 50)
	disk.WaitLog(t)
	want := g.Primary(t).Query(t, counted)
	dir := filepath.Join(pgtest.Dir(t), "restored")
	out := g.Witness.MustRun(t, "restore", "--target", "latest", "--to", dir, "--promote", "--yes")
	if got := cluster.Open(t, dir).Query(t, counted); got != want || !strings.Contains(out, "are put together, in this order") {
		t.Errorf("restored it holds %s, want %s\n%s", got, want, out)
	}
	g.Witness.MustRun(t, "drill", "--target", "latest")

	// A location that is added gets the whole chain, and all of it can be restored
	// from there alone.
	far := g.AddPlace(t, g.Main, "far")
	far.Wait(t, 60*time.Second, "all sets", func(at cluster.Location) bool { return at.SetN == 4 })
	far.WaitLog(t)
	alone := filepath.Join(pgtest.Dir(t), "alone")
	g.Witness.MustRun(t, "restore", "--from", far.Dir, "--set", top.Label, "--target", "latest", "--to", alone, "--promote", "--yes")
	if got := cluster.Open(t, alone).Query(t, counted); got != want {
		t.Errorf("restored from one location alone it holds %s, want %s", got, want)
	}
}

// checkpointed makes a standby able to begin a backup behind the last one: it can
// only begin at a checkpoint of the primary.
func checkpointed(t *testing.T, g *cluster.Group) {
	t.Helper()
	p := g.Primary(t)
	p.Exec(t, "checkpoint")
	at := p.Query(t, "select pg_current_wal_lsn()")
	s := g.Other(p)
	cluster.Eventually(t, 20*time.Second, s.Name+" has replayed "+at, func() bool {
		got, err := s.TryQuery("select pg_last_wal_replay_lsn() >= '" + at + "'")
		return err == nil && got == "t"
	})
}
