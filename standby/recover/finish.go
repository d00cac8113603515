package recover

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"understudy/standby/restore"
)

// stale removes what was here and is not in the set, postmaster.pid among it,
// and PostgreSQL's part of tablespaces that are used no more.
func (x *execution) stale() error {
	if !x.dirty {
		return nil
	}
	if err := x.eachShare(func(s *share) error {
		for _, r := range x.tree.roots() {
			if err := x.sweep(r, s); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, p := range x.mark.Tablespaces {
		if slices.ContainsFunc(x.p.Spaces, func(s Space) bool { return s.Dir == p.Dir }) {
			continue
		}
		if err := x.leave(p); err != nil {
			return err
		}
	}
	return nil
}

// leave empties a tablespace of the earlier state that the set does not use.
func (x *execution) leave(p restore.Place) error {
	entries, err := os.ReadDir(p.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if isSpaceEntry(e.Name(), x.p.Server.Major) || strings.HasPrefix(e.Name(), restore.MarkName) {
			if err := os.RemoveAll(filepath.Join(p.Dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// share is one part of the set's paths, as hashes: 8 bytes each. A false "has"
// needs two paths with one 64-bit hash of a random seed and keeps a file that
// no table knows of.
type share struct {
	seed   maphash.Seed
	of, no uint64
	hashes []uint64 // sorted
}

const shareSize = 2 << 20

// eachShare calls f with one part of the paths after the other.
func (x *execution) eachShare(f func(*share) error) error {
	s := &share{seed: maphash.MakeSeed(), of: uint64(x.p.FileN)/shareSize + 1}
	for s.no = range s.of {
		s.hashes = s.hashes[:0]
		if err := x.eachItem(func(it item) error {
			if !it.skip {
				s.add(it.final(), it.Type != "")
			}
			return nil
		}); err != nil {
			return err
		}
		slices.Sort(s.hashes)
		if err := f(s); err != nil {
			return err
		}
	}
	return nil
}

func (s *share) add(p string, dir bool) {
	if h := s.hash(p, dir); h%s.of == s.no {
		s.hashes = append(s.hashes, h)
	}
}

func (s *share) hash(p string, dir bool) uint64 {
	if dir {
		p += "/"
	}
	return maphash.String(s.seed, p)
}

// lacks tells that the path belongs to this share and is not in the set.
func (s *share) lacks(p string, dir bool) bool {
	h := s.hash(p, dir)
	if h%s.of != s.no {
		return false
	}
	_, found := slices.BinarySearch(s.hashes, h)
	return !found
}

// ours are files and folders that stay though the set does not have them.
func ours(p string) bool {
	switch p {
	case restore.MarkName, restore.MarkTemp, stateName, stateTemp, indexName, indexTemp, controlAside, "backup_manifest", "pg_wal", "pg_tblspc":
		return true
	}
	return false
}

// sweep removes from one directory what the set does not have.
func (x *execution) sweep(r rooted, s *share) error {
	return fs.WalkDir(r.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := x.ctx.Err(); err != nil {
			return err
		}
		p := path.Join(r.prefix, name)
		switch {
		case name == ".", ours(p), r.space && name == restore.MarkName:
			return nil
		case r.space && !strings.Contains(name, "/") && !isSpaceEntry(name, x.p.Server.Major):
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case !s.lacks(p, d.IsDir()):
			return nil
		}
		if err := r.root.RemoveAll(name); err != nil {
			return err
		}
		if d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
}

// layout makes the directories every cluster has, the tablespace links, and
// sets modes and owners of the roots.
func (x *execution) layout() error {
	t := x.tree
	mode := fs.FileMode(0o700)
	if x.group {
		mode = 0o750
	}
	for _, p := range []string{"pg_wal", "pg_wal/archive_status", "pg_tblspc", "pg_replslot", "pg_dynshmem", "pg_notify"} {
		if err := t.mkdir(p, mode); err != nil {
			return err
		}
	}
	for _, s := range t.out {
		if err := t.root.RemoveAll(s.prefix); err != nil {
			return err
		}
		if err := t.root.Symlink(s.Dir, s.prefix); err != nil {
			return err
		}
		if err := t.chown(t.root, s.prefix); err != nil {
			return err
		}
	}
	for _, r := range t.roots() {
		if err := errors.Join(r.root.Chmod(".", mode), t.chown(r.root, ".")); err != nil {
			return err
		}
	}
	return nil
}

// sync makes everything durable, each file system once. The directory above
// may be on another one, and names ours.
func (x *execution) sync() error {
	if x.o.Volatile {
		return nil
	}
	for _, r := range x.tree.roots() {
		d, err := r.root.Open(".")
		if err != nil {
			return err
		}
		err = unix.Syncfs(int(d.Fd()))
		if err = errors.Join(err, d.Close()); err != nil {
			return fmt.Errorf("sync the file system of %s: %w", r.root.Name(), err)
		}
	}
	return syncDir(filepath.Dir(x.p.DataDir))
}

// control gives pg_control its name, durably.
func (x *execution) control() error {
	if err := x.tree.root.Rename(controlAside, controlPath); err != nil {
		return err
	}
	return syncDir(filepath.Join(x.p.DataDir, "global"))
}

// unmarkOutside removes the marks of the tablespaces. The main mark still names
// them, so that they are ours after a crash here.
func (x *execution) unmarkOutside() error {
	for _, p := range x.mark.Tablespaces {
		err := removeDurably(p.Dir, restore.MarkName)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// unmark notes that the files are complete and removes, last, the mark.
func (x *execution) unmark() error {
	if err := x.note(Ready); err != nil {
		return err
	}
	for _, name := range []string{indexName, indexTemp, restore.MarkTemp, restore.MarkName} {
		if err := removeDurably(x.p.DataDir, name); err != nil {
			return err
		}
	}
	return nil
}
