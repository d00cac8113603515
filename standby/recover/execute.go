package recover

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"understudy/shipper/backupset"
	"understudy/standby/restore"
)

// Options are those of one Execute.
type Options struct {
	// Workers is how many frames are dealt with at a time; zero chooses. Each
	// takes about 10 MiB, at most 24 MiB of memory.
	Workers int
	// Volatile leaves out the wait for the disk at the end, for a database that is
	// thrown away soon, as that of a drill: a loss of power may leave it broken.
	Volatile bool
	// Progress is called a few times a second and at each step, by one goroutine
	// at a time; nil for none.
	Progress func(Progress)
	// Step is called with the name of each step before it is done, in StepFiles
	// for each frame and by several goroutines; an error ends the restore there,
	// as a crash would. Nil for none.
	Step func(step string) error
	// Log receives what a person may want to know later; nil discards.
	Log *slog.Logger
}

// Progress tells how far the files are.
type Progress struct {
	Step string `json:"step"`
	// DoneBytes of TotalBytes are as they shall be; SameBytes of them were
	// already. FetchedBytes were read from locations.
	DoneBytes    int64 `json:"done"`
	TotalBytes   int64 `json:"total"`
	SameBytes    int64 `json:"same"`
	FetchedBytes int64 `json:"fetched"`
	// Left is the time that the files will still take; zero while unknown.
	Left time.Duration `json:"left,omitempty"`
}

// Result tells what Execute did.
type Result struct {
	FileN                          int64
	Bytes, SameBytes, FetchedBytes int64
	// Problems are what was found at locations and got round by another.
	Problems []Problem
}

// Problem is damage or a failure at one location.
type Problem struct {
	Location string `json:"location"`
	Object   string `json:"object"`
	Damaged  bool   `json:"damaged"` // the stored bytes are wrong
	Text     string `json:"text"`
}

// Execute makes the plan's directory one that PostgreSQL recovers from. When it
// returns without an error everything is durable, unless Volatile. After an error or a crash it
// is called again with the same plan: what is written already is kept. Only one
// Execute may run on a directory.
//
// Until the end the directory has a mark and no pg_control, so that PostgreSQL
// cannot be started on it.
func Execute(ctx context.Context, p Plan, from Sources, o Options) (Result, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	x := &execution{ctx: ctx, p: &p, from: from, o: o, began: time.Now()}
	err := x.run()
	if x.tree != nil {
		x.tree.close()
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return Result{}, fmt.Errorf("restore %s to %s: %w", p.Label, p.DataDir, err)
	}
	r := x.result()
	o.Log.Info("files restored", "set", p.Label, "data_dir", p.DataDir, "bytes", r.Bytes, "same_bytes", r.SameBytes, "fetched_bytes", r.FetchedBytes, "files", r.FileN)
	return r, nil
}

// execution is one call of Execute.
type execution struct {
	ctx   context.Context
	p     *Plan
	from  Sources
	o     Options
	began time.Time

	tree    *tree
	mark    restore.Mark
	dirty   bool        // something was in the directory before this call
	again   bool        // an earlier call of the same plan may have written files
	group   bool        // the set grants its group access
	cached  atomic.Bool // large writes go through the page cache: others are refused
	sources *pool
	count   counters

	problemMu sync.Mutex
	problems  []Problem
}

func (x *execution) run() error {
	if !x.p.known() {
		return fmt.Errorf("the plan has version %d, this program knows %d to %d", x.p.Version, planVersion, chainVersion)
	}
	done, err := x.take()
	if err != nil || done {
		return err
	}
	for _, st := range x.steps() {
		if err := x.step(st.name); err != nil {
			return err
		}
		if err := st.do(); err != nil {
			return fmt.Errorf("step %s: %w", st.name, err)
		}
	}
	return nil
}

// stepOf is a step and what it does.
type stepOf struct {
	name string
	do   func() error
}

// steps are those of the plan. The files of each set of a chain are put in place
// one set after the other.
func (x *execution) steps() []stepOf {
	out := []stepOf{{StepMark, x.markAll}, {StepClear, x.clear}}
	whole := x.p
	views := whole.layers()
	for i, v := range views {
		of := func(do func() error) func() error {
			return func() error {
				x.p, x.dirty = v, x.dirty || v.changes
				defer func() { x.p = whole }()
				return do()
			}
		}
		out = append(out, stepOf{StepIndex, of(x.index)}, stepOf{StepFiles, of(x.files)})
		if v.changes {
			out = append(out, stepOf{StepApply, of(func() error { return x.apply(views[i-1]) })})
		}
		out = append(out, stepOf{StepStale, of(x.stale)})
	}
	return append(out, stepOf{StepLayout, x.layout}, stepOf{StepSettings, x.settings}, stepOf{StepSync, x.sync},
		stepOf{StepControl, x.control}, stepOf{StepUnmarkOut, x.unmarkOutside}, stepOf{StepUnmark, x.unmark})
}

// step announces a step and asks whether to go on.
func (x *execution) step(name string) error {
	if x.ctx.Err() != nil {
		return context.Cause(x.ctx)
	}
	if x.o.Step != nil {
		if err := x.o.Step(name); err != nil {
			return fmt.Errorf("step %s: %w", name, err)
		}
	}
	x.report(name)
	return nil
}

// take looks at the directory once more: it must be as the plan found it, or
// this plan's own. done means that the plan was executed already.
func (x *execution) take() (done bool, err error) {
	m := x.p.Mode
	state, err := readState(x.p.DataDir)
	switch {
	case errors.Is(err, ErrNoRestore):
	case err != nil:
		return false, err
	default:
		_, merr := os.Lstat(filepath.Join(x.p.DataDir, restore.MarkName))
		marked := !errors.Is(merr, fs.ErrNotExist)
		switch {
		case state.Plan.ID == x.p.ID && !marked:
			return true, nil // its going was the last step
		case state.Plan.ID == x.p.ID:
			x.again, m = true, Delta
		case marked && m != Delta:
			return false, fmt.Errorf("%w: one that was planned at %s", ErrOtherPlan, state.Plan.Made.Format(time.RFC3339))
		}
	}
	at, err := x.p.destination(m, false)
	if err != nil {
		return false, err
	}
	x.dirty = at.state != restore.Empty
	x.mark = restore.Mark{SystemID: x.p.SystemID, Major: x.p.Server.Major, DataDir: x.p.DataDir, Tablespaces: at.places}
	return false, nil
}

// markAll makes the directories and marks them, the data directory first, whose
// mark names the others.
func (x *execution) markAll() error {
	if err := makeDir(x.p.DataDir); err != nil {
		return err
	}
	for _, s := range x.p.Spaces {
		if !s.InPlace && !owns(x.mark.Tablespaces, s.Dir) {
			if err := free(x.p.DataDir, s.Dir, s.OID, nil); err != nil {
				return err
			}
			x.mark.Tablespaces = append(x.mark.Tablespaces, restore.Place{OID: s.OID, Dir: s.Dir})
		}
	}
	if err := x.mark.Write(x.p.DataDir); err != nil {
		return err
	}
	if err := x.note(StepMark); err != nil {
		return err
	}
	m := x.mark
	m.Tablespaces = nil
	for _, s := range x.p.Spaces {
		if s.InPlace {
			continue
		}
		if err := makeDir(s.Dir); err != nil {
			return err
		}
		if err := m.Write(s.Dir); err != nil {
			return err
		}
	}
	return nil
}

// note records how far the plan has come.
func (x *execution) note(step string) error {
	return Status{Plan: *x.p, Step: step, At: time.Now()}.write()
}

func (x *execution) clear() (err error) {
	if x.tree, err = openTree(x.p); err != nil {
		return err
	}
	return x.tree.clear()
}

// index brings the list of files and PostgreSQL's own manifest here.
func (x *execution) index() error {
	if err := x.fetch(x.p.Files, indexName, indexTemp); err != nil {
		return err
	}
	if len(x.p.Below) == 0 { // else it is of no use: it names files that will not be
		if err := x.fetch(x.p.Manifest, "backup_manifest", indexTemp); err != nil {
			return err
		}
	}
	// Proven once more: the plan may come from elsewhere.
	c := newChecker(x.p)
	return errors.Join(x.eachItem(func(it item) error { return c.line(it.File) }), c.ended())
}

// fetch stores a whole object in the data directory, from the first location
// that has it intact.
func (x *execution) fetch(o backupset.Object, name, temp string) error {
	key := x.from.Root.Object(x.p.Label, o.Name)
	var all error
	for _, src := range x.from.Places {
		err := x.fetchFrom(src, key, o, temp)
		if err == nil {
			return x.tree.root.Rename(temp, name)
		}
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		x.problem(src.Name, o.Name, err)
		all = errors.Join(all, fmt.Errorf("location %s: %w", src.Name, err))
	}
	return fmt.Errorf("%w: fetch %s: %w", ErrDamaged, o.Name, all)
}

func (x *execution) fetchFrom(src Source, key string, o backupset.Object, temp string) error {
	r, err := src.Location.Open(x.ctx, key, 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := x.tree.root.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|noFollow, 0o600)
	if err != nil {
		return err
	}
	in := newProven(r, o)
	_, err = io.CopyBuffer(onlyWriter{f}, in, make([]byte, 256<<10))
	if err == nil {
		err = in.verify()
	}
	if err == nil {
		err = x.tree.dress(f, 0o600, nil)
	}
	return errors.Join(err, f.Close())
}

// onlyWriter keeps io.CopyBuffer to its buffer.
type onlyWriter struct{ io.Writer }

// eachItem goes through the list of files.
func (x *execution) eachItem(f func(item) error) error {
	in, err := x.tree.root.Open(indexName)
	if err != nil {
		return err
	}
	defer in.Close()
	return eachFile(in, x.p.Files.RawBytes, func(line backupset.File) error {
		if x.ctx.Err() != nil {
			return context.Cause(x.ctx)
		}
		it, err := x.p.item(line)
		if err != nil {
			return err
		}
		return f(it)
	})
}

// problem remembers what a location did wrong, once per object and kind.
func (x *execution) problem(where, object string, err error) {
	x.problemMu.Lock()
	defer x.problemMu.Unlock()
	p := Problem{Location: where, Object: object, Damaged: isDamage(err), Text: err.Error()}
	for _, o := range x.problems {
		if o.Location == p.Location && o.Object == p.Object && o.Damaged == p.Damaged {
			return
		}
	}
	x.problems = append(x.problems, p)
	x.o.Log.Warn("a location was passed over", "location", where, "object", object, "error", err)
}

func (x *execution) result() Result {
	c := x.count.now()
	return Result{FileN: x.p.FileN, Bytes: c.done, SameBytes: c.same, FetchedBytes: c.fetched, Problems: x.problems}
}
