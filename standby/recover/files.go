package recover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"understudy/shipper/backupset"
)

// errDecode is a frame that zstd refuses.
var errDecode = errors.New("the frame cannot be decompressed")

// target is a file on its way.
type target struct {
	path string
	size int64
	mode uint32
	at   time.Time
	left atomic.Int64 // chunks that are not right yet
}

// piece is a chunk of a file, or a whole file without bytes, within a frame.
type piece struct {
	to     *target
	off    int64 // in the file
	raw    int64 // in the archive
	n      int
	digest []byte
}

// unit is the work of one frame.
type unit struct {
	archive *backupset.Object
	frame   backupset.Frame
	pieces  []piece
}

// files writes every file of the set.
func (x *execution) files() error {
	x.sources = newPool(x.from, x.p.Label)
	workers := x.o.Workers
	if workers <= 0 {
		workers = min(max(4, 2*runtime.GOMAXPROCS(0)), 8)
	}
	g, ctx := errgroup.WithContext(x.ctx)
	units := make(chan unit, workers)
	busy := make(chan struct{}, max(2, runtime.GOMAXPROCS(0))) // of those that compute
	for range workers {
		g.Go(func() error {
			w, err := newWorker(ctx, x, busy)
			if err != nil {
				return err
			}
			defer w.dec.Close()
			for u := range units {
				if ctx.Err() != nil {
					return context.Cause(ctx)
				}
				if err := w.unit(u); err != nil {
					return err
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		defer close(units)
		return x.dispatch(ctx, units)
	})
	return g.Wait()
}

// dispatch makes units of the list of files, in its order.
func (x *execution) dispatch(ctx context.Context, out chan<- unit) error {
	d := &dispatcher{x: x, ctx: ctx, out: out}
	if err := x.eachItem(d.item); err != nil {
		return err
	}
	return d.flush()
}

// dispatcher gathers the pieces of a frame.
type dispatcher struct {
	x      *execution
	ctx    context.Context
	out    chan<- unit
	frames *backupset.Frames // of the current archive
	cur    unit
}

func (d *dispatcher) item(it item) error {
	switch {
	case it.skip:
		return nil
	case it.Type == backupset.TypeFolder:
		if it.path == "global" {
			d.x.group = it.Mode&0o040 != 0
		}
		if err := d.x.tree.mkdir(it.path, dirMode(it.Mode)); err != nil {
			return fmt.Errorf("make directory %s: %w", it.path, err)
		}
		return nil
	}
	if err := d.enter(it.Archive); err != nil {
		return err
	}
	to := &target{path: it.path, size: it.Size, mode: it.Mode, at: it.At}
	if d.x.trusted(to) {
		d.x.count.done.Add(it.Size)
		d.x.count.same.Add(it.Size)
		return nil
	}
	if it.Size == 0 {
		to.left.Store(1)
		d.cur.pieces = append(d.cur.pieces, piece{to: to})
		if len(d.cur.pieces) >= maxPieces {
			return d.flush()
		}
		return nil
	}
	n := backupset.ChunkN(it.Size)
	to.left.Store(n)
	for i := range n {
		off := i * backupset.ChunkSize
		p := piece{to: to, off: off, raw: it.Offset + off, n: int(min(backupset.ChunkSize, it.Size-off)), digest: it.Digest(i)}
		if err := d.add(p); err != nil {
			return err
		}
	}
	return nil
}

// enter begins an archive.
func (d *dispatcher) enter(name string) error {
	if d.cur.archive != nil && d.cur.archive.Name == name {
		return nil
	}
	if err := d.flush(); err != nil {
		return err
	}
	i := slices.IndexFunc(d.x.p.Archives, func(o backupset.Object) bool { return o.Name == name })
	if i < 0 {
		return fmt.Errorf("%w: no archive %s", ErrDamaged, name)
	}
	frames, err := d.x.framesOf(d.ctx, d.x.p.Archives[i])
	d.frames, d.cur.archive = frames, &d.x.p.Archives[i]
	return err
}

// maxPieces bounds a unit of files without bytes, which no frame ends.
const maxPieces = 4096

// add puts a piece to its frame.
func (d *dispatcher) add(p piece) error {
	end := d.cur.frame.RawAt + d.cur.frame.Raw
	if p.raw < d.cur.frame.RawAt || p.raw+int64(p.n) > end || len(d.cur.pieces) >= maxPieces {
		if err := d.flush(); err != nil {
			return err
		}
		first, last, err := d.frames.Find(p.raw, int64(p.n))
		if err != nil || last != first+1 {
			return fmt.Errorf("%w: a chunk of %s does not lie within one frame of %s (%w)", ErrDamaged, p.to.path, d.cur.archive.Name, err)
		}
		d.cur.frame = d.frames.At(first)
	}
	d.cur.pieces = append(d.cur.pieces, p)
	return nil
}

// flush hands the gathered pieces to a worker.
func (d *dispatcher) flush() error {
	if len(d.cur.pieces) == 0 {
		return nil
	}
	u := d.cur
	d.cur = unit{archive: u.archive}
	select {
	case d.out <- u:
		return nil
	case <-d.ctx.Done():
		return context.Cause(d.ctx)
	}
}

// framesOf is the seek table of an archive from the first place that has it.
func (x *execution) framesOf(ctx context.Context, o backupset.Object) (*backupset.Frames, error) {
	var all error
	for _, s := range x.sources.order(time.Now()) {
		f, err := s.framesOf(ctx, x.sources.prefix+o.Name, o)
		if err == nil {
			return f, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		s.failed(err, time.Now())
		x.problem(s.Name, o.Name, err)
		all = errors.Join(all, fmt.Errorf("location %s: %w", s.Name, err))
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrDamaged, o.Name, all)
}

// trusted tells whether a file is to be kept by its size and time alone. What
// an earlier call wrote is not: its bytes may have been lost with the power. Nor
// is what changed just before the set was taken, as times are whole seconds.
func (x *execution) trusted(to *target) bool {
	if !x.p.TrustTimes || x.again || to.at.IsZero() || to.path == controlPath || !to.at.Before(x.p.Ended.Add(-time.Hour)) {
		return false
	}
	root, name := x.tree.locate(to.path)
	fi, err := root.Lstat(name)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == to.size && fi.ModTime().Truncate(time.Second).Equal(to.at.Truncate(time.Second))
}

// worker deals with one unit at a time; its buffers are used again and again.
type worker struct {
	x      *execution
	ctx    context.Context
	busy   chan struct{}
	dec    *zstd.Decoder
	raw    []byte
	stored []byte
	wrong  []piece // of the unit
}

func newWorker(ctx context.Context, x *execution, busy chan struct{}) (*worker, error) {
	// Checksums of frames are passed over: the digests say more.
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(backupset.MaxFrame), zstd.WithDecodeAllCapLimit(true), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, fmt.Errorf("make a decoder: %w", err)
	}
	return &worker{x: x, ctx: ctx, busy: busy, dec: dec, raw: newBuffer(backupset.FrameTarget)}, nil
}

// unit makes the files of one frame right.
func (w *worker) unit(u unit) error {
	if err := w.x.step(StepFiles); err != nil {
		return err
	}
	if err := w.look(u); err != nil {
		return err
	}
	if len(w.wrong) == 0 {
		return nil
	}
	body, err := w.fetch(u)
	if err != nil {
		return err
	}
	return w.write(u, body)
}

// compute keeps the number of goroutines that compute to that of the
// processors; the others wait for the network or the disk.
func (w *worker) compute(f func()) {
	w.busy <- struct{}{}
	f()
	<-w.busy
}

// handle is the file that the worker writes or reads now.
type handle struct {
	f  *os.File
	to *target
}

func (h *handle) close() error {
	if h.f == nil {
		return nil
	}
	err := h.f.Close()
	h.f, h.to = nil, nil
	return err
}

// look finds which pieces are not right yet.
func (w *worker) look(u unit) (err error) {
	w.wrong = w.wrong[:0]
	var h handle
	defer func() { err = errors.Join(err, h.close()) }()
	for _, p := range u.pieces {
		if !w.x.dirty && p.n > 0 { // nothing was here
			w.wrong = append(w.wrong, p)
			continue
		}
		if err := w.open(&h, p); err != nil {
			return err
		}
		same, err := w.same(h.f, p)
		if err != nil {
			return err
		}
		if !same {
			w.wrong = append(w.wrong, p)
			continue
		}
		w.x.count.same.Add(int64(p.n))
		if err := w.right(h.f, p); err != nil {
			return err
		}
	}
	return nil
}

// open opens the file of a piece unless it is open. Whoever has the first piece
// of a file gives it size, mode and owner.
func (w *worker) open(h *handle, p piece) error {
	if h.to == p.to {
		return nil
	}
	if err := h.close(); err != nil {
		return err
	}
	f, was, err := w.x.tree.open(p.to.path, w.x.dirty)
	if err != nil {
		return fmt.Errorf("open %s: %w", p.to.path, err)
	}
	h.f, h.to = f, p.to
	if p.off > 0 {
		return nil
	}
	if err := w.prepare(f, p.to, was); err != nil {
		return fmt.Errorf("prepare %s: %w", p.to.path, err)
	}
	return nil
}

func (w *worker) prepare(f *os.File, to *target, was fs.FileInfo) error {
	if err := w.x.tree.dress(f, to.mode, was); err != nil {
		return err
	}
	if was != nil && was.Size() == to.size || was == nil && to.size <= backupset.ChunkSize {
		return nil
	}
	if was == nil || was.Size() < to.size {
		// Only a hint to the file system to keep the file in one piece, except
		// that it tells early when there is no room.
		if err := unix.Fallocate(int(f.Fd()), 0, 0, to.size); errors.Is(err, unix.ENOSPC) {
			return err
		}
	}
	return f.Truncate(to.size)
}

// same tells whether a piece is here already.
func (w *worker) same(f *os.File, p piece) (bool, error) {
	if p.n == 0 {
		return true, nil
	}
	if p.off == 0 {
		_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	}
	n, err := f.ReadAt(w.raw[:p.n], p.off)
	if n < p.n {
		if errors.Is(err, unix.EIO) {
			return false, fmt.Errorf("read %s: %w", p.to.path, err)
		}
		return false, nil // shorter than it shall be
	}
	same := false
	w.compute(func() { same = matches(w.raw[:p.n], p.digest) })
	return same, nil
}

func matches(b, digest []byte) bool {
	sum := blake3.Sum256(b)
	return string(sum[:backupset.DigestSize]) == string(digest)
}

// fetch reads and decompresses the unit's frame from the first place whose
// bytes are right for all pieces that are wanted.
func (w *worker) fetch(u unit) ([]byte, error) {
	var all error
	for _, s := range w.x.sources.order(time.Now()) {
		body, err := w.fetchFrom(s, u)
		if err == nil {
			return body, nil
		}
		if w.ctx.Err() != nil {
			return nil, context.Cause(w.ctx)
		}
		s.failed(err, time.Now())
		w.x.problem(s.Name, u.archive.Name, err)
		all = errors.Join(all, fmt.Errorf("location %s: %w", s.Name, err))
	}
	if isDamage(all) {
		return nil, fmt.Errorf("%w: %s in %s: %w", ErrDamaged, u.pieces[0].to.path, u.archive.Name, all)
	}
	return nil, fmt.Errorf("fetch %s in %s: %w", u.pieces[0].to.path, u.archive.Name, all)
}

func (w *worker) fetchFrom(s *stock, u unit) ([]byte, error) {
	key := w.x.sources.prefix + u.archive.Name
	// The place's own table: one that is damaged misleads at that place only.
	frames, err := s.framesOf(w.ctx, key, *u.archive)
	if err != nil {
		return nil, err
	}
	first, last, err := frames.Find(u.frame.RawAt, u.frame.Raw)
	if err != nil {
		return nil, err
	}
	if last != first+1 || frames.At(first) != u.frame {
		return nil, fmt.Errorf("%w: the seek table of %s differs from the others", backupset.ErrDamaged, u.archive.Name)
	}
	w.stored = slices.Grow(w.stored[:0], int(u.frame.Stored))[:u.frame.Stored]
	if err := s.readAt(w.ctx, key, w.stored, u.frame.StoredAt); err != nil {
		return nil, err
	}
	w.x.count.fetched.Add(u.frame.Stored)
	var body []byte
	w.compute(func() { body, err = w.decode(u) })
	return body, err
}

// decode decompresses the stored frame and proves the wanted pieces.
func (w *worker) decode(u unit) ([]byte, error) {
	if int64(cap(w.raw)) < u.frame.Raw {
		w.raw = newBuffer(int(u.frame.Raw))
	}
	body, err := w.dec.DecodeAll(w.stored, w.raw[:0:u.frame.Raw])
	if err != nil {
		return nil, fmt.Errorf("%w: %s at %d: %w", errDecode, u.archive.Name, u.frame.StoredAt, err)
	}
	if int64(len(body)) != u.frame.Raw {
		return nil, fmt.Errorf("%w: %s at %d: %d bytes instead of %d", errDecode, u.archive.Name, u.frame.StoredAt, len(body), u.frame.Raw)
	}
	for _, p := range w.wrong {
		at := p.raw - u.frame.RawAt
		if !matches(body[at:at+int64(p.n)], p.digest) {
			return nil, fmt.Errorf("%w: %s from %d on is not what was written", backupset.ErrDamaged, p.to.path, p.off)
		}
	}
	return body, nil
}

// write stores the pieces that were not right. They stand in the order of the
// archive, as the list of files was proven to.
func (w *worker) write(u unit, body []byte) (err error) {
	var h handle
	defer func() { err = errors.Join(err, h.close()) }()
	for i := 0; i < len(w.wrong); {
		// Neighbouring chunks of one file go in one call.
		p, n := w.wrong[i], int64(w.wrong[i].n)
		end := i + 1
		for end < len(w.wrong) && w.wrong[end].to == p.to && w.wrong[end].off == p.off+n {
			n += int64(w.wrong[end].n)
			end++
		}
		if err := w.open(&h, p); err != nil {
			return err
		}
		at := p.raw - u.frame.RawAt
		if err := w.store(h.f, body, at, n, p.off); err != nil {
			return fmt.Errorf("write %s: %w", p.to.path, err)
		}
		for ; i < end; i++ {
			if err := w.right(h.f, w.wrong[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// right counts a piece that is as it shall be; the last one of a file gives it
// its time.
func (w *worker) right(f *os.File, p piece) error {
	w.x.count.done.Add(int64(p.n))
	if p.to.left.Add(-1) > 0 || p.to.at.IsZero() {
		return nil
	}
	ts := unix.NsecToTimespec(p.to.at.UnixNano())
	if err := unix.UtimesNanoAt(int(f.Fd()), "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH); err != nil {
		tv := unix.NsecToTimeval(p.to.at.UnixNano())
		if err := unix.Futimes(int(f.Fd()), []unix.Timeval{tv, tv}); err != nil {
			return fmt.Errorf("set the time of %s: %w", p.to.path, err)
		}
	}
	return nil
}
