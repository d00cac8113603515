package view

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Backups is what can be restored, and what is being done for it.
type Backups struct {
	Level     BackupLevel `json:"level"`
	Protected bool        `json:"protected"` // one location at least has all up to now
	Rule      string      `json:"rule"`      // stable id of why the level is what it is
	Sentence  string      `json:"sentence"`
	// Frozen is why nothing is pruned, "" when it may be.
	Frozen    string        `json:"frozen,omitempty"`
	LastFull  *LastFull     `json:"last_full,omitempty"`
	LastDrill *LastDrill    `json:"last_drill,omitempty"`
	Locations []BackupPlace `json:"locations"` // by name
	Jobs      []BackupJob   `json:"jobs"`      // running, oldest first
	// Ended are the newest jobs of each kind that ended.
	Ended []BackupJob `json:"ended"`
}

// BackupLevel is a short word for how well the data is backed up.
type BackupLevel string

// The levels, best first.
const (
	BackupsWhole    BackupLevel = "whole"    // every enabled location has all up to now
	BackupsDegraded BackupLevel = "degraded" // one has
	BackupsBehind   BackupLevel = "behind"   // there are sets, but none with all log up to now
	BackupsNone     BackupLevel = "none"     // nothing can be restored
	BackupsOff      BackupLevel = "off"      // no location is enabled
)

// LastFull is the newest complete set, which has a parent when it is an
// incremental one.
type LastFull struct {
	Label   string    `json:"label"`
	Parent  string    `json:"parent,omitempty"`
	Ended   time.Time `json:"ended"`
	Age     float64   `json:"age_seconds"`
	Bytes   int64     `json:"bytes"`
	Node    string    `json:"node"`
	Damaged bool      `json:"damaged,omitempty"`
}

// LastDrill is the newest restore that was tried out.
type LastDrill struct {
	At      time.Time `json:"at"`
	OK      bool      `json:"ok"`
	Seconds float64   `json:"seconds"`
	Problem string    `json:"problem,omitempty"`
}

// PlaceState is how a location stands.
type PlaceState string

// The states of a location.
const (
	PlaceOK       PlaceState = "ok"
	PlaceDisabled PlaceState = "disabled"
	PlaceFailing  PlaceState = "failing" // its feeder cannot store log
	PlaceEmpty    PlaceState = "empty"   // nothing can be restored from it
	PlaceGap      PlaceState = "gap"     // log is missing after its newest set
	PlaceUnfed    PlaceState = "unfed"   // no node archives log there
	PlaceWaiting  PlaceState = "waiting" // for its time window, for example
	PlaceBehind   PlaceState = "behind"  // what it has is older than five minutes
)

// behindAfter is the age of the newest commit at a location from which on it
// counts as behind.
const behindAfter = 5 * time.Minute

// partialEvery is how often a segment that is not full yet is stored, as long as
// nothing is in the way.
const partialEvery = 10 * time.Second

// BackupPlace is one location.
type BackupPlace struct {
	Name    string     `json:"name"`
	Enabled bool       `json:"enabled"`
	Tier    facts.Tier `json:"tier"`
	State   PlaceState `json:"state"`
	Feeder  string     `json:"feeder,omitempty"`
	// Sets counts those that can be restored from it alone; Newest is the last.
	Sets   int    `json:"sets"`
	Newest string `json:"newest,omitempty"`
	// Since is the first moment from which on all can be restored, if Whole.
	Whole    bool         `json:"whole"`
	Since    time.Time    `json:"since,omitzero"`
	Timeline pos.Timeline `json:"timeline"`
	Archived pos.LSN      `json:"archived"`
	LagBytes int64        `json:"lag_bytes"`
	// LagSeconds is the age of the newest commit that is there while something
	// is not, 0 when all is; absent when unknown. It is ten seconds at most while
	// the feeder keeps up.
	LagSeconds   *float64  `json:"lag_seconds,omitempty"`
	Rate         int64     `json:"bytes_per_second,omitempty"`
	Problem      string    `json:"problem,omitempty"`
	ProblemSince time.Time `json:"problem_since,omitzero"`
	Waiting      string    `json:"waiting,omitempty"`
}

// BackupJob is one job.
type BackupJob struct {
	ID        string         `json:"id"`
	Kind      facts.JobKind  `json:"kind"`
	State     facts.JobState `json:"state"`
	Node      string         `json:"node"`
	Label     string         `json:"label,omitempty"`
	Locations []string       `json:"locations,omitempty"`
	Began     time.Time      `json:"began"`
	Ended     time.Time      `json:"ended,omitzero"`
	Problem   string         `json:"problem,omitempty"`
	// What follows is of a running one, as far as this node hears of it.
	Step    string `json:"step,omitempty"`
	Done    int64  `json:"done_bytes,omitempty"`
	Total   int64  `json:"total_bytes,omitempty"`
	Percent int    `json:"percent,omitempty"`
	// Remaining is how long the rest takes at the speed so far; 0 while unknown.
	Remaining float64 `json:"remaining_seconds,omitempty"`
}

// EnabledLocations are the names of the locations that are written to, sorted.
func EnabledLocations(p facts.Policy) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.Locations)) {
		if !p.Locations[name].Disabled {
			out = append(out, name)
		}
	}
	return out
}

// ProtectionOf is what Input.Protection must hold for a state.
func ProtectionOf(st facts.State) catalog.Protection {
	c, _ := st.Catalog(facts.ProfilePostgres)
	return catalog.Protected(c, slices.Sorted(maps.Keys(st.Policy.Locations)))
}

// backups is nil for a node without a group.
func (s *situation) backups() *Backups {
	st := s.in.State
	if !st.Founded() {
		return nil
	}
	p := s.in.Protection
	if p == nil {
		made := ProtectionOf(st)
		p = &made
	}
	b := &Backups{Frozen: st.PruneFrozen(facts.ProfilePostgres), Locations: []BackupPlace{}, Jobs: []BackupJob{}, Ended: []BackupJob{}}
	for _, standing := range p.Places {
		for _, name := range standing.Locations { // one each
			if _, ok := st.Policy.Locations[name]; ok {
				b.Locations = append(b.Locations, s.place(name, standing))
			}
		}
	}
	b.LastFull, b.LastDrill = s.lastFull(), s.lastDrill()
	for _, id := range slices.Sorted(maps.Keys(st.Backups.Jobs)) {
		b.Jobs = append(b.Jobs, s.backupJob(st.Backups.Jobs[id]))
	}
	slices.SortStableFunc(b.Jobs, func(x, y BackupJob) int { return x.Began.Compare(y.Began) })
	for _, j := range slices.Backward(st.Backups.Finished) {
		if !slices.ContainsFunc(b.Ended, func(o BackupJob) bool { return o.Kind == j.Kind }) {
			b.Ended = append(b.Ended, s.backupJob(j))
		}
	}
	slices.SortFunc(b.Ended, func(x, y BackupJob) int { return cmp.Compare(x.Kind, y.Kind) })
	b.Level, b.Rule, b.Sentence = s.backupLevel(b)
	b.Protected = b.Level == BackupsWhole || b.Level == BackupsDegraded
	return b
}

func (s *situation) lastFull() *LastFull {
	c, _ := s.in.State.Catalog(facts.ProfilePostgres)
	var newest catalog.Set
	for _, label := range slices.Sorted(maps.Keys(c.Sets)) {
		if set := c.Sets[label]; set.State == catalog.SetComplete && !set.Ended.Before(newest.Ended) {
			newest = set
			newest.Label = label
		}
	}
	if newest.Label == "" {
		return nil
	}
	return &LastFull{Label: newest.Label, Parent: newest.Parent, Ended: newest.Ended, Age: max(s.in.Now.Sub(newest.Ended), 0).Seconds(),
		Bytes: newest.Bytes, Node: newest.Node, Damaged: newest.Damaged}
}

func (s *situation) lastDrill() *LastDrill {
	d := s.in.State.Backups.Drills
	if len(d) == 0 {
		return nil
	}
	last := d[len(d)-1]
	return &LastDrill{At: last.At, OK: last.OK, Seconds: last.Duration.Seconds(), Problem: last.Problem}
}

// place puts together what the ledger and the feeder say of a location.
func (s *situation) place(name string, st catalog.Standing) BackupPlace {
	l := s.in.State.Policy.Locations[name]
	p := BackupPlace{
		Name: name, Enabled: !l.Disabled, Tier: l.Tier, Sets: len(st.Sets), Whole: st.Whole, Since: st.Since,
		Timeline: st.On, Archived: st.UpTo,
	}
	if n := len(st.Sets); n > 0 {
		p.Newest = st.Sets[n-1]
	}
	feeder := s.in.State.Backups.Feeders[name]
	if feeder != "" {
		p.Feeder = s.in.State.NameOf(feeder)
	}
	p.LagBytes = int64(s.committed().Sub(st.UpTo))
	f, heard := s.feedOf(name, feeder)
	if heard {
		p.Timeline, p.Archived, p.LagBytes, p.Rate = f.Timeline, f.Archived, f.Backlog, f.Rate
		p.Problem, p.ProblemSince, p.Waiting = f.Problem, f.Since, f.Waiting
	}
	switch {
	case p.LagBytes == 0 && p.Archived != 0:
		p.LagSeconds = new(float64)
	case !st.Last.IsZero():
		age := max(s.in.Now.Sub(st.Last), 0)
		if heard && f.Problem == "" && f.Waiting == "" && p.LagBytes < s.in.State.Group.SegSize {
			age = min(age, partialEvery) // a database without commits is not behind
		}
		seconds := age.Seconds()
		p.LagSeconds = &seconds
	}
	p.State = p.judge()
	return p
}

// feedOf is what the feeder of a location says of it, while it is heard.
func (s *situation) feedOf(name, feeder string) (decide.Feed, bool) {
	for i := range s.members {
		m := &s.members[i]
		if feeder == "" || m.Store != feeder || !m.fresh() {
			continue
		}
		if i := slices.IndexFunc(m.report.Feeds, func(f decide.Feed) bool { return f.Location == name }); i >= 0 {
			return m.report.Feeds[i], true
		}
	}
	return decide.Feed{}, false
}

// workOn is how far a running job is, by the account of the node that has it.
func (s *situation) workOn(j facts.Job) (decide.Work, bool) {
	for i := range s.members {
		m := &s.members[i]
		if m.Store != j.Store || !m.fresh() || j.State != facts.JobRunning {
			continue
		}
		if i := slices.IndexFunc(m.report.Work, func(w decide.Work) bool { return w.Job == j.ID }); i >= 0 {
			return m.report.Work[i], true
		}
	}
	return decide.Work{}, false
}

func (p BackupPlace) judge() PlaceState {
	late := p.LagSeconds != nil && *p.LagSeconds > behindAfter.Seconds()
	switch {
	case !p.Enabled:
		return PlaceDisabled
	case p.Problem != "":
		return PlaceFailing
	case p.Sets == 0:
		return PlaceEmpty
	case p.Tier == facts.TierCold:
		return PlaceOK // its log comes with the sets
	case !p.Whole:
		return PlaceGap
	case p.Feeder == "":
		return PlaceUnfed
	case late && p.Waiting != "":
		return PlaceWaiting
	case late:
		return PlaceBehind
	}
	return PlaceOK
}

// upToNow tells whether everything up to now, give or take the last minutes, can
// be restored from the location.
func (p BackupPlace) upToNow() bool {
	late := p.LagSeconds == nil || *p.LagSeconds > behindAfter.Seconds()
	return p.Enabled && p.Tier != facts.TierCold && p.Sets > 0 && p.Whole && !late
}

func (s *situation) backupJob(j facts.Job) BackupJob {
	b := BackupJob{ID: j.ID, Kind: j.Kind, State: j.State, Node: j.Node, Label: j.Label, Locations: j.Locations, Began: j.Began, Ended: j.Ended, Problem: j.Problem}
	w, ok := s.workOn(j)
	b.Step, b.Done, b.Total = w.Step, w.Done, w.Total
	if !ok || w.Total <= 0 || w.Done <= 0 {
		return b
	}
	b.Percent = percent(uint64(w.Done), uint64(w.Total))
	if took := s.in.Now.Sub(j.Began).Seconds(); took > 1 && w.Done < w.Total {
		b.Remaining = took / float64(w.Done) * float64(w.Total-w.Done)
	}
	return b
}

// backupLevel judges the whole by its locations.
func (s *situation) backupLevel(b *Backups) (level BackupLevel, rule, sentence string) {
	var enabled, now, bad []BackupPlace
	sets := 0
	for _, p := range b.Locations {
		if !p.Enabled {
			continue
		}
		enabled = append(enabled, p)
		sets += p.Sets
		if p.upToNow() {
			now = append(now, p)
		}
		if p.State != PlaceOK {
			bad = append(bad, p)
		}
	}
	switch {
	case len(b.Locations) == 0:
		return BackupsOff, "no-location", "No backups: the policy names no location for them."
	case len(enabled) == 0:
		return BackupsOff, "disabled", "No backups: every location is disabled."
	case sets == 0 && slices.ContainsFunc(b.Jobs, func(j BackupJob) bool { return j.Kind == facts.JobBackup }):
		return BackupsNone, "first-set", "Nothing can be restored yet: a full backup is being taken."
	case sets == 0:
		return BackupsNone, "no-set", "Nothing can be restored: no location has a full backup with the log that it needs."
	case len(now) == 0:
		return BackupsBehind, "behind", fmt.Sprintf("Backups are behind: %s.", s.badText(bad, enabled))
	}
	text := s.reachText(now)
	if len(bad) == 0 {
		return BackupsWhole, "whole", text + "."
	}
	return BackupsDegraded, "location", text + ", but " + s.badText(bad, enabled) + "."
}

// reachText says what some locations that have all up to now can restore.
func (s *situation) reachText(now []BackupPlace) string {
	var names []string
	var since time.Time
	for _, p := range now {
		names = append(names, p.Name)
		if p.Since.After(since) {
			since = p.Since
		}
	}
	what := "The present"
	if age := s.in.Now.Sub(since); !since.IsZero() && age > 0 {
		what = "Every moment of the last " + ago(age)
	}
	return fmt.Sprintf("%s can be restored from %s", what, list(names, "and"))
}

// badText says what is wrong with locations, or with all of them for the one
// thing that all lack.
func (s *situation) badText(bad, enabled []BackupPlace) string {
	if len(bad) == 0 {
		return "nobody archives the log to " + list(placeNames(enabled), "or")
	}
	var parts []string
	for _, p := range bad {
		parts = append(parts, p.Name+" "+p.stateText())
	}
	return list(parts, "and")
}

func placeNames(places []BackupPlace) (out []string) {
	for _, p := range places {
		out = append(out, p.Name)
	}
	return out
}

// stateText goes on a sentence that begins with the location's name.
func (p BackupPlace) stateText() string {
	switch p.State {
	case PlaceFailing:
		return "cannot be written to (" + p.Problem + ")"
	case PlaceEmpty:
		return "has no full backup yet"
	case PlaceGap:
		return "lacks log after its newest set " + p.Newest
	case PlaceUnfed:
		return "is fed by no node"
	case PlaceWaiting:
		return "waits (" + p.Waiting + ")"
	case PlaceBehind:
		return "is " + ago(time.Duration(*p.LagSeconds*float64(time.Second))) + " behind"
	}
	return "is " + string(p.State)
}

// backupLines are the lines of Render about backups.
func (p *printer) backupLines(st Status) {
	b := st.Backups
	if b == nil {
		return
	}
	text := b.Sentence
	if f := b.LastFull; f != nil {
		kind := "full"
		if f.Parent != "" {
			kind = "incremental"
		}
		text += fmt.Sprintf(" The last %s is %s, %s old.", kind, f.Label, ago(time.Duration(f.Age*float64(time.Second))))
	}
	p.line("  backups       ", "  ", b.Level.color(), text)
	for _, j := range b.Jobs {
		p.line("  "+string(j.Kind)+spaces(14-len(j.Kind)), "  ", "", j.text())
	}
}

func spaces(n int) string { return fmt.Sprintf("%*s", max(n, 0), "") }

// text is a running job in a line.
func (j BackupJob) text() string {
	text := cmp.Or(j.Label, j.ID) + " on " + j.Node
	if j.Step != "" {
		text += ", " + j.Step
	}
	if j.Total > 0 {
		text += fmt.Sprintf(", %d %% of %s", j.Percent, Size(uint64(j.Total)))
	} else if j.Done > 0 {
		text += ", " + Size(uint64(j.Done))
	}
	if j.Remaining > 0 {
		text += ", " + ago(time.Duration(j.Remaining*float64(time.Second))) + " left"
	}
	return text
}

func (l BackupLevel) color() string {
	switch l {
	case BackupsWhole:
		return green
	case BackupsDegraded, BackupsOff:
		return yellow
	}
	return red
}
