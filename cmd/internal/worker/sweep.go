package worker

import (
	"context"
	"fmt"
	"slices"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/backup"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
)

const (
	// sweepAfter is how old something must be to belong to nobody when the
	// ledger knows nothing of whoever made it.
	sweepAfter = 24 * time.Hour
	// quiet is how long an upload may go without a byte: every wait for a
	// location is bounded by far less.
	quiet = time.Hour
	// clocks is how much the clock of the ledger's leader, which says when a job
	// began, may differ from the one here.
	clocks = 5 * time.Minute
	// sweepTime bounds the clearing of a location beside other work.
	sweepTime = time.Minute
)

// sweepAll clears the locations of a job that was done for something else. It
// is a help: what cannot be cleared now is there for the next job.
func (w *work) sweepAll(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	for _, s := range w.spec.Sweep {
		if err := w.sweep(ctx, s); err != nil {
			w.log.Warn("clear a location of what interrupted work has left", "location", s.Location, "error", err)
		}
	}
}

// sweep removes what interrupted work has left: unfinished uploads, and the
// folders of sets without set.json.
func (w *work) sweep(ctx context.Context, s Sweep) error {
	loc, err := w.location(s.Location)
	if err != nil {
		return err
	}
	orphans, err := w.sweepSets(ctx, loc, s)
	if err != nil {
		return err
	}
	before, err := w.uploadsBefore(ctx, loc, s)
	if err != nil {
		return err
	}
	n, err := loc.Sweep(ctx, before)
	if err != nil {
		return fmt.Errorf("remove unfinished uploads: %w", err)
	}
	w.log.Info("swept", "location", s.Location, "uploads", n, "orphans", orphans)
	return nil
}

// sweepSets removes the pieces of sets that will never be whole: at once those
// of a failed set whose job has ended, later those that nobody knows. What a
// fill of a set that is whole elsewhere has brought stays for the next one.
func (w *work) sweepSets(ctx context.Context, loc location.Location, s Sweep) (removed int, err error) {
	orphans, err := backup.Orphans(ctx, loc, w.spec.Root())
	if err != nil {
		return 0, fmt.Errorf("look for orphans: %w", err)
	}
	for _, o := range orphans {
		set, known := w.spec.Catalog.Sets[o.Label]
		_, copied := set.Copies[s.Location]
		failed := !known || set.State == catalog.SetFailed
		over := failed && slices.Contains(s.Over, o.Label)
		if !over && (copied || time.Since(o.Newest) < sweepAfter) {
			continue // somebody may be writing it
		}
		if err := backup.Remove(ctx, loc, w.spec.Root(), o.Label); err != nil {
			return removed, err
		}
		removed++
	}
	return removed, nil
}

// uploadsBefore is when an upload that belongs to nobody was last written to,
// at the latest, by the place's clock: those who may be at work there began
// later, or would have written since.
func (w *work) uploadsBefore(ctx context.Context, loc location.Location, s Sweep) (time.Time, error) {
	began := time.Now()
	latest := latestIdle(began, s.Busy)
	if w.spec.Locations[s.Location].Kind == facts.LocationLocal {
		return latest, nil // an upload that lives has its file locked
	}
	at, err := w.clockOf(ctx, loc)
	switch {
	case ctx.Err() != nil:
		return time.Time{}, context.Cause(ctx)
	case err != nil || at.IsZero():
		w.log.Info("the clock of a location is not known: only uploads of yesterday are removed", "location", s.Location, "error", err)
		return began.Add(-sweepAfter), nil
	}
	return latest.Add(at.Sub(began)), nil
}

// latestIdle is the moment before which nobody has begun who may still write.
func latestIdle(now, busy time.Time) time.Time {
	latest := now.Add(-quiet)
	if began := busy.Add(-clocks); !busy.IsZero() && began.Before(latest) {
		return began
	}
	return latest
}

// clockName is an object that lies at a location for a moment.
const clockName = "clock"

// clockOf asks for the time at a place by storing something there.
func (w *work) clockOf(ctx context.Context, loc location.Location) (time.Time, error) {
	key := w.spec.Group.Name + "/" + clockName
	if err := writeObject(ctx, loc, key, []byte("now\n")); err != nil {
		return time.Time{}, err
	}
	info, err := loc.Stat(ctx, key)
	if err := loc.Remove(ctx, key); err != nil {
		w.log.Warn("a small object stays at a location until the next time", "key", key, "error", err)
	}
	return info.At, err
}
