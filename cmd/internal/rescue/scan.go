package rescue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"understudy/cmd/internal/places"
	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// maxShown bounds the problems of one location that are told one by one.
const maxShown = 5

// scan asks the locations what they hold, and joins that with what is known
// already. Places that cannot be read are left out with a warning.
func (k *Knowledge) scan(ctx context.Context) error {
	if k.Root.Group == "" {
		if err := k.findGroup(ctx); err != nil {
			return err
		}
	}
	var read []Place
	var scans []catalog.Catalog
	for _, p := range k.Places {
		c, problems, err := archive.Scan(ctx, archive.Place{Name: p.Name, Location: p.Location}, k.Root)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			k.Warnings = append(k.Warnings, err.Error())
			_ = p.Location.Close() // cannot be used
			continue
		}
		k.tell(p.Name, problems)
		k.readExport(ctx, p)
		read, scans = append(read, p), append(scans, c)
	}
	k.Places = read
	if len(read) == 0 {
		return fmt.Errorf("no location can be read: %s; where the disk of one is mounted here, name its directory with --from", strings.Join(k.Warnings, "; "))
	}
	var warnings []string
	k.Catalog, warnings = join(k.Catalog, scans)
	k.Warnings = append(k.Warnings, warnings...)
	if len(k.Catalog.Sets) == 0 && len(k.Catalog.Timelines) == 0 {
		return k.nothing(ctx)
	}
	return nil
}

// nothing says why a location seems to be empty.
func (k *Knowledge) nothing(ctx context.Context) error {
	groups, sealed, err := groupsAt(ctx, k.Places)
	switch {
	case err != nil:
		return err
	case sealed:
		return badSource("the backups there are encrypted: name the age identity with --identity FILE")
	case len(groups) > 0:
		return badSource("there are no backups of group %s, only of %s: name one with --group-name", k.Root.Group, strings.Join(groups, ", "))
	}
	return badSource("there are no backups at %s; the directory of a location is the one with the folder of the group in it", strings.Join(k.names(), ", "))
}

func (k *Knowledge) tell(place string, problems []archive.Problem) {
	for i, p := range problems {
		if i == maxShown {
			k.Warnings = append(k.Warnings, fmt.Sprintf("%s: %d more things are not as they should be", place, len(problems)-maxShown))
			break
		}
		k.Warnings = append(k.Warnings, place+": "+p.String())
	}
}

// readExport takes from an export of the ledger what a listing cannot tell.
func (k *Knowledge) readExport(ctx context.Context, p Place) {
	x, err := places.ReadExport(ctx, p.Location, k.Root.Group)
	if errors.Is(err, location.ErrNotExist) {
		return
	}
	if err != nil {
		k.Warnings = append(k.Warnings, fmt.Sprintf("%s: the export of the ledger is not used: %v", p.Name, err))
		return
	}
	c := x.Catalogs[k.Root.Profile]
	if k.Catalog.SystemID == 0 || c.SystemID == k.Catalog.SystemID && x.LastTimeline > k.LastTimeline {
		k.Catalog = c
	}
	k.LastTimeline = max(k.LastTimeline, x.LastTimeline)
	if rates, ok := ratesOf(x.Drills); ok && !k.Measured {
		k.Rates, k.Measured = rates, true
	}
}

// findGroup takes the only group that has backups at the places.
func (k *Knowledge) findGroup(ctx context.Context) error {
	groups, sealed, err := groupsAt(ctx, k.Places)
	switch {
	case err != nil:
		return err
	case sealed:
		return badSource("the backups there are encrypted: name the age identity with --identity FILE")
	case len(groups) == 0:
		return badSource("there are no backups at %s; the directory of a location is the one with the folder of the group in it", strings.Join(k.names(), ", "))
	case len(groups) > 1:
		return badSource("there are backups of the groups %s: name one with --group-name", strings.Join(groups, ", "))
	}
	k.Root.Group = groups[0]
	return nil
}

// groupsAt are the groups that have something at any of the places. sealed
// tells that what is there is encrypted and no identity was given.
func groupsAt(ctx context.Context, places []Place) (groups []string, sealed bool, err error) {
	found := map[string]bool{}
	var failed error
	for _, p := range places {
		err := p.Location.List(ctx, "", func(o location.Info) error {
			group, rest, _ := strings.Cut(o.Key, "/")
			profile, _, _ := strings.Cut(rest, "/")
			switch {
			case profile != facts.ProfilePostgres && rest != "ledger.json" && rest != "ledger.json.age":
			case strings.HasSuffix(o.Key, ".age"):
				sealed = true
			default:
				found[group] = true
			}
			return nil
		})
		if ctx.Err() != nil {
			return nil, false, context.Cause(ctx)
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("location %s: %w", p.Name, err))
		}
	}
	if len(found) == 0 && failed != nil {
		return nil, false, failed
	}
	return slices.Sorted(maps.Keys(found)), sealed && len(found) == 0, nil
}

// join is what some locations hold, by their own word, with what a ledger knew
// of it beyond that: histories, moments, notes, and damage found before.
func join(known catalog.Catalog, scans []catalog.Catalog) (out catalog.Catalog, warnings []string) {
	out = catalog.Catalog{Group: known.Group, Profile: known.Profile, SystemID: known.SystemID, Major: known.Major, SegSize: known.SegSize,
		Timelines: map[pos.Timeline]catalog.Timeline{}, Sets: map[string]catalog.Set{}, Places: map[string]catalog.Place{}}
	maps.Copy(out.Timelines, known.Timelines)
	for _, s := range scans {
		if out.SystemID == 0 {
			out.Group, out.Profile, out.SystemID, out.Major, out.SegSize = s.Group, s.Profile, s.SystemID, s.Major, s.SegSize
		}
		if s.SystemID != 0 && s.SystemID != out.SystemID {
			warnings = append(warnings, fmt.Sprintf("%s holds the database with system identifier %d, others %d; it is not used", strings.Join(slices.Collect(maps.Keys(s.Places)), ", "), s.SystemID, out.SystemID))
			continue
		}
		if out.Major == 0 {
			out.Major = s.Major
		}
		for id, t := range s.Timelines {
			if have, ok := out.Timelines[id]; !ok || have.Parent == 0 {
				out.Timelines[id] = t
			}
		}
		joinSets(out.Sets, known.Sets, s.Sets)
		for name, p := range s.Places {
			out.Places[name] = withMarks(p, known)
		}
	}
	return out, warnings
}

func joinSets(out, known, found map[string]catalog.Set) {
	for label, s := range found {
		set, copies := s, map[string]catalog.Copy{}
		if k, ok := known[label]; ok && k.Digest == s.Digest {
			set = k
			set.State = catalog.SetComplete
		}
		maps.Copy(copies, out[label].Copies)
		for name, cp := range s.Copies {
			if was := known[label].Copies[name]; was.State == catalog.CopyDamaged && known[label].Digest == s.Digest {
				cp = was
			}
			copies[name] = cp
		}
		set.Copies = copies
		out[label] = set
	}
}

// withMarks adds the moments that are known of a timeline to its stretches at a
// place: seals name few of them.
func withMarks(p catalog.Place, known catalog.Catalog) catalog.Place {
	p.WAL = slices.Clone(p.WAL)
	for i, s := range p.WAL {
		marks := slices.Clone(s.Marks)
		for _, k := range known.Places {
			for _, o := range k.WAL {
				for _, m := range o.Marks {
					if o.Timeline == s.Timeline && m.LSN > s.From && m.LSN <= s.To {
						marks = append(marks, m)
					}
				}
			}
		}
		p.WAL[i].Marks = sortMarks(marks)
	}
	return p
}

func sortMarks(marks []catalog.Mark) []catalog.Mark {
	slices.SortStableFunc(marks, func(a, b catalog.Mark) int {
		if a.LSN != b.LSN {
			if a.LSN < b.LSN {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return slices.CompactFunc(marks, func(a, b catalog.Mark) bool { return a.LSN == b.LSN && a.Name == b.Name })
}
