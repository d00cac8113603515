package retention

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// solver holds what is the same for all locations.
type solver struct {
	in    Input
	c     catalog.Catalog
	names []string // of the locations with rules
	path  []catalog.Step
	clock clock
	golds bool // some location has a rule about gold
	// children are the sets that are built directly on a set, sorted, without
	// those that failed.
	children map[string][]string
	places   []decision
}

func newSolver(in Input) *solver {
	s := &solver{in: in, c: in.Catalog, names: slices.Sorted(maps.Keys(in.Rules))}
	s.path, _ = s.c.Path(s.c.Newest()) // without one, nothing is usable, and nothing goes
	for _, r := range in.Rules {
		s.golds = s.golds || r.GoldEvery > 0
	}
	s.children = map[string][]string{}
	for _, label := range slices.Sorted(maps.Keys(s.c.Sets)) {
		if x := s.c.Sets[label]; x.Parent != "" && x.State != catalog.SetFailed {
			s.children[x.Parent] = append(s.children[x.Parent], label)
		}
	}
	var seen []witness
	for _, x := range s.sorted() {
		if x.State == catalog.SetComplete && x.On(s.path) {
			seen = append(seen, witness{x.End, x.Ended})
		}
	}
	s.clock = newClock(seen, in.Now)
	return s
}

// sorted are all sets by their end in the log, then by label.
func (s *solver) sorted() []catalog.Set {
	var out []catalog.Set
	for _, label := range slices.Sorted(maps.Keys(s.c.Sets)) {
		x := s.c.Sets[label]
		x.Label = label
		out = append(out, x)
	}
	slices.SortStableFunc(out, func(a, b catalog.Set) int { return cmp.Compare(a.End, b.End) })
	return out
}

// frozen is why nothing at all may go.
func (s *solver) frozen() string {
	if s.in.Freeze != "" {
		return s.in.Freeze
	}
	var bad, good *catalog.Set
	for _, x := range s.sorted() {
		switch {
		case x.Damaged && (bad == nil || newer(x, *bad)):
			bad = &x
		case !x.Damaged && x.State == catalog.SetComplete && (good == nil || newer(x, *good)):
			good = &x
		}
	}
	if bad != nil && (good == nil || newer(*bad, *good)) {
		return fmt.Sprintf("set %s found damaged pages, and no good set is newer", bad.Label)
	}
	return ""
}

// newer compares by the log where both have come that far, and else by time.
func newer(a, b catalog.Set) bool {
	if a.Start != 0 && b.Start != 0 && a.Start != b.Start {
		return a.Start > b.Start
	}
	return a.Began.After(b.Began)
}

// decision is what stays at one location.
type decision struct {
	s      *solver
	name   string
	rules  Rules
	frozen string
	usable []catalog.Usable    // on the newest path, oldest first
	good   []catalog.Set       // those of them without damage
	why    map[string][]string // reasons by label; what has none goes
	run    map[string]bool     // sets from which on all log stays
	gold   []string
}

func (s *solver) decide(name string) decision {
	d := decision{s: s, name: name, rules: s.in.Rules[name], why: map[string][]string{}, run: map[string]bool{}}
	d.usable, _ = s.c.Usable(0, catalog.Options{Locations: []string{name}})
	for _, u := range d.usable {
		if x := s.c.Sets[u.Label]; !u.Damaged {
			x.Label = u.Label
			d.good = append(d.good, x)
		}
	}
	switch {
	case s.in.Blocked[name] != "":
		d.frozen = s.in.Blocked[name]
	case len(s.path) == 0:
		d.frozen = "the history of the newest timeline is not known"
	case len(d.good) == 0:
		d.frozen = "it has no whole set that can be restored on the newest timeline"
	}
	if d.frozen != "" || !d.rules.limits() {
		d.keepAll(cmp.Or(d.frozen, "no rule lets it go"))
	} else {
		d.byRules()
	}
	d.always()
	d.chains()
	return d
}

// copies are the sets with something at the location, oldest first.
func (d *decision) copies() []catalog.Set {
	return slices.DeleteFunc(d.s.sorted(), func(x catalog.Set) bool {
		_, ok := x.Copies[d.name]
		return !ok
	})
}

// removing tells whether the deletion of a copy has begun: it is lost.
func (d *decision) removing(x catalog.Set) bool {
	return x.Copies[d.name].State == catalog.CopyRemoving
}

func (d *decision) keep(label, why string) {
	if !slices.Contains(d.why[label], why) {
		d.why[label] = append(d.why[label], why)
	}
}

// keepAll keeps every set that is or can become whole, with its log.
func (d *decision) keepAll(why string) {
	for _, x := range d.copies() {
		if x.State != catalog.SetFailed && !d.removing(x) {
			d.keep(x.Label, why)
			d.run[x.Label] = true
		}
	}
}

// byRules applies the rules that let things go.
func (d *decision) byRules() {
	n, r := len(d.good), d.rules
	oldest := n - 1 // of the sets from which on everything stays
	d.keep(d.good[oldest].Label, "the newest set that can be restored here")
	if r.KeepN > 0 {
		oldest = max(n-r.KeepN, 0)
		for _, x := range d.good[oldest:] {
			d.keep(x.Label, fmt.Sprintf("among the newest %d", r.KeepN))
		}
	}
	floor := d.good[min(oldest, d.byCycles())]
	if x := d.byWindow(); x.End < floor.End {
		floor = x
	}
	d.run[floor.Label] = true
	for _, x := range d.copies() {
		if x.State == catalog.SetComplete && !d.removing(x) && x.On(d.s.path) && x.End >= floor.End {
			d.keepNewer(x, floor)
		}
	}
	d.slots("day", r.Daily, func(t time.Time) string { return t.Format(time.DateOnly) })
	d.slots("week", r.Weekly, func(t time.Time) string {
		y, w := t.ISOWeek()
		return fmt.Sprintf("%d-W%02d", y, w)
	})
	d.slots("month", r.Monthly, func(t time.Time) string { return t.Format("2006-01") })
	d.slots("year", r.Yearly, func(t time.Time) string { return t.Format("2006") })
	d.makeGold()
	d.leftTimelines(floor)
}

// keepNewer keeps a set that is not older than the one from which on all stays,
// for that reason if for no other.
func (d *decision) keepNewer(x, floor catalog.Set) {
	d.run[x.Label] = true
	if len(d.why[x.Label]) == 0 {
		d.keep(x.Label, "newer than "+floor.Label+", from which on everything is kept")
	}
}

// byCycles is the index of the oldest set of the newest complete cycles.
func (d *decision) byCycles() int {
	oldest, have := len(d.good)-1, 0
	for i := len(d.good) - 2; i >= 0 && have < d.rules.Cycles; i-- {
		if d.reach(d.good[i].Label) < d.good[i+1].End {
			continue // a gap: no cycle
		}
		have++
		oldest = i
		d.keep(d.good[i].Label, fmt.Sprintf("begins one of the newest %d cycles", d.rules.Cycles))
	}
	return oldest
}

func (d *decision) reach(label string) pos.LSN {
	i := slices.IndexFunc(d.usable, func(u catalog.Usable) bool { return u.Label == label })
	return d.usable[i].Reach
}

// byWindow is the set with which the oldest moment of the window is restored:
// the newest one that had ended before it. Without a good one, the oldest that
// there is must do.
func (d *decision) byWindow() (oldest catalog.Set) {
	if d.rules.Window == 0 {
		return d.good[len(d.good)-1]
	}
	for _, u := range slices.Backward(d.usable) {
		oldest = d.s.c.Sets[u.Label]
		oldest.Label = u.Label
		if age := min(d.s.clock.ageAt(oldest.End), d.s.clock.age(u.Ready)); age >= d.rules.Window && !u.Damaged {
			d.keep(u.Label, "the recovery window of "+words(d.rules.Window)+" begins after it")
			return oldest
		}
		d.keep(u.Label, "in the recovery window of "+words(d.rules.Window))
	}
	return oldest
}

// slots keeps the last set of each of the newest n days, weeks and so on that
// have one.
func (d *decision) slots(unit string, n int, slot func(time.Time) string) {
	zone := d.rules.Zone
	if zone == nil {
		zone = time.UTC
	}
	seen := map[string]bool{}
	for _, x := range slices.Backward(d.good) {
		if len(seen) == n {
			return
		}
		if at := slot(x.Ended.In(zone)); !seen[at] {
			seen[at] = true
			d.keep(x.Label, "the last of the "+unit+" "+at)
		}
	}
}

// makeGold finds sets that become gold.
func (d *decision) makeGold() {
	every := d.rules.GoldEvery
	if every <= 0 {
		return
	}
	var last *catalog.Set
	for i, x := range d.good {
		if x.Gold {
			last = &d.good[i]
		}
	}
	for i, x := range d.good {
		if last != nil && (x.End <= last.End || x.Ended.Sub(last.Ended).Abs() < every) {
			continue
		}
		last = &d.good[i]
		d.gold = append(d.gold, x.Label)
		d.keep(x.Label, "becomes gold")
	}
}

// leftTimelines keeps what only timelines that were left have: the moments of
// them that are in the window, and sets that are not older than floor.
func (d *decision) leftTimelines(floor catalog.Set) {
	atFloor := d.s.clock.age(floor.Ended)
	for _, x := range d.copies() {
		if x.State != catalog.SetComplete || d.removing(x) || x.On(d.s.path) {
			continue
		}
		if age := d.s.clock.age(x.Ended); age <= atFloor || age < d.rules.Window {
			d.keep(x.Label, fmt.Sprintf("not older than what is kept, on timeline %d, which was left", x.Timeline))
			d.run[x.Label] = true
		}
	}
	if d.rules.Window == 0 {
		return
	}
	for _, iv := range catalog.Reachable(d.s.c, d.name).Intervals {
		if iv.Timeline == d.s.c.Newest() || d.s.clock.age(iv.To) >= d.rules.Window {
			continue
		}
		for _, label := range slices.Backward(iv.Sets) {
			d.keep(label, fmt.Sprintf("the recovery window has moments of timeline %d, which was left", iv.Timeline))
			d.run[label] = true
			if d.s.clock.age(d.s.c.Sets[label].Ended) >= d.rules.Window {
				break
			}
		}
	}
}

// always applies what holds whatever the rules are.
func (d *decision) always() {
	for _, x := range d.copies() {
		for _, use := range d.s.in.Uses {
			if use.Label == x.Label && (use.Location == "" || use.Location == d.name) {
				d.keep(x.Label, "job "+use.Job+" uses it")
			}
		}
		if d.removing(x) {
			continue
		}
		switch {
		case x.Pinned:
			d.keep(x.Label, "pinned")
		case x.Gold && (d.rules.GoldEvery > 0 || !d.s.golds):
			d.keep(x.Label, "gold")
		}
		if x.State == catalog.SetComplete {
			continue
		}
		limit := cmp.Or(d.rules.FailedAfter, DefaultFailedAfter)
		if len(d.s.clock.seen) > 0 && !x.Began.IsZero() && d.s.clock.now.Sub(x.Began) >= limit {
			continue
		}
		d.keep(x.Label, map[catalog.SetState]string{catalog.SetRunning: "is being taken", catalog.SetFailed: "failed less than " + words(limit) + " ago"}[x.State])
	}
}

// keeps are the decisions to keep, oldest first.
func (d *decision) keeps() (out []Keep) {
	for _, x := range d.s.sorted() {
		if why := d.why[x.Label]; len(why) > 0 {
			out = append(out, Keep{Label: x.Label, Why: why})
		}
	}
	return out
}

// removals are the copies that go, those first whose removal had begun.
func (d *decision) removals() []Step {
	var finish, sets []Step
	for _, x := range d.copies() {
		if len(d.why[x.Label]) > 0 {
			continue
		}
		step := Step{Kind: StepSet, Label: x.Label, Bytes: x.Bytes, Why: "no rule keeps it"}
		switch {
		case d.removing(x):
			step.Kind, step.Why = StepFinish, "its removal had begun"
			finish = append(finish, step)
			continue
		case x.State == catalog.SetFailed:
			step.Why = "it failed long ago: " + cmp.Or(x.Problem, "for an unknown reason")
		case x.State != catalog.SetComplete:
			step.Why = "it was begun long ago and never ended"
		}
		sets = append(sets, step)
	}
	return append(finish, d.childrenFirst(sets)...)
}

func union(a, b []string) []string {
	a = append(a, b...)
	slices.Sort(a)
	return slices.Compact(a)
}

// words writes a time in days where it is whole days.
func words(d time.Duration) string {
	const day = 24 * time.Hour
	if d == 0 || d%day != 0 {
		return d.String()
	}
	if d == day {
		return "1 day"
	}
	return fmt.Sprintf("%d days", d/day)
}
