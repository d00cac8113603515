package node

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"understudy/cmd/internal/jobs"
	"understudy/cmd/internal/worker"
	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/catalog"
)

// newJobs makes what runs this node's jobs.
func (n *Node) newJobs() *jobs.Runner {
	return jobs.New(jobs.Config{
		Node: n.cfg.Name, Store: n.spool.Store(), Boot: n.boot, Binary: n.binary, Dir: n.jobsDir(),
		Ledger: n.ledger, Spec: n.jobSpec, Archive: n.archiveSpec, Update: n.walUpdate,
		Observe: n.jobsView, Leads: func() bool { _, _, self := n.ledger.Leader(); return self }, Log: n.log,
	})
}

// jobSpec fills in what a worker has to know for a job.
func (n *Node) jobSpec(st facts.State, j facts.Job, s *worker.Spec) error {
	base := n.baseSpec(st)
	base.Task, base.Job, base.Dir = s.Task, s.Job, s.Dir
	*s = base
	if slices.Contains(sweepers(), j.Kind) {
		s.Sweep = sweepPart(st, j, runsOf(n.jobsView(st)), time.Now())
	}
	switch j.Kind {
	case facts.JobBackup:
		if n.server == nil {
			return errNoServer
		}
		s.Backup = &worker.Backup{Label: j.Label, Parent: j.Parent, ConnString: n.server.DSN(false),
			Standby: n.primaryRun() == nil, Locations: j.Locations, Notes: j.Notes}
	case facts.JobPrune:
		s.Prune = n.prunePart(st, j)
	case facts.JobVerify:
		s.Verify = verifyPart(st, j)
	case facts.JobFill:
		s.Fill = fillPart(st, j)
		var err error
		if s.Fill.Export, err = facts.Export(st); err != nil {
			return fmt.Errorf("export the ledger: %w", err)
		}
	case facts.JobDrill:
		if n.server == nil {
			return errNoServer
		}
		return n.drillPart(st, j, s)
	default:
		return fmt.Errorf("a daemon carries out no %s", j.Kind)
	}
	return nil
}

// retentionInput is what a plan of removals is made from, for locations of the
// policy.
func retentionInput(st facts.State, now time.Time, locations ...string) retention.Input {
	c, _ := st.Catalog(facts.ProfilePostgres)
	in := retention.Input{Catalog: c, Rules: map[string]retention.Rules{}, Freeze: st.PruneFrozen(facts.ProfilePostgres),
		Blocked: map[string]string{}, Now: now}
	zone := worker.Zone(st.Policy.Backups().TimeZone)
	for name, p := range st.Policy.Locations {
		if p.Disabled || len(locations) > 0 && !slices.Contains(locations, name) {
			continue
		}
		in.Rules[name] = rulesOf(p.Retention, zone)
	}
	for _, id := range slices.Sorted(maps.Keys(st.Backups.Jobs)) {
		j := st.Backups.Jobs[id]
		if j.Kind == facts.JobPrune {
			continue
		}
		if j.Uses.Floor != 0 {
			in.Uses = append(in.Uses, retention.Use{Job: id, Floor: j.Uses.Floor})
		}
		for _, label := range append(slices.Clone(j.Uses.Labels), j.Label) {
			if label != "" {
				in.Uses = append(in.Uses, retention.Use{Job: id, Label: label})
			}
		}
	}
	return in
}

const day = 24 * time.Hour

func rulesOf(r facts.Retention, zone *time.Location) retention.Rules {
	return retention.Rules{
		KeepN: r.Keep, Cycles: r.Cycles, Window: time.Duration(r.Days) * day,
		Daily: r.Daily, Weekly: r.Weekly, Monthly: r.Monthly, Yearly: r.Yearly, Zone: zone,
		GoldEvery: r.GoldEvery, FailedAfter: time.Duration(r.FailedDays) * day,
	}
}

func (n *Node) prunePart(st facts.State, j facts.Job) *worker.Prune {
	plan := retention.Make(retentionInput(st, time.Now(), j.Locations...))
	p := &worker.Prune{Plan: plan, Begun: begunPart(st, j.Locations)}
	c, _ := st.Catalog(facts.ProfilePostgres)
	for _, label := range slices.Sorted(maps.Keys(c.Sets)) {
		s := c.Sets[label]
		if s.State == catalog.SetFailed && len(s.Copies) == 0 && plan.At.Sub(s.Ended) > retention.DefaultFailedAfter {
			p.Failed = append(p.Failed, label)
		}
	}
	return p
}

// verifyPart are the copies that a verification is about: those of the job's
// label and locations, or all, those that were not proven for the longest time
// first.
func verifyPart(st facts.State, j facts.Job) *worker.Verify {
	c, _ := st.Catalog(facts.ProfilePostgres)
	v := &worker.Verify{}
	for _, label := range slices.Sorted(maps.Keys(c.Sets)) {
		for _, loc := range slices.Sorted(maps.Keys(c.Sets[label].Copies)) {
			cp := c.Sets[label].Copies[loc]
			if j.Label != "" && j.Label != label || len(j.Locations) > 0 && !slices.Contains(j.Locations, loc) ||
				cp.State != catalog.CopyComplete && cp.State != catalog.CopyDamaged {
				continue
			}
			v.Copies = append(v.Copies, worker.VerifyCopy{Label: label, Location: loc, Digest: c.Sets[label].Digest})
		}
	}
	slices.SortStableFunc(v.Copies, func(a, b worker.VerifyCopy) int {
		return c.Sets[a.Label].Copies[a.Location].Verified.Compare(c.Sets[b.Label].Copies[b.Location].Verified)
	})
	if j.Label == "" || j.Log {
		v.WAL = slices.Clone(j.Locations)
		if len(v.WAL) == 0 {
			v.WAL = slices.Sorted(maps.Keys(c.Places))
		}
	}
	return v
}

// fillPart is what the location of a job lacks: the sets that it would keep,
// and the log that any other has.
func fillPart(st facts.State, j facts.Job) *worker.Fill {
	f := &worker.Fill{To: j.Locations[0], Removals: st.Backups.LogRemovals[j.Locations[0]]}
	in := retentionInput(st, time.Now(), f.To)
	want := retention.Wants(in, f.To)
	if f.Labels = want.Sets; j.Label != "" {
		f.Labels = []string{j.Label}
	}
	for _, s := range want.Log {
		f.WAL = append(f.WAL, facts.WALRange{Timeline: s.Timeline, From: s.From, To: s.To})
	}
	return f
}

// reportJobs adds what this node does for backups. A location that cannot be
// fed is an incident.
func (n *Node) reportJobs(r *decide.Report) {
	if n.jobs == nil {
		return
	}
	for _, w := range n.jobs.Work() {
		r.Work = append(r.Work, decide.Work{Job: w.Job, Step: w.Step, Done: w.Done, Total: w.Total})
	}
	maps.Copy(r.Problems, n.jobs.Problems())
	for _, f := range n.jobs.Feeds() {
		r.Feeds = append(r.Feeds, decide.Feed{Location: f.Location, Timeline: f.Timeline, Archived: f.Archived, Backlog: f.Backlog,
			Rate: f.Rate, Problem: f.Problem, Since: f.Since, Waiting: f.Waiting})
		if f.Problem != "" && time.Since(f.Since) > feedPatience {
			r.Problems["location-"+f.Location] = fmt.Sprintf("location %s gets no log since %s: %s", f.Location, f.Since.UTC().Format(time.RFC3339), f.Problem)
		}
	}
}

// feedPatience is how long a location may fail before it is an incident.
const feedPatience = 10 * time.Second

// jobsView is what the group's jobs are planned from.
func (n *Node) jobsView(st facts.State) jobs.View {
	v := jobs.View{Now: time.Now()}
	v.Retention = retentionInput(st, v.Now)
	for _, h := range n.reports() {
		if time.Since(h.At) > decide.Fresh {
			continue
		}
		if h.Gone {
			// Its daemon is starting anew, perhaps, and the run that it was gets
			// nothing more to do.
			h.Report.Boot = ""
		}
		v.Nodes = append(v.Nodes, h.Report)
	}
	return v
}
