package probe

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// DefaultMinFree is one WAL segment of the usual size.
const DefaultMinFree = 16 << 20

// Disk probes the filesystems below some directories. Fill the fields before
// the first call; the methods may be called from several goroutines.
//
// A system call on a disk that hangs cannot be ended. So each filesystem has at
// most one write and each directory at most one look outstanding, in a
// goroutine of its own, which stays until the disk answers: a hung disk costs
// that many goroutines and threads, for as long as it hangs, and no more.
type Disk struct {
	// Dirs are the daemon's own directories, state_dir above all. On each
	// filesystem the probe file is in the first directory, so naming these
	// keeps it out of PostgreSQL's where they share one.
	Dirs []string
	// Data is the data directory: it is probed together with where its
	// pg_wal and its tablespaces are, listed anew in each round. Empty on a
	// witness.
	Data string
	// MinFree is how many bytes must be left to PostgreSQL, which cannot use
	// what is reserved for root; by default DefaultMinFree.
	MinFree int64
	// UID and GID own the probe file, so that PostgreSQL's tools may read and
	// remove it; zero leaves it to the daemon's own account.
	UID, GID uint32

	round sync.Mutex // one Check at a time

	mu    sync.Mutex
	tasks map[string]*task
	known []string // the directories as listed last

	now  func() time.Duration // nil: the machine's; see Watch
	disk filesystem           // nil: the real one
}

// filesystem is what Disk does to a disk. Each call may hang.
type filesystem interface {
	list(data string) []string
	look(dir string) (look, error)
	write(path string, create bool) error
}

// look is what a filesystem tells about itself.
type look struct {
	dev      uint64
	free     int64 // bytes for others than root
	inodes   bool  // some are left
	readOnly bool
}

// task is one call of filesystem, running or done. The fields below done may
// be read once it is closed.
type task struct {
	where string
	what  string
	began time.Duration
	done  chan struct{}

	dirs []string
	look look
	err  error
}

func (t *task) finished() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// Check is one round as while a server runs: it looks at every directory and
// writes to every filesystem. It returns when that is done or ctx ends, and
// waits a second at most for each of listing, looking and writing; what is
// still going on then is a finding of Kind DiskHung once it has lasted a second.
func (d *Disk) Check(ctx context.Context) []Finding {
	return append(d.check(ctx, true), d.Hung()...)
}

// check is Check without what lasts. With no server running nothing is missed
// and nothing made: directories come and go during a seed, and an empty one
// must stay empty. A probe file that exists is written nevertheless.
func (d *Disk) check(ctx context.Context, serving bool) []Finding {
	d.round.Lock()
	defer d.round.Unlock()
	var out []Finding
	var dirs []string
	var devs []uint64
	for _, t := range d.lookAll(ctx) {
		switch {
		case !t.finished():
		case errors.Is(t.err, os.ErrNotExist) && !serving:
		case t.err != nil:
			out = append(out, trouble(t.where, t.err))
		case !slices.Contains(devs, t.look.dev):
			devs, dirs = append(devs, t.look.dev), append(dirs, t.where)
			out = append(out, d.assess(t.where, t.look)...)
		}
	}
	var writes []*task
	for _, dir := range dirs {
		path := filepath.Join(dir, FileName)
		writes = append(writes, d.start("write "+dir, dir, "a write to", func(t *task) { t.err = d.fs().write(path, serving) }))
	}
	await(ctx, writes)
	for _, t := range writes {
		if t.finished() && t.err != nil && (serving || !errors.Is(t.err, os.ErrNotExist)) {
			out = append(out, trouble(t.where, t.err))
		}
	}
	return out
}

// lookAll looks at all directories, in their order.
func (d *Disk) lookAll(ctx context.Context) []*task {
	dirs := d.Dirs
	if d.Data != "" {
		list := d.start("list", d.Data, "a look at", func(t *task) { t.dirs = d.fs().list(d.Data) })
		await(ctx, []*task{list})
		d.mu.Lock()
		if list.finished() {
			d.known = list.dirs
		}
		dirs = append(slices.Clip(dirs), d.known...)
		d.mu.Unlock()
	}
	var out []*task
	for _, dir := range dirs {
		out = append(out, d.start("look "+dir, dir, "a look at", func(t *task) { t.look, t.err = d.fs().look(dir) }))
	}
	await(ctx, out)
	return out
}

// start begins a call unless the one before it is still going on, which is
// returned then: its late answer is the answer of this round.
func (d *Disk) start(key, where, what string, do func(*task)) *task {
	d.mu.Lock()
	defer d.mu.Unlock()
	if t := d.tasks[key]; t != nil && !t.finished() {
		return t
	}
	t := &task{where: where, what: what, began: d.clock(), done: make(chan struct{})}
	if d.tasks == nil {
		d.tasks = make(map[string]*task)
	}
	d.tasks[key] = t
	go func() {
		defer close(t.done)
		do(t)
	}()
	return t
}

// await waits until all are done, ctx ends, or for a second.
func await(ctx context.Context, tasks []*task) {
	ctx, cancel := context.WithTimeout(ctx, tellAfter)
	defer cancel()
	for _, t := range tasks {
		select {
		case <-t.done:
		case <-ctx.Done():
			return
		}
	}
}

// settle waits, a second at most, until nothing is going on.
func (d *Disk) settle() {
	d.mu.Lock()
	all := slices.Collect(maps.Values(d.tasks))
	d.mu.Unlock()
	await(context.Background(), all)
}

// Hung is what has been going on for a second or longer at this moment, the
// longest for each directory. It does not wait.
func (d *Disk) Hung() []Finding {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Finding
	for _, t := range d.tasks {
		if t.finished() {
			continue
		}
		if lasted := d.clock() - t.began; lasted >= tellAfter {
			out = append(out, Finding{Kind: DiskHung, Where: t.where, Text: t.what + " the disk of " + t.where + " hangs", For: lasted})
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return cmp.Or(cmp.Compare(b.For, a.For), cmp.Compare(a.Text, b.Text)) })
	return out
}

// assess judges what a filesystem told. A disk that takes no writes is not
// called full as well.
func (d *Disk) assess(dir string, l look) []Finding {
	need := cmp.Or(d.MinFree, DefaultMinFree)
	f := Finding{Where: dir}
	switch {
	case l.readOnly:
		f.Kind, f.Text = DiskReadOnly, "the disk of "+dir+" is read-only"
	case l.free < need:
		f.Kind, f.Text = DiskFull, fmt.Sprintf("the disk of %s is full: less than %d KiB are left for PostgreSQL", dir, need>>10)
	case !l.inodes:
		f.Kind, f.Text = DiskFull, "the disk of "+dir+" is full: it has no inode left"
	default:
		return nil
	}
	return []Finding{f}
}

// trouble is the finding for an error of the disk.
func trouble(dir string, err error) Finding {
	f := Finding{Kind: DiskError, Where: dir, Text: "the disk of " + dir + " fails: " + err.Error()}
	switch {
	case errors.Is(err, errNoFile):
		f.Kind, f.Text = DiskOdd, "the disk of "+dir+" cannot be probed: "+err.Error()
	case errors.Is(err, unix.EROFS):
		f.Kind, f.Text = DiskReadOnly, "the disk of "+dir+" is read-only"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		f.Kind, f.Text = DiskFull, "the disk of "+dir+" is full: "+err.Error()
	}
	return f
}

func (d *Disk) clock() time.Duration {
	if d.now != nil {
		return d.now()
	}
	return machineTime()
}

func (d *Disk) fs() filesystem {
	if d.disk != nil {
		return d.disk
	}
	return realDisk{uid: d.UID, gid: d.GID}
}

// machineTime is a monotonic clock of this host.
func machineTime() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail on Linux
	return time.Duration(ts.Nano())
}
