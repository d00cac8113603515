package sim_test

import (
	"fmt"
	"strings"
	"testing"

	"understudy/test/sim"
)

// within is how many runs of the kind that suits it a planted bug may survive.
const within = 200

// Every planted bug is found, and in a run that passes without it.
func TestMutations(t *testing.T) {
	var table strings.Builder
	for _, m := range sim.Mutations() {
		t.Run(m.String(), func(t *testing.T) {
			seed, r := find(m)
			if r.Failure == "" {
				fmt.Fprintf(&table, "%-76s  NOT FOUND\n", m.Words())
				t.Fatalf("%s: not found by %d runs", m.Words(), within)
			}
			fmt.Fprintf(&table, "%-76s  seed %5d  run %4d  %s\n", m.Words(), seed, seed/sim.Scenarios+1, r.Failure)
		})
	}
	t.Logf("each planted bug, the seed that finds it, the run of its kind (of %d), and the check that fails:\n%s", within, table.String())
}

// find is the first run that fails with a mutation and passes without.
func find(m sim.Mutation) (uint64, sim.Result) {
	at := func(k uint64) uint64 { return k*sim.Scenarios + m.Scenario() }
	for k, r := range play(within, func(k uint64) sim.Result { return sim.Run(at(k), sim.Options{Mutation: m}) }) {
		seed := at(uint64(k))
		if r.Failure != "" && r.Stuck == m.Sticks() && sim.Run(seed, sim.Options{}).Failure == "" {
			return seed, r
		}
	}
	return 0, sim.Result{}
}
