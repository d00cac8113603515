package admin

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Backups is what the surface needs of the daemon about backups, beside the
// ledger's state and the status. All methods may be called by many goroutines
// at once.
type Backups interface {
	// JobDir is the folder in which this node keeps the log and the list of
	// files of a job that it ran.
	JobDir(id string) string
	// Space is the room at a location; false where it is not known here. It does
	// not wait for the network.
	Space(ctx context.Context, location string) (location.Space, bool)
	// Retention is what a prune of all locations would do now.
	Retention() retention.Plan
	// Needed says whether a new backup is needed.
	Needed(ctx context.Context) (doc.Needed, error)
	// AuditFile is this node's copy of the group's audit.
	AuditFile() string
}

// The codes for what is not there: 404.
const (
	CodeUnknownSet      = "unknown-set"
	CodeUnknownJob      = "unknown-job"
	CodeUnknownLocation = "unknown-location"
)

func (s *server) handleBackups(mux *http.ServeMux) {
	mux.HandleFunc("GET /api/v1/sets", s.sets)
	mux.HandleFunc("GET /api/v1/sets/{label}", s.set)
	mux.HandleFunc("GET /api/v1/points", s.points)
	mux.HandleFunc("GET /api/v1/jobs", s.jobs)
	mux.HandleFunc("GET /api/v1/jobs/{id}", s.job)
	mux.HandleFunc("GET /api/v1/locations", s.locations)
	mux.HandleFunc("GET /api/v1/retention", s.retention)
	mux.HandleFunc("GET /api/v1/needed", s.needed)
	mux.HandleFunc("GET /api/v1/audit", s.audit)
	mux.HandleFunc("GET /api/v1/audit/export", s.exportAudit)
	mux.HandleFunc("GET /api/v1/ledger", s.exportLedger)
}

func unknown(code, text string) error { return &ActionError{Code: code, Text: text} }

func (s *server) sets(w http.ResponseWriter, _ *http.Request) {
	st, _ := s.b.Self()
	writeJSON(w, http.StatusOK, setsDoc(st))
}

func (s *server) set(w http.ResponseWriter, r *http.Request) {
	st, _ := s.b.Self()
	label := r.PathValue("label")
	all := setsDoc(st)
	i := slices.IndexFunc(all.Sets, func(x doc.Set) bool { return x.Label == label })
	if i < 0 {
		writeActionError(w, unknown(CodeUnknownSet, "No set has the label "+clip(label)+"; list them with: understudy sets"))
		return
	}
	writeJSON(w, http.StatusOK, all.Sets[i])
}

// clip keeps a name from outside short.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

func setsDoc(st facts.State) doc.Sets {
	c, _ := st.Catalog(facts.ProfilePostgres)
	out := doc.Sets{Profile: facts.ProfilePostgres, Frozen: st.PruneFrozen(facts.ProfilePostgres), Sets: []doc.Set{}}
	names := slices.Sorted(maps.Keys(c.Places))
	for _, set := range c.Sets {
		names = append(names, slices.Sorted(maps.Keys(set.Copies))...)
	}
	slices.Sort(names)
	alone := usableAt(c, slices.Compact(names))
	together := usable(c, nil)
	for _, label := range slices.Sorted(maps.Keys(c.Sets)) {
		set := c.Sets[label]
		d := doc.Set{
			Label: label, State: string(set.State), Kind: doc.KindFull, Timeline: set.Timeline, Start: set.Start, End: set.End, Began: set.Began, Ended: set.Ended,
			Node: set.Node, Bytes: set.Bytes, RawBytes: set.RawBytes, Digest: set.Digest, Problem: set.Problem, Damaged: set.Damaged,
			Pinned: set.Pinned, Gold: set.Gold, Notes: set.Notes, Copies: []doc.Copy{}, Restorable: together[label], Job: jobOf(st, label),
		}
		if set.Parent != "" {
			d.Kind = doc.KindIncremental
			d.Chain, _ = c.Chain(label) // without it, it cannot be restored, and that is said
		}
		if set.Ended.After(set.Began) {
			d.DurationNS = int64(set.Ended.Sub(set.Began))
		}
		for _, name := range slices.Sorted(maps.Keys(set.Copies)) {
			cp := set.Copies[name]
			d.Copies = append(d.Copies, doc.Copy{Location: name, State: string(cp.State), At: cp.At, Verified: cp.Verified, Problem: cp.Problem, Restorable: alone[name][label]})
		}
		out.Sets = append(out.Sets, d)
	}
	slices.SortStableFunc(out.Sets, func(a, b doc.Set) int { return cmp.Or(b.Began.Compare(a.Began), cmp.Compare(b.Label, a.Label)) })
	return out
}

// usable are the sets that can be restored from some locations, on any
// timeline; nil is all of them together.
func usable(c catalog.Catalog, from []string) map[string]bool {
	out := map[string]bool{}
	for _, t := range c.Known() {
		sets, err := c.Usable(t, catalog.Options{Locations: from})
		if err != nil {
			continue
		}
		for _, u := range sets {
			out[u.Label] = true
		}
	}
	return out
}

func usableAt(c catalog.Catalog, names []string) map[string]map[string]bool {
	out := map[string]map[string]bool{}
	for _, name := range names {
		out[name] = usable(c, []string{name})
	}
	return out
}

// jobOf is the running job that takes or uses a set.
func jobOf(st facts.State, label string) string {
	for _, id := range slices.Sorted(maps.Keys(st.Backups.Jobs)) {
		if j := st.Backups.Jobs[id]; j.Label == label || slices.Contains(j.Uses.Labels, label) {
			return id
		}
	}
	return ""
}

func (s *server) points(w http.ResponseWriter, r *http.Request) {
	st, _ := s.b.Self()
	name := r.URL.Query().Get("location")
	if name != "" && !knownLocation(st, name) {
		writeActionError(w, noLocation(st, name))
		return
	}
	writeJSON(w, http.StatusOK, pointsDoc(st, name))
}

// knownLocation accepts what the policy has, or has had.
func knownLocation(st facts.State, name string) bool {
	c, _ := st.Catalog(facts.ProfilePostgres)
	_, is := st.Policy.Locations[name]
	_, was := c.Places[name]
	return is || was
}

func noLocation(st facts.State, name string) error {
	text := "The policy has no location " + clip(name)
	if have := slices.Sorted(maps.Keys(st.Policy.Locations)); len(have) > 0 {
		text += "; it has " + strings.Join(have, ", ")
	}
	return unknown(CodeUnknownLocation, text+".")
}

const (
	maxEstimates = 32
	maxNamed     = 100
)

func pointsDoc(st facts.State, name string) doc.Points {
	c, _ := st.Catalog(facts.ProfilePostgres)
	reach := catalog.Reachable(c, name)
	out := doc.Points{Location: name, Intervals: []doc.Interval{}, Gaps: []doc.Gap{}}
	rates, measured := ratesOf(st)
	out.Measured = measured
	for i, iv := range reach.Intervals {
		d := doc.Interval{Timeline: iv.Timeline, From: iv.From, To: iv.To, FromLSN: iv.FromLSN, ToLSN: iv.ToLSN, Sets: iv.Sets}
		if i < maxEstimates {
			d.EstimateNS = int64(estimate(c, iv, name, rates))
		}
		out.Intervals = append(out.Intervals, d)
	}
	for _, g := range reach.Gaps {
		out.Gaps = append(out.Gaps, gapDoc(g, name))
	}
	out.Named = named(c, reach, name)
	return out
}

func gapDoc(g catalog.Gap, location string) doc.Gap {
	return doc.Gap{Location: location, Timeline: g.Timeline, From: g.From, To: g.To, Cause: g.Cause, Since: g.Since}
}

// ratesOf are the speeds of the newest drill that succeeded. What a drill took
// counts as copying, its replay included: rather too long than too short.
func ratesOf(st facts.State) (catalog.Rates, bool) {
	for _, d := range slices.Backward(st.Backups.Drills) {
		if d.OK && d.Bytes > 0 && d.Duration > 0 && d.Profile == facts.ProfilePostgres {
			return catalog.Rates{Restore: float64(d.Bytes) / d.Duration.Seconds()}, true
		}
	}
	return catalog.Rates{}, false
}

// estimate is how long a restore of the end of an interval takes; 0 where that
// cannot be said.
func estimate(c catalog.Catalog, iv catalog.Interval, location string, r catalog.Rates) time.Duration {
	o := catalog.Options{}
	if location != "" {
		o.Locations = []string{location}
	}
	t := catalog.Target{Kind: catalog.Immediate, Timeline: iv.Timeline, Inclusive: true}
	if iv.From.Before(iv.To) {
		t.Kind, t.Time = catalog.AtTime, iv.To.Add(-time.Microsecond)
	} else if n := len(iv.Sets); n > 0 {
		o.Set = iv.Sets[n-1]
	}
	choice, err := catalog.Choose(c, t, o)
	if err != nil {
		return 0
	}
	return catalog.Estimate(choice, r)
}

// named are the restore points within what can be reached.
func named(c catalog.Catalog, reach catalog.Reach, location string) []doc.Named {
	out := []doc.Named{}
	for _, iv := range reach.Intervals {
		path, err := c.Path(iv.Timeline)
		if err != nil {
			continue
		}
		for _, place := range slices.Sorted(maps.Keys(c.Places)) {
			if location != "" && place != location {
				continue
			}
			for _, m := range namedOn(c.Places[place], path) {
				if m.LSN > iv.FromLSN && m.LSN <= iv.ToLSN && !slices.Contains(out, m) {
					out = append(out, m)
				}
			}
		}
	}
	slices.SortStableFunc(out, func(a, b doc.Named) int { return cmp.Or(b.At.Compare(a.At), cmp.Compare(b.LSN, a.LSN)) })
	return out[:min(len(out), maxNamed)]
}

// namedOn are the restore points of a location's log on a path.
func namedOn(p catalog.Place, path []catalog.Step) (out []doc.Named) {
	for _, span := range p.WAL {
		for _, step := range path {
			if step.Timeline != span.Timeline {
				continue
			}
			for _, m := range span.Marks {
				if m.Name != "" && m.LSN > step.From && (step.To == 0 || m.LSN <= step.To) {
					out = append(out, doc.Named{Name: m.Name, At: m.At, LSN: m.LSN, Timeline: span.Timeline})
				}
			}
		}
	}
	return out
}

func (s *server) locations(w http.ResponseWriter, r *http.Request) {
	st, _ := s.b.Self()
	status, err := s.b.Status(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	out := doc.Locations{Locations: []doc.Location{}}
	for _, name := range slices.Sorted(maps.Keys(st.Policy.Locations)) {
		d := locationDoc(st, status, name)
		if space, ok := s.b.Space(r.Context(), name); ok {
			d.Free, d.Total = space.Free, space.Total
		}
		out.Locations = append(out.Locations, d)
	}
	slices.SortStableFunc(out.Locations, func(a, b doc.Location) int {
		return cmp.Compare(st.Policy.Locations[a.Name].Order, st.Policy.Locations[b.Name].Order)
	})
	writeJSON(w, http.StatusOK, out)
}

func locationDoc(st facts.State, status view.Status, name string) doc.Location {
	p := st.Policy.Locations[name]
	d := doc.Location{
		Name: name, Kind: string(p.Kind), Where: where(p), Node: p.Node, Tier: string(p.Tier), Enabled: !p.Disabled, Encrypted: p.EncryptTo != "",
		Window: p.Window, Throttle: p.ThrottleBytes, Gaps: []doc.Gap{}, Retention: retentionWords(p.Retention),
	}
	if p.Disabled {
		d.State = string(view.PlaceDisabled)
	}
	c, _ := st.Catalog(facts.ProfilePostgres)
	for _, g := range c.Places[name].Gaps {
		d.Gaps = append(d.Gaps, gapDoc(g, name))
	}
	for _, set := range c.Sets {
		if set.State == catalog.SetComplete && set.Copies[name].State == catalog.CopyComplete {
			d.Bytes += set.Bytes
		}
	}
	if status.Backups == nil {
		return d
	}
	i := slices.IndexFunc(status.Backups.Locations, func(l view.BackupPlace) bool { return l.Name == name })
	if i < 0 {
		return d
	}
	l := status.Backups.Locations[i]
	d.State, d.Feeder, d.Timeline, d.Archived, d.LagBytes, d.LagSeconds, d.Rate = string(l.State), l.Feeder, l.Timeline, l.Archived, l.LagBytes, l.LagSeconds, l.Rate
	d.Problem, d.Since, d.Waiting, d.SetN, d.Newest = l.Problem, l.ProblemSince, l.Waiting, l.Sets, l.Newest
	d.NewestAt = c.Sets[l.Newest].Ended
	return d
}

// where is a location's address for people. No secret is part of it.
func where(p facts.LocationPolicy) string {
	switch p.Kind {
	case facts.LocationSFTP:
		return p.User + "@" + p.Address + ":" + p.Path
	case facts.LocationS3:
		text := "s3://" + p.Bucket
		if p.Prefix != "" {
			text += "/" + strings.Trim(p.Prefix, "/")
		}
		if p.Endpoint != "" {
			text += " at " + p.Endpoint
		}
		return text
	}
	return p.Path
}

func (s *server) needed(w http.ResponseWriter, r *http.Request) {
	n, err := s.b.Needed(r.Context())
	if err != nil {
		writeReadError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, n)
}

// bytesOf is how much log lies between two places.
func bytesOf(from, to pos.LSN) int64 { return int64(to.Sub(from)) }
