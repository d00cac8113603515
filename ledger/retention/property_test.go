package retention_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/ledger/retention"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

var everywhere = []string{"disk", "far"}

// history is a catalog of some weeks with failovers, failed backups, gaps and
// copies that are not everywhere; now is an hour after its end.
type history struct {
	c     catalog.Catalog
	now   time.Time
	spans map[pos.Timeline]*catalog.Span
	on    pos.Timeline
	lsn   pos.LSN
}

func drawHistory(t *rapid.T) *history {
	h := &history{spans: map[pos.Timeline]*catalog.Span{}, on: 1, lsn: segSize, now: first}
	h.c = catalog.Catalog{SegSize: segSize, Timelines: map[pos.Timeline]catalog.Timeline{1: {}}, Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{}}
	h.spans[1] = &catalog.Span{Timeline: 1, From: segSize, To: segSize}
	for range rapid.IntRange(1, 18).Draw(t, "days") {
		h.backup(t)
		for range rapid.IntRange(0, 5).Draw(t, "commits") {
			h.commit(t)
		}
		if rapid.IntRange(0, 5).Draw(t, "failover") == 0 {
			h.failover(t)
		}
		h.now = h.now.Add(time.Duration(rapid.IntRange(1, 40).Draw(t, "hours")) * time.Hour)
	}
	h.commit(t)
	for _, place := range everywhere {
		var p catalog.Place
		for id := range h.on {
			p.WAL = append(p.WAL, *h.spans[id+1])
		}
		h.c.Places[place] = p
		for range rapid.IntRange(0, 2).Draw(t, "holes") {
			id := pos.Timeline(rapid.IntRange(1, int(h.on)).Draw(t, "in"))
			from := pos.LSN(rapid.IntRange(1, int(h.lsn/segSize)+1).Draw(t, "hole")) * segSize
			cut(h.c, place, id, pos.Range{From: from, To: from + segSize})
		}
	}
	h.now = h.now.Add(time.Hour)
	return h
}

func (h *history) commit(t *rapid.T) {
	h.lsn += pos.LSN(rapid.IntRange(0x80, 0x900).Draw(t, "bytes"))
	h.now = h.now.Add(time.Duration(rapid.IntRange(1, 240).Draw(t, "minutes")) * time.Minute)
	s := h.spans[h.on]
	s.To = h.lsn
	s.Marks = append(s.Marks, catalog.Mark{LSN: h.lsn, At: h.now})
}

func (h *history) backup(t *rapid.T) {
	s := catalog.Set{State: catalog.SetComplete, Timeline: h.on, Start: h.lsn, Began: h.now, Copies: map[string]catalog.Copy{}}
	h.commit(t)
	s.End, s.Ended = h.lsn, h.now
	switch rapid.IntRange(0, 12).Draw(t, "outcome") {
	case 0:
		s.State = catalog.SetFailed
	case 1:
		s.Damaged = true
	case 2:
		s.Pinned = true
	case 3:
		s.Gold = true
	}
	for _, place := range everywhere {
		states := []catalog.CopyState{catalog.CopyComplete, catalog.CopyComplete, catalog.CopyComplete, catalog.CopyComplete, catalog.CopyDamaged, catalog.CopyRemoving, catalog.CopyWriting, ""}
		if state := rapid.SampledFrom(states).Draw(t, "copy"); state != "" {
			s.Copies[place] = catalog.Copy{State: state, At: h.now}
		}
	}
	if all := slices.Sorted(maps.Keys(h.c.Sets)); len(all) > 0 && rapid.IntRange(0, 2).Draw(t, "incremental") > 0 {
		// Mostly on the newest one that is complete, as it is in life.
		parent := all[len(all)-1]
		if rapid.IntRange(0, 5).Draw(t, "on an older") == 0 {
			parent = rapid.SampledFrom(all).Draw(t, "parent")
		}
		if h.c.Sets[parent].State == catalog.SetComplete {
			s.Parent = parent
		}
	}
	h.c.Sets[fmt.Sprintf("%02d", len(h.c.Sets))] = s
}

// failover goes on from a place before the end of the log; what was behind it
// is on the old timeline only.
func (h *history) failover(t *rapid.T) {
	lost := pos.LSN(rapid.IntRange(0, 0x1800).Draw(t, "lost"))
	fork := max(h.spans[h.on].From+1, h.lsn-min(lost, h.lsn))
	h.c.Timelines[h.on+1] = catalog.Timeline{Parent: h.on, Fork: fork, At: h.now}
	h.on, h.lsn = h.on+1, fork
	h.spans[h.on] = &catalog.Span{Timeline: h.on, From: fork.SegStart(segSize), To: fork}
	h.commit(t)
}

func drawRules(t *rapid.T) retention.Rules {
	upTo := func(n int, what string) int {
		if rapid.Bool().Draw(t, "use "+what) {
			return rapid.IntRange(1, n).Draw(t, what)
		}
		return 0
	}
	return retention.Rules{KeepN: upTo(4, "number"), Cycles: upTo(3, "cycles"), Window: time.Duration(upTo(15, "window")) * day,
		Daily: upTo(4, "daily"), Weekly: upTo(3, "weekly"), Monthly: upTo(2, "monthly"), GoldEvery: time.Duration(upTo(9, "gold")) * day,
		FailedAfter: time.Duration(upTo(9, "failed")) * day}
}

func drawInput(t *rapid.T) retention.Input {
	h := drawHistory(t)
	in := retention.Input{Catalog: h.c, Now: h.now, Rules: map[string]retention.Rules{}}
	for _, place := range everywhere {
		in.Rules[place] = drawRules(t)
	}
	if rapid.IntRange(0, 2).Draw(t, "job") == 0 {
		label := rapid.SampledFrom(slices.Sorted(maps.Keys(h.c.Sets))).Draw(t, "used")
		in.Uses = []retention.Use{{Job: "job", Label: label}}
	}
	return in
}

// clone copies what the execution of a plan changes.
func clone(c catalog.Catalog) catalog.Catalog {
	c.Sets, c.Places = maps.Clone(c.Sets), maps.Clone(c.Places)
	for label, s := range c.Sets {
		s.Copies = maps.Clone(s.Copies)
		c.Sets[label] = s
	}
	return c
}

// execute does n steps of a plan, counted over all locations, and half of the
// next one.
func execute(c catalog.Catalog, p retention.Plan, n int) catalog.Catalog {
	c = clone(c)
	for _, label := range p.Gold {
		s := c.Sets[label]
		s.Gold = true
		c.Sets[label] = s
	}
	for _, place := range p.Places {
		for _, step := range place.Steps {
			if n < 0 {
				return c
			}
			remove(c, place.Location, step, n == 0)
			n--
		}
	}
	return c
}

func remove(c catalog.Catalog, place string, step retention.Step, half bool) {
	if step.Kind == retention.StepWAL {
		r := step.WAL
		if half && r.Len() > segSize {
			r.To = (r.From + pos.LSN(r.Len()/2)).SegEnd(segSize)
		}
		cut(c, place, step.Timeline, r)
		return
	}
	s := c.Sets[step.Label]
	if half {
		s.Copies[place] = catalog.Copy{State: catalog.CopyRemoving}
		return
	}
	delete(s.Copies, place)
	if len(s.Copies) == 0 {
		delete(c.Sets, step.Label)
	}
}

// promise is one thing that must stay restorable.
type promise struct {
	target catalog.Target
	o      catalog.Options
	why    string
}

// kept tells whether a promise holds.
func (p promise) kept(c catalog.Catalog) (pos.LSN, bool) {
	got, err := catalog.Choose(c, p.target, p.o)
	return got.Stop, err == nil
}

// promises are what the rules say of a location, in the dumbest way: by asking
// for every set and for many moments whether they can be restored now.
func promises(t *rapid.T, in retention.Input, place string) (out []promise) {
	r, here := in.Rules[place], catalog.Options{Locations: []string{place}}
	add := func(p promise) {
		if _, ok := p.kept(in.Catalog); ok {
			out = append(out, p)
		}
	}
	set := func(label, why string) {
		o := here
		o.Set = label
		add(promise{catalog.Target{Kind: catalog.Immediate}, o, why + " " + label})
	}
	moments := func(from time.Time, timelines []pos.Timeline, why string) {
		for range 6 {
			span := int(in.Now.Sub(from) / time.Minute)
			at := from.Add(time.Duration(rapid.IntRange(0, max(span, 0)).Draw(t, "minute")) * time.Minute)
			for _, id := range timelines {
				add(promise{catalog.Target{Kind: catalog.AtTime, Time: at, Timeline: id, Inclusive: true}, here, fmt.Sprintf("%s %s", why, at)})
			}
		}
	}
	var good []string // restorable here, newest first
	for label, s := range in.Catalog.Sets {
		o := here
		o.Set = label
		if _, err := catalog.Choose(in.Catalog, catalog.Target{Kind: catalog.Immediate}, o); err == nil && !unsound(in.Catalog, label) {
			good = append(good, label)
		}
		if s.Pinned || len(in.Uses) > 0 && in.Uses[0].Label == label {
			set(label, "pinned or used")
		}
	}
	slices.SortFunc(good, func(a, b string) int { return int(in.Catalog.Sets[b].End) - int(in.Catalog.Sets[a].End) })
	for i, label := range good {
		if i == 0 || i < r.KeepN || r.KeepN+r.Cycles+r.Daily+r.Weekly+r.Monthly == 0 && r.Window == 0 {
			set(label, "number")
		}
		if i < r.KeepN || i < r.Cycles+1 && i > 0 && r.Cycles > 0 && whole(in.Catalog, place, good[:i+1]) {
			moments(in.Catalog.Sets[label].Ended, []pos.Timeline{0}, "after a kept set")
		}
	}
	bySlot := func(n int, form string) {
		seen := map[string]bool{}
		for _, label := range good {
			if slot := in.Catalog.Sets[label].Ended.Format(form); !seen[slot] && len(seen) < n {
				seen[slot] = true
				set(label, "slot")
			}
		}
	}
	bySlot(r.Daily, "20060102")
	bySlot(r.Monthly, "200601")
	if r.Window > 0 {
		moments(in.Now.Add(-r.Window), in.Catalog.Known(), "window")
	}
	add(promise{catalog.Target{Kind: catalog.Latest}, here, "latest"})
	return out
}

// unsound tells whether a set, or one that it is built on, has damaged pages.
func unsound(c catalog.Catalog, label string) bool {
	for ; label != ""; label = c.Sets[label].Parent {
		if c.Sets[label].Damaged {
			return true
		}
	}
	return false
}

// whole tells whether each of some sets, newest first, is followed by log up to
// the end of the next.
func whole(c catalog.Catalog, place string, labels []string) bool {
	for i, label := range labels[1:] {
		end := c.Sets[labels[i]].End
		got, err := c.Usable(0, catalog.Options{Locations: []string{place}, Set: label})
		if err != nil || len(got) == 0 || got[0].Reach < end {
			return false
		}
	}
	return true
}

// Wherever the execution of a plan stops, everything that the rules promise can
// still be restored, and from both locations together no set is lost that one
// of them keeps.
func TestMake_KeepsWhatRulesPromise(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		var all []promise
		for _, place := range everywhere {
			all = append(all, promises(t, in, place)...)
		}
		plan := retention.Make(in)
		for _, p := range plan.Places {
			for _, k := range p.Keep {
				o := promise{catalog.Target{Kind: catalog.Immediate, Timeline: in.Catalog.Sets[k.Label].Timeline}, catalog.Options{Set: k.Label}, "kept set"}
				if _, ok := o.kept(in.Catalog); ok && in.Catalog.Sets[k.Label].Copies[p.Location].State == catalog.CopyComplete {
					all = append(all, o)
				}
			}
		}
		steps := len(plan.Places[0].Steps) + len(plan.Places[1].Steps)
		after := execute(in.Catalog, plan, rapid.IntRange(0, steps).Draw(t, "done"))
		for _, p := range all {
			before, _ := p.kept(in.Catalog)
			if stop, ok := p.kept(after); !ok || p.target.Kind == catalog.Latest && stop < before {
				t.Fatalf("%s cannot be restored any more from %v\n%s", p.why, p.o.Locations, plan)
			}
		}
	})
}

// No step takes a set away that another one at the location is built on, nor the
// last whole copy of one that is needed somewhere.
func TestMake_ChildrenGoFirst(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		plan := retention.Make(in)
		for _, place := range plan.Places {
			c := clone(in.Catalog)
			for _, step := range place.Steps {
				if step.Kind == retention.StepSet {
					if child := c.BuiltOn(step.Label, place.Location); child != "" {
						t.Fatalf("%s goes at %s before %s, which is built on it\n%s", step.Label, place.Location, child, plan)
					}
				}
				if step.Kind != retention.StepWAL {
					remove(c, place.Location, step, false)
				}
			}
		}
	})
}

// A plan that was interrupted is gone on with by the next one, which does not
// lose more, and comes to an end.
func TestMake_ConvergesAfterInterruptions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		var all []promise
		for _, place := range everywhere {
			all = append(all, promises(t, in, place)...)
		}
		for round := 0; ; round++ {
			p := retention.Make(in)
			steps := len(p.Places[0].Steps) + len(p.Places[1].Steps)
			if steps == 0 {
				break
			}
			if round > 40 {
				t.Fatalf("does not come to an end:\n%s", p)
			}
			done := rapid.IntRange(0, steps).Draw(t, "done")
			if round > 5 {
				done = steps
			}
			in.Catalog = execute(in.Catalog, p, done)
		}
		for _, p := range all {
			if _, ok := p.kept(in.Catalog); !ok {
				t.Fatalf("%s cannot be restored any more from %v", p.why, p.o.Locations)
			}
		}
	})
}

// However wrong the clock is now, or was during one backup: what is younger
// than the window, by the time that the backups themselves show, stays.
func TestMake_ClockJumpsRemoveNothingYoung(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		days := rapid.IntRange(6, 30).Draw(t, "days")
		window := rapid.IntRange(1, 20).Draw(t, "window")
		in := retention.Input{Catalog: daily(days, "disk"), Rules: map[string]retention.Rules{"disk": {Window: time.Duration(window) * day}}}
		jump := time.Duration(rapid.Int64Range(-200*365*24, 200*365*24).Draw(t, "jump")) * time.Hour
		in.Now = first.AddDate(0, 0, days-1).Add(2 * time.Hour).Add(jump)
		slack := 2
		if rapid.Bool().Draw(t, "during a backup") {
			slack = 4
			change(in.Catalog, rapid.IntRange(0, days-1).Draw(t, "which"), func(s *catalog.Set) {
				s.Began, s.Ended = s.Began.Add(jump), s.Ended.Add(jump)
			})
		}
		p := retention.Make(in)
		for n := max(0, days-window-1+slack); n < days; n++ {
			if !slices.Contains(kept(p.Places[0]), label(n)) {
				t.Fatalf("%d days, window %d, jump %s: %s of the last days goes\n%s", days, window, jump, label(n), p)
			}
		}
		for _, s := range p.Places[0].Steps {
			if s.Kind == retention.StepWAL && s.WAL.To > at(max(0, days-window-1+slack)) {
				t.Fatalf("removes %+v of the last days", s)
			}
		}
	})
}

// A jump that is over does not stop the clean-up for ever.
func TestMake_GoesOnAfterClockWasSetRight(t *testing.T) {
	for name, jump := range map[string]time.Duration{"Forward": 3650 * day, "Back": -3650 * day} {
		t.Run(name, func(t *testing.T) {
			in := retention.Input{Catalog: daily(20, "disk"), Rules: map[string]retention.Rules{"disk": {Window: 5 * day}}, Now: first.AddDate(0, 0, 19).Add(2 * time.Hour)}
			change(in.Catalog, 10, func(s *catalog.Set) { s.Began, s.Ended = s.Began.Add(jump), s.Ended.Add(jump) })
			if got := kept(retention.Make(in).Places[0]); !slices.Equal(got, labels(14, 15, 16, 17, 18, 19)) {
				t.Errorf("kept %v", got)
			}
		})
	}
}

// Same input, same plan.
func TestMake_IsDeterministic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInput(t)
		if a, b := retention.Make(in).String(), retention.Make(in).String(); a != b {
			t.Fatalf("got\n%s\nthen\n%s", a, b)
		}
	})
}
