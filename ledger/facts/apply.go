package facts

import (
	"fmt"
	"slices"
)

// The bounds of what a State holds and of what a command may bring.
const (
	maxMembers       = 32
	maxRecent        = 128
	maxIncidents     = 256
	maxTextBytes     = 2048
	maxNameBytes     = 255
	maxLineageLen    = 1 << 16
	maxTimelineSkips = 1024
)

// The codes of refusals. They are stable: callers and tests may rely on them.
const (
	CodeBadCommand      = "bad-command"        // a field is missing or out of range
	CodeNotFounded      = "not-founded"        // there is no group yet
	CodeAlreadyFounded  = "already-founded"    // there is a group
	CodeStaleVersion    = "stale-version"      // the object changed since the proposer looked
	CodeStaleEpoch      = "stale-epoch"        // the command is of another epoch
	CodeWrongPhase      = "wrong-phase"        // the primaryship is not in the phase this needs
	CodeUnknownStore    = "unknown-store"      // no member has this store
	CodeKnownStore      = "known-store"        // a member has this store
	CodeKnownName       = "known-name"         // a member with another store has this name
	CodeRetiredStore    = "retired-store"      // the store was removed and never comes back
	CodeTooMany         = "too-many"           // a bound is reached
	CodeIsVoter         = "is-voter"           // the store has a WAL vote
	CodeNotVoter        = "not-voter"          // the store has no WAL vote
	CodeLastVoter       = "last-voter"         // nobody would be left to vote
	CodeIsPrimary       = "is-primary"         // the store is the assigned primary
	CodeNotData         = "not-data"           // the member has no PostgreSQL
	CodeNotSeeded       = "not-seeded"         // the member has no base
	CodeUnconfirmed     = "unconfirmed-voters" // the primary does not yet count by the present voters
	CodeVoterPending    = "voter-pending"      // another voter change is under way
	CodeNotProposed     = "not-proposed"       // this store's vote was not proposed
	CodeNotCaughtUp     = "not-caught-up"      // the store lacks what was committed
	CodeSmallerReport   = "smaller-report"     // the store reported more in this epoch
	CodeNoFenceMajority = "no-fence-majority"  // too few voters have fenced
	CodeNoReport        = "no-report"          // the store has not reported its fence
	CodeBehind          = "behind"             // another report is further
	CodeNotAssigned     = "not-assigned"       // the primaryship is another store's
	CodeBeyondElected   = "beyond-elected"     // the log ends beyond what was elected
	CodeBelowLineage    = "below-lineage"      // the log ends before the lineage's last start
	CodeBelowStart      = "below-start"        // the LSN is below the epoch's start
	CodeTimelineUsed    = "timeline-used"      // the timeline id was given out before
	CodeBadPolicy       = "bad-policy"         // Policy.Validate says why
	CodeLastLedgerVoter = "last-ledger-voter"  // nobody would be left to keep the ledger
	CodeEpochsExhausted = "epochs-exhausted"   // no higher epoch exists
	CodeDiverged        = "diverged"           // the database goes beyond what the group vouches for
	CodeOrderStands     = "order-stands"       // another order is not finished
	CodeLedgerVote      = "ledger-vote"        // the ledger's vote has not moved to the new primary yet
	CodeAlreadyStated   = "already-stated"     // the start of this epoch was recorded with other values

	CodeUnknownProfile   = "unknown-profile"   // no database of the group has this profile
	CodeUnknownLocation  = "unknown-location"  // the policy has no such location
	CodeLocationDisabled = "location-disabled" // the location is not to be written to
	CodeLocationInUse    = "location-in-use"   // it holds the only copy of a set, or a job runs there
	CodeKnownJob         = "known-job"         // a job has this id
	CodeUnknownJob       = "unknown-job"       // no job has this id
	CodeJobRuns          = "job-runs"          // another job stands in the way
	CodeJobOver          = "job-over"          // the job has ended: whoever carries it must stop
	CodeNotYourJob       = "not-your-job"      // another run of a daemon, or a job of another kind, has that right
	CodeKnownSet         = "known-set"         // a set has this label
	CodeUnknownSet       = "unknown-set"       // no set has this label
	CodeUnknownCopy      = "unknown-copy"      // the set has no such copy at the location
	CodeNotComplete      = "not-complete"      // the set, or the log that it needs, is not whole anywhere
	CodeRemoving         = "removing"          // it is being deleted
	CodeInUse            = "in-use"            // a running job needs it
	CodeNeeded           = "needed"            // a kept set needs it
	CodePinned           = "pinned"            // the set is to be kept
	CodeLastCopy         = "last-copy"         // nothing to restore from would be left
	CodeFrozen           = "frozen"            // nothing is to be deleted now
	CodeNotFeeder        = "not-feeder"        // another store archives to the location
	CodeUnknownTimeline  = "unknown-timeline"  // the ledger never recorded this timeline
	CodeUnknownGap       = "unknown-gap"       // no such gap is recorded
	CodeGapOpen          = "gap-open"          // the log of the gap is still missing
	CodeOtherDatabase    = "other-database"    // it is of another group, database or version
)

// refusal is a rule that a command breaks.
type refusal struct{ code, text string }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{code: code, text: fmt.Sprintf(format, args...)}
}

// tx is one command under way: s is the state being built, a copy of the input
// whose maps and slices are replaced, never written to.
type tx struct {
	s      State
	c      Command
	events []Event
}

// Apply returns the state after c and what became of it. The input is not
// changed. A refused command changes nothing, and a command whose ID is among
// the recent ones is not applied again.
func Apply(s State, c Command) (State, Outcome) {
	for _, r := range s.Recent {
		if c.ID != "" && r.ID == c.ID {
			out := r.Outcome
			out.Events = slices.Clone(out.Events)
			out.Repeated = true
			return s, out
		}
	}
	c, err := c.Normalize()
	if err != nil {
		return s, Outcome{Code: CodeBadCommand, Refused: err.Error()}
	}
	t := &tx{s: s, c: c}
	if r := t.apply(); r != nil {
		return s, Outcome{Code: r.code, Refused: r.text}
	}
	t.s.Version++
	for i := range t.events {
		e := &t.events[i]
		e.At, e.Version, e.Epoch = c.At, t.s.Version, t.s.Primary.Epoch
	}
	t.audit()
	out := Outcome{Events: t.events}
	if c.ID != "" {
		keep := s.Recent[max(0, len(s.Recent)-maxRecent+1):]
		t.s.Recent = append(slices.Clone(keep), Applied{ID: c.ID, Outcome: out})
		out.Events = slices.Clone(out.Events)
	}
	if len(out.Events) > 0 { // not in Recent, which must stay small
		out.Events[0].Decision = c.Decision
	}
	return t.s, out
}

// apply checks the rules of the command and changes t.s; after a refusal t is
// thrown away.
func (t *tx) apply() *refusal {
	switch t.c.Kind {
	case CmdFound:
		return t.found(t.c.Found)
	case CmdReform:
		return t.reform(t.c.Reform)
	}
	if !t.s.Founded() {
		return refuse(CodeNotFounded, "the group is not founded yet")
	}
	switch c := t.c; c.Kind {
	case CmdAddMember:
		return t.addMember(c.AddMember)
	case CmdUpdateMember:
		return t.updateMember(c.UpdateMember)
	case CmdRemoveMember:
		return t.removeMember(c.RemoveMember)
	case CmdSetLedgerVote:
		return t.setLedgerVote(c.SetLedgerVote)
	case CmdMarkSeeded:
		return t.markSeeded(c.MarkSeeded)
	case CmdProposeVoter:
		return t.proposeVoter(c.ProposeVoter)
	case CmdAdmitVoter:
		return t.admitVoter(c.AdmitVoter)
	case CmdWithdrawVoter:
		return t.withdrawVoter()
	case CmdDropVoter:
		return t.dropVoter(c.DropVoter)
	case CmdConfirmVoters:
		return t.confirmVoters(c.ConfirmVoters)
	case CmdBeginEpoch:
		return t.beginEpoch(c.BeginEpoch)
	case CmdReportFence:
		return t.reportFence(c.ReportFence.FenceReport)
	case CmdNominate:
		return t.nominate(c.Nominate)
	case CmdAssign:
		return t.assign(c.Assign)
	case CmdStarting:
		return t.starting(c.Starting)
	case CmdOpened:
		return t.opened(c.Opened)
	case CmdSetOrder:
		return t.setOrder(c.SetOrder)
	case CmdClearOrder:
		return t.clearOrder(c.ClearOrder)
	case CmdAdvanceRestore:
		return t.advanceRestore(c.AdvanceRestore)
	}
	return t.applyNotice()
}

// applyNotice is apply for what no safety rule depends on.
func (t *tx) applyNotice() *refusal {
	switch c := t.c; c.Kind {
	case CmdSetPolicy:
		return t.setPolicy(c.SetPolicy)
	case CmdRaiseIncident:
		return t.raiseIncident(c.RaiseIncident.Incident)
	case CmdClearIncident:
		return t.clearIncident(c.ClearIncident.Key)
	case CmdSetLeaving:
		return t.setLeaving(c.SetLeaving.Leaving)
	case CmdClearLeaving:
		return t.clearLeaving(c.ClearLeaving.Store)
	case CmdSetOffline:
		return t.setOffline(c.SetOffline)
	case CmdNotePhase:
		return t.notePhase(c.NotePhase)
	case CmdReturned:
		return t.returned(c.Returned)
	case CmdSchedule:
		return t.schedule(c.Schedule)
	case CmdUnschedule:
		return t.unschedule(c.Unschedule)
	}
	return t.applyBackups()
}

// applyBackups is apply for what concerns backups.
func (t *tx) applyBackups() *refusal {
	switch c := t.c; c.Kind {
	case CmdBeginJob:
		return t.beginJob(c.BeginJob)
	case CmdEndJob:
		return t.endJob(c.EndJob)
	case CmdCancelJob:
		return t.cancelJob(c.CancelJob)
	case CmdLoseJobs:
		return t.loseJobs(c.LoseJobs)
	case CmdRecordSet:
		return t.recordSet(c.RecordSet)
	case CmdRecordCopy:
		return t.recordCopy(c.RecordCopy)
	case CmdRecordVerified:
		return t.recordVerified(c.RecordVerified)
	case CmdMarkSet:
		return t.markSet(c.MarkSet)
	case CmdRemoveCopy:
		return t.removeCopy(c.RemoveCopy)
	case CmdRemoveSet:
		return t.removeSet(c.RemoveSet)
	case CmdRecordArchived:
		return t.recordArchived(c.RecordArchived)
	case CmdCloseGap:
		return t.closeGap(c.CloseGap)
	case CmdRemoveWAL:
		return t.removeWAL(c.RemoveWAL)
	case CmdAssignFeeder:
		return t.assignFeeder(c.AssignFeeder)
	case CmdRecordDrill:
		return t.recordDrill(c.RecordDrill)
	case CmdSetFreeze:
		return t.setFreeze(c.SetFreeze)
	case CmdRebuildCatalog:
		return t.rebuildCatalog(c.RebuildCatalog)
	}
	return refuse(CodeBadCommand, "unknown command %q", t.c.Kind)
}

// event adds an event about the member with that store, or about the group
// when there is none.
func (t *tx) event(kind, store, severity, format string, args ...any) {
	t.events = append(t.events, Event{
		Kind: kind, Node: t.s.Members[store].Name, Severity: severity, Text: fmt.Sprintf(format, args...),
	})
}

// member finds a store or refuses.
func (t *tx) member(store string) (Member, *refusal) {
	m, ok := t.s.Members[store]
	if !ok {
		return Member{}, refuse(CodeUnknownStore, "store %q belongs to no member of this group", clip(store))
	}
	return m, nil
}

// stale refuses when the proposer looked at another version of what.
func stale(what string, expect, have uint64) *refusal {
	if expect == have {
		return nil
	}
	return refuse(CodeStaleVersion, "the %s changed meanwhile: version %d was expected, it is %d", what, expect, have)
}

// clip bounds what a refusal repeats of its input.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
