package rescue

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/standby/recover"
)

// Extra are the files that a set has beside the database, and where they go.
type Extra struct {
	Set   string `json:"set"`
	Dir   string `json:"dir"`
	FileN int    `json:"files"` // folders not counted
	Bytes int64  `json:"bytes"`
	// Paths are the first of them, as on their host.
	Paths []string `json:"paths"`

	digest string
	root   recover.Sources
}

// maxExtraPaths are shown in a plan.
const maxExtraPaths = 10

// MakeExtra plans to unpack the other files of a set below a directory. set is a
// label, empty for the newest. Nothing is touched for it.
func (k *Knowledge) MakeExtra(ctx context.Context, set, dir string) (*Extra, error) {
	set = cmp.Or(set, newestSet(k.Catalog))
	if set == "" {
		return nil, refused("there is no full backup yet")
	}
	e := &Extra{Set: set, Dir: dir, digest: k.Catalog.Sets[set].Digest, root: k.sources(set)}
	if len(e.root.Places) == 0 {
		return nil, refused("no location that can be read has set %s", set)
	}
	if err := recover.CheckExtra(dir); err != nil {
		return nil, err
	}
	if err := k.guard(dir); err != nil {
		return nil, err
	}
	err := e.root.Files(ctx, set, e.digest, func(f backupset.File) error {
		if f.Archive != backupset.ExtraName || f.Type == backupset.TypeFolder {
			return nil
		}
		if len(e.Paths) < maxExtraPaths {
			e.Paths = append(e.Paths, "/"+f.Path)
		}
		e.FileN++
		e.Bytes += f.Size
		return nil
	})
	if err == nil && e.FileN == 0 {
		err = refused("set %s: %w; which others are taken, backup.extra of the policy says", set, recover.ErrNoExtra)
	}
	return e, err
}

// Run unpacks them.
func (e *Extra) Run(ctx context.Context) (recover.Extra, error) {
	out, err := e.root.UnpackExtra(ctx, e.Set, e.digest, e.Dir)
	if errors.Is(err, context.Canceled) {
		err = fmt.Errorf("interrupted: %w", err)
	}
	return out, err
}

// Files calls f for the files of a set: for those beside the database, or for
// all. It names the set that was looked at; an empty label means the newest.
func (k *Knowledge) Files(ctx context.Context, label string, all bool, f func(backupset.File) error) (string, error) {
	label = cmp.Or(label, newestSet(k.Catalog))
	from := k.sources(label)
	if len(from.Places) == 0 {
		return label, refused("no location that can be read has a set %q", label)
	}
	return label, from.Files(ctx, label, k.Catalog.Sets[label].Digest, func(x backupset.File) error {
		if !all && x.Archive != backupset.ExtraName {
			return nil
		}
		return f(x)
	})
}

// sources are the places that have a set, nearest first.
func (k *Knowledge) sources(label string) recover.Sources {
	out := recover.Sources{Root: k.Root}
	copies := k.Catalog.Sets[label].Copies
	for _, p := range k.Places {
		if copies[p.Name].State == catalog.CopyComplete {
			out.Places = append(out.Places, recover.Source{Name: p.Name, Location: p.Location})
		}
	}
	return out
}

// newestSet is the label of the complete set that ended last; "" for none.
func newestSet(c catalog.Catalog) (newest string) {
	for _, label := range slices.Sorted(maps.Keys(c.Sets)) {
		if s := c.Sets[label]; s.State == catalog.SetComplete && (newest == "" || !s.Ended.Before(c.Sets[newest].Ended)) {
			newest = label
		}
	}
	return newest
}
