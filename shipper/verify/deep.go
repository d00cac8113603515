package verify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"understudy/shipper/backupset"
)

// deeper proves the archives of a set down to their files, led by the list of
// files. The list and the manifest are read as streams beside the archives, so
// that nothing grows with the size of the database.
type deeper struct {
	p     *prover
	root  backupset.Root
	set   backupset.Set
	there map[string]bool
	// useList and useManifest: their bytes are proven.
	useList, useManifest bool

	list     *lines
	manifest *matcher
	raw      int64 // bytes of the files of the database
}

// run goes through the archives in the order of the list.
func (d *deeper) run(ctx context.Context) (err error) {
	d.list, d.manifest = &lines{}, &matcher{}
	if d.useList {
		o, _ := d.set.Object(backupset.FilesName)
		s := d.p.stream(ctx, d.root.Object(d.set.Label, o.Name), o.Bytes, false)
		defer s.close()
		if d.list, err = newLines(s, o.RawBytes); err != nil {
			return err
		}
		defer d.list.close()
	}
	if d.useManifest && d.useList {
		o, _ := d.set.Object(backupset.ManifestName)
		s := d.p.stream(ctx, d.root.Object(d.set.Label, o.Name), o.Bytes, false)
		defer s.close()
		d.manifest = newMatcher(s)
	}
	var seen []string
	for {
		f, ok := d.list.peek()
		if !ok {
			break
		}
		if slices.Contains(seen, f.Archive) {
			d.wrongList(fmt.Errorf("its lines of %s do not stand together", f.Archive))
			break
		}
		seen = append(seen, f.Archive)
		if err := d.archive(ctx, f.Archive); err != nil {
			return err
		}
	}
	for _, name := range d.set.Archives() {
		if !slices.Contains(seen, name) {
			if err := d.archive(ctx, name); err != nil {
				return err
			}
		}
	}
	return d.end(ctx)
}

// end compares what only the whole set tells.
func (d *deeper) end(ctx context.Context) error {
	if !d.useList {
		return nil
	}
	key := d.root.Object(d.set.Label, backupset.FilesName)
	switch err := d.list.err; {
	case err != nil && wrong(err):
		d.wrongList(err)
		return nil
	case err != nil && d.p.lost(ctx, key, err):
		return err
	case err != nil, d.list.stopped:
		return nil
	case d.list.n != d.set.FileN:
		d.wrongList(fmt.Errorf("it has %d lines, set.json says %d", d.list.n, d.set.FileN))
	case !d.list.partial && d.raw != d.set.RawBytes:
		d.wrongList(fmt.Errorf("its files have %d bytes, set.json says %d", d.raw, d.set.RawBytes))
	}
	if !d.useManifest || d.list.partial {
		return nil
	}
	key = d.root.Object(d.set.Label, backupset.ManifestName)
	for _, what := range d.manifest.end() {
		d.p.find(Finding{Object: key, Kind: Damaged, What: "does not agree with the set: " + what, At: -1})
	}
	if err := d.manifest.err; err != nil {
		if !wrong(err) && d.p.lost(ctx, key, err) {
			return err
		}
		if wrong(err) {
			d.p.find(Finding{Object: key, Kind: Damaged, What: "cannot be read as a manifest: " + err.Error(), At: -1})
		}
	}
	return nil
}

// wrongList notes that the list, whose bytes are those that were written, does
// not describe the set. Nothing more is compared with it.
func (d *deeper) wrongList(err error) {
	if d.list.stopped {
		return
	}
	d.list.stopped = true
	d.p.find(Finding{Object: d.root.Object(d.set.Label, backupset.FilesName), Kind: Damaged, What: "does not describe the set: " + err.Error(), At: -1})
}

// archive proves one archive and what the list says of it.
func (d *deeper) archive(ctx context.Context, name string) error {
	o, ok := d.set.Object(name)
	key := d.root.Object(d.set.Label, name)
	switch {
	case !ok:
		d.wrongList(fmt.Errorf("it speaks of %s, which the set has not", name))
		return nil
	case !d.there[name]:
		d.list.skip(name)
		return nil
	}
	frames, err := d.p.frames(ctx, key, o)
	if err == nil {
		a := &unpacking{d: d, o: o, key: key, frames: frames}
		if err = a.run(ctx); err == nil {
			return nil
		}
	}
	// Without its frames an archive is proven by its stored bytes alone.
	d.list.skip(name)
	if ctx.Err() != nil {
		return err
	}
	if errors.Is(err, errDiffers) {
		err = nil
	}
	return d.p.doubt(ctx, key, o, err)
}

// errDiffers is an archive with another digest.
var errDiffers = errors.New("its bytes are not those that were written")

// unit is one frame on its way through decompression.
type unit struct {
	frame  backupset.Frame
	stored []byte
	raw    []byte
	chunks []chunk
	err    error // of decompression
	done   chan struct{}
}

// chunk is a chunk of a file within a frame; n is zero for an empty file.
type chunk struct {
	file   *backupset.File
	i      int64 // which of the file's
	off, n int64 // raw, in the archive
	bad    bool  // its digest is another
}

// unpacking proves one archive: one goroutine reads and hashes, several
// decompress, one takes the frames in order again.
type unpacking struct {
	d      *deeper
	o      backupset.Object
	key    string
	frames *backupset.Frames

	rawDone int64
	bad     []string // files that are wrong, the first few
	badN    int
	crc     uint32 // of the file that is being taken
}

func (a *unpacking) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	workers := a.d.p.o.Workers
	work, inOrder := make(chan *unit, 1), make(chan *unit, workers+1)
	free := make(chan *unit, workers+2)
	for range cap(free) {
		free <- &unit{}
	}
	var sum string
	g.Go(func() (err error) {
		defer close(work)
		defer close(inOrder)
		sum, err = a.read(gctx, free, work, inOrder)
		return err
	})
	for range workers {
		g.Go(func() error { return unpack(work) })
	}
	g.Go(func() error {
		var first error
		for u := range inOrder {
			<-u.done
			if u.err != nil && first == nil {
				first = u.err
			}
			if first == nil {
				a.take(u)
			}
			free <- u
		}
		return first
	})
	if err := g.Wait(); err != nil {
		return err
	}
	if sum != a.o.BLAKE3 {
		return errDiffers
	}
	a.d.p.proven(a.o.Bytes, a.rawDone)
	if a.badN > 0 {
		a.d.p.find(Finding{Object: a.key, Kind: Damaged, At: -1,
			What: fmt.Sprintf("holds other files than were listed, %d of them, the first: %v", a.badN, a.bad)})
	}
	return nil
}

// read gives out the frames of the archive, each with the chunks that the list
// has in it.
func (a *unpacking) read(ctx context.Context, free, work, inOrder chan *unit) (string, error) {
	s := a.d.p.stream(ctx, a.key, a.o.Bytes, true)
	defer s.close()
	for i := range a.frames.N() {
		var u *unit
		select {
		case u = <-free:
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		u.frame, u.err, u.done = a.frames.At(i), nil, make(chan struct{})
		u.stored = grow(u.stored, int(u.frame.Stored))
		if _, err := io.ReadFull(s, u.stored); err != nil {
			return "", err
		}
		a.d.p.passed(a.key, u.frame.Stored)
		u.chunks = a.chunks(u.chunks[:0], u.frame)
		inOrder <- u // has room for every unit there is
		select {
		case work <- u:
		case <-ctx.Done():
			u.err = context.Cause(ctx)
			close(u.done)
			return "", u.err
		}
	}
	if f, ok := a.d.list.peek(); ok && f.Archive == a.o.Name {
		a.d.wrongList(fmt.Errorf("%s is not within %s", f.Path, a.o.Name))
	}
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		return "", err
	}
	a.d.p.passed(a.key, a.o.Bytes-a.frames.StoredBytes())
	return s.sum(), nil
}

// chunks takes those of a frame off the list.
func (a *unpacking) chunks(out []chunk, fr backupset.Frame) []chunk {
	l, end := a.d.list, fr.RawAt+fr.Raw
	for {
		f, ok := l.peek()
		if !ok || f.Archive != a.o.Name {
			return out
		}
		i := l.chunk
		c := chunk{file: f, i: i, off: f.Offset + i*backupset.ChunkSize, n: min(backupset.ChunkSize, f.Size-i*backupset.ChunkSize)}
		switch {
		case f.Type != backupset.TypeFile:
			l.advance()
			continue
		case f.Size == 0 && c.off <= end, c.n > 0 && c.off >= fr.RawAt && c.off+c.n <= end:
			out = append(out, c)
			l.advance()
		case c.off >= end:
			return out
		default:
			a.d.wrongList(fmt.Errorf("a chunk of %s does not lie in one frame of %s", f.Path, a.o.Name))
			return out
		}
	}
}

// unpack decompresses frames and compares their chunks.
func unpack(work <-chan *unit) error {
	dec, err := newFrameDecoder()
	if err == nil {
		defer dec.Close()
	}
	for u := range work {
		u.unpack(dec, err)
		close(u.done)
	}
	return err
}

func (u *unit) unpack(dec *zstd.Decoder, err error) {
	if err == nil {
		u.raw, err = decodeFrame(dec, u.raw, u.stored, u.frame)
	}
	if u.err = err; err != nil {
		return
	}
	for i := range u.chunks {
		c := &u.chunks[i]
		if c.n > 0 {
			sum := blake3.Sum256(u.bytes(*c))
			c.bad = !bytes.Equal(sum[:backupset.DigestSize], c.file.Digest(c.i))
		}
	}
}

func (u *unit) bytes(c chunk) []byte { return u.raw[c.off-u.frame.RawAt:][:c.n] }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// take compares the files of a frame, in order.
func (a *unpacking) take(u *unit) {
	a.rawDone += u.frame.Raw
	for _, c := range u.chunks {
		if c.bad {
			a.wrong(fmt.Sprintf("%s from byte %d on", c.file.Path, c.i*backupset.ChunkSize))
		}
		if c.i == 0 {
			a.crc = 0
		}
		if c.n > 0 {
			a.crc = crc32.Update(a.crc, castagnoli, u.bytes(c))
		}
		if (c.i+1)*backupset.ChunkSize < c.file.Size {
			continue
		}
		if a.o.Name != backupset.ExtraName {
			a.d.raw += c.file.Size
		}
		if path, ok := inData(*c.file); ok && a.d.useManifest {
			if what := a.d.manifest.match(path, c.file.Size, a.crc); what != "" {
				a.wrong(what)
			}
		}
	}
}

// inData is the path of a file as PostgreSQL's manifest has it; false for one
// that it does not list.
func inData(f backupset.File) (string, bool) {
	if oid, ok := backupset.ParseSpace(f.Archive); ok {
		return fmt.Sprintf("pg_tblspc/%d/%s", oid, f.Path), true
	}
	return f.Path, f.Archive == backupset.BaseName
}

// maxBad is how many wrong files of an archive are named.
const maxBad = 10

func (a *unpacking) wrong(what string) {
	if a.badN++; len(a.bad) < maxBad {
		a.bad = append(a.bad, what)
	}
}
