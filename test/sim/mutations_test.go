package sim_test

import (
	"testing"

	"understudy/test/sim"
)

// within is how many runs of the kind that suits it a planted bug may survive.
const within = 100

func TestMutations(t *testing.T) {
	for _, m := range sim.Mutations() {
		t.Run(m.String(), func(t *testing.T) {
			for k := range uint64(within) {
				seed := k*sim.Scenarios + m.Scenario()
				r := sim.Run(seed, sim.Options{Mutation: m})
				if r.Failure == "" || r.Stuck != m.Sticks() || sim.Run(seed, sim.Options{}).Failure != "" {
					continue
				}
				t.Logf("found by seed %d: %s", seed, r.Failure)
				return
			}
			t.Errorf("not found by %d runs", within)
		})
	}
}
