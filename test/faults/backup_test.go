package faults_test

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/test/cluster"
	"understudy/test/pgtest"
)

// The kinds of a round of the campaign of backups: what is under way when
// something is killed.
var backupKinds = []string{"backup", "archive", "prune", "fill", "restore"}

// backupPlan is one round: what is killed, and how long after the work began.
type backupPlan struct {
	n      int
	kind   string
	victim string // "worker", "daemon" or "host" of the node that works
	after  time.Duration
}

// makeBackupPlan makes round n of a seed; every kind comes before any comes a
// second time.
func makeBackupPlan(seed uint64, n int) backupPlan {
	turn := rand.New(rand.NewPCG(seed, uint64(n/len(backupKinds))<<32))
	r := rand.New(rand.NewPCG(seed, uint64(n)+1))
	p := backupPlan{n: n, kind: backupKinds[turn.Perm(len(backupKinds))[n%len(backupKinds)]]}
	p.victim = []string{"worker", "worker", "worker", "daemon", "daemon", "host"}[r.IntN(6)]
	longest := map[string]time.Duration{"backup": 2500 * time.Millisecond, "archive": time.Second, "prune": 400 * time.Millisecond,
		"fill": 400 * time.Millisecond, "restore": 1500 * time.Millisecond}[p.kind]
	p.after = time.Duration(r.Int64N(int64(longest)))
	if p.kind == "restore" {
		p.victim = "command"
	}
	return p
}

func (p backupPlan) String() string {
	return fmt.Sprintf("kill the %s %s after the beginning of a %s", p.victim, p.after.Round(time.Millisecond), p.kind)
}

// TestBackups kills what works on backups at random moments. Afterwards whatever
// is called complete can be restored, and nothing lies around.
func TestBackups(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("the campaign restores as another account, which needs root")
	}
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())%1_000_000 + 1
	}
	t.Logf("make faults-backup SEED=%d FROM=%d ROUNDS=%d", s, *from, *rounds)
	var c *backupCampaign
	failures := 0
	for n := *from; n < *from+*rounds && failures < mostFailures; n++ {
		if c == nil {
			c = newBackupCampaign(t)
		}
		p, began := makeBackupPlan(s, n), time.Now()
		ok := t.Run(fmt.Sprintf("Round%d", n), func(rt *testing.T) {
			r := &backupRound{backupCampaign: c, t: rt, p: p, rand: rand.New(rand.NewPCG(s, uint64(n)<<20))}
			defer func() {
				if rt.Failed() {
					rt.Logf("repeat: make faults-backup SEED=%d FROM=%d ROUNDS=1\nround: %s\n%s", s, n, p, strings.Join(r.notes, "\n"))
				}
			}()
			r.do()
		})
		t.Logf("round %d: %s: %s%s", n, p, time.Since(began).Round(100*time.Millisecond), map[bool]string{false: " FAILED"}[ok])
		if !ok {
			failures++
			c.g.Abandon(t)
			c = nil
		}
	}
	if c != nil {
		t.Run("End", func(et *testing.T) {
			(&backupRound{backupCampaign: c, t: et}).restoreAll(1 << 30)
		})
	}
}

// backupCampaign is what the rounds share: a group with two locations.
type backupCampaign struct {
	g         *cluster.Group
	disk, far *cluster.Place
}

func newBackupCampaign(t *testing.T) *backupCampaign {
	g := cluster.New(t, cluster.WithPolicy("failover: automatic\n"+cluster.QuietBackups+"backup.rate: 16MiB\n"))
	g.WaitHealthy(t)
	g.Primary(t).Exec(t, "create table counted (id bigint primary key, pad text); create table buckets (id int primary key, n bigint);"+
		"insert into buckets select i, 0 from generate_series(0, 99) i")
	c := &backupCampaign{g: g, disk: g.AddPlace(t, g.Backup, "disk", "keep: 2", "keep_days: 0"), far: g.AddPlace(t, g.Main, "far", "keep: 2", "keep_days: 0")}
	g.WaitSet(t, time.Minute, "the first", func(s cluster.Set) bool { return s.State == cluster.Complete })
	return c
}

func (c *backupCampaign) places() []*cluster.Place { return []*cluster.Place{c.disk, c.far} }

// backupRound is one round on its way.
type backupRound struct {
	*backupCampaign
	t     *testing.T
	p     backupPlan
	rand  *rand.Rand
	notes []string
}

func (r *backupRound) note(format string, args ...any) {
	r.notes = append(r.notes, time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
}

func (r *backupRound) do() {
	r.count(40)
	switch r.p.kind {
	case "backup":
		r.g.Witness.MustRun(r.t, "backup", "--detach")
		r.killAtWork(r.worker("backup"))
	case "archive":
		r.archive()
	case "prune":
		set := r.g.Witness.TakeBackup(r.t)
		r.g.WaitAt(r.t, set.Label, r.places()...)
		r.g.Witness.MustRun(r.t, "prune", "--yes", "--detach")
		r.killAtWork(r.worker("prune"))
	case "fill":
		r.fill()
	case "restore":
		r.restore()
	}
	r.recover()
	r.check()
}

// count commits rows whose sum must agree with what is counted beside them.
func (r *backupRound) count(n int) {
	sql := fmt.Sprintf(`do $$ declare x bigint; begin
		select coalesce(max(id), 0) into x from counted;
		for i in 1..%d loop
			insert into counted values (x + i, repeat(md5((x + i)::text), 20));
			update buckets b set n = b.n + 1 where b.id = (x + i) %% 100;
			commit;
		end loop; end $$`, n)
	// A primary that was just killed is not known to be gone everywhere.
	var err error
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if _, err = r.g.Primary(r.t).TryQuery(sql); err == nil {
			return
		}
	}
	r.t.Fatalf("commit: %v", err)
}

// counted is what a server holds of it, equal for equal contents.
const counted = `select case when c = m and c = s and c = coalesce(k, 0) then c || ' rows ' || d else
	format('torn: %s rows up to %s, counted as %s, by the index %s', c, m, s, k) end from
	(select count(*) c, coalesce(max(id), 0) m, coalesce(md5(string_agg(id || pad, ' ' order by id)), '') d from counted) a,
	(select sum(n) s from buckets) b, (select count(id) k from counted where id > 0) e`

// worker waits for the process of a job of a kind, and names it and its node. A
// job may be over before it is seen.
func (r *backupRound) worker(kind string) (n *cluster.Node, pid int) {
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		jobs, err := r.g.Witness.Jobs()
		i := slices.IndexFunc(jobs, func(j cluster.Job) bool { return j.Kind == kind })
		if err != nil || i < 0 {
			continue
		}
		n = r.g.Node(jobs[i].Node)
		if jobs[i].State != cluster.Running {
			r.note("%s %s of %s is %s already", kind, jobs[i].ID, n.Name, jobs[i].State)
			return n, 0
		}
		if pid = n.Workers()[jobs[i].ID]; pid != 0 {
			return n, pid
		}
	}
	r.note("no %s was seen", kind)
	return r.g.Backup, 0
}

// killAtWork waits for the moment of the round and kills.
func (r *backupRound) killAtWork(n *cluster.Node, pid int) {
	time.Sleep(r.p.after)
	r.note("kill the %s of %s (worker %d)", r.p.victim, n.Name, pid)
	switch {
	case r.p.victim == "worker":
		if pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL) // it may have ended
		}
	case r.p.victim == "daemon":
		n.Kill(r.t)
	default:
		n.KillEverything(r.t)
	}
}

// archive kills while segment after segment goes to the locations.
func (r *backupRound) archive() {
	n := []*cluster.Node{r.g.Main, r.g.Backup}[r.rand.IntN(2)]
	p := r.g.Primary(r.t)
	for range 3 + r.rand.IntN(4) {
		p.Exec(r.t, "select pg_logical_emit_message(true, 'x', repeat('x', 100000)); select pg_switch_wal()")
	}
	r.killAtWork(n, n.Workers()[cluster.ArchiveWorker])
}

// fill has a location miss a backup, which then comes to it.
func (r *backupRound) fill() {
	r.far.Set(r.t, "enabled: false")
	set := r.g.Witness.TakeBackup(r.t)
	r.note("%s is to be filled with %s", r.far.Name, set.Label)
	r.far.Set(r.t, "enabled: true")
	r.killAtWork(r.worker("fill"))
}

// restore kills the command, repeats it and compares.
func (r *backupRound) restore() {
	r.disk.WaitLog(r.t)
	want := r.g.Primary(r.t).Query(r.t, counted)
	dir := filepath.Join(pgtest.Dir(r.t), "restored")
	args := []string{"restore", "--from", r.disk.Dir, "--to", dir, "--target", "latest", "--promote", "--yes"}
	cmd := r.g.Witness.Command(args...)
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	time.Sleep(r.p.after)
	cmd.Process.Kill()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	r.note("restore killed: %v", cmd.ProcessState)
	if _, err := os.Stat(filepath.Join(dir, "global", "pg_control")); cmd.ProcessState.ExitCode() != 0 && err == nil {
		r.note("killed with a pg_control in place")
	}
	if cmd.ProcessState.ExitCode() != 0 {
		out, code := r.g.Witness.Run(r.t, args...)
		// The server that replayed ends a little after the command.
		for deadline := time.Now().Add(30 * time.Second); code == 4 && strings.Contains(out, "a PostgreSQL runs on") && time.Now().Before(deadline); {
			time.Sleep(200 * time.Millisecond)
			out, code = r.g.Witness.Run(r.t, args...)
		}
		if r.note("%s", out); code != 0 {
			r.t.Fatalf("the same command again ended with %d\n%s", code, out)
		}
	}
	s := cluster.Open(r.t, dir)
	defer s.Stop(r.t)
	if got := s.Query(r.t, counted); got != want {
		r.t.Errorf("restored to the end of the log it holds %s, want %s", got, want)
	}
}

// recover starts what does not run, takes a backup that everybody has, and has
// what is not kept deleted.
func (r *backupRound) recover() {
	for _, n := range r.g.Nodes() {
		if !n.Running() {
			n.Start(r.t)
		}
	}
	r.g.WaitHealthy(r.t)
	r.g.WaitNoJobs(r.t, 60*time.Second)
	r.count(10)
	set := r.g.Witness.TakeBackup(r.t)
	r.g.WaitAt(r.t, set.Label, r.places()...)
	r.g.WaitNoJobs(r.t, 60*time.Second)
	for _, p := range r.places() {
		p.WaitLog(r.t)
		p.Age(r.t, 25*time.Hour)
	}
	r.g.Witness.MustRun(r.t, "prune", "--yes")
	r.g.WaitNoJobs(r.t, 60*time.Second)
}

// check: nothing that nobody knows lies at a location, and what is called
// complete can be restored.
func (r *backupRound) check() {
	sets, err := r.g.Witness.Sets()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range r.places() {
		whole, failed := map[string]bool{}, map[string]bool{}
		for _, s := range sets.Sets {
			switch {
			case s.State == cluster.Failed:
				failed[s.Label] = true // kept for those who want to know why
			case s.At(p.Name).State == cluster.Complete:
				whole[s.Label] = true
				if !s.At(p.Name).Restorable {
					r.t.Errorf("set %s is complete at %s and cannot be restored there: %+v", s.Label, p.Name, s)
				}
			case s.At(p.Name).State != "":
				r.t.Errorf("set %s is %q at %s after all jobs have ended", s.Label, s.At(p.Name).State, p.Name)
			}
		}
		if len(whole) != 2 {
			r.t.Errorf("%s has %v, two sets are to be kept", p.Name, slices.Sorted(maps.Keys(whole)))
		}
		p.OnlySetsBut(r.t, failed, slices.Sorted(maps.Keys(whole))...)
		if at := p.Location(r.t); len(at.Gaps) > 0 || at.Problem != "" {
			r.t.Errorf("location %+v", at)
		}
	}
	most := 1
	if r.p.n%10 == 0 {
		most = 4
	}
	r.restoreAll(most)
}

// restoreAll restores so many of the sets that are called complete, from one
// location alone, and compares with the primary.
func (r *backupRound) restoreAll(most int) {
	for _, p := range r.places() {
		p.WaitLog(r.t)
	}
	want := r.g.Primary(r.t).Query(r.t, counted)
	sets, err := r.g.Witness.Sets()
	if err != nil {
		r.t.Fatal(err)
	}
	type copied struct {
		label string
		at    *cluster.Place
	}
	var all []copied
	for _, s := range sets.Sets {
		for _, p := range r.places() {
			if s.At(p.Name).State == cluster.Complete {
				all = append(all, copied{s.Label, p})
			}
		}
	}
	if r.rand != nil {
		r.rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	}
	for _, c := range all[:min(most, len(all))] {
		s, err := c.at.TryRestore(r.t, c.label)
		if err != nil {
			r.t.Errorf("set %s is complete at %s and cannot be restored: %v", c.label, c.at.Name, err)
			continue
		}
		if got := s.Query(r.t, counted); got != want {
			r.t.Errorf("set %s of %s restored holds %s, want %s", c.label, c.at.Name, got, want)
		}
		s.Stop(r.t)
	}
}
