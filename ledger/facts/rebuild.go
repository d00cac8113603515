package facts

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// noteTimelines adds what the lineage has newly come to. A timeline stays
// known after the lineage has left it: there is log of it at the locations.
func (t *tx) noteTimelines() {
	c, _ := t.s.Catalog(ProfilePostgres)
	for i, e := range t.s.Lineage {
		if _, known := c.Timelines[e.Timeline]; known {
			continue
		}
		tl := catalog.Timeline{}
		if i > 0 {
			tl = catalog.Timeline{Parent: t.s.Lineage[i-1].Timeline, Fork: e.Start}
			tl.At = t.c.At
		}
		c.Timelines = withTimeline(c.Timelines, e.Timeline, tl)
	}
	t.putCatalog(c)
}

func withTimeline(m map[pos.Timeline]catalog.Timeline, id pos.Timeline, tl catalog.Timeline) map[pos.Timeline]catalog.Timeline {
	out := make(map[pos.Timeline]catalog.Timeline, len(m)+1)
	maps.Copy(out, m)
	out[id] = tl
	return out
}

// maxTimelines bounds what a scan may add.
const maxTimelines = 4096

func (t *tx) rebuildCatalog(c *RebuildCatalog) *refusal {
	cat, r := t.profile(c.Scan.Profile)
	if r != nil {
		return r
	}
	if r := sameDatabase(cat, c.Scan); r != nil {
		return r
	}
	if r := stale("catalog", c.Removals, t.s.Backups.Removals); r != nil {
		return r
	}
	was := cat
	for _, merge := range []func(*catalog.Catalog, catalog.Catalog) *refusal{t.mergeTimelines, t.mergeSets, t.mergePlaces} {
		if r := merge(&cat, c.Scan); r != nil {
			return r
		}
	}
	t.putCatalog(cat)
	t.event("catalog-rebuilt", "", SeverityWarning, "the catalog of %s was completed from a scan: %d sets and %d timelines are known, %d and %d before",
		cat.Profile, len(cat.Sets), len(cat.Timelines), len(was.Sets), len(was.Timelines))
	return nil
}

// sameDatabase refuses a scan of what is not this database; what a scan could
// not tell is zero.
func sameDatabase(cat, scan catalog.Catalog) *refusal {
	switch {
	case scan.Group != "" && scan.Group != cat.Group:
		return refuse(CodeOtherDatabase, "the backups are of group %q", clip(scan.Group))
	case scan.SystemID != 0 && cat.SystemID != 0 && scan.SystemID != cat.SystemID:
		return refuse(CodeOtherDatabase, "the backups are of the database %d, the group's is %d", scan.SystemID, cat.SystemID)
	case scan.Major != 0 && cat.Major != 0 && scan.Major != cat.Major, scan.SegSize != 0 && cat.SegSize != 0 && scan.SegSize != cat.SegSize:
		return refuse(CodeOtherDatabase, "the backups are of PostgreSQL %d with segments of %d bytes", scan.Major, scan.SegSize)
	}
	return nil
}

// foundTimelines are the timelines of a scan, and those of its sets and log of
// which it has no history.
func foundTimelines(scan catalog.Catalog) map[pos.Timeline]catalog.Timeline {
	out := map[pos.Timeline]catalog.Timeline{}
	for _, s := range scan.Sets {
		out[s.Timeline] = catalog.Timeline{}
	}
	for _, p := range scan.Places {
		for _, s := range p.WAL {
			out[s.Timeline] = catalog.Timeline{}
		}
	}
	maps.Copy(out, scan.Timelines)
	return out
}

// mergeTimelines also keeps ids that were used from being given out again.
func (t *tx) mergeTimelines(cat *catalog.Catalog, scan catalog.Catalog) *refusal {
	found := foundTimelines(scan)
	for _, id := range slices.Sorted(maps.Keys(found)) {
		tl := found[id]
		if id == 0 || tl.Parent >= id || (tl.Parent == 0) != (tl.Fork == 0) {
			return refuse(CodeBadCommand, "timeline %d with parent %d and fork %s is no history", id, tl.Parent, tl.Fork)
		}
		if id > math.MaxUint32-2*maxTimelines || id > t.s.LastTimeline+maxTimelines {
			return refuse(CodeBadCommand, "timeline %d is far beyond the group's newest, %d", id, t.s.LastTimeline)
		}
		have, known := cat.Timelines[id]
		switch {
		case known && have.Parent != 0 && tl.Parent != 0 && (have.Parent != tl.Parent || have.Fork != tl.Fork):
			return refuse(CodeOtherDatabase, "timeline %d left timeline %d at %s; in the scan it left %d at %s", id, have.Parent, have.Fork, tl.Parent, tl.Fork)
		case known && (have.Parent != 0 || tl.Parent == 0):
			continue
		case len(cat.Timelines) >= maxTimelines:
			return refuse(CodeTooMany, "%d timelines are known already", maxTimelines)
		}
		cat.Timelines = withTimeline(cat.Timelines, id, tl)
		t.s.LastTimeline = max(t.s.LastTimeline, id)
	}
	return nil
}

func (t *tx) mergeSets(cat *catalog.Catalog, scan catalog.Catalog) *refusal {
	sets := maps.Clone(cat.Sets)
	if sets == nil {
		sets = map[string]catalog.Set{}
	}
	for _, label := range slices.Sorted(maps.Keys(scan.Sets)) {
		found := scan.Sets[label]
		if found.State != catalog.SetComplete {
			continue
		}
		if r := t.checkFound(*cat, label, found); r != nil {
			return r
		}
		have, known := sets[label]
		copies := maps.Clone(have.Copies)
		if !known {
			have = found
		}
		if have.Digest != found.Digest || have.State != catalog.SetComplete {
			continue // what is known stands
		}
		if copies == nil {
			copies = map[string]catalog.Copy{}
		}
		for name, c := range found.Copies {
			if _, is := copies[name]; !is && c.State == catalog.CopyComplete {
				c.At = t.c.At
				copies[name] = c
			}
		}
		if len(copies) == 0 {
			continue
		}
		have.Copies = copies
		sets[label] = have
	}
	if len(sets) > maxSets {
		return refuse(CodeTooMany, "there would be %d sets, at most %d are possible", len(sets), maxSets)
	}
	cat.Sets = sets
	return nil
}

// checkFound refuses a set of a scan that cannot be right.
func (t *tx) checkFound(cat catalog.Catalog, label string, set catalog.Set) *refusal {
	if set.Label != label {
		return refuse(CodeBadCommand, "set %q is filed under %q", clip(set.Label), clip(label))
	}
	if r := checkSet(set); r != nil {
		return r
	}
	if r := knownTimeline(cat, set.Timeline); r != nil {
		return r
	}
	for name, c := range set.Copies {
		if r := t.knownPlace(name); r != nil {
			return r
		}
		if len(c.Problem) > maxTextBytes {
			return refuse(CodeBadCommand, "the problem of a copy has at most %d bytes", maxTextBytes)
		}
	}
	for k, v := range set.Notes {
		if !plain(k) || len(k) > maxNoteBytes || len(v) > maxNoteBytes {
			return refuse(CodeBadCommand, "a note of set %s is too long", label)
		}
	}
	if len(set.Notes) > maxSetNotes {
		return refuse(CodeTooMany, "a set has at most %d notes", maxSetNotes)
	}
	return nil
}

func (t *tx) knownPlace(name string) *refusal {
	if _, ok := t.s.Policy.Locations[name]; !ok {
		return refuse(CodeUnknownLocation, "the policy has no location %q: add it first", clip(name))
	}
	return nil
}

func (t *tx) mergePlaces(cat *catalog.Catalog, scan catalog.Catalog) *refusal {
	for _, name := range slices.Sorted(maps.Keys(scan.Places)) {
		if r := t.knownPlace(name); r != nil {
			return r
		}
		found := scan.Places[name]
		said := &RecordArchived{Profile: cat.Profile, Location: name, Gaps: found.Gaps}
		for _, s := range found.WAL {
			if r := checkMarks(s); r != nil {
				return r
			}
			part := []catalog.Span{s}
			for _, gone := range t.s.Backups.Pruning[cat.Profile][name] {
				part = cutSpans(part, gone)
			}
			said.Spans = append(said.Spans, part...)
		}
		for _, s := range said.Spans {
			if r := t.checkStretch(*cat, said, WALRange{s.Timeline, s.From, s.To}); r != nil {
				return r
			}
		}
		for _, g := range said.Gaps {
			if r := t.checkStretch(*cat, said, WALRange{g.Timeline, g.From, g.To}); r != nil {
				return r
			}
			if len(g.Cause) > maxTextBytes {
				return refuse(CodeBadCommand, "the cause of a gap has at most %d bytes", maxTextBytes)
			}
		}
		p, r := nextPlace(cat.Places[name], said)
		if r != nil {
			return r
		}
		cat.Places = with(cat.Places, name, p.Place)
	}
	return nil
}

// movedPlace is what becomes of a place by a report.
type movedPlace struct {
	catalog.Place
	opened, closed []catalog.Gap
}

// nextPlace adds a report to what is known of a place.
func nextPlace(p catalog.Place, c *RecordArchived) (movedPlace, *refusal) {
	wal := thinMarks(mergeSpans(p.WAL, c.Spans), maxMarks)
	if len(wal) > maxSpans {
		return movedPlace{}, refuse(CodeTooMany, "the log at %s is in more than %d pieces", c.Location, maxSpans)
	}
	gaps, opened, closed := nextGaps(p.Gaps, c.Gaps, wal)
	gaps = append(gaps, opened...)
	slices.SortStableFunc(gaps, compareGaps)
	if n := len(gaps) - maxGaps; n > 0 {
		gaps = gaps[n:] // what the log lacks can still be seen from the spans
	}
	return movedPlace{catalog.Place{WAL: wal, Gaps: gaps}, opened, closed}, nil
}

// policyPlaces follows a new policy: a location that it leaves out is
// forgotten, and nobody archives to one that is gone, disabled or another
// node's.
func (t *tx) policyPlaces(was Policy) *refusal {
	p := t.s.Policy
	for _, name := range slices.Sorted(maps.Keys(was.Locations)) {
		if now, stays := p.Locations[name]; stays {
			if r := t.mayMove(name, was.Locations[name], now); r != nil {
				return r
			}
			continue
		}
		if r := t.mayForget(name, was.Locations[name].Disabled); r != nil {
			return r
		}
		t.forgetPlace(name)
	}
	t.unfeed(func(name, store string) bool {
		l, ok := p.Locations[name]
		return !ok || l.Disabled || l.Node != "" && l.Node != t.s.Members[store].Name
	})
	return nil
}

// mayMove refuses to let the name of a location that holds backups mean another
// place: what is said to be there would not be. One that was disabled before
// may have moved with all that it holds.
func (t *tx) mayMove(name string, was, now LocationPolicy) *refusal {
	if was.Disabled || was.place() == now.place() {
		return nil
	}
	for _, profile := range slices.Sorted(maps.Keys(t.s.Backups.Catalogs)) {
		c := t.s.Backups.Catalogs[profile]
		holds := len(c.Places[name].WAL) > 0
		for _, set := range c.Sets {
			_, copied := set.Copies[name]
			holds = holds || copied
		}
		if holds {
			return refuse(CodeLocationInUse, "location %s holds backups, which are where it points to now: name the new place differently, or, if they have moved there, disable %s first", name, name)
		}
	}
	return nil
}

// mayForget refuses to forget a location while a job is there, or while it
// alone has a set, unless that was disabled before.
func (t *tx) mayForget(name string, disabled bool) *refusal {
	for _, id := range slices.Sorted(maps.Keys(t.s.Backups.Jobs)) {
		if j := t.s.Backups.Jobs[id]; slices.Contains(j.Locations, name) {
			return refuse(CodeLocationInUse, "the %s %s on %s works with location %s", j.Kind, j.ID, j.Node, name)
		}
	}
	for _, profile := range slices.Sorted(maps.Keys(t.s.Backups.Catalogs)) {
		sets := t.s.Backups.Catalogs[profile].Sets
		for _, label := range slices.Sorted(maps.Keys(sets)) {
			set := sets[label]
			if set.Copies[name].State != catalog.CopyComplete || completeCopies(set, name) > 0 {
				continue
			}
			if j, used := t.s.inUse(profile, label); used {
				return refuse(CodeLocationInUse, "the %s %s uses set %s, which only location %s has", j.Kind, j.ID, label, name)
			}
			if !disabled {
				return refuse(CodeLocationInUse, "only location %s has set %s: disable it first if it is to be forgotten all the same", name, label)
			}
		}
	}
	return nil
}

// forgetPlace takes a location out of the catalogs. What lies there is left
// alone.
func (t *tx) forgetPlace(name string) {
	lost := 0
	for _, profile := range slices.Sorted(maps.Keys(t.s.Backups.Catalogs)) {
		c := t.s.Backups.Catalogs[profile]
		sets := maps.Clone(c.Sets)
		for label, set := range c.Sets {
			if _, has := set.Copies[name]; !has {
				continue
			}
			set.Copies = without(set.Copies, name)
			sets[label] = set
			if len(set.Copies) == 0 && set.State != catalog.SetRunning {
				delete(sets, label)
				lost++
			}
		}
		c.Sets, c.Places = sets, without(c.Places, name)
		t.putCatalog(c)
		t.setPruning(profile, name, nil)
	}
	t.countRemoval(name)
	t.s.Backups.Removals++
	text := fmt.Sprintf("location %s is not part of the group any more", name)
	if lost > 0 {
		text += fmt.Sprintf("; %d sets that only it had are forgotten", lost)
	}
	t.event("location-removed", "", SeverityWarning, "%s", text)
}
