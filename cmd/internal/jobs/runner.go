package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"understudy/cmd/internal/worker"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Ledger is what jobs need of the group's ledger.
type Ledger interface {
	State() facts.State
	Changed() <-chan struct{}
	Propose(ctx context.Context, c facts.Command) (facts.Outcome, error)
}

// Config says what a node's jobs work with.
type Config struct {
	Node   string // name of this node
	Store  string
	Boot   string // of this run of the daemon: the lease of its jobs
	Binary string // the program, which is its own worker
	Dir    string // folder for the jobs' logs and scratch files
	Ledger Ledger
	// Spec fills in what only this node knows about a job; Job, Dir and Program
	// are set already.
	Spec func(st facts.State, j facts.Job, s *worker.Spec) error
	// Archive is what this node feeds, from where; nil while it cannot.
	Archive func(st facts.State, locations []string) *worker.Spec
	// Update is what changed for the archive since the last call.
	Update func(st facts.State) worker.Update
	// Observe makes the planner's input; asked on the ledger's leader only.
	Observe func(st facts.State) View
	Leads   func() bool
	Log     *slog.Logger
}

// Runner runs a node's jobs.
type Runner struct {
	cfg Config

	mu      sync.Mutex
	jobs    map[string]*running
	feeding *running // the archive's worker
	feeds   []worker.FeedStatus
	planner planner
}

// running is a job under way on this node.
type running struct {
	id       string
	kind     facts.JobKind
	ctx      context.Context
	cancel   context.CancelCauseFunc
	done     chan struct{}
	process  *process
	progress worker.Progress
	began    time.Time
	// The archive: what it was started with, and what was exported last.
	what, exported string
	from           map[string]pos.LSN // by location
	exportedAt     time.Time
}

// Work is how far a job of this node is.
type Work struct {
	Job string `json:"job"`
	worker.Progress
}

// New makes a Runner.
func New(cfg Config) *Runner {
	return &Runner{cfg: cfg, jobs: map[string]*running{}}
}

// keepLogs is how many folders of finished jobs are kept.
const keepLogs = 200

// Run works until ctx ends, and ends all workers before it returns.
func (r *Runner) Run(ctx context.Context) {
	if err := os.MkdirAll(r.cfg.Dir, 0o700); err != nil {
		r.cfg.Log.Error("make the folder of jobs", "error", err)
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	fast := time.NewTicker(200 * time.Millisecond)
	defer fast.Stop()
	defer r.endAll()
	for ctx.Err() == nil {
		changed := r.cfg.Ledger.Changed()
		r.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-fast.C:
			r.update()
		case <-tick.C:
			if r.cfg.Leads() {
				r.plan(ctx)
			}
		}
	}
}

// look starts and ends workers as the ledger says.
func (r *Runner) look(ctx context.Context) {
	// Before the ledger is read: a job that ends between the two is over in the
	// one or still stands in the other, and is not begun a second time.
	mine := r.underWay()
	st := r.cfg.Ledger.State()
	if !st.Founded() {
		return
	}
	r.loseOld(ctx, st)
	for id, run := range mine {
		if _, stands := st.Backups.Jobs[id]; !stands {
			run.cancel(errGivenUp) // one that has just ended does not notice
		}
	}
	for _, id := range slices.Sorted(maps.Keys(st.Backups.Jobs)) {
		j := st.Backups.Jobs[id]
		if j.Store != r.cfg.Store || j.Lease != r.cfg.Boot {
			continue
		}
		run, known := mine[id]
		if !known {
			run = r.start(ctx, st, j)
		}
		if j.Cancel != "" {
			run.cancel(fmt.Errorf("cancelled: %s", j.Cancel))
		}
	}
	r.feed(ctx, st)
}

// errGivenUp ends a worker whose job was given up, for example while nobody
// heard of this node.
var errGivenUp = errors.New("the group has given the job up")

// underWay are the jobs of this node that have not ended as far as it knows.
func (r *Runner) underWay() map[string]*running {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.jobs)
}

// loseOld ends jobs that an earlier run of this daemon left.
func (r *Runner) loseOld(ctx context.Context, st facts.State) {
	for _, j := range st.Backups.Jobs {
		if j.Store == r.cfg.Store && j.Lease != r.cfg.Boot {
			r.propose(ctx, facts.Command{LoseJobs: &facts.LoseJobs{Store: r.cfg.Store, Keep: r.cfg.Boot, Why: "the daemon was started anew"}})
			return
		}
	}
}

// propose says something to the ledger; what fails is said again by the next
// look.
func (r *Runner) propose(ctx context.Context, c facts.Command) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err := r.cfg.Ledger.Propose(ctx, c)
	if err != nil && ctx.Err() == nil {
		r.cfg.Log.Debug("propose about jobs", "error", err)
	}
	return err
}

// start runs a job in the background and tells the ledger its end.
func (r *Runner) start(ctx context.Context, st facts.State, j facts.Job) *running {
	run := &running{id: j.ID, kind: j.Kind, done: make(chan struct{}), began: time.Now()}
	run.ctx, run.cancel = context.WithCancelCause(ctx)
	r.mu.Lock()
	r.jobs[j.ID] = run
	r.mu.Unlock()
	r.cfg.Log.Info("job begins", "job", j.ID, "kind", string(j.Kind), "why", j.Why)
	go func() {
		defer close(run.done)
		d, err := r.work(run, st, j)
		end := facts.EndJob{Job: facts.JobRef{ID: j.ID, Lease: r.cfg.Boot}, State: facts.JobDone, Result: d.Result, Problem: d.Problem, Bytes: d.Bytes}
		switch {
		case err != nil && run.ctx.Err() != nil:
			end.State, end.Problem = facts.JobCancelled, context.Cause(run.ctx).Error()
		case err != nil:
			end.State, end.Problem = facts.JobFailed, err.Error()
		case d.Problem != "":
			end.State = facts.JobFailed
		}
		end.Result, end.Problem = clip(end.Result), clip(end.Problem)
		r.end(ctx, run, end)
	}()
	return run
}

// end tells the ledger that a job is over, until the ledger knows.
func (r *Runner) end(ctx context.Context, run *running, end facts.EndJob) {
	r.cfg.Log.Info("job ended", "job", run.id, "kind", string(run.kind), "state", string(end.State), "result", end.Result, "problem", end.Problem)
	over := time.Now()
	for ctx.Err() == nil {
		err := r.propose(ctx, facts.Command{EndJob: &end})
		var refused *ledger.RefusedError
		if err == nil {
			break
		}
		if errors.As(err, &refused) {
			// The log up to the end of a set reaches a location a little later.
			if refused.Code == facts.CodeNotComplete && end.State == facts.JobDone && time.Since(over) < logPatience && run.ctx.Err() == nil {
				run.rest(ctx)
				continue
			}
			if _, stands := r.cfg.Ledger.State().Backups.Jobs[run.id]; !stands || end.State != facts.JobDone {
				break
			}
			if run.ctx.Err() != nil {
				end.State, end.Problem = facts.JobCancelled, context.Cause(run.ctx).Error()
				continue
			}
			// What it says of itself is not so: a set, for example, whose log is
			// not there.
			end.State, end.Problem = facts.JobFailed, clip(refused.Error())
			continue
		}
		run.rest(ctx)
	}
	r.awaitEnd(ctx, run.id)
	r.mu.Lock()
	delete(r.jobs, run.id)
	r.mu.Unlock()
	r.tidy()
}

// maxText bounds what is said of a job's end; the ledger refuses what is much
// longer.
const maxText = 1500

func clip(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText], "") + "…; the rest is in the job's log"
}

// awaitEnd waits until the ledger's copy on this node shows the job as over,
// which may be a little after the ledger took it: else it would be begun anew.
func (r *Runner) awaitEnd(ctx context.Context, id string) {
	for {
		changed := r.cfg.Ledger.Changed()
		if j, stands := r.cfg.Ledger.State().Backups.Jobs[id]; !stands || j.Lease != r.cfg.Boot {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// logPatience is how long a set may wait for its log at a location before the
// backup counts as failed.
const logPatience = 15 * time.Minute

// rest is the pause before the ledger is asked again.
func (run *running) rest(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-run.ctx.Done():
	case <-time.After(300 * time.Millisecond):
	}
}

// work runs the worker of a job.
func (r *Runner) work(run *running, st facts.State, j facts.Job) (worker.Done, error) {
	dir := filepath.Join(r.cfg.Dir, j.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return worker.Done{}, err
	}
	logFile, err := os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return worker.Done{}, err
	}
	defer logFile.Close()
	files, err := os.OpenFile(filepath.Join(dir, "files.jsonl"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return worker.Done{}, err
	}
	defer files.Close()
	spec := worker.Spec{Task: worker.Task(j.Kind), Job: facts.JobRef{ID: j.ID, Lease: r.cfg.Boot}, Dir: dir}
	if err := r.cfg.Spec(st, j, &spec); err != nil {
		return worker.Done{}, err
	}
	list := json.NewEncoder(files)
	return runWorker(run.ctx, r.cfg.Binary, spec, logFile, run.set(r), func(m worker.Message) {
		if m.File != nil {
			if err := list.Encode(m.File); err != nil {
				r.cfg.Log.Warn("list a job's files", "job", j.ID, "error", err)
			}
			return
		}
		r.take(run, m)
	})
}

// set notes the worker's process once it runs.
func (run *running) set(r *Runner) func(*process) {
	return func(p *process) {
		r.mu.Lock()
		defer r.mu.Unlock()
		run.process = p
	}
}

// take handles one message of a worker.
func (r *Runner) take(run *running, m worker.Message) {
	switch {
	case m.Progress != nil:
		r.mu.Lock()
		run.progress = *m.Progress
		r.mu.Unlock()
	case m.Feeds != nil:
		r.mu.Lock()
		r.feeds = m.Feeds
		r.mu.Unlock()
	case m.Propose != nil:
		a := worker.Answer{N: m.N}
		if err := r.proposeFor(run, *m.Propose); err != nil {
			var refused *ledger.RefusedError
			a.Error, a.Refused = err.Error(), errors.As(err, &refused) || errors.Is(err, errPruned)
		}
		if err := run.process.tell(worker.Line{Answer: &a}); err != nil {
			r.cfg.Log.Debug("answer a worker", "error", err)
		}
	}
}

// proposeFor says what a worker asks to say.
func (r *Runner) proposeFor(run *running, c facts.Command) error {
	if a := c.RecordArchived; a != nil && a.Store != "" {
		if err := r.current(run, a); err != nil {
			return err
		}
	}
	return r.propose(run.ctx, c)
}

// Work is what this node's jobs are doing, in order of their ids.
func (r *Runner) Work() []Work {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Work
	for _, id := range slices.Sorted(maps.Keys(r.jobs)) {
		out = append(out, Work{id, r.jobs[id].progress})
	}
	return out
}

// Feeds is how far the locations are that this node feeds.
func (r *Runner) Feeds() []worker.FeedStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.feeds)
}

// endAll ends every worker and waits for it.
func (r *Runner) endAll() {
	r.mu.Lock()
	all := slices.Collect(maps.Values(r.jobs))
	if r.feeding != nil {
		all = append(all, r.feeding)
	}
	r.mu.Unlock()
	for _, run := range all {
		run.cancel(errors.New("the daemon stops"))
	}
	for _, run := range all {
		<-run.done
	}
}

// tidy removes the folders of the oldest finished jobs.
func (r *Runner) tidy() {
	entries, err := os.ReadDir(r.cfg.Dir)
	if err != nil {
		return
	}
	type folder struct {
		name string
		at   time.Time
	}
	var old []folder
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range entries {
		if _, runs := r.jobs[e.Name()]; runs || !e.IsDir() || e.Name() == archiveDir {
			continue
		}
		if info, err := e.Info(); err == nil {
			old = append(old, folder{e.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(old, func(a, b folder) int { return a.at.Compare(b.at) })
	for len(old) > keepLogs {
		if err := os.RemoveAll(filepath.Join(r.cfg.Dir, old[0].name)); err != nil {
			r.cfg.Log.Warn("remove an old job's folder", "error", err)
		}
		old = old[1:]
	}
}
