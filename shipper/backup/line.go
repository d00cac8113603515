package backup

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
	"understudy/shipper/pagesum"
	"understudy/shipper/pos"
)

// slack is the room in a frame's buffer beyond the target, for the heads of
// files.
const slack = 64 << 10

// queueBlocks is how many stored frames wait for the locations, all together,
// beside those that are being made: 32 MiB.
const queueBlocks = 8

// job is one frame on its way from the reader to the locations. Its buffer is
// used again.
type job struct {
	raw    []byte
	pieces []piece
	plain  bool   // stored as it is
	out    *block // compressed
	done   chan struct{}
}

// piece is a chunk of a file within a frame, or the notice of a file that has
// no data.
type piece struct {
	file    *file
	index   int64 // of the chunk
	at, n   int   // in the frame
	last    bool  // of the file
	head    bool  // of an incremental file whose block map goes on behind it
	digest  [backupset.DigestSize]byte
	suspect []suspect
}

// file is a file being read.
type file struct {
	backupset.File
	rule  *pageRule // nil: no pages
	path  string    // within the data directory; of an incremental file that of the one it changes
	block uint32    // of its first page
	inc   *blockMap // nil: the whole file
}

// blockMap is the head of an incremental file, as far as it was read. It is
// complete before a frame with the first block goes to a worker, and not changed
// afterwards; frames before that are marked, and their worker does not look at it.
type blockMap struct {
	server backupset.Server
	head   []byte
	at     int64 // of the first block
	backupset.BlockMap
	known bool
}

// feed takes the next bytes of the file.
func (m *blockMap) feed(b []byte, size int64) error {
	if m.known {
		return nil
	}
	m.head = append(m.head, b...)
	if len(m.head) < backupset.BlockMapHead && int64(len(m.head)) < size {
		return nil
	}
	n, err := m.server.BlockMapSize(m.head, size)
	if err != nil || len(m.head) < n && int64(len(m.head)) < size {
		return err
	}
	if m.BlockMap, err = m.server.BlockMap(m.head, size); err != nil {
		return err
	}
	m.at, m.head, m.known = m.server.BlocksAt(len(m.Blocks)), nil, true
	return nil
}

// page is where the page at an offset of the file, as it was sent, belongs:
// its offset in the file of the database. ok is false for the head.
func (f *file) page(offset int64, pageSize int) (in int64, ok bool) {
	if f.inc == nil {
		return offset, true
	}
	i := (offset - f.inc.at) / int64(pageSize)
	if offset < f.inc.at || i >= int64(len(f.inc.Blocks)) {
		return 0, false
	}
	return int64(f.inc.Blocks[i]) * int64(pageSize), true
}

// pageRule is how the pages of an archive are checked; pageSize zero is not at
// all.
type pageRule struct {
	pageSize int
	segPages uint32
	start    pos.LSN
	prefix   string // of paths, to make them relative to the data directory
}

// suspect is a page whose checksum was wrong.
type suspect struct {
	path    string // within the data directory
	offset  int64  // in the file
	block   uint32 // of the relation's fork
	verdict pagesum.Verdict
	why     string
}

// maxSuspects bounds the list of pages to look at again.
const maxSuspects = 10_000

// step is what the collector does next, in the order of the reader.
type step struct {
	begin string // an object begins
	job   *job   // its next frame
	end   bool   // it is over
	idle  chan struct{}
}

// line is the assembly line: frames go to the workers and, in order, to the
// collector, which hands them to the locations.
type line struct {
	cfg  Config
	send *deliverer
	list *fileList

	jobs  chan *job // free ones
	work  chan *job
	order chan step

	stored   atomic.Int64
	objects  []backupset.Object // the collector's
	suspects []suspect          // the collector's, read after drain
	suspectN int
}

func newLine(cfg Config, send *deliverer, list *fileList) *line {
	n := cfg.Workers + 2
	l := &line{cfg: cfg, send: send, list: list, jobs: make(chan *job, n), work: make(chan *job, n), order: make(chan step, n+8)}
	for range n {
		l.jobs <- &job{done: make(chan struct{}, 1)}
	}
	return l
}

// start runs the workers and the collector.
func (l *line) start(ctx context.Context, g *errgroup.Group) {
	for range l.cfg.Workers {
		g.Go(l.press)
	}
	g.Go(func() error { return l.collect(ctx) })
}

// close ends the workers and the collector; the reader calls it.
func (l *line) close() {
	close(l.work)
	close(l.order)
}

// job is an empty frame, once there is room for it.
func (l *line) job(ctx context.Context) (*job, error) {
	var j *job
	select {
	case j = <-l.jobs:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if j.raw == nil {
		j.raw = make([]byte, 0, backupset.FrameTarget+slack)
	}
	out, err := l.send.block(ctx)
	if err != nil {
		return nil, err
	}
	j.raw, j.pieces, j.plain, j.out = j.raw[:0], j.pieces[:0], false, out
	return j, nil
}

// put sends a full frame on.
func (l *line) put(ctx context.Context, j *job) error {
	l.work <- j // has room for all jobs
	return l.note(ctx, step{job: j})
}

func (l *line) note(ctx context.Context, s step) error {
	select {
	case l.order <- s:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// drain waits until everything put so far was handed to the locations.
func (l *line) drain(ctx context.Context) error {
	s := step{idle: make(chan struct{})}
	if err := l.note(ctx, s); err != nil {
		return err
	}
	select {
	case <-s.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// press is a worker. It ends when the reader has.
func (l *line) press() error {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.EncoderLevel(l.cfg.Level)), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(true), zstd.WithWindowSize(backupset.FrameTarget), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return fmt.Errorf("set up compression: %w", err)
	}
	defer enc.Close()
	for j := range l.work {
		for i := range j.pieces {
			j.pieces[i].look(j.raw)
		}
		if j.out.buf == nil {
			j.out.buf = make([]byte, 0, backupset.FrameTarget+2*slack) // never has to grow
		}
		if j.plain {
			j.out.buf = append(j.out.buf[:0], j.raw...)
		} else {
			j.out.buf = enc.EncodeAll(j.raw, j.out.buf[:0])
		}
		j.done <- struct{}{}
	}
	return nil
}

// look takes the digest of a chunk and checks its pages.
func (p *piece) look(raw []byte) {
	if p.n == 0 {
		return
	}
	data := raw[p.at : p.at+p.n]
	sum := blake3.Sum256(data)
	copy(p.digest[:], sum[:])
	rule := p.file.rule
	if rule == nil || p.head {
		return
	}
	size := int64(rule.pageSize)
	for at := p.index * backupset.ChunkSize; int64(len(data)) >= size; data, at = data[size:], at+size {
		offset, ok := p.file.page(at, rule.pageSize)
		if !ok {
			continue
		}
		page, block := data[:size], p.file.block+uint32(offset/size)
		if v := pagesum.Check(page, block, rule.start); v == pagesum.Newer || v == pagesum.Bad {
			p.suspect = append(p.suspect, suspect{path: p.file.path, offset: offset, block: block, verdict: v, why: reason(page, block)})
		}
	}
}

func reason(page []byte, block uint32) string {
	return fmt.Sprintf("checksum %04x instead of %04x", pagesum.Stored(page), pagesum.Checksum(page, block))
}

// collect hands the frames to the locations, in order, and keeps the books.
func (l *line) collect(ctx context.Context) error {
	var o *object
	for s := range l.order {
		switch {
		case s.idle != nil:
			close(s.idle)
		case s.begin != "":
			o = &object{name: s.begin, hash: blake3.New()}
			l.send.create(s.begin)
		case s.end:
			if err := l.finish(ctx, o); err != nil {
				return err
			}
		default:
			// The workers always finish what they were given.
			<-s.job.done
			if err := l.deliver(o, s.job); err != nil {
				return err
			}
		}
	}
	return nil
}

// object is an object being made.
type object struct {
	name   string
	hash   *blake3.Hasher
	frames backupset.Frames
	plain  bool
}

func (l *line) deliver(o *object, j *job) error {
	o.plain = j.plain
	o.frames.Add(len(j.raw), len(j.out.buf))
	l.hand(o, j.out)
	for i := range j.pieces {
		if err := l.book(&j.pieces[i]); err != nil {
			return err
		}
	}
	j.out = nil
	clear(j.pieces)
	l.jobs <- j // has room for all jobs
	return nil
}

// hand gives stored bytes to the locations.
func (l *line) hand(o *object, b *block) {
	o.hash.Write(b.buf)
	l.stored.Add(int64(len(b.buf)))
	l.send.write(b)
}

// book notes a chunk, and the file after its last one.
func (l *line) book(p *piece) error {
	l.suspectN += len(p.suspect)
	l.suspects = append(l.suspects, p.suspect[:min(len(p.suspect), maxSuspects-len(l.suspects))]...)
	if p.n > 0 {
		p.file.Digests = append(p.file.Digests, p.digest[:]...)
	}
	if !p.last {
		return nil
	}
	return l.list.add(p.file.File)
}

// finish ends an object: the seek table, the digest, the commit.
func (l *line) finish(ctx context.Context, o *object) error {
	raw, bytes := o.frames.RawBytes(), o.frames.StoredBytes()
	if !o.plain {
		b, err := l.send.block(ctx)
		if err != nil {
			return err
		}
		if b.buf, err = o.frames.AppendSeekTable(b.buf[:0]); err != nil {
			return err
		}
		bytes += int64(len(b.buf))
		l.hand(o, b)
	}
	l.objects = append(l.objects, backupset.Object{Name: o.name, Bytes: bytes, RawBytes: raw, BLAKE3: hex.EncodeToString(o.hash.Sum(nil))})
	l.send.commit()
	return nil
}

// sorted are the objects, as set.json lists them.
func (l *line) sorted() []backupset.Object {
	out := slices.Clone(l.objects)
	slices.SortFunc(out, func(a, b backupset.Object) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// giveBack frees a frame that was not filled.
func (l *line) giveBack(j *job) {
	j.out.refs.Store(1)
	l.send.release(j.out)
	j.out = nil
	l.jobs <- j
}
