package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// What a recovery must tell apart when it asks for a file.
var (
	// ErrNotExist is returned for a file that is not there and will never be:
	// the log ends before it. Recovery may end.
	ErrNotExist = errors.New("no such file in the log")
	// ErrOutside is an ErrNotExist for a file that is not on the way of this
	// recovery, whether it exists or not.
	ErrOutside = fmt.Errorf("%w: not on the way", ErrNotExist)
	// ErrNotYet is returned for a file that is not there and may come.
	ErrNotYet = errors.New("not in the log yet")
	// ErrUnknown is returned when nothing can be said: a place that may have the
	// file does not answer, or all that have it have it damaged, or it must be
	// somewhere and is not found. Recovery must not take this for the end of
	// the log.
	ErrUnknown = errors.New("cannot tell whether the log goes on")
)

// FetchConfig says where a recovery gets its log.
type FetchConfig struct {
	Places []Place // nearest first
	// Drop is a local folder with segment files as PostgreSQL names them, or
	// with stored pieces; asked before the places. Empty for none.
	Drop     string
	Root     backupset.Root
	SystemID uint64
	SegSize  int64
	Path     Path // the way of this recovery; nothing off it is given
	// Known is up to where the log of the path is known to exist: whole
	// segments before it that are found nowhere are ErrUnknown. Zero when
	// nothing is known.
	Known pos.LSN
	// Live says that the log still grows: what is not there may come.
	Live bool
	// AllowPartial lets the last, partial segment of the last timeline be given,
	// filled up with zeros. Only for a restore that is nobody's standby; not
	// together with Live.
	AllowPartial bool
	// Dir is a folder for files fetched ahead; made if need be. It is best on
	// the file system of the recovering server, and belongs to this Fetcher:
	// what it finds there is removed.
	Dir string
	// Hand is a folder from which the recovering server may take files that were
	// fetched ahead by itself, under the names that it asks for: a rename costs
	// it a tenth of asking. What is not there it asks for. On the file system of
	// Dir; what is in it belongs to this Fetcher. Empty for none. Own gives a
	// file to the server's account; nil leaves it.
	Hand    string
	Own     func(path string) error
	Ahead   int // segments fetched ahead; default as many as fit into 256 MiB, at least 2
	Workers int // fetches at once; default 2, at most 8. Each takes about 20 MiB
	Log     *slog.Logger
}

const (
	aheadBytes      = 256 << 20
	maxFetchWorkers = 8
	sickFor         = 15 * time.Second // a place that failed is asked after the others
)

func (c *FetchConfig) check() error {
	if err := errors.Join(checkSegSize(c.SegSize), c.Path.check()); err != nil {
		return err
	}
	switch {
	case c.Log == nil || c.Dir == "" || c.SystemID == 0:
		return errors.New("log, folder and system id are required")
	case len(c.Places) == 0 && c.Drop == "":
		return errors.New("no place to get the log from")
	case c.Live && c.AllowPartial:
		return errors.New("a log that still grows and a partial segment do not go together")
	}
	if c.Ahead <= 0 {
		c.Ahead = max(2, int(aheadBytes/c.SegSize))
	}
	if c.Workers <= 0 {
		c.Workers = 2
	}
	c.Workers = min(c.Workers, maxFetchWorkers)
	return nil
}

// PathFrom is the way that a catalog.Choice goes.
func PathFrom(steps []catalog.Step) Path {
	out := make(Path, len(steps))
	for i, s := range steps {
		out[i] = Leg{s.Timeline, s.From}
	}
	return out
}

// Fetcher gives a recovery its log, file by file, from the nearest place that
// has it whole, and fetches ahead. It may be used concurrently, though a
// recovery asks for one file at a time.
type Fetcher struct {
	cfg    FetchConfig
	ctx    context.Context // of the fetches ahead; ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	tools  chan *Decoder

	mu      sync.Mutex
	jobs    map[pos.LSN]*job
	running int
	stopAt  pos.LSN // nothing is fetched ahead from here on; zero for no bound
	sick    map[string]time.Time
	serial  int
	given   int64
}

// job is one segment on its way.
type job struct {
	start  pos.LSN
	ctx    context.Context
	cancel context.CancelFunc
	begun  bool
	done   chan struct{} // closed when path or err is set
	path   string
	err    error
}

// NewFetcher makes a Fetcher. The caller closes it.
func NewFetcher(cfg FetchConfig) (*Fetcher, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("fetch log: %w", err)
	}
	if err := clearDir(cfg.Dir); err != nil {
		return nil, fmt.Errorf("fetch log: %w", err)
	}
	f := &Fetcher{cfg: cfg, tools: make(chan *Decoder, cfg.Workers), jobs: map[pos.LSN]*job{}, sick: map[string]time.Time{}}
	for range cfg.Workers {
		d, err := NewDecoder()
		if err != nil {
			return nil, err
		}
		f.tools <- d
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	if cfg.Hand != "" {
		if err := clearHand(cfg.Hand, cfg.SegSize); err != nil {
			return nil, fmt.Errorf("fetch log: %w", err)
		}
		f.wg.Go(f.watchHand)
	}
	return f, nil
}

// ours are the names that a Fetcher gives to files.
var ours = regexp.MustCompile(`^(ahead|served)-[0-9]+$`)

// clearDir makes the folder, or removes what an earlier Fetcher left there.
func clearDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ours.MatchString(e.Name()) {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}

// Close ends the fetches ahead and removes their files.
func (f *Fetcher) Close() error {
	f.cancel()
	f.wg.Wait()
	for range f.cfg.Workers {
		(<-f.tools).Close()
	}
	err := clearDir(f.cfg.Dir)
	if f.cfg.Hand != "" {
		err = errors.Join(err, clearHand(f.cfg.Hand, f.cfg.SegSize))
	}
	return err
}

// Given is the number of bytes of log that were handed out.
func (f *Fetcher) Given() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.given
}

// Get puts the file that PostgreSQL asks for by name at dest, whole and
// proven, by a rename. The errors are ErrNotExist (ErrOutside), ErrNotYet and
// ErrUnknown; any other is one of this machine.
func (f *Fetcher) Get(ctx context.Context, name, dest string) error {
	if t, ok := historyName(name); ok {
		return f.getHistory(ctx, t, dest)
	}
	t, start, err := pos.ParseSegName(name, f.cfg.SegSize)
	switch {
	case err != nil || pos.SegName(t, start, f.cfg.SegSize) != name:
		return fmt.Errorf("%w: %.80q is no segment and no history", ErrNotExist, name)
	case f.cfg.Path.Holder(start, f.cfg.SegSize) != t:
		return fmt.Errorf("segment %s: %w", name, ErrOutside)
	}
	j := f.want(start)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-j.done:
	}
	if j.err != nil {
		return fmt.Errorf("segment %s: %w", name, j.err)
	}
	if err := f.take(j, dest); err != nil {
		return fmt.Errorf("segment %s: %w", name, err)
	}
	return nil
}

func historyName(name string) (pos.Timeline, bool) {
	if len(name) != 16 || name[8:] != ".history" {
		return 0, false
	}
	t, err := strconv.ParseUint(name[:8], 16, 32)
	return pos.Timeline(t), err == nil && t > 0 && fmt.Sprintf("%08X", t) == name[:8]
}

// want is the job of a segment; those after it are begun, those that are no
// longer near end.
func (f *Fetcher) want(start pos.LSN) *job {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.takenLocked()
	if f.stopAt != 0 && start >= f.stopAt {
		f.stopAt = 0
	}
	seg := pos.LSN(f.cfg.SegSize)
	last := start + pos.LSN(f.cfg.Ahead)*seg
	for at, j := range f.jobs {
		if at < start || at > last {
			f.dropLocked(j)
		}
	}
	j := f.addLocked(start)
	f.aheadLocked(start)
	f.pumpLocked()
	return j
}

func (f *Fetcher) addLocked(start pos.LSN) *job {
	if j := f.jobs[start]; j != nil {
		return j
	}
	j := &job{start: start, done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancel(f.ctx)
	f.jobs[start] = j
	return j
}

// dropLocked forgets a job and removes its file.
func (f *Fetcher) dropLocked(j *job) {
	delete(f.jobs, j.start)
	j.cancel()
	if !j.begun {
		j.err = fmt.Errorf("%w: given up for another one", ErrUnknown)
		close(j.done)
		return
	}
	select {
	case <-j.done:
		if j.path != "" {
			_ = os.Remove(j.path) // else the next Fetcher does
		}
	default: // its end removes the file
	}
}

// pumpLocked begins the first jobs in order of the log.
func (f *Fetcher) pumpLocked() {
	for f.running < f.cfg.Workers {
		var next *job
		for _, j := range f.jobs {
			if !j.begun && (next == nil || j.start < next.start) {
				next = j
			}
		}
		if next == nil || f.ctx.Err() != nil {
			return
		}
		next.begun = true
		f.running++
		f.serial++
		path := filepath.Join(f.cfg.Dir, "ahead-"+strconv.Itoa(f.serial))
		f.wg.Add(1)
		go f.run(next, path)
	}
}

// niceness is how far a fetch ahead stands back: what a recovery waits for is
// the redo, on one processor, and two fetches besides would take it from there.
const niceness = 5

func (f *Fetcher) run(j *job, path string) {
	defer f.wg.Done()
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	_ = unix.Setpriority(unix.PRIO_PROCESS, unix.Gettid(), niceness)
	d := <-f.tools
	err := f.fetchSegment(j.ctx, d, j.start, path)
	f.tools <- d
	if err == nil {
		path = f.handOut(j.start, path)
	}
	j.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.running--
	current := f.jobs[j.start] == j
	if err == nil && current {
		j.path = path
	} else {
		if j.err = err; err == nil {
			j.err = fmt.Errorf("%w: given up for another one", ErrUnknown)
		}
		_ = os.Remove(path) // may not be there; else the next Fetcher does
	}
	if err != nil && current {
		delete(f.jobs, j.start) // the next time it is asked for, it is looked for again
		if errors.Is(err, ErrNotExist) || errors.Is(err, ErrNotYet) {
			f.stopAt = j.start
			for at, o := range f.jobs {
				if at > j.start && !o.begun {
					f.dropLocked(o)
				}
			}
		}
	}
	close(j.done)
	f.pumpLocked()
}

// take hands a fetched file over.
func (f *Fetcher) take(j *job, dest string) error {
	f.mu.Lock()
	if f.jobs[j.start] == j {
		delete(f.jobs, j.start)
	}
	f.given += f.cfg.SegSize
	f.mu.Unlock()
	return moveFile(j.path, dest)
}

// moveFile renames a file, or copies it to another file system under a
// temporary name and renames that.
func moveFile(from, to string) error {
	if err := os.Rename(from, to); err == nil {
		return nil
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	if err := writeFile(to, func(w io.Writer) error { _, err := io.Copy(w, src); return err }); err != nil {
		return err
	}
	return os.Remove(from)
}

// writeFile makes a file that appears whole or not at all. It is not synced: a
// recovery that is cut off asks again.
func writeFile(path string, write func(io.Writer) error) error {
	w, err := os.CreateTemp(filepath.Dir(path), ".understudy-*")
	if err != nil {
		return err
	}
	if err := errors.Join(write(w), w.Close()); err != nil {
		return errors.Join(err, os.Remove(w.Name()))
	}
	if err := os.Rename(w.Name(), path); err != nil {
		return errors.Join(err, os.Remove(w.Name()))
	}
	return nil
}
