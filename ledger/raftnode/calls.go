package raftnode

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// enqueueTimeout bounds how long a call waits to be taken up by the leader's
// loop; how long it takes then is bounded by the leader's lease.
const enqueueTimeout = 2 * time.Second

// Server is one line of the Raft configuration.
type Server struct {
	Store string
	Addr  string
	Voter bool
}

// Bootstrap makes this node the sole voter of a new ledger, reached at addr. It
// fails with ErrExists when the directory has a state.
func (n *Node) Bootstrap(addr string) error {
	c := raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(n.cfg.Store), Address: raft.ServerAddress(addr),
	}}}
	err := n.await(context.Background(), func() raft.Future { return n.raft.BootstrapCluster(c) })
	if errors.Is(err, raft.ErrCantBootstrap) {
		return ErrExists
	}
	if err != nil {
		return fmt.Errorf("bootstrap ledger: %w", err)
	}
	return nil
}

// Apply appends data to the log and returns what the state machine answered,
// once a majority has it on disk. Only the leader can; ErrNotLeader means that
// nothing was done, any other error that it may or may not be applied.
func (n *Node) Apply(ctx context.Context, data []byte) (any, error) {
	ch := make(chan raft.ApplyFuture, 1)
	err := n.await(ctx, func() raft.Future {
		f := n.raft.Apply(data, enqueueTimeout)
		ch <- f
		return f
	})
	if err != nil {
		return nil, err
	}
	return (<-ch).Response(), nil
}

// Spread makes the followers apply what was committed last: they learn of it
// with the next entry or after Raft's commit timeout, which is long so that an
// idle group costs little. Calls while one is under way are one call.
func (n *Node) Spread() {
	if len(n.Servers()) < 2 || n.spreading.Add(1) > 1 {
		return
	}
	go func() {
		for {
			seen := n.spreading.Load()
			if err := n.raft.Barrier(enqueueTimeout).Error(); err != nil {
				n.spreading.Store(0)
				return // no leader any more: the next one spreads its own
			}
			if n.spreading.CompareAndSwap(seen, 0) {
				return
			}
		}
	}()
}

// Verify returns nil when a majority confirmed, after the call began, that
// this node leads, and everything committed before has been applied here.
func (n *Node) Verify(ctx context.Context) error {
	if err := n.await(ctx, func() raft.Future { return n.raft.VerifyLeader() }); err != nil {
		return err
	}
	return n.await(ctx, func() raft.Future { return n.raft.Barrier(enqueueTimeout) })
}

// AddNonvoter adds a server that receives the log and has no vote, or changes
// the address of a server without taking its vote.
func (n *Node) AddNonvoter(ctx context.Context, store, addr string) error {
	return n.await(ctx, func() raft.Future {
		return n.raft.AddNonvoter(raft.ServerID(store), raft.ServerAddress(addr), 0, enqueueTimeout)
	})
}

// AddVoter adds a server with a vote, or gives it one, or changes its address.
func (n *Node) AddVoter(ctx context.Context, store, addr string) error {
	return n.await(ctx, func() raft.Future {
		return n.raft.AddVoter(raft.ServerID(store), raft.ServerAddress(addr), 0, enqueueTimeout)
	})
}

// Demote takes a server's vote and leaves it in the ledger.
func (n *Node) Demote(ctx context.Context, store string) error {
	return n.await(ctx, func() raft.Future { return n.raft.DemoteVoter(raft.ServerID(store), 0, enqueueTimeout) })
}

// RemoveServer takes a server out of the ledger.
func (n *Node) RemoveServer(ctx context.Context, store string) error {
	return n.await(ctx, func() raft.Future { return n.raft.RemoveServer(raft.ServerID(store), 0, enqueueTimeout) })
}

// Servers is the newest Raft configuration this node knows, which may not be
// committed yet.
func (n *Node) Servers() []Server {
	f := n.raft.GetConfiguration()
	if f.Error() != nil {
		return nil
	}
	var out []Server
	for _, s := range f.Configuration().Servers {
		out = append(out, Server{Store: string(s.ID), Addr: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return out
}

// Leader is the leader this node knows of, or empty strings.
func (n *Node) Leader() (store, addr string) {
	a, id := n.raft.LeaderWithID()
	return string(id), string(a)
}

// IsLeader tells whether this node leads as far as it knows; Verify asks.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }

// LeaderCh receives true when this node begins to lead and false when it
// ceases to; only the newest value is kept for a slow receiver.
func (n *Node) LeaderCh() <-chan bool { return n.raft.LeaderCh() }

// TransferTo hands leadership to a voter, which must be up and caught up.
func (n *Node) TransferTo(ctx context.Context, store, addr string) error {
	return n.await(ctx, func() raft.Future {
		return n.raft.LeadershipTransferToServer(raft.ServerID(store), raft.ServerAddress(addr))
	})
}

// Snapshot writes a snapshot now; it is no error if there is nothing new.
func (n *Node) Snapshot(ctx context.Context) error {
	err := n.await(ctx, func() raft.Future { return n.raft.Snapshot() })
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}
