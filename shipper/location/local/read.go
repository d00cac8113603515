package local

import (
	"context"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"understudy/shipper/location"
)

// Open implements location.Location.
func (l *Location) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	p, err := l.open(ctx)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if _, err := p.object(key); err != nil {
		return nil, explain("read "+key, err, false)
	}
	f, err := p.dir.OpenFile(key, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, explain("read "+key, err, false)
	}
	size, err := begin(f, off, n)
	if err != nil {
		f.Close()
		return nil, explain("read "+key, err, false)
	}
	r := &reader{ctx: ctx, f: f, key: key, left: n}
	if n < 0 {
		r.left = size - off
	}
	return r, nil
}

// begin places f at off and tells the system what will be read.
func begin(f *os.File, off, n int64) (size int64, err error) {
	st, err := f.Stat()
	switch {
	case err != nil:
		return 0, err
	case !st.Mode().IsRegular():
		return 0, location.ErrNotExist
	case off < 0 || off > st.Size():
		return 0, fmt.Errorf("offset %d is outside of its %d bytes", off, st.Size())
	}
	if off > 0 {
		if _, err := f.Seek(off, io.SeekStart); err != nil {
			return 0, err
		}
	}
	// Advice: without it reading is only slower.
	_ = unix.Fadvise(int(f.Fd()), off, max(n, 0), unix.FADV_SEQUENTIAL)
	return st.Size(), nil
}

// reader reads a range. The file is a whole object whatever happens to its key
// meanwhile.
type reader struct {
	ctx  context.Context
	f    *os.File
	key  string
	left int64
}

// Read implements io.Reader.
func (r *reader) Read(b []byte) (int, error) {
	switch {
	case r.ctx.Err() != nil:
		return 0, context.Cause(r.ctx)
	case r.left == 0:
		return 0, io.EOF
	case int64(len(b)) > r.left:
		b = b[:r.left]
	}
	n, err := r.f.Read(b)
	r.left -= int64(n)
	if err == io.EOF && r.left > 0 {
		return n, fmt.Errorf("read %s: it ends %d bytes too early: %w", r.key, r.left, io.ErrUnexpectedEOF)
	}
	if err != nil && err != io.EOF {
		err = explain("read "+r.key, err, false)
	}
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error { return r.f.Close() }
