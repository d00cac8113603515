package local

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// flushEvery is how many bytes are written before the system is told to
	// bring them to the disk. Twice as many may be on their way, so that the
	// fsync at the end is short however large the object.
	flushEvery = 8 << 20
	// noteEvery is how many bytes of an upload with a token may have to be
	// written again when the machine stops.
	noteEvery = 64 << 20
)

// flusher brings written bytes to the disk while more are written.
type flusher struct {
	f       *os.File
	end     int64 // of what was written
	started int64 // writing back was begun up to here
	waited  int64 // and waited for up to here
	durable int64 // as of the last sync
}

func newFlusher(f *os.File, end int64) flusher {
	return flusher{f: f, end: end, started: end, waited: end, durable: end}
}

// wrote counts n bytes more.
func (w *flusher) wrote(n int64) {
	w.end += n
	if w.end-w.started < flushEvery {
		return
	}
	fd := int(w.f.Fd())
	// Both calls are hints: the sync that follows reports what went wrong.
	_ = unix.SyncFileRange(fd, w.started, w.end-w.started, unix.SYNC_FILE_RANGE_WRITE)
	if w.started > w.waited {
		_ = unix.SyncFileRange(fd, w.waited, w.started-w.waited,
			unix.SYNC_FILE_RANGE_WAIT_BEFORE|unix.SYNC_FILE_RANGE_WRITE|unix.SYNC_FILE_RANGE_WAIT_AFTER)
	}
	w.waited, w.started = w.started, w.end
}

// sync makes all that was written durable.
func (w *flusher) sync() error {
	if err := w.f.Sync(); err != nil {
		return err
	}
	w.durable = w.end
	return nil
}

// The note beside the file of an upload with a token says how many of its
// bytes were synced. After a loss of power a file may have its size and not
// its bytes, so that the size alone proves nothing.
func noteName(temp string) string { return strings.TrimSuffix(temp, ".part") + ".note" }

// noteForm has a fixed length and less than a sector: it is written whole.
const noteForm = "stored %019d %019d\n"

// remember writes the note now and then.
func (u *upload) remember() error {
	if !u.resume || u.flush.end-u.flush.durable < noteEvery {
		return nil
	}
	if err := u.flush.sync(); err != nil {
		return err
	}
	return u.note()
}

func (u *upload) note() error {
	f, err := u.at.dir.OpenFile(noteName(u.temp), os.O_WRONLY|os.O_CREATE, filePerm)
	if err != nil {
		return err
	}
	// Twice the same number: half of an older note is none.
	_, err = fmt.Fprintf(f, noteForm, u.flush.durable, u.flush.durable)
	return errors.Join(err, f.Close())
}

// trusted is how many bytes of the file are known to be stored.
func (u *upload) trusted() (int64, error) {
	st, err := u.f.Stat()
	if err != nil || st.Size() == 0 {
		return 0, err
	}
	b, err := u.at.dir.ReadFile(noteName(u.temp))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var n, again int64
	if _, err := fmt.Sscanf(string(b), noteForm, &n, &again); err != nil || n != again || n < 0 || n > st.Size() {
		return 0, nil
	}
	return n, nil
}

func randomName() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Sweep implements location.Location. Uploads that are going on, here or in
// another process, hold a lock and stay.
func (l *Location) Sweep(ctx context.Context, before time.Time) (int, error) {
	p, err := l.open(ctx)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	names, err := p.names(tempDir)
	if err != nil {
		return 0, explain("sweep", err, false)
	}
	n := 0
	for _, name := range names {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		removed, err := p.sweep(path.Join(tempDir, name), before)
		if err != nil {
			return n, explain("sweep "+name, err, true)
		}
		if removed {
			n++
		}
	}
	return n, nil
}

// sweep removes one temporary file if it is old and nobody's. A note goes with
// its file, and one that is left alone is removed without counting.
func (p *place) sweep(name string, before time.Time) (bool, error) {
	st, err := p.dir.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !st.Mode().IsRegular() || !st.ModTime().Before(before) {
		return false, err
	}
	if stem, ok := strings.CutSuffix(name, ".note"); ok {
		if _, err := p.dir.Lstat(stem + ".part"); err == nil {
			return false, nil
		}
		return false, p.remove(name)
	}
	f, err := p.dir.OpenFile(name, os.O_RDWR|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return false, nil
	}
	if err := p.remove(noteName(name)); err != nil {
		return false, err
	}
	return true, p.remove(name)
}

func (p *place) remove(name string) error {
	err := p.dir.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
