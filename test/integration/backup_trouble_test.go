package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/test/cluster"
)

// smallPlace is room for some pieces of log and few sets.
const smallPlace = 64 << 20

// TestBackup_Trouble has one location fail in every way while another one goes
// on, and what takes backups die.
func TestBackup_Trouble(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("a location with a file system of its own needs root")
	}
	b := &backupTrouble{}
	b.g, b.disk = guarded(t)
	b.small = b.g.AddSmallPlace(t, b.g.Main, "small", smallPlace)
	b.first = b.g.WaitSet(t, 40*time.Second, "complete at both", func(s cluster.Set) bool {
		return s.At("disk").Restorable && s.At("small").Restorable
	})

	run(t, "Unreachable", func(t *testing.T) {
		b.fails(t, "cannot be reached", func() { b.small.Away(t) }, func() { b.small.Back(t) })
	})
	run(t, "ReadOnly", func(t *testing.T) {
		b.fails(t, "read-only", func() { b.small.ReadOnly(t, true) }, func() { b.small.ReadOnly(t, false) })
	})
	run(t, "Full", func(t *testing.T) {
		b.fails(t, "no space left", func() { b.small.Full(t, true) }, func() { b.small.Full(t, false) })
	})
	run(t, "DaemonKilled", b.killed)
	run(t, "DamagedPage", b.damagedPage)
}

type backupTrouble struct {
	g           *cluster.Group
	disk, small *cluster.Place
	first       cluster.Set
}

// fails makes the small location fail. Within a while that is one incident in
// one sentence, the other location has all log and takes a backup meanwhile, and
// after the repair the small one catches up by itself without a gap.
func (b *backupTrouble) fails(t *testing.T, sentence string, fail, repair func()) {
	fail()
	repaired := false
	defer func() {
		if !repaired {
			repair()
		}
	}()
	count(t, b.g, 50)
	b.disk.WaitLog(t)
	key := "location-" + b.small.Name
	st := b.g.WaitStatus(t, 60*time.Second, "the incident "+key, func(s cluster.Status) bool { return standing(s, key) != "" })
	text := standing(st, key)
	t.Log(text)
	b.oneSentence(t, text, sentence)
	if other := standing(st, "location-"+b.disk.Name); other != "" {
		t.Errorf("the other location has an incident, too: %s", other)
	}
	set := b.g.Witness.TakeBackup(t)
	if !set.At(b.disk.Name).Restorable || set.At(b.small.Name).State == cluster.Complete {
		t.Errorf("set %+v, want a copy at %s only", set, b.disk.Name)
	}
	repair()
	repaired = true
	b.g.WaitStatus(t, 40*time.Second, "the end of the incident "+key, func(s cluster.Status) bool { return standing(s, key) == "" })
	at := b.small.WaitLog(t)
	if len(at.Gaps) > 0 {
		t.Errorf("location %+v, want no gap", at)
	}
	b.small.CheckLog(t)
	b.g.WaitSet(t, 40*time.Second, set.Label+" at both", func(s cluster.Set) bool { return s.Label == set.Label && s.At(b.small.Name).Restorable })
	cluster.SameSet(t, b.disk, b.small, set.Label)
	sameAs(t, b.small, b.first.Label, b.g.Primary(t).Query(t, counted))
}

// oneSentence checks what an incident about the location that fails says: its
// name once, an object's at most once, and no name of a temporary file.
func (b *backupTrouble) oneSentence(t *testing.T, text, sentence string) {
	t.Helper()
	if !strings.Contains(text, sentence) || strings.Contains(text, "\n") || len(text) > 400 {
		t.Errorf("the incident says %q, want one sentence with %q", text, sentence)
	}
	if n := strings.Count(text, "location "+b.small.Name); n != 1 {
		t.Errorf("the incident names the location %d times: %s", n, text)
	}
	if strings.Count(text, "test/postgres/") > 1 || strings.Contains(text, ".tmp") || strings.Contains(text, ".uploads") || strings.Contains(text, ".part") {
		t.Errorf("the incident names files: %s", text)
	}
}

// killed loses the daemon that takes a backup: its job is lost, the next one
// works, and nothing of the lost one stays.
func (b *backupTrouble) killed(t *testing.T) {
	b.g.WaitNoJobs(t, 20*time.Second)
	b.g.Main.ApplyPolicy(t, "backup.rate: 2MiB\n")
	b.g.Witness.MustRun(t, "backup", "--detach")
	var job cluster.Job
	cluster.Eventually(t, 20*time.Second, "a backup on its way", func() bool {
		jobs, err := b.g.Witness.Jobs()
		if err != nil || len(jobs) == 0 || jobs[0].Kind != "backup" || jobs[0].State != cluster.Running {
			return false
		}
		job = jobs[0]
		parts, _ := filepath.Glob(filepath.Join(b.disk.Dir, ".tmp", "*"))
		return len(parts) > 0
	})
	n := b.g.Node(job.Node)
	n.Kill(t)
	n.Start(t)
	cluster.Eventually(t, 40*time.Second, "the job counted as lost", func() bool {
		jobs, err := b.g.Witness.Jobs()
		for _, j := range jobs {
			if j.ID == job.ID {
				return err == nil && j.State == cluster.Lost
			}
		}
		return false
	})
	b.g.Main.ApplyPolicy(t, "backup.rate: 0\n")
	b.g.WaitHealthy(t)
	b.g.WaitNoJobs(t, 30*time.Second)
	set := b.g.Witness.TakeBackup(t)
	b.g.WaitAt(t, set.Label, b.disk, b.small)
	for _, p := range []*cluster.Place{b.disk, b.small} {
		p.Set(t, "keep: 1", "keep_days: 0")
		p.Age(t, 25*time.Hour)
	}
	b.g.Witness.MustRun(t, "prune", "--yes")
	b.g.WaitNoJobs(t, 20*time.Second)
	for _, p := range []*cluster.Place{b.disk, b.small} {
		p.OnlySets(t, set.Label)
		p.WaitLog(t)
		sameAs(t, p, set.Label, b.g.Primary(t).Query(t, counted))
	}
	b.first = set
}

// damagedPage flips a byte in a file of the database from which backups are
// taken: the backup says so, and nothing is deleted until a sound one is there.
func (b *backupTrouble) damagedPage(t *testing.T) {
	p, s := primaryAndStandby(t, b.g)
	p.Exec(t, "checkpoint")
	cluster.CatchUp(t, p, s)
	s.Exec(t, "checkpoint")
	file := filepath.Join(s.DataDir(), p.Query(t, "select pg_relation_filepath('counted')"))
	cluster.Flip(t, file, 0.4)
	bad := b.g.Witness.TakeBackup(t)
	if !bad.Damaged || bad.Node != s.Name {
		t.Errorf("set %+v, want damaged pages of %s", bad, s.Name)
	}
	st := b.g.WaitStatus(t, 20*time.Second, "an incident about damaged pages", func(st cluster.Status) bool { return damageOf(st) != "" })
	t.Log(damageOf(st))
	sets, err := b.g.Witness.Sets()
	if err != nil || sets.Frozen == "" {
		t.Errorf("sets %+v, %v: want deletions stopped", sets, err)
	}
	if out := b.g.Witness.MustRun(t, "prune", "--yes"); !strings.Contains(out, "Nothing is deleted: the database had damaged pages when set "+bad.Label) {
		t.Errorf("prune says:\n%s", out)
	}
	cluster.Flip(t, file, 0.4)
	good := b.g.Witness.TakeBackup(t)
	if sets, err = b.g.Witness.Sets(); good.Damaged || err != nil || sets.Frozen != "" {
		t.Errorf("after a sound backup %+v: %q, %v", good, sets.Frozen, err)
	}
}

// damageOf is what an incident says of damaged pages.
func damageOf(st cluster.Status) string {
	for _, i := range st.Incidents {
		if strings.HasSuffix(i.Key, "backup-damaged") { // after the name of the node that says so
			return i.Key + ": " + i.Text
		}
	}
	return ""
}
