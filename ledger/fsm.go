package ledger

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/hashicorp/raft"

	"understudy/ledger/facts"
)

// maxSnapshotBytes bounds what Restore reads into memory.
const maxSnapshotBytes = 256 << 20

// fsm is the state machine as Raft sees it. Raft calls it from one goroutine.
type fsm struct {
	hub *hub
	log *slog.Logger
}

// Apply is part of raft.FSM; it answers a facts.Outcome. What is no command is
// refused, in the same way on every node.
func (f *fsm) Apply(entry *raft.Log) any {
	c, err := facts.DecodeCommand(entry.Data)
	if err != nil {
		f.log.Error("ledger entry is not a command", "index", entry.Index, "error", err)
		return facts.Outcome{Code: facts.CodeBadCommand, Refused: err.Error()}
	}
	before := f.hub.current()
	after, out := facts.Apply(before, c)
	if after.Version != before.Version {
		f.hub.publish(after, out.Events)
	}
	return out
}

// Snapshot is part of raft.FSM. The state is immutable, so it is encoded
// later, while Apply goes on.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) { return snapshot{f.hub.current()}, nil }

// Restore is part of raft.FSM.
func (f *fsm) Restore(r io.ReadCloser) error {
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSnapshotBytes+1))
	if err != nil {
		return fmt.Errorf("read ledger snapshot: %w", err)
	}
	if len(b) > maxSnapshotBytes {
		return fmt.Errorf("ledger snapshot has more than %d bytes", maxSnapshotBytes)
	}
	s, err := facts.Decode(b)
	if err != nil {
		return err
	}
	f.hub.publish(s, nil)
	return nil
}

type snapshot struct{ s facts.State }

// Persist is part of raft.FSMSnapshot.
func (s snapshot) Persist(sink raft.SnapshotSink) error {
	b, err := facts.Encode(s.s)
	if err == nil {
		_, err = sink.Write(b)
	}
	if err != nil {
		sink.Cancel()
		return fmt.Errorf("write ledger snapshot: %w", err)
	}
	return sink.Close()
}

// Release is part of raft.FSMSnapshot.
func (snapshot) Release() {}
