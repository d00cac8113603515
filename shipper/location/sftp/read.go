package sftp

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"github.com/pkg/sftp"

	"understudy/shipper/location"
)

const (
	// spreadFrom is the length from which a read uses several connections.
	spreadFrom = 8 << 20
	// firstWindow is how many chunks a read asks for at its beginning. It asks
	// for twice as many each time they were all taken.
	firstWindow = 4
)

// Open implements location.Location.
func (l *Location) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	r, err := l.open(ctx, key, off, n)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	return r, nil
}

// found is an object that was opened.
type found struct {
	c    *conn
	file *sftp.File
	size int64
	name string // that no other object can get
}

func (l *Location) open(ctx context.Context, key string, off, n int64) (*reader, error) {
	if off < 0 {
		return nil, fmt.Errorf("offset %d is negative", off)
	}
	f, err := request(ctx, l, false, func(c *conn) (found, error) { return l.find(c, key, off, n) }, l.abandon)
	if err != nil {
		return nil, err
	}
	r := &reader{l: l, key: key, next: off, end: f.size, window: firstWindow, pinned: f.c}
	r.ctx, r.cancel = context.WithCancelCause(ctx)
	if n >= 0 && off+n > f.size {
		r.short = true
	} else if n >= 0 {
		r.end = off + n
	}
	name := l.object(key)
	if f.name != "" {
		name, r.pinned, r.link = l.temporary(f.name), nil, f.name
	}
	r.files = newFiles(name, os.O_RDONLY)
	r.files.put(f.c, f.file)
	if off > f.size {
		r.Close()
		return nil, fmt.Errorf("offset %d is beyond the end, %d", off, f.size)
	}
	return r, nil
}

// abandon closes what was opened for a caller that did not wait.
func (l *Location) abandon(f found) {
	f.file.Close()
	if f.name != "" {
		removeFile(f.c, l.temporary(f.name))
	}
}

// find opens an object. What is to be opened on several connections first gets
// a second name: the key may be given to another object meanwhile, and pieces
// of both must not be mixed.
func (l *Location) find(c *conn, key string, off, n int64) (found, error) {
	f, err := c.sftp.Open(l.object(key))
	if err != nil {
		return found{}, err
	}
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		f.Close()
		return found{}, errors.Join(err, fs.ErrNotExist)
	}
	length := fi.Size() - off
	if n >= 0 {
		length = min(length, n)
	}
	whole := found{c: c, file: f, size: fi.Size()}
	if length < spreadFrom || !c.hardlink || l.cfg.Connections == 1 {
		return whole, nil
	}
	name := resumable(key, "-") + rand.Text()[:12] + linkEnd
	if err := c.sftp.Link(l.object(key), l.temporary(name)); err != nil {
		return whole, nil // removed meanwhile, or not ours to write: one connection does
	}
	second, err := c.sftp.Open(l.temporary(name))
	if err != nil {
		removeFile(c, l.temporary(name))
		return whole, nil
	}
	f.Close()
	fi, err = second.Stat()
	if err != nil {
		second.Close()
		return found{}, err
	}
	return found{c: c, file: second, size: fi.Size(), name: name}, nil
}

// reader reads ahead of its caller, in chunks that may arrive in any order.
type reader struct {
	l      *Location
	key    string
	files  *files
	pinned *conn  // the one connection to read from, unless
	link   string // the object has a name of our own
	ctx    context.Context
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	next, end int64 // what is not asked for yet
	short     bool  // the object ends before what was demanded
	window    int
	queue     []*piece
	closed    bool
}

// piece is one chunk on its way to a reader.
type piece struct {
	buf  *[]byte
	b    []byte // what the reader has not taken
	err  error
	done chan struct{}
	free bool // it counts among those under way
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if r.closed {
		return 0, fmt.Errorf("read %s: %w", r.key, os.ErrClosed)
	}
	if len(p) == 0 {
		return 0, nil
	}
	r.ahead()
	if len(r.queue) == 0 {
		if r.short {
			return 0, fmt.Errorf("read %s: the object ends at %d: %w", r.key, r.end, io.ErrUnexpectedEOF)
		}
		return 0, io.EOF
	}
	head := r.queue[0]
	select {
	case <-head.done:
	case <-r.ctx.Done():
		return 0, fmt.Errorf("read %s: %w", r.key, context.Cause(r.ctx))
	}
	if head.err != nil {
		return 0, fmt.Errorf("read %s: %w", r.key, head.err)
	}
	n := copy(p, head.b)
	head.b = head.b[n:]
	if len(head.b) == 0 {
		r.queue = r.queue[1:]
		r.l.chunks.Put(head.buf)
		r.window = min(r.window+1, perConn*r.l.cfg.Connections)
		r.ahead()
	}
	return n, nil
}

// ahead asks for the next chunks. One is always allowed; more, as long as all
// readers together stay within their bound.
func (r *reader) ahead() {
	for r.next < r.end && len(r.queue) < r.window {
		free := false
		select {
		case r.l.fetches <- struct{}{}:
			free = true
		default:
			if len(r.queue) > 0 {
				return
			}
		}
		buf := r.l.chunks.Get().(*[]byte)
		x := &piece{buf: buf, b: (*buf)[:min(chunkSize, r.end-r.next)], done: make(chan struct{}), free: free}
		off := r.next
		r.next += int64(len(x.b))
		r.queue = append(r.queue, x)
		r.wg.Go(func() {
			x.err = r.fetch(x.b, off)
			if x.free {
				<-r.l.fetches
			}
			close(x.done)
		})
	}
}

// fetch reads one chunk.
func (r *reader) fetch(b []byte, off int64) error {
	get := func(c *conn) error {
		f, err := r.files.on(c)
		if err != nil {
			return err
		}
		n, err := f.ReadAt(b, off)
		if n == len(b) {
			return nil
		}
		if readEnd(f, err, off+int64(n)) {
			return fmt.Errorf("%w: the object became shorter while it was read: it ends at %d", location.ErrDamaged, off+int64(n))
		}
		return err
	}
	if r.pinned == nil {
		return r.l.persist(r.ctx, get)
	}
	if err := context.Cause(r.ctx); err != nil {
		return err
	}
	r.pinned.load.Add(1)
	defer r.pinned.load.Add(-1)
	defer r.pinned.begin()()
	return r.l.explain(r.pinned, get(r.pinned), false)
}

// readEnd tells whether a read ended because the file does, at off; the
// library's error for that is also one of lost connections.
func readEnd(f *sftp.File, err error, off int64) bool {
	if !errors.Is(err, io.EOF) {
		return false
	}
	fi, err := f.Stat()
	return err == nil && fi.Size() <= off
}

// Close implements io.Closer. What is under way ends in the background.
func (r *reader) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	r.cancel(os.ErrClosed)
	r.l.tidying.Go(func() {
		r.wg.Wait()
		for _, x := range r.queue {
			r.l.chunks.Put(x.buf)
		}
		r.files.close()
		if r.link != "" {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(r.ctx), 2*r.l.cfg.patience())
			defer cancel()
			change(ctx, r.l, func(c *conn) (struct{}, error) { return struct{}{}, removeFile(c, r.l.temporary(r.link)) })
		}
	})
	return nil
}
