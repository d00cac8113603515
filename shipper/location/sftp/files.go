package sftp

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

func isNet(err error) bool {
	var op net.Error
	var errno syscall.Errno
	return errors.As(err, &op) || errors.As(err, &errno) || errors.Is(err, net.ErrClosed)
}

// files is one file at the server, opened on as many connections as use it.
type files struct {
	name  string
	flags int

	mu   sync.Mutex
	open map[*conn]*opened
}

// opened is the file on one connection; file and err are there when ready is
// closed.
type opened struct {
	ready chan struct{}
	file  *sftp.File
	err   error
}

func newFiles(name string, flags int) *files {
	return &files{name: name, flags: flags, open: map[*conn]*opened{}}
}

// put adds a file that was opened before; the connection has one more user.
func (f *files) put(c *conn, file *sftp.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.load.Add(1)
	o := &opened{file: file, ready: make(chan struct{})}
	close(o.ready)
	f.open[c] = o
}

// on is the file on a connection that the caller has taken.
func (f *files) on(c *conn) (*sftp.File, error) {
	f.mu.Lock()
	o := f.open[c]
	if o != nil {
		f.mu.Unlock()
		<-o.ready
		return o.file, o.err
	}
	o = &opened{ready: make(chan struct{})}
	f.open[c] = o
	f.mu.Unlock()
	o.file, o.err = c.sftp.OpenFile(f.name, f.flags)
	f.mu.Lock()
	if o.err == nil {
		c.load.Add(1)
	} else {
		delete(f.open, c)
	}
	f.mu.Unlock()
	close(o.ready)
	return o.file, o.err
}

// lost are the connections that carried the file and have ended.
func (f *files) lost() []*conn {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []*conn
	for c := range f.open {
		if c.ended() {
			out = append(out, c)
		}
	}
	return out
}

// forget drops connections that have ended.
func (f *files) forget(lost []*conn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range lost {
		delete(f.open, c)
	}
}

// empty tells whether the file is open nowhere.
func (f *files) empty() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.open {
		if !c.ended() {
			return false
		}
	}
	return true
}

// each calls do for the file on every living connection, at once, and returns
// the first error.
func (f *files) each(do func(*conn, *sftp.File) error) error {
	f.mu.Lock()
	var g errgroup.Group
	for c, o := range f.open {
		if !c.ended() {
			g.Go(func() error {
				if <-o.ready; o.file == nil {
					return nil
				}
				return do(c, o.file)
			})
		}
	}
	f.mu.Unlock()
	return g.Wait()
}

// close closes the file everywhere and returns the first error of a connection
// that still stands.
func (f *files) close() error {
	f.mu.Lock()
	all := f.open
	f.open = map[*conn]*opened{}
	f.mu.Unlock()
	errs := make(chan error, len(all))
	for c, o := range all {
		go func() {
			if <-o.ready; o.file == nil {
				errs <- nil
				return
			}
			end := c.begin()
			err := o.file.Close()
			end()
			c.load.Add(-1)
			if c.ended() || errors.Is(err, os.ErrClosed) || isLost(err) {
				err = nil // the server has closed it with the connection
			}
			errs <- err
		}()
	}
	var first error
	for range all {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}
