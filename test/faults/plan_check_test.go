package faults_test

import (
	"reflect"
	"testing"
	"time"
)

func TestMakePlan_SameSeedSameRound(t *testing.T) {
	for n := range 300 {
		if a, b := makePlan(7, n), makePlan(7, n); !reflect.DeepEqual(a, b) {
			t.Fatalf("round %d is %s, then %s", n, a, b)
		}
	}
}

func TestMakePlan_EveryFaultBeginsARound(t *testing.T) {
	every := catalog()
	for turn := range 2 {
		seen := map[fault]bool{}
		for n := range every {
			p := makePlan(3, turn*len(every)+n)
			f := p.steps[0].fault
			if reflect.DeepEqual(p.steps, badDonor()) {
				f = p.steps[1].fault
			}
			seen[f] = true
		}
		if len(seen) != len(every) {
			t.Errorf("turn %d has %d of %d faults", turn, len(seen), len(every))
		}
	}
}

func TestMakePlan_Bounds(t *testing.T) {
	shapes := map[int]int{}
	for n := range 1000 {
		p := makePlan(11, n)
		shapes[len(p.steps)]++
		if p.hold < 200*time.Millisecond || p.hold > 7500*time.Millisecond {
			t.Errorf("round %d holds for %s", n, p.hold)
		}
		for _, s := range p.steps {
			if s.at < 0 || s.at > p.hold {
				t.Errorf("round %d: %s", n, p)
			}
		}
	}
	if shapes[1] < 400 || shapes[2] < 200 {
		t.Errorf("rounds by their number of faults: %v", shapes)
	}
}

func TestPlan_Harmless(t *testing.T) {
	one := func(fs ...fault) plan {
		var p plan
		for _, f := range fs {
			p.steps = append(p.steps, step{0, f})
		}
		return p
	}
	for _, c := range []struct {
		name string
		plan plan
		want bool
	}{
		{"Standby", one(fault{do: "kill", on: standby}), true},
		{"Primary", one(fault{do: "kill", on: primary}), false},
		{"TwoNodes", one(fault{do: "kill", on: standby}, fault{do: "stop", on: witness}), false},
		{"OneNodeTwice", one(fault{do: "kill", on: witness}, fault{do: "isolate", on: witness}), true},
		{"Cut", one(fault{do: "cut", on: standby, to: witness}), false},
		{"Ordered", one(fault{do: "kill", on: standby}, fault{do: "switchover", on: primary}), false},
		{"SecondWave", plan{steps: []step{{0, fault{do: "kill", on: standby}}}, again: []step{{0, fault{do: "kill", on: primary}}}}, false},
	} {
		if got := c.plan.harmless(); got != c.want {
			t.Errorf("%s: %t, want %t", c.name, got, c.want)
		}
	}
}
