package facts

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"
)

// Policy is what the operator decided for the whole group. Version is set by
// Apply.
type Policy struct {
	Version uint64 `json:"version"`
	// Durability is when commits are acknowledged. Async can lose
	// acknowledged commits in a failover.
	Durability Durability `json:"durability"`
	// IsolationTimeout is how long a primary without contact to a majority
	// keeps running; reads from it may be this old. Too low stops a healthy
	// primary over a hiccup of the network.
	IsolationTimeout time.Duration `json:"isolation_timeout_ns"`
	// SilenceTimeout is how long a primary must be unheard by a majority
	// before it is replaced.
	SilenceTimeout time.Duration `json:"silence_timeout_ns"`
	// RestartGrace is how long an announced restart of the primary may take
	// before it is replaced; commits wait meanwhile.
	RestartGrace time.Duration `json:"restart_grace_ns"`
	// PairAloneAfter is how long the primary of a pair without witness waits
	// for its lost standby before it goes on alone.
	PairAloneAfter time.Duration `json:"pair_alone_after_ns"`
	// SwitchoverCatchup is how long a switchover waits, after the writer is
	// frozen, for the candidate to have everything.
	SwitchoverCatchup time.Duration `json:"switchover_catchup_ns"`
	// SwitchoverMaxLagBytes is how far behind the best candidate may be for a
	// switchover to begin.
	SwitchoverMaxLagBytes int64 `json:"switchover_max_lag_bytes"`
	// SpoolMaxBytes bounds the WAL that a node keeps for others; beyond it a
	// node that is too far behind needs a new base.
	SpoolMaxBytes int64 `json:"spool_max_bytes"`
	// StallTimeout is how long the primary's own probes of its disk and of its
	// PostgreSQL may hang before it counts as failing. Too low replaces a
	// primary over a slow disk.
	StallTimeout time.Duration `json:"stall_timeout_ns"`
	// StrictReads delays the opening of a new primary until the old one's
	// lease has certainly ended.
	StrictReads bool `json:"strict_reads"`
	// Failover is what the group does by itself when its primary is lost.
	Failover FailoverMode `json:"failover"`
	// Paused stops automatic failover until PausedUntil, or for good when that
	// is zero; an operator's commands still work.
	Paused      bool      `json:"paused"`
	PausedUntil time.Time `json:"paused_until"`
	// Nodes is what differs between nodes, by name; a node without an entry is
	// like any other.
	Nodes map[string]NodePolicy `json:"nodes,omitempty"`
	// Locations are the places for backups, by name.
	Locations map[string]LocationPolicy `json:"locations,omitempty"`
	// Backup is when and how backups are taken. A policy of a ledger older than
	// backups has none: use Backups.
	Backup BackupPolicy `json:"backup,omitzero"`
}

// FailoverMode is what the group does by itself when its primary is lost.
type FailoverMode string

// The modes. A policy of a ledger older than the modes has none, which means
// automatic.
const (
	FailoverAutomatic FailoverMode = "automatic" // another node becomes primary
	FailoverObserve   FailoverMode = "observe"   // it is said what would be done
	FailoverManual    FailoverMode = "manual"    // nothing; the operator acts
)

// NodePolicy is what the operator decided for one node.
type NodePolicy struct {
	// Priority prefers a node as primary: among those that can take over as
	// fast, the one with the highest is chosen.
	Priority int `json:"priority,omitempty"`
	// NoFailover keeps a node from becoming primary by itself.
	NoFailover bool `json:"no_failover,omitempty"`
	// NoVote keeps a node out of the quorum: commits never wait for it, and it
	// cannot become primary. For a distant standby.
	NoVote bool `json:"no_vote,omitempty"`
	// ApplyDelay keeps a standby's database this far behind. Its log is not
	// delayed. It is chosen as primary last.
	ApplyDelay time.Duration `json:"apply_delay_ns,omitempty"`
}

// IsZero tells whether a node is like any other.
func (n NodePolicy) IsZero() bool { return n == NodePolicy{} }

// Of is what the policy says of the node of that name.
func (p Policy) Of(node string) NodePolicy { return p.Nodes[node] }

// With is the policy with another entry for a node; a zero one is left out.
func (p Policy) With(node string, n NodePolicy) Policy {
	nodes := maps.Clone(p.Nodes)
	if nodes == nil {
		nodes = map[string]NodePolicy{}
	}
	nodes[node] = n
	if n.IsZero() {
		delete(nodes, node)
	}
	if len(nodes) == 0 {
		nodes = nil
	}
	p.Nodes = nodes
	return p
}

// Mode is what the group does by itself at a time.
func (p Policy) Mode(now time.Time) FailoverMode {
	switch {
	case p.PauseStands(now):
		return FailoverManual
	case p.Failover == "":
		return FailoverAutomatic
	}
	return p.Failover
}

// PauseStands tells whether automatic failover is paused at a time.
func (p Policy) PauseStands(now time.Time) bool {
	return p.Paused && (p.PausedUntil.IsZero() || now.Before(p.PausedUntil))
}

// IsZero tells whether nothing was decided.
func (p Policy) IsZero() bool {
	n := len(p.Nodes) + len(p.Locations)
	p.Nodes, p.Locations = nil, nil
	return n == 0 && reflect.DeepEqual(p, Policy{})
}

// DefaultPolicy is the policy of a group that was given none.
func DefaultPolicy() Policy {
	return Policy{
		Durability:            Quorum,
		IsolationTimeout:      2 * time.Second,
		SilenceTimeout:        time.Second,
		RestartGrace:          10 * time.Second,
		PairAloneAfter:        10 * time.Second,
		SwitchoverCatchup:     2 * time.Second,
		SwitchoverMaxLagBytes: 16 << 20,
		SpoolMaxBytes:         8 << 30,
		StallTimeout:          5 * time.Second,
		Failover:              FailoverAutomatic,
		Backup:                DefaultBackup(),
	}
}

// Validate returns an error of one sentence that names the first key that is
// out of range.
func (p Policy) Validate() error {
	if p.Durability != Quorum && p.Durability != Async {
		return fmt.Errorf("policy key durability is %q, it must be %q or %q", p.Durability, Quorum, Async)
	}
	switch p.Failover {
	case "", FailoverAutomatic, FailoverObserve, FailoverManual:
	default:
		return fmt.Errorf("policy key failover is %q, it must be %q, %q or %q", p.Failover, FailoverAutomatic, FailoverObserve, FailoverManual)
	}
	for _, check := range []func() error{p.validateNodes, p.validateLocations, p.validateBackup} {
		if err := check(); err != nil {
			return err
		}
	}
	stall := p.StallTimeout
	if stall == 0 { // of a ledger older than the key
		stall = DefaultPolicy().StallTimeout
	}
	for _, d := range []struct {
		key       string
		v, lo, hi time.Duration
	}{
		{"isolation_timeout", p.IsolationTimeout, 500 * time.Millisecond, time.Minute},
		{"silence_timeout", p.SilenceTimeout, 200 * time.Millisecond, time.Minute},
		{"stall_timeout", stall, time.Second, 10 * time.Minute},
		{"restart_grace", p.RestartGrace, 0, time.Hour},
		{"pair_alone_after", p.PairAloneAfter, time.Second, 24 * time.Hour},
		{"switchover_catchup", p.SwitchoverCatchup, 100 * time.Millisecond, time.Minute},
	} {
		if d.v < d.lo || d.v > d.hi {
			return fmt.Errorf("policy key %s is %s, it must be between %s and %s", d.key, d.v, d.lo, d.hi)
		}
	}
	for _, b := range []struct {
		key       string
		v, lo, hi int64
	}{
		{"switchover_max_lag", p.SwitchoverMaxLagBytes, 0, 1 << 40},
		{"spool_max", p.SpoolMaxBytes, 64 << 20, 1 << 50},
	} {
		if b.v < b.lo || b.v > b.hi {
			return fmt.Errorf("policy key %s is %d bytes, it must be between %d and %d", b.key, b.v, b.lo, b.hi)
		}
	}
	return nil
}

// The bounds of what a policy says of nodes.
const (
	maxNodePolicies = 64
	maxPriority     = 1000
	// maxApplyDelay is what PostgreSQL takes, in whole days.
	maxApplyDelay = 24 * 24 * time.Hour
)

func (p Policy) validateNodes() error {
	if len(p.Nodes) > maxNodePolicies {
		return fmt.Errorf("the policy names %d nodes, at most %d are possible", len(p.Nodes), maxNodePolicies)
	}
	for _, name := range slices.Sorted(maps.Keys(p.Nodes)) {
		n := p.Nodes[name]
		switch {
		case !plain(name):
			return fmt.Errorf("policy key node.%s names no node: a name has letters, digits, - and _", clip(name))
		case n.Priority < -maxPriority || n.Priority > maxPriority:
			return fmt.Errorf("policy key node.%s.priority is %d, it must be between %d and %d", name, n.Priority, -maxPriority, maxPriority)
		case n.ApplyDelay < 0 || n.ApplyDelay > maxApplyDelay:
			return fmt.Errorf("policy key node.%s.apply_delay is %s, it must be between 0 and %s", name, n.ApplyDelay, maxApplyDelay)
		}
	}
	return nil
}
