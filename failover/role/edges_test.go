package role_test

import (
	"fmt"
	"testing"

	"understudy/failover/role"
	"understudy/ledger/facts"
)

// take does what a step does to a view when it succeeds. ok is false for a step
// after which there is nothing to do until the ledger moves.
func take(v role.View, s role.Step, as role.Kind) (next role.View, ok bool) {
	e := v.State.Primary.Epoch
	switch s {
	case role.Stop:
		v.Past = role.PastStandby
		if v.Server == role.ServerPrimary {
			v.Past, v.Marked = role.PastPrimary, true
		}
		v.Server, v.InRecovery = role.ServerNone, false
	case role.Start: // records its start, and then runs in this epoch
		v.Server, v.ServerEpoch, v.Marked = role.ServerPrimary, e, true
		v.State.Primary.Phase = facts.PhaseStarting
	case role.Launch:
		v.Server, v.Past = role.ServerStandby, role.PastStandby
	case role.Elect:
		v.Marked = true
		v.State.Primary.Phase = facts.PhasePromoting
	case role.Promote:
		v.Server, v.ServerEpoch, v.InRecovery = role.ServerPrimary, e, false
	case role.Seed, role.Return:
		v.Past, v.Marked, v.Diverged = role.PastStandby, false, false
	case role.Serve, role.Watch, role.Pause, role.Gone, role.Leave:
		return v, false
	default:
		panic(fmt.Sprintf("no edge for step %q of %s", s, as))
	}
	return v, true
}

// From whatever is found, in every phase, every assignment is reached by steps
// that exist, and soon: no two steps undo each other.
func TestSteps_EveryEdgeComesToRest(t *testing.T) {
	n, ends := 0, map[role.Step]int{}
	for _, phase := range []facts.Phase{facts.PhaseFencing, facts.PhaseAssigned, facts.PhaseStarting, facts.PhasePromoting, facts.PhaseOpened} {
		for _, server := range []role.Server{role.ServerNone, role.ServerStandby, role.ServerPrimary} {
			for _, past := range []role.Past{role.PastNone, role.PastHalf, role.PastForeign, role.PastStandby, role.PastPrimary} {
				for i := range 2 * 2 * 2 * 3 {
					for _, mine := range []bool{true, false} {
						primary := "B"
						if !mine {
							primary = "A"
						}
						v := role.View{State: group(phase, primary, epoch(4)), Store: "B", Server: server, Past: past,
							Marked: i&1 != 0, Diverged: i&2 != 0, InRecovery: i&4 != 0, ServerEpoch: epoch(uint64(3 + i/8))}
						ends[rest(t, v)]++
						n++
					}
				}
			}
		}
	}
	for _, s := range []role.Step{role.Serve, role.Watch, role.Pause, role.Gone} {
		if ends[s] == 0 {
			t.Errorf("nothing of %d ends in %s: %v", n, s, ends)
		}
	}
}

// rest follows the steps of what is assigned until there is nothing to do.
func rest(t *testing.T, v role.View) role.Step {
	t.Helper()
	from := fmt.Sprintf("%+v", v)
	var way []role.Step
	for range 8 {
		as := role.Assigned(v.State, v.Store, v.Marked)
		var s role.Step
		switch as.Kind {
		case role.Primary:
			s = role.ToPrimary(v, as.Epoch)
		case role.Standby:
			s = role.ToStandby(v)
		case role.Hold:
			if v.Server != role.ServerPrimary {
				return role.Pause
			}
			s = role.Stop
		default:
			t.Fatalf("%s: assigned %q", from, as.Kind)
		}
		way = append(way, s)
		next, more := take(v, s, as.Kind)
		if !more {
			return s
		}
		v = next
	}
	t.Fatalf("%s: no end: %v", from, way)
	return ""
}
