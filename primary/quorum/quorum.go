// Package quorum turns acknowledgements into the committed LSN: the largest
// position that is durable on a majority of the WAL voters of an epoch.
//
// The package is pure and not safe for concurrent use; its caller serializes.
package quorum

import (
	"slices"

	"understudy/shipper/pos"
)

// Counter counts one epoch.
type Counter struct {
	self      string
	start     pos.LSN
	voters    []string
	version   uint64
	durable   map[string]pos.LSN
	committed pos.LSN
}

// New counts for the primary whose store is self. Acknowledgements below
// start, the epoch's first byte, do not count: bytes that an older epoch wrote
// are committed by this one only together with its own beginning, as entries
// of old terms are in Raft. Heard is the highest committed LSN known from
// before; Committed never falls below it.
func New(self string, start, heard pos.LSN) *Counter {
	return &Counter{self: self, start: start, durable: map[string]pos.LSN{}, committed: heard}
}

// SetVoters replaces the set of stores that count. Committed never falls.
func (c *Counter) SetVoters(version uint64, stores []string) {
	c.version = version
	c.voters = slices.Clone(stores)
	c.advance()
}

// Version is that of the voter set in force.
func (c *Counter) Version() uint64 { return c.version }

// Needed is how many voters must hold a byte before it is committed; zero
// while no set is known.
func (c *Counter) Needed() int {
	if len(c.voters) == 0 {
		return 0
	}
	return len(c.voters)/2 + 1
}

// VoterN is how many stores count.
func (c *Counter) VoterN() int { return len(c.voters) }

// IsVoter tells whether a store counts.
func (c *Counter) IsVoter(store string) bool { return slices.Contains(c.voters, store) }

// Durable records that a store, the primary's own included, holds everything
// up to lsn on its disk. A position lower than an earlier one is ignored; a
// store that lost bytes is a new store. It reports whether Committed moved.
func (c *Counter) Durable(store string, lsn pos.LSN) bool {
	if lsn <= c.durable[store] {
		return false
	}
	c.durable[store] = lsn
	return c.advance()
}

// Forget drops what a store has said, when it leaves the group.
func (c *Counter) Forget(store string) { delete(c.durable, store) }

// Committed is the largest LSN durable on a majority; it never falls.
func (c *Counter) Committed() pos.LSN { return c.committed }

// Acked is what a store last said to hold.
func (c *Counter) Acked(store string) pos.LSN { return c.durable[store] }

// Settled tells whether a majority of the present set holds everything that was
// called committed, by whichever set. Before it does, no other set may follow:
// what was committed by the one before could be on a majority of neither.
func (c *Counter) Settled() bool {
	lsn, ok := c.held()
	return ok && lsn >= c.committed
}

// held is what a majority of the present set holds; ok is false while there is
// no set that this primary is in.
func (c *Counter) held() (lsn pos.LSN, ok bool) {
	need := c.Needed()
	if need == 0 || !c.IsVoter(c.self) {
		return 0, false
	}
	var held [16]pos.LSN
	at := held[:0]
	for _, v := range c.voters {
		at = append(at, c.durable[v])
	}
	slices.Sort(at)
	return at[len(at)-need], true
}

func (c *Counter) advance() bool {
	lsn, ok := c.held()
	if !ok || lsn < c.start || lsn <= c.committed {
		return false
	}
	c.committed = lsn
	return true
}
