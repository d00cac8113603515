package retention

import (
	"cmp"
	"maps"
	"slices"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// everythingAt is a catalog of one location that has all that any has.
func everythingAt(c catalog.Catalog, location string) catalog.Catalog {
	sets := map[string]catalog.Set{}
	for label, x := range c.Sets {
		whole := catalog.Copy{State: catalog.CopyComplete}
		copied := slices.ContainsFunc(slices.Collect(maps.Values(x.Copies)), func(y catalog.Copy) bool { return y.State == whole.State })
		x.Copies = nil
		if copied {
			x.Copies = map[string]catalog.Copy{location: whole}
		}
		sets[label] = x
	}
	c.Sets = sets
	byTimeline := map[pos.Timeline][]catalog.Span{}
	for _, name := range slices.Sorted(maps.Keys(c.Places)) {
		for _, s := range c.Places[name].WAL {
			byTimeline[s.Timeline] = append(byTimeline[s.Timeline], s)
		}
	}
	var all []catalog.Span
	for _, t := range slices.Sorted(maps.Keys(byTimeline)) {
		all = append(all, joined(byTimeline[t])...)
	}
	c.Places = map[string]catalog.Place{location: {WAL: all}}
	return c
}

// joined are spans of one timeline without overlap.
func joined(spans []catalog.Span) (out []catalog.Span) {
	slices.SortFunc(spans, func(a, b catalog.Span) int { return cmp.Compare(a.From, b.From) })
	for _, s := range spans {
		if n := len(out); n > 0 && s.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, s.To)
			out[n-1].Marks = slices.Concat(out[n-1].Marks, s.Marks)
			continue
		}
		out = append(out, s)
	}
	return out
}

// lacking is the needed log that a location lacks and others have, by timeline
// and LSN.
func lacking(c catalog.Catalog, location string, need ranges) (out []catalog.Stretch) {
	has, end := ranges{}, map[pos.Timeline]pos.LSN{}
	for _, s := range c.Places[location].WAL {
		has.add(s.Timeline, s.From, s.To)
		end[s.Timeline] = max(end[s.Timeline], s.To)
	}
	path, _ := c.Path(c.Newest())
	for _, t := range slices.Sorted(maps.Keys(need)) {
		if end[t] == 0 && reaches(path, t, end) {
			continue // its feeder comes to that timeline
		}
		missing := ranges{}
		for _, r := range need[t] {
			for _, m := range subtract(r, has[t]) {
				if end[t] != 0 {
					m.To = min(m.To, end[t])
				}
				missing.add(t, m.From, m.To)
			}
		}
		for _, m := range merged(missing[t]) {
			out = append(out, offered(c, location, t, m)...)
		}
	}
	return out
}

// reaches tells whether log is there of a timeline before t on the newest path:
// what follows it is left to the feeder, beyond the fork, too.
func reaches(path []catalog.Step, t pos.Timeline, end map[pos.Timeline]pos.LSN) bool {
	before := false
	for _, step := range path {
		if step.Timeline == t {
			return before
		}
		before = before || end[step.Timeline] != 0
	}
	return false
}

// offered cuts a range into stretches by who has it; what nobody has is left
// out.
func offered(c catalog.Catalog, location string, t pos.Timeline, r pos.Range) (out []catalog.Stretch) {
	cuts := []pos.LSN{r.From, r.To}
	var spans []catalog.Span
	var owners []string
	for _, name := range slices.Sorted(maps.Keys(c.Places)) {
		for _, s := range c.Places[name].WAL {
			if name != location && s.Timeline == t && s.From < r.To && s.To > r.From {
				spans, owners = append(spans, s), append(owners, name)
				cuts = append(cuts, max(s.From, r.From), min(s.To, r.To))
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i := 0; i+1 < len(cuts); i++ {
		x := catalog.Stretch{Timeline: t, From: cuts[i], To: cuts[i+1]}
		for j, s := range spans {
			if s.From <= x.From && s.To >= x.To {
				x.Locations = append(x.Locations, owners[j])
			}
		}
		if len(x.Locations) > 0 {
			out = append(out, x)
		}
	}
	return out
}

// merged are ranges without overlap, by their beginning.
func merged(list []pos.Range) (out []pos.Range) {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b pos.Range) int { return cmp.Compare(a.From, b.From) })
	for _, r := range list {
		if n := len(out); n > 0 && r.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}
