package spool

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"understudy/shipper/pos"
)

const maxReaders = 4 // open files for reading

// readerCache keeps the files last read from open, newest last.
type readerCache struct {
	mu    sync.Mutex
	files []*reader
}

type reader struct {
	start pos.LSN
	f     File
	users int
	gone  bool // dropped from the cache; the last user closes
}

// get returns the reader of the segment at start, opened by open if need be.
func (c *readerCache) get(start pos.LSN, open func() (File, error)) (*reader, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, r := range c.files {
		if r.start == start {
			copy(c.files[i:], c.files[i+1:])
			c.files[len(c.files)-1] = r
			r.users++
			return r, nil
		}
	}
	f, err := open()
	if err != nil {
		return nil, err
	}
	if len(c.files) == maxReaders {
		c.dropLocked(c.files[0])
		c.files = append(c.files[:0], c.files[1:]...)
	}
	r := &reader{start: start, f: f, users: 1}
	c.files = append(c.files, r)
	return r, nil
}

func (c *readerCache) put(r *reader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.users--
	if r.gone && r.users == 0 {
		_ = r.f.Close() // opened for reading: nothing to lose
	}
}

func (c *readerCache) dropLocked(r *reader) {
	r.gone = true
	if r.users == 0 {
		_ = r.f.Close() // opened for reading: nothing to lose
	}
}

func (c *readerCache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range c.files {
		c.dropLocked(r)
	}
	c.files = nil
}

// ReadWAL fills p with the log from at on. At the end of what was received it
// returns the bytes there are and io.EOF; the bytes need not be durable.
// ErrPruned is returned below Base, ErrNoLog before Begin.
func (s *Spool) ReadWAL(p []byte, at pos.LSN) (int, error) {
	s.files.RLock()
	defer s.files.RUnlock()
	s.mu.Lock()
	base, end, segSize, closed := s.meta.Base, s.end, s.meta.SegSize, s.closed
	s.mu.Unlock()
	switch {
	case closed:
		return 0, ErrClosed
	case base == 0:
		return 0, ErrNoLog
	case at < base:
		return 0, fmt.Errorf("read WAL at %s: %w: the log begins at %s", at, ErrPruned, base)
	case at >= end:
		return 0, io.EOF
	}
	var eof error
	if left := end.Sub(at); uint64(len(p)) > left {
		p, eof = p[:left], io.EOF
	}
	n := 0
	for n < len(p) {
		here := at + pos.LSN(n)
		part := p[n:min(uint64(len(p)), uint64(n)+here.SegEnd(segSize).Sub(here))]
		if err := s.readSegment(part, here, segSize); err != nil {
			return n, fmt.Errorf("read WAL at %s: %w", here, err)
		}
		n += len(part)
	}
	return n, eof
}

// readSegment fills p from one segment. files is held shared.
func (s *Spool) readSegment(p []byte, at pos.LSN, segSize int64) error {
	start := at.SegStart(segSize)
	r, err := s.readers.get(start, func() (File, error) {
		s.mu.Lock()
		name := pos.SegName(s.segs[start], start, segSize)
		s.mu.Unlock()
		return s.cfg.FS.OpenFile(filepath.Join(s.wal, name), os.O_RDONLY, 0)
	})
	if err != nil {
		return err
	}
	defer s.readers.put(r)
	if n, err := r.f.ReadAt(p, int64(at-start)); n < len(p) {
		return errors.Join(ErrCorrupt, err)
	}
	return nil
}

// Wait returns End as soon as it is beyond past, the context's error when that
// ends first, or ErrClosed.
func (s *Spool) Wait(ctx context.Context, past pos.LSN) (pos.LSN, error) {
	for {
		s.mu.Lock()
		end, closed := s.end, s.closed
		if s.grown == nil && !closed {
			s.grown = make(chan struct{})
		}
		grown := s.grown
		s.mu.Unlock()
		if end > past {
			return end, nil
		}
		if closed {
			return end, ErrClosed
		}
		select {
		case <-ctx.Done():
			return end, context.Cause(ctx)
		case <-grown:
		}
	}
}

// TailCRC is the CRC-32C of the n bytes before upto, or of as many as the log
// holds; from is where they begin. A *GapError is returned when upto is beyond
// the end.
func (s *Spool) TailCRC(upto pos.LSN, n int) (crc uint32, from pos.LSN, err error) {
	s.mu.Lock()
	base, end := s.meta.Base, s.end
	s.mu.Unlock()
	switch {
	case base == 0:
		return 0, 0, ErrNoLog
	case upto > end:
		return 0, 0, fmt.Errorf("tail checksum: %w", &GapError{Want: end, Got: upto})
	case upto < base:
		return 0, 0, fmt.Errorf("tail checksum at %s: %w: the log begins at %s", upto, ErrPruned, base)
	}
	from = upto - pos.LSN(min(uint64(max(n, 0)), upto.Sub(base)))
	buf := make([]byte, min(copyBufSize, upto.Sub(from)))
	for at := from; at < upto; {
		b := buf[:min(uint64(len(buf)), upto.Sub(at))]
		if err := readFull(s, b, at); err != nil {
			return 0, 0, fmt.Errorf("tail checksum: %w", err)
		}
		crc = crc32.Update(crc, castagnoli, b)
		at += pos.LSN(len(b))
	}
	return crc, from, nil
}

// SegmentFile is one segment opened for reading. It keeps its bytes when the
// segment is pruned meanwhile.
type SegmentFile struct {
	io.ReaderAt
	s     *Spool
	f     File
	start pos.LSN
	size  int64
	once  sync.Once
}

// Size is the number of durable bytes of WAL in the file when it was opened.
func (f *SegmentFile) Size() int64 { return f.size }

// Close frees the file.
func (f *SegmentFile) Close() error {
	err := ErrClosed
	f.once.Do(func() {
		err = f.f.Close()
		f.s.unpin(f.start)
	})
	return err
}

// Segment opens a segment by the name PostgreSQL gives it. complete tells
// whether all of it is durable; only the durable bytes can be read. ErrPruned
// is returned below Base, fs.ErrNotExist for a segment or timeline the log
// does not hold. The caller closes the file.
func (s *Spool) Segment(name string) (seg *SegmentFile, complete bool, err error) {
	s.files.RLock()
	defer s.files.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, false, ErrClosed
	}
	if s.meta.Base == 0 {
		return nil, false, ErrNoLog
	}
	segSize := s.meta.SegSize
	tli, start, err := pos.ParseSegName(name, segSize)
	if err != nil {
		return nil, false, err
	}
	if start < s.meta.Base {
		return nil, false, fmt.Errorf("segment %s: %w", name, ErrPruned)
	}
	if have, ok := s.segs[start]; !ok || have != tli || pos.SegName(tli, start, segSize) != name {
		return nil, false, fmt.Errorf("segment %s: %w", name, fs.ErrNotExist)
	}
	f, err := s.cfg.FS.OpenFile(filepath.Join(s.wal, name), os.O_RDONLY, 0)
	if err != nil {
		return nil, false, fmt.Errorf("open segment: %w", err)
	}
	n := int64(min(s.durable.Sub(start), uint64(segSize)))
	s.pins[start]++
	return &SegmentFile{ReaderAt: io.NewSectionReader(f, 0, n), s: s, f: f, start: start, size: n}, n == segSize, nil
}

func (s *Spool) unpin(start pos.LSN) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pins[start]--; s.pins[start] <= 0 {
		delete(s.pins, start)
	}
}
