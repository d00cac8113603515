package node

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/jobs"
	"understudy/ledger/agenda"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/catalog"
)

// backupSight is all that an operator's order about backups is planned from.
type backupSight struct {
	state  facts.State
	agenda agenda.Input      // what is due without the order
	boots  map[string]string // run of the daemon, by name of the nodes that are heard
}

// jobPlan is what an order about backups begins.
type jobPlan struct {
	jobs      []facts.Job
	steps     []string
	retention *doc.RetentionPlan
}

// operatorWhy is the reason of all jobs that an operator ordered.
const operatorWhy = "ordered by the operator"

// planJobs plans an order, or refuses it in one sentence.
func planJobs(s backupSight, action string, args map[string]string) (jobPlan, error) {
	switch action {
	case doc.ActionBackup:
		return s.planBackup(args)
	case doc.ActionVerify:
		return s.planVerify(args)
	case doc.ActionDrill:
		return s.planDrill(args)
	case doc.ActionPrune:
		return s.planPrune(args)
	}
	return jobPlan{}, badArgument("%q begins no job.", action)
}

// locations are the enabled ones that an argument names, all for none.
func (s backupSight) locations(arg string) ([]string, error) {
	have := s.state.Policy.Locations
	if arg == "" {
		var out []string
		for _, name := range slices.Sorted(maps.Keys(have)) {
			if !have[name].Disabled {
				out = append(out, name)
			}
		}
		if len(out) == 0 {
			return nil, refusedAction("the policy has no location that is enabled; add one with: understudy policy apply FILE")
		}
		return out, nil
	}
	var out []string
	for name := range strings.SplitSeq(arg, ",") {
		l, ok := have[name]
		switch {
		case !ok:
			return nil, refusedAction(fmt.Sprintf("the policy has no location %q; it has %s", name, cmp.Or(strings.Join(slices.Sorted(maps.Keys(have)), ", "), "none")))
		case l.Disabled:
			return nil, refusedAction(fmt.Sprintf("location %s is disabled; enable it with location.%s.enabled in the policy", name, name))
		case slices.Contains(out, name):
			return nil, badArgument("location %s is named twice.", name)
		}
		out = append(out, name)
	}
	return out, nil
}

// running refuses an order while a job stands in its way.
func (s backupSight) running(kind facts.JobKind, location string) error {
	for _, id := range slices.Sorted(maps.Keys(s.state.Backups.Jobs)) {
		j := s.state.Backups.Jobs[id]
		if j.Kind == kind && (location == "" || slices.Contains(j.Locations, location)) {
			return refusedAction(fmt.Sprintf("a %s runs already on %s; wait for it, or end it with: understudy jobs cancel %s", kind, j.Node, id))
		}
	}
	return nil
}

// decide asks the agenda about requests, at some locations only.
func (s backupSight) decide(locations []string, requests ...agenda.Request) []agenda.Order {
	in := s.agenda
	in.Requests = requests
	in.Locations = slices.DeleteFunc(slices.Clone(in.Locations), func(l agenda.Location) bool { return !slices.Contains(locations, l.Name) })
	return agenda.Decide(in)
}

// answer is the order that carries out a request.
func answer(orders []agenda.Order, request string) (agenda.Order, bool) {
	i := slices.IndexFunc(orders, func(o agenda.Order) bool { return o.Kind == agenda.Begin && o.Request == request })
	if i < 0 {
		return agenda.Order{}, false
	}
	return orders[i], true
}

// raised is what the agenda complains of under a key, "" for nothing.
func raised(orders []agenda.Order, keys ...string) string {
	for _, o := range orders {
		if o.Kind == agenda.Raise && slices.Contains(keys, o.Key) {
			return o.Why
		}
	}
	return ""
}

// job is one for a node, as the operator orders it.
func (s backupSight) job(kind facts.JobKind, node string, locations []string) (facts.Job, error) {
	m, ok := s.state.MemberByName(node)
	boot := s.boots[node]
	if !ok || boot == "" {
		return facts.Job{}, refusedAction(fmt.Sprintf("%s is not heard now; look at: understudy status", node))
	}
	j := facts.Job{ID: randomID()[:12], Kind: kind, Profile: facts.ProfilePostgres, Store: m.Store, Node: m.Name, State: facts.JobRunning, Lease: boot,
		Locations: locations, Why: operatorWhy, Attempt: 1, Began: s.agenda.Now}
	if limit := s.state.Policy.Backups().TimeLimit; limit > 0 {
		j.Deadline = s.agenda.Now.Add(limit)
	}
	return j, nil
}

// The names of notes begin so among the arguments.
const notePrefix = "note."

func notesOf(args map[string]string) map[string]string {
	var out map[string]string
	for k, v := range args {
		if name, ok := strings.CutPrefix(k, notePrefix); ok {
			if out == nil {
				out = map[string]string{}
			}
			out[name] = v
		}
	}
	return out
}

func (s backupSight) planBackup(args map[string]string) (jobPlan, error) {
	wanted, err := s.locations(args["locations"])
	if err != nil {
		return jobPlan{}, err
	}
	if err := s.running(facts.JobBackup, ""); err != nil {
		return jobPlan{}, err
	}
	form, err := formOf(args["form"])
	if err != nil {
		return jobPlan{}, err
	}
	orders := s.decide(wanted, agenda.Request{ID: operatorWhy, Kind: agenda.JobFull, Form: form})
	o, ok := answer(orders, operatorWhy)
	if !ok {
		return jobPlan{}, refusedAction(cmp.Or(raised(orders, "backup-location", "backup-node", "backup-parent"), "no node can take a backup now") + "; look at: understudy locations, and understudy status")
	}
	j, err := s.job(facts.JobBackup, o.Node, o.Locations)
	if err != nil {
		return jobPlan{}, err
	}
	j.Label, j.Parent, j.Notes = jobs.LabelOf(s.agenda.Now, o), o.Parent, notesOf(args)
	steps := []string{fmt.Sprintf("%s takes full backup %s and writes it to %s.", o.Node, j.Label, strings.Join(o.Locations, ", "))}
	if o.Parent != "" {
		steps = []string{
			fmt.Sprintf("%s takes incremental backup %s, built on %s, and writes it to %s.", o.Node, j.Label, o.Parent, strings.Join(o.Locations, ", ")),
			"If the server cannot do that, it takes a full one and says why.",
		}
	}
	if left := without(wanted, o.Locations); len(left) > 0 {
		steps = append(steps, fmt.Sprintf("It is copied later to %s: that does not take it now.", strings.Join(left, ", ")))
	}
	return jobPlan{jobs: []facts.Job{j}, steps: append(steps, "It is complete once all log that it needs is at a location, too.")}, nil
}

// formOf reads what kind of a backup is ordered; "" leaves it to the policy.
func formOf(arg string) (agenda.Form, error) {
	switch f := agenda.Form(arg); f {
	case "", agenda.Full, agenda.Incremental:
		return f, nil
	}
	return "", badArgument("form: %.40q is neither %s nor %s.", arg, agenda.Full, agenda.Incremental)
}

func without(all, some []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(x string) bool { return slices.Contains(some, x) })
}

func (s backupSight) planVerify(args map[string]string) (jobPlan, error) {
	locations, err := s.locations(args["locations"])
	if err != nil {
		return jobPlan{}, err
	}
	label := args["label"]
	if label != "" {
		if _, ok := s.agenda.Catalog.Sets[label]; !ok {
			return jobPlan{}, &admin.ActionError{Code: admin.CodeUnknownSet, Text: fmt.Sprintf("No set has the label %.40q; list them with: understudy sets", label)}
		}
	}
	var plan jobPlan
	for _, name := range locations {
		labels := s.provable(label, name)
		if len(labels) == 0 && args["locations"] == "" {
			continue // there is nothing of it
		}
		if len(labels) == 0 {
			return jobPlan{}, refusedAction(fmt.Sprintf("there is no whole copy at %s to be proven; look at: understudy sets", name))
		}
		if err := s.running(facts.JobVerify, name); err != nil {
			return jobPlan{}, err
		}
		j, err := s.job(facts.JobVerify, s.reader(label, name), []string{name})
		if err != nil {
			return jobPlan{}, err
		}
		j.Label, j.Log = label, args["log"] == "true" || label == ""
		if len(labels) <= maxJobUses {
			j.Uses = facts.Uses{Labels: labels}
		}
		if j.Log {
			j.Uses.Floor = jobs.LogUsed(s.agenda.Catalog, j.Locations)
		}
		plan.jobs = append(plan.jobs, j)
		what := fmt.Sprintf("%d sets", len(labels))
		if len(labels) == 1 {
			what = "set " + labels[0]
		}
		if j.Log {
			what += " and the log"
		}
		plan.steps = append(plan.steps, fmt.Sprintf("%s reads every byte of %s at %s.", j.Node, what, name))
	}
	if len(plan.jobs) == 0 {
		return jobPlan{}, refusedAction("no location has a whole copy to be proven; look at: understudy sets")
	}
	return plan, nil
}

// maxJobUses is how many sets the ledger guards for one job; beyond it a set
// that is deleted meanwhile is just not proven.
const maxJobUses = 256

// provable are the sets with a whole copy at a location, or one that was found
// damaged; only that of the label unless it is "".
func (s backupSight) provable(label, location string) (out []string) {
	for _, l := range slices.Sorted(maps.Keys(s.agenda.Catalog.Sets)) {
		switch s.agenda.Catalog.Sets[l].Copies[location].State {
		case catalog.CopyComplete, catalog.CopyDamaged:
			if label == "" || l == label {
				out = append(out, l)
			}
		}
	}
	return out
}

// reader is the node that proves the copies at a location: the agenda's choice,
// and for what it would not choose to prove, the node whose place it is, its
// feeder, or any that is heard.
func (s backupSight) reader(label, location string) string {
	orders := s.decide([]string{location}, agenda.Request{ID: operatorWhy, Kind: agenda.JobVerify, Location: location, Label: label})
	if o, ok := answer(orders, operatorWhy); ok {
		return o.Node
	}
	p := s.state.Policy.Locations[location]
	heard := slices.Sorted(maps.Keys(s.boots))
	for _, node := range append([]string{p.Node, s.state.NameOf(s.state.Backups.Feeders[location])}, heard...) {
		if s.boots[node] != "" {
			return node
		}
	}
	return p.Node
}

func (s backupSight) planDrill(args map[string]string) (jobPlan, error) {
	for _, kind := range []facts.JobKind{facts.JobDrill, facts.JobBackup} {
		if err := s.running(kind, ""); err != nil {
			return jobPlan{}, err
		}
	}
	locations, err := s.locations("")
	if err != nil {
		return jobPlan{}, err
	}
	var uses facts.Uses
	target, what := "", "a moment that it chooses"
	if text := args["target"]; text != "" {
		t, err := catalog.Parse(text, nil)
		if err != nil {
			return jobPlan{}, badArgument("target: %v.", err)
		}
		choice, err := catalog.Choose(s.agenda.Catalog, t, catalog.Options{Locations: locations})
		var impossible *catalog.Refusal
		switch {
		case errors.As(err, &impossible):
			return jobPlan{}, refusedAction(impossible.Error() + "; look at: understudy points")
		case err != nil:
			return jobPlan{}, badArgument("target: %v.", err)
		}
		target, what = t.String(), t.String()+" from set "+choice.Set
		uses = facts.Uses{Labels: []string{choice.Set}, Floor: s.agenda.Catalog.Sets[choice.Set].Start}
	}
	orders := s.decide(locations, agenda.Request{ID: operatorWhy, Kind: agenda.JobDrill})
	o, ok := answer(orders, operatorWhy)
	if !ok {
		return jobPlan{}, refusedAction(s.noDrill(locations))
	}
	j, err := s.job(facts.JobDrill, o.Node, o.Locations)
	if err != nil {
		return jobPlan{}, err
	}
	if j.Target, j.Uses = target, uses; target == "" {
		j.Uses = jobs.DrillUses(s.agenda.Catalog, j.Locations)
	}
	return jobPlan{jobs: []facts.Job{j}, steps: []string{fmt.Sprintf("%s restores %s into a scratch server, compares its rows, and removes it.", o.Node, what)}}, nil
}

// noDrill says why no restore can be tried out.
func (s backupSight) noDrill(locations []string) string {
	if len(s.agenda.Catalog.Stand(locations...).Sets) == 0 {
		return "nothing can be restored yet; take a backup with: understudy backup"
	}
	return "no node with a PostgreSQL that is heard reaches a location that works; look at: understudy locations, and understudy status"
}

func (s backupSight) planPrune(args map[string]string) (jobPlan, error) {
	locations, err := s.locations(args["locations"])
	if err != nil {
		return jobPlan{}, err
	}
	if why := s.state.PruneFrozen(facts.ProfilePostgres); why != "" {
		text := "nothing may be deleted now: " + why
		if s.state.Backups.Frozen != nil {
			text += "; allow it again with: understudy ledger thaw"
		}
		return jobPlan{}, refusedAction(text)
	}
	made := retention.Make(retentionInput(s.state, s.agenda.Now, locations...))
	shown := admin.RetentionDoc(made, "")
	plan := jobPlan{retention: &shown, steps: []string{}}
	for _, p := range shown.Places {
		if len(p.Remove) == 0 && p.Frozen != "" {
			plan.steps = append(plan.steps, fmt.Sprintf("Nothing is deleted at %s: %s.", p.Location, p.Frozen))
			continue
		}
		if err := s.running(facts.JobPrune, p.Location); err != nil {
			return jobPlan{}, err
		}
		orders := s.decide([]string{p.Location}, agenda.Request{ID: operatorWhy, Kind: agenda.JobPrune, Location: p.Location})
		o, ok := answer(orders, operatorWhy)
		if !ok {
			return jobPlan{}, refusedAction(fmt.Sprintf("no node that is heard can clean up %s now; look at: understudy locations", p.Location))
		}
		j, err := s.job(facts.JobPrune, o.Node, o.Locations)
		if err != nil {
			return jobPlan{}, err
		}
		plan.jobs = append(plan.jobs, j)
		if len(p.Remove) == 0 {
			plan.steps = append(plan.steps, fmt.Sprintf("%s clears %s of what interrupted work has left, if there is any.", o.Node, p.Location))
			continue
		}
		plan.steps = append(plan.steps, fmt.Sprintf("%s cleans up %s; the plan is made anew when it begins.", o.Node, p.Location))
	}
	if len(plan.jobs) == 0 {
		plan.steps = append(plan.steps, "There is nothing to delete.")
	}
	return plan, nil
}

// neededFull says whether a full backup is due, wherever it could go to and
// whatever runs.
func neededFull(s backupSight) doc.Needed {
	in := s.agenda
	in.Requests, in.Jobs, in.Last = nil, nil, nil
	in.Nodes = []agenda.Node{{Name: "any", Role: agenda.Primary, Alive: true, Healthy: true, Heard: in.Now}}
	in.Locations = []agenda.Location{{Name: "any", Enabled: true, Open: true, Nodes: []string{"any"}}}
	out := doc.Needed{Reason: "none", Why: "the newest one can be restored up to the end of the log, and the schedule asks for none", Next: in.Policy.Schedule.Next(in.Now)}
	for _, o := range agenda.Decide(in) {
		if o.Kind == agenda.Begin && o.Job == agenda.JobFull {
			out.Needed, out.Reason, out.Why = true, string(o.Cause), o.Why
		}
	}
	for _, id := range slices.Sorted(maps.Keys(s.state.Backups.Jobs)) {
		if s.state.Backups.Jobs[id].Kind == facts.JobBackup {
			out.Running = id
		}
	}
	usable, err := in.Catalog.Usable(0, catalog.Options{})
	if n := len(usable); err == nil && n > 0 {
		out.Newest = usable[n-1].Label
		out.EndedAt = in.Catalog.Sets[out.Newest].Ended
	}
	return out
}
