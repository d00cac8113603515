package facts

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// knownTimeline refuses one that was never promoted.
func knownTimeline(c catalog.Catalog, id pos.Timeline) *refusal {
	if _, ok := c.Timelines[id]; ok {
		return nil
	}
	for _, t := range c.Timelines {
		if t.Parent == id && id != 0 {
			return nil
		}
	}
	return refuse(CodeUnknownTimeline, "timeline %d was never recorded", id)
}

func (t *tx) recordArchived(c *RecordArchived) *refusal {
	if r := t.mayArchive(c); r != nil {
		return r
	}
	if r := stale("log at "+c.Location, c.Removals, t.s.Backups.LogRemovals[c.Location]); r != nil {
		return r
	}
	cat, r := t.profile(c.Profile)
	if r != nil {
		return r
	}
	if r := t.checkArchived(cat, c); r != nil {
		return r
	}
	p, r := nextPlace(cat.Places[c.Location], stamped(c, t.c.At))
	if r != nil {
		return r
	}
	cat.Places = with(cat.Places, c.Location, p.Place)
	t.putCatalog(cat)
	for _, g := range p.closed {
		t.event("gap-closed", c.Store, SeverityInfo, "%s has the log from %s to %s of timeline %d now", c.Location, g.From, g.To, g.Timeline)
	}
	for _, g := range p.opened {
		t.event("gap", c.Store, SeverityWarning, "%s lacks the log from %s to %s of timeline %d: %s", c.Location, g.From, g.To, g.Timeline, g.Cause)
	}
	return nil
}

// stamped says since when the gaps of a report are known.
func stamped(c *RecordArchived, at time.Time) *RecordArchived {
	out := *c
	out.Gaps = slices.Clone(c.Gaps)
	for i := range out.Gaps {
		if out.Gaps[i].Since.IsZero() {
			out.Gaps[i].Since = at
		}
	}
	return &out
}

func compareGaps(a, b catalog.Gap) int {
	return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
}

// nextGaps are the old gaps as far as the log still lacks them, what reported
// ones add to them, and the old ones that are over.
func nextGaps(old, reported []catalog.Gap, wal []catalog.Span) (left, opened, closed []catalog.Gap) {
	cut := func(gaps []catalog.Gap) []catalog.Gap {
		for _, s := range wal {
			gaps = cutGaps(gaps, WALRange{s.Timeline, s.From, s.To})
		}
		return gaps
	}
	for _, g := range old {
		still := cut([]catalog.Gap{g})
		if len(still) == 0 {
			closed = append(closed, g)
		}
		left = append(left, still...)
	}
	for _, g := range reported {
		fresh := cut([]catalog.Gap{g})
		for _, o := range slices.Concat(left, opened) {
			fresh = cutGaps(fresh, WALRange{o.Timeline, o.From, o.To})
		}
		opened = append(opened, fresh...)
	}
	return left, opened, closed
}

// mayArchive: the location's feeder reports what it stored, or a fill does.
func (t *tx) mayArchive(c *RecordArchived) *refusal {
	if _, ok := t.s.Policy.Locations[c.Location]; !ok {
		return refuse(CodeUnknownLocation, "the policy has no location %q", clip(c.Location))
	}
	if c.Store == "" {
		j, r := t.job(c.Job, JobFill)
		if r != nil {
			return r
		}
		if j.Profile != c.Profile || !slices.Contains(j.Locations, c.Location) {
			return refuse(CodeNotYourJob, "the job does not fill %s", c.Location)
		}
		return nil
	}
	if have := t.s.Backups.Feeders[c.Location]; have != c.Store {
		return refuse(CodeNotFeeder, "the log of %s is archived by %q, not by %s", c.Location, t.s.NameOf(have), t.s.NameOf(c.Store))
	}
	return nil
}

func (t *tx) checkArchived(cat catalog.Catalog, c *RecordArchived) *refusal {
	marks := 0
	for _, s := range c.Spans {
		marks += len(s.Marks)
		if r := t.checkStretch(cat, c, WALRange{s.Timeline, s.From, s.To}); r != nil {
			return r
		}
		if r := checkMarks(s); r != nil {
			return r
		}
		for _, gone := range t.s.Backups.Pruning[c.Profile][c.Location] {
			if gone.Timeline == s.Timeline && gone.From < s.To && s.From < gone.To {
				return refuse(CodeRemoving, "the log from %s to %s of timeline %d is being deleted at %s", gone.From, gone.To, gone.Timeline, c.Location)
			}
		}
	}
	for _, g := range c.Gaps {
		if len(g.Cause) > maxTextBytes {
			return refuse(CodeBadCommand, "the cause of a gap has at most %d bytes", maxTextBytes)
		}
		if r := t.checkStretch(cat, c, WALRange{g.Timeline, g.From, g.To}); r != nil {
			return r
		}
	}
	if len(c.Spans)+len(c.Gaps)+marks > maxReported {
		return refuse(CodeBadCommand, "at most %d spans, gaps and marks are reported at once", maxReported)
	}
	return nil
}

func (t *tx) checkStretch(cat catalog.Catalog, c *RecordArchived, r WALRange) *refusal {
	if r.From >= r.To {
		return refuse(CodeBadCommand, "%s reported a stretch of log from %s to %s", c.Location, r.From, r.To)
	}
	return knownTimeline(cat, r.Timeline)
}

func checkMarks(s catalog.Span) *refusal {
	for i, m := range s.Marks {
		switch {
		case m.LSN < s.From || m.LSN > s.To:
			return refuse(CodeBadCommand, "a mark at %s is outside of the log from %s to %s", m.LSN, s.From, s.To)
		case i > 0 && m.LSN < s.Marks[i-1].LSN:
			return refuse(CodeBadCommand, "the marks from %s to %s are not sorted", s.From, s.To)
		case len(m.Name) > maxNameBytes:
			return refuse(CodeBadCommand, "the name of a restore point has at most %d bytes", maxNameBytes)
		}
	}
	return nil
}

func (t *tx) closeGap(c *CloseGap) *refusal {
	cat, r := t.profile(c.Profile)
	if r != nil {
		return r
	}
	if len(c.Why) > maxTextBytes || c.GivenUp && c.Why == "" {
		return refuse(CodeBadCommand, "giving a gap up needs a reason of at most %d bytes", maxTextBytes)
	}
	p := cat.Places[c.Location]
	i := slices.IndexFunc(p.Gaps, func(g catalog.Gap) bool { return g.Timeline == c.Timeline && g.From == c.From })
	if i < 0 {
		return refuse(CodeUnknownGap, "no gap of %s at %s of timeline %d is recorded", c.Location, c.From, c.Timeline)
	}
	g := p.Gaps[i]
	whole := covered(p.WAL, WALRange{g.Timeline, g.From, g.To})
	if !whole && !c.GivenUp {
		return refuse(CodeGapOpen, "the log from %s to %s of timeline %d is still missing at %s", g.From, g.To, g.Timeline, c.Location)
	}
	p.Gaps = slices.Delete(slices.Clone(p.Gaps), i, i+1)
	cat.Places = with(cat.Places, c.Location, p)
	t.putCatalog(cat)
	t.event("gap-closed", "", SeverityInfo, "the gap of %s from %s to %s of timeline %d is closed%s", c.Location, g.From, g.To, g.Timeline, because(c.Why))
	return nil
}

func (t *tx) removeWAL(c *RemoveWAL) *refusal {
	j, r := t.job(c.Job, JobPrune)
	if r != nil {
		return r
	}
	if !slices.Contains(j.Locations, c.Location) {
		return refuse(CodeNotYourJob, "the job is not about location %q", clip(c.Location))
	}
	cat, r := t.profile(j.Profile)
	if r != nil {
		return r
	}
	if len(c.Ranges) == 0 || len(c.Ranges) > maxSpans {
		return refuse(CodeBadCommand, "1 to %d stretches of log are deleted at once", maxSpans)
	}
	for _, g := range c.Ranges {
		if g.From >= g.To {
			return refuse(CodeBadCommand, "a stretch of log from %s to %s", g.From, g.To)
		}
	}
	if c.Gone {
		return t.walGone(j, c)
	}
	if r := t.mayGoWAL(cat, c); r != nil {
		return r
	}
	pruning := t.s.Backups.Pruning[cat.Profile][c.Location]
	for _, g := range c.Ranges {
		if !slices.Contains(pruning, g) {
			pruning = append(slices.Clone(pruning), g)
		}
	}
	if len(pruning) > maxSpans {
		return refuse(CodeTooMany, "%d stretches of log at %s are to be deleted already", maxSpans, c.Location)
	}
	t.setPruning(cat.Profile, c.Location, pruning)
	t.putCatalog(withoutWAL(cat, c.Location, c.Ranges))
	t.s.Backups.Removals++
	t.countRemoval(c.Location)
	t.event("wal-removing", j.Store, SeverityInfo, "log is deleted at %s: %s", c.Location, describe(c.Ranges))
	return nil
}

// describe names the first of some ranges.
func describe(ranges []WALRange) string {
	text := ""
	for i, r := range ranges {
		if i == 3 {
			return text + ", …"
		}
		if i > 0 {
			text += ", "
		}
		text += r.From.String() + " to " + r.To.String() + " of timeline " + strconv.FormatUint(uint64(r.Timeline), 10)
	}
	return text
}

func withoutWAL(c catalog.Catalog, location string, ranges []WALRange) catalog.Catalog {
	p := c.Places[location]
	for _, r := range ranges {
		p.WAL, p.Gaps = cutSpans(p.WAL, r), cutGaps(p.Gaps, r)
	}
	c.Places = with(c.Places, location, p)
	return c
}

// mayGoWAL refuses to delete log that a running job or a stored set needs.
func (t *tx) mayGoWAL(cat catalog.Catalog, c *RemoveWAL) *refusal {
	if why := t.s.PruneFrozen(cat.Profile); why != "" {
		return refuse(CodeFrozen, "nothing is pruned now: %s", why)
	}
	if floor, ok := t.s.WALFloor(cat.Profile); ok {
		for _, g := range c.Ranges {
			if g.To > floor {
				return refuse(CodeInUse, "the log from %s on is needed by what is running", floor)
			}
		}
	}
	after := withoutWAL(cat, c.Location, c.Ranges)
	for _, label := range slices.Sorted(maps.Keys(cat.Sets)) {
		set := cat.Sets[label]
		if set.State != catalog.SetComplete || completeCopies(set, "") == 0 {
			continue
		}
		here := set.Copies[c.Location].State == catalog.CopyComplete
		if here && hasLog(cat, set, c.Location) && !hasLog(after, set, c.Location) || hasLog(cat, set) && !hasLog(after, set) {
			return refuse(CodeNeeded, "set %s needs the log from %s to %s", label, set.Start, set.End)
		}
	}
	return nil
}

// countRemoval makes what was said of a location's log before old: it may name
// log that is being deleted, or was deleted meanwhile.
func (t *tx) countRemoval(location string) {
	all := t.s.Backups.LogRemovals
	t.s.Backups.LogRemovals = with(all, location, all[location]+1)
}

func (t *tx) setPruning(profile, location string, ranges []WALRange) {
	all := t.s.Backups.Pruning
	inner := with(all[profile], location, ranges)
	if len(ranges) == 0 {
		inner = without(inner, location)
	}
	if all = with(all, profile, inner); len(inner) == 0 {
		all = without(all, profile)
	}
	if len(all) == 0 {
		all = nil
	}
	t.s.Backups.Pruning = all
}

func (t *tx) walGone(j Job, c *RemoveWAL) *refusal {
	left := slices.DeleteFunc(slices.Clone(t.s.Backups.Pruning[j.Profile][c.Location]), func(g WALRange) bool {
		return slices.Contains(c.Ranges, g)
	})
	if len(left) == len(t.s.Backups.Pruning[j.Profile][c.Location]) {
		return nil
	}
	t.setPruning(j.Profile, c.Location, left)
	t.s.Backups.Removals++
	t.countRemoval(c.Location)
	t.event("wal-gone", j.Store, SeverityInfo, "log was deleted at %s: %s", c.Location, describe(c.Ranges))
	return nil
}

func (t *tx) assignFeeder(c *AssignFeeder) *refusal {
	if r := stale("list of feeders", c.Expect, t.s.Backups.FeedersVersion); r != nil {
		return r
	}
	l, ok := t.s.Policy.Locations[c.Location]
	have := t.s.Backups.Feeders[c.Location]
	if !ok && c.Store != "" {
		return refuse(CodeUnknownLocation, "the policy has no location %q", clip(c.Location))
	}
	if have == c.Store {
		return nil
	}
	if c.Store == "" {
		t.unfeed(func(location, _ string) bool { return location == c.Location })
		t.event("feeder", have, SeverityInfo, "nobody archives log to %s now", c.Location)
		return nil
	}
	m, r := t.member(c.Store)
	switch {
	case r != nil:
		return r
	case l.Disabled:
		return refuse(CodeLocationDisabled, "location %s is disabled", c.Location)
	case l.Node != "" && l.Node != m.Name:
		return refuse(CodeNotFeeder, "location %s can be used by %s only, not by %s", c.Location, l.Node, m.Name)
	}
	t.s.Backups.Feeders = with(t.s.Backups.Feeders, c.Location, c.Store)
	t.s.Backups.FeedersVersion++
	t.event("feeder", c.Store, SeverityInfo, "%s archives log to %s", m.Name, c.Location)
	return nil
}

// unfeed takes locations from their feeders.
func (t *tx) unfeed(gone func(location, store string) bool) {
	left := map[string]string{}
	for l, s := range t.s.Backups.Feeders {
		if !gone(l, s) {
			left[l] = s
		}
	}
	if len(left) == len(t.s.Backups.Feeders) {
		return
	}
	if len(left) == 0 {
		left = nil
	}
	t.s.Backups.Feeders = left
	t.s.Backups.FeedersVersion++
}
