// Package agenda says what is due: which backups, checks, drills and clean-ups
// are to begin now and on which node, which running job has gone on for too
// long, and who feeds the log to which location.
//
// The package decides and does nothing: Decide is a function of its input.
package agenda

import (
	"time"

	"understudy/shipper/catalog"
)

// Source is where backups are taken from if there is a choice.
type Source string

// The sources. The other one is used when there is none of the preferred.
const (
	FromStandby Source = "standby"
	FromPrimary Source = "primary"
)

// Policy is what the operator decided about the work on backups. A zero time
// or Schedule switches off what it is about.
type Policy struct {
	Schedule Schedule // of backups
	From     Source
	// Incremental: what the schedule asks for is built on the newest set, as long
	// as the newest full one is not older than FullEvery.
	Incremental bool
	FullEvery   time.Duration
	// MaxLagBytes is how far behind a standby may be to be backed up; zero is
	// no limit.
	MaxLagBytes uint64
	// Limits are how long jobs of a kind may take.
	Limits map[JobKind]time.Duration
	// QuickN is how often a failed job is repeated after QuickEvery; then it is
	// an incident, and repeated after RetryEvery without end.
	QuickN     int
	QuickEvery time.Duration
	RetryEvery time.Duration
	// VerifyEvery is within which time each copy is proven anew.
	VerifyEvery time.Duration
	Drill       Schedule
	Prune       Schedule
	MarkerEvery time.Duration
	// LostAfter is how long a node must be silent for its jobs to be given up.
	LostAfter time.Duration
}

// DefaultPolicy takes a backup every night, cleans up behind it, proves copies
// within 30 days and tries a restore every week.
func DefaultPolicy(zone *time.Location) Policy {
	must := func(text string) Schedule {
		s, err := ParseSchedule(text, zone)
		if err != nil {
			panic(err) // a constant of this package
		}
		return s
	}
	return Policy{
		Schedule: must("daily 02:30"), From: FromStandby, MaxLagBytes: 1 << 30,
		Limits: map[JobKind]time.Duration{JobFull: 24 * time.Hour, JobRestore: 24 * time.Hour, JobDrill: 24 * time.Hour},
		QuickN: 3, QuickEvery: time.Minute, RetryEvery: 30 * time.Minute,
		VerifyEvery: 30 * 24 * time.Hour, Drill: must("weekly sat 12:00"), Prune: must("daily 05:00"),
		MarkerEvery: 15 * time.Minute, LostAfter: time.Minute,
	}
}

// JobKind is what a job does.
type JobKind string

// The kinds of jobs.
const (
	JobFull    JobKind = "backup"
	JobVerify  JobKind = "verify"
	JobRestore JobKind = "restore"
	JobDrill   JobKind = "drill"
	JobPrune   JobKind = "prune"
	JobFill    JobKind = "fill"
)

// JobState is how far a job has come.
type JobState string

// The states of a job. One that was stopped at its time limit has failed.
const (
	JobRunning   JobState = "running"
	JobDone      JobState = "done"
	JobFailed    JobState = "failed"
	JobCancelled JobState = "cancelled" // by the operator
	JobLost      JobState = "lost"      // its node went away
)

// Job is one that runs or ran.
type Job struct {
	ID        string
	Kind      JobKind
	Node      string // name
	State     JobState
	Label     string   // of the set, of a verify or fill
	Locations []string // a verify, fill or prune has one
	Due       time.Time
	Began     time.Time
	Ended     time.Time
}

// Role is what a node is at the moment.
type Role string

// The roles.
const (
	Primary Role = "primary"
	Standby Role = "standby"
	Witness Role = "witness"
)

// Node is what is known of a node at the moment.
type Node struct {
	Name     string
	Role     Role
	Alive    bool      // it is heard
	Heard    time.Time // when it was heard last
	Healthy  bool      // its PostgreSQL works; a witness needs none
	LagBytes uint64    // of a standby
	HasLog   bool      // it can feed locations
}

// Location is what is known of a location at the moment.
type Location struct {
	Name    string
	Enabled bool
	// Cold ones are filled from the others, and get backups directly only when
	// no other location takes any.
	Cold    bool
	Owner   string   // the node whose directory it is; empty when it is nobody's
	Nodes   []string // that can reach it
	Open    bool     // its time window is
	Problem string   // why it cannot be used now; empty when it can
	Feeder  string   // the node that feeds it, as the ledger has it
	// Wants are the sets that its retention would keep, newest first, and
	// WantsLog is the log that it should have from others.
	Wants    []string
	WantsLog []catalog.Stretch
}

// Request is what an operator asked for.
type Request struct {
	ID   string
	Kind JobKind // JobFull, JobDrill, JobVerify or JobPrune
	Node string  // empty leaves the choice
	// Location and Label narrow a verify or prune; empty is the first that fits.
	Location string
	Label    string
	// Form is that of a backup; empty leaves the choice to the policy.
	Form Form
}

// Form is what a backup is made of.
type Form string

// The forms of a backup.
const (
	Full        Form = "full"
	Incremental Form = "incremental"
)

// Input is all that a decision depends on.
type Input struct {
	Now       time.Time
	Policy    Policy
	Catalog   catalog.Catalog
	Jobs      []Job // that run, and recent ones
	Nodes     []Node
	Locations []Location
	Requests  []Request
	// Last is when the last successful job of a kind began, as far as Jobs does
	// not reach back.
	Last   map[JobKind]time.Time
	Marked time.Time // when the last marker was written
}

// OrderKind is what is to be done.
type OrderKind string

// The kinds of orders.
const (
	Begin  OrderKind = "begin"  // start a job
	Cancel OrderKind = "cancel" // stop a running job; it has failed
	Lose   OrderKind = "lose"   // record that a job is lost
	Feed   OrderKind = "feed"   // make a node the feeder of a location
	Mark   OrderKind = "mark"   // write a marker on the primary
	// Raise says that an incident stands. What is not raised again is over.
	Raise OrderKind = "raise"
)

// Cause is why a backup is taken.
type Cause string

// The causes, in the order in which they are looked at.
const (
	CauseOperator Cause = "operator"
	CauseFirst    Cause = "first"    // there is no backup
	CauseTimeline Cause = "timeline" // none on the newest timeline
	CauseGap      Cause = "gap"      // the log after the last one has a gap
	CauseSchedule Cause = "schedule"
)

// Severity of an incident.
type Severity string

// The severities.
const (
	Warning Severity = "warning"
	Error   Severity = "error"
)

// Order is one thing to be done.
type Order struct {
	Kind      OrderKind
	Job       JobKind // of Begin
	ID        string  // the job of Cancel and Lose
	Node      string
	Locations []string // a Begin of a full backup can have several
	Label     string
	// Parent is the set that a backup is built on; empty for a full one.
	Parent   string
	Log      []catalog.Stretch // what a fill copies, when it has no label
	Cause    Cause
	Request  string // that it answers
	Due      time.Time
	Attempt  int      // 1 is the first
	Key      string   // of Raise
	Severity Severity // of Raise
	Why      string
}

// Decide says what is to be done now. It is asked again whenever something has
// changed, and about every second: an order that was carried out is not given
// again once Jobs, Locations or Marked show it.
func Decide(in Input) []Order {
	a := newAgenda(in)
	a.watch()
	a.feeders()
	a.backups()
	a.fills()
	a.verifies()
	a.drills()
	a.prunes()
	a.markers()
	return a.orders
}
