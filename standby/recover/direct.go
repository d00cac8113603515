package recover

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"understudy/shipper/backupset"
)

// diskUnit is what offset, length and memory of a write past the page cache are
// multiples of: the largest block of disks in use.
const diskUnit = 4096

// newBuffer is memory that begins at a multiple of diskUnit.
func newBuffer(n int) []byte {
	b := make([]byte, n+diskUnit)
	skip := (diskUnit - int(address(b)%diskUnit)) % diskUnit
	return b[skip : skip+n : skip+n]
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// store writes n bytes of the body, from at on, to a file at off. Large pieces
// go past the page cache: that halves the time and leaves in memory what the
// other programs of the host have there. What lies before at is lost then.
func (w *worker) store(f *os.File, body []byte, at, n, off int64) error {
	b := body[at : at+n]
	if n >= backupset.ChunkSize && n%diskUnit == 0 && off%diskUnit == 0 && !w.x.cached.Load() {
		back := int64(address(b) % diskUnit) // at most at, as the body is a newBuffer
		if back > 0 && back <= at {
			copy(body[at-back:], b)
			b = body[at-back : at-back+n]
		}
		err := writeDirect(f, b, off)
		if !errors.Is(err, unix.EINVAL) {
			return err
		}
		w.x.cached.Store(true) // not on this file system, or not with this disk
	}
	if _, err := f.WriteAt(b, off); err != nil {
		return err
	}
	// Only a hint to start writing, so that the sync at the end is short; file
	// systems without it answer with an error.
	if n >= backupset.ChunkSize {
		_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE)
	}
	return nil
}

// writeDirect writes past the page cache; EINVAL where that is impossible.
func writeDirect(f *os.File, b []byte, off int64) error {
	flags, err := unix.FcntlInt(f.Fd(), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("read the flags: %w", err)
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags|unix.O_DIRECT); err != nil {
		return err
	}
	_, err = f.WriteAt(b, off)
	if _, back := unix.FcntlInt(f.Fd(), unix.F_SETFL, flags); back != nil {
		return errors.Join(err, fmt.Errorf("restore the flags: %w", back))
	}
	return err
}
