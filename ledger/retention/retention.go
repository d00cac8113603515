// Package retention decides what may be deleted from the locations: it takes
// what is stored, the rules, and what is in use, and returns a Plan of removals
// and of everything that is kept, with the reasons.
//
// The package is pure. DESIGN.md says how time is counted.
package retention

import (
	"fmt"
	"time"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Rules say what one location keeps. A set is kept when one of the rules asks
// for it. Rules of which none names a set to keep, keep everything.
type Rules struct {
	// KeepN is the number of sets, the newest ones that can be restored, and
	// Cycles the number of complete cycles: a set with all log up to the end of
	// the next one. Window is the time every moment of which stays restorable.
	// All log from the oldest set that these ask for is kept.
	KeepN  int           `json:"keep,omitempty"`
	Cycles int           `json:"cycles,omitempty"`
	Window time.Duration `json:"window_ns,omitempty"`
	// Daily to Yearly are numbers of days, ISO weeks, months and years that have
	// a set: the last set of each is kept, and of the log what makes it
	// consistent. Zone is where days begin; nil is UTC.
	Daily   int            `json:"daily,omitempty"`
	Weekly  int            `json:"weekly,omitempty"`
	Monthly int            `json:"monthly,omitempty"`
	Yearly  int            `json:"yearly,omitempty"`
	Zone    *time.Location `json:"-"`
	// GoldEvery makes a set gold when the last gold one is that much older.
	// Gold sets are kept for ever where this is set, and everywhere as long as
	// no location has it set.
	GoldEvery time.Duration `json:"gold_every_ns,omitempty"`
	// FailedAfter is when failed sets go; zero is DefaultFailedAfter.
	FailedAfter time.Duration `json:"failed_after_ns,omitempty"`
}

// DefaultFailedAfter is how long failed sets are kept for those who want to
// know why.
const DefaultFailedAfter = 90 * 24 * time.Hour

// Validate returns an error that names the first rule that makes no sense.
func (r Rules) Validate() error {
	for _, n := range []struct {
		name string
		v    int
	}{{"keep", r.KeepN}, {"cycles", r.Cycles}, {"daily", r.Daily}, {"weekly", r.Weekly}, {"monthly", r.Monthly}, {"yearly", r.Yearly}} {
		if n.v < 0 || n.v > maxKept {
			return fmt.Errorf("%s is %d, it must be between 0 and %d", n.name, n.v, maxKept)
		}
	}
	for _, d := range []struct {
		name string
		v    time.Duration
	}{{"the window", r.Window}, {"the time between gold sets", r.GoldEvery}, {"the time for failed sets", r.FailedAfter}} {
		if d.v < 0 {
			return fmt.Errorf("%s is %s, it cannot be negative", d.name, d.v)
		}
	}
	return nil
}

// maxKept bounds the numbers of the rules.
const maxKept = 10000

// limits tells whether the rules let anything go at all.
func (r Rules) limits() bool {
	return r.KeepN > 0 || r.Cycles > 0 || r.Window > 0 || r.Daily > 0 || r.Weekly > 0 || r.Monthly > 0 || r.Yearly > 0
}

// Use is something that a running job of any node needs.
type Use struct {
	Job string `json:"job"`
	// Location is where; empty is everywhere.
	Location string `json:"location,omitempty"`
	// Label is a set that must stay; empty is none.
	Label string `json:"label,omitempty"`
	// Floor is the place from which on the log of Timeline must stay, or that
	// of all timelines when that is zero; a zero Floor needs no log.
	Floor    pos.LSN      `json:"floor,omitempty"`
	Timeline pos.Timeline `json:"timeline,omitempty"`
}

// Input is what a plan is made of.
type Input struct {
	Catalog catalog.Catalog
	// Rules are those of the locations to be planned for; nothing is removed
	// from others.
	Rules map[string]Rules
	Uses  []Use
	// Freeze is why the operator wants nothing removed; empty if he does not.
	Freeze string
	// Blocked are locations of which not everything can be reached, and why.
	Blocked map[string]string
	Now     time.Time
}

// Plan is what will be removed and what stays.
type Plan struct {
	// At is the moment that counted as now.
	At time.Time `json:"at"`
	// Frozen is why nothing is removed anywhere; empty when that is not so.
	Frozen string `json:"frozen,omitempty"`
	// Gold are sets that become gold, before anything is removed.
	Gold   []string `json:"gold,omitempty"`
	Places []Place  `json:"places"` // by name
}

// Place is the part of a plan for one location.
type Place struct {
	Location string `json:"location"`
	Frozen   string `json:"frozen,omitempty"` // why nothing is removed here
	Keep     []Keep `json:"keep"`             // oldest first
	// Steps are to be done in this order. It is safe to stop after any of them,
	// and in the middle of one; a new plan goes on.
	Steps []Step `json:"steps,omitempty"`
}

// Keep is a set that stays and all reasons for it.
type Keep struct {
	Label string   `json:"label"`
	Why   []string `json:"why"`
}

// StepKind is what a step removes.
type StepKind string

// The kinds of a step.
const (
	StepFinish StepKind = "finish" // the rest of a copy whose removal had begun
	StepSet    StepKind = "set"    // a set's copy
	StepWAL    StepKind = "wal"    // whole segments of log
)

// Step is one removal.
type Step struct {
	Kind  StepKind `json:"kind"`
	Label string   `json:"label,omitempty"`
	Bytes int64    `json:"bytes,omitempty"` // that are freed, as far as known
	// WAL are the bytes of a timeline whose segments go. It begins and ends at
	// boundaries of segments, or where the stored log does.
	Timeline pos.Timeline `json:"timeline,omitempty"`
	WAL      pos.Range    `json:"wal,omitzero"`
	Why      string       `json:"why"`
}

// Make plans for the locations that have rules.
func Make(in Input) Plan {
	s := newSolver(in)
	p := Plan{At: s.clock.now, Frozen: s.frozen()}
	for _, name := range s.names {
		s.places = append(s.places, s.decide(name))
	}
	for _, d := range s.places {
		out := Place{Location: d.name, Frozen: d.frozen, Keep: d.keeps()}
		if p.Frozen == "" && d.frozen == "" {
			p.Gold = union(p.Gold, d.gold)
			out.Steps = append(d.removals(), s.walSteps(d)...)
		}
		p.Places = append(p.Places, out)
	}
	return p
}

// Want is what is worth copying to a location.
type Want struct {
	Sets []string // newest first
	// Log is what the location lacks of what it would keep, where others have
	// it. What follows the end of its own log is left to its feeder.
	Log []catalog.Stretch
}

// Wants is what a location would keep if it had all that any location has.
func Wants(in Input, location string) Want {
	had := in.Catalog
	in.Catalog = everythingAt(in.Catalog, location)
	in.Uses, in.Blocked = nil, nil
	in.Rules = map[string]Rules{location: in.Rules[location]}
	s := newSolver(in)
	d := s.decide(location)
	var w Want
	for _, k := range d.keeps() {
		if s.c.Sets[k.Label].State == catalog.SetComplete {
			w.Sets = append([]string{k.Label}, w.Sets...)
		}
	}
	if s.c.SegSize > 0 {
		w.Log = lacking(had, location, s.needed(d))
	}
	return w
}
