package catalog

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"understudy/shipper/pos"
)

// Interval is a stretch of history every part of which can be restored.
type Interval struct {
	// Timeline is what a Target must name to get there.
	Timeline pos.Timeline `json:"timeline"`
	// From is the first moment. To is the time of the last commit that is known
	// to be in the log: moments before it can be restored, itself not, since
	// PostgreSQL stops at a time only when it sees a later commit. From equals
	// To when no moment can be named.
	From time.Time `json:"from"`
	To   time.Time `json:"to"`
	// FromLSN is where the oldest of the sets ends, or the fork where the
	// timeline leaves a newer one's past; ToLSN is the end of the log.
	FromLSN pos.LSN `json:"from_lsn"`
	ToLSN   pos.LSN `json:"to_lsn"`
	// Sets are those that reach into the interval, oldest first.
	Sets []string `json:"sets"`
}

// Holds tells whether a moment is in the interval.
func (i Interval) Holds(t time.Time) bool { return !t.Before(i.From) && t.Before(i.To) }

// Reach is what can be restored.
type Reach struct {
	// Intervals are sorted: the newest timeline first, then by LSN.
	Intervals []Interval `json:"intervals"`
	// Gaps are what is missing on the way of the newest timeline after the
	// oldest set.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Reachable says what can be restored from one location alone, or from all
// together when it is "". A left timeline is listed with what only it has.
func Reachable(c Catalog, location string) Reach {
	var from []string
	if location != "" {
		from = []string{location}
	}
	var r Reach
	known := c.Known()
	slices.Reverse(known)
	for i, id := range known {
		v, err := look(c, id, Options{Locations: from})
		if err != nil {
			continue // a history that is none; Choose says so
		}
		left := c.leftAt(id)
		for _, iv := range v.intervals(v.sets) {
			if clipped, ok := v.beyond(iv, left); ok {
				r.Intervals = append(r.Intervals, clipped)
			}
		}
		if i == 0 {
			r.Gaps = v.gaps()
		}
	}
	return r
}

// leftAt is the last place where another timeline left this one; zero when
// none did.
func (c Catalog) leftAt(id pos.Timeline) (at pos.LSN) {
	for _, h := range c.Timelines {
		if h.Parent == id {
			at = max(at, h.Fork)
		}
	}
	return at
}

// beyond is the part of an interval behind the place where the timeline was
// left; what is before it is on the newer timeline's way, too.
func (v view) beyond(iv Interval, left pos.LSN) (Interval, bool) {
	if left == 0 || iv.FromLSN >= left {
		return iv, true
	}
	if iv.ToLSN <= left {
		return iv, false
	}
	for _, m := range v.marks {
		if m.LSN > iv.FromLSN && m.LSN <= left && m.At.After(iv.From) {
			iv.From = m.At
		}
	}
	iv.FromLSN = left
	if iv.To.Before(iv.From) {
		iv.To = iv.From
	}
	return iv, true
}

// piece is a stretch of log on a path, at a location. Its timeline is that of
// the files that hold it.
type piece struct {
	timeline pos.Timeline
	from, to pos.LSN
	place    string
}

// usable is a set that can be restored, on a path.
type usable struct {
	Set
	// ready is the first moment that can be restored: not before the set ended,
	// nor before a commit that must be replayed to make it consistent.
	ready time.Time
	inner time.Time // latest commit that is replayed to make it consistent
	until time.Time // latest commit after its end, as far as the log goes
	reach pos.LSN   // end of the log that follows it without a gap
	from  []string  // locations with a complete copy, nearest first
	// Of an incremental set: the sets that make it up, the full one first, and
	// their sizes together. Damaged is that of any of them.
	chain       []string
	stored, raw int64
}

// view is a catalog as seen along the path to one timeline, from some
// locations.
type view struct {
	c      Catalog
	o      Options
	path   []Step
	pieces []piece // by from
	marks  []Mark  // on the path, by LSN
	sets   []usable
}

// look makes a view of the path to a timeline; zero is the newest.
func look(c Catalog, t pos.Timeline, o Options) (view, error) {
	if t == 0 {
		t = c.Newest()
	}
	if o.Locations == nil {
		o.Locations = c.locations()
	}
	v := view{c: c, o: o}
	if t == 0 {
		return v, nil // nothing is known: no sets, no log
	}
	var err error
	if v.path, err = c.Path(t); err != nil {
		return v, err
	}
	for i := range v.path {
		v.collect(i)
	}
	slices.SortStableFunc(v.pieces, func(a, b piece) int { return cmp.Compare(a.from, b.from) })
	slices.SortStableFunc(v.marks, func(a, b Mark) int { return cmp.Or(cmp.Compare(a.LSN, b.LSN), a.At.Compare(b.At)) })
	for _, label := range slices.Sorted(maps.Keys(c.Sets)) {
		if u, why := v.use(label); why == "" {
			v.sets = append(v.sets, u)
		}
	}
	slices.SortStableFunc(v.sets, func(a, b usable) int { return cmp.Or(cmp.Compare(a.End, b.End), a.Ended.Compare(b.Ended)) })
	return v, nil
}

// locations are all of which the catalog knows something.
func (c Catalog) locations() []string {
	all := map[string]bool{}
	for name := range c.Places {
		all[name] = true
	}
	for _, s := range c.Sets {
		for name := range s.Copies {
			all[name] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// collect takes the log and the marks of a step. Marks count wherever they are
// known; log only from the given locations.
func (v *view) collect(i int) {
	step := v.path[i]
	begin := step.From
	if i > 0 && v.c.SegSize > 0 {
		// The first segment of a timeline holds the end of its parent, too.
		begin = step.From.SegStart(v.c.SegSize)
	}
	for _, name := range slices.Sorted(maps.Keys(v.c.Places)) {
		for _, s := range v.c.Places[name].WAL {
			if s.Timeline != step.Timeline {
				continue
			}
			for _, m := range s.Marks {
				if m.LSN > begin && m.LSN <= step.end() {
					v.marks = append(v.marks, m)
				}
			}
			p := piece{timeline: s.Timeline, from: max(s.From, begin), to: min(s.To, step.end()), place: name}
			if i > 0 && s.From <= step.From && step.From < s.To {
				p.from = begin
			}
			if p.from < p.to && slices.Contains(v.o.Locations, name) {
				v.pieces = append(v.pieces, p)
			}
		}
	}
}

// reach is how far the log goes from start on without a gap; start itself when
// it is not there at all.
func (v view) reach(start pos.LSN) pos.LSN {
	for _, p := range v.pieces {
		if p.from > start {
			break
		}
		start = max(start, p.to)
	}
	return start
}

// use tells whether a set can be restored, and if not, why.
func (v view) use(label string) (usable, string) {
	s, ok := v.c.Sets[label]
	u := usable{Set: s, ready: s.Ended, stored: s.Bytes, raw: s.RawBytes}
	u.Label = label
	switch {
	case !ok:
		return u, "is not known"
	case slices.Contains(v.o.Exclude, label):
		return u, "is excluded"
	case s.State != SetComplete:
		return u, "is " + string(s.State)
	case !s.On(v.path):
		return u, fmt.Sprintf("was taken on timeline %d up to %s, which is not in the past of timeline %d", s.Timeline, s.End, v.path[len(v.path)-1].Timeline)
	}
	if why := v.useChain(&u); why != "" {
		return u, why
	}
	if u.reach = v.reach(s.Start); u.reach < s.End || u.reach == s.Start {
		return u, "needs log that is missing: " + v.missing(u.reach, s.End)
	}
	for _, m := range v.marks {
		switch {
		case m.Name != "" || m.LSN <= s.Start || m.LSN > u.reach:
		case m.LSN <= s.End:
			u.inner = later(u.inner, m.At)
		default:
			u.until = later(u.until, m.At)
		}
	}
	u.ready = later(u.ready, u.inner)
	return u, ""
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// missing says in words what is missing from at on, at most up to the LSN to,
// and why as far as that is recorded.
func (v view) missing(at, to pos.LSN) string {
	g := v.gapAt(at, to)
	s := fmt.Sprintf("%s to %s of timeline %d", g.From, g.To, g.Timeline)
	if g.To == noEnd {
		s = fmt.Sprintf("everything from %s on of timeline %d", g.From, g.Timeline)
	}
	if g.Cause != "" {
		s += " (" + g.Cause + ")"
	}
	return s
}

// gapAt is the stretch without log that begins at an LSN and ends where there
// is log again, at most at to.
func (v view) gapAt(at, to pos.LSN) Gap {
	g := Gap{From: at, To: to}
	for _, p := range v.pieces {
		if p.from > at {
			g.To = min(g.To, p.from)
			break
		}
	}
	for _, s := range v.path {
		if s.From <= at && at < s.end() {
			g.Timeline = s.Timeline
		}
	}
	for _, name := range v.o.Locations {
		for _, known := range v.c.Places[name].Gaps {
			if known.Timeline == g.Timeline && known.From < g.To && known.To > g.From && g.Cause == "" {
				g.Cause, g.Since = known.Cause, known.Since
			}
		}
	}
	return g
}

// gaps are the stretches without log from the oldest complete set of the path
// on.
func (v view) gaps() (out []Gap) {
	start := noEnd
	for _, s := range v.c.Sets {
		if s.State == SetComplete && s.On(v.path) {
			start = min(start, s.Start)
		}
	}
	if start == noEnd {
		return nil
	}
	for at := v.reach(start); ; at = v.reach(at) {
		g := v.gapAt(at, noEnd)
		if g.To == noEnd {
			return out
		}
		out = append(out, g)
		at = g.To
	}
}

// intervals joins what sets reach. Those whose log ends at the same place are
// of one run of log.
func (v view) intervals(sets []usable) (out []Interval) {
	for _, u := range sets {
		iv := Interval{Timeline: v.path[len(v.path)-1].Timeline, From: u.ready, To: later(u.ready, u.until),
			FromLSN: u.End, ToLSN: u.reach, Sets: []string{u.Label}}
		if n := len(out); n > 0 && out[n-1].ToLSN == iv.ToLSN && joins(out[n-1], iv) {
			out[n-1].Sets = append(out[n-1].Sets, u.Label)
			if iv.From.Before(iv.To) {
				if iv.From.Before(out[n-1].From) {
					out[n-1].From = iv.From
				}
				out[n-1].To = later(out[n-1].To, iv.To)
			}
			continue
		}
		out = append(out, iv)
	}
	return out
}

// joins tells whether b, of a later set, leaves no moment out between it and a.
func joins(a, b Interval) bool {
	if !b.From.Before(b.To) {
		return true // nothing that a would have to have
	}
	return !b.From.After(a.To) && !b.To.Before(a.From)
}
