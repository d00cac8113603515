package local

import (
	"errors"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"
)

// ensure makes the folder dir and those above it, durably. That a folder is
// there is not enough: whoever made it may have ended before its entry was
// durable, so each is seen to once.
func (p *place) ensure(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ensureLocked(dir)
}

func (p *place) ensureLocked(dir string) error {
	if dir == "." {
		return nil
	}
	if p.known[dir] {
		if _, err := p.dir.Lstat(dir); err == nil {
			return nil
		}
		delete(p.known, dir) // removed by another process
	}
	parent := path.Dir(dir)
	if err := p.ensureLocked(parent); err != nil {
		return err
	}
	if err := p.dir.Mkdir(dir, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := p.sync(parent); err != nil {
		return err
	}
	if len(p.known) >= maxKnown {
		clear(p.known)
	}
	p.known[dir] = true
	return nil
}

// tidy makes the removal of an entry of dir durable, and removes dir and those
// above it as far as they are empty.
func (p *place) tidy(dir string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; dir != "."; dir = path.Dir(dir) {
		if err := p.removeDir(dir); err != nil {
			if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, fs.ErrExist) {
				break
			}
			return err
		}
		delete(p.known, dir)
	}
	return p.sync(dir)
}

// removeDir removes an empty folder; one that is not there is success.
func (p *place) removeDir(dir string) error {
	st, err := p.dir.Lstat(dir)
	if err == nil && !st.IsDir() {
		return unix.ENOTDIR
	}
	if err == nil {
		err = p.dir.Remove(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sync makes the entries of a folder durable. A folder that is gone has none.
func (p *place) sync(dir string) error {
	d, err := p.dir.Open(dir)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
