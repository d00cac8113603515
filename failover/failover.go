// Package failover carries out what the group decides: the controller, on the
// ledger leader, turns observations into commands by the rules of package
// decide; the agent, on every node, makes the local PostgreSQL be what the
// ledger says. Neither sees a byte of the log.
package failover

import (
	"context"
	"errors"
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
	// Settled tells whether a majority of the voters of this version holds all
	// that was called committed, by whichever voters.
	Settled(version uint64) bool
	// SetAsync says whether the server is told "flushed" for all it has written
	// or for what a majority holds.
	SetAsync(async bool)
	// WaitCommitted waits until a majority holds everything below lsn.
	WaitCommitted(ctx context.Context, lsn pos.LSN) error
	// Received is the end of the log that the server has handed out.
	Received() pos.LSN
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

// ErrLogGone is returned by Plane.OwnLog when not even the place can be read
// where a recovery of the database would begin. Permanent: nothing that the
// directory wrote can be compared, replayed or kept.
var ErrLogGone = errors.New("the log of this database is gone")

// ErrLogDamaged is returned by Plane.RecordEnd when the received log is not one
// record after the other. Permanent: its bytes have changed since they came.
var ErrLogDamaged = errors.New("the log is damaged")

// OwnLog is the log in a node's own pg_wal.
type OwnLog struct {
	End       pos.LSN // where PostgreSQL's crash recovery would write its next byte
	RecordEnd pos.LSN // end of the last whole record
	// Shutdown: the last record is the checkpoint of a regular stop.
	Shutdown bool
}

// Tail is what was kept of a log beyond the place where the histories part.
type Tail struct {
	Dir          string
	Transactions []facts.LostTransaction // those that committed there
	More         int
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
	// OwnLog scans the local pg_wal from the redo point of c on, along the given
	// history. Everything up to its end is fsynced.
	OwnLog(c pgctl.Control, l pos.Lineage) (OwnLog, error)
	// LogEnd is the end of the received log.
	LogEnd() pos.LSN
	// Lineage is the history of the received log; empty before there is one.
	Lineage() pos.Lineage
	// Heard is the highest committed LSN that this node has heard of.
	Heard() pos.LSN
	// HeardAll tells whether nothing beyond Heard was acknowledged by this node.
	HeardAll() bool
	// Copy appends another node's log up to upto, durably; l is the history up
	// to there. progress is called now and then.
	Copy(ctx context.Context, donor facts.Member, l pos.Lineage, upto pos.LSN, progress func()) error
	// Feed gives the local standby everything up to upto, although no primary
	// ships: it was elected.
	Feed(upto pos.LSN)
	// RecordEnd is the end of the last whole record of the received log that
	// ends at or below upto; from is a record boundary. ErrLogDamaged is returned
	// when more than one cut-off record lies between the two.
	RecordEnd(from, upto pos.LSN) (pos.LSN, error)
	// Rebase makes the local pg_wal, from the segment of from up to upto, the
	// received log of this node, durably.
	Rebase(c pgctl.Control, l pos.Lineage, from, upto pos.LSN) error
	// KeepTail keeps and decodes what pg_wal holds beyond fork, durably.
	KeepTail(ctx context.Context, c pgctl.Control, l pos.Lineage, fork, end pos.LSN) (Tail, error)
	// Rewind rewinds the stopped database to the primary's history.
	Rewind(ctx context.Context, l pos.Lineage) error
	// Renew gives this node's store up: the daemon begins anew with another one.
	Renew(why string) error
	// DropWAL removes pg_wal's segments from the one with from on.
	DropWAL(segSize int64, from pos.LSN) error
	// Quarantine moves aside what lies in the local pg_wal of a standby and is
	// not of the received log's history.
	Quarantine(c pgctl.Control) error
	// Seed fills the empty data directory from the primary; it may be called
	// again after any error.
	Seed(ctx context.Context) error
	// LogBase is the first byte of log that the daemon can give the local
	// standby; zero without a log.
	LogBase() pos.LSN
	// Claim marks the stopped local database as one to be seeded over.
	Claim() error
	// Wipe removes the stopped local database.
	Wipe() error
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
