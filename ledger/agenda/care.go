package agenda

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"understudy/shipper/catalog"
)

// feeders gives every location a node that feeds it. One that can do it keeps
// it.
func (a *agenda) feeders() {
	for _, l := range a.Locations {
		if !l.Enabled {
			continue
		}
		node, ok := a.pick(l.Feeder, rank, func(n Node) bool {
			return a.reaches(n, l) && n.HasLog && (l.Owner == "" || l.Owner == n.Name)
		})
		switch {
		case !ok:
			a.raise("feeder-"+l.Name, Error, "no node can feed the log to %s", l.Name)
		case node != l.Feeder:
			why := "it has no feeder"
			if l.Feeder != "" {
				why = l.Feeder + " cannot feed it any more"
			}
			a.order(Order{Kind: Feed, Node: node, Locations: []string{l.Name}, Why: why})
		}
	}
}

// at tells whether a job is of a kind and a location.
func at(kind JobKind, location string) func(Job) bool {
	return func(j Job) bool { return j.Kind == kind && slices.Contains(j.Locations, location) }
}

// fills brings to each location what it wants and others have: log first, then
// sets, one at a time.
func (a *agenda) fills() {
	for _, l := range a.Locations {
		if !l.usable() || !l.Open || a.running(JobFill, l.Name) {
			continue
		}
		if o, ok := a.fillLog(l); ok {
			a.order(o)
			continue
		}
		if o, ok := a.fillSet(l); ok {
			a.order(o)
		}
	}
}

// tryFill tells whether a fill may be tried, and who does it.
func (a *agenda) tryFill(l Location, label string, from []string) (Order, bool) {
	h := a.past(func(j Job) bool { return at(JobFill, l.Name)(j) && j.Label == label })
	a.complain(h, "fill-"+l.Name, "copying to "+l.Name)
	if !a.ready(h) {
		return Order{}, false
	}
	node, ok := a.pick(l.Feeder, rank, func(n Node) bool {
		return a.reaches(n, l) && slices.ContainsFunc(a.Locations, func(src Location) bool {
			return src.Problem == "" && slices.Contains(from, src.Name) && a.reaches(n, src)
		})
	})
	return Order{Kind: Begin, Job: JobFill, Node: node, Locations: []string{l.Name}, Label: label, Due: a.Now, Attempt: h.fails + 1}, ok
}

func (a *agenda) fillLog(l Location) (Order, bool) {
	var from []string
	var log []catalog.Stretch
	for _, s := range l.WantsLog {
		if slices.ContainsFunc(a.Locations, func(src Location) bool { return src.Problem == "" && slices.Contains(s.Locations, src.Name) }) {
			log, from = append(log, s), append(from, s.Locations...)
		}
	}
	if len(log) == 0 {
		return Order{}, false
	}
	o, ok := a.tryFill(l, "", from)
	o.Log, o.Why = log, fmt.Sprintf("%s lacks log from %s on that others have", l.Name, log[0].From)
	return o, ok
}

func (a *agenda) fillSet(l Location) (Order, bool) {
	for _, label := range l.Wants {
		set := a.Catalog.Sets[label]
		switch set.Copies[l.Name].State {
		case catalog.CopyComplete, catalog.CopyRemoving:
			continue
		}
		var from []string
		for _, name := range slices.Sorted(maps.Keys(set.Copies)) {
			if name != l.Name && set.Copies[name].State == catalog.CopyComplete {
				from = append(from, name)
			}
		}
		if set.State != catalog.SetComplete || len(from) == 0 {
			continue
		}
		if o, ok := a.tryFill(l, label, from); ok {
			o.Why = fmt.Sprintf("%s lacks set %s that others have", l.Name, label)
			if set.Copies[l.Name].State == catalog.CopyDamaged {
				o.Why = fmt.Sprintf("the copy of set %s at %s is damaged", label, l.Name)
			}
			return o, true
		}
	}
	return Order{}, false
}

// verifies proves the copies anew, the longest unproven first, one at a time
// for each location.
func (a *agenda) verifies() {
	for _, l := range a.Locations {
		if !l.usable() || a.running(JobVerify, l.Name) {
			continue
		}
		label, request, ok := a.toVerify(l)
		if !ok {
			continue
		}
		h := a.past(func(j Job) bool { return at(JobVerify, l.Name)(j) && j.Label == label })
		node, ok := a.pick(l.Owner, rank, func(n Node) bool { return a.reaches(n, l) })
		if !ok {
			continue
		}
		why := fmt.Sprintf("it was not proven within %s", a.Policy.VerifyEvery)
		if request != "" {
			why = "the operator asked for it"
		}
		a.order(Order{Kind: Begin, Job: JobVerify, Node: node, Locations: []string{l.Name}, Label: label, Request: request,
			Due: a.Now, Attempt: h.fails + 1, Why: why})
	}
}

// toVerify is the copy to be proven next, and the request that names it.
func (a *agenda) toVerify(l Location) (label, request string, ok bool) {
	for _, r := range a.Requests {
		if r.Kind != JobVerify || r.Location != "" && r.Location != l.Name {
			continue
		}
		for _, label := range slices.Backward(slices.Sorted(maps.Keys(a.Catalog.Sets))) {
			if (r.Label == "" || r.Label == label) && a.Catalog.Sets[label].Copies[l.Name].State == catalog.CopyComplete {
				return label, r.ID, true
			}
		}
	}
	if a.Policy.VerifyEvery <= 0 {
		return "", "", false
	}
	var oldest time.Time
	for _, name := range slices.Sorted(maps.Keys(a.Catalog.Sets)) {
		c := a.Catalog.Sets[name].Copies[l.Name]
		if c.State != catalog.CopyComplete {
			continue
		}
		proven := c.Verified
		if proven.IsZero() {
			proven = c.At
		}
		if since := a.Now.Sub(proven); since >= 0 && since < a.Policy.VerifyEvery {
			continue // a time that has not come yet is no proof
		}
		h := a.past(func(j Job) bool { return at(JobVerify, l.Name)(j) && j.Label == name })
		a.complain(h, "verify-"+l.Name, "the check of set "+name+" at "+l.Name)
		if a.ready(h) && (!ok || proven.Before(oldest)) {
			label, oldest, ok = name, proven, true
		}
	}
	return label, "", ok
}

// since is when a series last succeeded; a group without history counts from
// its first backup on, so that it does not begin with everything at once.
func (a *agenda) since(kind JobKind, h history) time.Time {
	last := h.success
	if t := a.Last[kind]; t.After(last) && !t.After(a.Now) {
		last = t
	}
	if !last.IsZero() {
		return last
	}
	for _, s := range a.Catalog.Sets {
		if s.State == catalog.SetComplete && !s.Ended.After(a.Now) && (last.IsZero() || s.Ended.Before(last)) {
			last = s.Ended
		}
	}
	return last
}

// asked is the operator's request for a kind of job at a location.
func (a *agenda) asked(kind JobKind, location string) (Request, bool) {
	for _, r := range a.Requests {
		if r.Kind == kind && (r.Location == "" || r.Location == location) {
			return r, true
		}
	}
	return Request{}, false
}

// scheduled makes an order for a kind of job if its schedule or the operator
// wants one now.
func (a *agenda) scheduled(kind JobKind, location string, h history) (Order, bool) {
	o := Order{Kind: Begin, Job: kind, Due: a.Now, Attempt: h.fails + 1}
	if r, ok := a.asked(kind, location); ok {
		o.Request, o.Node, o.Why = r.ID, r.Node, "the operator asked for it"
		return o, true
	}
	s := a.schedule(kind)
	next, due := s.Due(a.since(kind, h), a.Now)
	_, again := s.Due(h.tried, a.Now)
	o.Due, o.Why = next, fmt.Sprintf("the schedule %q has it for %s", s, next.UTC().Format(time.RFC3339))
	switch {
	case h.stopped:
		due = due && again
	case h.fails > 0:
		due = due && (again || a.ready(h))
	}
	return o, due
}

// drills tries a restore, one at a time and not during a backup.
func (a *agenda) drills() {
	h := a.past(func(j Job) bool { return j.Kind == JobDrill })
	a.complain(h, "drill-failed", "the restore drill")
	if a.running(JobDrill, "") || a.running(JobFull, "") {
		return
	}
	var names []string
	for _, l := range a.Locations {
		if l.usable() {
			names = append(names, l.Name)
		}
	}
	if len(names) == 0 || len(a.Catalog.Stand(names...).Sets) == 0 {
		return
	}
	o, due := a.scheduled(JobDrill, "", h)
	if !due {
		return
	}
	node, ok := a.pick(o.Node, rank, func(n Node) bool {
		return n.Alive && n.Role != Witness && slices.ContainsFunc(a.Locations, func(l Location) bool { return l.usable() && a.reaches(n, l) })
	})
	if !ok {
		return
	}
	o.Node = node
	for _, l := range a.Locations {
		if n, _ := a.node(node); l.usable() && a.reaches(n, l) {
			o.Locations = append(o.Locations, l.Name)
		}
	}
	a.order(o)
}

// prunes cleans up, each location for itself.
func (a *agenda) prunes() {
	for _, l := range a.Locations {
		if !l.usable() || a.running(JobPrune, l.Name) {
			continue
		}
		h := a.past(at(JobPrune, l.Name))
		a.complain(h, "prune-"+l.Name, "cleaning up "+l.Name)
		o, due := a.scheduled(JobPrune, l.Name, h)
		if !due {
			continue
		}
		node, ok := a.pick(l.Feeder, rank, func(n Node) bool { return a.reaches(n, l) })
		if !ok {
			continue
		}
		o.Node, o.Locations = node, []string{l.Name}
		a.order(o)
	}
}

// markers has one written on the primary when the last is old.
func (a *agenda) markers() {
	since := a.Now.Sub(a.Marked)
	if a.Policy.MarkerEvery <= 0 || since >= 0 && since < a.Policy.MarkerEvery {
		return
	}
	for _, n := range a.Nodes {
		if n.Role == Primary && n.Alive && n.Healthy {
			a.order(Order{Kind: Mark, Node: n.Name, Due: a.Now, Why: fmt.Sprintf("the last one is older than %s", a.Policy.MarkerEvery)})
			return
		}
	}
}
