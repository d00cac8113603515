// Package doc declares the documents that the daemon and the operator's
// commands exchange: what changed, what was decided and why, and what an order
// will do.
//
// The package is pure. LSNs and epochs are texts in JSON, names are in snake
// case, and a duration is a number of nanoseconds whose name ends in ns.
package doc

import (
	"encoding/json"
	"time"

	"understudy/shipper/pos"
)

// The kinds of changes.
const (
	KindFounding   = "founding"
	KindRestart    = "restart"    // the same node opened again
	KindSwitchover = "switchover" // ordered; the old primary handed over
	KindFailover   = "failover"   // the old primary was lost
	KindForced     = "forced"     // on the operator's word against a refusal
)

// The kinds of orders that are no changes of the primaryship.
const (
	KindReseed     = "reseed"
	KindOffline    = "offline"
	KindOnline     = "online"
	KindSchedule   = "schedule"   // a switchover for a time
	KindUnschedule = "unschedule" // not after all
	KindPause      = "pause"      // answered with a Pause
	KindResume     = "resume"     // answered with a Pause
)

// The names of phases, in the order in which they usually come.
const (
	PhaseLost      = "lost" // the last sign of life of a primary that was lost
	PhaseOrdered   = "ordered"
	PhaseFrozen    = "frozen"  // clients are shut out
	PhaseStopped   = "stopped" // the old server has ended
	PhaseEpoch     = "epoch"
	PhaseFenced    = "fenced" // by a majority
	PhaseCopied    = "copied" // the candidate has the donor's log
	PhaseAssigned  = "assigned"
	PhaseReplayed  = "replayed"
	PhasePromoting = "promoting"
	PhasePromoted  = "promoted"
	PhaseOpened    = "opened"
	PhaseReturned  = "returned" // the old primary is a standby again
)

// The ways in which a former primary comes back, the cheapest first.
const (
	MethodFollow = "follow" // nothing is copied
	MethodRewind = "rewind" // what differs is found from the log
	MethodDelta  = "delta"  // all blocks are compared, those that differ are copied
	MethodFull   = "full"   // everything is copied
)

// ModeAutomatic is the mode of failover in which the group acts by itself.
const ModeAutomatic = "automatic"

// The kinds of evidence.
const (
	EvidenceFirstHand = "first-hand" // a node's word on itself
	EvidenceInferred  = "inferred"   // silence
	EvidenceOperator  = "operator"   // a command
	EvidenceLedger    = "ledger"     // what the group has agreed
)

// History is what the group remembers of changes of the primaryship.
type History struct {
	Changes []Change `json:"changes"` // newest last
	// Order is the id of the order that stands, "" when none does: one that was
	// seen and is gone, without a change that opened, was given up.
	Order string `json:"order,omitempty"`
}

// Change is one change of the primaryship, from its first phase to the return
// of the old primary.
type Change struct {
	ID       string       `json:"id"` // the epoch's text, such as "1.7"
	Epoch    pos.Epoch    `json:"epoch"`
	Kind     string       `json:"kind"`
	From     string       `json:"from"` // node names; "" where there was none
	To       string       `json:"to"`
	Cause    string       `json:"cause"`
	Plan     string       `json:"plan"` // id of the decision, for explain
	Timeline pos.Timeline `json:"timeline"`
	Start    pos.LSN      `json:"start"`
	Phases   []Phase      `json:"phases"` // in the order in which they came
	// Durations say how long each part of the change took, of those whose
	// beginning and end are recorded.
	Durations []Duration `json:"durations"`
	Opened    bool       `json:"opened"`
	Failed    string     `json:"failed,omitempty"`
	// Statement is what the operator confirmed, "" when nothing had to be.
	Statement string  `json:"statement,omitempty"`
	Proof     *Proof  `json:"proof,omitempty"`  // nil while nothing is known
	Return    *Return `json:"return,omitempty"` // nil while the old primary is away
}

// Phase is one step of a change. At is the clock of the node that said so.
type Phase struct {
	Name    string    `json:"name"`
	Node    string    `json:"node,omitempty"`
	Text    string    `json:"text,omitempty"`
	At      time.Time `json:"at"`
	AfterNS int64     `json:"after_ns"` // since the change's first phase
}

// Proof is what is known of losses. LSNs are of the history before the change.
type Proof struct {
	Heard    pos.LSN `json:"heard"`    // highest committed position a node had heard of
	Bound    pos.LSN `json:"bound"`    // largest position that a node reported
	Promoted pos.LSN `json:"promoted"` // where the new primary went on
	// Lost was acknowledged for certain and is gone; MayLost may have been. Nil
	// when there is none.
	Lost    *pos.Range `json:"lost,omitempty"`
	MayLost *pos.Range `json:"may_lost,omitempty"`
	// Provisional: the old primary's own record is not known yet.
	Provisional bool     `json:"provisional"`
	Missing     []string `json:"missing,omitempty"`  // voters that were not heard
	Sentence    string   `json:"sentence"`           // what all this proves
	Unlogged    string   `json:"unlogged,omitempty"` // a sentence on what the log never protects
	Closed      string   `json:"closed,omitempty"`   // a sentence on the returned primary's own record
	// Transactions are those that are known to be lost, of those at hand.
	Transactions []LostTransaction `json:"transactions,omitempty"`
}

// LostTransaction is one transaction that only the old primary had, and had
// committed.
type LostTransaction struct {
	XID    uint32    `json:"xid"`
	End    pos.LSN   `json:"end"` // of its commit record
	Time   time.Time `json:"time"`
	Tables []string  `json:"tables,omitempty"`
}

// Return is how the old primary came back as a standby.
type Return struct {
	Node   string    `json:"node"`
	Method string    `json:"method"`
	Why    string    `json:"why"`
	At     time.Time `json:"at,omitzero"` // zero while it is not back
	Bytes  uint64    `json:"bytes"`       // copied to bring it back
	// Tail is where what it alone had is kept, "" when it had nothing;
	// TailTransactions counts the commits in it.
	Tail             string `json:"tail,omitempty"`
	TailTransactions int    `json:"tail_transactions,omitempty"`
	// Transactions are those commits, the first of them where there are many:
	// what it had acknowledged and what nobody was told of alike.
	Transactions []LostTransaction `json:"transactions,omitempty"`
	Problem      string            `json:"problem,omitempty"` // why it is not back yet
}

// OrderReply answers switchover, failover, reseed, offline, online, schedule and
// unschedule.
type OrderReply struct {
	ID    string   `json:"id"`
	Kind  string   `json:"kind"`
	From  string   `json:"from,omitempty"`
	To    string   `json:"to,omitempty"`
	Steps []string `json:"steps"` // what will happen, one sentence each
	// Statement is what may be lost, "" when nothing. It has to be confirmed,
	// word for word, before the order is carried out.
	Statement string `json:"statement,omitempty"`
	Started   bool   `json:"started"`
	Refused   string `json:"refused,omitempty"` // one sentence
	// After is the epoch at the time of the order: the change that follows has a
	// higher one.
	After pos.Epoch `json:"after"`
	// Scheduled is the switchover that was scheduled, or withdrawn.
	Scheduled *Scheduled `json:"scheduled,omitempty"`
}

// Scheduled is a switchover that is to begin at a time. One that is refused then
// is tried until Until.
type Scheduled struct {
	ID    string    `json:"id"`
	To    string    `json:"to,omitempty"` // node; "" leaves the choice to the group
	At    time.Time `json:"at"`
	Until time.Time `json:"until"`
}

// Pause answers pause and resume: what is in force now.
type Pause struct {
	Paused bool      `json:"paused"`
	Until  time.Time `json:"until,omitzero"` // zero: until it is resumed
	// Changed: it was not so before.
	Changed bool   `json:"changed"`
	Version uint64 `json:"version"` // of the policy
	Mode    string `json:"mode"`    // "automatic", "observe" or "manual": the policy's, without the pause
}

// Incidents are conditions that an operator should know of.
type Incidents struct {
	Incidents []Incident `json:"incidents"` // newest first
}

// Incident is one of them. Since is zero for one that a node has just reported
// and the group has not recorded; Until is zero while it stands.
type Incident struct {
	Key      string    `json:"key"`
	Node     string    `json:"node,omitempty"`
	Severity string    `json:"severity"` // "warning" or "error"
	Text     string    `json:"text"`
	Since    time.Time `json:"since,omitzero"`
	Until    time.Time `json:"until,omitzero"`
}

// Outcome is the document that switchover and failover print as JSON.
type Outcome struct {
	Order    OrderReply `json:"order"`
	Change   *Change    `json:"change,omitempty"` // the newest one under the order
	Done     bool       `json:"done"`             // the wanted node is primary
	Sentence string     `json:"sentence"`
}

// Explanation is a decision as it was stored when it was made.
type Explanation struct {
	ID          string     `json:"id"`
	At          time.Time  `json:"at"`
	Node        string     `json:"node"` // who decided
	Rule        string     `json:"rule"`
	RuleMeaning string     `json:"rule_meaning"`
	Why         string     `json:"why"`
	Evidence    []Evidence `json:"evidence"`
	Rejected    []Rejected `json:"rejected"`
	Actions     []string   `json:"actions"`
	// Observation is all that the decision was made from.
	Observation json.RawMessage `json:"observation,omitempty"`
}

// Evidence is one fact that a decision rests on.
type Evidence struct {
	Node  string `json:"node"`
	Kind  string `json:"kind"`
	Text  string `json:"text"`
	AgeNS int64  `json:"age_ns"` // how old it was then
}

// Rejected is another rule or another candidate that was not taken.
type Rejected struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// Plans are the stored decisions.
type Plans struct {
	Plans []PlanLine `json:"plans"` // newest last
}

// PlanLine is one stored decision in short.
type PlanLine struct {
	ID   string    `json:"id"`
	At   time.Time `json:"at"`
	Rule string    `json:"rule"`
	Why  string    `json:"why"`
}
