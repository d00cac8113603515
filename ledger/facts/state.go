package facts

import (
	"slices"
	"time"

	"understudy/shipper/pos"
)

// Kind is what a member is for.
type Kind string

// The kinds of members.
const (
	KindData    Kind = "data"    // has a PostgreSQL
	KindWitness Kind = "witness" // stores WAL and votes, runs no database
)

// Durability is when a commit is acknowledged to a client.
type Durability string

// The durability modes.
const (
	Quorum Durability = "quorum" // after a majority of the WAL voters has it on disk
	Async  Durability = "async"  // after the primary has it on disk
)

// Phase is how far the present primaryship has come. Within one epoch it only
// moves down this list.
type Phase string

// The phases of a primaryship.
const (
	PhaseNone      Phase = "none"      // the group never had an epoch
	PhaseFencing   Phase = "fencing"   // fence reports are collected, nobody may write
	PhaseAssigned  Phase = "assigned"  // a store was elected and has not begun to start
	PhaseStarting  Phase = "starting"  // it starts on the timeline it had
	PhasePromoting Phase = "promoting" // it promotes to a new timeline
	PhaseOpened    Phase = "opened"    // it lets clients in
)

// Group is what never changes after founding.
type Group struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	LedgerID  string    `json:"ledger_id"`
	SystemID  uint64    `json:"system_id,string"` // PostgreSQL's system identifier
	PGMajor   int       `json:"pg_major"`
	SegSize   int64     `json:"seg_size"` // bytes of one WAL segment
	FoundedAt time.Time `json:"founded_at"`
}

// Member is one node as the group knows it. Store is the random id that its
// spool, fence and Raft files share: a node that lost one of them comes back
// as another store.
type Member struct {
	Name        string    `json:"name"`
	Store       string    `json:"store"`
	Kind        Kind      `json:"kind"`
	Address     string    `json:"address"` // host:port of its TLS port
	HTTP        string    `json:"http"`    // host:port of its HTTP listener
	LedgerVoter bool      `json:"ledger_voter"`
	Seeded      bool      `json:"seeded"` // data: has a base that recovery can start from
	JoinedAt    time.Time `json:"joined_at"`
}

// VoteChange is a store on its way to a WAL vote. It is admitted once it has
// acknowledged At, what was committed when it was proposed.
type VoteChange struct {
	Store string  `json:"store"`
	At    pos.LSN `json:"at"`
}

// Voters is the set of WAL voters. Successive versions differ by one store,
// and the next change waits until the primary counts by the present version:
// so any majority of the set a primary counts by meets any majority of the
// recorded one.
type Voters struct {
	Version   uint64      `json:"version"`
	Stores    []string    `json:"stores"`    // sorted
	Confirmed uint64      `json:"confirmed"` // version the primary said it counts by
	Proposed  *VoteChange `json:"proposed,omitempty"`
}

// FenceReport is one store's word that it durably refuses every epoch below
// Epoch, and how far its log reaches.
type FenceReport struct {
	Store    string       `json:"store"`
	Epoch    pos.Epoch    `json:"epoch"`
	Voters   uint64       `json:"voters"` // version of the voter set the reporter knew
	Lineage  pos.Lineage  `json:"lineage"`
	LSN      pos.LSN      `json:"lsn"` // end of what is durable there
	Timeline pos.Timeline `json:"timeline"`
	Heard    pos.LSN      `json:"heard"` // highest committed LSN it has heard of
	// Opened: the log is that of a database that this node opened for writing.
	// It cannot be cut or go on by copying, only be rewound.
	Opened bool `json:"opened,omitempty"`
	// Pos is computed by Apply: the position of LSN, cut where the report's
	// lineage leaves the ledger's. What a reporter sends here is ignored.
	Pos pos.Pos   `json:"pos"`
	At  time.Time `json:"at"`
}

// Primaryship is who writes. Version grows with every change except fence
// reports, whose content Assign checks itself.
type Primaryship struct {
	Version  uint64                 `json:"version"`
	Epoch    pos.Epoch              `json:"epoch"`
	Phase    Phase                  `json:"phase"`
	Store    string                 `json:"store"`    // assigned; "" while fencing
	Node     string                 `json:"node"`     // name of Store
	Previous string                 `json:"previous"` // store of the last one that started
	Fence    map[string]FenceReport `json:"fence"`    // by store, of this epoch
	Elected  pos.Pos                `json:"elected"`  // position of Store when assigned
	Timeline pos.Timeline           `json:"timeline"` // from Starting on
	Start    pos.LSN                `json:"start"`    // from Starting on
	Cause    string                 `json:"cause"`
	Since    time.Time              `json:"since"` // when the epoch began
	OpenedAt time.Time              `json:"opened_at"`
	// Copy is whom the candidate has to copy log from before it can be
	// assigned; nil when nobody has to.
	Copy *Copy `json:"copy,omitempty"`
	// Before is the lineage before the assignment. An epoch that never started
	// wrote nothing, and leaves no trace in it.
	Before pos.Lineage `json:"before,omitempty"`
	// Forced: the assigned store was elected although it lacks log.
	Forced bool `json:"forced,omitempty"`
}

// Copy asks the candidate Store to copy the log of Donor up to Upto.
type Copy struct {
	Store string    `json:"store"`
	Donor string    `json:"donor"`
	Upto  pos.LSN   `json:"upto"`
	At    time.Time `json:"at"`
}

// The kinds of Leaving.
const (
	LeavingRestarting = "restarting" // no failover before Until, commits wait
	LeavingStopping   = "stopping"   // a switchover if one is possible
)

// Leaving says that a node announced that it goes away.
type Leaving struct {
	Store string    `json:"store"`
	Kind  string    `json:"kind"` // LeavingRestarting or LeavingStopping
	Until time.Time `json:"until"`
	// For is how long that is; when it is set, Until is the time of the command
	// and For.
	For time.Duration `json:"for_ns,omitempty"`
}

// The severities of incidents and events.
const (
	SeverityInfo    = "info" // events only
	SeverityWarning = "warning"
	SeverityError   = "error"
)

// Incident is a condition that an operator should know of. One that ended is
// kept for a while, with Until set.
type Incident struct {
	Key      string    `json:"key"`
	Node     string    `json:"node"`
	Severity string    `json:"severity"` // SeverityWarning or SeverityError
	Text     string    `json:"text"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"` // zero = standing
}

// Applied is the outcome of one recent command, kept so that a command that is
// sent again is not applied again.
type Applied struct {
	ID      string  `json:"id"`
	Outcome Outcome `json:"outcome"`
}

// State is everything the group has agreed on. It is immutable: Apply returns
// a new one that shares what did not change. The zero State is that of a group
// that was not founded.
type State struct {
	Version        uint64              `json:"version"` // applied commands
	Group          Group               `json:"group"`
	Members        map[string]Member   `json:"members"` // by store
	MembersVersion uint64              `json:"members_version"`
	Voters         Voters              `json:"voters"`
	Primary        Primaryship         `json:"primary"`
	Lineage        pos.Lineage         `json:"lineage"`
	Policy         Policy              `json:"policy"`
	Leaving        map[string]Leaving  `json:"leaving"` // by store
	Incidents      map[string]Incident `json:"incidents"`
	Retired        map[string]string   `json:"retired"` // store to name; never admitted again
	// LastTimeline is the highest timeline id ever recorded. A promotion uses
	// a higher one, so that an id names one promotion only.
	LastTimeline pos.Timeline `json:"last_timeline"`
	// Order is the operator's standing order, nil when there is none. Early are
	// phases of it that were reported before its epoch began.
	Order *Order      `json:"order,omitempty"`
	Early []TimedStep `json:"early,omitempty"`
	// Scheduled is the switchover that is to begin at a time, nil when none is.
	Scheduled *Scheduled `json:"scheduled,omitempty"`
	// Offline is set while clients are kept out on the operator's word.
	Offline *Offline `json:"offline,omitempty"`
	// Changes are the newest changes of the primaryship, oldest first, bounded.
	Changes []Change `json:"changes"`
	// Backups are the backups, and the work on them.
	Backups Backups `json:"backups,omitzero"`
	// Audit is the end of the chain of what happened.
	Audit Audit `json:"audit,omitzero"`
	// Recent are the outcomes of the newest commands, oldest first, bounded.
	Recent []Applied `json:"recent"`
}

// Founded tells whether the group exists.
func (s State) Founded() bool { return s.Group.ID != "" }

// MemberByName finds a member by its name.
func (s State) MemberByName(name string) (Member, bool) {
	for _, m := range s.Members {
		if m.Name == name {
			return m, true
		}
	}
	return Member{}, false
}

// Pair tells whether the group is two hosts with a database each and no witness.
func (s State) Pair() bool {
	if len(s.Members) != 2 {
		return false
	}
	for _, m := range s.Members {
		if m.Kind != KindData {
			return false
		}
	}
	return true
}

// NameOf is the name of a store's node, also of one that was removed; the store
// itself when it was never known.
func (s State) NameOf(store string) string {
	if m, ok := s.Members[store]; ok {
		return m.Name
	}
	if name, ok := s.Retired[store]; ok {
		return name
	}
	return store
}

// IsVoter tells whether store is a WAL voter. A proposed one is not.
func (s State) IsVoter(store string) bool { return slices.Contains(s.Voters.Stores, store) }

// FenceMajority tells whether a majority of the WAL voters has reported its
// fence in the present epoch. False while there is no epoch.
func (s State) FenceMajority() bool {
	n := 0
	for _, store := range s.Voters.Stores {
		if r, ok := s.Primary.Fence[store]; ok && r.Epoch == s.Primary.Epoch {
			n++
		}
	}
	return n > len(s.Voters.Stores)/2
}

// NextTimeline is the id that a promotion decided now has to use.
func (s State) NextTimeline() pos.Timeline { return s.LastTimeline + 1 }
