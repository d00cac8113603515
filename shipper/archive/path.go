package archive

import (
	"fmt"
	"slices"

	"understudy/shipper/pos"
)

// Leg is a timeline from the byte on where it left its parent.
type Leg struct {
	Timeline pos.Timeline
	Start    pos.LSN
}

// Path is a way through timelines, oldest first: each is in force up to the
// start of the next. Bytes before the first start belong to the first.
type Path []Leg

// PathOf is the way of a lineage. Timelines that were given out and never
// written on are no part of it, as they are none of any server's history.
func PathOf(lin pos.Lineage) Path {
	var out Path
	for i, e := range lin {
		if i > 0 && i+1 < len(lin) && lin[i+1].Start == e.Start && lin[i+1].Timeline != e.Timeline {
			continue
		}
		if len(out) == 0 || out[len(out)-1].Timeline != e.Timeline {
			out = append(out, Leg{e.Timeline, e.Start})
		}
	}
	return out
}

// check refuses what is no way.
func (p Path) check() error {
	if len(p) == 0 {
		return fmt.Errorf("a way without a timeline")
	}
	for i, l := range p {
		if l.Timeline == 0 || i > 0 && (l.Timeline <= p[i-1].Timeline || l.Start < p[i-1].Start) {
			return fmt.Errorf("timeline %d from %s in the wrong place of a way", l.Timeline, l.Start)
		}
	}
	return nil
}

// Last is the newest timeline; zero for an empty path.
func (p Path) Last() pos.Timeline {
	if len(p) == 0 {
		return 0
	}
	return p[len(p)-1].Timeline
}

// Has tells whether the timeline is on the way.
func (p Path) Has(t pos.Timeline) bool {
	return slices.ContainsFunc(p, func(l Leg) bool { return l.Timeline == t })
}

// Holder is the timeline whose segment file holds the way's bytes of the
// segment that begins at start: the newest that began within it or before. Its
// first bytes may be an ancestor's; a fork copies them.
func (p Path) Holder(start pos.LSN, segSize int64) pos.Timeline {
	end := start + pos.LSN(segSize)
	for _, l := range slices.Backward(p) {
		if l.Start < end {
			return l.Timeline
		}
	}
	if len(p) == 0 {
		return 0
	}
	return p[0].Timeline
}

// ancestors are the lines of the history of timeline t.
func (p Path) ancestors(t pos.Timeline) []Ancestor {
	var out []Ancestor
	for i, l := range p {
		if i+1 < len(p) && p[i+1].Timeline <= t {
			out = append(out, Ancestor{Timeline: l.Timeline, End: p[i+1].Start})
		}
	}
	return out
}

// piece is one object to be stored: the bytes [start, end) in the segment file
// of a timeline.
type piece struct {
	tli        pos.Timeline
	start, end pos.LSN
	kind       kind
}

type kind string

const (
	whole kind = "whole" // a segment
	left  kind = "left"  // the beginning of the last segment of a timeline that was left within it
	open  kind = "open"  // the beginning of the segment that is being written
)

// pieces are the objects for the segment that begins at start, as far as the
// log before to goes; what must be stored first comes first.
func (p Path) pieces(start, to pos.LSN, segSize int64) []piece {
	segEnd := start + pos.LSN(segSize)
	end := min(segEnd, to)
	var out []piece
	for i, l := range p {
		if i > 0 && l.Start >= end || end <= start {
			break
		}
		x := piece{l.Timeline, start, end, open}
		switch {
		case i+1 < len(p) && p[i+1].Start <= start:
			continue // left before this segment
		case i+1 < len(p) && p[i+1].Start <= end && p[i+1].Start < segEnd:
			x.end, x.kind = p[i+1].Start, left
		case end == segEnd:
			x.kind = whole
		}
		out = append(out, x)
	}
	return out
}

// runs are stretches of log, sorted, that do not touch each other.
type runs []pos.Range

// runsOf makes runs of segments in any order.
func runsOf(starts []pos.LSN, segSize int64) runs {
	slices.Sort(starts)
	var out runs
	for _, s := range starts {
		e := s + pos.LSN(segSize)
		if n := len(out); n > 0 && s <= out[n-1].To {
			out[n-1].To = max(out[n-1].To, e)
			continue
		}
		out = append(out, pos.Range{From: s, To: e})
	}
	return out
}

// at is the run that holds the byte.
func (r runs) at(lsn pos.LSN) (pos.Range, bool) {
	i, _ := slices.BinarySearchFunc(r, lsn, func(x pos.Range, l pos.LSN) int {
		if x.To <= l {
			return -1
		}
		return 1
	})
	if i < len(r) && r[i].From <= lsn {
		return r[i], true
	}
	return pos.Range{}, false
}

// with adds a stretch.
func (r runs) with(x pos.Range) runs {
	i := 0
	for i < len(r) && r[i].To < x.From {
		i++
	}
	j := i
	for j < len(r) && r[j].From <= x.To {
		x = pos.Range{From: min(x.From, r[j].From), To: max(x.To, r[j].To)}
		j++
	}
	return slices.Replace(r, i, j, x)
}

// without takes a stretch out.
func (r runs) without(x pos.Range) runs {
	var out runs
	for _, have := range r {
		for _, rest := range []pos.Range{{From: have.From, To: min(have.To, x.From)}, {From: max(have.From, x.To), To: have.To}} {
			if !rest.Empty() {
				out = append(out, rest)
			}
		}
	}
	return out
}
