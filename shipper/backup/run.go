package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
	"understudy/shipper/basestream"
)

// tick is how often progress is told and the locations are watched.
const tick = 200 * time.Millisecond

// run is one backup being taken.
type run struct {
	cfg  Config
	send *deliverer
	line *line
	list *fileList

	server facts
	parent *parent // nil: a full backup
	set    backupset.Set

	step     atomic.Value // Step
	done     atomic.Int64 // bytes of the database read
	estimate atomic.Int64

	mu       sync.Mutex
	warnings []string // guarded by mu
}

func newRun(cfg Config) *run {
	r := &run{cfg: cfg}
	r.step.Store(StepStart)
	return r
}

// take runs the parts of a backup: this goroutine reads, the line compresses,
// the deliverer stores.
func (r *run) take(caller context.Context) (Result, error) {
	ctx, cancel := context.WithCancelCause(caller)
	defer cancel(nil)
	list, err := newFileList(r.cfg.Scratch)
	if err != nil {
		return Result{}, err
	}
	defer list.close()
	r.list = list
	if r.cfg.Parent != nil {
		if r.parent, err = openParent(ctx, r.cfg); err != nil {
			return Result{}, err
		}
		defer r.parent.close()
	}
	r.send = newDeliverer(ctx, cancel, r.cfg)
	r.line = newLine(r.cfg, r.send, list)

	began := time.Now()
	r.cfg.Log.Info("backup started", "label", r.cfg.Label, "locations", len(r.cfg.Dests))
	quiet := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { r.watch(quiet) })
	defer func() { close(quiet); watch.Wait() }()

	err = r.copy(ctx)
	if err == nil {
		r.step.Store(StepFinish)
		err = r.seal()
	}
	if err != nil {
		cancel(err)
	}
	dests := r.send.finish()
	res := Result{Set: r.set, Dests: dests}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
			err = fmt.Errorf("%w (%w)", cause, err)
		}
		return res, err
	}
	if err := r.outcome(ctx, &res); err != nil {
		return res, err
	}
	r.cfg.Log.Info("backup taken", "label", r.cfg.Label, "raw_bytes", r.set.RawBytes, "stored_bytes", r.set.StoredBytes(),
		"file_n", r.set.FileN, "damaged_pages", r.set.DamageN, "took", time.Since(began).Round(time.Millisecond))
	return res, nil
}

// outcome judges what the locations said about set.json.
func (r *run) outcome(ctx context.Context, res *Result) error {
	res.Digest = r.send.digest
	if slices.ContainsFunc(res.Dests, func(d DestResult) bool { return d.Err == nil }) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return r.send.nobody()
}

// copy fills everything but set.json.
func (r *run) copy(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	r.line.start(ctx, g)
	g.Go(func() error {
		defer r.line.close()
		return r.read(ctx)
	})
	return g.Wait()
}

// read is the reading goroutine: the database, the files beside it, the list.
func (r *run) read(ctx context.Context) error {
	if err := r.readServer(ctx); err != nil {
		return err
	}
	if err := r.readExtra(ctx); err != nil {
		return err
	}
	if err := r.line.drain(ctx); err != nil {
		return err
	}
	if err := r.recheck(ctx); err != nil {
		return err
	}
	return r.readList(ctx)
}

// readServer copies the database.
func (r *run) readServer(ctx context.Context) error {
	var err error
	if r.server, err = askServer(ctx, r.cfg.ConnString); err != nil {
		return err
	}
	src, err := basestream.Open(ctx, r.cfg.stream())
	if err != nil {
		return fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer src.Close()
	stop := context.AfterFunc(ctx, src.Abort)
	defer stop()
	if r.cfg.SystemID != 0 && src.SystemID != r.cfg.SystemID {
		return fmt.Errorf("%w: system identifier %d instead of %d", ErrOtherSystem, src.SystemID, r.cfg.SystemID)
	}
	r.set = r.describe(src)
	r.set.Began = time.Now().UTC()
	if err := r.offer(ctx, src); err != nil {
		return err
	}
	plan, err := src.Start()
	if err != nil {
		return r.parent.refusal(err)
	}
	r.estimate.Store(int64(plan.Estimate))
	r.step.Store(StepCopy)
	r.set.Start = plan.Start
	if err := r.cfg.OnStart(plan.Start, plan.Timeline); err != nil {
		return err
	}
	for _, s := range plan.Spaces {
		r.set.Tablespaces = append(r.set.Tablespaces, backupset.Tablespace{OID: s.OID, Location: s.Location, InPlace: s.InPlace})
	}
	if err := r.readParts(ctx, src); err != nil {
		return err
	}
	end, timeline, err := src.Finish()
	if err != nil {
		return err
	}
	// A standby may follow its primary to another timeline meanwhile; recovery
	// goes the same way, so that the one of the end is the set's.
	r.set.End, r.set.Timeline, r.set.Ended = end, timeline, time.Now().UTC()
	return nil
}

// readParts copies the archives and the manifest.
func (r *run) readParts(ctx context.Context, src *basestream.Stream) error {
	check := pageRule{pageSize: r.server.BlockSize, segPages: r.server.segPages, start: r.set.Start}
	var blocks *backupset.Server
	if r.parent != nil {
		blocks = &r.set.Server
	}
	if !r.server.Checksums {
		check.pageSize = 0
	}
	for {
		part, err := src.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		c := &cutter{ctx: ctx, line: r.line, archive: backupset.BaseName, check: check, count: &r.done, blocks: blocks}
		switch {
		case part.Manifest:
			c.archive = backupset.ManifestName
			err = c.whole(src, true)
		case part.OID != 0:
			c.archive, c.check.prefix = backupset.SpaceName(part.OID), fmt.Sprintf("pg_tblspc/%d/", part.OID)
			err = c.tar(src)
		default:
			err = c.tar(src)
		}
		if err != nil {
			return err
		}
	}
}

// readList stores the list of files, which is complete now.
func (r *run) readList(ctx context.Context) error {
	raw, n, err := r.list.rewind()
	if err != nil {
		return err
	}
	r.set.FileN = n
	c := &cutter{ctx: ctx, line: r.line, archive: backupset.FilesName}
	if err := c.whole(raw, false); err != nil {
		return err
	}
	return r.line.drain(ctx)
}

// describe is what is known of the set before the copy.
func (r *run) describe(src *basestream.Stream) backupset.Set {
	c := r.cfg
	s := backupset.Set{
		Version: backupset.Version, Label: c.Label, Group: c.Root.Group, GroupID: c.GroupID, Profile: c.Root.Profile,
		Node: c.Node, Standby: r.server.standby, Program: c.Program, SystemID: src.SystemID, Server: r.server.Server,
		Lineage: c.Lineage, Databases: r.server.databases, Notes: c.Notes,
	}
	s.Server.Major = src.Major
	if p := r.parent; p != nil {
		s.Version, s.Parent, s.ParentDigest, s.Server.SegPages = backupset.IncrementalVersion, p.set.Label, p.digest, r.server.segPages
	}
	return s
}

// offer tells the server what an incremental backup is based on.
func (r *run) offer(ctx context.Context, src *basestream.Stream) error {
	if r.parent == nil {
		return nil
	}
	if err := r.parent.admit(r.server, src); err != nil {
		return err
	}
	return r.parent.refusal(src.Upload(ctx, r.parent.manifest))
}

// seal sends set.json to every location.
func (r *run) seal() error {
	r.set.Objects = r.line.sorted()
	r.set.RawBytes = r.list.bytes
	r.mu.Lock()
	r.set.Warnings = slices.Clone(r.warnings)
	r.mu.Unlock()
	b, err := backupset.EncodeSet(r.set)
	if err != nil {
		return err
	}
	r.send.last(b)
	return nil
}

// warn notes what could not be taken.
func (r *run) warn(text string) {
	const most = 200
	r.mu.Lock()
	defer r.mu.Unlock()
	switch n := len(r.warnings); {
	case n < most:
		r.warnings = append(r.warnings, strings.ToValidUTF8(text, "?"))
	case n == most:
		r.warnings = append(r.warnings, "more files could not be taken")
	}
}

// watch tells progress and drops locations that hold up the others.
func (r *run) watch(quiet <-chan struct{}) {
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case <-quiet:
			r.tell()
			return
		case now := <-t.C:
			r.send.judge(now)
			r.tell()
		}
	}
}

func (r *run) tell() {
	if r.cfg.OnProgress == nil {
		return
	}
	p := Progress{Label: r.cfg.Label, Step: r.step.Load().(Step), Done: r.done.Load(), Estimate: r.estimate.Load(), Stored: r.line.stored.Load()}
	for _, d := range r.send.results() {
		p.Dests = append(p.Dests, DestProgress(d))
	}
	r.cfg.OnProgress(p)
}

// fileList is the list of files while it grows: a file without a name, so
// that nothing is left of it whatever happens.
type fileList struct {
	f     *os.File
	w     *backupset.FileWriter
	bytes int64 // of the files of the database
}

func newFileList(dir string) (*fileList, error) {
	f, err := scratchFile(dir, "understudy-files-*")
	if err != nil {
		return nil, fmt.Errorf("keep the list of files: %w", err)
	}
	return &fileList{f: f, w: backupset.NewFileWriter(f)}, nil
}

func (l *fileList) add(f backupset.File) error {
	if f.Archive != backupset.ExtraName {
		l.bytes += f.Size
	}
	return l.w.Write(f)
}

// rewind makes the list readable, from its beginning.
func (l *fileList) rewind() (io.Reader, int, error) {
	if err := l.w.Flush(); err != nil {
		return nil, 0, fmt.Errorf("keep the list of files: %w", err)
	}
	if _, err := l.f.Seek(0, io.SeekStart); err != nil {
		return nil, 0, fmt.Errorf("read the list of files: %w", err)
	}
	return l.f, l.w.N(), nil
}

func (l *fileList) close() { l.f.Close() }
