package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"understudy/shipper/pos"
)

const maxWALFiles = 4 // open files of a WALDir

// WALDir reads a PostgreSQL's pg_wal directory as one log along a lineage. It
// changes nothing. It may be used concurrently.
type WALDir struct {
	dir     string
	segSize int64
	lin     pos.Lineage

	mu     sync.Mutex
	files  []*walFile // newest used last
	closed bool
}

type walFile struct {
	name string
	f    *os.File
	id   os.FileInfo
}

// Dir reads the segments in the directory path (it may be a symbolic link)
// with segSize bytes each. It opens nothing yet.
func Dir(path string, segSize int64, lin pos.Lineage) *WALDir {
	return &WALDir{dir: path, segSize: segSize, lin: slices.Clone(lin)}
}

// ReadWAL fills p with the log from at on. Each byte comes from the file of
// the timeline in force there or, when that file does not exist, of the newest
// later timeline of the lineage that began in the same segment. Where there is
// no file it returns the bytes read so far and io.EOF.
//
// What lies beyond PostgreSQL's flush position is whatever the file holds:
// the caller knows the end or checks the records. ErrPruned is returned when
// PostgreSQL removed or recycled a file while it was read.
func (d *WALDir) ReadWAL(p []byte, at pos.LSN) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return 0, ErrClosed
	}
	if d.segSize <= 0 || len(d.lin) == 0 {
		return 0, fmt.Errorf("read pg_wal: %w: segment size or lineage not known", ErrNoLog)
	}
	n := 0
	for n < len(p) {
		here := at + pos.LSN(n)
		part := p[n:min(uint64(len(p)), uint64(n)+d.stretch(here).Sub(here))]
		got, err := d.readPart(part, here)
		n += got
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// stretch is the end of what one file can give from at on: the end of the
// segment or the next fork to another timeline.
func (d *WALDir) stretch(at pos.LSN) pos.LSN {
	end, tli := at.SegEnd(d.segSize), d.lin.TimelineAt(at)
	for _, e := range d.lin {
		if e.Start > at && e.Start < end && e.Timeline != tli {
			end = e.Start
		}
	}
	return end
}

func (d *WALDir) readPart(p []byte, at pos.LSN) (int, error) {
	for try := range 2 {
		w, err := d.open(at)
		if errors.Is(err, fs.ErrNotExist) {
			if try > 0 {
				break
			}
			return 0, io.EOF
		}
		if err != nil {
			return 0, fmt.Errorf("read pg_wal at %s: %w", at, err)
		}
		n, err := w.f.ReadAt(p, int64(at-at.SegStart(d.segSize)))
		if d.same(w) {
			if err != nil && !errors.Is(err, io.EOF) {
				return n, fmt.Errorf("read pg_wal at %s: %w", at, err)
			}
			return n, err
		}
		d.drop(w)
	}
	return 0, fmt.Errorf("read pg_wal at %s: %w: the file was recycled", at, ErrPruned)
}

// same tells whether the name still means the file that was read. PostgreSQL
// renames a segment before it overwrites it, so bytes read before this check
// are those of the name.
func (d *WALDir) same(w *walFile) bool {
	id, err := os.Stat(filepath.Join(d.dir, w.name))
	return err == nil && os.SameFile(id, w.id)
}

// open is the file that holds the byte at, from the cache or the directory.
func (d *WALDir) open(at pos.LSN) (*walFile, error) {
	err := error(fs.ErrNotExist)
	for _, tli := range d.candidates(at) {
		name := pos.SegName(tli, at, d.segSize)
		for i, w := range d.files {
			if w.name == name {
				d.files = append(slices.Delete(d.files, i, i+1), w)
				return w, nil
			}
		}
		var w *walFile
		w, err = d.openFile(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return w, err
		}
	}
	return nil, err
}

// candidates are the timelines whose file of the segment holds the byte at,
// best first: a fork copies the segment's bytes before it.
func (d *WALDir) candidates(at pos.LSN) []pos.Timeline {
	own := d.lin.TimelineAt(at)
	out := []pos.Timeline{own}
	for _, e := range slices.Backward(d.lin) {
		if e.Timeline != own && e.Start > at && e.Start < at.SegEnd(d.segSize) && !slices.Contains(out, e.Timeline) {
			out = append(out, e.Timeline)
		}
	}
	return out
}

func (d *WALDir) openFile(name string) (*walFile, error) {
	f, err := os.Open(filepath.Join(d.dir, name))
	if err != nil {
		return nil, err
	}
	id, err := f.Stat()
	if err == nil && !id.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", name)
	}
	if err != nil {
		_ = f.Close() // opened for reading: nothing to lose
		return nil, err
	}
	if len(d.files) == maxWALFiles {
		d.drop(d.files[0])
	}
	w := &walFile{name: name, f: f, id: id}
	d.files = append(d.files, w)
	return w, nil
}

func (d *WALDir) drop(w *walFile) {
	_ = w.f.Close() // opened for reading: nothing to lose
	d.files = slices.DeleteFunc(d.files, func(o *walFile) bool { return o == w })
}

// Close frees the open files. Later reads return ErrClosed.
func (d *WALDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var errs []error
	for _, w := range d.files {
		errs = append(errs, w.f.Close())
	}
	d.files = nil
	return errors.Join(errs...)
}
