package rescue

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/shipper/catalog"
)

// Points are the moments that can be restored from the places that can be read,
// in the form in which a daemon tells them.
func (k *Knowledge) Points() doc.Points {
	c := k.readable()
	reach := catalog.Reachable(c, "")
	out := doc.Points{Intervals: []doc.Interval{}, Gaps: []doc.Gap{}, Named: []doc.Named{}, Measured: k.Measured}
	for _, iv := range reach.Intervals {
		out.Intervals = append(out.Intervals, doc.Interval{Timeline: iv.Timeline, From: iv.From, To: iv.To, FromLSN: iv.FromLSN, ToLSN: iv.ToLSN,
			Sets: iv.Sets, EstimateNS: int64(k.estimate(c, iv))})
		out.Named = append(out.Named, named(c, iv)...)
	}
	for _, g := range reach.Gaps {
		out.Gaps = append(out.Gaps, doc.Gap{Timeline: g.Timeline, From: g.From, To: g.To, Cause: g.Cause, Since: g.Since})
	}
	slices.SortStableFunc(out.Named, func(a, b doc.Named) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.LSN, a.LSN)) })
	out.Named = slices.CompactFunc(out.Named, func(a, b doc.Named) bool { return a.Name == b.Name && a.LSN == b.LSN })
	return out
}

// readable is the catalog as far as the places that can be read go.
func (k *Knowledge) readable() catalog.Catalog {
	c, names := k.Catalog, k.names()
	gone := func(name string) bool { return !slices.Contains(names, name) }
	c.Places, c.Sets = maps.Clone(c.Places), maps.Clone(c.Sets)
	maps.DeleteFunc(c.Places, func(name string, _ catalog.Place) bool { return gone(name) })
	for label, s := range c.Sets {
		s.Copies = maps.Clone(s.Copies)
		maps.DeleteFunc(s.Copies, func(name string, _ catalog.Copy) bool { return gone(name) })
		c.Sets[label] = s
	}
	return c
}

// estimate is how long a restore of the end of an interval takes; 0 where that
// cannot be said.
func (k *Knowledge) estimate(c catalog.Catalog, iv catalog.Interval) time.Duration {
	t, o := catalog.Target{Kind: catalog.Immediate, Timeline: iv.Timeline, Inclusive: true}, catalog.Options{}
	if iv.From.Before(iv.To) {
		t.Kind, t.Time = catalog.AtTime, iv.To.Add(-time.Microsecond)
	} else if n := len(iv.Sets); n > 0 {
		o.Set = iv.Sets[n-1]
	}
	choice, err := catalog.Choose(c, t, o)
	if err != nil {
		return 0
	}
	return catalog.Estimate(choice, k.Rates)
}

// named are the restore points within an interval.
func named(c catalog.Catalog, iv catalog.Interval) (out []doc.Named) {
	path, err := c.Path(iv.Timeline)
	if err != nil {
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(c.Places)) {
		for _, span := range c.Places[name].WAL {
			i := slices.IndexFunc(path, func(s catalog.Step) bool { return s.Timeline == span.Timeline })
			if i < 0 {
				continue
			}
			for _, m := range span.Marks {
				if m.Name != "" && m.LSN > iv.FromLSN && m.LSN <= iv.ToLSN && m.LSN > path[i].From && (path[i].To == 0 || m.LSN <= path[i].To) {
					out = append(out, doc.Named{Name: m.Name, At: m.At, LSN: m.LSN, Timeline: span.Timeline})
				}
			}
		}
	}
	return out
}
