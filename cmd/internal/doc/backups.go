package doc

import (
	"time"

	"understudy/shipper/pos"
)

// The actions on backups.
const (
	ActionBackup       = "backup"
	ActionVerify       = "verify"
	ActionDrill        = "drill"
	ActionPrune        = "prune"
	ActionCancel       = "cancel"
	ActionPin          = "pin"
	ActionUnpin        = "unpin"
	ActionNote         = "note"
	ActionFreeze       = "freeze"
	ActionThaw         = "thaw"
	ActionCloseGap     = "close-gap"
	ActionLocationInit = "location-init"
)

// JobActions begin jobs and are answered with a JobsReply.
func JobActions() []string { return []string{ActionBackup, ActionVerify, ActionDrill, ActionPrune} }

// MarkActions are carried out at once and answered with a Mark.
func MarkActions() []string {
	return []string{ActionCancel, ActionPin, ActionUnpin, ActionNote, ActionFreeze, ActionThaw, ActionCloseGap, ActionLocationInit}
}

// Sets are the backups of the group's database.
type Sets struct {
	Profile string `json:"profile"`
	// Frozen is why nothing is pruned now, "" when it may be.
	Frozen string `json:"frozen,omitempty"`
	Sets   []Set  `json:"sets"` // newest first
}

// SetKind is what a set is made of.
type SetKind string

// The kinds of sets.
const (
	KindFull        SetKind = "full"
	KindIncremental SetKind = "incremental" // what changed since the one before it in its chain
)

// Set is one backup with its copies.
type Set struct {
	Label string  `json:"label"`
	State string  `json:"state"` // "running", "complete" or "failed"
	Kind  SetKind `json:"kind"`
	// Chain are the sets that make up an incremental one, the full one first and
	// this one last; absent for a full one, and where one of them is not known.
	Chain    []string     `json:"chain,omitempty"`
	Timeline pos.Timeline `json:"timeline"`
	Start    pos.LSN      `json:"start"` // the log is needed from here on
	End      pos.LSN      `json:"end"`   // up to here at least
	Began    time.Time    `json:"began"`
	Ended    time.Time    `json:"ended,omitzero"`
	// DurationNS is how long it took; 0 while it is being taken.
	DurationNS int64             `json:"duration_ns"`
	Node       string            `json:"node"` // that took it
	Bytes      int64             `json:"bytes"`
	RawBytes   int64             `json:"raw_bytes"` // of the database
	Digest     string            `json:"digest,omitempty"`
	Problem    string            `json:"problem,omitempty"`
	Damaged    bool              `json:"damaged"`
	Pinned     bool              `json:"pinned"`
	Gold       bool              `json:"gold"`
	Notes      map[string]string `json:"notes,omitempty"`
	Copies     []Copy            `json:"copies"` // by location
	// Restorable tells whether it can be restored from all locations together.
	Restorable bool `json:"restorable"`
	// Job is the running job that takes it, uses it or deletes it, "" for none.
	Job string `json:"job,omitempty"`
}

// Copy is a set at one location.
type Copy struct {
	Location string    `json:"location"`
	State    string    `json:"state"` // "writing", "complete", "damaged" or "removing"
	At       time.Time `json:"at,omitzero"`
	Verified time.Time `json:"verified,omitzero"` // when every byte was last proven
	Problem  string    `json:"problem,omitempty"`
	// Restorable: the copy and the log that it needs are at this location.
	Restorable bool `json:"restorable"`
}

// Points are the moments that can be restored.
type Points struct {
	// Location is the one that was asked for, "" for all together.
	Location  string     `json:"location,omitempty"`
	Intervals []Interval `json:"intervals"` // newest timeline first
	Gaps      []Gap      `json:"gaps"`      // on the way of the newest timeline
	Named     []Named    `json:"named"`     // restore points that can be reached, newest first
	// Measured tells whether the estimates come from a drill.
	Measured bool `json:"measured"`
}

// Interval is a stretch of history every moment of which can be restored.
type Interval struct {
	Timeline pos.Timeline `json:"timeline"`
	From     time.Time    `json:"from,omitzero"`
	// To is the last commit that is known to be there: every moment before it
	// can be restored.
	To      time.Time `json:"to,omitzero"`
	FromLSN pos.LSN   `json:"from_lsn"`
	ToLSN   pos.LSN   `json:"to_lsn"`
	Sets    []string  `json:"sets"` // oldest first
	// EstimateNS is how long a restore of its end will take.
	EstimateNS int64 `json:"estimate_ns"`
}

// Gap is a stretch of log that is missing.
type Gap struct {
	Location string       `json:"location,omitempty"` // "" = everywhere
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"`
	To       pos.LSN      `json:"to"`
	Cause    string       `json:"cause,omitempty"`
	Since    time.Time    `json:"since,omitzero"`
}

// Named is a restore point.
type Named struct {
	Name     string       `json:"name"`
	At       time.Time    `json:"at"`
	LSN      pos.LSN      `json:"lsn"`
	Timeline pos.Timeline `json:"timeline"`
}

// Jobs are the pieces of work on backups: those that run, then those that
// ended, each newest first.
type Jobs struct {
	Jobs []Job `json:"jobs"`
}

// Job is one of them.
type Job struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	State     string    `json:"state"` // "running", "done", "failed", "cancelled" or "lost"
	Node      string    `json:"node"`
	Label     string    `json:"label,omitempty"` // of its set
	Locations []string  `json:"locations"`
	Why       string    `json:"why"`
	Due       time.Time `json:"due,omitzero"`
	Began     time.Time `json:"began"`
	Ended     time.Time `json:"ended,omitzero"`
	Deadline  time.Time `json:"deadline,omitzero"`
	Attempt   int       `json:"attempt"`
	Cancel    string    `json:"cancel,omitempty"` // why it is to end
	Result    string    `json:"result,omitempty"`
	Problem   string    `json:"problem,omitempty"`
	Bytes     int64     `json:"bytes"`
	Progress  *Progress `json:"progress,omitempty"` // of a running one, as far as this node hears of it
}

// The states of a job, as the ledger calls them.
const (
	JobRunning = "running"
	JobDone    = "done"
)

// Progress is how far a running job is.
type Progress struct {
	Step       string `json:"step"`
	DoneBytes  int64  `json:"done_bytes"`
	TotalBytes int64  `json:"total_bytes"` // 0 while unknown
	Percent    int    `json:"percent"`
	// RemainingNS is how long the rest takes at the speed so far, 0 while
	// unknown.
	RemainingNS int64 `json:"remaining_ns,omitempty"`
}

// JobDetail is one job with what its node kept of it.
type JobDetail struct {
	Job Job `json:"job"`
	// Here tells whether log and files are on the node that answers. Elsewhere
	// is a sentence that says where they are when not.
	Here      bool     `json:"here"`
	Elsewhere string   `json:"elsewhere,omitempty"`
	Log       []string `json:"log"` // its last lines
	LogCut    bool     `json:"log_cut"`
	Files     []File   `json:"files"` // its first objects
	FileN     int      `json:"file_count"`
	FileBytes int64    `json:"file_bytes"` // of all, without those that were removed
}

// File is one object that a job wrote or removed.
type File struct {
	Location string `json:"location"`
	Key      string `json:"key"`
	Bytes    int64  `json:"bytes"`
	Removed  bool   `json:"removed,omitempty"`
}

// Locations are the places for backups.
type Locations struct {
	Locations []Location `json:"locations"` // in the order in which they are read from
}

// Location is one place.
type Location struct {
	Name      string `json:"name"`
	Kind      string `json:"kind"`
	Where     string `json:"where"` // directory, account and host, or bucket
	Node      string `json:"node,omitempty"`
	Tier      string `json:"tier"`
	Enabled   bool   `json:"enabled"`
	Encrypted bool   `json:"encrypted"`
	Window    string `json:"window,omitempty"` // in which it may be written to
	Throttle  int64  `json:"throttle_bytes,omitempty"`
	// State is one word: "ok", "behind", "waiting", "failing", "gap", "empty",
	// "unfed" or "disabled".
	State string `json:"state"`
	// Feeder is the node that archives the log there.
	Feeder   string       `json:"feeder,omitempty"`
	Timeline pos.Timeline `json:"timeline,omitempty"`
	Archived pos.LSN      `json:"archived"`
	LagBytes int64        `json:"lag_bytes"`
	// LagSeconds is the age of the newest commit there; absent when unknown.
	LagSeconds *float64  `json:"lag_seconds,omitempty"`
	Rate       int64     `json:"bytes_per_second,omitempty"`
	Problem    string    `json:"problem,omitempty"`
	Since      time.Time `json:"since,omitzero"` // of the problem
	Waiting    string    `json:"waiting,omitempty"`
	// SetN counts the sets that can be restored from it alone, Newest is the
	// label of the newest of them.
	SetN      int       `json:"sets"`
	Newest    string    `json:"newest,omitempty"`
	NewestAt  time.Time `json:"newest_at,omitzero"`
	Bytes     int64     `json:"bytes"` // of complete sets
	Gaps      []Gap     `json:"gaps"`
	Free      int64     `json:"free_bytes,omitempty"` // 0 = not known here
	Total     int64     `json:"total_bytes,omitempty"`
	Retention []string  `json:"retention"` // the rules, in words
}

// RetentionPlan is what would be deleted now, and why the rest stays.
type RetentionPlan struct {
	At     time.Time        `json:"at"`
	Frozen string           `json:"frozen,omitempty"` // why nothing goes
	Gold   []string         `json:"gold"`             // sets that become gold
	Places []RetentionPlace `json:"places"`
}

// RetentionPlace is the plan for one location.
type RetentionPlace struct {
	Location string    `json:"location"`
	Frozen   string    `json:"frozen,omitempty"`
	Keep     []Kept    `json:"keep"`   // oldest first
	Remove   []Removed `json:"remove"` // in this order
}

// Kept is a set that stays, with all reasons.
type Kept struct {
	Label string   `json:"label"`
	Why   []string `json:"why"`
}

// Removed is one removal: of a set, or of a stretch of log when Label is "".
type Removed struct {
	Label    string       `json:"label,omitempty"`
	Timeline pos.Timeline `json:"timeline,omitempty"`
	From     pos.LSN      `json:"from,omitzero"`
	To       pos.LSN      `json:"to,omitzero"`
	Bytes    int64        `json:"bytes"`
	Why      string       `json:"why"`
}

// RemoveN counts the removals of the plan.
func (p RetentionPlan) RemoveN() (n int) {
	for _, l := range p.Places {
		n += len(l.Remove)
	}
	return n
}

// Needed says whether a new backup is needed.
type Needed struct {
	Needed bool   `json:"needed"`
	Reason string `json:"reason"` // stable id
	Why    string `json:"why"`    // one sentence
	// Running is the job that takes one now, "" for none.
	Running string    `json:"running,omitempty"`
	Newest  string    `json:"newest,omitempty"` // label of the newest set that can be used
	EndedAt time.Time `json:"ended_at,omitzero"`
	Next    time.Time `json:"next,omitzero"` // when the schedule asks for the next one
}

// JobsReply answers the actions that begin jobs.
type JobsReply struct {
	Action  string   `json:"action"`
	Started bool     `json:"started"`
	Steps   []string `json:"steps"` // what happens, or would, a sentence each
	Jobs    []Job    `json:"jobs"`  // that were begun, or would be
	// Plan is what a prune deletes.
	Plan *RetentionPlan `json:"plan,omitempty"`
}

// Mark answers the actions that are done at once.
type Mark struct {
	Action   string `json:"action"`
	Changed  bool   `json:"changed"` // it was not so before; with dry_run: it would be
	Sentence string `json:"sentence"`
}

// AuditCheck is what a check of a copy of the group's audit found.
type AuditCheck struct {
	Node    string `json:"node,omitempty"` // whose copy it is
	OK      bool   `json:"ok"`
	Entries uint64 `json:"entries"` // number of the newest entry that the ledger knows
	Head    string `json:"head"`    // its hash
	// BrokenAt is the first entry that does not follow from those before it, and
	// Problem says why.
	BrokenAt uint64 `json:"broken_at,omitempty"`
	Problem  string `json:"problem,omitempty"`
	// AskedHash is the hash that the copy has of entry Asked, "" when it has
	// none.
	Asked     uint64 `json:"asked,omitempty"`
	AskedHash string `json:"asked_hash,omitempty"`
}
