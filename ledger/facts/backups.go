package facts

import (
	"maps"
	"slices"
	"strings"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// ProfilePostgres is the profile of the group's PostgreSQL among the databases
// whose backups the ledger keeps.
const ProfilePostgres = "postgres"

// JobKind is what a job does.
type JobKind string

// The kinds of jobs.
const (
	JobBackup  JobKind = "backup"  // takes a set
	JobVerify  JobKind = "verify"  // proves the contents of stored sets
	JobRestore JobKind = "restore" // builds a data directory
	JobDrill   JobKind = "drill"   // restores into a scratch server and compares
	JobPrune   JobKind = "prune"   // deletes what retention lets go
	JobFill    JobKind = "fill"    // copies between locations
)

// JobState is what became of a job.
type JobState string

// The states of a job. Only a running one changes.
const (
	JobRunning   JobState = "running"
	JobDone      JobState = "done"      // did what it was for
	JobFailed    JobState = "failed"    // its node says that it did not
	JobCancelled JobState = "cancelled" // ended on somebody's word
	JobLost      JobState = "lost"      // the node that ran it restarted or went away
)

// Uses is what nobody may delete while a job runs.
type Uses struct {
	Labels []string `json:"labels,omitempty"` // of sets
	// Floor: the job needs log from here on, of any timeline. Zero = none.
	Floor pos.LSN `json:"floor,omitempty"`
}

// Job is one piece of work on backups. Its progress is not in the ledger:
// the node's reports carry it.
type Job struct {
	ID      string   `json:"id"`
	Kind    JobKind  `json:"kind"`
	Profile string   `json:"profile"`
	Store   string   `json:"store"` // who runs it
	Node    string   `json:"node"`  // name of Store
	State   JobState `json:"state"`
	// Lease names the run of the daemon that carries the job: a daemon that
	// restarts has another one, and the job is lost.
	Lease string `json:"lease"`
	Label string `json:"label,omitempty"` // of the set that it is about
	// Parent is the set that a backup is to be built on; "" for a full one. The
	// node takes a full one when that is not possible.
	Parent    string   `json:"parent,omitempty"`
	Locations []string `json:"locations,omitempty"`
	Why       string   `json:"why"`
	// Target is what a drill is to restore, as catalog.Parse reads it; "" leaves
	// it to the drill. Notes go onto the set of a backup. Log: a verify also
	// proves the log of its locations.
	Target string            `json:"target,omitempty"`
	Notes  map[string]string `json:"notes,omitempty"`
	Log    bool              `json:"log,omitempty"`
	// Due is the moment of the schedule that it is for.
	Due   time.Time `json:"due,omitzero"`
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended,omitzero"`
	// Deadline is until when it may run; zero = without limit.
	Deadline time.Time `json:"deadline,omitzero"`
	Attempt  int       `json:"attempt"` // from 1
	// Cancel is why the job is to end, once somebody said so.
	Cancel  string `json:"cancel,omitempty"`
	Result  string `json:"result,omitempty"`  // of a job that is done, one line
	Problem string `json:"problem,omitempty"` // of one that is not
	Bytes   int64  `json:"bytes,omitempty"`   // moved or read
	Uses    Uses   `json:"uses,omitzero"`
}

// Drill is one restore that was tried out: a point of the trend.
type Drill struct {
	Job      string        `json:"job"`
	Profile  string        `json:"profile"`
	Label    string        `json:"label"`
	Location string        `json:"location"`
	Node     string        `json:"node"`
	At       time.Time     `json:"at"`     // when it ended
	Target   string        `json:"target"` // the moment that was restored
	Duration time.Duration `json:"duration_ns"`
	Bytes    int64         `json:"bytes,omitempty"` // restored
	// Rows were read in the restored database, Compared of them had a digest
	// taken on the primary to be compared with.
	Rows     int64  `json:"rows"`
	Compared int64  `json:"compared"`
	OK       bool   `json:"ok"`
	Problem  string `json:"problem,omitempty"`
}

// Freeze says that nothing is to be pruned.
type Freeze struct {
	Why   string    `json:"why"`
	Since time.Time `json:"since"`
}

// WALRange is a stretch of one timeline's log.
type WALRange struct {
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"`
	To       pos.LSN      `json:"to"`
}

// Backups is what the group agreed on about backups. Like State it is never
// changed in place.
type Backups struct {
	// Catalogs are what exists where, by profile.
	Catalogs map[string]catalog.Catalog `json:"catalogs,omitempty"`
	// Jobs are the running ones, by id. JobsVersion grows when one begins or
	// ends.
	Jobs        map[string]Job `json:"jobs,omitempty"`
	JobsVersion uint64         `json:"jobs_version,omitempty"`
	// Finished are the newest jobs that ended, oldest first, bounded.
	Finished []Job `json:"finished,omitempty"`
	// Feeders are the stores that archive the log, by location.
	Feeders        map[string]string `json:"feeders,omitempty"`
	FeedersVersion uint64            `json:"feeders_version,omitempty"`
	// Removals counts what was taken out of the catalogs, and what was deleted:
	// what rests on an older count may rest on what is gone.
	Removals uint64 `json:"removals,omitempty"`
	// LogRemovals counts by location how often the removal of log began or
	// ended there.
	LogRemovals map[string]uint64 `json:"log_removals,omitempty"`
	// Pruning is log that is out of a catalog and may still lie at a location,
	// by profile and location.
	Pruning map[string]map[string][]WALRange `json:"pruning,omitempty"`
	// Frozen is set while the operator forbids to prune.
	Frozen *Freeze `json:"frozen,omitempty"`
	// Drills are the newest, oldest first, bounded.
	Drills []Drill `json:"drills,omitempty"`
}

// Job finds a job, running or finished.
func (s State) Job(id string) (Job, bool) {
	if j, ok := s.Backups.Jobs[id]; ok {
		return j, true
	}
	for i := len(s.Backups.Finished) - 1; i >= 0; i-- {
		if j := s.Backups.Finished[i]; j.ID == id {
			return j, true
		}
	}
	return Job{}, false
}

// Catalog is what exists of the backups of a profile. For the group's
// PostgreSQL there always is one, with the timelines that the lineage tells of
// when the ledger is older than catalogs.
func (s State) Catalog(profile string) (catalog.Catalog, bool) {
	c, ok := s.Backups.Catalogs[profile]
	if ok || profile != ProfilePostgres || !s.Founded() {
		return c, ok
	}
	c = catalog.Catalog{
		Group: s.Group.Name, Profile: profile, SystemID: s.Group.SystemID, Major: s.Group.PGMajor, SegSize: s.Group.SegSize,
		Timelines: map[pos.Timeline]catalog.Timeline{}, Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{},
	}
	for i, e := range s.Lineage {
		if _, known := c.Timelines[e.Timeline]; known {
			continue
		}
		tl := catalog.Timeline{}
		if i > 0 {
			tl = catalog.Timeline{Parent: s.Lineage[i-1].Timeline, Fork: e.Start}
		}
		if ch, ok := s.ChangeOf(e.Epoch); ok && i > 0 {
			tl.At = ch.promotedAt()
		}
		c.Timelines[e.Timeline] = tl
	}
	return c, true
}

// Profiles are those of which there is a catalog, sorted.
func (s State) Profiles() []string {
	out := slices.Collect(maps.Keys(s.Backups.Catalogs))
	if s.Founded() && !slices.Contains(out, ProfilePostgres) {
		out = append(out, ProfilePostgres)
	}
	slices.Sort(out)
	return out
}

// jobs are all known jobs: those that ended, oldest first, then the running
// ones by id.
func (s State) jobs() []Job {
	out := slices.Clone(s.Backups.Finished)
	for _, id := range slices.Sorted(maps.Keys(s.Backups.Jobs)) {
		out = append(out, s.Backups.Jobs[id])
	}
	return out
}

func (s State) membersByName() []Member {
	return slices.SortedFunc(maps.Values(s.Members), func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
}

// promotedAt is when the change recorded its promotion; zero when it has none.
func (c Change) promotedAt() time.Time {
	for _, s := range c.Steps {
		if s.Name == StepPromoting {
			return s.At
		}
	}
	return time.Time{}
}

// PruneFrozen says why nothing of a profile may be pruned now; "" when it may.
// Besides the operator's word a damaged set forbids it until a sound one that
// began later is complete: what is older may be all that is left.
func (s State) PruneFrozen(profile string) string {
	if f := s.Backups.Frozen; f != nil {
		return f.Why
	}
	if o := s.Order; o != nil && o.Kind == OrderRestore {
		return "the group is being restored from the backups that are there"
	}
	if label := s.DamagedSet(profile); label != "" {
		return "the database had damaged pages when set " + label + " was taken"
	}
	return ""
}

// DamagedSet is the newest complete set if pages of the database were damaged
// when it was taken; "" when a sound one began later, or none was.
func (s State) DamagedSet(profile string) string {
	var newest catalog.Set
	for _, set := range s.Backups.Catalogs[profile].Sets {
		if set.State == catalog.SetComplete && later(set, newest) {
			newest = set
		}
	}
	if !newest.Damaged {
		return ""
	}
	return newest.Label
}

// later tells whether a began after b; the empty set is before all.
func later(a, b catalog.Set) bool {
	if c := a.Began.Compare(b.Began); c != 0 || b.Label == "" {
		return c > 0 || b.Label == ""
	}
	return a.Label > b.Label
}

// WALFloor is the lowest log that running jobs and sets that are being taken
// need; false when they need none.
func (s State) WALFloor(profile string) (floor pos.LSN, ok bool) {
	lower := func(l pos.LSN) {
		if l != 0 && (!ok || l < floor) {
			floor, ok = l, true
		}
	}
	for _, j := range s.Backups.Jobs {
		if j.Profile == profile {
			lower(j.Uses.Floor)
		}
	}
	for _, set := range s.Backups.Catalogs[profile].Sets {
		if set.State == catalog.SetRunning {
			lower(set.Start)
		}
	}
	return floor, ok
}

// Fills tells whether a job is copying to a location.
func (b Backups) Fills(location string) bool {
	for _, j := range b.Jobs {
		if j.Kind == JobFill && slices.Contains(j.Locations, location) {
			return true
		}
	}
	return false
}

// inUse is a running job that needs the set at some location.
func (s State) inUse(profile, label string) (Job, bool) {
	var found Job
	for _, j := range s.Backups.Jobs {
		if j.Profile != profile || j.Kind == JobPrune {
			continue
		}
		if (j.Label == label || j.Parent == label || slices.Contains(j.Uses.Labels, label)) && (found.ID == "" || j.ID < found.ID) {
			found = j
		}
	}
	return found, found.ID != ""
}
