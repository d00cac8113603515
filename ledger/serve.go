package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"understudy/ledger/facts"
	"understudy/ledger/raftnode"
)

// maxAnswerBytes bounds the answer to a forwarded proposal.
const maxAnswerBytes = 4 << 20

// HandlePropose is the leader's side of Forwarder.Propose: it applies an
// encoded command, stamped anew, and returns the encoded outcome, a refusal included. It
// returns ErrNotLeader when this node does not lead: it never forwards again.
func (l *Ledger) HandlePropose(ctx context.Context, cmd []byte) ([]byte, error) {
	c, err := facts.DecodeCommand(cmd)
	if err != nil {
		return encodeOutcome(facts.Outcome{Code: facts.CodeBadCommand, Refused: err.Error()})
	}
	if c.ID == "" {
		return encodeOutcome(facts.Outcome{Code: facts.CodeBadCommand, Refused: "a forwarded command needs an id"})
	}
	// Decisions compare the ledger's times with the leader's clock, so that
	// clocks of other hosts shall not be among them. When a step was taken only
	// the node knows that took it, and no decision looks at that.
	if c.NotePhase == nil {
		c.At = l.cfg.Now().UTC()
	}
	if cmd, err = facts.EncodeCommand(c); err != nil {
		return encodeOutcome(facts.Outcome{Code: facts.CodeBadCommand, Refused: err.Error()})
	}
	out, err := l.applyHere(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return encodeOutcome(out)
}

// HandleRead is the leader's side of Forwarder.Read: the encoded state, once a
// majority confirmed that this node still leads.
func (l *Ledger) HandleRead(ctx context.Context) ([]byte, error) {
	if err := l.node.Verify(ctx); err != nil {
		return nil, err
	}
	return facts.Encode(l.State())
}

func encodeOutcome(o facts.Outcome) ([]byte, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode outcome: %w", err)
	}
	return b, nil
}

func decodeOutcome(b []byte) (facts.Outcome, error) {
	var o facts.Outcome
	if len(b) > maxAnswerBytes {
		return o, fmt.Errorf("decode outcome: %d bytes are too many", len(b))
	}
	if err := json.Unmarshal(b, &o); err != nil {
		return facts.Outcome{}, fmt.Errorf("decode outcome: %w", err)
	}
	return o, nil
}

// Server is one node as Raft knows it.
type Server = raftnode.Server

// Servers are the nodes of the ledger as Raft knows them, whatever the facts
// say of them.
func (l *Ledger) Servers() []Server { return l.node.Servers() }

// AddServer makes store, reached at addr, part of the ledger, with or without a
// vote; for one that is, its address and vote are changed. Only the leader can
// (ErrNotLeader). On return the change is durable on a majority; the new server
// may still be catching up. It does not touch the facts.
func (l *Ledger) AddServer(ctx context.Context, store, addr string, voter bool) error {
	if voter {
		if err := l.node.AddVoter(ctx, store, addr); err != nil {
			return fmt.Errorf("add ledger voter: %w", err)
		}
		return nil
	}
	// On a voter this only changes the address.
	if err := l.node.AddNonvoter(ctx, store, addr); err != nil {
		return fmt.Errorf("add ledger observer: %w", err)
	}
	for _, s := range l.node.Servers() {
		if s.Store == store && s.Voter {
			if err := l.node.Demote(ctx, store); err != nil {
				return fmt.Errorf("take ledger vote: %w", err)
			}
		}
	}
	return nil
}

// RemoveServer takes store out of the ledger. Only the leader can
// (ErrNotLeader). It does not touch the facts, which go first.
func (l *Ledger) RemoveServer(ctx context.Context, store string) error {
	if err := l.node.RemoveServer(ctx, store); err != nil {
		return fmt.Errorf("remove ledger server: %w", err)
	}
	return nil
}

// ErrNoVote is returned by TransferLeadership for a store without a ledger
// vote.
var ErrNoVote = errors.New("the store has no ledger vote")

// TransferLeadership hands leadership to store, which must be up. Only the
// leader can (ErrNotLeader); it is no error if store leads already. The caller
// sees to it that this is rare, and never during a failover.
func (l *Ledger) TransferLeadership(ctx context.Context, store string) error {
	if _, _, self := l.Leader(); !self {
		return ErrNotLeader
	}
	if store == l.cfg.Store {
		return nil
	}
	for _, s := range l.node.Servers() {
		if s.Store != store || !s.Voter {
			continue
		}
		if err := l.node.TransferTo(ctx, s.Store, s.Addr); err != nil {
			return fmt.Errorf("transfer ledger leadership: %w", err)
		}
		return nil
	}
	return fmt.Errorf("%w: %s", ErrNoVote, store)
}

// Snapshot writes a snapshot of the state now, as happens by itself from time
// to time.
func (l *Ledger) Snapshot(ctx context.Context) error { return l.node.Snapshot(ctx) }
