package integration_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// TestBackup_Life is the life of two locations from the moment an operator names
// them, through changes of primary.
func TestBackup_Life(t *testing.T) {
	t.Parallel()
	l := &backupLife{}
	l.g, l.disk = guarded(t)

	run(t, "FirstBackupByItself", l.firstByItself)
	run(t, "BackupByCommand", l.byCommand)
	run(t, "RestoredWithStockTools", l.restored)
	run(t, "RestoredToATimeBetweenCommits", l.restoredToTime)
	run(t, "SecondLocationIsFilled", l.secondLocation)
	run(t, "Switchover", l.switchover)
	run(t, "Failover", l.failover)
	run(t, "Prune", l.prune)
	run(t, "VerifyFindsAFlippedByte", l.verify)
}

type backupLife struct {
	g             *cluster.Group
	disk, far     *cluster.Place
	first, second cluster.Set
}

func (l *backupLife) firstByItself(t *testing.T) {
	l.first = l.g.WaitSet(t, 40*time.Second, "complete", func(s cluster.Set) bool { return s.State == cluster.Complete && s.Restorable })
	if cp := l.first.At(l.disk.Name); cp.State != cluster.Complete || !cp.Restorable || l.first.Node != cluster.Backup {
		t.Errorf("set %+v, want one taken on the standby that can be restored from %s alone", l.first, l.disk.Name)
	}
	at := l.disk.Wait(t, 10*time.Second, "fed, with a set", func(l cluster.Location) bool { return l.Feeder == cluster.Backup && l.SetN == 1 })
	if len(at.Gaps) > 0 || at.Problem != "" {
		t.Errorf("location %+v", at)
	}
}

func (l *backupLife) byCommand(t *testing.T) {
	count(t, l.g, 200)
	l.second = l.g.Witness.TakeBackup(t, "--note", "reason=test")
	if l.second.Label == l.first.Label || !l.second.At(l.disk.Name).Restorable {
		t.Errorf("set %+v", l.second)
	}
	if out := l.g.Main.MustRun(t, "status"); !strings.Contains(out, "can be restored from disk. The last full is "+l.second.Label) {
		t.Errorf("status does not say that %s protects:\n%s", l.second.Label, out)
	}
	if out := l.g.Main.MustRun(t, "sets", l.second.Label); !strings.Contains(out, "reason=test") && !strings.Contains(out, "reason: test") {
		t.Errorf("the note is not told:\n%s", out)
	}
	if out := l.g.Main.MustRun(t, "points"); !strings.Contains(out, "  1     2  ") { // timeline, sets
		t.Errorf("points:\n%s", out)
	}
}

// restored: what a location has needs none of our programs.
func (l *backupLife) restored(t *testing.T) {
	count(t, l.g, 100)
	l.disk.WaitLog(t)
	want := l.g.Primary(t).Query(t, counted)
	sameAs(t, l.disk, l.first.Label, want)
	sameAs(t, l.disk, l.second.Label, want)
	l.disk.CheckLog(t)
}

// restoredToTime: the command needs no daemon, only the location.
func (l *backupLife) restoredToTime(t *testing.T) {
	p := l.g.Primary(t)
	count(t, l.g, 20)
	want := p.Query(t, counted)
	at := p.Query(t, "select clock_timestamp()")
	count(t, l.g, 20)
	l.disk.WaitLog(t)
	dir := filepath.Join(pgtest.Dir(t), "restored")
	// The ledger is told of the log at a location some seconds after it is there.
	out := ""
	cluster.Eventually(t, 15*time.Second, "the log up to "+at+" in the ledger", func() bool {
		var code int
		out, code = l.g.Witness.Run(t, "restore", "--target", at, "--to", dir, "--dry-run")
		return code == 0
	})
	out = l.g.Witness.MustRun(t, "restore", "--target", at, "--to", dir, "--promote", "--yes")
	r := cluster.Open(t, dir)
	if got := r.Query(t, counted); got != want {
		t.Errorf("restored to %s it holds %s, want %s\n%s", at, got, want, out)
	}
	l.g.Witness.Refused(t, 4, l.first.Label[:4], "restore", "--target", "2001-01-01 00:00:00+00", "--to", dir+"2", "--yes")
}

// secondLocation gets by itself what the first has.
func (l *backupLife) secondLocation(t *testing.T) {
	l.far = l.g.AddPlace(t, l.g.Main, "far")
	l.far.Wait(t, 40*time.Second, "both sets", func(at cluster.Location) bool { return at.SetN == 2 && at.Feeder == cluster.Main })
	l.far.WaitLog(t)
	l.disk.WaitLog(t)
	cluster.SameSet(t, l.disk, l.far, l.first.Label)
	cluster.SameSet(t, l.disk, l.far, l.second.Label)
	cluster.SameLog(t, l.disk, l.far)
	sameAs(t, l.far, l.first.Label, l.g.Primary(t).Query(t, counted))
}

func (l *backupLife) switchover(t *testing.T) {
	count(t, l.g, 50)
	c := l.g.Switchover(t, l.g.Backup)
	count(t, l.g, 50)
	l.goesOn(t, c)
}

// goesOn checks that both locations have all log after a change of primary.
func (l *backupLife) goesOn(t *testing.T, c cluster.Change) {
	t.Helper()
	l.g.WaitReturned(t, c.Epoch)
	want := l.g.Primary(t).Query(t, counted)
	for _, p := range []*cluster.Place{l.disk, l.far} {
		if at := p.WaitLog(t); len(at.Gaps) > 0 || at.Timeline != c.Timeline {
			t.Errorf("location %+v, want timeline %d without a gap", at, c.Timeline)
		}
		p.CheckLog(t)
		sameAs(t, p, l.first.Label, want)
	}
	cluster.SameLog(t, l.disk, l.far)
}

// failover: the node that is lost has a location, which goes on once it is back.
func (l *backupLife) failover(t *testing.T) {
	l.g.WaitHealthy(t)
	count(t, l.g, 50)
	lost := l.g.Primary(t)
	lost.KillEverything(t)
	c := l.g.Failover(t, l.g.Other(lost))
	count(t, l.g, 50)
	lost.Start(t)
	l.goesOn(t, c)
}

// prune leaves at one location what can still be restored there, and the other
// one alone.
func (l *backupLife) prune(t *testing.T) {
	l.g.WaitHealthy(t)
	l.g.WaitNoJobs(t, 30*time.Second) // a backup of the new timeline is taken by itself
	newest := l.g.Witness.TakeBackup(t)
	l.g.WaitAt(t, newest.Label, l.disk, l.far)
	before := l.far.Log(t)
	l.disk.Set(t, "keep: 1", "keep_days: 0")
	t.Log(l.g.Witness.MustRun(t, "prune", "--location", l.disk.Name, "--yes"))
	at := l.disk.Wait(t, 10*time.Second, "one set", func(at cluster.Location) bool { return at.SetN == 1 })
	if at.Newest != newest.Label {
		t.Errorf("location %+v, want %s kept", at, newest.Label)
	}
	l.disk.OnlySets(t, newest.Label)
	if log := l.disk.Log(t); len(log.Whole[1]) > 0 {
		t.Errorf("log of the first timeline is still there: %v", log)
	}
	count(t, l.g, 20)
	l.disk.WaitLog(t)
	want := l.g.Primary(t).Query(t, counted)
	sameAs(t, l.disk, newest.Label, want)
	for timeline, list := range before.Whole {
		if now := l.far.Log(t).Whole[timeline]; len(now) < len(list) {
			t.Errorf("%s has segments %v of timeline %d, before %v", l.far.Name, now, timeline, list)
		}
	}
	l.far.WaitLog(t)
	sameAs(t, l.far, l.second.Label, want)
}

// verify finds a byte that was changed, and the other location heals it.
func (l *backupLife) verify(t *testing.T) {
	newest := l.g.WaitSet(t, 5*time.Second, "at both", func(s cluster.Set) bool { return s.At(l.disk.Name).Restorable && s.At(l.far.Name).Restorable })
	out := l.g.Witness.MustRun(t, "verify", newest.Label)
	if s := l.g.WaitSet(t, 5*time.Second, "proven", func(s cluster.Set) bool { return s.Label == newest.Label }); s.At(l.disk.Name).Verified.IsZero() || s.At(l.far.Name).Verified.IsZero() {
		t.Errorf("set %+v after a verification:\n%s", s, out)
	}
	cluster.Flip(t, l.disk.SetDir(newest.Label)+"/base.tar.zst", 0.37)
	out, code := l.g.Witness.Run(t, "verify", newest.Label, "--location", l.disk.Name)
	if code == 0 || !strings.Contains(out, "base.tar.zst") {
		t.Errorf("verify ended with %d:\n%s", code, out)
	}
	l.g.WaitSet(t, 30*time.Second, newest.Label+" whole again at "+l.disk.Name, func(s cluster.Set) bool {
		return s.Label == newest.Label && s.At(l.disk.Name).Restorable
	})
	cluster.SameSet(t, l.disk, l.far, newest.Label)
}
