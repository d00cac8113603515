package node_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/node"
	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// restarting is a daemon that is started anew when it has been given a job, as
// often as restarts says.
type restarting struct {
	t      *testing.T
	say    func(facts.Command) error
	state  func() facts.State
	report decide.Report

	mu       sync.Mutex
	restarts int
	run      int
}

func (d *restarting) says() decide.Report {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.report
	r.Boot = "boot-" + string(rune('1'+d.run))
	for id, j := range d.state().Backups.Jobs {
		switch {
		case j.Lease == r.Boot && d.restarts == 0:
			r.Work = append(r.Work, decide.Work{Job: id})
		case j.Lease == r.Boot:
			d.restarts--
			d.run++
			r.Boot = "boot-" + string(rune('1'+d.run))
			if err := d.say(facts.Command{LoseJobs: &facts.LoseJobs{Store: r.Store, Keep: r.Boot, Why: "the daemon was started anew"}}); err != nil {
				d.t.Error(err)
			}
		}
	}
	return r
}

// An order that meets a daemon just before it is started anew is carried out by
// the next run, and says so.
func TestBackupOrder_MeetsARestart(t *testing.T) {
	p, _ := backupPlanner(t)
	st := p.State()
	d := &restarting{t: t, state: p.State, restarts: 1,
		say: func(c facts.Command) error { return p.Propose(t.Context(), c) },
		report: decide.Report{Node: st.Members[p.Store()].Name, Store: p.Store(), Role: decide.RoleStandby,
			Server: decide.Server{State: decide.ServerReplica, Streaming: true}},
	}
	p.Runs(d.says)
	r := do[doc.JobsReply](t, p, "backup", "")
	if len(r.Jobs) != 1 || r.Jobs[0].State != doc.JobRunning {
		t.Fatalf("got %+v", r)
	}
	if j, ok := p.State().Job(r.Jobs[0].ID); !ok || j.Lease != "boot-2" || j.State != facts.JobRunning {
		t.Errorf("got %+v", j)
	}
	if last := r.Steps[len(r.Steps)-1]; last != d.report.Node+" had just been started anew and is told again: it is job "+r.Jobs[0].ID+"." {
		t.Errorf("it says %q", last)
	}
}

func TestEnded(t *testing.T) {
	job := facts.Job{Node: "backup", Lease: "b1", State: facts.JobLost, Ended: backupNow}
	for name, tt := range map[string]struct {
		state facts.JobState
		run   string
		after time.Duration
		want  bool
	}{
		"Runs":                 {facts.JobRunning, "b1", 48 * time.Hour, false},
		"Done":                 {facts.JobDone, "b1", 0, true},
		"Failed":               {facts.JobFailed, "", 0, true},
		"Cancelled":            {facts.JobCancelled, "b1", 0, true},
		"LostAndNotHeard":      {facts.JobLost, "", time.Hour, false},
		"LostAndStillThere":    {facts.JobLost, "b1", time.Hour, false},
		"LostByARestart":       {facts.JobLost, "b2", time.Hour, true},
		"LostByARestartNow":    {facts.JobLost, "b2", time.Second, false},
		"LostLongAgo":          {facts.JobLost, "", 24 * time.Hour, true},
		"LostBeforeItHasComes": {facts.JobLost, "b2", -time.Hour, false},
	} {
		t.Run(name, func(t *testing.T) {
			j := job
			j.State = tt.state
			if got := node.Ended(j, map[string]string{"backup": tt.run}, backupNow.Add(tt.after)); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestSweepPart(t *testing.T) {
	job := func(id string, kind facts.JobKind, state facts.JobState, label string, began time.Duration, at ...string) facts.Job {
		return facts.Job{ID: id, Kind: kind, State: state, Label: label, Node: "backup", Lease: "b1", Locations: at,
			Began: backupNow.Add(began), Ended: backupNow.Add(began + time.Minute)}
	}
	st := facts.State{}
	st.Backups.Finished = []facts.Job{
		job("a", facts.JobBackup, facts.JobFailed, "20260101-000000F", -9*time.Hour, "nas"),
		job("b", facts.JobBackup, facts.JobLost, "20260102-000000F", -8*time.Hour, "nas"),
		job("c", facts.JobFill, facts.JobDone, "20260103-000000F", -7*time.Hour, "offsite"),
		job("d", facts.JobBackup, facts.JobFailed, "20260104-000000F", -6*time.Hour, "nas"),
	}
	st.Backups.Jobs = map[string]facts.Job{
		"e": job("e", facts.JobBackup, facts.JobRunning, "20260105-000000F", -time.Hour, "nas", "offsite"),
		"f": job("f", facts.JobFill, facts.JobRunning, "20260104-000000F", -2*time.Hour, "offsite"),
		"p": job("p", facts.JobPrune, facts.JobRunning, "", 0, "nas", "offsite", "tape"),
	}
	for name, tt := range map[string]struct {
		run  string
		want string
	}{
		// While the lost backup may go on, its pieces stay, and uploads that are
		// as old as it.
		"NotHeard": {"", "[{nas [20260101-000000F] 04:00} {offsite [20260101-000000F] 10:00} {tape [20260101-000000F] 00:00}]"},
		"Still":    {"b1", "[{nas [20260101-000000F] 04:00} {offsite [20260101-000000F] 10:00} {tape [20260101-000000F] 00:00}]"},
		"Anew":     {"b2", "[{nas [20260101-000000F 20260102-000000F] 11:00} {offsite [20260101-000000F 20260102-000000F] 10:00} {tape [20260101-000000F 20260102-000000F] 00:00}]"},
	} {
		t.Run(name, func(t *testing.T) {
			type part struct {
				at   string
				over []string
				busy string
			}
			var got []part
			for _, s := range node.SweepPart(st, st.Backups.Jobs["p"], map[string]string{"backup": tt.run}, backupNow) {
				got = append(got, part{s.Location, s.Over, s.Busy.Format("15:04")})
			}
			if text := fmt.Sprint(got); text != tt.want {
				t.Errorf("got %s, want %s", text, tt.want)
			}
		})
	}
}

func TestBegunPart_WaitsForFills(t *testing.T) {
	st := facts.State{}
	gone := []facts.WALRange{{Timeline: 1, From: 0x1000000, To: 0x3000000}}
	st.Backups.Pruning = map[string]map[string][]facts.WALRange{facts.ProfilePostgres: {"nas": gone, "offsite": gone}}
	st.Backups.Jobs = map[string]facts.Job{"f": {ID: "f", Kind: facts.JobFill, Locations: []string{"offsite"}}}
	if got := node.BegunPart(st, "nas", "offsite", "tape"); len(got) != 1 || len(got["nas"]) != 1 {
		t.Errorf("got %v", got)
	}
}
