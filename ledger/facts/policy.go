package facts

import (
	"fmt"
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
	// StrictReads delays the opening of a new primary until the old one's
	// lease has certainly ended.
	StrictReads bool `json:"strict_reads"`
	// Paused stops automatic failover; an operator's commands still work.
	Paused bool `json:"paused"`
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
	}
}

// Validate returns an error of one sentence that names the first key that is
// out of range.
func (p Policy) Validate() error {
	if p.Durability != Quorum && p.Durability != Async {
		return fmt.Errorf("policy key durability is %q, it must be %q or %q", p.Durability, Quorum, Async)
	}
	for _, d := range []struct {
		key       string
		v, lo, hi time.Duration
	}{
		{"isolation_timeout", p.IsolationTimeout, 500 * time.Millisecond, time.Minute},
		{"silence_timeout", p.SilenceTimeout, 200 * time.Millisecond, time.Minute},
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
