package worker

import (
	"context"
	"errors"
	"fmt"

	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/location"
	"understudy/shipper/verify"
)

// verify proves copies of sets and the log of locations. A damaged copy is
// damaged in the ledger from then on, and replaced from another location by the
// next fill; damaged log is replaced at once. What could not be read now is no
// verdict on it, but the job's failure.
func (w *work) verify(ctx context.Context) (Done, error) {
	v := w.spec.Verify
	if v == nil {
		return Done{}, errNoPart
	}
	var d Done
	var errs []error
	bad := 0
	for _, c := range v.Copies {
		rep, err := w.verifyCopy(ctx, c)
		d.Bytes += rep.Bytes
		if rep.Damaged() {
			bad++
			err = fmt.Errorf("%s at %s is damaged: %s", c.Label, c.Location, rep.Problem())
		}
		if err != nil {
			errs = append(errs, err)
		}
		if ctx.Err() != nil {
			return d, context.Cause(ctx)
		}
	}
	for _, name := range v.WAL {
		rep, err := w.verifyWAL(ctx, name)
		d.Bytes += rep.Bytes
		if err != nil {
			errs = append(errs, fmt.Errorf("log at %s: %w", name, err))
		}
	}
	d.Result = fmt.Sprintf("%d of %d copies and the log of %d locations proven", len(v.Copies)-bad, len(v.Copies), len(v.WAL))
	return d, errors.Join(errs...)
}

func (w *work) verifyCopy(ctx context.Context, c VerifyCopy) (verify.Report, error) {
	loc, err := w.location(c.Location)
	if err != nil {
		return verify.Report{}, err
	}
	m := &meter{w: w}
	rep, err := verify.Set(ctx, loc, w.spec.Root(), c.Label, c.Digest, verify.Options{Deep: true, Progress: func(p verify.Progress) {
		m.say(Progress{Step: "proving " + c.Label + " at " + c.Location, Done: p.Done, Total: p.Total})
	}})
	for _, f := range rep.Findings {
		w.log.Warn("found", "location", c.Location, "what", f.String())
	}
	if err != nil && !rep.Damaged() {
		return rep, fmt.Errorf("%s at %s could not be read: %w", c.Label, c.Location, err)
	}
	say := facts.RecordVerified{Job: w.spec.Job, Label: c.Label, Location: c.Location, OK: !rep.Damaged(), Problem: rep.Problem()}
	return rep, w.port.Propose(ctx, facts.Command{RecordVerified: &say})
}

func (w *work) verifyWAL(ctx context.Context, name string) (verify.Report, error) {
	loc, err := w.location(name)
	if err != nil {
		return verify.Report{}, err
	}
	m := &meter{w: w}
	opts := verify.Options{Progress: func(p verify.Progress) {
		m.say(Progress{Step: "proving the log at " + name, Done: p.Done, Total: p.Total})
	}}
	want := verify.LogOf(*w.spec.Catalog, name, w.spec.Lineage)
	rep, err := verify.WAL(ctx, loc, w.spec.Root(), want, opts)
	for _, f := range rep.Findings {
		w.log.Warn("found", "location", name, "what", f.String())
	}
	if !rep.Damaged() {
		return rep, err
	}
	if ferr := w.repairWAL(ctx, name, rep); ferr != nil {
		return rep, errors.Join(fmt.Errorf("damaged: %s", rep.Problem()), ferr)
	}
	again, err := verify.WAL(ctx, loc, w.spec.Root(), want, opts)
	if err == nil && again.Damaged() {
		err = fmt.Errorf("damaged, and no other location has it whole: %s", again.Problem())
	}
	return rep, err
}

// repairWAL replaces damaged pieces of log by those of another location that
// are proven whole. The rest stays as it is: what is left of a piece may be all
// that there is.
func (w *work) repairWAL(ctx context.Context, name string, rep verify.Report) error {
	to, err := w.location(name)
	if err != nil {
		return err
	}
	for _, f := range rep.Findings {
		o, ok := w.spec.Root().ParseWAL(f.Object, w.spec.Group.SegSize)
		if !ok || o.History || o.Partial {
			continue
		}
		for _, from := range w.otherPlaces(name) {
			if err := replacePiece(ctx, from.Location, to, f.Object, w.spec.Group.SystemID); err != nil {
				w.log.Warn("repair", "object", f.Object, "from", from.Name, "error", err)
				continue
			}
			w.log.Info("repaired", "location", name, "object", f.Object, "from", from.Name)
			break
		}
	}
	return ctx.Err()
}

// replacePiece copies a piece of log that is whole.
func replacePiece(ctx context.Context, from, to location.Location, key string, systemID uint64) error {
	r, err := from.Open(ctx, key, 0, -1)
	if err != nil {
		return err
	}
	seal, err := archive.Check(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return err
	}
	if seal.SystemID != systemID {
		return fmt.Errorf("%w: it is of database %d", archive.ErrForeign, seal.SystemID)
	}
	_, err = location.Copy(ctx, from, to, key, location.CopyOptions{Size: -1})
	return err
}

// otherPlaces are the locations that can be opened, but one, nearest first.
func (w *work) otherPlaces(but string) (out []archive.Place) {
	for _, name := range w.byOrder() {
		if name == but {
			continue
		}
		loc, err := w.location(name)
		if err != nil {
			w.log.Warn("open a location", "location", name, "error", err)
			continue
		}
		out = append(out, archive.Place{Name: name, Location: loc})
	}
	return out
}
