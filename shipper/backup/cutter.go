package backup

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync/atomic"

	"understudy/shipper/backupset"
	"understudy/shipper/basestream"
	"understudy/shipper/pagesum"
)

// tarBlock is the unit of a tar archive.
const tarBlock = 512

// cutter cuts one object into frames.
type cutter struct {
	ctx     context.Context
	line    *line
	archive string // name of the object
	check   pageRule
	count   *atomic.Int64     // bytes read; nil: not counted
	blocks  *backupset.Server // of an incremental backup; nil: a full one

	job *job  // the frame being filled; nil: none
	at  int64 // bytes of the archive before it
}

// room makes sure that n more bytes fit the frame.
func (c *cutter) room(n int) error {
	if c.job != nil && len(c.job.raw)+n > cap(c.job.raw) {
		if err := c.cut(); err != nil {
			return err
		}
	}
	if c.job != nil {
		return nil
	}
	var err error
	c.job, err = c.line.job(c.ctx)
	return err
}

// cut ends the frame.
func (c *cutter) cut() error {
	j := c.job
	if j == nil || len(j.raw) == 0 {
		return nil
	}
	c.job = nil
	c.at += int64(len(j.raw))
	return c.line.put(c.ctx, j)
}

// offset is where the archive stands.
func (c *cutter) offset() int64 {
	if c.job == nil {
		return c.at
	}
	return c.at + int64(len(c.job.raw))
}

// fill reads n bytes, which fit a frame, and returns where they are in it.
// read counts those that came before an error.
func (c *cutter) fill(r io.Reader, n int) (at, read int, err error) {
	if err := c.room(n); err != nil {
		return 0, 0, err
	}
	at = len(c.job.raw)
	c.job.raw = c.job.raw[:at+n]
	read, err = io.ReadFull(r, c.job.raw[at:])
	if c.count != nil {
		c.count.Add(int64(read))
	}
	return at, read, err
}

// add appends bytes.
func (c *cutter) add(b []byte) error {
	_, _, err := c.fill(bytes.NewReader(b), len(b))
	return err
}

// open and shut stand around an object.
func (c *cutter) open() error { return c.line.note(c.ctx, step{begin: c.archive}) }

func (c *cutter) shut() error {
	if err := c.cut(); err != nil {
		return err
	}
	if c.job != nil {
		c.line.giveBack(c.job)
		c.job = nil
	}
	return c.line.note(c.ctx, step{end: true})
}

// whole is an object that is no archive.
func (c *cutter) whole(r io.Reader, plain bool) error {
	if err := c.open(); err != nil {
		return err
	}
	for {
		_, n, err := c.fill(r, backupset.FrameTarget)
		if c.job != nil {
			c.job.plain = plain
			c.job.raw = c.job.raw[:n]
		}
		switch {
		case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, basestream.ErrServer):
			return c.shut()
		case err != nil:
			return err
		}
		if err := c.cut(); err != nil {
			return err
		}
	}
}

// tar is an archive as PostgreSQL sends it. Its bytes are kept as they are,
// except that the blocks of zeros at its end, which servers before version 15
// leave out, are added.
func (c *cutter) tar(r io.Reader) error {
	if err := c.open(); err != nil {
		return err
	}
	var head [tarBlock]byte
	for {
		_, err := io.ReadFull(r, head[:])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: the archive ends early: %w", basestream.ErrServer, err)
		}
		if head == [tarBlock]byte{} {
			if err := rest(r); err != nil {
				return err
			}
			break
		}
		if err := c.entry(r, head[:]); err != nil {
			return err
		}
	}
	if err := c.add(make([]byte, 2*tarBlock)); err != nil {
		return err
	}
	return c.shut()
}

// rest reads the zeros at the end of an archive.
func rest(r io.Reader) error {
	b, err := io.ReadAll(io.LimitReader(r, 64<<10))
	if err != nil {
		return err
	}
	if len(bytes.Trim(b, "\x00")) > 0 {
		return fmt.Errorf("%w: data behind the end of the archive", basestream.ErrServer)
	}
	return nil
}

// entry is one file of PostgreSQL's archive.
func (c *cutter) entry(r io.Reader, head []byte) error {
	h, err := tar.NewReader(bytes.NewReader(head)).Next()
	if err != nil {
		return fmt.Errorf("%w: the archive's head of a file: %w", basestream.ErrServer, err)
	}
	f := &file{File: backupset.File{Archive: c.archive, Path: path.Clean(strings.TrimPrefix(h.Name, "./")), Mode: uint32(h.Mode & 0o7777), At: h.ModTime.UTC()}}
	switch h.Typeflag {
	case tar.TypeReg:
		f.Size = h.Size
	case tar.TypeDir:
		f.Type = backupset.TypeFolder
	case tar.TypeSymlink:
		f.Type, f.Link = backupset.TypeLink, h.Linkname
	default:
		return fmt.Errorf("%w: %s is of tar type %q", basestream.ErrServer, h.Name, h.Typeflag)
	}
	f.path = c.check.prefix + f.Path
	if of, ok := backupset.Incremental(f.path); ok && c.blocks != nil && f.Type == backupset.TypeFile {
		f.path, f.inc = of, &blockMap{server: *c.blocks}
	}
	if c.check.pageSize > 0 && f.Type == backupset.TypeFile {
		if block, ok := pagesum.FirstBlock(f.path, c.check.segPages); ok {
			f.rule, f.block = &c.check, block
		}
	}
	if f.Path == "." { // the folder itself is no file of the list
		return c.add(head)
	}
	n, err := c.file(f, head, r)
	if err == nil && n < f.Size {
		err = fmt.Errorf("%w: %s has %d bytes instead of %d", basestream.ErrServer, f.path, n, f.Size)
	}
	if err != nil {
		return err
	}
	return discard(r, pad(f.Size))
}

func discard(r io.Reader, n int) error {
	if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
		return fmt.Errorf("%w: the archive ends early: %w", basestream.ErrServer, err)
	}
	return nil
}

// pad is how many zeros follow a file of that size.
func pad(size int64) int { return int((tarBlock - size%tarBlock) % tarBlock) }

// file adds a file: its head, what r has of it up to its size, and the zeros
// behind it. A file that is shorter is filled with zeros; n tells.
func (c *cutter) file(f *file, head []byte, r io.Reader) (n int64, err error) {
	// A frame that is fairly full ends before a file that does not fit it.
	if c.job != nil {
		have, size := int64(len(c.job.raw)), int64(len(head))+f.Size
		if have >= backupset.FrameTarget/4 && have+size > backupset.FrameTarget {
			if err := c.cut(); err != nil {
				return 0, err
			}
		}
	}
	if err := c.add(head); err != nil {
		return 0, err
	}
	f.Offset = c.offset()
	if f.Size == 0 {
		c.job.pieces = append(c.job.pieces, piece{file: f, last: true})
		return 0, nil
	}
	for index := range backupset.ChunkN(f.Size) {
		want := int(min(f.Size-index*backupset.ChunkSize, backupset.ChunkSize))
		at, got, err := c.fill(r, want)
		n += int64(got)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, basestream.ErrServer):
			clear(c.job.raw[at+got:])
			r = bytes.NewReader(nil)
		case err != nil:
			return n, err
		}
		if f.inc != nil {
			if err := f.inc.feed(c.job.raw[at:at+want], f.Size); err != nil {
				return n, fmt.Errorf("%w: %s: %w", basestream.ErrServer, f.Path, err)
			}
		}
		last := index+1 == backupset.ChunkN(f.Size)
		c.job.pieces = append(c.job.pieces, piece{file: f, index: index, at: at, n: want, last: last, head: f.inc != nil && !f.inc.known})
	}
	if p := pad(f.Size); p > 0 {
		return n, c.add(make([]byte, p))
	}
	return n, nil
}
