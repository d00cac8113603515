package facts_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

func TestApply_ReformIsRefused(t *testing.T) {
	old := trio(t).s
	for _, tt := range []struct {
		name, code string
		spoil      func(*facts.Reform)
	}{
		{"UnknownStore", facts.CodeUnknownStore, func(r *facts.Reform) { r.Store = "Z" }},
		{"NoGroup", facts.CodeUnknownStore, func(r *facts.Reform) { r.Old = facts.State{} }},
		{"SameLedger", facts.CodeBadCommand, func(r *facts.Reform) { r.LedgerID = old.Group.LedgerID }},
		{"NoLedger", facts.CodeBadCommand, func(r *facts.Reform) { r.LedgerID = "" }},
		{"Witness", facts.CodeNotSeeded, func(r *facts.Reform) { r.Store = "W" }},
		{"OldEpoch", facts.CodeBadCommand, func(r *facts.Reform) { r.Fence.Epoch = ep(2) }},
		{"OthersFence", facts.CodeBadCommand, func(r *facts.Reform) { r.Fence.Store = "A" }},
		{"NoLineage", facts.CodeBadCommand, func(r *facts.Reform) { r.Fence.Lineage = pos.Lineage{{}} }},
		{"LongStatement", facts.CodeBadCommand, func(r *facts.Reform) { r.Statement = strings.Repeat("x", 3000) }},
		{"LastGeneration", facts.CodeEpochsExhausted, func(r *facts.Reform) { r.Old.Primary.Epoch.Gen = 1<<32 - 1 }},
		{"LastTimeline", facts.CodeEpochsExhausted, func(r *facts.Reform) { r.Old.LastTimeline = 1<<32 - 2 }},
		{"BrokenState", facts.CodeBadCommand, func(r *facts.Reform) { r.Old.Voters.Stores = []string{"nobody"} }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := reform(old, "B", 300)
			tt.spoil(c.Reform)
			(&lab{t: t}).want(tt.code, c)
		})
	}
	l := trio(t)
	l.want(facts.CodeAlreadyFounded, reform(old, "B", 300))
}

func TestApply_Reform(t *testing.T) {
	old := trio(t).s
	l := &lab{t: t}
	l.must(reform(old, "B", 300))
	s := l.s
	if d := cmp.Diff(map[string]string{"A": "main", "W": "witness"}, s.Retired); d != "" {
		t.Error(d)
	}
	if s.LastTimeline != old.LastTimeline+16 || s.Primary.Epoch != (pos.Epoch{Gen: 2, Num: 1}) || !s.IsVoter("B") || len(s.Voters.Stores) != 1 || !s.Members["B"].LedgerVoter {
		t.Errorf("%+v", s)
	}
	l.want(facts.CodeRetiredStore, addMember(l, "main", "A", facts.KindData))
	l.want(facts.CodeOrderStands, clearOrder(s.Order.ID)) // else a majority would seem to have been asked
	l.must(assign(l, "B"))
	l.want(facts.CodeTimelineUsed, starting(l, "B", 17, 300))
	l.must(starting(l, "B", 18, 300), opened(l, "B", 300))
	ch, _ := l.s.ChangeOf(s.Primary.Epoch)
	if ch.Kind != facts.ChangeForced || ch.From != "main" || ch.To != "backup" || ch.Proof.Majority || !ch.Proof.Provisional || !strings.Contains(ch.Proof.Sentence(), "No majority was asked") {
		t.Errorf("%+v %+v", ch, ch.Proof)
	}
	// Who was left out comes back as somebody new.
	l.must(addMember(l, "main", "A2", facts.KindData), returned(s.Primary.Epoch, "A2", &facts.Closing{LogEnd: 300, Committed: 300}))
	ch, _ = l.s.ChangeOf(s.Primary.Epoch)
	if ch.Proof.Provisional || !strings.Contains(ch.Proof.Sentence(), "Nothing acknowledged was lost") {
		t.Errorf("%s", ch.Proof.Sentence())
	}
}

// The primary itself may be the one that goes on: that is no mere restart.
func TestApply_ReformByThePrimaryStaysForced(t *testing.T) {
	l := &lab{t: t}
	l.must(reform(pair(t).s, "A", 300))
	l.must(assign(l, "A"), starting(l, "A", 1, 300), opened(l, "A", 300))
	if ch := l.s.Changes[len(l.s.Changes)-1]; ch.Kind != facts.ChangeForced || ch.Proof.Provisional {
		t.Errorf("%+v", ch)
	}
}

// What the node reports is cut by the history of the old group.
func TestApply_ReformCutsTheReport(t *testing.T) {
	l := at(t, facts.PhasePromoting) // (1.1, 1, 100), (1.2, 2, 295)
	l.must(opened(l, "B", 295))
	c := reform(l.s, "A", 900)
	c.Reform.Fence.Lineage = l.s.Lineage[:1]
	c.Reform.Fence.Pos = pos.Pos{Epoch: ep(99), LSN: 1 << 40}
	n := &lab{t: t}
	n.must(c)
	if got := n.s.Primary.Fence["A"].Pos; got != (pos.Pos{Epoch: ep(1), LSN: 295}) {
		t.Errorf("%s", got)
	}
	n.must(assign(n, "A"))
	if got := n.s.Lineage.Last(); got.Start != 295 || len(n.s.Lineage) != 2 {
		t.Errorf("%v", n.s.Lineage)
	}
}

// Where no majority was asked, only the old primary knows what it acknowledged.
func TestApply_ReformIsClosedByWhatIsKnown(t *testing.T) {
	for exact, want := range map[bool]string{true: "Nothing acknowledged was lost", false: "may be lost"} {
		l := &lab{t: t}
		l.must(reform(trio(t).s, "B", 300))
		e := l.s.Primary.Epoch
		l.must(assign(l, "B"), starting(l, "B", 18, 300), opened(l, "B", 300))
		l.must(addMember(l, "main", "A2", facts.KindData), returned(e, "A2", &facts.Closing{LogEnd: 400, Committed: 300, Exact: exact}))
		if ch, _ := l.s.ChangeOf(e); !strings.Contains(ch.Proof.Sentence(), want) {
			t.Errorf("exact %v: %s", exact, ch.Proof.Sentence())
		}
	}
}
