package local

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"understudy/shipper/location"
)

const (
	// bufferSize is the least that is written at once.
	bufferSize = 512 << 10
	// renames bounds the attempts of a Commit whose folder is removed under it.
	renames = 100
)

// upload is an object in a temporary file. The file is locked as long as the
// upload lives, so that no other takes it up and Sweep lets it be.
type upload struct {
	ctx    context.Context
	at     *place
	key    string
	temp   string // name of the file
	size   int64  // expected, -1 when unknown
	resume bool   // what is stored is worth keeping
	offset int64  // where writing began

	f       *os.File
	buf     *bufio.Writer
	written int64 // including what is in buf
	flush   flusher
	broken  error // why nothing can be written any more
	lost    bool  // nobody knows which bytes are stored
	over    bool
}

// Create implements location.Location.
func (l *Location) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	if err := location.CheckToken(o.Token); err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	p, err := l.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", key, err)
	}
	u := &upload{ctx: ctx, at: p, key: key, size: o.Size, resume: o.Token != ""}
	if err := u.open(o.Token); err != nil {
		return nil, explain("store "+key, err, true)
	}
	if err := u.prepare(); err != nil {
		err = errors.Join(err, u.Abort())
		return nil, explain("store "+key, err, true)
	}
	return u, nil
}

// open takes up the file of an earlier upload or makes a new one.
func (u *upload) open(token string) error {
	if err := u.at.ensure(tempDir); err != nil {
		return err
	}
	if token != "" {
		u.temp = tempName(u.key, token)
		switch err := u.lock(os.O_RDWR | os.O_CREATE); {
		case err == nil:
			return nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return err
		}
		// Somebody is at it now. This upload is one of its own, then.
		u.resume = false
	}
	u.temp = tempName(u.key, randomName())
	return u.lock(os.O_RDWR | os.O_CREATE | os.O_EXCL)
}

// lock opens u.temp and makes it this upload's. The file of another upload may
// be committed or removed between its opening and its lock; then the name
// stands for another file or none.
func (u *upload) lock(flags int) error {
	for range renames {
		f, err := u.at.dir.OpenFile(u.temp, flags, filePerm)
		if err != nil {
			return err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			return err
		}
		mine, err := f.Stat()
		if err == nil {
			var named fs.FileInfo
			named, err = u.at.dir.Lstat(u.temp)
			if err == nil && os.SameFile(mine, named) {
				u.f = f
				return nil
			}
		}
		f.Close()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return fmt.Errorf("%s: %w", u.temp, unix.EWOULDBLOCK)
}

// prepare cuts off what is not known to be stored and reserves the room.
func (u *upload) prepare() error {
	have, err := u.trusted()
	if err != nil {
		return err
	}
	if u.size >= 0 && have > u.size {
		have = 0
	}
	u.offset, u.written = have, have
	u.flush = newFlusher(u.f, have)
	if u.resume {
		// From the beginning, so that it needs no room when the disk is full. It
		// also replaces that of an upload long gone, which would vouch for bytes
		// of this one.
		if err := u.note(); err != nil {
			return err
		}
	}
	if err := u.f.Truncate(have); err != nil {
		return err
	}
	if _, err := u.f.Seek(have, 0); err != nil {
		return err
	}
	u.buf = bufio.NewWriterSize(writer{u}, bufferSize)
	if u.size > have {
		err := unix.Fallocate(int(u.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, have, u.size-have)
		if is(err, unix.ENOSPC, unix.EDQUOT, unix.EIO, unix.EFBIG) {
			return fmt.Errorf("reserve %d bytes: %w", u.size-have, err)
		}
		// Others: the file system has no such call, and writing shows the rest.
	}
	return nil
}

// Offset implements location.Upload.
func (u *upload) Offset() int64 { return u.offset }

// Write implements location.Upload.
func (u *upload) Write(b []byte) (int, error) {
	switch {
	case u.over:
		return 0, fmt.Errorf("store %s: %w", u.key, errOver)
	case u.broken != nil:
		return 0, u.broken
	case u.ctx.Err() != nil:
		return 0, context.Cause(u.ctx)
	case u.size >= 0 && int64(len(b)) > u.size-u.written:
		return 0, fmt.Errorf("store %s: more than the %d bytes that were announced", u.key, u.size)
	}
	n, err := u.buf.Write(b)
	u.written += int64(n)
	if err != nil {
		return n, u.fail(err)
	}
	return n, nil
}

var errOver = errors.New("the upload has ended")

// fail makes err the end of the upload. A full disk and the end of a context
// leave the file as far as it was written; after any other error of the disk
// nothing can be said of it.
func (u *upload) fail(err error) error {
	if cause := context.Cause(u.ctx); cause != nil && errors.Is(err, cause) {
		u.broken = cause
		return cause
	}
	u.broken = explain("store "+u.key, err, true)
	u.lost = !errors.Is(u.broken, location.ErrNoSpace)
	return u.broken
}

// writer is where the buffer goes.
type writer struct{ u *upload }

// Write cuts large pieces, so that writing back begins soon and the end of a
// context is seen.
func (w writer) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		if w.u.ctx.Err() != nil {
			return n, context.Cause(w.u.ctx)
		}
		k, err := w.u.f.Write(b[:min(len(b), flushEvery)])
		n += k
		w.u.flush.wrote(int64(k)) // some, also when the disk is full now
		if err != nil {
			return n, err
		}
		b = b[k:]
		if err := w.u.remember(); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Commit implements location.Upload.
func (u *upload) Commit(ctx context.Context) (location.Info, error) {
	switch {
	case u.over:
		return location.Info{}, fmt.Errorf("store %s: %w", u.key, errOver)
	case u.broken != nil:
		return location.Info{}, u.broken
	case u.ctx.Err() != nil:
		return location.Info{}, context.Cause(u.ctx)
	case ctx.Err() != nil:
		return location.Info{}, context.Cause(ctx)
	case u.size >= 0 && u.written != u.size:
		return location.Info{}, fmt.Errorf("store %s: %d bytes were announced and %d written", u.key, u.size, u.written)
	}
	st, err := u.settle()
	if err != nil {
		return location.Info{}, u.fail(err)
	}
	dir := path.Dir(u.key)
	if err := u.publish(dir); err != nil {
		return location.Info{}, u.fail(err)
	}
	u.over = true
	u.f.Close() // it is synced, and nothing was written since
	if u.resume {
		_ = u.at.dir.Remove(noteName(u.temp)) // Sweep finds what stays
	}
	if err := u.at.sync(dir); err != nil {
		return location.Info{}, explain("store "+u.key, err, true)
	}
	return info(u.key, st), nil
}

// settle makes the whole file durable and compares its size.
func (u *upload) settle() (fs.FileInfo, error) {
	if err := u.buf.Flush(); err != nil {
		return nil, err
	}
	if err := u.flush.sync(); err != nil {
		return nil, err
	}
	st, err := u.f.Stat()
	if err == nil && st.Size() != u.written {
		err = fmt.Errorf("%w: %d bytes were written, the file has %d", location.ErrDamaged, u.written, st.Size())
	}
	return st, err
}

// publish gives the file its name. A Remove of the last neighbour may take the
// folder away in between.
func (u *upload) publish(dir string) (err error) {
	for range renames {
		if err = u.at.ensure(dir); err != nil {
			return err
		}
		err = u.at.dir.Rename(u.temp, u.key)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if _, gone := u.at.dir.Lstat(u.temp); gone != nil {
			return fmt.Errorf("the upload was removed: %w", gone)
		}
	}
	return err
}

// Suspend implements location.Upload.
func (u *upload) Suspend() error {
	if u.over {
		return nil
	}
	if !u.resume || u.lost {
		return u.Abort()
	}
	if u.broken == nil {
		u.ctx = context.WithoutCancel(u.ctx)
		_ = u.buf.Flush() // what could not be written is written again
	}
	if err := u.flush.sync(); err != nil {
		return errors.Join(explain("suspend "+u.key, err, true), u.Abort())
	}
	u.over = true
	err := u.note()
	return explain("suspend "+u.key, errors.Join(err, u.f.Close()), true)
}

// Abort implements location.Upload.
func (u *upload) Abort() error {
	if u.over {
		return nil
	}
	u.over = true
	err := u.at.dir.Remove(u.temp)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if u.resume {
		_ = u.at.dir.Remove(noteName(u.temp))
	}
	// Last, since it gives up the lock.
	return explain("abort "+u.key, errors.Join(err, u.f.Close()), true)
}

// tempName is the name of an unfinished upload's file. It has a fixed length
// however long the key is.
func tempName(key, what string) string {
	sum := blake3.Sum256([]byte(key))
	return path.Join(tempDir, hex.EncodeToString(sum[:16])+"-"+what+".part")
}
