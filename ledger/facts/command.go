package facts

import (
	"encoding/json"
	"time"

	"understudy/shipper/pos"
)

// CommandKind names what a command does.
type CommandKind string

// The kinds of commands.
const (
	CmdFound          CommandKind = "found"
	CmdAddMember      CommandKind = "add-member"
	CmdUpdateMember   CommandKind = "update-member"
	CmdRemoveMember   CommandKind = "remove-member"
	CmdSetLedgerVote  CommandKind = "set-ledger-vote"
	CmdMarkSeeded     CommandKind = "mark-seeded"
	CmdProposeVoter   CommandKind = "propose-voter"
	CmdAdmitVoter     CommandKind = "admit-voter"
	CmdWithdrawVoter  CommandKind = "withdraw-voter"
	CmdDropVoter      CommandKind = "drop-voter"
	CmdConfirmVoters  CommandKind = "confirm-voters"
	CmdBeginEpoch     CommandKind = "begin-epoch"
	CmdReportFence    CommandKind = "report-fence"
	CmdAssign         CommandKind = "assign"
	CmdStarting       CommandKind = "starting"
	CmdOpened         CommandKind = "opened"
	CmdSetPolicy      CommandKind = "set-policy"
	CmdRaiseIncident  CommandKind = "raise-incident"
	CmdClearIncident  CommandKind = "clear-incident"
	CmdSetLeaving     CommandKind = "set-leaving"
	CmdClearLeaving   CommandKind = "clear-leaving"
	CmdSetOrder       CommandKind = "set-order"
	CmdClearOrder     CommandKind = "clear-order"
	CmdAdvanceRestore CommandKind = "advance-restore"
	CmdNominate       CommandKind = "nominate"
	CmdSetOffline     CommandKind = "set-offline"
	CmdNotePhase      CommandKind = "note-phase"
	CmdReturned       CommandKind = "returned"
	CmdReform         CommandKind = "reform"
	CmdSchedule       CommandKind = "schedule"
	CmdUnschedule     CommandKind = "unschedule"
)

// Found makes the group: Member becomes its first node, sole WAL voter, ledger
// voter and seeded. A zero Policy means DefaultPolicy.
type Found struct {
	Group  Group  `json:"group"`
	Member Member `json:"member"`
	Policy Policy `json:"policy"`
	// Lineage is the history of a database that is older than the group, by
	// epochs of generation zero, which no group gives out. Empty for a new one.
	Lineage pos.Lineage `json:"lineage,omitempty"`
}

// AddMember admits a node without a WAL vote and without a base, whatever
// Member says of them. Expect is State.MembersVersion.
type AddMember struct {
	Member Member `json:"member"`
	Expect uint64 `json:"expect"`
}

// UpdateMember changes where a member is reached; an empty field is kept.
type UpdateMember struct {
	Store   string `json:"store"`
	Address string `json:"address"`
	HTTP    string `json:"http"`
}

// RemoveMember retires a store for good. Expect is State.MembersVersion.
type RemoveMember struct {
	Store  string `json:"store"`
	Expect uint64 `json:"expect"`
}

// SetLedgerVote records that a member's Raft vote was given or taken.
type SetLedgerVote struct {
	Store string `json:"store"`
	Voter bool   `json:"voter"`
}

// MarkSeeded records that a data member has, or has no longer, a base that
// recovery can start from.
type MarkSeeded struct {
	Store  string `json:"store"`
	Seeded bool   `json:"seeded"`
}

// ProposeVoter begins to give a WAL vote; Committed is what is committed now.
type ProposeVoter struct {
	Store     string  `json:"store"`
	Committed pos.LSN `json:"committed"`
}

// AdmitVoter gives the vote to the proposed store, which acknowledged Acked in
// the present epoch. VotersVersion is Voters.Version.
type AdmitVoter struct {
	Store         string  `json:"store"`
	Acked         pos.LSN `json:"acked"`
	VotersVersion uint64  `json:"voters_version"`
}

// WithdrawVoter gives a proposal up.
type WithdrawVoter struct{}

// DropVoter takes a WAL vote.
type DropVoter struct {
	Store string `json:"store"`
}

// ConfirmVoters is the primary of Epoch saying that it counts by Version.
type ConfirmVoters struct {
	Version uint64    `json:"version"`
	Epoch   pos.Epoch `json:"epoch"`
}

// BeginEpoch ends the present primaryship and begins to fence for the next.
// Expect is Primaryship.Version; Cause is one sentence for people; Decision is
// the id of the decision, for people who ask why.
type BeginEpoch struct {
	Expect   uint64     `json:"expect"`
	Cause    string     `json:"cause"`
	Change   ChangeKind `json:"change"`
	Decision string     `json:"decision"`
	// Lost is when the last sign of life came of a primary that was lost, by
	// the proposer's clock; zero when it was not lost.
	Lost time.Time `json:"lost"`
}

// Nominate asks Store, which is to be assigned, to copy what it lacks from
// Donor. Expect is Primaryship.Version.
type Nominate struct {
	Expect uint64    `json:"expect"`
	Epoch  pos.Epoch `json:"epoch"`
	Store  string    `json:"store"`
	Donor  string    `json:"donor"`
}

// ReportFence records a fence.
type ReportFence struct {
	FenceReport
}

// Assign elects Store. Donor is the store it copied from, or "". Expect is
// Primaryship.Version. Force elects it although another report is further; it
// needs a standing order with force for that store.
type Assign struct {
	Expect uint64    `json:"expect"`
	Epoch  pos.Epoch `json:"epoch"`
	Store  string    `json:"store"`
	Donor  string    `json:"donor"`
	Force  bool      `json:"force,omitempty"`
}

// Starting is said by the assigned store before its PostgreSQL may write: its
// recovered log ends at End, in whole records, and it goes on from there on
// Timeline. A timeline other than the elected one means a promotion.
type Starting struct {
	Epoch    pos.Epoch    `json:"epoch"`
	Store    string       `json:"store"`
	Timeline pos.Timeline `json:"timeline"`
	End      pos.LSN      `json:"end"`
}

// Opened is said before clients are let in: a majority acknowledged LSN in
// this epoch.
type Opened struct {
	Epoch pos.Epoch `json:"epoch"`
	Store string    `json:"store"`
	LSN   pos.LSN   `json:"lsn"`
}

// SetPolicy replaces the policy. Expect is Policy.Version.
type SetPolicy struct {
	Expect uint64 `json:"expect"`
	Policy Policy `json:"policy"`
}

// RaiseIncident raises or updates the incident of that key.
type RaiseIncident struct {
	Incident Incident `json:"incident"`
}

// ClearIncident ends the incident of that key; it is no error if none stands.
type ClearIncident struct {
	Key string `json:"key"`
}

// SetLeaving records that a node announced that it goes away.
type SetLeaving struct {
	Leaving Leaving `json:"leaving"`
}

// ClearLeaving records that it is back; it is no error if it had not left.
type ClearLeaving struct {
	Store string `json:"store"`
}

// Command is one proposed change: exactly one of the pointers is set. An empty
// Kind is taken from it. ID, if not empty, makes repeating the command safe:
// the repetition returns the first outcome. At is the clock of the ledger's leader and is
// recorded, never decided by.
type Command struct {
	Kind CommandKind `json:"kind"`
	ID   string      `json:"id,omitempty"`
	At   time.Time   `json:"at"`

	Found          *Found          `json:"found,omitempty"`
	AddMember      *AddMember      `json:"add_member,omitempty"`
	UpdateMember   *UpdateMember   `json:"update_member,omitempty"`
	RemoveMember   *RemoveMember   `json:"remove_member,omitempty"`
	SetLedgerVote  *SetLedgerVote  `json:"set_ledger_vote,omitempty"`
	MarkSeeded     *MarkSeeded     `json:"mark_seeded,omitempty"`
	ProposeVoter   *ProposeVoter   `json:"propose_voter,omitempty"`
	AdmitVoter     *AdmitVoter     `json:"admit_voter,omitempty"`
	WithdrawVoter  *WithdrawVoter  `json:"withdraw_voter,omitempty"`
	DropVoter      *DropVoter      `json:"drop_voter,omitempty"`
	ConfirmVoters  *ConfirmVoters  `json:"confirm_voters,omitempty"`
	BeginEpoch     *BeginEpoch     `json:"begin_epoch,omitempty"`
	ReportFence    *ReportFence    `json:"report_fence,omitempty"`
	Assign         *Assign         `json:"assign,omitempty"`
	Starting       *Starting       `json:"starting,omitempty"`
	Opened         *Opened         `json:"opened,omitempty"`
	SetPolicy      *SetPolicy      `json:"set_policy,omitempty"`
	RaiseIncident  *RaiseIncident  `json:"raise_incident,omitempty"`
	ClearIncident  *ClearIncident  `json:"clear_incident,omitempty"`
	SetLeaving     *SetLeaving     `json:"set_leaving,omitempty"`
	ClearLeaving   *ClearLeaving   `json:"clear_leaving,omitempty"`
	SetOrder       *SetOrder       `json:"set_order,omitempty"`
	ClearOrder     *ClearOrder     `json:"clear_order,omitempty"`
	AdvanceRestore *AdvanceRestore `json:"advance_restore,omitempty"`
	Nominate       *Nominate       `json:"nominate,omitempty"`
	SetOffline     *SetOffline     `json:"set_offline,omitempty"`
	NotePhase      *NotePhase      `json:"note_phase,omitempty"`
	Returned       *Returned       `json:"returned,omitempty"`
	Reform         *Reform         `json:"reform,omitempty"`
	Schedule       *Schedule       `json:"schedule,omitempty"`
	Unschedule     *Unschedule     `json:"unschedule,omitempty"`

	BeginJob       *BeginJob       `json:"begin_job,omitempty"`
	EndJob         *EndJob         `json:"end_job,omitempty"`
	CancelJob      *CancelJob      `json:"cancel_job,omitempty"`
	LoseJobs       *LoseJobs       `json:"lose_jobs,omitempty"`
	RecordSet      *RecordSet      `json:"record_set,omitempty"`
	RecordCopy     *RecordCopy     `json:"record_copy,omitempty"`
	RecordVerified *RecordVerified `json:"record_verified,omitempty"`
	MarkSet        *MarkSet        `json:"mark_set,omitempty"`
	RemoveCopy     *RemoveCopy     `json:"remove_copy,omitempty"`
	RemoveSet      *RemoveSet      `json:"remove_set,omitempty"`
	RecordArchived *RecordArchived `json:"record_archived,omitempty"`
	CloseGap       *CloseGap       `json:"close_gap,omitempty"`
	RemoveWAL      *RemoveWAL      `json:"remove_wal,omitempty"`
	AssignFeeder   *AssignFeeder   `json:"assign_feeder,omitempty"`
	RecordDrill    *RecordDrill    `json:"record_drill,omitempty"`
	SetFreeze      *SetFreeze      `json:"set_freeze,omitempty"`
	RebuildCatalog *RebuildCatalog `json:"rebuild_catalog,omitempty"`

	// Decision is the record of the decision that the command comes from, for
	// people who ask why; it is handed on with the event, and never looked at.
	Decision json.RawMessage `json:"decision,omitempty"`
}

// Event is one line of the group's history, for people and feeds.
type Event struct {
	Kind     string    `json:"kind"` // stable id, for example "assigned"
	Node     string    `json:"node,omitempty"`
	Text     string    `json:"text"`
	Severity string    `json:"severity"`
	Epoch    pos.Epoch `json:"epoch"`
	Version  uint64    `json:"version"` // State.Version after the command
	At       time.Time `json:"at"`
	// Decision is Command.Decision, on the first event of its command.
	Decision json.RawMessage `json:"decision,omitempty"`
}

// Outcome is what became of a command. A refused one changed nothing.
type Outcome struct {
	Refused string  `json:"refused,omitempty"` // one sentence; "" = applied
	Code    string  `json:"code,omitempty"`    // stable id of the refusal
	Events  []Event `json:"events,omitempty"`
	// Repeated is set when the command's ID was applied before; Events are
	// those of the first time.
	Repeated bool `json:"repeated,omitempty"`
}
