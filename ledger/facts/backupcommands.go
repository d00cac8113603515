package facts

import (
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// The kinds of commands about backups.
const (
	CmdBeginJob       CommandKind = "begin-job"
	CmdEndJob         CommandKind = "end-job"
	CmdCancelJob      CommandKind = "cancel-job"
	CmdLoseJobs       CommandKind = "lose-jobs"
	CmdRecordSet      CommandKind = "record-set"
	CmdRecordCopy     CommandKind = "record-copy"
	CmdRecordVerified CommandKind = "record-verified"
	CmdMarkSet        CommandKind = "mark-set"
	CmdRemoveCopy     CommandKind = "remove-copy"
	CmdRemoveSet      CommandKind = "remove-set"
	CmdRecordArchived CommandKind = "record-archived"
	CmdCloseGap       CommandKind = "close-gap"
	CmdRemoveWAL      CommandKind = "remove-wal"
	CmdAssignFeeder   CommandKind = "assign-feeder"
	CmdRecordDrill    CommandKind = "record-drill"
	CmdSetFreeze      CommandKind = "set-freeze"
	CmdRebuildCatalog CommandKind = "rebuild-catalog"
)

// JobRef says which running job speaks, and by which run of a daemon. A job
// that was lost or cancelled meanwhile is refused everything.
type JobRef struct {
	ID    string `json:"id"`
	Lease string `json:"lease"`
}

// BeginJob begins a job. Of Job the proposer fills ID, Kind, Profile, Store,
// Lease, Label, Locations, Why, Due, Deadline, Attempt and Uses. Expect is
// Backups.JobsVersion. A job with Uses was planned by a catalog: Removals is
// Backups.Removals of that time.
type BeginJob struct {
	Expect   uint64 `json:"expect"`
	Removals uint64 `json:"removals"`
	Job      Job    `json:"job"`
}

// EndJob ends a job: State is JobDone, JobFailed or JobCancelled. A backup is
// done only when its set is complete and can be restored.
type EndJob struct {
	Job     JobRef   `json:"job"`
	State   JobState `json:"state"`
	Result  string   `json:"result,omitempty"`
	Problem string   `json:"problem,omitempty"`
	Bytes   int64    `json:"bytes,omitempty"`
}

// CancelJob asks a running job to end; it is no error if it has ended.
type CancelJob struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// LoseJobs ends the running jobs of a store, except those of the run Keep of
// its daemon, or only the job ID if that is set. A daemon says it of itself when
// it starts, the leader of a job whose node is gone, or that does not end.
type LoseJobs struct {
	Store string `json:"store"`
	Keep  string `json:"keep,omitempty"`
	ID    string `json:"id,omitempty"`
	Why   string `json:"why"`
}

// RecordSet says how far the set of a backup has come: first running, with
// Timeline and Start, and a copy that is being written at each of the job's
// locations; then complete or failed. Copies, pins, notes and the like in Set
// are ignored. A set is complete only when one location has a complete copy.
type RecordSet struct {
	Job JobRef      `json:"job"`
	Set catalog.Set `json:"set"`
}

// RecordCopy says how far the copy of a set at a location has come.
type RecordCopy struct {
	Job      JobRef            `json:"job"` // backup, fill or verify
	Label    string            `json:"label"`
	Location string            `json:"location"`
	State    catalog.CopyState `json:"state"` // CopyWriting, CopyComplete or CopyDamaged
	Problem  string            `json:"problem,omitempty"`
}

// RecordVerified says that the contents of a copy were proven, or were not.
type RecordVerified struct {
	Job      JobRef `json:"job"` // verify, drill, restore or fill
	Label    string `json:"label"`
	Location string `json:"location"`
	OK       bool   `json:"ok"`
	Problem  string `json:"problem,omitempty"`
}

// MarkSet is the operator's, or the policy's, word on a set. What is nil stays.
// A note with an empty text goes.
type MarkSet struct {
	Profile string            `json:"profile"`
	Label   string            `json:"label"`
	Pinned  *bool             `json:"pinned,omitempty"`
	Gold    *bool             `json:"gold,omitempty"`
	Notes   map[string]string `json:"notes,omitempty"`
}

// RemoveCopy is said by a prune twice: before the first object of the copy is
// deleted, and with Gone after the last. From the first on nobody restores
// from it. Another prune may finish what one began.
type RemoveCopy struct {
	Job      JobRef `json:"job"`
	Label    string `json:"label"`
	Location string `json:"location"`
	Gone     bool   `json:"gone,omitempty"`
}

// RemoveSet forgets a failed set that has no copy anywhere.
type RemoveSet struct {
	Job   JobRef `json:"job"`
	Label string `json:"label"`
}

// RecordArchived says which log a location has; it only grows. It is said by
// the location's feeder, or by a fill. Spans need not be whole segments. A gap
// that Spans close ends.
type RecordArchived struct {
	Profile  string         `json:"profile"`
	Location string         `json:"location"`
	Store    string         `json:"store"`        // the feeder; "" with Job
	Job      JobRef         `json:"job,omitzero"` // a fill
	Spans    []catalog.Span `json:"spans,omitempty"`
	Gaps     []catalog.Gap  `json:"gaps,omitempty"`
	// Removals is Backups.LogRemovals of the location when what is reported was
	// looked at: log that was removed since may be in it.
	Removals uint64 `json:"removals,omitempty"`
}

// CloseGap forgets a gap: one that is filled, or with GivenUp one that will
// never be, on the operator's word.
type CloseGap struct {
	Profile  string       `json:"profile"`
	Location string       `json:"location"`
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"`
	GivenUp  bool         `json:"given_up,omitempty"`
	Why      string       `json:"why,omitempty"`
}

// RemoveWAL is said by a prune twice: before the first byte of Ranges is
// deleted at a location, and with Gone after the last.
type RemoveWAL struct {
	Job      JobRef     `json:"job"`
	Location string     `json:"location"`
	Ranges   []WALRange `json:"ranges"`
	Gone     bool       `json:"gone,omitempty"`
}

// AssignFeeder gives a location to the node that archives the log there; an
// empty Store takes it from whoever has it. Expect is Backups.FeedersVersion.
type AssignFeeder struct {
	Expect   uint64 `json:"expect"`
	Location string `json:"location"`
	Store    string `json:"store"`
}

// RecordDrill adds the result of a drill; Job, Profile, Node and At of it are
// filled in.
type RecordDrill struct {
	Job   JobRef `json:"job"`
	Drill Drill  `json:"drill"`
}

// SetFreeze forbids to prune, or allows it again.
type SetFreeze struct {
	Frozen bool   `json:"frozen"`
	Why    string `json:"why"`
}

// RebuildCatalog adds what a scan of locations found. It never forgets, and
// changes nothing of what is known, except that a copy that was not known to
// be complete is.
type RebuildCatalog struct {
	Scan catalog.Catalog `json:"scan"`
	// Removals is Backups.Removals of before the scan: what was deleted since may
	// be in it.
	Removals uint64 `json:"removals,omitempty"`
}
