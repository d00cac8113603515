package catalog_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// world is a history with every record of it, and files at locations: what a
// catalog is a summary of. Recoveries are played on it record by record, the
// way PostgreSQL does it.
type world struct {
	c       catalog.Catalog
	records map[pos.Timeline][]record
	files   map[file]pos.LSN // end of the bytes that the file holds
}

type record struct {
	from, to pos.LSN
	at       time.Time // of a commit or restore point
	name     string    // of a restore point
}

func (r record) commit() bool { return !r.at.IsZero() && r.name == "" }

type file struct {
	place    string
	timeline pos.Timeline
	seg      pos.LSN // its first byte
}

const segSize = 100

var (
	epoch  = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	places = []string{"disk", "far"}
)

func drawWorld(t *rapid.T, everyMark bool) *world {
	w := &world{records: map[pos.Timeline][]record{}, files: map[file]pos.LSN{}}
	w.c = catalog.Catalog{SegSize: segSize, Timelines: map[pos.Timeline]catalog.Timeline{}, Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{}}
	now := epoch
	for id := range pos.Timeline(rapid.IntRange(1, 4).Draw(t, "timelines")) {
		id++
		h := catalog.Timeline{}
		begin := pos.LSN(segSize)
		if id > 1 {
			h.Parent = pos.Timeline(rapid.IntRange(1, int(id)-1).Draw(t, "parent"))
			h.Fork = rapid.SampledFrom(w.records[h.Parent]).Draw(t, "fork").to
			begin = h.Fork
		}
		w.c.Timelines[id] = h
		for i := range rapid.IntRange(1, 40).Draw(t, "records") {
			r := record{from: begin, to: begin + pos.LSN(rapid.IntRange(1, 45).Draw(t, "size"))}
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			switch rapid.IntRange(0, 4).Draw(t, "kind") {
			case 0, 1, 2: // commits are not quite in the order of their times
				r.at = now.Add(-time.Duration(rapid.IntRange(0, 5).Draw(t, "early")) * time.Second)
			case 3:
				r.at, r.name = now, fmt.Sprintf("point-%d-%d", id, i)
			}
			w.records[id] = append(w.records[id], r)
			begin = r.to
		}
	}
	for i := range rapid.IntRange(0, 5).Draw(t, "sets") {
		w.drawSet(t, i)
	}
	for _, place := range places {
		w.drawFiles(t, place, everyMark)
	}
	return w
}

func (w *world) drawSet(t *rapid.T, i int) {
	on := pos.Timeline(rapid.IntRange(1, len(w.c.Timelines)).Draw(t, "on"))
	all := w.along(on)
	from := rapid.IntRange(0, len(all)-1).Draw(t, "start")
	to := rapid.IntRange(from, min(from+4, len(all)-1)).Draw(t, "end")
	s := catalog.Set{State: catalog.SetComplete, Timeline: on, Start: all[from].from, End: all[to].to, Copies: map[string]catalog.Copy{}}
	s.Ended = epoch
	for _, r := range all[:to+1] {
		if r.at.After(s.Ended) {
			s.Ended = r.at
		}
	}
	s.Ended = s.Ended.Add(time.Duration(rapid.IntRange(-2, 3).Draw(t, "skew")) * time.Second)
	if s.End <= w.c.Timelines[on].Fork {
		return // it would be one of the parent
	}
	for _, place := range places {
		if rapid.IntRange(0, 3).Draw(t, "copy") > 0 {
			s.Copies[place] = catalog.Copy{State: rapid.SampledFrom([]catalog.CopyState{catalog.CopyComplete, catalog.CopyComplete, catalog.CopyDamaged, catalog.CopyWriting}).Draw(t, "state")}
		}
	}
	if below := rapid.IntRange(-3, i-1).Draw(t, "built on"); below >= 0 {
		s.Parent = fmt.Sprintf("set%d", below) // which may be missing
	}
	w.c.Sets[fmt.Sprintf("set%d", i)] = s
}

// drawFiles stores segments and sums them up as spans.
func (w *world) drawFiles(t *rapid.T, place string, everyMark bool) {
	var p catalog.Place
	for id := pos.Timeline(1); int(id) <= len(w.c.Timelines); id++ {
		all := w.records[id]
		first, end := all[0].from, all[len(all)-1].to
		var open *catalog.Span
		for seg := first.SegStart(segSize); seg < end; seg += segSize {
			if rapid.IntRange(0, 9).Draw(t, "lost") == 0 {
				open = nil
				continue
			}
			upto := min(end, seg+segSize)
			w.files[file{place, id, seg}] = upto
			if open == nil {
				from := seg
				if rapid.Bool().Draw(t, "fork") {
					from = max(seg, first)
				}
				p.WAL = append(p.WAL, catalog.Span{Timeline: id, From: from})
				open = &p.WAL[len(p.WAL)-1]
			}
			open.To = upto
		}
	}
	for i, s := range p.WAL {
		for _, r := range w.along(s.Timeline) {
			if !r.at.IsZero() && r.to > s.From.SegStart(segSize) && r.to <= s.To && (everyMark || rapid.Bool().Draw(t, "mark")) {
				p.WAL[i].Marks = append(p.WAL[i].Marks, catalog.Mark{LSN: r.to, At: r.at, Name: r.name})
			}
		}
	}
	w.c.Places[place] = p
}

// along are all records on the way to a timeline.
func (w *world) along(id pos.Timeline) []record {
	var out []record
	if h := w.c.Timelines[id]; h.Parent != 0 {
		for _, r := range w.along(h.Parent) {
			if r.to <= h.Fork {
				out = append(out, r)
			}
		}
	}
	return append(out, w.records[id]...)
}

// timelines are those on the way to one, newest first.
func (w *world) timelines(id pos.Timeline) []pos.Timeline {
	out := []pos.Timeline{id}
	for w.c.Timelines[id].Parent != 0 {
		id = w.c.Timelines[id].Parent
		out = append(out, id)
	}
	return out
}

// has tells whether a byte can be read: from the file of the newest timeline
// that has the segment, at any of the places.
func (w *world) has(id pos.Timeline, b pos.LSN, from []string) bool {
	owner := pos.Timeline(0)
	for _, t := range w.timelines(id) {
		if w.records[t][0].from <= b && owner == 0 {
			owner = t
		}
	}
	if owner == 0 {
		return false
	}
	for _, t := range w.timelines(id) {
		if w.records[t][0].from.SegStart(segSize) > b {
			continue
		}
		for _, p := range from {
			if end, ok := w.files[file{p, t, b.SegStart(segSize)}]; ok && b < end && t >= owner {
				return true
			}
		}
	}
	return false
}

// play is a recovery: the records that are replayed from a set on, and whether
// it becomes consistent.
func (w *world) play(s catalog.Set, id pos.Timeline, from []string) (done []record, ok bool) {
	on := false
	for _, t := range w.timelines(id) {
		on = on || t == s.Timeline
	}
	at := s.Start
	for _, r := range w.along(id) {
		if r.from < s.Start {
			continue
		}
		for ; at < r.to; at++ {
			if !w.has(id, at, from) {
				return done, on && w.fits(s, id) && at >= s.End
			}
		}
		done = append(done, r)
	}
	return done, on && w.fits(s, id) && at >= s.End
}

// fits tells whether a set had ended before the way to a timeline left its own.
func (w *world) fits(s catalog.Set, id pos.Timeline) bool {
	for at := id; at != s.Timeline; at = w.c.Timelines[at].Parent {
		if w.c.Timelines[at].Parent == s.Timeline && s.End > w.c.Timelines[at].Fork {
			return false
		}
	}
	return true
}

// stops tells whether a recovery comes to its target after it is consistent.
func (w *world) stops(s catalog.Set, t catalog.Target, from []string) bool {
	id := t.Timeline
	if id == 0 {
		id = pos.Timeline(len(w.c.Timelines))
	}
	done, ok := w.play(s, id, from)
	if !ok || t.Kind == catalog.AtTime && t.Time.Before(s.Ended) {
		return false // a set is never newer than a time, by its own word
	}
	for _, r := range done {
		switch t.Kind {
		case catalog.AtTime:
			if r.commit() && (r.at.After(t.Time) || !t.Inclusive && r.at.Equal(t.Time)) {
				return r.from >= s.End
			}
		case catalog.AtLSN:
			if r.from >= t.LSN {
				return t.LSN >= s.End
			}
		case catalog.AtName:
			if r.name == t.Name {
				return r.to >= s.End
			}
		}
	}
	return false
}

func (w *world) drawTarget(t *rapid.T) catalog.Target {
	out := catalog.Target{Inclusive: rapid.Bool().Draw(t, "inclusive"), Timeline: pos.Timeline(rapid.IntRange(0, len(w.c.Timelines)).Draw(t, "timeline"))}
	switch rapid.IntRange(0, 2).Draw(t, "target") {
	case 0:
		out.Kind, out.Time = catalog.AtTime, epoch.Add(time.Duration(rapid.IntRange(-10, 1500).Draw(t, "time"))*time.Second)
	case 1:
		out.Kind, out.LSN = catalog.AtLSN, pos.LSN(rapid.IntRange(90, 3000).Draw(t, "lsn"))
	case 2:
		var names []string
		for _, all := range w.records {
			for _, r := range all {
				if r.name != "" {
					names = append(names, r.name)
				}
			}
		}
		slices.Sort(names)
		out.Kind, out.Name = catalog.AtName, "nowhere"
		if len(names) > 0 {
			out.Name = rapid.SampledFrom(names).Draw(t, "name")
		}
	}
	return out
}

// copied tells whether a set, and all that it is built on, has a complete copy at
// one of the places.
func (w *world) copied(s catalog.Set, from []string) bool {
	if below, ok := w.c.Sets[s.Parent]; s.Parent != "" && (!ok || !w.copied(below, from)) {
		return false
	}
	return slices.ContainsFunc(from, func(p string) bool { return s.Copies[p].State == catalog.CopyComplete })
}

func drawPlaces(t *rapid.T) []string {
	return rapid.SampledFrom([][]string{{"disk", "far"}, {"far", "disk"}, {"disk"}, {"far"}}).Draw(t, "places")
}

// What is chosen is what a recovery can do; what is refused, no set can do.
func TestChoose_AgreesWithRecovery(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, true)
		from, target := drawPlaces(t), w.drawTarget(t)
		choice, err := catalog.Choose(w.c, target, catalog.Options{Locations: from})
		var best string
		for label, s := range w.c.Sets {
			if w.copied(s, from) && w.stops(s, target, from) && (best == "" || s.End > w.c.Sets[best].End) {
				best = label
			}
		}
		if err != nil {
			if best != "" {
				t.Fatalf("refused (%v), but a recovery from %s would stop there", err, best)
			}
			return
		}
		got := w.c.Sets[choice.Set]
		if len(choice.Notes) > 0 {
			return // not known from the catalog
		}
		if !w.copied(got, choice.Locations) || !w.stops(got, target, from) {
			t.Fatalf("chose %s, which does not lead to %+v: %+v", choice.Set, target, choice)
		}
		if got.End < w.c.Sets[best].End {
			t.Fatalf("chose %s, %s is newer", choice.Set, best)
		}
		w.checkWAL(t, choice)
	})
}

// checkWAL checks that the choice names files that are there, without a gap.
func (w *world) checkWAL(t *rapid.T, c catalog.Choice) {
	at := w.c.Sets[c.Set].Start
	for _, s := range c.WAL {
		if s.From != at || len(s.Locations) == 0 {
			t.Fatalf("the log is not whole at %s: %+v", at, c.WAL)
		}
		for b := s.From; b < s.To; b++ {
			for _, p := range s.Locations {
				if end := w.files[file{p, s.Timeline, b.SegStart(segSize)}]; end <= b {
					t.Fatalf("%s is not in the file of timeline %d at %s", b, s.Timeline, p)
				}
			}
		}
		at = s.To
	}
	if at != c.Stop {
		t.Fatalf("the log ends at %s, the recovery at %s", at, c.Stop)
	}
}

// With few marks less is known, but nothing false is said.
func TestChoose_PromisesNothingFalse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, false)
		from, target := drawPlaces(t), w.drawTarget(t)
		choice, err := catalog.Choose(w.c, target, catalog.Options{Locations: from})
		if err != nil || len(choice.Notes) > 0 {
			return
		}
		done, ok := w.play(w.c.Sets[choice.Set], choice.Timeline(), from)
		if !ok || len(done) == 0 {
			t.Fatalf("chose %s, from which no recovery is consistent", choice.Set)
		}
		if target.Kind != catalog.AtTime && !w.stops(w.c.Sets[choice.Set], target, from) {
			t.Fatalf("chose %s, which does not lead to %+v", choice.Set, target)
		}
	})
}

// The picker of times offers what Choose accepts, and on the newest timeline
// all of it.
func TestReachable_OffersWhatCanBeChosen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, rapid.Bool().Draw(t, "marks"))
		location := rapid.SampledFrom([]string{"", "disk", "far"}).Draw(t, "location")
		var o catalog.Options
		if location != "" {
			o.Locations = []string{location}
		}
		at := epoch.Add(time.Duration(rapid.IntRange(-10, 1500).Draw(t, "time")) * time.Second)
		offered := false
		for _, iv := range catalog.Reachable(w.c, location).Intervals {
			for _, lsn := range []pos.LSN{iv.FromLSN, iv.ToLSN - 1} {
				if lsn < iv.FromLSN || iv.FromLSN >= iv.ToLSN {
					continue
				}
				if _, err := catalog.Choose(w.c, catalog.Target{Kind: catalog.AtLSN, LSN: lsn, Timeline: iv.Timeline, Inclusive: true}, o); err != nil {
					t.Fatalf("%+v offers %s: %v", iv, lsn, err)
				}
			}
			if !iv.Holds(at) {
				continue
			}
			offered = offered || iv.Timeline == w.c.Newest()
			if _, err := catalog.Choose(w.c, catalog.Target{Kind: catalog.AtTime, Time: at, Timeline: iv.Timeline, Inclusive: true}, o); err != nil {
				t.Fatalf("%+v offers %s: %v", iv, at, err)
			}
		}
		_, err := catalog.Choose(w.c, catalog.Target{Kind: catalog.AtTime, Time: at, Inclusive: true}, o)
		if err == nil && !offered {
			t.Fatalf("%s can be chosen and is not offered", at)
		}
	})
}

// The moments that a refusal names can be reached.
func TestRefusal_NamesMomentsThatCanBeReached(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, true)
		target := w.drawTarget(t)
		target.Inclusive = true
		o := catalog.Options{Locations: drawPlaces(t)}
		_, err := catalog.Choose(w.c, target, o)
		r, ok := err.(*catalog.Refusal)
		if !ok {
			return
		}
		for _, m := range []*catalog.Moment{r.Before, r.After} {
			if m == nil {
				continue
			}
			near := catalog.Target{Kind: target.Kind, Time: m.At, LSN: m.LSN, Timeline: target.Timeline, Inclusive: true}
			if _, err := catalog.Choose(w.c, near, o); err != nil {
				t.Fatalf("%v, but: %v", r, err)
			}
		}
	})
}

// Latest goes as far as any recovery can.
func TestChoose_LatestGoesFurthest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t, true)
		from := drawPlaces(t)
		var end pos.LSN
		for _, s := range w.c.Sets {
			if done, ok := w.play(s, w.c.Newest(), from); ok && w.copied(s, from) {
				end = max(end, done[len(done)-1].to)
			}
		}
		c, err := catalog.Choose(w.c, catalog.Target{Kind: catalog.Latest}, catalog.Options{Locations: from})
		if (err == nil) != (end > 0) || c.Stop < end {
			t.Fatalf("got %s (%v), a recovery comes to %s", c.Stop, err, end)
		}
	})
}
