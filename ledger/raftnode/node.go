// Package raftnode wires hashicorp/raft to its files and its streams: one Node
// is one Raft server whose id is the store id of its node.
//
// What Apply, AddVoter and the others have returned without an error is
// durable on a majority of the voters.
package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// The names below Config.Dir. The file snapshot store adds its own directory,
// "snapshots".
const (
	dbName       = "raft.db"
	storeKey     = "understudy_store"
	retainedN    = 2
	lockPatience = 2 * time.Second
)

// ErrLocked is returned by Open and HasState when another process has the
// directory open.
var ErrLocked = errors.New("ledger directory is in use by another process")

// ErrOtherStore is returned by Open when the directory belongs to another
// store id.
var ErrOtherStore = errors.New("ledger directory belongs to another store")

// ErrNotLeader is returned when this node does not lead; nothing was done.
var ErrNotLeader = errors.New("this node does not lead the ledger")

// ErrLost is returned when leadership was lost while an entry was under way:
// it may be applied, now or later, or never.
var ErrLost = errors.New("ledger leadership was lost")

// ErrClosed is returned after Close.
var ErrClosed = errors.New("ledger is closed")

// ErrExists is returned by Bootstrap when the directory has a state already.
var ErrExists = errors.New("ledger directory already has a state")

// Config says where a Node keeps its files and how it speaks to others. Zero
// durations and counts mean the default.
type Config struct {
	Dir       string           // created if missing
	Store     string           // Raft server id
	Advertise string           // host:port under which the others reach Stream
	Stream    raft.StreamLayer // closed by Close
	Log       *slog.Logger     // warnings and errors only; nil = discard

	// HeartbeatTimeout is how long a follower waits for its leader, and
	// ElectionTimeout how long a candidate waits for votes; default 300 ms.
	// Too low lets a busy disk cause elections.
	HeartbeatTimeout, ElectionTimeout time.Duration
	// LeaderLease is how long a leader leads without a majority; default
	// 200 ms, at most HeartbeatTimeout.
	LeaderLease time.Duration
	// CommitTimeout is how long followers may be left without word of what is
	// committed; default 50 ms. Agents act on what they see committed, but each
	// such word is a request to every follower, also in an idle group.
	CommitTimeout time.Duration
	// RPCTimeout bounds one call to another node; default 2 s.
	RPCTimeout time.Duration
	// SnapshotThreshold is the number of entries after which a snapshot is
	// taken; default 4096. SnapshotInterval is how often that is looked at;
	// default 30 s.
	SnapshotThreshold uint64
	SnapshotInterval  time.Duration
	// TrailingLogs is the number of entries kept behind a snapshot; default
	// 1024.
	TrailingLogs uint64
}

func (c Config) raftConfig(log *slog.Logger) *raft.Config {
	r := raft.DefaultConfig()
	r.LocalID = raft.ServerID(c.Store)
	r.HeartbeatTimeout = or(c.HeartbeatTimeout, 300*time.Millisecond)
	r.ElectionTimeout = or(c.ElectionTimeout, 300*time.Millisecond)
	r.LeaderLeaseTimeout = or(c.LeaderLease, 200*time.Millisecond)
	r.CommitTimeout = or(c.CommitTimeout, 50*time.Millisecond)
	r.SnapshotThreshold = or(c.SnapshotThreshold, 4096)
	r.SnapshotInterval = or(c.SnapshotInterval, 30*time.Second)
	r.TrailingLogs = or(c.TrailingLogs, 1024)
	r.MaxAppendEntries = 64
	// A removed node stays up as a follower without a vote: it may be told to
	// join again under another store.
	r.ShutdownOnRemove = false
	r.NoLegacyTelemetry = true
	r.Logger = newHclog(log)
	return r
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Node is one Raft server. Its methods may be called concurrently.
type Node struct {
	cfg   Config
	conf  *raft.Config
	raft  *raft.Raft
	trans *raft.NetworkTransport
	logs  *raftboltdb.BoltStore
	snaps raft.SnapshotStore

	started chan struct{} // closed once raft is set
	stop    chan struct{} // closed by Close first of all

	mu     sync.Mutex
	closed bool           // guarded by mu
	calls  sync.WaitGroup // goroutines that wait for futures; added to under mu

	spreading atomic.Int64 // calls of Spread that are not answered yet
}

// HasState tells whether dir holds the state of a Raft server that was
// bootstrapped or heard from a leader. It fails with ErrLocked while a Node has
// dir open.
func HasState(dir string) (bool, error) {
	if _, err := os.Stat(filepath.Join(dir, dbName)); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("look for ledger state: %w", err)
	}
	logs, err := openBolt(dir)
	if err != nil {
		return false, err
	}
	defer logs.Close()
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, retainedN, newHclog(slog.New(slog.DiscardHandler)))
	if err != nil {
		return false, fmt.Errorf("open ledger snapshots: %w", err)
	}
	ok, err := raft.HasExistingState(logs, logs, snaps)
	if err != nil {
		return false, fmt.Errorf("look for ledger state: %w", err)
	}
	return ok, nil
}

// openBolt opens the log and vote file, and gives up when another process
// holds it.
func openBolt(dir string) (*raftboltdb.BoltStore, error) {
	logs, err := raftboltdb.New(raftboltdb.Options{
		Path:        filepath.Join(dir, dbName),
		BoltOptions: &bbolt.Options{Timeout: lockPatience, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType},
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("%w: %s", ErrLocked, filepath.Join(dir, dbName))
	case err != nil:
		return nil, fmt.Errorf("open ledger log %s: %w", filepath.Join(dir, dbName), err)
	}
	return logs, nil
}

// claim binds the directory to the store id, so that a copied or mixed-up
// directory cannot vote twice.
func claim(logs *raftboltdb.BoltStore, dir, store string) error {
	have, err := logs.Get([]byte(storeKey))
	switch {
	case errors.Is(err, raftboltdb.ErrKeyNotFound):
		if err := logs.Set([]byte(storeKey), []byte(store)); err != nil {
			return fmt.Errorf("write store id to %s: %w", dir, err)
		}
		return nil
	case err != nil:
		return fmt.Errorf("read store id from %s: %w", dir, err)
	case string(have) != store:
		return fmt.Errorf("%w: %s has %s, this node is %s", ErrOtherStore, dir, have, store)
	}
	return nil
}

// Open starts the server from what its directory holds. Without state it waits
// to be bootstrapped or to be added by a leader. Open takes over cfg.Stream
// and closes it when it fails.
func Open(cfg Config, fsm raft.FSM) (_ *Node, err error) {
	if cfg.Stream == nil {
		return nil, errors.New("open ledger: a stream layer is needed")
	}
	if cfg.Dir == "" || cfg.Store == "" {
		cfg.Stream.Close()
		return nil, errors.New("open ledger: a directory and a store id are needed")
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: cfg, conf: cfg.raftConfig(log), started: make(chan struct{}), stop: make(chan struct{})}
	n.trans = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: newStreams(cfg.Stream, cfg.Advertise), MaxPool: 3,
		// No pipeline: Raft's sender and its reader of answers wait for each other
		// for ever when a follower refuses one of two entries under way, as it
		// does when its disk is full for a moment; it would never hear of anything
		// again. One at a time costs nothing at the ledger's rate.
		MaxRPCsInFlight: 1,
		Timeout:         or(cfg.RPCTimeout, 2*time.Second), Logger: n.conf.Logger,
	})
	defer func() {
		if err != nil {
			n.release()
		}
	}()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create ledger directory: %w", err)
	}
	if n.logs, err = openBolt(cfg.Dir); err != nil {
		return nil, err
	}
	if err := claim(n.logs, cfg.Dir, cfg.Store); err != nil {
		return nil, err
	}
	n.snaps, err = raft.NewFileSnapshotStoreWithLogger(cfg.Dir, retainedN, n.conf.Logger)
	if err != nil {
		return nil, fmt.Errorf("open ledger snapshots: %w", err)
	}
	for _, dir := range []string{cfg.Dir, filepath.Dir(cfg.Dir)} {
		if err := syncDir(dir); err != nil {
			return nil, fmt.Errorf("sync ledger directory: %w", err)
		}
	}
	trans := &patient{NetworkTransport: n.trans, leads: n.leads, stop: n.stop}
	n.raft, err = raft.NewRaft(n.conf, fsm, n.logs, n.logs, n.snaps, trans)
	if err != nil {
		return nil, fmt.Errorf("start ledger: %w", err)
	}
	close(n.started)
	return n, nil
}

// release undoes a failed Open.
func (n *Node) release() {
	n.trans.Close()
	if n.logs != nil {
		n.logs.Close()
	}
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Close stops the server, then the streams, then the files, and waits for all
// of them. Calls under way return ErrClosed or ErrLost. It may be called more
// than once.
func (n *Node) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	close(n.stop)
	stop := n.raft.Shutdown()
	// Calls to other nodes end with the streams; without that the shutdown
	// would wait for their timeouts.
	transErr := n.trans.Close()
	err := stop.Error()
	n.calls.Wait()
	return errors.Join(err, transErr, n.logs.Close())
}

// await waits for a future without outliving ctx; the goroutine that keeps
// waiting is awaited by Close.
func (n *Node) await(ctx context.Context, start func() raft.Future) error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return ErrClosed
	}
	n.calls.Add(1)
	n.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		defer n.calls.Done()
		done <- start().Error()
	}()
	select {
	case err := <-done:
		return translate(err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// translate maps Raft's errors to this package's.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress),
		errors.Is(err, raft.ErrEnqueueTimeout):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	case errors.Is(err, raft.ErrLeadershipLost), errors.Is(err, raft.ErrAbortedByRestore):
		return fmt.Errorf("%w: %w", ErrLost, err)
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrClosed
	}
	return err
}
