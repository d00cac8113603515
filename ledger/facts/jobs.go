package facts

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"understudy/shipper/catalog"
)

// The bounds of what is kept of jobs.
const (
	maxRunning  = 64
	maxFinished = 500
	maxDrills   = 100
	maxUses     = 256
)

// setLabel is what a set may be called: it is a folder at every location.
var setLabel = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}[A-Z]$`)

// profile finds the catalog of a profile or refuses.
func (t *tx) profile(name string) (catalog.Catalog, *refusal) {
	c, ok := t.s.Catalog(name)
	if !ok {
		return c, refuse(CodeUnknownProfile, "the group has no database of the profile %q", clip(name))
	}
	return c, nil
}

// putCatalog replaces the catalog of a profile.
func (t *tx) putCatalog(c catalog.Catalog) {
	t.s.Backups.Catalogs = with(t.s.Backups.Catalogs, c.Profile, c)
}

// putSet replaces or adds a set.
func (t *tx) putSet(c catalog.Catalog, set catalog.Set) {
	c.Sets = with(c.Sets, set.Label, set)
	t.putCatalog(c)
}

// job finds the running job that speaks, which must be of one of the kinds.
func (t *tx) job(ref JobRef, kinds ...JobKind) (Job, *refusal) {
	j, ok := t.s.Job(ref.ID)
	switch {
	case !ok:
		return j, refuse(CodeUnknownJob, "no job has the id %q", clip(ref.ID))
	case j.State != JobRunning:
		return j, refuse(CodeJobOver, "the %s %s is over: it is %s", j.Kind, j.ID, j.State)
	case j.Lease != ref.Lease:
		return j, refuse(CodeNotYourJob, "the %s %s is carried by another run of a daemon", j.Kind, j.ID)
	case len(kinds) > 0 && !slices.Contains(kinds, j.Kind):
		return j, refuse(CodeNotYourJob, "a %s may not say this", j.Kind)
	}
	return j, nil
}

func (t *tx) beginJob(c *BeginJob) *refusal {
	if r := stale("list of jobs", c.Expect, t.s.Backups.JobsVersion); r != nil {
		return r
	}
	j := c.Job
	if len(j.Uses.Labels) > 0 || j.Uses.Floor != 0 || j.Parent != "" {
		if r := stale("catalog", c.Removals, t.s.Backups.Removals); r != nil {
			return r
		}
	}
	m, r := t.member(j.Store)
	if r != nil {
		return r
	}
	if r := checkJob(j); r != nil {
		return r
	}
	if _, known := t.s.Job(j.ID); known {
		return refuse(CodeKnownJob, "a job has the id %s already", j.ID)
	}
	if len(t.s.Backups.Jobs) >= maxRunning {
		return refuse(CodeTooMany, "%d jobs are running already", maxRunning)
	}
	cat, r := t.profile(j.Profile)
	if r != nil {
		return r
	}
	for _, check := range []func(Job, catalog.Catalog) *refusal{t.jobLocations, t.jobLabel, t.jobAlone} {
		if r := check(j, cat); r != nil {
			return r
		}
	}
	if j.Kind == JobPrune {
		if why := t.s.PruneFrozen(j.Profile); why != "" {
			return refuse(CodeFrozen, "nothing is pruned now: %s", why)
		}
	}
	j.Node, j.State, j.Began, j.Attempt = m.Name, JobRunning, t.c.At, max(1, j.Attempt)
	j.Ended, j.Cancel, j.Result, j.Problem, j.Bytes = time.Time{}, "", "", "", 0
	t.s.Backups.Jobs = with(t.s.Backups.Jobs, j.ID, j)
	t.s.Backups.JobsVersion++
	t.event("job-began", j.Store, SeverityInfo, "%s %s began on %s: %s", j.Kind, j.named(), m.Name, j.Why)
	return nil
}

// named is what a job is about, in words.
func (j Job) named() string {
	if j.Label != "" {
		return j.Label
	}
	return j.ID
}

// checkJob refuses a job whose fields cannot be right.
func checkJob(j Job) *refusal {
	switch j.Kind {
	case JobBackup, JobVerify, JobRestore, JobDrill, JobPrune, JobFill:
	default:
		return refuse(CodeBadCommand, "%q is no kind of job", clip(string(j.Kind)))
	}
	switch {
	case !plain(j.ID) || !plain(j.Lease):
		return refuse(CodeBadCommand, "a job needs an id and a lease without blanks or slashes")
	case len(j.Target) > maxNameBytes || badNotes(j.Notes):
		return refuse(CodeBadCommand, "a job has a target of at most %d bytes and at most %d short notes", maxNameBytes, maxSetNotes)
	case len(j.Why) > maxTextBytes:
		return refuse(CodeBadCommand, "the reason of a job has at most %d bytes", maxTextBytes)
	case len(j.Locations) > maxLocations || len(j.Uses.Labels) > maxUses:
		return refuse(CodeBadCommand, "a job has at most %d locations and uses at most %d sets", maxLocations, maxUses)
	case j.Attempt < 0 || j.Attempt > 1<<20:
		return refuse(CodeBadCommand, "attempt %d of a job is out of range", j.Attempt)
	case j.Label != "" && !setLabel.MatchString(j.Label):
		return refuse(CodeBadCommand, "%q is no label of a set", clip(j.Label))
	case j.Parent != "" && (j.Kind != JobBackup || !setLabel.MatchString(j.Parent)):
		return refuse(CodeBadCommand, "a %s is not built on %q", j.Kind, clip(j.Parent))
	}
	return nil
}

// jobLocations: a job works at locations that the policy has; one that is
// switched off may still be restored from.
func (t *tx) jobLocations(j Job, _ catalog.Catalog) *refusal {
	for i, name := range j.Locations {
		l, ok := t.s.Policy.Locations[name]
		switch {
		case !ok:
			return refuse(CodeUnknownLocation, "the policy has no location %q", clip(name))
		case l.Disabled && j.Kind != JobRestore:
			return refuse(CodeLocationDisabled, "location %s is disabled", name)
		case slices.Contains(j.Locations[:i], name):
			return refuse(CodeBadCommand, "location %s is named twice", name)
		}
	}
	if len(j.Locations) == 0 && j.Kind != JobRestore {
		return refuse(CodeBadCommand, "a %s needs a location", j.Kind)
	}
	return nil
}

// jobLabel: a backup makes a new set; whoever uses one finds a copy of it that
// is not being deleted.
func (t *tx) jobLabel(j Job, c catalog.Catalog) *refusal {
	if j.Kind == JobBackup {
		if j.Label == "" {
			return refuse(CodeBadCommand, "a backup needs the label of its set")
		}
		if _, known := c.Sets[j.Label]; known {
			return refuse(CodeKnownSet, "a set has the label %s already", j.Label)
		}
	}
	labels := j.Uses.Labels
	if j.Parent != "" {
		labels = append(slices.Clone(labels), j.Parent)
	}
	if j.Label != "" && j.Kind != JobBackup {
		labels = append(slices.Clone(labels), j.Label)
	}
	for _, label := range labels {
		set, ok := c.Sets[label]
		if !ok {
			return refuse(CodeUnknownSet, "no set has the label %q", clip(label))
		}
		if j.Kind != JobVerify && j.Kind != JobPrune && completeCopies(set, "") == 0 {
			return refuse(CodeNotComplete, "no location has a complete copy of set %s", label)
		}
	}
	return nil
}

// completeCopies counts the complete copies of a set, that at one location left
// out.
func completeCopies(set catalog.Set, except string) (n int) {
	for name, c := range set.Copies {
		if name != except && c.State == catalog.CopyComplete {
			n++
		}
	}
	return n
}

// jobAlone: one backup and one drill of a profile at a time, and one verify,
// prune and fill at a location.
func (t *tx) jobAlone(j Job, _ catalog.Catalog) *refusal {
	for _, id := range slices.Sorted(maps.Keys(t.s.Backups.Jobs)) {
		o := t.s.Backups.Jobs[id]
		if o.Kind != j.Kind || o.Profile != j.Profile || j.Kind == JobRestore {
			continue
		}
		if j.Kind == JobBackup || j.Kind == JobDrill {
			return refuse(CodeJobRuns, "a %s runs already: %s on %s", o.Kind, o.named(), o.Node)
		}
		for _, l := range j.Locations {
			if slices.Contains(o.Locations, l) {
				return refuse(CodeJobRuns, "a %s of location %s runs already on %s", o.Kind, l, o.Node)
			}
		}
	}
	return nil
}

func (t *tx) endJob(c *EndJob) *refusal {
	j, r := t.job(c.Job)
	if r != nil {
		return r
	}
	if len(c.Result) > maxTextBytes || len(c.Problem) > maxTextBytes || c.Bytes < 0 {
		return refuse(CodeBadCommand, "the result of a job has at most %d bytes", maxTextBytes)
	}
	j.Result, j.Problem, j.Bytes = c.Result, c.Problem, c.Bytes
	switch c.State {
	case JobDone:
		if j.Kind == JobBackup {
			if r := t.restorable(j); r != nil {
				return r
			}
		}
		t.finish(j, JobDone)
		t.event("job-done", j.Store, SeverityInfo, "%s %s on %s is done%s", j.Kind, j.named(), j.Node, because(j.Result))
	case JobFailed:
		t.finish(j, JobFailed)
		t.event("job-failed", j.Store, SeverityError, "%s %s on %s failed%s", j.Kind, j.named(), j.Node, because(j.Problem))
	case JobCancelled:
		if j.Problem == "" {
			j.Problem = j.Cancel
		}
		t.finish(j, JobCancelled)
		t.event("job-cancelled", j.Store, SeverityWarning, "%s %s on %s was cancelled%s", j.Kind, j.named(), j.Node, because(j.Problem))
	default:
		return refuse(CodeBadCommand, "a job does not end as %q", clip(string(c.State)))
	}
	return nil
}

func because(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

// restorable refuses to call a backup done while its set cannot be restored.
func (t *tx) restorable(j Job) *refusal {
	c, _ := t.s.Catalog(j.Profile)
	set, ok := c.Sets[j.Label]
	switch {
	case !ok || set.State != catalog.SetComplete || completeCopies(set, "") == 0:
		return refuse(CodeNotComplete, "set %s is not complete", j.Label)
	case !hasLog(c, set):
		return refuse(CodeNotComplete, "no location has all the log from %s to %s that set %s needs yet", set.Start, set.End, j.Label)
	}
	chain, err := c.Chain(j.Label)
	if err != nil {
		return refuse(CodeNotComplete, "set %s %v", j.Label, err)
	}
	for _, label := range chain {
		if under := c.Sets[label]; under.State != catalog.SetComplete || completeCopies(under, "") == 0 {
			return refuse(CodeNotComplete, "set %s is built on %s, of which no location has a whole copy", j.Label, label)
		}
	}
	return nil
}

// finish moves a job to those that ended. A set that it was taking and did not
// complete has failed.
func (t *tx) finish(j Job, state JobState) {
	j.State, j.Ended, j.Uses = state, t.c.At, Uses{}
	b := &t.s.Backups
	b.Jobs = without(b.Jobs, j.ID)
	if len(b.Jobs) == 0 {
		b.Jobs = nil
	}
	keep := b.Finished[max(0, len(b.Finished)-maxFinished+1):]
	b.Finished = append(slices.Clone(keep), j)
	b.JobsVersion++
	if j.Kind != JobBackup {
		return
	}
	c, _ := t.s.Catalog(j.Profile)
	if set, ok := c.Sets[j.Label]; ok && set.State == catalog.SetRunning {
		set.State, set.Problem = catalog.SetFailed, j.Problem
		if set.Ended.IsZero() {
			set.Ended = t.c.At
		}
		t.putSet(c, set)
	}
}

func (t *tx) cancelJob(c *CancelJob) *refusal {
	if len(c.Why) > maxTextBytes {
		return refuse(CodeBadCommand, "the reason has at most %d bytes", maxTextBytes)
	}
	j, ok := t.s.Job(c.ID)
	if !ok {
		return refuse(CodeUnknownJob, "no job has the id %q", clip(c.ID))
	}
	if j.State != JobRunning || j.Cancel != "" {
		return nil
	}
	if j.Cancel = c.Why; j.Cancel == "" {
		j.Cancel = "cancelled"
	}
	t.s.Backups.Jobs = with(t.s.Backups.Jobs, j.ID, j)
	t.event("job-cancel", j.Store, SeverityWarning, "%s %s on %s is to end: %s", j.Kind, j.named(), j.Node, j.Cancel)
	return nil
}

func (t *tx) loseJobs(c *LoseJobs) *refusal {
	if len(c.Why) > maxTextBytes {
		return refuse(CodeBadCommand, "the reason has at most %d bytes", maxTextBytes)
	}
	t.lose(func(j Job) bool {
		return j.Store == c.Store && (c.Keep == "" || j.Lease != c.Keep) && (c.ID == "" || j.ID == c.ID)
	}, c.Why)
	return nil
}

// lose ends the running jobs that gone selects.
func (t *tx) lose(gone func(Job) bool, why string) {
	for _, id := range slices.Sorted(maps.Keys(t.s.Backups.Jobs)) {
		j := t.s.Backups.Jobs[id]
		if !gone(j) {
			continue
		}
		if j.Problem = why; why == "" {
			j.Problem = fmt.Sprintf("the daemon of %s restarted", j.Node)
		}
		t.finish(j, JobLost)
		t.event("job-lost", j.Store, SeverityWarning, "%s %s on %s was lost: %s", j.Kind, j.named(), j.Node, j.Problem)
	}
}

func (t *tx) recordDrill(c *RecordDrill) *refusal {
	j, r := t.job(c.Job, JobDrill)
	if r != nil {
		return r
	}
	d := c.Drill
	if len(d.Target) > maxNameBytes || len(d.Problem) > maxTextBytes || len(d.Location) > maxNameBytes || d.Duration < 0 || d.Rows < 0 || d.Compared < 0 || d.Bytes < 0 {
		return refuse(CodeBadCommand, "a drill has a target of at most %d bytes, and no negative numbers", maxNameBytes)
	}
	if d.Label != "" && !setLabel.MatchString(d.Label) {
		return refuse(CodeBadCommand, "%q is no label of a set", clip(d.Label))
	}
	d.Job, d.Profile, d.Node, d.At = j.ID, j.Profile, j.Node, t.c.At
	keep := t.s.Backups.Drills[max(0, len(t.s.Backups.Drills)-maxDrills+1):]
	t.s.Backups.Drills = append(slices.Clone(keep), d)
	if d.OK {
		t.event("drill", j.Store, SeverityInfo, "set %s was restored to %s on %s in %s; %d rows agree", d.Label, d.Target, j.Node, d.Duration, d.Compared)
	} else {
		t.event("drill", j.Store, SeverityError, "the drill of set %s on %s failed%s", d.Label, j.Node, because(d.Problem))
	}
	return nil
}

func (t *tx) setFreeze(c *SetFreeze) *refusal {
	if len(c.Why) > maxTextBytes || c.Frozen && c.Why == "" {
		return refuse(CodeBadCommand, "a reason of 1 to %d bytes is needed", maxTextBytes)
	}
	if !c.Frozen {
		if t.s.Backups.Frozen != nil {
			t.s.Backups.Frozen = nil
			t.event("unfrozen", "", SeverityInfo, "backups may be pruned again%s", because(c.Why))
		}
		return nil
	}
	if t.s.Backups.Frozen == nil {
		t.s.Backups.Frozen = &Freeze{Why: c.Why, Since: t.c.At}
		t.event("frozen", "", SeverityWarning, "no backup is pruned: %s", c.Why)
	}
	return nil
}
