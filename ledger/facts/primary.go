package facts

import (
	"math"

	"understudy/shipper/pos"
)

// firstEpoch is that of the first primaryship of a group.
func firstEpoch() pos.Epoch { return pos.Epoch{Gen: 1, Num: 1} }

func (t *tx) beginEpoch(c *BeginEpoch) *refusal {
	p := t.s.Primary
	if r := stale("primaryship", c.Expect, p.Version); r != nil {
		return r
	}
	if len(c.Cause) > maxTextBytes || len(c.Decision) > maxNameBytes || len(c.Change) > maxNameBytes {
		return refuse(CodeBadCommand, "the cause of an epoch has at most %d bytes", maxTextBytes)
	}
	if p.Epoch.Num == math.MaxUint64 {
		return refuse(CodeEpochsExhausted, "epoch %s has no successor", p.Epoch)
	}
	next := firstEpoch()
	if !p.Epoch.IsZero() {
		next = p.Epoch.Next()
	}
	if p.Phase == PhaseAssigned {
		// Nothing was written or acknowledged in an epoch that never started:
		// nobody's log is held to it. (In a group in which nobody ever started
		// that is no lineage at all, since the server that is being taken over
		// may have written meanwhile.)
		t.s.Lineage = p.Before
	}
	// What was committed when a vote was proposed says nothing about the log
	// of the next epoch.
	t.s.Voters.Proposed = nil
	t.s.Primary = Primaryship{
		Version: p.Version + 1, Epoch: next, Phase: PhaseFencing, Previous: p.Previous,
		Cause: c.Cause, Since: t.c.At,
	}
	if t.s.Order != nil {
		o := *t.s.Order
		o.Attempts++
		t.s.Order = &o
	}
	t.beginChange(c, p)
	t.event("epoch", "", SeverityWarning, "epoch %s begins without a primary: %s", next, c.Cause)
	return nil
}

func (t *tx) reportFence(f FenceReport) *refusal {
	m, r := t.member(f.Store)
	if r != nil {
		return r
	}
	p := t.s.Primary
	if f.Epoch != p.Epoch {
		return refuse(CodeStaleEpoch, "%s reported a fence of epoch %s, the present one is %s", m.Name, f.Epoch, p.Epoch)
	}
	if p.Phase != PhaseFencing {
		return refuse(CodeWrongPhase, "epoch %s is past fencing", p.Epoch)
	}
	if r := stale("set of WAL voters", f.Voters, t.s.Voters.Version); r != nil {
		return r
	}
	if len(f.Lineage) > maxLineageLen {
		return refuse(CodeBadCommand, "%s reported a lineage of %d entries", m.Name, len(f.Lineage))
	}
	if err := f.Lineage.Validate(); err != nil {
		return refuse(CodeBadCommand, "%s reported what is %s", m.Name, err)
	}
	if f.Timeline == 0 && m.Kind == KindData && f.LSN != 0 {
		return refuse(CodeBadCommand, "%s reported a position without a timeline", m.Name)
	}
	f.Pos, f.Heard = cut(t.s.Lineage, f.Lineage, f.LSN), t.s.heardHere(f)
	if f.At.IsZero() {
		f.At = t.c.At
	}
	old, again := p.Fence[f.Store]
	if again && f.Pos.Less(old.Pos) {
		return refuse(CodeSmallerReport, "%s reported %s in epoch %s before, now only %s", m.Name, old.Pos, p.Epoch, f.Pos)
	}
	if again && f.Pos == old.Pos {
		f.At = old.At // the time of its newest progress
	}
	had := t.s.FenceMajority()
	t.s.Primary.Fence = with(p.Fence, f.Store, f)
	if !had && t.s.FenceMajority() {
		t.phase(StepFenced, "")
	}
	if c := p.Copy; again && c != nil && c.Store == f.Store && !f.Pos.Less(p.Fence[c.Donor].Pos) && old.Pos.Less(p.Fence[c.Donor].Pos) {
		t.phase(StepCopied, m.Name)
	}
	if !again {
		t.event("fenced", f.Store, SeverityInfo, "%s refuses epochs below %s and has %s", m.Name, p.Epoch, f.Pos)
	}
	return nil
}

// cut is the position of a log with the lineage reported that is durable up
// to lsn, as far as the ledger's lineage vouches for it: cut where the two
// part, in the epoch of the last entry that both have at that byte. A log that
// lacks the ledger's newer entries has not adopted them, and its bytes beyond
// the first of those are not of this history. Before the first epoch there is
// no lineage to cut by.
func cut(ledger, reported pos.Lineage, lsn pos.LSN) pos.Pos {
	if len(ledger) == 0 {
		return pos.Pos{LSN: lsn}
	}
	fork, same := ledger.Fork(reported)
	if !same || len(ledger) != len(reported) {
		lsn = min(lsn, fork)
	}
	n := 0
	for n < len(ledger) && n < len(reported) && ledger[n] == reported[n] {
		n++
	}
	return reported[:n].Position(lsn)
}

// heardHere is what a node heard to be committed, as far as it can be of the
// ledger's history. Beyond the start of an entry that it has not adopted it
// heard of the history before: part of a record, or what the proof of that
// change has named. An entry that came to no start has no proof, and hides
// nothing.
func (s State) heardHere(f FenceReport) pos.LSN {
	n := 0
	for n < len(s.Lineage) && n < len(f.Lineage) && s.Lineage[n] == f.Lineage[n] {
		n++
	}
	if n == len(s.Lineage) {
		return f.Heard
	}
	if ch, ok := s.ChangeOf(s.Lineage[n].Epoch); ok && ch.To == "" {
		return f.Heard
	}
	return min(f.Heard, s.Lineage[n].Start)
}

func (t *tx) assign(c *Assign) *refusal {
	p := t.s.Primary
	if r := stale("primaryship", c.Expect, p.Version); r != nil {
		return r
	}
	if o, ok := t.s.Restoring(); ok {
		return refuse(CodeOrderStands, "nobody becomes primary while %s restores the group", t.s.NameOf(o.To))
	}
	if c.Epoch != p.Epoch {
		return refuse(CodeStaleEpoch, "an assignment for epoch %s came in epoch %s", c.Epoch, p.Epoch)
	}
	if p.Phase != PhaseFencing {
		return refuse(CodeWrongPhase, "epoch %s is past fencing: a primary is assigned once in an epoch", p.Epoch)
	}
	if !t.s.FenceMajority() {
		return refuse(CodeNoFenceMajority, "epoch %s is not fenced by a majority of the %d WAL voters yet", p.Epoch, len(t.s.Voters.Stores))
	}
	m, r := t.candidate(c)
	if r != nil {
		return r
	}
	elected := p.Fence[c.Store]
	lineage := t.electedLineage(c, &elected)
	entry := pos.Entry{Epoch: p.Epoch, Timeline: elected.Timeline, Start: elected.Pos.LSN}
	if len(lineage) > 0 {
		entry.Timeline = lineage.Last().Timeline
	}
	lineage = lineage.With(entry)
	if err := lineage.Validate(); err != nil {
		return refuse(CodeBelowLineage, "%s cannot go on from %s: %s", m.Name, elected.Pos, err)
	}
	p.Before = t.s.Lineage
	t.s.Lineage = lineage
	t.s.LastTimeline = max(t.s.LastTimeline, entry.Timeline)
	p.Version++
	p.Phase, p.Store, p.Node, p.Elected, p.Copy, p.Forced = PhaseAssigned, m.Store, m.Name, elected.Pos, nil, c.Force
	t.s.Primary = p
	t.phase(StepAssigned, m.Name)
	t.event("assigned", m.Store, SeverityInfo, "%s is to be primary in epoch %s from %s", m.Name, p.Epoch, elected.Pos)
	return nil
}

// electedLineage is the history that goes on with an elected log. Entries newer
// than it has adopted were assigned and came to nothing. A log elected by force
// goes on as it is.
func (t *tx) electedLineage(c *Assign, elected *FenceReport) pos.Lineage {
	if c.Force && len(elected.Lineage) > 0 {
		elected.Pos = elected.Lineage.Position(elected.LSN)
		return elected.Lineage
	}
	var lineage pos.Lineage
	for _, e := range t.s.Lineage {
		if e.Epoch.Compare(elected.Pos.Epoch) <= 0 {
			lineage = append(lineage, e)
		}
	}
	return lineage
}

// candidate refuses a store that may not become primary: it must be a seeded
// data member with a WAL vote, and have everything that any fenced voter and
// its donor reported.
func (t *tx) candidate(c *Assign) (Member, *refusal) {
	m, r := t.member(c.Store)
	switch {
	case r != nil:
		return m, r
	case m.Kind != KindData:
		return m, refuse(CodeNotData, "%s cannot be primary: it has no PostgreSQL", m.Name)
	case !m.Seeded:
		return m, refuse(CodeNotSeeded, "%s cannot be primary: it has no complete base", m.Name)
	case !t.s.IsVoter(m.Store):
		return m, refuse(CodeNotVoter, "%s cannot be primary: it has no WAL vote", m.Name)
	}
	fence := t.s.Primary.Fence
	own, ok := fence[m.Store]
	if !ok {
		return m, refuse(CodeNoReport, "%s cannot be primary: it has not reported its fence", m.Name)
	}
	if o := t.s.Order; c.Force {
		if o == nil || !o.Force || o.To != c.Store {
			return m, refuse(CodeBadCommand, "%s can be elected by force only on an operator's order for it", m.Name)
		}
		return m, nil
	}
	if own.Opened && own.LSN > own.Pos.LSN {
		return m, refuse(CodeDiverged, "%s cannot be primary: its database goes to %s, but the group vouches for it only up to %s", m.Name, own.LSN, own.Pos)
	}
	compare := t.s.Voters.Stores
	if c.Donor != "" {
		if _, ok := fence[c.Donor]; !ok {
			return m, refuse(CodeNoReport, "the donor, store %q, has not reported its fence", clip(c.Donor))
		}
		compare = append([]string{c.Donor}, compare...)
	}
	for _, store := range compare {
		if o, ok := fence[store]; ok && own.Pos.Less(o.Pos) {
			return m, refuse(CodeBehind, "%s cannot be primary: it has %s, %s has %s", m.Name, own.Pos, t.s.Members[store].Name, o.Pos)
		}
	}
	return m, nil
}

// nominate asks a candidate to copy what it lacks before it can be assigned.
func (t *tx) nominate(c *Nominate) *refusal {
	p := t.s.Primary
	if r := stale("primaryship", c.Expect, p.Version); r != nil {
		return r
	}
	switch {
	case c.Epoch != p.Epoch:
		return refuse(CodeStaleEpoch, "a nomination for epoch %s came in epoch %s", c.Epoch, p.Epoch)
	case p.Phase != PhaseFencing:
		return refuse(CodeWrongPhase, "epoch %s is past fencing", p.Epoch)
	case !t.s.FenceMajority():
		return refuse(CodeNoFenceMajority, "epoch %s is not fenced by a majority of the %d WAL voters yet", p.Epoch, len(t.s.Voters.Stores))
	}
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	d, r := t.member(c.Donor)
	if r != nil {
		return r
	}
	own, ok := p.Fence[c.Store]
	from, has := p.Fence[c.Donor]
	if !ok || !has {
		return refuse(CodeNoReport, "%s or %s has not reported its fence", m.Name, d.Name)
	}
	if m.Kind != KindData || !m.Seeded || !t.s.IsVoter(m.Store) {
		return refuse(CodeNotSeeded, "%s cannot be primary, so it need not copy", m.Name)
	}
	if own.Opened {
		return refuse(CodeDiverged, "%s was opened for writing: its database cannot go on with copied log", m.Name)
	}
	if !own.Pos.Less(from.Pos) {
		return refuse(CodeNotCaughtUp, "%s has nothing that %s lacks", d.Name, m.Name)
	}
	p.Version++
	p.Copy = &Copy{Store: c.Store, Donor: c.Donor, Upto: from.Pos.LSN, At: t.c.At}
	t.s.Primary = p
	t.event("nominated", c.Store, SeverityInfo, "%s copies log up to %s from %s", m.Name, from.Pos, d.Name)
	return nil
}

// ownLedger refuses a start in a pair while the ledger could be lost with the
// other node: the new primary must hold the ledger's only vote.
func (t *tx) ownLedger(p Primaryship) *refusal {
	n := 0
	for _, m := range t.s.Members {
		if m.LedgerVoter {
			n++
		}
	}
	if !t.s.Pair() || n != 2 && t.s.Members[p.Store].LedgerVoter {
		return nil
	}
	return refuse(CodeLedgerVote, "%s does not hold the only vote of the ledger yet", p.Node)
}

// startChange records where the new primary begins.
func (t *tx) startChange(proof *Proof) {
	p := t.s.Primary
	ch, ok := t.s.ChangeOf(p.Epoch)
	if !ok {
		return
	}
	ch.To, ch.Timeline, ch.Start = p.Node, p.Timeline, p.Start
	if ch.From != "" {
		ch.Proof = proof
	}
	if p.Forced || t.s.Order != nil && t.s.Order.Reformed && ch.Kind != ChangeRestore {
		ch.Kind = ChangeForced
	}
	t.putChange(ch)
	t.phase(string(p.Phase), p.Node)
	if proof != nil && ch.From != "" && (!proof.Lost.Empty() || !proof.MayLost.Empty()) {
		t.event("loss", p.Store, SeverityError, "%s", proof.Sentence())
	}
}

// openChange completes the record of a change, and the order that it was for.
func (t *tx) openChange() {
	p := t.s.Primary
	if ch, ok := t.s.ChangeOf(p.Epoch); ok {
		ch.Opened = true
		switch ch.Kind {
		case ChangeRestart, ChangeFailover:
			// What it was begun as is a guess at who would open.
			if ch.Kind = ChangeFailover; ch.From == p.Node {
				ch.Kind = ChangeRestart
			} else if ch.From == "" {
				ch.Kind = ChangeFounding
			}
		}
		t.putChange(ch)
	}
	t.phase(StepOpened, p.Node)
	o := t.s.Order
	t.letIn(o)
	t.s.Order, t.s.Early = nil, nil
	if o != nil && (o.To != p.Store || o.Kind == OrderRestore && !o.Reformed) {
		t.event("order-over", o.To, SeverityWarning, "the %s to %s did not succeed: %s opened instead", o.Kind, t.s.NameOf(o.To), p.Node)
	}
}

// mine refuses unless store is the one assigned in epoch.
func (t *tx) mine(epoch pos.Epoch, store string) *refusal {
	p := t.s.Primary
	if epoch != p.Epoch {
		return refuse(CodeStaleEpoch, "the command is of epoch %s, the present one is %s", epoch, p.Epoch)
	}
	if p.Store == "" || p.Store != store {
		return refuse(CodeNotAssigned, "store %q is not the primary assigned in epoch %s", clip(store), p.Epoch)
	}
	return nil
}

func (t *tx) starting(c *Starting) *refusal {
	if r := t.mine(c.Epoch, c.Store); r != nil {
		return r
	}
	p := t.s.Primary
	if p.Phase != PhaseAssigned {
		if c.Timeline == p.Timeline && c.End == p.Start {
			return nil
		}
		return refuse(CodeAlreadyStated, "%s already starts at %s on timeline %d in epoch %s; another start needs another epoch", p.Node, p.Start, p.Timeline, p.Epoch)
	}
	if c.End > p.Elected.LSN {
		return refuse(CodeBeyondElected, "%s wants to start at %s, beyond the elected %s", p.Node, c.End, p.Elected)
	}
	elected := t.s.Lineage.Last()
	phase := PhaseStarting
	if c.Timeline != elected.Timeline {
		phase = PhasePromoting
		if c.Timeline <= t.s.LastTimeline {
			return refuse(CodeTimelineUsed, "timeline %d was used before, the next free one is %d", c.Timeline, t.s.NextTimeline())
		}
		if c.Timeline-t.s.LastTimeline > maxTimelineSkips {
			return refuse(CodeBadCommand, "timeline %d is far from the next free one, %d", c.Timeline, t.s.NextTimeline())
		}
	}
	if r := t.ownLedger(p); r != nil {
		return r
	}
	lineage := t.s.Lineage.With(pos.Entry{Epoch: p.Epoch, Timeline: c.Timeline, Start: c.End})
	if err := lineage.Validate(); err != nil {
		return refuse(CodeBelowLineage, "%s cannot start at %s: %s", p.Node, c.End, err)
	}
	t.s.Lineage = lineage
	t.s.LastTimeline = max(t.s.LastTimeline, c.Timeline)
	proof := t.prove(c.End)
	p.Version++
	p.Phase, p.Timeline, p.Start, p.Previous = phase, c.Timeline, c.End, p.Store
	t.s.Primary = p
	t.startChange(proof)
	t.noteTimelines()
	t.event(string(phase), p.Store, SeverityInfo, "%s starts in epoch %s at %s on timeline %d", p.Node, p.Epoch, p.Start, p.Timeline)
	return nil
}

func (t *tx) opened(c *Opened) *refusal {
	if r := t.mine(c.Epoch, c.Store); r != nil {
		return r
	}
	p := t.s.Primary
	switch p.Phase {
	case PhaseOpened:
		return nil
	case PhaseStarting, PhasePromoting:
	default:
		return refuse(CodeWrongPhase, "%s has not recorded where it starts in epoch %s", p.Node, p.Epoch)
	}
	if c.LSN < p.Start {
		return refuse(CodeBelowStart, "%s cannot open at %s, epoch %s starts at %s", p.Node, c.LSN, p.Epoch, p.Start)
	}
	p.Version++
	p.Phase, p.Previous, p.OpenedAt = PhaseOpened, p.Store, t.c.At
	t.s.Primary = p
	t.openChange()
	t.event("opened", p.Store, SeverityInfo, "%s is primary in epoch %s", p.Node, p.Epoch)
	return nil
}
