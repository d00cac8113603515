package role_test

import (
	"testing"

	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// group has the data members A and B and the witness W.
func group(phase facts.Phase, primary string, e pos.Epoch) facts.State {
	s := facts.State{Members: map[string]facts.Member{
		"A": {Name: "main", Store: "A", Kind: facts.KindData},
		"B": {Name: "backup", Store: "B", Kind: facts.KindData},
		"W": {Name: "witness", Store: "W", Kind: facts.KindWitness},
	}}
	s.Primary = facts.Primaryship{Phase: phase, Store: primary, Epoch: e, Fence: map[string]facts.FenceReport{}}
	return s
}

func TestAssigned(t *testing.T) {
	started := []facts.Phase{facts.PhaseAssigned, facts.PhaseStarting, facts.PhasePromoting}
	for _, phase := range append(started, facts.PhaseOpened) {
		s := group(phase, "A", epoch(3))
		for _, was := range []bool{false, true} {
			if got := role.Assigned(s, "A", was); got != (role.Assignment{Kind: role.Primary, Epoch: epoch(3)}) {
				t.Errorf("%s: the assigned node, was %v: %+v", phase, was, got)
			}
			if got := role.Assigned(s, "W", was); got != (role.Assignment{Kind: role.Witness}) {
				t.Errorf("%s: the witness: %+v", phase, got)
			}
		}
		if got := role.Assigned(s, "B", false); got != (role.Assignment{Kind: role.Standby}) {
			t.Errorf("%s: the other node: %+v", phase, got)
		}
	}
	for _, tt := range []struct {
		name  string
		s     facts.State
		store string
		was   bool
		want  role.Kind
	}{
		{"stranger", group(facts.PhaseOpened, "A", epoch(1)), "X", true, role.Wait},
		{"new group", group(facts.PhaseNone, "", pos.Epoch{}), "A", true, role.Wait},
		{"empty ledger", facts.State{}, "A", false, role.Wait},
		{"fencing, was primary", group(facts.PhaseFencing, "", epoch(2)), "A", true, role.Hold},
		{"fencing, standby", group(facts.PhaseFencing, "", epoch(2)), "B", false, role.Standby},
		{"fencing, witness", group(facts.PhaseFencing, "", epoch(2)), "W", false, role.Witness},
		{"replaced, start not known", group(facts.PhaseAssigned, "B", epoch(2)), "A", true, role.Hold},
		{"replaced, not yet open", group(facts.PhasePromoting, "B", epoch(2)), "A", true, role.Standby},
		{"replaced, open", group(facts.PhaseOpened, "B", epoch(2)), "A", true, role.Standby},
	} {
		got := role.Assigned(tt.s, tt.store, tt.was)
		if got.Kind != tt.want || !got.Epoch.IsZero() {
			t.Errorf("%s: %+v, want %s", tt.name, got, tt.want)
		}
	}
}

// At most one store is told to be primary, whatever the ledger says.
func TestAssigned_OnePrimary(t *testing.T) {
	for _, phase := range []facts.Phase{facts.PhaseNone, facts.PhaseFencing, facts.PhaseAssigned, facts.PhaseStarting, facts.PhasePromoting, facts.PhaseOpened} {
		for _, primary := range []string{"", "A", "B"} {
			n := 0
			for _, store := range []string{"A", "B", "W", ""} {
				for _, was := range []bool{false, true} {
					if role.Assigned(group(phase, primary, epoch(1)), store, was).Kind == role.Primary && !was {
						n++
					}
				}
			}
			if n > 1 {
				t.Errorf("phase %s, primary %q: %d primaries", phase, primary, n)
			}
		}
	}
}

func TestFence(t *testing.T) {
	fencing := group(facts.PhaseFencing, "", epoch(4))
	reported := group(facts.PhaseFencing, "", epoch(4))
	reported.Primary.Fence["B"] = facts.FenceReport{Store: "B", Epoch: epoch(4)}
	for _, tt := range []struct {
		name     string
		s        facts.State
		store    string
		promised pos.Epoch
		owed     bool
	}{
		{"promised less", group(facts.PhaseOpened, "A", epoch(4)), "B", epoch(3), true},
		{"promised nothing", group(facts.PhaseOpened, "A", epoch(4)), "W", pos.Epoch{}, true},
		{"promised, open", group(facts.PhaseOpened, "A", epoch(4)), "B", epoch(4), false},
		{"promised, assigned", group(facts.PhaseAssigned, "A", epoch(4)), "B", epoch(4), false},
		{"promised, not reported", fencing, "B", epoch(4), true},
		{"promised and reported", reported, "B", epoch(4), false},
		{"another one reported", reported, "W", epoch(4), true},
		{"promised more", group(facts.PhaseOpened, "A", epoch(4)), "B", epoch(5), false},
		{"stranger", fencing, "X", pos.Epoch{}, false},
		{"no epoch yet", group(facts.PhaseNone, "", pos.Epoch{}), "A", pos.Epoch{}, false},
	} {
		e, owed := role.Fence(tt.s, tt.store, tt.promised)
		if owed != tt.owed || (owed && e != tt.s.Primary.Epoch) {
			t.Errorf("%s: epoch %s, owed %v", tt.name, e, owed)
		}
	}
}
