package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// backup takes a full set into the locations of the spec.
func (w *work) backup(ctx context.Context) (Done, error) {
	b := w.spec.Backup
	if b == nil {
		return Done{}, errNoPart
	}
	cfg := backup.Config{
		ConnString: b.ConnString, SystemID: w.spec.Group.SystemID, Root: w.spec.Root(), GroupID: w.spec.Group.ID,
		Node: w.cfg.Name, Program: w.spec.Program, Lineage: w.spec.Lineage, Label: b.Label, Notes: b.Notes,
		Extra: strings.Fields(w.spec.Policy.Extra), Level: levelOf(w.spec.Policy.Level), RateBytes: w.spec.Policy.RateBytes,
		Scratch: w.spec.Dir, Log: w.log,
	}
	for _, name := range b.Locations {
		loc, err := w.location(name)
		if err != nil {
			// The others still get it; this one is filled once it can be opened.
			w.log.Warn("open a location", "location", name, "error", err)
			continue
		}
		cfg.Dests = append(cfg.Dests, backup.Dest{Name: name, Location: loc})
	}
	if len(cfg.Dests) == 0 {
		return Done{}, errors.New("none of the locations can be opened on this node; the job's log says why")
	}
	m := &meter{w: w}
	cfg.OnProgress = func(p backup.Progress) { m.say(progressOf(p)) }
	cfg.OnStart = func(start pos.LSN, t pos.Timeline) error {
		return w.recordSet(ctx, catalog.Set{Label: b.Label, State: catalog.SetRunning, Timeline: t, Start: start})
	}
	res, err := backup.Take(ctx, cfg)
	if err != nil {
		return Done{}, err
	}
	d, err := w.taken(ctx, res)
	if err == nil && b.Standby { // on a primary writers would have to wait
		w.noteDigests(ctx, b.ConnString)
	}
	return d, err
}

// taken records a set that was taken.
func (w *work) taken(ctx context.Context, res backup.Result) (Done, error) {
	var good, bad []string
	for _, d := range res.Dests {
		if d.Err != nil {
			bad = append(bad, fmt.Sprintf("%s (%v)", d.Name, d.Err))
			continue
		}
		good = append(good, d.Name)
		for _, o := range res.Set.Objects {
			w.file(File{Location: d.Name, Key: w.spec.Root().Object(res.Set.Label, o.Name), Bytes: o.Bytes})
		}
		w.file(File{Location: d.Name, Key: w.spec.Root().Object(res.Set.Label, backupset.SetName), Bytes: d.Stored - res.Set.StoredBytes()})
		c := facts.RecordCopy{Job: w.spec.Job, Label: res.Set.Label, Location: d.Name, State: catalog.CopyComplete}
		if err := w.port.Propose(ctx, facts.Command{RecordCopy: &c}); err != nil {
			return Done{}, fmt.Errorf("record the copy at %s: %w", d.Name, err)
		}
	}
	if err := w.recordSet(ctx, summary(res)); err != nil {
		return Done{}, err
	}
	d := Done{Bytes: res.Set.RawBytes, Result: fmt.Sprintf("%d files, %s stored in %s", res.Set.FileN, view.Size(uint64(res.Set.StoredBytes())), strings.Join(good, ", "))}
	if len(bad) > 0 {
		d.Result += "; not in " + strings.Join(bad, ", ")
	}
	if res.Set.DamageN > 0 {
		d.Result += fmt.Sprintf("; %d pages of the database are corrupt", res.Set.DamageN)
	}
	return d, nil
}

// summary is what the ledger keeps of a set.
func summary(res backup.Result) catalog.Set {
	s := res.Set
	return catalog.Set{
		Label: s.Label, State: catalog.SetComplete, Timeline: s.Timeline, Start: s.Start, End: s.End, Began: s.Began, Ended: s.Ended,
		Node: s.Node, Bytes: s.StoredBytes(), RawBytes: s.RawBytes, Digest: res.Digest, Damaged: s.DamageN > 0, Notes: maps.Clone(s.Notes),
	}
}

func (w *work) recordSet(ctx context.Context, s catalog.Set) error {
	err := w.port.Propose(ctx, facts.Command{RecordSet: &facts.RecordSet{Job: w.spec.Job, Set: s}})
	if err != nil {
		return fmt.Errorf("record set %s: %w", s.Label, err)
	}
	return nil
}

// levelOf is the number of a level of the policy.
func levelOf(l facts.Level) int {
	return 1 + max(0, slices.Index([]facts.Level{facts.LevelFastest, facts.LevelDefault, facts.LevelBetter, facts.LevelBest}, l))
}

func progressOf(p backup.Progress) Progress {
	out := Progress{Step: string(p.Step), Done: p.Done, Total: p.Estimate, Places: map[string]int64{}}
	for _, d := range p.Dests {
		out.Places[d.Name] = d.Stored
	}
	return out
}
