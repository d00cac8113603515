package jobs

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"understudy/cmd/internal/worker"
	"understudy/failover/decide"
	"understudy/ledger/agenda"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// View is what the leader sees besides the ledger when it plans.
type View struct {
	Now time.Time
	// Nodes are the reports of the members that are heard.
	Nodes []decide.Report
	// Retention is what the plans of removals are made from.
	Retention retention.Input
}

// planner is what the leader remembers between two plans.
type planner struct {
	heard  map[string]time.Time // by node
	raised map[string]string    // standing incidents: key to sentence
}

// problemPatience is how long a location may fail before it is not counted on.
const problemPatience = 10 * time.Second

// plan decides what is due and records it.
func (r *Runner) plan(ctx context.Context) {
	st := r.cfg.Ledger.State()
	if !st.Founded() || st.Primary.Phase != facts.PhaseOpened || len(st.Policy.Locations) == 0 {
		r.setRaised(nil)
		return
	}
	v := r.cfg.Observe(st)
	in := r.Input(st, v)
	raised := map[string]string{}
	if label := st.DamagedSet(facts.ProfilePostgres); label != "" {
		raised["backup-damaged"] = fmt.Sprintf("the database had damaged pages when set %s was taken, and no sound backup was taken since; "+
			"nothing is deleted meanwhile; the job's log names the files", label)
	}
	for _, o := range agenda.Decide(in) {
		if o.Kind == agenda.Raise {
			raised["backup-"+o.Key] = o.Why
			continue
		}
		if ctx.Err() != nil {
			return
		}
		if c, ok := r.command(v, o); ok {
			r.cfg.Log.Info("due", "what", string(o.Kind), "job", string(o.Job), "node", o.Node, "why", o.Why)
			if r.propose(ctx, c) != nil {
				break // the rest is decided anew
			}
		}
	}
	r.setRaised(raised)
}

func (r *Runner) setRaised(raised map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.planner.raised = raised
}

// Problems are the incidents that this node raises as the ledger's leader.
func (r *Runner) Problems() map[string]string {
	if !r.cfg.Leads() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.planner.raised)
}

// command is what an order says to the ledger.
func (r *Runner) command(v View, o agenda.Order) (facts.Command, bool) {
	st := r.cfg.Ledger.State()
	m, member := st.MemberByName(o.Node)
	switch o.Kind {
	case agenda.Begin:
		boot := bootOf(v, o.Node)
		if !member || boot == "" {
			return facts.Command{}, false
		}
		j := facts.Job{
			ID: newID(), Kind: facts.JobKind(o.Job), Profile: facts.ProfilePostgres, Store: m.Store, Lease: boot,
			Label: o.Label, Locations: o.Locations, Why: o.Why, Due: o.Due, Attempt: o.Attempt,
		}
		if limit := st.Policy.Backups().TimeLimit; limit > 0 {
			j.Deadline = v.Now.Add(limit)
		}
		switch {
		case o.Job == agenda.JobFull:
			j.Label, j.Parent = LabelOf(v.Now, o), o.Parent
		case o.Job == agenda.JobFill && o.Label != "":
			j.Uses.Labels = []string{o.Label}
		case o.Job == agenda.JobVerify:
			// With the newest set of a location goes the log there.
			if j.Log = o.Label == newestAt(st, o.Locations); j.Log {
				j.Uses.Floor = LogUsed(catalogOf(st), o.Locations)
			}
		case o.Job == agenda.JobDrill:
			j.Uses = DrillUses(catalogOf(st), o.Locations)
		}
		return facts.Command{BeginJob: &facts.BeginJob{Expect: st.Backups.JobsVersion, Removals: st.Backups.Removals, Job: j}}, true
	case agenda.Cancel:
		return facts.Command{CancelJob: &facts.CancelJob{ID: o.ID, Why: o.Why}}, true
	case agenda.Lose:
		j, ok := st.Backups.Jobs[o.ID]
		if !ok {
			return facts.Command{}, false
		}
		return facts.Command{LoseJobs: &facts.LoseJobs{Store: j.Store, ID: j.ID, Why: o.Why}}, true
	case agenda.Feed:
		if !member || len(o.Locations) != 1 {
			return facts.Command{}, false
		}
		return facts.Command{AssignFeeder: &facts.AssignFeeder{Expect: st.Backups.FeedersVersion, Location: o.Locations[0], Store: m.Store}}, true
	}
	return facts.Command{}, false // markers are the primary's own business
}

// LabelOf names the set of a backup that begins now.
func LabelOf(now time.Time, o agenda.Order) string {
	if o.Parent != "" {
		return backupset.NewIncrementalLabel(now)
	}
	return backupset.NewLabel(now)
}

func catalogOf(st facts.State) catalog.Catalog {
	c, _ := st.Catalog(facts.ProfilePostgres)
	return c
}

// newestAt is the newest set of which a location has a whole copy.
func newestAt(st facts.State, locations []string) (newest string) {
	c, _ := st.Catalog(facts.ProfilePostgres)
	for label, s := range c.Sets {
		for _, l := range locations {
			if s.Copies[l].State == catalog.CopyComplete && label > newest {
				newest = label
			}
		}
	}
	return newest
}

func bootOf(v View, node string) string {
	for _, n := range v.Nodes {
		if n.Node == node {
			return n.Boot
		}
	}
	return ""
}

func newID() string {
	b := make([]byte, 6)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// Input is what the agenda decides by.
func (r *Runner) Input(st facts.State, v View) agenda.Input {
	c, _ := st.Catalog(facts.ProfilePostgres)
	in := agenda.Input{Now: v.Now, Policy: policyOf(st.Policy.Backups()), Catalog: c, Last: map[agenda.JobKind]time.Time{}}
	for _, j := range st.Backups.Finished {
		in.Jobs = append(in.Jobs, jobOf(j))
		if j.State == facts.JobDone {
			in.Last[agenda.JobKind(j.Kind)] = j.Began
		}
	}
	for _, id := range slices.Sorted(maps.Keys(st.Backups.Jobs)) {
		in.Jobs = append(in.Jobs, jobOf(st.Backups.Jobs[id]))
	}
	in.Nodes = r.nodes(st, v)
	for _, name := range slices.Sorted(maps.Keys(st.Policy.Locations)) {
		in.Locations = append(in.Locations, r.locationOf(st, v, name, in.Nodes))
	}
	return in
}

func jobOf(j facts.Job) agenda.Job {
	return agenda.Job{ID: j.ID, Kind: agenda.JobKind(j.Kind), Node: j.Node, State: agenda.JobState(j.State), Label: j.Label,
		Locations: j.Locations, Due: j.Due, Began: j.Began, Ended: j.Ended}
}

// policyOf is the operator's policy as the agenda takes it. What cannot be read
// is off: the policy was checked when it was applied.
func policyOf(p facts.BackupPolicy) agenda.Policy {
	zone := worker.Zone(p.TimeZone)
	out := agenda.DefaultPolicy(zone)
	out.Schedule, out.Drill, out.Prune = schedule(p.Schedule, zone), schedule(p.DrillSchedule, zone), agenda.Schedule{}
	if p.PruneAt != "" && p.PruneAt != facts.ScheduleOff {
		out.Prune = schedule("daily "+p.PruneAt, zone)
	}
	out.From, out.Incremental, out.FullEvery = agenda.Source(p.From), p.Incremental, p.FullEvery
	out.Limits = map[agenda.JobKind]time.Duration{}
	if p.TimeLimit > 0 {
		for _, k := range []agenda.JobKind{agenda.JobFull, agenda.JobVerify, agenda.JobFill, agenda.JobPrune, agenda.JobDrill, agenda.JobRestore} {
			out.Limits[k] = p.TimeLimit
		}
	}
	out.QuickN, out.QuickEvery, out.RetryEvery = p.RetryCount, min(p.RetryInterval, quickEvery), p.RetryInterval
	out.VerifyEvery, out.MarkerEvery = p.VerifyEvery, 0
	return out
}

// quickEvery is the longest pause between the quick repetitions of a failed
// job.
const quickEvery = time.Minute

func schedule(text string, zone *time.Location) agenda.Schedule {
	if text == facts.ScheduleOff {
		return agenda.Schedule{}
	}
	s, err := agenda.ParseSchedule(text, zone)
	if err != nil {
		return agenda.Schedule{}
	}
	return s
}

// nodes are the members as the agenda sees them.
func (r *Runner) nodes(st facts.State, v View) []agenda.Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.planner.heard == nil {
		r.planner.heard = map[string]time.Time{}
	}
	committed := pos.LSN(0)
	reports := map[string]decide.Report{}
	for _, n := range v.Nodes {
		reports[n.Node] = n
		r.planner.heard[n.Node] = v.Now
		committed = max(committed, n.Committed)
	}
	var out []agenda.Node
	for _, store := range slices.Sorted(maps.Keys(st.Members)) {
		m := st.Members[store]
		rep, alive := reports[m.Name]
		n := agenda.Node{Name: m.Name, Alive: alive, Heard: r.planner.heard[m.Name]}
		if n.Heard.IsZero() {
			// A leader that has just begun does not give jobs up at once.
			r.planner.heard[m.Name], n.Heard = v.Now, v.Now
		}
		switch {
		case m.Kind == facts.KindWitness:
			n.Role, n.Healthy = agenda.Witness, true
		case store == st.Primary.Store:
			n.Role = agenda.Primary
			n.Healthy = alive && rep.Role == decide.RolePrimary && rep.Server.Failing == ""
		default:
			n.Role = agenda.Standby
			n.Healthy = alive && rep.Server.Streaming && rep.Server.Failing == "" && rep.Seed == nil
			n.LagBytes = committed.Sub(rep.Applied)
		}
		n.HasLog = alive && (rep.Spool.From != 0 || n.Role == agenda.Primary)
		out = append(out, n)
	}
	return out
}

// locationOf is one location as the agenda sees it.
func (r *Runner) locationOf(st facts.State, v View, name string, nodes []agenda.Node) agenda.Location {
	p := st.Policy.Locations[name]
	l := agenda.Location{Name: name, Enabled: !p.Disabled, Cold: p.Tier == facts.TierCold, Owner: p.Node, Open: true}
	if store := st.Backups.Feeders[name]; store != "" {
		l.Feeder = st.NameOf(store)
	}
	ownerUp := p.Node == ""
	for _, n := range nodes {
		ownerUp = ownerUp || n.Alive && n.Name == p.Node
	}
	for _, n := range nodes {
		if n.Alive && ownerUp {
			l.Nodes = append(l.Nodes, n.Name) // also through the owner's daemon
		}
	}
	if !ownerUp {
		l.Problem = fmt.Sprintf("node %s, whose place it is, is not heard", p.Node)
	}
	if w, err := location.ParseWindow(strings.TrimSpace(p.Window + " " + zoneName(p, st.Policy.Backups()))); err == nil {
		l.Open, _ = w.Open(v.Now)
	}
	for _, n := range v.Nodes {
		for _, f := range n.Feeds {
			if f.Location == name && n.Node == l.Feeder && f.Problem != "" && v.Now.Sub(f.Since) > problemPatience {
				l.Problem = f.Problem
			}
		}
	}
	if !p.Disabled {
		want := retention.Wants(v.Retention, name)
		l.Wants, l.WantsLog = want.Sets, want.Log
	}
	return l
}

func zoneName(p facts.LocationPolicy, b facts.BackupPolicy) string {
	if p.Window == "" {
		return ""
	}
	return b.TimeZone
}
