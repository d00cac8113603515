package rescue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"understudy/cmd/internal/places"
	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// Rebuild is what a location holds that a ledger does not know.
type Rebuild struct {
	Location string `json:"location"` // name of it in the policy
	Where    string `json:"where"`
	Group    string `json:"group"`
	// Known tells that there is a ledger to add to.
	Known     bool           `json:"known"`
	Sets      []RebuiltSet   `json:"sets"`   // that would be added, or get a copy
	Missing   []string       `json:"absent"` // sets that the ledger has there and the location has not
	WAL       []catalog.Span `json:"wal"`    // found, without their moments
	NewBytes  uint64         `json:"new_wal_bytes"`
	Timelines []pos.Timeline `json:"timelines"` // that would be added
	Problems  []string       `json:"problems,omitempty"`
	// Export tells of the export of a ledger that lies there.
	Export *RebuiltExport `json:"export,omitempty"`
	// Scan is what is proposed to the ledger, and Removals how much it had said to
	// be deleted before.
	Scan     catalog.Catalog `json:"-"`
	Removals uint64          `json:"-"`
}

// RebuiltSet is a set that would be added.
type RebuiltSet struct {
	Label string `json:"label"`
	Bytes int64  `json:"bytes"`
	State string `json:"state"` // "new", or "copy" for a set that is known elsewhere
}

// RebuiltExport is what an export of a ledger says of its group.
type RebuiltExport struct {
	State        uint64       `json:"state"`
	Primary      string       `json:"primary,omitempty"`
	Members      []string     `json:"members"`
	Locations    []string     `json:"locations"`
	LastTimeline pos.Timeline `json:"last_timeline"`
	SystemID     uint64       `json:"system_id,string"`
}

// Changes tells whether there is anything to add.
func (r Rebuild) Changes() bool { return len(r.Sets) > 0 || r.NewBytes > 0 || len(r.Timelines) > 0 }

// MakeRebuild scans a location, by its name in the ledger's policy or by what
// --from takes, and compares it with what the ledger knows. The ledger is that
// of the running daemon; without one everything there is new.
func MakeRebuild(ctx context.Context, c Config, from string) (Rebuild, error) {
	var st basis
	if c.Export != nil {
		b, err := c.Export(ctx)
		if err == nil {
			st, err = c.fromExport(b)
		}
		if err != nil && c.Node != nil {
			c.Log.Info("the daemon cannot be asked", "error", err)
		}
	}
	r := Rebuild{Known: st.catalog.Group != "", Location: from, Where: from, Removals: st.removals}
	place, err := c.rebuildPlace(st, from)
	if err != nil {
		return r, err
	}
	defer place.Location.Close()
	r.Where = place.Where
	if r.Location = nameOf(st.locations, from, place); r.Location == "" && r.Known {
		return r, refused("the policy has no location at %s: add it first with understudy policy apply, so that it has a name", place.Where)
	}
	r.Location = cmp.Or(r.Location, place.Name)
	if r.Group = cmp.Or(st.group, c.Group); r.Group == "" {
		k := &Knowledge{Places: []Place{place}}
		if err := k.findGroup(ctx); err != nil {
			return r, err
		}
		r.Group = k.Root.Group
	}
	return r.compare(ctx, place, st)
}

// rebuildPlace opens what is to be scanned.
func (c Config) rebuildPlace(st basis, from string) (Place, error) {
	if _, ok := st.locations[from]; !ok {
		return c.openFrom(from)
	}
	k := &Knowledge{}
	c.Only = []string{from}
	if err := k.open(c, st); err != nil {
		return Place{}, err
	}
	if len(k.Places) == 0 {
		return Place{}, badSource("%s", k.Warnings[0])
	}
	return k.Places[0], nil
}

// nameOf is the name that the policy has for a place; "" for none.
func nameOf(policy map[string]facts.LocationPolicy, from string, p Place) string {
	if _, ok := policy[from]; ok {
		return from
	}
	for _, name := range slices.Sorted(maps.Keys(policy)) {
		l := policy[name]
		if l.Kind == facts.LocationLocal && p.dir != "" && filepath.Clean(l.Path) == p.dir {
			return name
		}
	}
	return ""
}

func (r Rebuild) compare(ctx context.Context, p Place, st basis) (Rebuild, error) {
	root := backupset.Root{Group: r.Group, Profile: facts.ProfilePostgres}
	scan, problems, err := archive.Scan(ctx, archive.Place{Name: r.Location, Location: p.Location}, root)
	if err != nil {
		return r, err
	}
	for _, q := range problems {
		r.Problems = append(r.Problems, q.String())
	}
	x, err := places.ReadExport(ctx, p.Location, r.Group)
	switch {
	case err == nil:
		r.Export = exported(x)
	case !errors.Is(err, location.ErrNotExist):
		r.Problems = append(r.Problems, fmt.Sprintf("ledger.json: %v", err))
	}
	if err == nil && (scan.SystemID == 0 || x.Catalogs[root.Profile].SystemID == scan.SystemID) {
		for id, t := range x.Catalogs[root.Profile].Timelines {
			if have, ok := scan.Timelines[id]; !ok || have.Parent == 0 {
				scan.Timelines[id] = t
			}
		}
	}
	// A ledger keeps its own record of what lacks; a listing only guesses why.
	if pl, ok := scan.Places[r.Location]; ok {
		pl.Gaps = nil
		scan.Places[r.Location] = pl
	}
	r.Scan = scan
	r.count(scan, st.catalog)
	return r, nil
}

func exported(x facts.Exported) *RebuiltExport {
	e := &RebuiltExport{State: x.State, Primary: x.Primary, Members: []string{}, Locations: slices.Sorted(maps.Keys(x.Policy.Locations)),
		LastTimeline: x.LastTimeline, SystemID: x.Group.SystemID}
	for _, m := range x.Members {
		e.Members = append(e.Members, m.Name)
	}
	return e
}

// count compares what was found with what is known.
func (r *Rebuild) count(scan, known catalog.Catalog) {
	r.Sets, r.Missing = []RebuiltSet{}, []string{}
	for _, label := range slices.Sorted(maps.Keys(scan.Sets)) {
		s := scan.Sets[label]
		have, is := known.Sets[label]
		switch cp := s.Copies[r.Location]; {
		case cp.State != catalog.CopyComplete:
		case !is:
			r.Sets = append(r.Sets, RebuiltSet{label, s.Bytes, "new"})
		case have.Digest == s.Digest && have.Copies[r.Location].State == "":
			r.Sets = append(r.Sets, RebuiltSet{label, s.Bytes, "copy"})
		}
	}
	for _, label := range slices.Sorted(maps.Keys(known.Sets)) {
		if _, is := scan.Sets[label]; !is && known.Sets[label].Copies[r.Location].State == catalog.CopyComplete {
			r.Missing = append(r.Missing, label)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(scan.Timelines)) {
		if have, is := known.Timelines[id]; !is || have.Parent == 0 && scan.Timelines[id].Parent != 0 {
			r.Timelines = append(r.Timelines, id)
		}
	}
	for _, s := range scan.Places[r.Location].WAL {
		r.NewBytes += beyond(s, known.Places[r.Location].WAL)
		s.Marks = nil
		r.WAL = append(r.WAL, s)
	}
}

// beyond is how much of a stretch others do not cover.
func beyond(s catalog.Span, known []catalog.Span) uint64 {
	left := s.To.Sub(s.From)
	for _, k := range known {
		if from, to := max(k.From, s.From), min(k.To, s.To); k.Timeline == s.Timeline && from < to {
			left -= to.Sub(from)
		}
	}
	return left
}
