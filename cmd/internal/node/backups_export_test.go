package node

import (
	"context"
	"log/slog"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/jobs"
	"understudy/cmd/internal/worker"
	"understudy/failover/decide"
	"understudy/ledger/agenda"
	"understudy/ledger/facts"
)

// BackupSight makes what an order about backups is planned from.
func BackupSight(st facts.State, in agenda.Input, boots map[string]string) backupSight {
	return backupSight{state: st, agenda: in, boots: boots}
}

// PlanJobs plans an order and returns its jobs, what it says, and what a prune
// deletes.
func PlanJobs(s backupSight, action string, args map[string]string) ([]facts.Job, []string, *doc.RetentionPlan, error) {
	p, err := planJobs(s, action, args)
	return p.jobs, p.steps, p.retention, err
}

// NeededFull says whether a full backup is due.
func NeededFull(s backupSight) doc.Needed { return neededFull(s) }

// PlanMark says what an action changes, and the command that does it.
func PlanMark(st facts.State, action string, args map[string]string) (doc.Mark, *facts.Command, error) {
	p, err := planMark(st, action, args)
	return p.Mark, p.command, err
}

// DescribeInit says what making a location would do.
func DescribeInit(name, path, dataDir string) (doc.Mark, error) {
	return describeInit(name, path, dataDir)
}

// TakesBackups makes the planner's node one that can be given jobs, which it
// takes up and does not carry out. report is what it says of itself.
func (p Planner) TakesBackups(report decide.Report) {
	p.Runs(func() decide.Report {
		r := report
		for id, j := range p.State().Backups.Jobs {
			if j.Lease == r.Boot {
				r.Work = append(r.Work, decide.Work{Job: id})
			}
		}
		return r
	})
}

// Runs makes the planner's node one whose daemon says of itself what report
// returns.
func (p Planner) Runs(says func() decide.Report) {
	report := says()
	p.n.boot, p.n.jobs = report.Boot, jobs.New(jobs.Config{
		Node: p.n.cfg.Name, Store: p.n.spool.Store(), Boot: report.Boot, Ledger: p.n.ledger, Leads: func() bool { return true }, Log: slog.New(slog.DiscardHandler),
	})
	p.n.control.report = says
}

// Backup carries out an action on backups.
func (p Planner) Backup(ctx context.Context, action string, args map[string]string) (any, bool, error) {
	return p.n.backupOrder(ctx, action, args)
}

// Needed says whether a full backup is needed.
func (p Planner) Needed(ctx context.Context) (doc.Needed, error) { return p.n.Needed(ctx) }

// Store is the planner's own.
func (p Planner) Store() string { return p.n.spool.Store() }

// ProtectionSets are the labels that a remembered protection has in every
// location, for states one after the other.
func ProtectionSets(states ...facts.State) (out []int) {
	var p protection
	for _, st := range states {
		p.took = 0 // the bound on the time spent is not what is looked at
		out = append(out, len(p.of(st).Sets))
	}
	return out
}

// Ended tells whether nothing of a job runs any more.
func Ended(j facts.Job, runs map[string]string, now time.Time) bool { return ended(j, runs, now) }

// SweepPart is what is known of those who write to the locations of a job.
func SweepPart(st facts.State, j facts.Job, runs map[string]string, now time.Time) []worker.Sweep {
	return sweepPart(st, j, runs, now)
}

// BegunPart is log whose removal was begun.
func BegunPart(st facts.State, locations ...string) map[string][]facts.WALRange {
	return begunPart(st, locations)
}

// AsideNow is the time by which what was put aside grows old.
func AsideNow(st facts.State, now time.Time) (time.Time, bool) { return asideNow(st, now) }

// StateDir is the planner's.
func (p Planner) StateDir() string { return p.n.cfg.StateDir }

// AsideSteps are what the planner's node forgets next, were its primary in a
// phase.
func (p Planner) AsideSteps(phase facts.Phase) []string {
	st := p.State()
	st.Primary.Phase = phase
	return p.n.asideSteps(st)
}
