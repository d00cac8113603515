package node

import (
	"maps"
	"slices"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// MaxLost is how many former stores of a node are remembered.
const MaxLost = maxLost

// Hear takes a report as if it had come over a connection.
func (c Control) Hear(rep decide.Report) { c.c.hear(rep) }

// Hears is what is heard of members.
func (c Control) Hears(members ...facts.Member) []decide.Hears { return c.c.ears.of(members) }

// Stores are those that the control and its ears remember.
func (c Control) Stores() (control, ears []string) {
	return slices.Sorted(maps.Keys(c.c.heard)), slices.Sorted(maps.Keys(c.c.ears.heard))
}
