package facts

import (
	"fmt"
	"slices"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// RestoreStage is how far a restore of the group has come.
type RestoreStage string

// The stages, in order. Up to RestoreRewriting the order can be withdrawn and
// leaves nothing behind. While it rewrites it can be withdrawn too: the others
// go on with what they hold, and the node that was being restored is seeded
// anew. From RestoreFinal on this ledger is over: only the node that was
// restored goes on, in a ledger of its own.
const (
	RestoreDraining  RestoreStage = "draining"  // clients are out; the last log goes to the locations
	RestoreStopping  RestoreStage = "stopping"  // the primary stops, the group fences
	RestoreRewriting RestoreStage = "rewriting" // the node's database is being restored
	RestoreFinal     RestoreStage = "final"     // it is what the group goes on with
)

func restoreStages() []RestoreStage {
	return []RestoreStage{RestoreDraining, RestoreStopping, RestoreRewriting, RestoreFinal}
}

// Restore is what an order of kind OrderRestore brings the group back to.
type Restore struct {
	Stage  RestoreStage   `json:"stage"`
	Target catalog.Target `json:"target"`
	Set    string         `json:"set"`   // label of the full backup
	Along  pos.Timeline   `json:"along"` // the timeline whose log is followed
	// Upto is the end of the log when the last client was gone: the locations
	// shall have everything before it. Zero until that is known.
	Upto pos.LSN `json:"upto,omitempty"`
	// Wait bounds how long the locations are waited for.
	Wait time.Duration `json:"wait_ns"`
	// Unarchived: what no location has by then is given up, on the operator's
	// word.
	Unarchived bool `json:"unarchived,omitempty"`
	// Timeline is the id on which the restored database writes. Zero until it is
	// given out; it is never given out again, whatever becomes of the restore.
	Timeline pos.Timeline `json:"timeline,omitempty"`
	// Shut: clients were shut out for it, and are let in when it ends.
	Shut bool `json:"shut,omitempty"`
}

// restoreMargin is what an order's deadline leaves beyond its wait: the node
// that is restored gives it up itself, and says why.
const restoreMargin = 30 * time.Second

// RestoreStopWithin is how long the primary may take to stop for a restore, its
// last checkpoint included: clients are out already.
const RestoreStopWithin = 10 * time.Minute

// maxRestoreWait bounds the wait for locations.
const maxRestoreWait = 24 * time.Hour

// AdvanceRestore takes the restore of that order to a stage: the present one
// with more known, or the next.
type AdvanceRestore struct {
	ID       string       `json:"id"`
	Stage    RestoreStage `json:"stage"`
	Upto     pos.LSN      `json:"upto,omitempty"`
	Timeline pos.Timeline `json:"timeline,omitempty"`
}

// Restoring is the order to restore the group while nobody may become primary
// in this ledger because of it.
func (s State) Restoring() (Order, bool) {
	o := s.Order
	if o == nil || o.Kind != OrderRestore || o.Reformed || o.Restore == nil || o.Restore.Stage == RestoreDraining {
		return Order{}, false
	}
	return *o, true
}

// valid refuses an order that does not say what to restore.
func (r *Restore) valid() *refusal {
	switch {
	case r == nil:
		return refuse(CodeBadCommand, "an order to restore the group does not say what")
	case r.Target.Validate() != nil || len(r.Target.Name) > maxNameBytes:
		return refuse(CodeBadCommand, "the target of the restore is none")
	case !plain(r.Set) || r.Along == 0:
		return refuse(CodeBadCommand, "a restore needs a set and a timeline to follow")
	case r.Wait < 0 || r.Wait > maxRestoreWait:
		return refuse(CodeBadCommand, "the wait of %s is not between 0 and %s", r.Wait, maxRestoreWait)
	}
	return nil
}

// admitRestore completes an order to restore the group. Where a primary is open
// its last log is saved first; where none is there is nothing more to save.
func (t *tx) admitRestore(o *Order) *refusal {
	if r := o.Restore.valid(); r != nil {
		return r
	}
	for id, j := range t.s.Backups.Jobs {
		if j.Kind == JobPrune {
			return refuse(CodeOrderStands, "prune %s on %s may delete what the restore needs; wait for it, or cancel it", id, j.Node)
		}
	}
	r := *o.Restore
	r.Upto, r.Timeline, r.Shut, r.Stage = 0, 0, false, RestoreDraining
	switch p := t.s.Primary; {
	case p.Phase == PhaseOpened:
		if r.Shut = t.s.Offline == nil; r.Shut {
			t.s.Offline = &Offline{Since: t.c.At}
		}
	case p.Phase == PhaseFencing && r.Unarchived:
		r.Stage = RestoreStopping
	case p.Phase == PhaseFencing:
		return refuse(CodeWrongPhase, "no primary is open whose last log could be saved")
	default:
		return refuse(CodeWrongPhase, "%s is about to open", t.s.NameOf(p.Store))
	}
	o.Deadline = o.At.Add(r.Wait + restoreMargin)
	o.Restore = &r
	return nil
}

// letIn undoes what an order shut, when it is over.
func (t *tx) letIn(o *Order) {
	if o != nil && o.Restore != nil && o.Restore.Shut {
		t.s.Offline = nil
	}
}

// withdrawRestore refuses to give up a restore that nothing else can replace,
// and keeps a half-restored node from being elected.
func (t *tx) withdrawRestore(o *Order) *refusal {
	switch o.Restore.Stage {
	case RestoreFinal:
		return refuse(CodeOrderStands, "%s was restored and goes on in a ledger of its own; this one is over", t.s.NameOf(o.To))
	case RestoreRewriting:
		if !t.couldGoOn(o.To) {
			return refuse(CodeNotSeeded, "no other node has reported a database that could go on; start the others, or let %s finish the restore", t.s.NameOf(o.To))
		}
		if m, ok := t.s.Members[o.To]; ok {
			m.Seeded = false
			t.s.Members = with(t.s.Members, o.To, m)
			t.s.MembersVersion++
		}
	}
	return nil
}

// couldGoOn tells whether somebody but a store has reported a database with which
// the group can go on. One that was opened for writing cannot be given what it
// lacks, nor go back behind what it has.
func (t *tx) couldGoOn(without string) bool {
	fence := t.s.Primary.Fence
	return slices.ContainsFunc(t.s.Voters.Stores, func(store string) bool {
		m := t.s.Members[store]
		f, reported := fence[store]
		if store == without || m.Kind != KindData || !m.Seeded || !reported {
			return false
		}
		return !f.Opened || f.LSN <= f.Pos.LSN && !slices.ContainsFunc(t.s.Voters.Stores, func(v string) bool { return f.Pos.Less(fence[v].Pos) })
	})
}

func (t *tx) advanceRestore(c *AdvanceRestore) *refusal {
	o, p := t.s.Order, t.s.Primary
	if o == nil || o.ID != c.ID || o.Kind != OrderRestore || o.Reformed {
		return refuse(CodeStaleVersion, "the order to restore the group was withdrawn")
	}
	r := *o.Restore
	stages := restoreStages()
	from, to := slices.Index(stages, r.Stage), slices.Index(stages, c.Stage)
	if to < from || to > from+1 {
		return refuse(CodeWrongPhase, "the restore is %s, which is not followed by %q", r.Stage, clip(string(c.Stage)))
	}
	next := *o
	switch c.Stage {
	case RestoreDraining:
		r.Upto = max(r.Upto, c.Upto)
	case RestoreStopping:
		if p.Phase == PhaseOpened && from != to {
			next.Deadline = t.c.At.Add(RestoreStopWithin)
		}
	case RestoreRewriting:
		if ref := t.giveTimeline(&r, c.Timeline); ref != nil {
			return ref
		}
	case RestoreFinal:
		if p.Phase != PhaseFencing {
			return refuse(CodeWrongPhase, "epoch %s is not being fenced", p.Epoch)
		}
	}
	r.Stage = c.Stage
	next.Restore = &r
	t.s.Order = &next
	if from != to {
		t.event("restore-"+string(r.Stage), o.To, SeverityWarning, "the restore of the group by %s to %s is %s", t.s.NameOf(o.To), r.Target, r.Stage)
	}
	return nil
}

// giveTimeline gives an id out that was never given out before. Another one is
// given when that one turned out to be taken.
func (t *tx) giveTimeline(r *Restore, tli pos.Timeline) *refusal {
	switch p := t.s.Primary; {
	case p.Phase != PhaseFencing || !t.s.FenceMajority():
		return refuse(CodeNoFenceMajority, "epoch %s is not fenced by a majority of the %d WAL voters yet", p.Epoch, len(t.s.Voters.Stores))
	case tli == r.Timeline && tli != 0:
		return nil
	case tli <= t.s.LastTimeline:
		return refuse(CodeTimelineUsed, "timeline %d was used before, the next free one is %d", tli, t.s.NextTimeline())
	case tli-t.s.LastTimeline > maxTimelineSkips:
		return refuse(CodeBadCommand, "timeline %d is far from the next free one, %d", tli, t.s.NextTimeline())
	}
	r.Timeline, t.s.LastTimeline = tli, tli
	return nil
}

// Restored says, in a Reform, that the node goes on with a database that was
// restored. Old is then the state in which that was made final.
type Restored struct {
	// Path are the timelines from the database's first one to the one that was
	// followed, and Fork the byte at which that was left.
	Path []catalog.Step `json:"path"`
	Fork pos.LSN        `json:"fork"`
}

// RestoredLineage is the history of the restored database: of the group's own
// what lies on the path before the fork, then the epoch in which it was restored,
// on the timeline that was given out for it.
func (s State) RestoredLineage(r Restored) (pos.Lineage, error) {
	o, ok := s.Restoring()
	if !ok || o.Restore.Stage != RestoreFinal || s.Primary.Phase != PhaseFencing || o.Restore.Timeline == 0 {
		return nil, fmt.Errorf("no restore was made final")
	}
	if n := len(r.Path); n == 0 || r.Path[n-1].Timeline != o.Restore.Along || r.Fork == 0 {
		return nil, fmt.Errorf("the path does not lead along timeline %d", o.Restore.Along)
	}
	var out pos.Lineage
	for _, step := range r.Path {
		if step.From >= r.Fork && len(out) > 0 {
			break // the moment lies before the path came to this timeline
		}
		to := r.Fork
		if step.To != 0 {
			to = min(to, step.To)
		}
		n := len(out)
		for _, e := range s.Lineage {
			if e.Timeline == step.Timeline && (e.Start < to || len(out) == 0) {
				out = append(out, e)
			}
		}
		if len(out) == n { // of a branch that the group had left
			e := pos.Entry{Epoch: firstEpoch(), Timeline: step.Timeline, Start: step.From}
			if n > 0 {
				e.Epoch = out[n-1].Epoch.Next()
			}
			out = append(out, e)
		}
	}
	out = append(out, pos.Entry{Epoch: s.Primary.Epoch, Timeline: o.Restore.Timeline, Start: r.Fork})
	if len(out) > maxLineageLen {
		return nil, fmt.Errorf("the history has %d entries", len(out))
	}
	return out, out.Validate()
}

// restored turns the old state into the one that the restored database is of.
func (c *Reform) restored(old *State) *refusal {
	if c.Restored == nil {
		if o, ok := old.Restoring(); ok && o.Restore.Stage == RestoreFinal && o.To == c.Store {
			return refuse(CodeBadCommand, "the group was restored; its history has to be said")
		}
		return nil
	}
	l, err := old.RestoredLineage(*c.Restored)
	if err != nil || old.Order.To != c.Store {
		return refuse(CodeBadCommand, "the restored database is not that of the order: %v", err)
	}
	old.Lineage, old.LastTimeline = l, max(old.LastTimeline, l.Last().Timeline)
	if old.Order.Restore.Shut {
		old.Offline = nil
	}
	return nil
}
