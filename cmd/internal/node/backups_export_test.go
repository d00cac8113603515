package node

import (
	"context"
	"log/slog"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/jobs"
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
// does not carry out. report is what it says of itself.
func (p Planner) TakesBackups(report decide.Report) {
	p.n.boot, p.n.jobs = report.Boot, jobs.New(jobs.Config{
		Node: p.n.cfg.Name, Store: p.n.spool.Store(), Boot: report.Boot, Ledger: p.n.ledger, Leads: func() bool { return true }, Log: slog.New(slog.DiscardHandler),
	})
	p.n.control.report = func() decide.Report { return report }
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
