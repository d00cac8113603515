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
	// Restored: the node goes on with a database that was restored; Old is the
	// state in which a majority made that final. Nil when it goes on with its own.
	Restored *Restored `json:"restored,omitempty"`
	At       time.Time `json:"at"`
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
	case m.Kind != KindData || !m.Seeded && c.Restored == nil:
		return refuse(CodeNotSeeded, "%s cannot be primary: it has no complete base", m.Name)
	case old.Primary.Epoch.Gen == math.MaxUint32 || old.LastTimeline > math.MaxUint32-2*skippedTimelines:
		return refuse(CodeEpochsExhausted, "generation %d has no successor", old.Primary.Epoch.Gen)
	}
	if r := c.restored(&old); r != nil {
		return r
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
	m.LedgerVoter, m.Seeded = true, true // what was restored is complete, whatever was there before
	t.s.Members = map[string]Member{m.Store: m}
	t.s.MembersVersion++
	v := old.Voters.Version + 1
	t.s.Voters = Voters{Version: v, Stores: []string{m.Store}, Confirmed: v}
	t.s.LastTimeline += skippedTimelines
	t.s.Leaving, t.s.Incidents, t.s.Early, t.s.Recent = nil, nil, nil, nil
	t.s.Order = c.order(old, next)
	prev := t.s.Order.From
	if c.Restored != nil {
		prev = "" // nothing of what anybody was before is compared with it
	}
	f.Voters, f.Pos, f.At = v, cut(old.Lineage, f.Lineage, f.LSN), t.c.At
	f.Heard = old.heardHere(f)
	cause := "formed anew by the operator's word"
	if c.Restored != nil {
		f.Heard = min(f.Heard, f.LSN)
		cause = "restored to " + old.Order.Restore.Target.String() + " by the operator's word"
	}
	t.s.Primary = Primaryship{Version: old.Primary.Version + 1, Epoch: next, Phase: PhaseFencing, Previous: prev,
		Cause: cause, Since: t.c.At, Fence: map[string]FenceReport{m.Store: f}}
	t.reformChange(c, &old, prev)
	t.lose(func(j Job) bool { return j.Store != c.Store || c.Restored != nil }, "the group was formed anew without its node")
	t.unfeed(func(_, store string) bool { return store != c.Store })
	t.reformed(c, &old)
	return nil
}

// reformed says what happened.
func (t *tx) reformed(c *Reform, old *State) {
	m := t.s.Members[c.Store]
	if c.Restored == nil {
		t.event("reformed", m.Store, SeverityError, "the group was formed anew with %s alone; who was left out joins as new", m.Name)
		return
	}
	last := old.Lineage.Last()
	t.noteTimelines()
	t.event("restored", m.Store, SeverityError, "the group was restored with %s to %s, which is %s on timeline %d; it goes on on timeline %d, and who holds what came later joins as new; confirmed was: %s",
		m.Name, old.Order.Restore.Target, last.Start, old.Order.Restore.Along, last.Timeline, c.Statement)
}

// order is the one under which the new ledger's first primary opens.
func (c *Reform) order(old State, next pos.Epoch) *Order {
	o := &Order{ID: next.String(), Kind: OrderFailover, To: c.Store, From: old.Primary.Store, Epoch: old.Primary.Epoch,
		Force: true, Statement: c.Statement, At: c.At, Deadline: c.At, Attempts: 1, Reformed: true}
	if o.From == "" {
		o.From = old.Primary.Previous
	}
	if c.Restored != nil {
		r := *old.Order.Restore
		r.Shut = false
		o.Kind, o.Restore, o.At = OrderRestore, &r, old.Order.At
	}
	return o
}

// reformChange begins the record of the new ledger's first change.
func (t *tx) reformChange(c *Reform, old *State, prev string) {
	kind, from := ChangeForced, ""
	if prev != "" {
		from = old.NameOf(prev)
	}
	if c.Restored != nil {
		kind = ChangeRestore
	}
	ch := Change{Epoch: t.s.Primary.Epoch, Kind: kind, From: from, Cause: t.s.Primary.Cause, Statement: c.Statement,
		Steps: []TimedStep{{Name: StepOrdered, At: t.s.Order.At}, {Name: StepEpoch, At: t.c.At}}}
	keep := old.Changes[max(0, len(old.Changes)-maxChanges+1):]
	t.s.Changes = append(append([]Change(nil), keep...), ch)
}

// retireAllBut keeps the stores of all members but one from ever coming back.
func (t *tx) retireAllBut(store string) {
	retired := maps.Clone(t.s.Retired)
	if retired == nil {
		retired = map[string]string{}
	}
	for s, m := range t.s.Members {
		if s != store {
			retired[s] = m.Name
		}
	}
	t.s.Retired = retired
}
