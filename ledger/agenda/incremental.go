package agenda

import (
	"maps"
	"slices"
	"time"

	"understudy/shipper/catalog"
)

// patience is how often an incremental backup may fail in a row before a full
// one is tried instead.
const patience = 2

// form is what the operator asked for, if it is his order.
func (a *agenda) form(o Order) Form {
	for _, r := range a.Requests {
		if o.Request != "" && r.ID == o.Request {
			return r.Form
		}
	}
	return ""
}

// parent is the set that a backup is to be built on; empty when it is to be a
// full one.
func (a *agenda) parent(o Order, h history) string {
	switch form := a.form(o); {
	case form == Full:
		return ""
	case form == Incremental:
		label, _ := a.newestSound(o.Locations)
		return label
	case !a.Policy.Incremental, o.Cause != CauseSchedule && o.Cause != CauseOperator, h.fails >= patience:
		return ""
	}
	label, full := a.newestSound(o.Locations)
	if label == "" || a.fullAge(full) >= a.Policy.FullEvery {
		return ""
	}
	return label
}

// fullAge is how old a full set is, a little more: one that the schedule has for
// the same time of the day as the last one begins some seconds earlier or later.
func (a *agenda) fullAge(began time.Time) time.Duration {
	return a.Now.Sub(began) + min(time.Hour, a.Policy.FullEvery/10)
}

// newestSound is the newest set that an incremental one can be built on: no
// newer one has damaged pages, all sets of its chain have a whole copy at one of
// the locations, and log follows it. full is when the full one of its chain
// began.
func (a *agenda) newestSound(locations []string) (label string, full time.Time) {
	path, err := a.Catalog.Path(a.Catalog.Newest())
	if err != nil {
		return "", full
	}
	var newest catalog.Set
	for _, l := range slices.Sorted(maps.Keys(a.Catalog.Sets)) {
		if s := a.Catalog.Sets[l]; s.State == catalog.SetComplete && s.On(path) && s.End >= newest.End {
			newest = s
		}
	}
	usable, err := a.Catalog.Usable(0, catalog.Options{Locations: locations})
	if err != nil || newest.Damaged {
		return "", full
	}
	for _, u := range slices.Backward(usable) {
		chain, err := a.Catalog.Chain(u.Label)
		if err == nil && !u.Damaged && len(chain) < catalog.MaxChain {
			return u.Label, a.Catalog.Sets[chain[0]].Began
		}
	}
	return "", full
}
