package catalog

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"understudy/shipper/pos"
)

// Step is the stretch of one timeline on the way to another.
type Step struct {
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"` // first byte of this timeline; zero for the first one
	// To is where the way leaves the timeline; zero for the last one.
	To pos.LSN `json:"to,omitempty"`
}

// noEnd is the end of a timeline that is not left.
const noEnd = pos.LSN(math.MaxUint64)

func (s Step) end() pos.LSN {
	if s.To == 0 {
		return noEnd
	}
	return s.To
}

// Newest is the timeline that was promoted last; zero when nothing is known.
// Ids of timelines only grow.
func (c Catalog) Newest() pos.Timeline {
	all := c.Known()
	if len(all) == 0 {
		return 0
	}
	return all[len(all)-1]
}

// Known are the timelines that were promoted, by id. A catalog without any
// history has those of its sets and its log.
func (c Catalog) Known() []pos.Timeline {
	all := map[pos.Timeline]bool{}
	for id, t := range c.Timelines {
		all[id] = true
		if t.Parent != 0 {
			all[t.Parent] = true
		}
	}
	if len(all) == 0 {
		for _, s := range c.Sets {
			all[s.Timeline] = true
		}
		for _, p := range c.Places {
			for _, s := range p.WAL {
				all[s.Timeline] = true
			}
		}
	}
	delete(all, 0)
	return slices.Sorted(maps.Keys(all))
}

// Path are the timelines from the first one to t, with the places where each
// is left. A timeline of which no history is known counts as a first one.
func (c Catalog) Path(t pos.Timeline) ([]Step, error) {
	if !slices.Contains(c.Known(), t) {
		return nil, fmt.Errorf("timeline %d is not known", t)
	}
	path := []Step{{Timeline: t}}
	for at := t; ; {
		h := c.Timelines[at]
		if h.Parent == 0 {
			break
		}
		if h.Parent >= at {
			return nil, fmt.Errorf("the history of timeline %d is no history: its parent is %d", at, h.Parent)
		}
		path[len(path)-1].From = h.Fork
		path = append(path, Step{Timeline: h.Parent, To: h.Fork})
		at = h.Parent
	}
	slices.Reverse(path)
	for _, s := range path {
		if s.end() < s.From {
			return nil, fmt.Errorf("the history of timeline %d is no history: it leaves timeline %d at %s, which begins at %s", t, s.Timeline, s.To, s.From)
		}
	}
	return path, nil
}

// On tells whether a set lies on a path: it was taken on a timeline of it, and
// had ended before the path left that.
func (s Set) On(path []Step) bool {
	i := slices.IndexFunc(path, func(p Step) bool { return p.Timeline == s.Timeline })
	return i >= 0 && s.End <= path[i].end()
}
