package facts_test

import (
	"strconv"
	"testing"

	"understudy/ledger/facts"
)

func TestState_Pair(t *testing.T) {
	data, witness := facts.KindData, facts.KindWitness
	for name, tt := range map[string]struct {
		kinds []facts.Kind
		want  bool
	}{
		"Nobody":         {nil, false},
		"Alone":          {[]facts.Kind{data}, false},
		"TwoDatabases":   {[]facts.Kind{data, data}, true},
		"OneAndAWitness": {[]facts.Kind{data, witness}, false},
		"TwoAndAWitness": {[]facts.Kind{data, data, witness}, false},
		"ThreeDatabases": {[]facts.Kind{data, data, data}, false},
	} {
		s := facts.State{Members: map[string]facts.Member{}}
		for i, k := range tt.kinds {
			s.Members[strconv.Itoa(i)] = facts.Member{Kind: k}
		}
		if got := s.Pair(); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
