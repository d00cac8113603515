package agenda

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"understudy/shipper/catalog"
)

// backups orders a backup if one is due, never a second one.
func (a *agenda) backups() {
	h := a.past(func(j Job) bool { return j.Kind == JobFull })
	a.complain(h, "backup-failed", "the backup")
	if a.running(JobFull, "") {
		return
	}
	o, due := a.fullDue(h)
	if !due {
		return
	}
	places := a.takers(Location.usable)
	if len(places) == 0 && o.Request != "" {
		// What was said of a location some time ago may be over: an operator who
		// has just seen to it is not told to wait.
		places = a.takers(func(l Location) bool { return l.Enabled })
	}
	if len(places) == 0 {
		a.raise("backup-location", Error, "a backup is due, %s, but no location can take it: %s", o.Why, a.noTakers())
		return
	}
	node, ok := a.source(o, h, places)
	if !ok {
		a.raise("backup-node", Error, "a backup is due, %s, but no node can take it", o.Why)
		return
	}
	o.Node = node
	for _, l := range places {
		if n, _ := a.node(node); a.reaches(n, l) {
			o.Locations = append(o.Locations, l.Name)
		}
	}
	if o.Parent = a.parent(o, h); o.Parent == "" && a.form(o) == Incremental {
		a.raise("backup-parent", Error, "no incremental backup can be taken: no sound set of this history has a whole copy at a location that takes it")
		return
	}
	a.order(o)
}

// fullDue tells why a full backup is to be taken now. After a failure it waits
// for its turn, or for the next moment of the schedule.
func (a *agenda) fullDue(h history) (Order, bool) {
	o := Order{Kind: Begin, Job: JobFull, Due: a.Now, Attempt: h.fails + 1}
	for _, r := range a.Requests {
		if r.Kind == JobFull {
			o.Cause, o.Request, o.Node, o.Attempt = CauseOperator, r.ID, r.Node, 1
			o.Why = "the operator asked for it"
			return o, true
		}
	}
	last := a.lastFull(h)
	next, scheduled := a.Policy.Schedule.Due(last, a.Now)
	var again bool
	if h.fails > 0 {
		_, again = a.Policy.Schedule.Due(h.tried, a.Now)
	}
	if !a.ready(h) && !again {
		return o, false
	}
	if o.Cause, o.Why = a.lacking(); o.Cause != "" && (h.success.IsZero() || a.Now.Sub(h.success) >= a.Policy.RetryEvery) {
		return o, true // not again at once, should the last one not have helped
	}
	if scheduled && h.stopped && !again {
		return o, false // an operator did not want this one
	}
	o.Cause, o.Due = CauseSchedule, next
	o.Why = fmt.Sprintf("the schedule %q has it for %s", a.Policy.Schedule, next.UTC().Format(time.RFC3339))
	return o, scheduled
}

// lastFull is when the newest backup that was or may become whole began.
func (a *agenda) lastFull(h history) time.Time {
	last := h.success
	for _, s := range a.Catalog.Sets {
		if s.State == catalog.SetComplete && s.Began.After(last) && !s.Began.After(a.Now) {
			last = s.Began
		}
	}
	if t := a.Last[JobFull]; t.After(last) && !t.After(a.Now) {
		last = t
	}
	return last
}

// lacking tells whether a backup is needed whatever the schedule says.
func (a *agenda) lacking() (Cause, string) {
	var whole, here bool
	newest := a.Catalog.Newest()
	for _, s := range a.Catalog.Sets {
		whole = whole || s.State == catalog.SetComplete
		here = here || s.State == catalog.SetComplete && s.Timeline == newest
	}
	switch {
	case !whole:
		return CauseFirst, "there is no backup yet"
	case !here:
		return CauseTimeline, fmt.Sprintf("there is none of timeline %d", newest)
	}
	return a.gap()
}

// gap tells whether the newest backup cannot be restored up to the end of the
// log. One whose log is still on its way is waited for.
func (a *agenda) gap() (Cause, string) {
	path, err := a.Catalog.Path(a.Catalog.Newest())
	if err != nil {
		return "", ""
	}
	var last catalog.Set
	for _, label := range slices.Sorted(maps.Keys(a.Catalog.Sets)) {
		s := a.Catalog.Sets[label]
		s.Label = label
		if s.State == catalog.SetComplete && s.On(path) && s.End >= last.End && copied(s) {
			last = s
		}
	}
	s := a.Catalog.Stand()
	switch {
	case last.Label == "":
		return CauseGap, "no backup has a whole copy anywhere"
	case last.End > s.UpTo:
		return "", ""
	case !slices.Contains(s.Sets, last.Label):
		return CauseGap, fmt.Sprintf("log that %s needs is missing", last.Label)
	case !s.Whole:
		return CauseGap, fmt.Sprintf("the log after the last one is missing from %s to %s", s.Gap.From, s.Gap.To)
	}
	return "", ""
}

func copied(s catalog.Set) bool {
	for _, c := range s.Copies {
		if c.State == catalog.CopyComplete {
			return true
		}
	}
	return false
}

// takers are the locations that a backup is written to: all that fit, cold ones
// only when no other does.
func (a *agenda) takers(fits func(Location) bool) (out []Location) {
	for _, cold := range []bool{false, true} {
		for _, l := range a.Locations {
			if fits(l) && l.Open && l.Cold == cold && slices.ContainsFunc(a.Nodes, func(n Node) bool { return a.reaches(n, l) && backupable(n) }) {
				out = append(out, l)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}

func (a *agenda) noTakers() string {
	var why []string
	for _, l := range a.Locations {
		switch {
		case !l.Enabled:
			why = append(why, l.Name+" is disabled")
		case l.Problem != "":
			why = append(why, l.Name+": "+l.Problem)
		case !l.Open:
			why = append(why, l.Name+" is outside of its time window")
		default:
			why = append(why, l.Name+" is not reached by a node with a database that works")
		}
	}
	if len(why) == 0 {
		return "there is none"
	}
	return strings.Join(why, ", ")
}

func backupable(n Node) bool { return n.Alive && n.Healthy && n.Role != Witness }

// source is the node that takes a backup. After a failure another one is
// tried, if there is one.
func (a *agenda) source(o Order, h history, places []Location) (string, bool) {
	return a.pick(o.Node, func(n Node) int {
		r := 0
		if h.fails > 0 && n.Name == h.node {
			r += 4
		}
		if n.Role == Standby && a.Policy.MaxLagBytes > 0 && n.LagBytes > a.Policy.MaxLagBytes {
			r += 2
		}
		if (n.Role == Standby) == (a.Policy.From == FromPrimary) {
			r++
		}
		return r
	}, func(n Node) bool {
		return backupable(n) && slices.ContainsFunc(places, func(l Location) bool { return a.reaches(n, l) })
	})
}
