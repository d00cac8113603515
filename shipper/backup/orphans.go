package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// Orphan is the folder of a set without set.json: a backup or a copy that was
// cut off, or one that is being written at this moment.
type Orphan struct {
	Label  string
	Bytes  int64
	Newest time.Time // when the last object was stored, by the place's clock
	Keys   []string  // sorted
}

// Orphans finds what Take, or a removal, left at a location. Only the caller
// knows which of them some node is still writing. Objects below a folder that
// is no label of a set are not ours and not told.
func Orphans(ctx context.Context, loc location.Location, root backupset.Root) ([]Orphan, error) {
	found := map[string]*Orphan{}
	whole := map[string]bool{}
	err := loc.List(ctx, root.Sets(), func(i location.Info) error {
		label, name, ok := strings.Cut(strings.TrimPrefix(i.Key, root.Sets()), "/")
		if _, err := backupset.ParseLabel(label); err != nil || !ok {
			return nil
		}
		if name == backupset.SetName {
			whole[label] = true
		}
		o := found[label]
		if o == nil {
			o = &Orphan{Label: label}
			found[label] = o
		}
		o.Bytes += i.Size
		o.Keys = append(o.Keys, i.Key)
		if i.At.After(o.Newest) {
			o.Newest = i.At
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for unfinished sets: %w", err)
	}
	var out []Orphan
	for label, o := range found {
		if !whole[label] {
			slices.Sort(o.Keys)
			out = append(out, *o)
		}
	}
	slices.SortFunc(out, func(a, b Orphan) int { return cmp.Compare(a.Label, b.Label) })
	return out, nil
}

// Remove deletes a set or an orphan from a location: set.json first, so that a
// removal that is cut off leaves an orphan and no set that lacks objects.
func Remove(ctx context.Context, loc location.Location, root backupset.Root, label string) error {
	if _, err := backupset.ParseLabel(label); err != nil {
		return err
	}
	if err := loc.Remove(ctx, root.Object(label, backupset.SetName)); err != nil {
		return fmt.Errorf("remove set %s: %w", label, err)
	}
	var keys []string
	err := loc.List(ctx, root.SetDir(label), func(i location.Info) error { keys = append(keys, i.Key); return nil })
	if err != nil {
		return fmt.Errorf("remove set %s: %w", label, err)
	}
	var failed error
	for _, k := range keys {
		failed = errors.Join(failed, loc.Remove(ctx, k))
	}
	if failed != nil {
		return fmt.Errorf("remove set %s: %w", label, failed)
	}
	return nil
}
