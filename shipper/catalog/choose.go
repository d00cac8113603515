package catalog

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/shipper/pos"
)

// Options narrow a choice.
type Options struct {
	// Locations are those that can be used, nearest first; nil is all of them,
	// by name.
	Locations []string
	// Set is the label of the set to begin with; empty leaves the choice.
	Set string
	// Exclude are labels of sets that are not to be used.
	Exclude []string
}

// Choice is how a target is reached.
type Choice struct {
	Target    Target   `json:"target"`
	Set       string   `json:"set"`
	Locations []string `json:"locations"` // that have the whole set, nearest first
	// Chain are the sets that make up an incremental one, the full one first and
	// Set last; none for a full one. All of them are at the Locations, at each one
	// or together.
	Chain    []string `json:"chain,omitempty"`
	Bytes    int64    `json:"bytes"` // of the set, as stored, with those of its chain
	RawBytes int64    `json:"raw_bytes"`
	// Path are the timelines from the one on which the set begins to the
	// target's, which is the last one.
	Path []Step `json:"path"`
	// WAL is the log that is replayed, in order, and where it can be had.
	WAL []Stretch `json:"wal"`
	// Stop is where the recovery has ended at the latest, as far as is known.
	Stop pos.LSN `json:"stop"`
	// Notes are what the operator should know, one sentence each.
	Notes []string `json:"notes,omitempty"`
}

// Timeline is the one to be given to the recovery as its target.
func (c Choice) Timeline() pos.Timeline {
	if len(c.Path) == 0 {
		return 0
	}
	return c.Path[len(c.Path)-1].Timeline
}

// Stretch is log that lies in the files of one timeline.
type Stretch struct {
	Timeline  pos.Timeline `json:"timeline"`
	From      pos.LSN      `json:"from"`
	To        pos.LSN      `json:"to"`
	Locations []string     `json:"locations"` // nearest first
}

// ErrImpossible is wrapped by every Refusal.
var ErrImpossible = errors.New("the target cannot be reached")

// Refusal says why a target cannot be reached, and what could be instead.
type Refusal struct {
	Target Target
	Why    string // one sentence that names what is missing
	// Before and After are the nearest moments that can be restored; nil where
	// there is none.
	Before *Moment
	After  *Moment
}

// Moment is a place of history.
type Moment struct {
	At       time.Time    `json:"at,omitzero"`
	LSN      pos.LSN      `json:"lsn,omitempty"`
	Timeline pos.Timeline `json:"timeline"`
}

// String is the time if there is one, and else the LSN.
func (m Moment) String() string {
	if !m.At.IsZero() {
		return stamp(m.At)
	}
	return m.LSN.String()
}

// Error is the reason and the nearest moments.
func (r *Refusal) Error() string {
	s := fmt.Sprintf("%s: %s: %s", ErrImpossible, r.Target, r.Why)
	var near []string
	if r.Before != nil {
		near = append(near, r.Before.String()+" before it")
	}
	if r.After != nil {
		near = append(near, r.After.String()+" after it")
	}
	if len(near) > 0 {
		s += "; nearest that can be reached: " + strings.Join(near, ", ")
	}
	return s
}

// Unwrap is ErrImpossible.
func (r *Refusal) Unwrap() error { return ErrImpossible }

// Choose picks the set, the locations and the log for a target: the newest set
// that had ended before the target, and from which the log is there without a
// gap. A set with damaged pages is used only when it is named or nothing else
// reaches the target. What is known to be impossible is a *Refusal; what
// cannot be known from a catalog is chosen, and said in the notes.
func Choose(c Catalog, t Target, o Options) (Choice, error) {
	if err := t.Validate(); err != nil {
		return Choice{}, err
	}
	v, err := look(c, t.Timeline, o)
	if err != nil {
		return Choice{}, &Refusal{Target: t, Why: err.Error()}
	}
	sets := v.sets
	if o.Set != "" {
		if sets = v.only(o.Set); len(sets) == 0 {
			return Choice{}, v.refuse(t, nil, v.whyNot(o.Set))
		}
	}
	if len(sets) == 0 {
		return Choice{}, v.refuse(t, nil, v.noSets())
	}
	whole := slices.DeleteFunc(slices.Clone(sets), func(u usable) bool { return u.Damaged })
	for _, among := range [][]usable{whole, sets} {
		if f, ok := v.find(t, among); ok {
			return v.choice(t, f), nil
		}
	}
	return Choice{}, v.explain(t, sets)
}

// only is the one set with that label.
func (v view) only(label string) []usable {
	i := slices.IndexFunc(v.sets, func(u usable) bool { return u.Label == label })
	if i < 0 {
		return nil
	}
	return v.sets[i : i+1]
}

func (v view) whyNot(label string) string {
	if len(v.path) == 0 {
		return fmt.Sprintf("set %.40s is not known", label)
	}
	_, why := v.use(label)
	return fmt.Sprintf("set %.40s %s", label, why)
}

// found is a set and where a recovery from it would stop.
type found struct {
	usable
	stop  pos.LSN
	notes []string
}

// find is the best of some sets for a target.
func (v view) find(t Target, sets []usable) (f found, ok bool) {
	for _, u := range sets { // by end: a later one is better
		stop, notes, can := v.stop(t, u)
		if can && (!ok || t.Kind != Latest || stop >= f.stop) {
			f, ok = found{u, stop, notes}, true
		}
	}
	return f, ok
}

// stop is where a recovery from a set to a target ends, at the latest.
func (v view) stop(t Target, u usable) (at pos.LSN, notes []string, can bool) {
	switch t.Kind {
	case Immediate:
		return u.End, nil, true
	case AtTime:
		if t.Time.Before(u.ready) || !t.Inclusive && t.Time.Equal(u.inner) {
			return 0, nil, false
		}
		for _, m := range v.marks {
			if m.LSN > u.End && m.LSN <= u.reach && m.Name == "" && (m.At.After(t.Time) || !t.Inclusive && m.At.Equal(t.Time)) {
				return m.LSN, nil, true
			}
		}
		return 0, nil, false
	case AtLSN:
		if t.LSN < u.End || t.LSN >= u.reach {
			return 0, nil, false
		}
		return v.stopAtLSN(t.LSN, u)
	case AtXID:
		return u.reach, []string{fmt.Sprintf("a backup does not tell where transaction %d ended: if that was before %s, name an older set; if it is not in the log up to %s, the recovery fails at the end of the log", t.XID, stamp(u.Ended), u.reach)}, true
	case AtName:
		return v.stopAtName(t.Name, u)
	}
	return u.reach, nil, true
}

// stopAtLSN looks for a record that begins at or after an LSN. The second mark
// behind it is of one; the first may be of a record that began before.
func (v view) stopAtLSN(at pos.LSN, u usable) (pos.LSN, []string, bool) {
	behind := 0
	for i, m := range v.marks {
		if m.LSN <= at || m.LSN > u.reach || i > 0 && v.marks[i-1].LSN == m.LSN {
			continue
		}
		if behind++; behind == 2 {
			return m.LSN, nil, true
		}
	}
	return u.reach, []string{fmt.Sprintf("it is not known that a record begins between %s and the end of the log at %s: if none does, the recovery fails there", at, u.reach)}, true
}

// stopAtName looks for a restore point behind a set. One that no mark tells of
// may still be there.
func (v view) stopAtName(name string, u usable) (pos.LSN, []string, bool) {
	var seen []Mark
	for _, m := range v.marks {
		if m.Name == name && (len(seen) == 0 || seen[len(seen)-1].LSN != m.LSN) {
			seen = append(seen, m)
		}
	}
	if len(seen) == 0 {
		return u.reach, []string{fmt.Sprintf("no restore point %q is known: if it was made before %s, name an older set; if it is not in the log up to %s, the recovery fails at the end of the log", name, stamp(u.Ended), u.reach)}, true
	}
	var notes []string
	if len(seen) > 1 {
		notes = append(notes, fmt.Sprintf("%d restore points have the name %q; the recovery stops at the first one after the set", len(seen), name))
	}
	for _, m := range seen {
		if m.LSN <= u.Start {
			continue
		}
		return m.LSN, notes, m.LSN >= u.End && m.LSN <= u.reach
	}
	return 0, nil, false
}

// choice puts together what a recovery needs.
func (v view) choice(t Target, f found) Choice {
	c := Choice{Target: t, Set: f.Label, Locations: f.from, Chain: f.chain, Bytes: f.stored, RawBytes: f.raw, Stop: f.stop, Notes: f.notes}
	for _, s := range v.path {
		if s.end() > f.Start {
			c.Path = append(c.Path, s)
		}
	}
	c.WAL = v.stretches(f.Start, f.stop)
	if f.Damaged {
		c.Notes = append(c.Notes, fmt.Sprintf("set %s has damaged pages: %s", f.Label, orUnknown(f.Problem)))
	}
	if t.Kind == Latest {
		if g := v.gapAt(f.reach, noEnd); g.To != noEnd {
			c.Notes = append(c.Notes, fmt.Sprintf("the log goes on at %s, but cannot be reached: %s is missing", g.To, v.missing(f.reach, noEnd)))
		}
	}
	return c
}

func orUnknown(s string) string {
	if s == "" {
		return "which is not known"
	}
	return s
}

// stretches cuts the log from one LSN to another where the files or the
// locations that have it change.
func (v view) stretches(from, to pos.LSN) (out []Stretch) {
	cuts := []pos.LSN{from, to}
	for _, p := range v.pieces {
		cuts = append(cuts, min(max(p.from, from), to), min(max(p.to, from), to))
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	for i := 0; i+1 < len(cuts); i++ {
		s := Stretch{From: cuts[i], To: cuts[i+1]}
		for _, p := range v.pieces {
			if p.from <= s.From && p.to >= s.To {
				s.Timeline = max(s.Timeline, p.timeline)
			}
		}
		for _, name := range v.o.Locations {
			if slices.ContainsFunc(v.pieces, func(p piece) bool {
				return p.place == name && p.from <= s.From && p.to >= s.To && p.timeline == s.Timeline
			}) {
				s.Locations = append(s.Locations, name)
			}
		}
		if n := len(out); n > 0 && out[n-1].To == s.From && out[n-1].Timeline == s.Timeline && slices.Equal(out[n-1].Locations, s.Locations) {
			out[n-1].To = s.To
			continue
		}
		out = append(out, s)
	}
	return out
}

// noSets says why there is nothing to begin with.
func (v view) noSets() string {
	var newest string
	for label, s := range v.c.Sets {
		if s.State == SetComplete && (newest == "" || s.End > v.c.Sets[newest].End || s.End == v.c.Sets[newest].End && label > newest) {
			newest = label
		}
	}
	if newest == "" {
		return "there is no complete set"
	}
	return "no set can be used; the newest, " + v.whyNot(newest)
}

// refuse puts a reason together with the nearest moments that some sets reach.
func (v view) refuse(t Target, sets []usable, why string) *Refusal {
	r := &Refusal{Target: t, Why: why}
	for _, iv := range v.intervals(sets) {
		switch t.Kind {
		case AtTime:
			if !iv.From.Before(iv.To) {
				continue
			}
			if last := iv.To.Add(-time.Microsecond).Truncate(time.Microsecond); !iv.From.After(last) && last.Before(t.Time) && (r.Before == nil || last.After(r.Before.At)) {
				r.Before = &Moment{At: last, Timeline: iv.Timeline}
			}
			if first := ceil(iv.From); first.After(t.Time) && first.Before(iv.To) && (r.After == nil || first.Before(r.After.At)) {
				r.After = &Moment{At: first, Timeline: iv.Timeline}
			}
		case AtLSN:
			if last := iv.ToLSN - 1; last < t.LSN && last >= iv.FromLSN && (r.Before == nil || last > r.Before.LSN) {
				r.Before = &Moment{LSN: last, Timeline: iv.Timeline}
			}
			if iv.FromLSN > t.LSN && iv.FromLSN < iv.ToLSN && (r.After == nil || iv.FromLSN < r.After.LSN) {
				r.After = &Moment{LSN: iv.FromLSN, Timeline: iv.Timeline}
			}
		}
	}
	return r
}

// ceil is the first whole microsecond that is not before t.
func ceil(t time.Time) time.Time {
	if cut := t.Truncate(time.Microsecond); cut.Before(t) {
		return cut.Add(time.Microsecond)
	}
	return t
}

// explain says why none of the sets, of which there is at least one, reaches
// the target.
func (v view) explain(t Target, sets []usable) *Refusal {
	var last *usable // newest that is not after the target
	first := sets[0]
	for i, u := range sets {
		if u.ready.Before(first.ready) && t.Kind == AtTime {
			first = u
		}
		if t.Kind == AtTime && !t.Time.Before(u.ready) || t.Kind == AtLSN && t.LSN >= u.End {
			last = &sets[i]
		}
	}
	switch {
	case t.Kind == AtName:
		return v.refuse(t, sets, fmt.Sprintf("restore point %q is known, but no set that ended before it is followed by log up to it", t.Name))
	case last == nil:
		why := fmt.Sprintf("the oldest set that can be used, %s, ended at %s, LSN %s", first.Label, stamp(first.ready), first.End)
		return v.refuse(t, sets, why+v.older(t, first.Label))
	}
	g := v.gapAt(last.reach, noEnd)
	why := fmt.Sprintf("the log that follows set %s ends at %s", last.Label, last.reach)
	if t.Kind == AtTime && last.until.IsZero() {
		why += ", and no commit after the set is known to be in it"
	} else if t.Kind == AtTime {
		why += fmt.Sprintf(", and the last commit that is known to be in it is of %s", stamp(last.until))
	}
	if g.To != noEnd || g.Cause != "" {
		why += "; missing is " + v.missing(last.reach, noEnd)
	}
	return v.refuse(t, sets, why)
}

// older says why an older set than the first usable one does not help.
func (v view) older(t Target, label string) string {
	if v.o.Set != "" {
		return ", and it was named"
	}
	var best string
	for l, s := range v.c.Sets {
		before := t.Kind == AtTime && !s.Ended.After(t.Time) || t.Kind == AtLSN && s.End <= t.LSN
		if s.State == SetComplete && before && l != label && (best == "" || s.End > v.c.Sets[best].End || s.End == v.c.Sets[best].End && l > best) {
			best = l
		}
	}
	if best == "" {
		return ""
	}
	return "; set " + strings.TrimPrefix(v.whyNot(best), "set ")
}

func list(names []string) string {
	if len(names) == 0 {
		return "any location"
	}
	return strings.Join(names, ", ")
}
