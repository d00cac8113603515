package facts

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
)

// MaxCommandBytes bounds an encoded command. The largest is Reform, which
// carries a whole State.
const MaxCommandBytes = 16 << 20

// MaxDecisionBytes bounds the record of a decision that a command carries.
const MaxDecisionBytes = 256 << 10

// ErrCommand is returned for bytes or a value that is no command.
var ErrCommand = errors.New("not a ledger command")

// ErrFormat is returned by Decode for a snapshot of an unknown format: it was
// written by a newer version.
var ErrFormat = errors.New("unknown ledger snapshot format")

// payloads are the fields of Command that hold what a kind brings.
func (c Command) payloads() []struct {
	kind CommandKind
	ptr  any
} {
	return []struct {
		kind CommandKind
		ptr  any
	}{
		{CmdFound, c.Found}, {CmdAddMember, c.AddMember}, {CmdUpdateMember, c.UpdateMember},
		{CmdRemoveMember, c.RemoveMember}, {CmdSetLedgerVote, c.SetLedgerVote}, {CmdMarkSeeded, c.MarkSeeded},
		{CmdProposeVoter, c.ProposeVoter}, {CmdAdmitVoter, c.AdmitVoter}, {CmdWithdrawVoter, c.WithdrawVoter},
		{CmdDropVoter, c.DropVoter}, {CmdConfirmVoters, c.ConfirmVoters}, {CmdBeginEpoch, c.BeginEpoch},
		{CmdReportFence, c.ReportFence}, {CmdAssign, c.Assign}, {CmdStarting, c.Starting}, {CmdOpened, c.Opened},
		{CmdSetPolicy, c.SetPolicy}, {CmdRaiseIncident, c.RaiseIncident}, {CmdClearIncident, c.ClearIncident},
		{CmdSetLeaving, c.SetLeaving}, {CmdClearLeaving, c.ClearLeaving}, {CmdSetOrder, c.SetOrder},
		{CmdClearOrder, c.ClearOrder}, {CmdAdvanceRestore, c.AdvanceRestore}, {CmdNominate, c.Nominate}, {CmdSetOffline, c.SetOffline},
		{CmdNotePhase, c.NotePhase}, {CmdReturned, c.Returned}, {CmdReform, c.Reform}, {CmdSchedule, c.Schedule},
		{CmdUnschedule, c.Unschedule},
		{CmdBeginJob, c.BeginJob}, {CmdEndJob, c.EndJob}, {CmdCancelJob, c.CancelJob}, {CmdLoseJobs, c.LoseJobs},
		{CmdRecordSet, c.RecordSet}, {CmdRecordCopy, c.RecordCopy}, {CmdRecordVerified, c.RecordVerified},
		{CmdMarkSet, c.MarkSet}, {CmdRemoveCopy, c.RemoveCopy}, {CmdRemoveSet, c.RemoveSet},
		{CmdRecordArchived, c.RecordArchived}, {CmdCloseGap, c.CloseGap}, {CmdRemoveWAL, c.RemoveWAL},
		{CmdAssignFeeder, c.AssignFeeder}, {CmdRecordDrill, c.RecordDrill}, {CmdSetFreeze, c.SetFreeze},
		{CmdRebuildCatalog, c.RebuildCatalog},
	}
}

// Normalize fills an empty Kind from the payload and checks that the payload
// is one, and that of Kind. The error wraps ErrCommand.
func (c Command) Normalize() (Command, error) {
	found := CommandKind("")
	for _, p := range c.payloads() {
		if reflect.ValueOf(p.ptr).IsNil() {
			continue
		}
		if found != "" {
			return c, fmt.Errorf("%w: it holds both %s and %s", ErrCommand, found, p.kind)
		}
		found = p.kind
	}
	if found == "" {
		return c, fmt.Errorf("%w: kind %q comes without content", ErrCommand, clip(string(c.Kind)))
	}
	if c.Kind == "" {
		c.Kind = found
	}
	if c.Kind != found {
		return c, fmt.Errorf("%w: kind %q holds a %s", ErrCommand, clip(string(c.Kind)), found)
	}
	if len(c.ID) > maxNameBytes {
		return c, fmt.Errorf("%w: its id has more than %d bytes", ErrCommand, maxNameBytes)
	}
	if len(c.Decision) > MaxDecisionBytes {
		return c, fmt.Errorf("%w: its decision has more than %d bytes", ErrCommand, MaxDecisionBytes)
	}
	return c, nil
}

// EncodeCommand writes c as one JSON object.
func EncodeCommand(c Command) ([]byte, error) {
	c, err := c.Normalize()
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command: %w", err)
	}
	if len(b) > MaxCommandBytes {
		return nil, fmt.Errorf("%w: %d bytes are too many", ErrCommand, len(b))
	}
	return b, nil
}

// DecodeCommand reads what EncodeCommand wrote. Unknown fields are refused,
// because ignoring one would let nodes of different versions diverge. The
// error wraps ErrCommand.
func DecodeCommand(b []byte) (Command, error) {
	var c Command
	if len(b) > MaxCommandBytes {
		return c, fmt.Errorf("%w: %d bytes are too many", ErrCommand, len(b))
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return Command{}, fmt.Errorf("%w: %w", ErrCommand, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Command{}, fmt.Errorf("%w: bytes follow it", ErrCommand)
	}
	return c.Normalize()
}

// snapshotFormat is the version of the encoding of State.
const snapshotFormat = 1

type snapshot struct {
	Format int             `json:"format"`
	State  json.RawMessage `json:"state"`
}

// Encode writes s with its format version. The same state gives the same
// bytes.
func Encode(s State) ([]byte, error) {
	body, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encode ledger state: %w", err)
	}
	b, err := json.Marshal(snapshot{Format: snapshotFormat, State: body})
	if err != nil {
		return nil, fmt.Errorf("encode ledger state: %w", err)
	}
	return b, nil
}

// Decode reads what Encode wrote. An unknown format is refused with ErrFormat;
// a state that breaks its own rules is refused too.
func Decode(b []byte) (State, error) {
	var snap snapshot
	if err := json.Unmarshal(b, &snap); err != nil {
		return State{}, fmt.Errorf("decode ledger state: %w", err)
	}
	if snap.Format != snapshotFormat {
		return State{}, fmt.Errorf("%w: %d, this version reads %d", ErrFormat, snap.Format, snapshotFormat)
	}
	var s State
	d := json.NewDecoder(bytes.NewReader(snap.State))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return State{}, fmt.Errorf("decode ledger state: %w", err)
	}
	if err := s.check(); err != nil {
		return State{}, fmt.Errorf("decode ledger state: %w", err)
	}
	return s, nil
}

// check refuses a state that Apply cannot have made.
func (s State) check() error {
	if err := s.Lineage.Validate(); err != nil {
		return err
	}
	for store, m := range s.Members {
		if m.Store != store {
			return fmt.Errorf("member %s is filed under store %s", m.Name, store)
		}
	}
	for _, v := range s.Voters.Stores {
		if _, ok := s.Members[v]; !ok {
			return fmt.Errorf("voter %s is no member", v)
		}
	}
	if p := s.Primary; p.Store != "" {
		if _, ok := s.Members[p.Store]; !ok {
			return fmt.Errorf("primary %s is no member", p.Store)
		}
	}
	if err := s.Backups.check(); err != nil {
		return err
	}
	return s.Audit.check()
}

// check refuses backups that Apply cannot have made.
func (b Backups) check() error {
	for profile, c := range b.Catalogs {
		if c.Profile != profile {
			return fmt.Errorf("the catalog of %q is filed under %q", c.Profile, profile)
		}
		for label, set := range c.Sets {
			if set.Label != label {
				return fmt.Errorf("set %q is filed under %q", set.Label, label)
			}
		}
	}
	for id, j := range b.Jobs {
		if j.ID != id || j.State != JobRunning {
			return fmt.Errorf("job %q, which is %s, is filed as running under %q", j.ID, j.State, id)
		}
	}
	return nil
}

// check refuses an end of the chain that does not hang together.
func (a Audit) check() error {
	for i, e := range a.Newest {
		if e.Hash != e.Sum() || i > 0 && (e.Prev != a.Newest[i-1].Hash || e.N != a.Newest[i-1].N+1) {
			return fmt.Errorf("entry %d of the audit does not follow from the one before", e.N)
		}
	}
	if n := len(a.Newest); n > 0 && (a.Newest[n-1].N != a.N || a.Newest[n-1].Hash != a.Head) || n == 0 && (a.N != 0 || a.Head != "") {
		return fmt.Errorf("the audit does not end at entry %d", a.N)
	}
	return nil
}
