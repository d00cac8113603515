package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/archive"
	"understudy/shipper/backup"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

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
	for _, name := range slices.Sorted(maps.Keys(p.Begun)) {
		if err := w.endRemoval(ctx, name, p.Begun[name]); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
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
	for _, s := range w.spec.Sweep {
		if err := w.sweep(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Location, err))
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
	if err := w.clearWAL(ctx, name, loc, c.Ranges); err != nil {
		return err
	}
	c.Gone = true
	return w.port.Propose(ctx, facts.Command{RemoveWAL: &c})
}

// endRemoval ends the removal of log that a prune began which was cut off: the
// ledger does not count on it any more, and it may still lie there.
func (w *work) endRemoval(ctx context.Context, name string, ranges []facts.WALRange) error {
	loc, err := w.location(name)
	if err != nil {
		return err
	}
	if err := w.clearWAL(ctx, name, loc, ranges); err != nil {
		return err
	}
	w.log.Info("ended a removal of log that was begun", "location", name, "stretches", len(ranges))
	return w.port.Propose(ctx, facts.Command{RemoveWAL: &facts.RemoveWAL{Job: w.spec.Job, Location: name, Ranges: ranges, Gone: true}})
}

// clearWAL removes the log of some ranges from a location.
func (w *work) clearWAL(ctx context.Context, name string, loc location.Location, ranges []facts.WALRange) error {
	cfg := archive.PruneConfig{Place: archive.Place{Name: name, Location: loc}, Root: w.spec.Root(), SegSize: w.spec.Group.SegSize}
	for _, r := range ranges {
		cfg.Ranges = append(cfg.Ranges, archive.Stretch{Timeline: r.Timeline, Range: pos.Range{From: r.From, To: r.To}})
	}
	if w.spec.Catalog != nil {
		for _, set := range w.spec.Catalog.Sets {
			cfg.Keep = append(cfg.Keep, set.Timeline)
		}
	}
	for _, e := range w.spec.Lineage {
		cfg.Keep = append(cfg.Keep, e.Timeline)
	}
	if _, err := archive.Prune(ctx, cfg); err != nil {
		return fmt.Errorf("remove log: %w", err)
	}
	return nil
}
