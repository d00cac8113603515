package facts

import (
	"maps"
	"math"
	"time"

	"understudy/shipper/pos"
)

// skippedTimelines is how many timeline ids a re-formation leaves out: the
// other half of a divided group may have given out the next ones.
const skippedTimelines = 16

// Reform makes a new ledger out of what one node knows of the old one, on the
// operator's word: for a pair whose other half is lost, or a group that lost
// its majority for good. It is the first command of the new ledger. Whoever
// holds the old ledger is not part of the group any more and joins as new.
type Reform struct {
	Old       State  `json:"old"`
	Store     string `json:"store"` // the node that goes on
	LedgerID  string `json:"ledger_id"`
	Statement string `json:"statement"` // what the operator confirmed
	// Fence is the node's own report, of the new epoch.
	Fence FenceReport `json:"fence"`
	At    time.Time   `json:"at"`
}

// NextGeneration is the first epoch of a group that is formed anew from s.
func (s State) NextGeneration() pos.Epoch {
	return pos.Epoch{Gen: s.Primary.Epoch.Gen + 1, Num: 1}
}

// reform keeps the group, its policy and its history, and one member.
func (t *tx) reform(c *Reform) *refusal {
	if t.s.Founded() {
		return refuse(CodeAlreadyFounded, "the group %s is already founded", t.s.Group.Name)
	}
	old := c.Old
	m, ok := old.Members[c.Store]
	switch {
	case !old.Founded() || !ok:
		return refuse(CodeUnknownStore, "store %q belongs to no member of the group", clip(c.Store))
	case old.check() != nil || len(c.Statement) > maxTextBytes:
		return refuse(CodeBadCommand, "the old state breaks its own rules, or the statement has more than %d bytes", maxTextBytes)
	case !plain(c.LedgerID) || c.LedgerID == old.Group.LedgerID:
		return refuse(CodeBadCommand, "a group that is formed anew needs a new ledger id")
	case m.Kind != KindData || !m.Seeded:
		return refuse(CodeNotSeeded, "%s cannot be primary: it has no complete base", m.Name)
	case old.Primary.Epoch.Gen == math.MaxUint32 || old.LastTimeline > math.MaxUint32-2*skippedTimelines:
		return refuse(CodeEpochsExhausted, "generation %d has no successor", old.Primary.Epoch.Gen)
	}
	next := old.NextGeneration()
	f := c.Fence
	if f.Epoch != next || f.Store != c.Store || f.Lineage.Validate() != nil || len(f.Lineage) > maxLineageLen {
		return refuse(CodeBadCommand, "%s did not report its fence of epoch %s", m.Name, next)
	}
	t.s = old
	t.s.Version = old.Version
	t.s.Group.LedgerID = c.LedgerID
	t.retireAllBut(c.Store)
	m.LedgerVoter = true
	t.s.Members = map[string]Member{m.Store: m}
	t.s.MembersVersion++
	v := old.Voters.Version + 1
	t.s.Voters = Voters{Version: v, Stores: []string{m.Store}, Confirmed: v}
	t.s.LastTimeline += skippedTimelines
	t.s.Leaving, t.s.Incidents, t.s.Early, t.s.Recent = nil, nil, nil, nil
	t.s.Order = &Order{ID: next.String(), Kind: OrderFailover, To: c.Store, From: old.Primary.Store, Epoch: old.Primary.Epoch,
		Force: true, Statement: c.Statement, At: c.At, Deadline: c.At, Attempts: 1, Reformed: true}
	if t.s.Order.From == "" {
		t.s.Order.From = old.Primary.Previous
	}
	prev := old.Primary.Store
	if prev == "" {
		prev = old.Primary.Previous
	}
	f.Voters, f.Pos, f.At = v, cut(old.Lineage, f.Lineage, f.LSN), t.c.At
	f.Heard = old.heardHere(f)
	t.s.Primary = Primaryship{Version: old.Primary.Version + 1, Epoch: next, Phase: PhaseFencing, Previous: prev,
		Cause: "formed anew by the operator's word", Since: t.c.At, Fence: map[string]FenceReport{m.Store: f}}
	ch := Change{Epoch: next, Kind: ChangeForced, From: old.NameOf(prev), Cause: t.s.Primary.Cause, Statement: c.Statement,
		Steps: []TimedStep{{Name: StepOrdered, At: c.At}, {Name: StepEpoch, At: t.c.At}}}
	keep := old.Changes[max(0, len(old.Changes)-maxChanges+1):]
	t.s.Changes = append(append([]Change(nil), keep...), ch)
	t.event("reformed", m.Store, SeverityError, "the group was formed anew with %s alone; who was left out joins as new", m.Name)
	return nil
}

// retireAllBut leaves every member but one out of the group, with its jobs.
func (t *tx) retireAllBut(store string) {
	t.s.Retired = maps.Clone(t.s.Retired)
	if t.s.Retired == nil {
		t.s.Retired = map[string]string{}
	}
	for s, m := range t.s.Members {
		if s != store {
			t.s.Retired[s] = m.Name
		}
	}
	t.lose(func(j Job) bool { return j.Store != store }, "the group was formed anew without its node")
	t.unfeed(func(_, s string) bool { return s != store })
}
