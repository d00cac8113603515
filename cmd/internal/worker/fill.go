package worker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// fill brings a location what it lacks from the others: sets, then log.
func (w *work) fill(ctx context.Context) (Done, error) {
	f := w.spec.Fill
	if f == nil {
		return Done{}, errNoPart
	}
	to, err := w.location(f.To)
	if err != nil {
		return Done{}, err
	}
	var d Done
	var errs []error
	copied, lacked := 0, 0
	for _, label := range f.Labels {
		if w.spec.Catalog.Sets[label].Copies[f.To].State == catalog.CopyComplete {
			continue // it is there
		}
		lacked++
		n, err := w.fillSet(ctx, to, label)
		d.Bytes += n
		if err != nil {
			errs = append(errs, fmt.Errorf("set %s: %w", label, err))
			continue
		}
		copied++
	}
	moved, err := w.fillWAL(ctx, to)
	if err != nil {
		errs = append(errs, fmt.Errorf("log: %w", err))
	}
	d.Bytes += moved
	if err := writeObject(ctx, to, backupset.LedgerKey(w.spec.Group.Name), f.Export); err != nil {
		errs = append(errs, fmt.Errorf("the ledger's export: %w", err))
	}
	d.Result = fmt.Sprintf("%d of %d sets and %s of log brought to %s", copied, lacked, view.Size(uint64(moved)), f.To)
	return d, errors.Join(errs...)
}

// fillSet copies a set from the nearest location that has it whole.
func (w *work) fillSet(ctx context.Context, to location.Location, label string) (int64, error) {
	f := w.spec.Fill
	set := w.spec.Catalog.Sets[label]
	var errs []error
	for _, name := range w.byOrder() {
		if name == f.To || set.Copies[name].State != catalog.CopyComplete {
			continue
		}
		from, err := w.location(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		c := facts.RecordCopy{Job: w.spec.Job, Label: label, Location: f.To, State: catalog.CopyWriting}
		if err := w.port.Propose(ctx, facts.Command{RecordCopy: &c}); err != nil {
			return 0, err
		}
		n, err := w.copySet(ctx, from, to, set)
		if err != nil {
			errs = append(errs, fmt.Errorf("from %s: %w", name, err))
			continue
		}
		c.State = catalog.CopyComplete
		return n, w.port.Propose(ctx, facts.Command{RecordCopy: &c})
	}
	if len(errs) == 0 {
		return 0, errors.New("no other location has a whole copy of it")
	}
	return 0, errors.Join(errs...)
}

// copySet copies the objects of a set, its set.json last. What is there already
// is not sent again.
func (w *work) copySet(ctx context.Context, from, to location.Location, known catalog.Set) (int64, error) {
	root := w.spec.Root()
	key := root.Object(known.Label, backupset.SetName)
	raw, err := readObject(ctx, from, key, backupset.MaxSetBytes)
	if err != nil {
		return 0, err
	}
	if d := backupset.Digest(raw); known.Digest != "" && d != known.Digest {
		return 0, fmt.Errorf("%w: %s has the digest %s, the ledger knows %s", location.ErrDamaged, key, d, known.Digest)
	}
	set, err := backupset.DecodeSet(raw)
	if err != nil {
		return 0, err
	}
	m := &meter{w: w}
	var done int64
	for _, o := range set.Objects {
		key := root.Object(set.Label, o.Name)
		if _, err := location.Copy(ctx, from, to, key, location.CopyOptions{Digest: o.BLAKE3, Size: o.Bytes, Moved: func(n int64) {
			m.say(Progress{Step: "copying " + set.Label, Done: done + n, Total: set.StoredBytes()})
		}}); err != nil {
			return done, err
		}
		done += o.Bytes
		w.file(File{Location: w.spec.Fill.To, Key: key, Bytes: o.Bytes})
	}
	return done, writeObject(ctx, to, key, raw)
}

// fillWAL brings the log that the location lacks and tells the ledger of what
// came.
func (w *work) fillWAL(ctx context.Context, to location.Location) (int64, error) {
	f := w.spec.Fill
	if len(f.WAL) == 0 {
		return 0, nil
	}
	cfg := archive.FillConfig{
		To: archive.Place{Name: f.To, Location: to}, Root: w.spec.Root(), SystemID: w.spec.Group.SystemID, SegSize: w.spec.Group.SegSize, Log: w.log,
	}
	cfg.From = w.otherPlaces(f.To)
	c := facts.RecordArchived{Profile: w.spec.Profile, Location: f.To, Job: w.spec.Job, Removals: f.Removals}
	for _, r := range f.WAL {
		cfg.Ranges = append(cfg.Ranges, archive.Stretch{Timeline: r.Timeline, Range: pos.Range{From: r.From, To: r.To}})
	}
	rep, err := archive.Fill(ctx, cfg)
	for _, r := range f.WAL {
		c.Spans = append(c.Spans, without(catalog.Span{Timeline: r.Timeline, From: r.From, To: r.To, Marks: w.marksOf(r)}, rep.Missing)...)
	}
	if err != nil || len(c.Spans) == 0 {
		return rep.Bytes, err
	}
	return rep.Bytes, w.port.Propose(ctx, facts.Command{RecordArchived: &c})
}

// marksOf are the moments that any location knows of a stretch.
func (w *work) marksOf(r facts.WALRange) (out []catalog.Mark) {
	seen := map[pos.LSN]bool{}
	for _, p := range w.spec.Catalog.Places {
		for _, s := range p.WAL {
			for _, m := range s.Marks {
				if s.Timeline == r.Timeline && m.LSN > r.From && m.LSN <= r.To && !seen[m.LSN] {
					seen[m.LSN] = true
					out = append(out, m)
				}
			}
		}
	}
	return out
}

// without is a span cut where something is missing.
func without(s catalog.Span, missing []catalog.Gap) []catalog.Span {
	out := []catalog.Span{s}
	for _, m := range missing {
		var next []catalog.Span
		for _, s := range out {
			if m.Timeline != s.Timeline || m.To <= s.From || m.From >= s.To {
				next = append(next, s)
				continue
			}
			if m.From > s.From {
				a := s
				a.To = m.From
				next = append(next, clipMarks(a))
			}
			if m.To < s.To {
				b := s
				b.From = m.To
				next = append(next, clipMarks(b))
			}
		}
		out = next
	}
	return out
}

func clipMarks(s catalog.Span) catalog.Span {
	var in []catalog.Mark
	for _, m := range s.Marks {
		if m.LSN > s.From && m.LSN <= s.To {
			in = append(in, m)
		}
	}
	s.Marks = in
	return s
}

// readObject reads a small object.
func readObject(ctx context.Context, loc location.Location, key string, most int64) ([]byte, error) {
	r, err := loc.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, most+1))
	if err == nil && int64(len(b)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", key, most)
	}
	return b, err
}

// writeObject writes a small object.
func writeObject(ctx context.Context, loc location.Location, key string, b []byte) error {
	u, err := loc.Create(ctx, key, location.CreateOptions{Size: int64(len(b))})
	if err != nil {
		return err
	}
	if _, err := io.Copy(u, bytes.NewReader(b)); err != nil {
		return errors.Join(err, u.Abort())
	}
	_, err = u.Commit(ctx)
	return err
}
