package retention

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// noEnd is behind every LSN.
const noEnd = pos.LSN(math.MaxUint64)

// ranges are stretches of log by timeline, in any order.
type ranges map[pos.Timeline][]pos.Range

func (r ranges) add(t pos.Timeline, from, to pos.LSN) {
	if from < to {
		r[t] = append(r[t], pos.Range{From: from, To: to})
	}
}

// walSteps are the removals of log that nothing needs, oldest first. Log of a
// timeline that is not known is not touched.
func (s *solver) walSteps(d decision) []Step {
	if s.c.SegSize <= 0 || !d.rules.limits() {
		return nil
	}
	for _, x := range s.c.Sets {
		// A set that has only begun has not said yet what log it needs.
		if x.State == catalog.SetRunning && x.Start == 0 {
			return nil
		}
	}
	needed := s.needed(d)
	var out []Step
	for _, span := range s.c.Places[d.name].WAL {
		if !slices.Contains(s.c.Known(), span.Timeline) {
			continue
		}
		for _, r := range subtract(pos.Range{From: span.From, To: span.To}, needed[span.Timeline]) {
			out = append(out, Step{Kind: StepWAL, Timeline: span.Timeline, WAL: r, Why: "no kept set needs it"})
		}
	}
	slices.SortStableFunc(out, func(a, b Step) int {
		return cmp.Or(cmp.Compare(a.WAL.From, b.WAL.From), cmp.Compare(a.Timeline, b.Timeline))
	})
	return out
}

// needed is all log that must stay at a location, in whole segments.
func (s *solver) needed(d decision) ranges {
	need := ranges{}
	for label := range d.why {
		x := s.c.Sets[label]
		switch {
		case x.State == catalog.SetFailed || d.removing(x):
		case d.run[label] || x.State == catalog.SetRunning:
			s.needRun(need, x)
		default:
			s.needIsland(need, x)
		}
	}
	for _, x := range s.c.Sets {
		if x.State == catalog.SetRunning { // wherever it goes, log of it may have to be copied
			s.needRun(need, x)
		}
	}
	s.needElsewhere(need, d.name)
	for _, use := range s.in.Uses {
		if use.Floor == 0 || use.Location != "" && use.Location != d.name {
			continue
		}
		for _, t := range s.c.Known() {
			if use.Timeline == 0 || use.Timeline == t {
				need.add(t, use.Floor, noEnd)
			}
		}
	}
	for t, list := range need {
		for i, r := range list {
			list[i].From = r.From.SegStart(s.c.SegSize)
			if r.To <= noEnd-pos.LSN(s.c.SegSize) {
				list[i].To = (r.To - 1).SegEnd(s.c.SegSize)
			}
		}
		need[t] = list
	}
	return need
}

// needRun adds all log from a set on, on every timeline that it leads to.
func (s *solver) needRun(need ranges, x catalog.Set) {
	for _, t := range s.c.Known() {
		path, err := s.c.Path(t)
		if err != nil || !x.On(path) {
			continue
		}
		for _, step := range path {
			need.add(step.Timeline, max(step.From, x.Start), end(step))
		}
	}
	s.needIsland(need, x)
}

// needIsland adds the log that makes a set consistent. Where another timeline
// was left within the last segment of it, its first segment has these bytes,
// too, and may be the only one.
func (s *solver) needIsland(need ranges, x catalog.Set) {
	path, err := s.c.Path(x.Timeline)
	if err != nil {
		return
	}
	for _, step := range path {
		from, to := max(step.From, x.Start), min(end(step), x.End)
		need.add(step.Timeline, from, to)
		for child, h := range s.c.Timelines {
			if h.Parent == step.Timeline && from < h.Fork && to > h.Fork.SegStart(s.c.SegSize) {
				need.add(child, h.Fork, h.Fork+1)
			}
		}
	}
}

// needElsewhere adds the log that sets kept at other locations need and that
// has a gap there: it may be here only. What lies behind the end of the log at
// another location is not waited for, or one that is dead would fill the others.
func (s *solver) needElsewhere(need ranges, here string) {
	places := map[string]bool{}
	for _, x := range s.c.Sets {
		for name := range x.Copies {
			places[name] = name != here
		}
	}
	for name, other := range places {
		if !other {
			continue
		}
		lacks, ends := ranges{}, map[pos.Timeline]pos.LSN{}
		has := ranges{}
		for _, span := range s.c.Places[name].WAL {
			has.add(span.Timeline, span.From, span.To)
			ends[span.Timeline] = max(ends[span.Timeline], span.To)
		}
		for label, x := range s.c.Sets {
			kept, run := s.fate(name, label)
			if x.State == catalog.SetComplete && x.Copies[name].State != "" && x.Copies[name].State != catalog.CopyRemoving && kept {
				s.needIsland(lacks, x)
				if run {
					s.needUpTo(lacks, x, ends)
				}
			}
		}
		for t, list := range lacks {
			for _, r := range list {
				for _, missing := range subtract(r, has[t]) {
					need.add(t, missing.From, missing.To)
				}
			}
		}
	}
}

// needUpTo adds the log from a set on as far as a location has some.
func (s *solver) needUpTo(need ranges, x catalog.Set, ends map[pos.Timeline]pos.LSN) {
	run := ranges{}
	s.needRun(run, x)
	for t, list := range run {
		for _, r := range list {
			need.add(t, r.From, min(r.To, ends[t]))
		}
	}
}

// fate is what becomes of a set's copy at a location: whether it stays, and
// with it all log that follows. Nothing is planned to go where no rules are.
func (s *solver) fate(name, label string) (kept, run bool) {
	i := slices.IndexFunc(s.places, func(d decision) bool { return d.name == name })
	if i < 0 {
		return true, false
	}
	d := s.places[i]
	return d.frozen != "" || len(d.why[label]) > 0, d.run[label]
}

func end(s catalog.Step) pos.LSN {
	if s.To == 0 {
		return noEnd
	}
	return s.To
}

// subtract is what of a range lies in none of the others.
func subtract(r pos.Range, others []pos.Range) (out []pos.Range) {
	others = slices.Clone(others)
	slices.SortFunc(others, func(a, b pos.Range) int { return cmp.Compare(a.From, b.From) })
	at := r.From
	for _, o := range others {
		if o.From > at && at < r.To {
			out = append(out, pos.Range{From: at, To: min(o.From, r.To)})
		}
		at = max(at, o.To)
	}
	if at < r.To {
		out = append(out, pos.Range{From: at, To: r.To})
	}
	return out
}

// String is the plan for a reader, as a dry run prints it.
func (p Plan) String() string {
	var b []byte
	line := func(format string, args ...any) { b = append(fmt.Appendf(b, format, args...), '\n') }
	if p.Frozen != "" {
		line("nothing is removed: %s", p.Frozen)
	}
	for _, label := range p.Gold {
		line("set %s becomes gold", label)
	}
	for _, d := range p.Places {
		line("%s:", d.Location)
		if d.Frozen != "" {
			line("  nothing is removed: %s", d.Frozen)
		}
		for _, k := range d.Keep {
			line("  keep    %s: %s", k.Label, strings.Join(k.Why, "; "))
		}
		for _, s := range d.Steps {
			line("  remove  %s: %s", s.what(), s.Why)
		}
	}
	return string(b)
}

func (s Step) what() string {
	if s.Kind == StepWAL {
		return fmt.Sprintf("log of timeline %d from %s to %s", s.Timeline, s.WAL.From, s.WAL.To)
	}
	return s.Label
}
