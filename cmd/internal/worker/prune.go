package worker

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/archive"
	"understudy/shipper/backup"
	"understudy/shipper/location"
)

// sweepAfter is how old an unfinished upload must be to belong to nobody.
const sweepAfter = 24 * time.Hour

// prune does what a plan of removals says. What a location refuses stays for
// the next one: the ledger knows that it was begun.
func (w *work) prune(ctx context.Context) (Done, error) {
	p := w.spec.Prune
	if p == nil {
		return Done{}, errNoPart
	}
	for _, label := range p.Plan.Gold {
		gold := true
		c := facts.MarkSet{Profile: w.spec.Profile, Label: label, Gold: &gold}
		if err := w.port.Propose(ctx, facts.Command{MarkSet: &c}); err != nil {
			return Done{}, fmt.Errorf("make %s gold: %w", label, err)
		}
	}
	var d Done
	var errs []error
	sets, ranges := 0, 0
	for _, place := range p.Plan.Places {
		for _, s := range place.Steps {
			if err := w.remove(ctx, place.Location, s); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", place.Location, err))
				break // the order of a location's steps matters
			}
			d.Bytes += s.Bytes
			if s.Kind == retention.StepWAL {
				ranges++
			} else {
				sets++
			}
		}
	}
	for _, label := range p.Failed {
		if err := w.port.Propose(ctx, facts.Command{RemoveSet: &facts.RemoveSet{Job: w.spec.Job, Label: label}}); err != nil {
			errs = append(errs, err)
		}
	}
	for _, name := range p.Sweep {
		if err := w.sweep(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	d.Result = fmt.Sprintf("%d copies of sets and %d stretches of log removed", sets, ranges)
	return d, errors.Join(errs...)
}

// remove does one step. The ledger is told before the first object goes: from
// then on nobody restores from it.
func (w *work) remove(ctx context.Context, name string, s retention.Step) error {
	loc, err := w.location(name)
	if err != nil {
		return err
	}
	if s.Kind == retention.StepWAL {
		return w.removeWAL(ctx, name, loc, s)
	}
	c := facts.RemoveCopy{Job: w.spec.Job, Label: s.Label, Location: name}
	if err := w.port.Propose(ctx, facts.Command{RemoveCopy: &c}); err != nil {
		return fmt.Errorf("record the removal of %s: %w", s.Label, err)
	}
	if err := backup.Remove(ctx, loc, w.spec.Root(), s.Label); err != nil {
		return fmt.Errorf("remove set %s: %w", s.Label, err)
	}
	w.file(File{Location: name, Key: w.spec.Root().SetDir(s.Label), Bytes: s.Bytes, Removed: true})
	c.Gone = true
	return w.port.Propose(ctx, facts.Command{RemoveCopy: &c})
}

func (w *work) removeWAL(ctx context.Context, name string, loc location.Location, s retention.Step) error {
	c := facts.RemoveWAL{Job: w.spec.Job, Location: name, Ranges: []facts.WALRange{{Timeline: s.Timeline, From: s.WAL.From, To: s.WAL.To}}}
	if err := w.port.Propose(ctx, facts.Command{RemoveWAL: &c}); err != nil {
		return fmt.Errorf("record the removal of log: %w", err)
	}
	cfg := archive.PruneConfig{
		Place: archive.Place{Name: name, Location: loc}, Root: w.spec.Root(), SegSize: w.spec.Group.SegSize,
		Ranges: []archive.Stretch{{Timeline: s.Timeline, Range: s.WAL}},
	}
	for _, set := range w.spec.Catalog.Sets {
		cfg.Keep = append(cfg.Keep, set.Timeline)
	}
	for _, e := range w.spec.Lineage {
		cfg.Keep = append(cfg.Keep, e.Timeline)
	}
	if _, err := archive.Prune(ctx, cfg); err != nil {
		return fmt.Errorf("remove log of timeline %d: %w", s.Timeline, err)
	}
	c.Gone = true
	return w.port.Propose(ctx, facts.Command{RemoveWAL: &c})
}

// sweep removes what interrupted work has left: unfinished uploads, and folders
// of sets that the ledger does not know and that have no set.json.
func (w *work) sweep(ctx context.Context, name string) error {
	loc, err := w.location(name)
	if err != nil {
		return err
	}
	n, err := loc.Sweep(ctx, time.Now().Add(-sweepAfter))
	if err != nil {
		return fmt.Errorf("remove unfinished uploads: %w", err)
	}
	orphans, err := backup.Orphans(ctx, loc, w.spec.Root())
	if err != nil {
		return fmt.Errorf("look for orphans: %w", err)
	}
	for _, o := range orphans {
		set := w.spec.Catalog.Sets[o.Label]
		if _, copied := set.Copies[name]; copied || time.Since(o.Newest) < sweepAfter {
			continue // somebody may be writing it
		}
		if err := backup.Remove(ctx, loc, w.spec.Root(), o.Label); err != nil {
			return err
		}
	}
	w.log.Info("swept", "location", name, "uploads", n, "orphans", len(orphans))
	return nil
}
