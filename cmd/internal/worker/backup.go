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
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

// backup takes a set into the locations of the spec.
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
	w.summarize(ctx, b.ConnString)
	res, instead, err := w.take(ctx, cfg)
	if err != nil {
		return Done{}, err
	}
	d, err := w.taken(ctx, res)
	d.Result = instead + d.Result
	if err == nil && b.Standby { // on a primary writers would have to wait
		w.noteDigests(ctx, b.ConnString)
	}
	return d, err
}

// take takes an incremental set if the spec names one to build it on and that is
// possible, else a full one; instead says why it is that.
func (w *work) take(ctx context.Context, cfg backup.Config) (res backup.Result, instead string, err error) {
	if cfg.Parent = w.parent(w.spec.Backup.Parent); cfg.Parent != nil {
		if res, err = w.takeOne(ctx, cfg); !errors.Is(err, backup.ErrNotIncremental) {
			return res, "", err
		}
		instead = "a full backup was taken instead of an incremental one: " + cause(err, backup.ErrNotIncremental)
		w.log.Warn("a full backup is taken", "instead_of", cfg.Label, "why", cause(err, backup.ErrNotIncremental))
		cfg.Parent, cfg.Label, cfg.Notes = nil, backupset.FullLabel(cfg.Label), maps.Clone(cfg.Notes)
		if cfg.Notes == nil {
			cfg.Notes = map[string]string{}
		}
		cfg.Notes[noteInstead] = clipNote(instead)
	}
	if res, err = w.takeOne(ctx, cfg); err != nil || instead == "" {
		return res, "", err
	}
	c := facts.MarkSet{Profile: w.spec.Profile, Label: cfg.Label, Notes: map[string]string{noteInstead: cfg.Notes[noteInstead]}}
	if err := w.port.Propose(ctx, facts.Command{MarkSet: &c}); err != nil {
		w.log.Warn("note on the set why it is a full one", "label", cfg.Label, "error", err)
	}
	return res, instead + "; ", nil
}

func (w *work) takeOne(ctx context.Context, cfg backup.Config) (backup.Result, error) {
	cfg.OnStart = func(start pos.LSN, t pos.Timeline) error {
		s := catalog.Set{Label: cfg.Label, State: catalog.SetRunning, Timeline: t, Start: start}
		if cfg.Parent != nil {
			s.Parent = cfg.Parent.Label
		}
		return w.recordSet(ctx, s)
	}
	return backup.Take(ctx, cfg)
}

// noteInstead is the note on a full set that was taken in the place of an
// incremental one.
const noteInstead = "full-because"

// clipNote keeps a text within what a note may have.
func clipNote(s string) string {
	const most = 500
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}

// cause is what follows a sentinel in the text of an error.
func cause(err, sentinel error) string {
	_, why, ok := strings.Cut(err.Error(), sentinel.Error()+": ")
	if !ok {
		return err.Error()
	}
	return why
}

// parent is where a set to build on can be read; nil when none is named.
func (w *work) parent(label string) *backup.Parent {
	if label == "" {
		return nil
	}
	set := w.spec.Catalog.Sets[label]
	p := &backup.Parent{Label: label, Digest: set.Digest}
	for _, name := range w.byOrder() {
		if set.Copies[name].State != catalog.CopyComplete {
			continue
		}
		loc, err := w.location(name)
		if err != nil {
			w.log.Warn("open a location", "location", name, "error", err)
			continue
		}
		p.From = append(p.From, backup.Dest{Name: name, Location: loc})
	}
	return p
}

// summarize makes the server keep what an incremental backup needs, if the
// policy wants such.
func (w *work) summarize(ctx context.Context, connString string) {
	if !w.spec.Policy.Incremental {
		return
	}
	switch changed, err := backup.Summarize(ctx, connString); {
	case err != nil:
		w.log.Warn("turn on summarize_wal, which incremental backups need", "error", err)
	case changed:
		w.log.Info("turned on summarize_wal, which incremental backups need")
	}
}

// taken records a set that was taken.
func (w *work) taken(ctx context.Context, res backup.Result) (Done, error) {
	var good, bad []string
	for _, d := range res.Dests {
		if d.Err != nil {
			bad = append(bad, fmt.Sprintf("%s (%s)", d.Name, location.Problem(d.Err)))
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
		Label: s.Label, Parent: s.Parent, State: catalog.SetComplete, Timeline: s.Timeline, Start: s.Start, End: s.End, Began: s.Began, Ended: s.Ended,
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
