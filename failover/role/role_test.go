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

func TestToPrimary(t *testing.T) {
	at := func(phase facts.Phase, v role.View) role.View {
		v.State, v.Store = group(phase, "B", epoch(4)), "B"
		return v
	}
	running := role.View{Server: role.ServerPrimary, ServerEpoch: epoch(4)}
	for _, tt := range []struct {
		name string
		v    role.View
		want role.Step
	}{
		{"a former primary", at(facts.PhaseAssigned, role.View{Past: role.PastPrimary}), role.Start},
		{"a stopped standby", at(facts.PhaseAssigned, role.View{Past: role.PastStandby}), role.Launch},
		{"a running standby", at(facts.PhaseAssigned, role.View{Server: role.ServerStandby}), role.Elect},
		{"a running standby, recorded", at(facts.PhasePromoting, role.View{Server: role.ServerStandby}), role.Promote},
		{"half promoted", at(facts.PhasePromoting, role.View{Server: role.ServerPrimary, ServerEpoch: epoch(4), InRecovery: true}), role.Promote},
		{"promoted", at(facts.PhasePromoting, running), role.Serve},
		{"open, adopted", at(facts.PhaseOpened, running), role.Serve},
		{"of an older epoch", at(facts.PhaseAssigned, role.View{Server: role.ServerPrimary, ServerEpoch: epoch(3)}), role.Stop},
		{"it ended after it began", at(facts.PhaseStarting, role.View{Past: role.PastPrimary}), role.Gone},
		{"it ended while it was promoted", at(facts.PhasePromoting, role.View{Past: role.PastStandby}), role.Gone},
		{"it ended when it was open", at(facts.PhaseOpened, role.View{Past: role.PastPrimary}), role.Gone},
		{"nothing to start", at(facts.PhaseAssigned, role.View{Past: role.PastNone}), role.Gone},
		{"half a base", at(facts.PhaseAssigned, role.View{Past: role.PastHalf}), role.Gone},
		{"being fenced again", at(facts.PhaseFencing, role.View{Past: role.PastStandby}), role.Leave},
	} {
		if got := role.ToPrimary(tt.v, epoch(4)); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	if got := role.ToPrimary(at(facts.PhaseAssigned, role.View{}), epoch(5)); got != role.Leave {
		t.Errorf("another epoch: %s", got)
	}
}

func TestToStandby(t *testing.T) {
	phases := []facts.Phase{facts.PhaseFencing, facts.PhaseAssigned, facts.PhaseStarting, facts.PhasePromoting, facts.PhaseOpened}
	for _, phase := range phases {
		known := phase != facts.PhaseFencing && phase != facts.PhaseAssigned
		when := func(step role.Step) role.Step { // the start is known, else wait
			if known {
				return step
			}
			return role.Pause
		}
		for _, tt := range []struct {
			name string
			v    role.View
			want role.Step
		}{
			{"nothing here", role.View{Past: role.PastNone}, role.Seed},
			{"half a base", role.View{Past: role.PastHalf}, role.Seed},
			{"no database", role.View{Past: role.PastForeign}, role.Pause},
			{"a standby", role.View{Past: role.PastStandby}, role.Launch},
			{"a running standby", role.View{Server: role.ServerStandby}, role.Watch},
			{"a running primary", role.View{Server: role.ServerPrimary}, role.Stop},
			{"a former primary", role.View{Past: role.PastPrimary, Marked: true}, when(role.Return)},
			{"elected, came to nothing", role.View{Past: role.PastStandby, Marked: true}, when(role.Return)},
			{"a standby with pages or log of another history", role.View{Past: role.PastStandby, Diverged: true}, when(role.Return)},
			{"elected, still running", role.View{Server: role.ServerStandby, Marked: true}, role.Stop},
		} {
			tt.v.State, tt.v.Store = group(phase, "A", epoch(4)), "B"
			if got := role.ToStandby(tt.v); got != tt.want {
				t.Errorf("%s, %s: %s, want %s", tt.name, phase, got, tt.want)
			}
		}
	}
}

// The least method that can work is chosen, never less than the floor, and
// following only by what holds nothing beyond the fork.
func TestChooseMethod(t *testing.T) {
	own := pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: 100}}
	now := own.With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: 500})
	for _, tt := range []struct {
		name string
		r    role.Remains
		want role.Method
	}{
		{"stopped at the fork", role.Remains{Clean: true, LogEnd: 500, Lineage: own}, role.MethodFollow},
		{"stopped before it", role.Remains{Clean: true, LogEnd: 400, Lineage: own}, role.MethodFollow},
		{"stopped beyond it", role.Remains{Clean: true, LogEnd: 501, Lineage: own}, role.MethodRewind},
		{"crashed at the fork", role.Remains{LogEnd: 500, Lineage: own}, role.MethodRewind},
		{"of the present history", role.Remains{Clean: true, LogEnd: 900, Lineage: now}, role.MethodFollow},
		{"a standby", role.Remains{Recovery: true, MinRecovery: 500, Lineage: own}, role.MethodFollow},
		{"a standby that went further", role.Remains{Recovery: true, MinRecovery: 501, Lineage: own}, role.MethodRewind},
		{"a standby whose log goes further", role.Remains{Recovery: true, MinRecovery: 400, LogEnd: 501, Lineage: own}, role.MethodRewind},
		{"half a rewind", role.Remains{Half: true, Lineage: own}, role.MethodDelta},
		{"after a rewind failed", role.Remains{Clean: true, LogEnd: 500, Lineage: own, Floor: role.MethodDelta}, role.MethodDelta},
		{"the operator wants all of it", role.Remains{Clean: true, LogEnd: 500, Lineage: own, Floor: role.MethodFull}, role.MethodFull},
	} {
		if got, why := role.ChooseMethod(tt.r, now); got != tt.want || why == "" {
			t.Errorf("%s: %s (%s), want %s", tt.name, got, why, tt.want)
		}
	}
}

// The node that restores has that role only while the group is fenced for it.
func TestAssigned_Restore(t *testing.T) {
	order := func(stage facts.RestoreStage, reformed bool) facts.State {
		s := group(facts.PhaseFencing, "", epoch(4))
		s.Order = &facts.Order{Kind: facts.OrderRestore, To: "B", Reformed: reformed, Restore: &facts.Restore{Stage: stage}}
		return s
	}
	for _, was := range []bool{false, true} {
		for _, stage := range []facts.RestoreStage{facts.RestoreStopping, facts.RestoreRewriting, facts.RestoreFinal} {
			if got := role.Assigned(order(stage, false), "B", was); got != (role.Assignment{Kind: role.Restore, Epoch: epoch(4)}) {
				t.Errorf("%s, was %v: %+v", stage, was, got)
			}
			if got := role.Assigned(order(stage, false), "A", was); got.Kind == role.Restore {
				t.Errorf("%s: the other node: %+v", stage, got)
			}
		}
		if got := role.Assigned(order(facts.RestoreDraining, false), "B", was); got.Kind == role.Restore {
			t.Errorf("the last log is not saved yet: %+v", got)
		}
		if got := role.Assigned(order(facts.RestoreFinal, true), "B", was); got.Kind == role.Restore {
			t.Errorf("in the new ledger: %+v", got)
		}
	}
}
