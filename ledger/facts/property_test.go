package facts_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// draw is a command that is often right: it looks at the state, and then
// spoils one thing now and then.
func draw(t *rapid.T, l *lab) facts.Command {
	store := rapid.SampledFrom([]string{"A", "B", "W", "C", "Z"}).Draw(t, "store")
	if l.s.Primary.Store != "" && rapid.Bool().Draw(t, "primary") {
		store = l.s.Primary.Store
	}
	lsn := pos.LSN(rapid.Uint64Range(90, 400).Draw(t, "lsn"))
	if rapid.Bool().Draw(t, "elected") {
		lsn = l.s.Primary.Elected.LSN
	}
	lineage := l.s.Lineage[:rapid.IntRange(0, len(l.s.Lineage)).Draw(t, "entries")]
	if rapid.Bool().Draw(t, "whole") {
		lineage = l.s.Lineage
	}
	var c facts.Command
	switch rapid.IntRange(0, 22).Draw(t, "kind") {
	case 0:
		c = begin(l)
		c.BeginEpoch.Change = rapid.SampledFrom([]facts.ChangeKind{"", facts.ChangeSwitchover, facts.ChangeFailover, facts.ChangeRestart}).Draw(t, "change")
	case 1, 2, 3, 4:
		c = report(l, store, lsn, lineage)
		c.ReportFence.Heard = pos.LSN(rapid.Uint64Range(90, 400).Draw(t, "heard"))
	case 5, 6:
		c = assign(l, store)
	case 7, 8:
		c = starting(l, store, l.s.LastTimeline+pos.Timeline(rapid.IntRange(0, 1).Draw(t, "promote")), lsn)
	case 9, 10:
		c = opened(l, store, lsn+50)
	case 11:
		c = propose(store, lsn)
	case 12:
		c = admit(l, store, lsn+50)
	case 13:
		c = confirm(l)
	case 14:
		c = drop(store)
	case 15:
		c = rapid.SampledFrom([]facts.Command{
			addMember(l, "c", "C", facts.KindData), removeMember(l, store), seeded(store, rapid.Bool().Draw(t, "seeded")),
		}).Draw(t, "member")
	default:
		c = drawOrdered(t, l, store, lsn)
	}
	if c.Assign != nil && rapid.IntRange(0, 9).Draw(t, "spoil") == 0 {
		c.Assign.Expect--
	}
	return c
}

// drawOrdered is draw for what operators and the nodes' own words bring.
func drawOrdered(t *rapid.T, l *lab, store string, lsn pos.LSN) facts.Command {
	other := rapid.SampledFrom([]string{"A", "B", "W", "C"}).Draw(t, "other")
	epoch := l.s.Primary.Epoch
	if n := len(l.s.Changes); n > 0 && rapid.Bool().Draw(t, "past") {
		epoch = l.s.Changes[rapid.IntRange(0, n-1).Draw(t, "of")].Epoch
	}
	switch rapid.IntRange(0, 9).Draw(t, "ordered") {
	case 0:
		return order(l, facts.OrderSwitchover, other)
	case 1:
		return order(l, facts.OrderFailover, other)
	case 2:
		return forceOrder(l, other)
	case 3:
		return clearOrder("o")
	case 4, 5:
		return nominate(l, store, other)
	case 6:
		if o := l.s.Order; o != nil {
			store = o.To
		}
		return force(l, store)
	case 7:
		return ledgerVote(store, rapid.Bool().Draw(t, "vote"))
	case 8:
		return returned(epoch, store, &facts.Closing{LogEnd: lsn, Committed: lsn})
	}
	return rapid.SampledFrom([]facts.Command{
		note(epoch, facts.StepStopped, "main"), note(epoch, facts.StepReplayed, "backup"),
		{SetOffline: &facts.SetOffline{Offline: rapid.Bool().Draw(t, "offline")}},
	}).Draw(t, "said")
}

// history is what one run of commands has shown so far.
type history struct {
	assigned  map[pos.Epoch]string
	timelines map[pos.Timeline]pos.Epoch
	reformed  int
}

func TestApply_Invariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := trio(t)
		if rapid.Bool().Draw(rt, "pair") {
			l = pair(t)
		}
		h := &history{assigned: map[pos.Epoch]string{}, timelines: map[pos.Timeline]pos.Epoch{}}
		for range rapid.IntRange(1, 60).Draw(rt, "n") {
			if rapid.IntRange(0, 40).Draw(rt, "reform") == 0 {
				h.reform(rt, l, rapid.SampledFrom([]string{"A", "B", "W", "C"}).Draw(rt, "alone"))
			}
			c := draw(rt, l)
			before := l.s
			frozen := encode(rt, before)
			out := l.do(c)
			after := l.s
			if !bytes.Equal(frozen, encode(rt, before)) {
				rt.Fatalf("Apply changed its input by %s", c.Kind)
			}
			c.At = t0
			if second, o := facts.Apply(before, c); o.Code != out.Code || !bytes.Equal(encode(rt, second), encode(rt, after)) {
				rt.Fatal("Apply is not deterministic")
			}
			step(rt, before, after, out)
			voters(rt, before.Voters, after.Voters)
			orders(rt, before, after, c, out)
			h.elections(rt, before, after, c)
			changes(rt, after)
			roundTrip(rt, after)
		}
	})
}

func encode(t *rapid.T, s facts.State) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func roundTrip(t *rapid.T, s facts.State) {
	b, err := facts.Encode(s)
	if err != nil {
		t.Fatal(err)
	}
	back, err := facts.Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := facts.Encode(back); !bytes.Equal(b, again) {
		t.Fatalf("snapshot changed:\n%s\n%s", b, again)
	}
}

// step checks what every single command must keep.
func step(t *rapid.T, before, after facts.State, out facts.Outcome) {
	applied := uint64(1)
	if out.Code != "" {
		applied = 0
	}
	if (out.Code == "") != (out.Refused == "") || after.Version != before.Version+applied {
		t.Fatalf("version %d to %d, %+v", before.Version, after.Version, out)
	}
	if after.Primary.Epoch.Less(before.Primary.Epoch) || after.LastTimeline < before.LastTimeline {
		t.Fatalf("epoch %s to %s, timeline %d to %d", before.Primary.Epoch, after.Primary.Epoch, before.LastTimeline, after.LastTimeline)
	}
	if err := after.Lineage.Validate(); err != nil {
		t.Fatal(err)
	}
	if p := after.Primary; p.Store != "" && (after.Lineage.Last().Epoch != p.Epoch || !after.IsVoter(p.Store)) {
		t.Fatalf("primary %+v with lineage %v", p, after.Lineage)
	}
}

func voters(t *rapid.T, a, b facts.Voters) {
	var differ int
	for _, s := range a.Stores {
		if !slices.Contains(b.Stores, s) {
			differ++
		}
	}
	for _, s := range b.Stores {
		if !slices.Contains(a.Stores, s) {
			differ++
		}
	}
	if uint64(differ) != b.Version-a.Version || differ > 1 || b.Version-b.Confirmed > 1 || len(b.Stores) == 0 || !slices.IsSorted(b.Stores) {
		t.Fatalf("voters %+v to %+v", a, b)
	}
}

// orders: at most one stands, and only an opening or its own withdrawal ends
// it; otherwise it stays what it was.
func orders(t *rapid.T, before, after facts.State, c facts.Command, out facts.Outcome) {
	a, b := before.Order, after.Order
	opening := before.Primary.Phase != facts.PhaseOpened && after.Primary.Phase == facts.PhaseOpened
	switch {
	case opening && b != nil:
		t.Fatal("an order outlived the opening")
	case a == nil && b != nil && c.SetOrder == nil, a != nil && c.SetOrder != nil && out.Code == "":
		t.Fatalf("an order came by %+v", c)
	case a != nil && b == nil && !opening && (c.ClearOrder == nil || c.ClearOrder.ID != a.ID || a.Reformed):
		t.Fatalf("the order ended by %+v", c)
	case a != nil && b != nil:
		want := *a
		if c.BeginEpoch != nil && out.Code == "" {
			want.Attempts++
		}
		if *b != want {
			t.Fatalf("the order changed from %+v to %+v by %+v", a, b, c)
		}
	}
	if b == nil && len(after.Early) > 0 {
		t.Fatalf("steps of no order are kept: %+v", after.Early)
	}
}

// elections: one primary in an epoch, a majority has promised, nobody who
// promised has more unless the operator confirmed it, and in a pair nothing
// starts without its own ledger.
func (h *history) elections(t *rapid.T, before, after facts.State, c facts.Command) {
	p, was := after.Primary, before.Primary
	if p.Phase == facts.PhaseAssigned && was.Phase == facts.PhaseFencing {
		if store, ok := h.assigned[p.Epoch]; ok {
			t.Fatalf("epoch %s assigned to %s and %s", p.Epoch, store, p.Store)
		}
		h.assigned[p.Epoch] = p.Store
		if m := after.Members[p.Store]; !before.FenceMajority() || m.Kind != facts.KindData || !m.Seeded {
			t.Fatalf("%s was assigned without right", p.Store)
		}
		if o := after.Order; p.Forced != c.Assign.Force || p.Forced && (o == nil || !o.Force || o.To != p.Store) {
			t.Fatalf("forced without an order: %+v", o)
		}
		for _, v := range after.Voters.Stores {
			if r, ok := p.Fence[v]; ok && p.Elected.Less(r.Pos) && !p.Forced {
				t.Fatalf("%s elected at %s below %s of %s", p.Store, p.Elected, r.Pos, v)
			}
		}
	}
	if was.Phase != facts.PhaseAssigned || p.Phase != facts.PhaseStarting && p.Phase != facts.PhasePromoting {
		return
	}
	if p.Phase == facts.PhasePromoting {
		if e, ok := h.timelines[p.Timeline]; ok {
			t.Fatalf("timeline %d promoted in %s and %s", p.Timeline, e, p.Epoch)
		}
		h.timelines[p.Timeline] = p.Epoch
	}
	var keepers []string
	for s, m := range after.Members {
		if m.LedgerVoter {
			keepers = append(keepers, s)
		}
	}
	if len(after.Voters.Stores) <= 2 && (len(keepers) == 2 || !slices.Contains(keepers, p.Store)) {
		t.Fatalf("%s starts while %v keep the ledger", p.Store, keepers)
	}
}

// changes are bounded, one to an epoch in the order of epochs, and what is said
// of them fits.
func changes(t *rapid.T, s facts.State) {
	if len(s.Changes) > 24 || len(s.Early) > 32 {
		t.Fatalf("%d changes, %d early steps", len(s.Changes), len(s.Early))
	}
	for i, c := range s.Changes {
		if i > 0 && !s.Changes[i-1].Epoch.Less(c.Epoch) || s.Primary.Epoch.Less(c.Epoch) {
			t.Fatalf("change of %s after that of %s", c.Epoch, s.Changes[max(0, i-1)].Epoch)
		}
		if c.Opened && c.Failed != "" || len(c.Steps) > 32 {
			t.Fatalf("change %+v", c)
		}
		if !c.Opened {
			continue
		}
		if !sane(c) {
			t.Fatalf("steps of %s: %v", c.Epoch, names(c.Steps))
		}
		if c.Kind == facts.ChangeRestart && c.From != c.To || c.Kind == facts.ChangeFailover && c.From == c.To {
			t.Fatalf("a %s from %s to %s", c.Kind, c.From, c.To)
		}
		if (c.Proof == nil) != (c.From == "") || c.Proof != nil && c.Proof.Promoted != c.Start {
			t.Fatalf("%s from %q: proof %+v", c.Epoch, c.From, c.Proof)
		}
	}
}

// sane tells whether what the ledger itself records of an opened change comes
// once each and in order.
func sane(c facts.Change) bool {
	at := func(name string) int {
		i := slices.IndexFunc(c.Steps, func(s facts.TimedStep) bool { return s.Name == name })
		if i >= 0 && slices.ContainsFunc(c.Steps[i+1:], func(s facts.TimedStep) bool { return s.Name == name }) {
			return -1
		}
		return i
	}
	start := at(string(facts.PhaseStarting))
	if start < 0 {
		start = at(facts.StepPromoting)
	}
	e, a, o := at(facts.StepEpoch), at(facts.StepAssigned), at(facts.StepOpened)
	if ordered := at(facts.StepOrdered); ordered > 0 {
		return false
	}
	if r := at(facts.StepReturned); r >= 0 && r < e {
		return false
	}
	return 0 <= e && e < a && a < start && start < o
}

// reform lets one node form the group anew, and goes on with the new ledger.
func (h *history) reform(t *rapid.T, l *lab, store string) {
	old := l.s
	c := reform(old, store, pos.LSN(rapid.Uint64Range(90, 400).Draw(t, "lsn")))
	c.Reform.LedgerID = "l" + strings.Repeat("+", h.reformed+1)
	n := rapid.IntRange(0, len(old.Lineage)).Draw(t, "adopted")
	c.Reform.Fence.Lineage = old.Lineage[:n]
	frozen := encode(t, old)
	if s, out := facts.Apply(old, c); out.Code != facts.CodeAlreadyFounded || s.Version != old.Version {
		t.Fatalf("a living ledger was formed anew: %+v", out)
	}
	s, out := facts.Apply(facts.State{}, c)
	if m := old.Members[store]; (m.Kind == facts.KindData && m.Seeded) != (out.Code == "") {
		t.Fatalf("%+v: %+v", m, out)
	}
	if !bytes.Equal(frozen, encode(t, old)) {
		t.Fatal("Apply changed the old state")
	}
	if out.Code != "" {
		return
	}
	h.reformed++
	h.checkReform(t, old, s, store, n)
	l.s = s
}

func (h *history) checkReform(t *rapid.T, old, s facts.State, store string, adopted int) {
	if s.Primary.Epoch.Gen != old.Primary.Epoch.Gen+1 || s.LastTimeline != old.LastTimeline+16 || s.Group.LedgerID == old.Group.LedgerID || s.Group.ID != old.Group.ID {
		t.Fatalf("epoch %s, timeline %d, %+v", s.Primary.Epoch, s.LastTimeline, s.Group)
	}
	if len(s.Members) != 1 || len(s.Voters.Stores) != 1 || !s.IsVoter(store) || !s.Members[store].LedgerVoter || s.Order == nil || !s.Order.Reformed || s.Order.To != store {
		t.Fatalf("%+v", s)
	}
	f := s.Primary.Fence[store]
	if adopted < len(old.Lineage) && f.LSN > old.Lineage[adopted].Start && f.Pos.LSN > old.Lineage[adopted].Start {
		t.Fatalf("%s is not cut at %s", f.Pos, old.Lineage[adopted].Start)
	}
	for _, gone := range []map[string]string{old.Retired, s.Retired} {
		for r := range gone {
			c := facts.Command{AddMember: &facts.AddMember{Expect: s.MembersVersion, Member: facts.Member{Name: "again", Store: r, Kind: facts.KindData}}}
			if _, out := facts.Apply(s, c); out.Code != facts.CodeRetiredStore {
				t.Fatalf("%s came back: %+v", r, out)
			}
		}
	}
	for m := range old.Members {
		if _, gone := s.Retired[m]; gone == (m == store) {
			t.Fatalf("%s retired: %t", m, gone)
		}
	}
	roundTrip(t, s)
}
