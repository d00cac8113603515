package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"understudy/cmd/internal/worker"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// archiveDir is the folder of the archive's worker below that of the jobs.
const archiveDir = "archive"

// errOtherFeeds ends the archive's worker when it has something else to feed.
var errOtherFeeds = errors.New("what is to be fed has changed")

// feed keeps one worker that archives the log for all locations that the
// ledger gives to this node. It is started anew when they, or how they are
// reached, change.
func (r *Runner) feed(ctx context.Context, st facts.State) {
	var mine []string
	for _, l := range slices.Sorted(maps.Keys(st.Backups.Feeders)) {
		if p, ok := st.Policy.Locations[l]; ok && !p.Disabled && st.Backups.Feeders[l] == r.cfg.Store {
			mine = append(mine, l)
		}
	}
	var spec *worker.Spec
	if len(mine) > 0 {
		spec = r.cfg.Archive(st, mine)
	}
	what := key(spec)
	r.mu.Lock()
	defer r.mu.Unlock()
	var before map[string]pos.LSN
	if old := r.feeding; old != nil {
		select {
		case <-old.done:
			if what != "" && time.Since(old.began) < restartPause {
				return // it fails at once: not in a circle
			}
			r.feeding, r.feeds, before = nil, nil, old.from
		default:
			if old.what != what || spec != nil && pruned(old.from, *spec) {
				old.cancel(errOtherFeeds)
			}
			return
		}
	}
	if spec == nil {
		return
	}
	run := &running{id: archiveDir, done: make(chan struct{}), began: time.Now(), what: what, from: map[string]pos.LSN{}}
	for i, f := range spec.Archive.Feeds {
		run.from[f.Location] = f.From
		if from, known := before[f.Location]; known && !f.New {
			spec.Archive.Feeds[i].Stale = stale(st, f.Location, from)
		}
	}
	run.ctx, run.cancel = context.WithCancelCause(ctx)
	r.feeding = run
	go r.archive(run, *spec)
}

// restartPause is the least time between two starts of the archive's worker.
const restartPause = 5 * time.Second

// key is what a worker must be started anew for: all but what updates tell it.
func key(spec *worker.Spec) string {
	if spec == nil {
		return ""
	}
	s := *spec
	a := *s.Archive
	a.Update, s.Lineage = worker.Update{}, nil
	a.Feeds = slices.Clone(a.Feeds)
	for i := range a.Feeds {
		a.Feeds[i].From, a.Feeds[i].New = 0, false
	}
	s.Archive, s.Policy = &a, facts.BackupPolicy{}
	b, err := json.Marshal(s)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// pruned tells whether log has gone from a location that a worker still takes
// for wanted: it would bring it again, or call it lost.
func pruned(from map[string]pos.LSN, spec worker.Spec) bool {
	return slices.ContainsFunc(spec.Archive.Feeds, func(f worker.Feed) bool {
		return !f.New && f.From.SegStart(spec.Group.SegSize) > from[f.Location].SegStart(spec.Group.SegSize)
	})
}

// stale is the log below all that a location has that a worker which wanted log
// from there on may have brought again after it was removed. What a fill brings
// at this moment is not known yet, so that nothing is stale while one runs.
func stale(st facts.State, location string, from pos.LSN) pos.Range {
	c := catalogOf(st)
	lowest := LogUsed(c, []string{location})
	if lowest == 0 || st.Backups.Fills(location) {
		return pos.Range{}
	}
	r := pos.Range{From: from.SegStart(c.SegSize), To: lowest.SegStart(c.SegSize)}
	if r.From >= r.To {
		return pos.Range{}
	}
	return r
}

// errPruned is returned for the report of a worker that does not know yet that
// log was removed.
var errPruned = errors.New("log was removed from the location since this worker began")

// current makes sure that what a worker reports of a location's log was not
// overtaken by a removal: it is refused here as far as this node knows, and by
// the ledger beyond that.
func (r *Runner) current(run *running, c *facts.RecordArchived) error {
	st := r.cfg.Ledger.State()
	if spec := r.cfg.Archive(st, []string{c.Location}); spec == nil || pruned(run.from, *spec) {
		run.cancel(errOtherFeeds)
		return errPruned
	}
	c.Removals = st.Backups.LogRemovals[c.Location]
	return nil
}

func (r *Runner) archive(run *running, spec worker.Spec) {
	defer close(run.done)
	spec.Dir = filepath.Join(r.cfg.Dir, archiveDir)
	if err := os.MkdirAll(spec.Dir, 0o700); err != nil {
		r.cfg.Log.Error("make the archive's folder", "error", err)
		return
	}
	logFile, err := os.OpenFile(filepath.Join(spec.Dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		r.cfg.Log.Error("open the archive's log", "error", err)
		return
	}
	defer logFile.Close()
	d, err := runWorker(run.ctx, r.cfg.Binary, spec, logFile, run.set(r), func(m worker.Message) { r.take(run, m) })
	if run.ctx.Err() == nil {
		r.cfg.Log.Error("the archive's worker ended", "error", err, "problem", d.Problem)
	}
}

// update tells the archive's worker what is new.
func (r *Runner) update() {
	r.mu.Lock()
	run := r.feeding
	var p *process
	if run != nil {
		p = run.process
	}
	r.mu.Unlock()
	if p == nil {
		return
	}
	st := r.cfg.Ledger.State()
	r.export(run, p, st)
	u := r.cfg.Update(st)
	if err := p.tell(worker.Line{Update: &u}); err != nil {
		r.cfg.Log.Debug("tell the archive's worker", "error", err)
	}
}

// exportEvery is the least time between two exports of the ledger into the
// locations, exportAnyway the time after which there is one although only the
// log has moved.
const (
	exportEvery  = 5 * time.Second
	exportAnyway = 5 * time.Minute
)

// export gives the worker what its locations are to hold of the ledger.
func (r *Runner) export(run *running, p *process, st facts.State) {
	what := fmt.Sprint(st.Audit.N, st.Backups.JobsVersion, st.Backups.Removals, st.Policy.Version, st.MembersVersion)
	since := time.Since(run.exportedAt)
	if since < exportEvery || run.exported == what && since < exportAnyway {
		return
	}
	b, err := facts.Export(st)
	if err != nil {
		r.cfg.Log.Error("export the ledger", "error", err)
		return
	}
	run.exported, run.exportedAt = what, time.Now()
	if err := p.tell(worker.Line{Export: b}); err != nil {
		r.cfg.Log.Debug("tell the archive's worker", "error", err)
	}
}
