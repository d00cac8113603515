// Package sftp keeps objects on an SFTP server. Writes and reads go on over
// several connections with many requests under way, so that a distant server
// is filled at the speed of the link. See DESIGN.md.
package sftp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"

	"understudy/shipper/location"
)

const (
	// uploadsDir holds, below the root, everything that is not an object yet.
	uploadsDir = ".uploads"
	// perConn is how many chunks may be under way on one connection: twice what
	// the server lets us send ahead.
	perConn = 16
	// listers bounds how many folders are listed at once.
	listers = 8
	// tinySpace is the room below which a failed write is blamed on a full disk.
	tinySpace = 1 << 20
)

// Location is one directory on an SFTP server.
type Location struct {
	cfg  prepared
	pool *pool
	// sends and fetches bound the chunks that are under way, over all uploads
	// and over all readers.
	sends, fetches chan struct{}
	chunks         sync.Pool // of *[]byte of chunkSize
	// background are requests whose caller did not wait for them, tidying what
	// readers and uploads that have ended still do.
	background, tidying sync.WaitGroup
	// pauses are the waits before something is tried again whose connection was
	// lost. A source that streams cannot begin anew, so a short cut must not end
	// an upload.
	pauses []time.Duration
}

var _ location.Location = (*Location)(nil)

// New returns a place; no connection is made before one is needed.
func New(cfg Config) (*Location, error) {
	p, err := cfg.prepare()
	if err != nil {
		return nil, err
	}
	l := &Location{cfg: p, pauses: []time.Duration{0, 200 * time.Millisecond, time.Second, 2 * time.Second}}
	l.pool = newPool(l.dial, p.Connections, p.KeepAlive)
	l.sends = make(chan struct{}, perConn*p.Connections)
	l.fetches = make(chan struct{}, perConn*p.Connections)
	l.chunks.New = func() any { b := make([]byte, chunkSize); return &b }
	return l, nil
}

// Close implements location.Location.
func (l *Location) Close() error {
	l.tidying.Wait()
	l.pool.close()
	l.background.Wait()
	return nil
}

// object is the path of a key at the server.
func (l *Location) object(key string) string { return path.Join(l.cfg.Root, key) }

// temporary is the path of a name in the folder of what is not an object yet.
func (l *Location) temporary(name string) string { return path.Join(l.cfg.Root, uploadsDir, name) }

// Stat implements location.Location.
func (l *Location) Stat(ctx context.Context, key string) (location.Info, error) {
	if err := location.CheckKey(key); err != nil {
		return location.Info{}, err
	}
	fi, err := ask(ctx, l, func(c *conn) (fs.FileInfo, error) { return c.sftp.Stat(l.object(key)) })
	switch {
	case err != nil:
		return location.Info{}, fmt.Errorf("stat %s: %w", key, err)
	case !fi.Mode().IsRegular():
		return location.Info{}, fmt.Errorf("stat %s: %w", key, location.ErrNotExist)
	}
	return info(key, fi), nil
}

func info(key string, fi fs.FileInfo) location.Info {
	return location.Info{Key: key, Size: fi.Size(), At: fi.ModTime()}
}

// List implements location.Location. Folders are read by some at once, since
// each costs several round trips.
func (l *Location) List(ctx context.Context, prefix string, each func(location.Info) error) error {
	if err := location.CheckPrefix(prefix); err != nil {
		return err
	}
	var mu sync.Mutex
	w := &walk{l: l, each: func(i location.Info) error {
		mu.Lock()
		defer mu.Unlock()
		return each(i)
	}}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(listers)
	w.g = g
	g.Go(func() error { return w.folder(ctx, strings.TrimSuffix(prefix, "/")) })
	return g.Wait()
}

// walk is one listing.
type walk struct {
	l    *Location
	g    *errgroup.Group
	each func(location.Info) error
}

func (w *walk) folder(ctx context.Context, key string) error {
	entries, err := ask(ctx, w.l, func(c *conn) ([]fs.FileInfo, error) { return readDir(ctx, c, w.l.object(key)) })
	switch {
	case errors.Is(err, location.ErrNotExist) && key != "":
		return nil
	case errors.Is(err, location.ErrNotExist):
		return w.l.noRoot()
	case err != nil:
		return fmt.Errorf("list %s: %w", key+"/", err)
	}
	for _, fi := range entries {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		sub := path.Join(key, fi.Name())
		switch {
		case location.CheckKey(sub) != nil: // not ours, or not an object yet
		case fi.Mode().IsRegular():
			if err := w.each(info(sub, fi)); err != nil {
				return err
			}
		case fi.IsDir():
			if !w.g.TryGo(func() error { return w.folder(ctx, sub) }) {
				if err := w.folder(ctx, sub); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// readDir lists a folder; a file in its place is no folder.
func readDir(ctx context.Context, c *conn, dir string) ([]fs.FileInfo, error) {
	entries, err := c.sftp.ReadDirContext(ctx, dir)
	if isFailure(err) {
		if fi, statErr := c.sftp.Stat(dir); statErr == nil && !fi.IsDir() {
			return nil, fs.ErrNotExist
		}
	}
	return entries, err
}

// noRoot is the error for a root directory that is missing.
func (l *Location) noRoot() error {
	return fmt.Errorf("%w: there is no directory %s at the server: make it, or mount what belongs there", location.ErrRefused, l.cfg.Root)
}

// Remove implements location.Location.
func (l *Location) Remove(ctx context.Context, key string) error {
	if err := location.CheckKey(key); err != nil {
		return err
	}
	_, err := change(ctx, l, func(c *conn) (struct{}, error) {
		if err := removeFile(c, l.object(key)); err != nil {
			return struct{}{}, err
		}
		for dir := path.Dir(key); dir != "."; dir = path.Dir(dir) {
			if c.sftp.RemoveDirectory(l.object(dir)) != nil {
				break // not empty, or another was faster
			}
		}
		return struct{}{}, nil
	})
	if err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	return nil
}

// removeFile removes a file that may be gone.
func removeFile(c *conn, name string) error {
	err := c.sftp.Remove(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case isFailure(err):
		if fi, statErr := c.sftp.Stat(name); statErr == nil && fi.IsDir() {
			return nil // a folder is no object
		}
	}
	return err
}

// Space implements location.Location.
func (l *Location) Space(ctx context.Context) (location.Space, error) {
	s, err := ask(ctx, l, func(c *conn) (location.Space, error) {
		if !c.statvfs {
			return location.Space{}, location.ErrUnsupported
		}
		v, err := c.sftp.StatVFS(l.cfg.Root)
		if err != nil {
			return location.Space{}, err
		}
		return location.Space{Free: int64(v.Frsize * v.Bavail), Total: int64(v.Frsize * v.Blocks)}, nil
	})
	switch {
	case errors.Is(err, location.ErrNotExist):
		return location.Space{}, l.noRoot()
	case err != nil:
		return location.Space{}, fmt.Errorf("space: %w", err)
	}
	return s, nil
}

// Sweep implements location.Location.
func (l *Location) Sweep(ctx context.Context, before time.Time) (int, error) {
	left, err := l.leftovers(ctx)
	if err != nil {
		return 0, fmt.Errorf("sweep: %w", err)
	}
	n := 0
	for _, x := range left {
		if !x.at.Before(before) {
			continue
		}
		for _, name := range x.names {
			_, err := change(ctx, l, func(c *conn) (struct{}, error) { return struct{}{}, removeFile(c, l.temporary(name)) })
			if err != nil {
				return n, fmt.Errorf("sweep %s: %w", name, err)
			}
		}
		if x.part {
			n++
		}
	}
	return n, nil
}

// ask runs a request on a connection, and once more when the connection was
// lost: one that was idle may have ended unnoticed. It returns as soon as ctx
// ends; the request then ends in the background.
func ask[T any](ctx context.Context, l *Location, f func(*conn) (T, error)) (T, error) {
	return request(ctx, l, false, f, func(T) {})
}

// change is ask for what writes.
func change[T any](ctx context.Context, l *Location, f func(*conn) (T, error)) (T, error) {
	return request(ctx, l, true, f, func(T) {})
}

// request is ask and change; late gets what came after the caller had left.
func request[T any](ctx context.Context, l *Location, writes bool, f func(*conn) (T, error), late func(T)) (T, error) {
	var none T
	if ctx.Err() != nil {
		return none, context.Cause(ctx)
	}
	for try := 0; ; try++ {
		c, err := l.pool.take(ctx)
		if err != nil {
			return none, err
		}
		got := make(chan answer[T], 1)
		l.background.Go(func() {
			defer l.pool.release(c)
			defer c.begin()()
			v, err := f(c)
			got <- answer[T]{v, l.explain(c, err, writes)}
		})
		select {
		case a := <-got:
			if try > 0 || !errors.Is(a.err, errLost) || isSilence(a.err) {
				return a.value, a.err
			}
		case <-ctx.Done():
			l.background.Go(func() {
				if a := <-got; a.err == nil {
					late(a.value)
				}
			})
			return none, context.Cause(ctx)
		}
	}
}

type answer[T any] struct {
	value T
	err   error
}

// isSilence tells whether a connection ended because nothing was heard on it.
// Trying again would only wait as long once more.
func isSilence(err error) bool { return errors.Is(err, errSilent) || errors.Is(err, errStall) }

// explain turns an error of the library into one of this port. It may ask the
// server why: most failures have no code of their own in this protocol.
func (l *Location) explain(c *conn, err error, writes bool) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, location.ErrUnsupported), errors.Is(err, location.ErrRefused), errors.Is(err, location.ErrDamaged), errors.Is(err, errLost):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return location.ErrNotExist
	case errors.Is(err, fs.ErrPermission) && writes:
		return fmt.Errorf("%w: permission denied", location.ErrReadOnly)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: permission denied", location.ErrRefused)
	case isLost(err):
		return c.lost(err)
	case !writes || !isFailure(err):
		return err
	}
	return l.explainFailure(c, err)
}

// saysFull are the words of servers that name the reason of a failure.
var saysFull = regexp.MustCompile(`(?i)quota|no space left`)

// explainFailure is explain for a write that failed without a code of its own.
func (l *Location) explainFailure(c *conn, err error) error {
	if saysFull.MatchString(err.Error()) {
		return fmt.Errorf("%w: %w", location.ErrNoSpace, err)
	}
	const unknown = "the server fails and does not say why, full or over quota?"
	if !c.statvfs {
		return fmt.Errorf("%s It cannot be asked for its room: %w", unknown, err)
	}
	v, statErr := c.sftp.StatVFS(l.cfg.Root)
	switch {
	case statErr != nil:
		return fmt.Errorf("%s It does not say its room either: %w", unknown, err)
	case v.Flag&1 != 0:
		return fmt.Errorf("%w: its file system is mounted so", location.ErrReadOnly)
	case v.Frsize*v.Bavail < tinySpace, v.Files > 0 && v.Favail == 0:
		return fmt.Errorf("%w: %d bytes and %d files free", location.ErrNoSpace, v.Frsize*v.Bavail, v.Favail)
	}
	return fmt.Errorf("%s Its file system has %d of %d bytes and %d files free: %w", unknown, v.Frsize*v.Bavail, v.Frsize*v.Blocks, v.Favail, err)
}

// isFailure tells whether the server failed without saying why.
func isFailure(err error) bool {
	var status *sftp.StatusError
	return errors.As(err, &status) && status.FxCode() == sftp.ErrSSHFxFailure
}

// isLost tells whether an error is that of a connection. At the end of a file
// the library says io.EOF too: who reads looks at that first.
func isLost(err error) bool {
	var status *sftp.StatusError
	if errors.As(err, &status) {
		return false
	}
	return errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || isNet(err)
}

// lost is the error of a request on a connection that ended.
func (c *conn) lost(err error) error {
	c.close(err) // unless it has ended for a better reason
	<-c.done
	if errors.Is(c.cause, location.ErrClosed) {
		return location.ErrClosed
	}
	return fmt.Errorf("%w: %w: %w", location.ErrUnreachable, errLost, c.cause)
}
