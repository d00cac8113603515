package worker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"understudy/cmd/internal/places"
	"understudy/ledger/facts"
	"understudy/shipper/location"
)

// errOtherDatabase is returned for a location where a group of the same name has
// kept the backups of another database. Mixed with ours, neither could be
// restored by who finds them there.
var errOtherDatabase = errors.New("it holds the backups of another database")

// owned is a location in which nothing is changed while the ledger's export
// there is that of another database.
type owned struct {
	location.Location
	group facts.Group

	mu   sync.Mutex
	ours bool
}

// Create implements location.Location.
func (o *owned) Create(ctx context.Context, key string, how location.CreateOptions) (location.Upload, error) {
	if err := o.check(ctx); err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	return o.Location.Create(ctx, key, how)
}

// Remove implements location.Location.
func (o *owned) Remove(ctx context.Context, key string) error {
	if err := o.check(ctx); err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return o.Location.Remove(ctx, key)
}

// Sweep implements location.Location.
func (o *owned) Sweep(ctx context.Context, before time.Time) (int, error) {
	if err := o.check(ctx); err != nil {
		return 0, err
	}
	return o.Location.Sweep(ctx, before)
}

// check looks at the export until a look has come to an answer. One that cannot
// be read tells nothing, as it may be encrypted for others; while the location
// cannot be reached nothing can be said, nor changed.
func (o *owned) check(ctx context.Context) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ours {
		return nil
	}
	x, err := places.ReadExport(ctx, o.Location, o.group.Name)
	if errors.Is(err, location.ErrUnreachable) || ctx.Err() != nil {
		return err
	}
	if err == nil && x.Group.SystemID != o.group.SystemID {
		return fmt.Errorf("%w, of a group %s too (system identifier %d, ours is %d); name another path for this location or move %s/ away there, and what lies in it stays restorable with restore --from",
			errOtherDatabase, o.group.Name, x.Group.SystemID, o.group.SystemID, o.group.Name)
	}
	o.ours = true
	return nil
}
