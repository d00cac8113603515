package faultfs

import (
	"io"
	"io/fs"
	"syscall"
)

// file is an open file. Files of an earlier life fail with ErrDown.
type file struct {
	fs     *FS
	n      *node
	name   string
	life   int
	write  bool
	closed bool
}

// begin locks the file system and checks that the call may be made; the
// caller unlocks.
func (h *file) begin(op Op) (short int, err error) {
	h.fs.mu.Lock()
	if h.life != h.fs.life {
		return 0, ErrDown
	}
	if h.closed {
		return 0, pathErr(op, h.name, fs.ErrClosed)
	}
	return h.fs.call(op, h.name)
}

// ReadAt implements spool.File.
func (h *file) ReadAt(p []byte, off int64) (int, error) {
	_, err := h.begin(OpRead)
	defer h.fs.mu.Unlock()
	if err != nil {
		return 0, err
	}
	if off >= int64(len(h.n.cache)) {
		return 0, io.EOF
	}
	n := copy(p, h.n.cache[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt implements spool.File.
func (h *file) WriteAt(p []byte, off int64) (int, error) {
	short, err := h.begin(OpWrite)
	defer h.fs.mu.Unlock()
	if err == nil && !h.write {
		err = pathErr(OpWrite, h.name, syscall.EBADF)
	}
	if err != nil {
		p = p[:min(short, len(p))]
	}
	n := 0
	for n < len(p) {
		sector := int((off + int64(n)) / SectorSize)
		k := min(len(p)-n, (sector+1)*SectorSize-int(off)-n)
		if !h.n.occupied[sector] {
			if h.fs.capacity > 0 && h.fs.used+SectorSize > h.fs.capacity {
				return n, pathErr(OpWrite, h.name, syscall.ENOSPC)
			}
			h.n.occupied[sector] = true
			h.fs.used += SectorSize
		}
		if need := int(off) + n + k; need > len(h.n.cache) {
			h.resize(need)
		}
		copy(h.n.cache[int(off)+n:], p[n:n+k])
		h.n.dirty[sector] = true
		n += k
	}
	return n, err
}

func (h *file) resize(size int) {
	n := h.n
	if n.dirty == nil {
		n.dirty = map[int]bool{}
	}
	switch {
	case size < len(n.cache):
		for s := range n.occupied {
			if s*SectorSize >= size {
				delete(n.occupied, s)
				h.fs.used -= SectorSize
			}
		}
		for s := size / SectorSize; s*SectorSize < len(n.cache); s++ {
			n.dirty[s] = true // what the disk has there is gone, should the file grow again
		}
		n.cache = append([]byte(nil), n.cache[:size]...)
	default:
		n.cache = append(n.cache, make([]byte, size-len(n.cache))...)
	}
	n.resized = true
}

// Truncate implements spool.File.
func (h *file) Truncate(size int64) error {
	_, err := h.begin(OpTrunc)
	defer h.fs.mu.Unlock()
	if err == nil {
		h.resize(int(size))
	}
	return err
}

// Sync implements spool.File. When a rule makes it fail, the pages are taken
// for clean although they never reached the disk, as Linux does: a later
// success does not save them.
func (h *file) Sync() error {
	_, err := h.begin(OpSync)
	defer h.fs.mu.Unlock()
	if err == ErrDown {
		return err
	}
	n := h.n
	if err == nil {
		if len(n.disk) != len(n.cache) {
			disk := make([]byte, len(n.cache))
			copy(disk, n.disk)
			n.disk = disk
		}
		for s := range n.dirty {
			lo, hi := s*SectorSize, min((s+1)*SectorSize, len(n.cache))
			if lo < hi {
				copy(n.disk[lo:hi], n.cache[lo:hi])
			}
		}
		n.resized = false
	}
	n.dirty = map[int]bool{}
	return err
}

// Size implements spool.File.
func (h *file) Size() (int64, error) {
	_, err := h.begin(OpRead)
	defer h.fs.mu.Unlock()
	return int64(len(h.n.cache)), err
}

// Close implements spool.File.
func (h *file) Close() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.life != h.fs.life {
		return ErrDown
	}
	if h.closed {
		return pathErr("close", h.name, fs.ErrClosed)
	}
	h.closed = true
	return nil
}
