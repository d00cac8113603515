// Package local is a location in a directory of this machine: a second disk, a
// mounted share.
//
// The directory is used only while it holds the marker that Init wrote. Without
// that, a backup to a file system that is not mounted would fill the disk
// below the mount point.
//
// Unfinished uploads lie in the folder ".tmp" of the directory, which must be
// on the same file system as the rest of it. Links inside the directory never
// lead out of it.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"understudy/shipper/location"
)

// Marker is the file that makes a directory a location.
const Marker = ".understudy-location"

const (
	markerText = "Backups of understudy are kept in this directory. Without this file nothing is written here.\n"
	tempDir    = ".tmp"
	dirPerm    = 0o700
	filePerm   = 0o600
	// maxKnown bounds the memory of folders that are known to be durable.
	maxKnown = 4096
)

// Init makes root a location. The directory is created when only it itself is
// missing: a missing parent is more likely a missing mount. A root that is a
// location already stays as it is.
func Init(root string) error {
	root = filepath.Clean(root)
	err := os.Mkdir(root, dirPerm)
	switch {
	case err == nil:
		if err := syncPath(filepath.Dir(root)); err != nil {
			return explain("make location "+root, err, true)
		}
	case !errors.Is(err, fs.ErrExist):
		return explain("make location", err, true)
	}
	if _, err := os.Lstat(filepath.Join(root, Marker)); err == nil {
		return nil
	}
	if err := writeMarker(filepath.Join(root, Marker)); err != nil {
		return explain("make location", err, true)
	}
	if err := syncPath(root); err != nil {
		return explain("make location "+root, err, true)
	}
	return nil
}

func writeMarker(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(markerText)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncPath(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Location is a directory. It implements location.Location.
type Location struct {
	path string

	mu     sync.Mutex
	root   *place // nil while the directory is not there
	closed bool
}

var _ location.Location = (*Location)(nil)

// New is the location in the directory root. It need not be there yet: while
// it is not, or lacks the marker, calls fail with location.ErrUnreachable.
func New(root string) *Location { return &Location{path: filepath.Clean(root)} }

// place is the directory that lay at the path when it was last looked at.
// Uploads and readers that began in it go on there, also when another file
// system has been mounted over it.
type place struct {
	dir  *os.Root
	info fs.FileInfo

	mu    sync.Mutex // held while folders are made or removed
	known map[string]bool
}

// open is the directory as it is now.
func (l *Location) open(ctx context.Context) (*place, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, location.ErrClosed
	}
	info, err := os.Stat(l.path)
	if err != nil {
		return nil, fmt.Errorf("%w: is the file system mounted? %w", location.ErrUnreachable, err)
	}
	if l.root != nil && os.SameFile(info, l.root.info) {
		return l.root, nil
	}
	dir, err := os.OpenRoot(l.path)
	if err != nil {
		return nil, explain("open location", err, false)
	}
	info, err = dir.Stat(".")
	if err == nil {
		_, err = dir.Lstat(Marker)
	}
	if err != nil {
		dir.Close()
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s has no file %s: its file system is not mounted, or it was never made a location",
				location.ErrUnreachable, l.path, Marker)
		}
		return nil, explain("open location "+l.path, err, false)
	}
	// The one before is closed when its last upload and reader have let go of
	// it.
	l.root = &place{dir: dir, info: info, known: make(map[string]bool)}
	return l.root, nil
}

// Close implements location.Location.
func (l *Location) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	if l.root == nil {
		return nil
	}
	return l.root.dir.Close()
}

// Space implements location.Location.
func (l *Location) Space(ctx context.Context) (location.Space, error) {
	p, err := l.open(ctx)
	if err != nil {
		return location.Space{}, err
	}
	d, err := p.dir.Open(".")
	if err != nil {
		return location.Space{}, explain("measure "+l.path, err, false)
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return location.Space{}, explain("measure "+l.path, err, false)
	}
	return location.Space{Free: int64(st.Bavail) * st.Bsize, Total: int64(st.Blocks) * st.Bsize}, nil
}

// Stat implements location.Location.
func (l *Location) Stat(ctx context.Context, key string) (location.Info, error) {
	if err := location.CheckKey(key); err != nil {
		return location.Info{}, err
	}
	p, err := l.open(ctx)
	if err != nil {
		return location.Info{}, fmt.Errorf("look at %s: %w", key, err)
	}
	st, err := p.object(key)
	if err != nil {
		return location.Info{}, explain("look at "+key, err, false)
	}
	return info(key, st), nil
}

// object describes the file of a key. What is no plain file is no object.
func (p *place) object(key string) (fs.FileInfo, error) {
	st, err := p.dir.Lstat(key)
	switch {
	case errors.Is(err, unix.ENOTDIR):
		return nil, location.ErrNotExist
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, location.ErrNotExist
	}
	return st, nil
}

func info(key string, st fs.FileInfo) location.Info {
	return location.Info{Key: key, Size: st.Size(), At: st.ModTime()}
}

// List implements location.Location.
func (l *Location) List(ctx context.Context, prefix string, each func(location.Info) error) error {
	if err := location.CheckPrefix(prefix); err != nil {
		return err
	}
	p, err := l.open(ctx)
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	return p.list(ctx, path.Clean(prefix+"."), each)
}

// list walks one folder. What vanishes meanwhile was removed by somebody.
func (p *place) list(ctx context.Context, dir string, each func(location.Info) error) error {
	names, err := p.names(dir)
	if err != nil {
		return explain("list "+dir, err, false)
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		key := path.Join(dir, name)
		if location.CheckKey(key) != nil {
			continue // not ours: temporary, or somebody else's
		}
		st, err := p.dir.Lstat(key)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return explain("list "+key, err, false)
		case st.IsDir():
			if err := p.list(ctx, key, each); err != nil {
				return err
			}
		case st.Mode().IsRegular():
			if err := each(info(key, st)); err != nil {
				return err
			}
		}
	}
	return nil
}

// names lists a folder; one that is missing, or a file, has none.
func (p *place) names(dir string) ([]string, error) {
	d, err := p.dir.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	names, err := d.Readdirnames(-1)
	slices.Sort(names)
	return names, errors.Join(err, d.Close())
}

// Remove implements location.Location.
func (l *Location) Remove(ctx context.Context, key string) error {
	if err := location.CheckKey(key); err != nil {
		return err
	}
	p, err := l.open(ctx)
	if err != nil {
		return fmt.Errorf("remove %s: %w", key, err)
	}
	if _, err = p.object(key); err == nil {
		err = p.dir.Remove(key)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, location.ErrNotExist) {
		return explain("remove "+key, err, true)
	}
	// Also when nothing was there: an earlier call may have ended in between.
	if err := p.tidy(path.Dir(key)); err != nil {
		return explain("remove "+key, err, true)
	}
	return nil
}
