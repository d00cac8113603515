// Package failover carries out what the group decides: the controller, on the
// ledger leader, turns observations into commands by the rules of package
// decide; the agent, on every node, makes the local PostgreSQL be what the
// ledger says. Neither sees a byte of the log.
package failover

import (
	"context"
	"time"

	"understudy/failover/decide"
	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Ledger is what controller and agent need of the ledger.
type Ledger interface {
	// State is the newest state applied on this node; it may be stale.
	State() facts.State
	// Changed is closed at the next change of State.
	Changed() <-chan struct{}
	// Read is a state confirmed by a majority.
	Read(ctx context.Context) (facts.State, error)
	// Propose returns when the command is applied by a majority, or refused.
	Propose(ctx context.Context, c facts.Command) (facts.Outcome, error)
	// Leader names the store that leads, and whether that is this node.
	Leader() (store string, self bool)
	// Servers, AddServer, RemoveServer and Transfer work on the leader only.
	Servers() ([]decide.RaftServer, error)
	AddServer(ctx context.Context, s decide.RaftServer) error
	RemoveServer(ctx context.Context, store string) error
	Transfer(ctx context.Context, store string) error
}

// PrimarySpec is one epoch that this node shall write.
type PrimarySpec struct {
	State facts.State // confirmed; its lineage ends with Epoch's entry
	Epoch pos.Epoch
	From  pos.LSN // where the receiver begins
}

// PrimaryRun is the data plane of a running primary.
type PrimaryRun interface {
	// SetState tells of new members and voters; it returns when acknowledgements
	// are counted by them.
	SetState(s facts.State)
	// SetAsync says whether the server is told "flushed" for all it has written
	// or for what a majority holds.
	SetAsync(async bool)
	// WaitCommitted waits until a majority holds everything below lsn.
	WaitCommitted(ctx context.Context, lsn pos.LSN) error
	// Contact is the boot-time clock at which the last heartbeat was sent that a
	// majority has answered.
	Contact() time.Duration
	// Floor is the LSN below which the group needs no log, given how much log
	// may be kept.
	Floor(ownRedo pos.LSN, maxBytes int64) pos.LSN
	// SetFloor publishes it.
	SetFloor(l pos.LSN)
	// Stop ends acknowledging, then everything else.
	Stop()
}

// Plane is the node's data plane.
type Plane interface {
	// Promised is the newest epoch this node has fenced for.
	Promised() pos.Epoch
	// Fence stops everything of older epochs, makes the promise durable and
	// returns the log that is durable here.
	Fence(e pos.Epoch) (pos.Lineage, pos.LSN, error)
	// Adopt makes the lineage of an epoch that this node is about to write
	// durable.
	Adopt(l pos.Lineage, e pos.Epoch) error
	// StartPrimary begins to receive from the local server and to ship.
	StartPrimary(ctx context.Context, s PrimarySpec) (PrimaryRun, error)
	// LogEnd scans the local pg_wal from the redo point of c on: where
	// PostgreSQL's crash recovery will write its next byte. Everything up to
	// there is fsynced.
	LogEnd(c pgctl.Control) (pos.LSN, error)
	// Seed fills the empty data directory from the primary; it may be called
	// again after any error.
	Seed(ctx context.Context) error
	// LogBase is the first byte of log that the daemon can give the local
	// standby; zero without a log.
	LogBase() pos.LSN
	// Claim marks the stopped local database as one to be seeded over.
	Claim() error
	// ClearRemains empties a data directory whose database was removed under
	// the running server; what is left of it is of no use to anybody.
	ClearRemains() error
	// SyncLog makes everything received durable.
	SyncLog() error
	// Conninfo is how the local standby reaches the daemon's log server, and
	// Restore the command that fetches whole segments.
	Conninfo() string
	Restore() string
	// SetRedo tells where a restart of the local standby would begin.
	SetRedo(l pos.LSN)
}

// Notify hands an event to the node's log.
type Notify func(kind, severity, text string, epoch pos.Epoch)
