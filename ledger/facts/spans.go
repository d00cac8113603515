package facts

import (
	"cmp"
	"slices"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// The bounds of what is kept of the log at one location.
const (
	maxSpans    = 512
	maxGaps     = 256
	maxMarks    = 2048
	maxReported = 4096 // spans, gaps and marks that one command may bring
)

func compareSpans(a, b catalog.Span) int {
	return cmp.Or(cmp.Compare(a.Timeline, b.Timeline), cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To))
}

// mergeSpans is the union of both lists: sorted, without spans that touch or
// overlap on one timeline.
func mergeSpans(a, b []catalog.Span) []catalog.Span {
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, compareSpans)
	var out []catalog.Span
	for _, s := range all {
		if n := len(out); n > 0 && out[n-1].Timeline == s.Timeline && s.From <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, s.To)
			out[n-1].Marks = mergeMarks(out[n-1].Marks, s.Marks)
			continue
		}
		out = append(out, s)
	}
	return out
}

func compareMarks(a, b catalog.Mark) int {
	return cmp.Or(cmp.Compare(a.LSN, b.LSN), cmp.Compare(a.Name, b.Name), a.At.Compare(b.At))
}

// mergeMarks is the union of both lists, one mark for a name at an LSN.
func mergeMarks(a, b []catalog.Mark) []catalog.Mark {
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	slices.SortStableFunc(all, compareMarks)
	return slices.CompactFunc(all, func(x, y catalog.Mark) bool { return x.LSN == y.LSN && x.Name == y.Name })
}

// thinMarks keeps at most limit marks: of the older half every other one goes,
// as often as needed, so that the newest stay dense. Names of restore points go
// last; the first and last mark of a span stay while anything else is left.
func thinMarks(spans []catalog.Span, limit int) []catalog.Span {
	for _, droppable := range []func(s []catalog.Mark, i int) bool{
		func(s []catalog.Mark, i int) bool { return s[i].Name == "" && i > 0 && i < len(s)-1 },
		func(s []catalog.Mark, i int) bool { return i > 0 && i < len(s)-1 },
		func([]catalog.Mark, int) bool { return true },
	} {
		for n := countMarks(spans); n > limit; {
			spans = dropMarks(spans, n, droppable)
			if left := countMarks(spans); left < n {
				n = left
				continue
			}
			break
		}
	}
	return spans
}

func countMarks(spans []catalog.Span) (n int) {
	for _, s := range spans {
		n += len(s.Marks)
	}
	return n
}

// dropMarks leaves out every other droppable mark of the older half of n; when
// that half has none, of all.
func dropMarks(spans []catalog.Span, n int, droppable func([]catalog.Mark, int) bool) []catalog.Span {
	for _, half := range []int{(n + 1) / 2, n} {
		out := slices.Clone(spans)
		seen, odd, dropped := 0, false, false
		for i, s := range out {
			var keep []catalog.Mark
			for k, m := range s.Marks {
				if seen < half && droppable(s.Marks, k) {
					if odd = !odd; odd {
						seen, dropped = seen+1, true
						continue
					}
				}
				seen++
				keep = append(keep, m)
			}
			out[i].Marks = keep
		}
		if dropped {
			return out
		}
	}
	return spans
}

// cutSpans takes a range out of spans.
func cutSpans(spans []catalog.Span, r WALRange) (out []catalog.Span) {
	for _, s := range spans {
		if s.Timeline != r.Timeline || s.To <= r.From || s.From >= r.To {
			out = append(out, s)
			continue
		}
		if s.From < r.From {
			out = append(out, marksWithin(s, s.From, r.From))
		}
		if s.To > r.To {
			out = append(out, marksWithin(s, r.To, s.To))
		}
	}
	return out
}

// marksWithin is the part [from, to) of a span. A mark says that a record ends
// there, so the one at from is that of the log before.
func marksWithin(s catalog.Span, from, to pos.LSN) catalog.Span {
	part := catalog.Span{Timeline: s.Timeline, From: from, To: to}
	for _, m := range s.Marks {
		if m.LSN > from && m.LSN <= to {
			part.Marks = append(part.Marks, m)
		}
	}
	return part
}

// cutGaps takes ranges that are not missing, or not missed, any more out of
// gaps.
func cutGaps(gaps []catalog.Gap, r WALRange) (out []catalog.Gap) {
	for _, g := range gaps {
		if g.Timeline != r.Timeline || g.To <= r.From || g.From >= r.To {
			out = append(out, g)
			continue
		}
		if g.From < r.From {
			left := g
			left.To = r.From
			out = append(out, left)
		}
		if g.To > r.To {
			right := g
			right.From = r.To
			out = append(out, right)
		}
	}
	return out
}

// covered tells whether spans hold all of a range.
func covered(spans []catalog.Span, r WALRange) bool {
	at := r.From
	for _, s := range spans { // sorted
		if s.Timeline == r.Timeline && s.From <= at && s.To > at {
			at = s.To
		}
	}
	return at >= r.To
}

// hasLog tells whether the given locations, all when there are none, hold the
// log that a set needs to be consistent. The part before its timeline began
// may come from the files of the timelines that it left; the first file of a
// timeline holds that part of its segment, too.
func hasLog(c catalog.Catalog, set catalog.Set, locations ...string) bool {
	var pieces []WALRange
	end := set.End
	segment := c.SegSize
	if segment <= 0 {
		segment = 1
	}
	for id, n := set.Timeline, 0; id != 0 && n <= len(c.Timelines); n++ {
		for name, p := range c.Places {
			if len(locations) > 0 && !slices.Contains(locations, name) {
				continue
			}
			for _, s := range p.WAL {
				if s.Timeline != id || s.From >= end {
					continue
				}
				from := s.From
				if fork := c.Timelines[id].Fork; from <= fork && fork < s.To {
					from = min(from, fork.SegStart(segment))
				}
				pieces = append(pieces, WALRange{id, from, min(s.To, end)})
			}
		}
		t := c.Timelines[id]
		id, end = t.Parent, min(end, t.Fork)
	}
	slices.SortFunc(pieces, func(a, b WALRange) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	at := set.Start
	for _, p := range pieces {
		if p.From > at {
			break
		}
		at = max(at, p.To)
	}
	return at >= set.End
}
