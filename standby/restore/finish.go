package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

// syncWorkers is how many files are synced at a time.
const syncWorkers = 8

// finish makes a cluster of what arrived. Every step may be repeated.
func (s *seeding) finish() error {
	steps := []struct {
		name string
		do   func() error
	}{
		{StepVerify, s.verify},
		{StepStale, s.removeStale},
		{StepLayout, s.layout},
		{StepSync, s.sync},
		{StepControl, s.control},
		{StepUnmarkOut, s.unmarkPlaces},
		{StepUnmark, s.unmark},
	}
	for _, st := range steps {
		if err := s.step(st.name); err != nil {
			return err
		}
		if err := st.do(); err != nil {
			return fmt.Errorf("step %s: %w", st.name, err)
		}
	}
	return nil
}

// removeStale removes what an earlier attempt, or the cluster that was claimed,
// left here and the base does not have, postmaster.pid among it.
func (s *seeding) removeStale() error {
	if s.dirty {
		if err := s.list.eachShare(func(sh share) error {
			for _, r := range s.tree.roots() {
				if err := s.sweep(r, sh); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return s.emptyOldPlaces()
}

// keeps lists what is ours and not in the base.
func keeps(p string) bool {
	switch p {
	case MarkName, listName, MarkTemp, controlAside, "backup_manifest":
		return true
	}
	return false
}

// sweep removes from one directory the files and directories of one share that
// the base does not have.
func (s *seeding) sweep(r rooted, sh share) error {
	return fs.WalkDir(r.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := s.ctx.Err(); err != nil {
			return err
		}
		p := path.Join(r.prefix, name)
		if name == "." || r.prefix == "" && keeps(p) {
			return nil
		}
		if strings.HasPrefix(r.prefix, "pg_tblspc/") && !strings.Contains(name, "/") && !isPlaceEntry(name, s.plan.Major) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if p == "pg_wal" && s.tree.wal != nil {
			return nil // the link stays; its directory is swept on its own
		}
		if !sh.lacks(p, d.IsDir()) {
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

// emptyOldPlaces empties tablespaces of an earlier attempt that the base does
// not use any more.
func (s *seeding) emptyOldPlaces() error {
	used := map[string]bool{}
	for _, sp := range s.tree.spaces {
		used[sp.Dir] = true
	}
	for _, p := range s.mark.Tablespaces {
		if used[p.Dir] || s.sendersOwn(p.Dir) {
			continue
		}
		names, err := readNames(p.Dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, n := range names {
			if isPlaceEntry(n, s.plan.Major) || isPlaceEntry(n, s.oldMajor) || isOurs(n) {
				if err := os.RemoveAll(filepath.Join(p.Dir, n)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// sendersOwn tells whether dir is a tablespace that the sender works with.
func (s *seeding) sendersOwn(dir string) bool {
	fi, err := os.Stat(dir)
	if err != nil || !s.sameHost {
		return false
	}
	for _, t := range s.plan.Tablespaces {
		if t.isDir(fi) {
			return true
		}
	}
	return false
}

// isPlaceEntry tells whether a name in a tablespace's directory is that of a
// server of this major version; others are never removed, as servers of several
// versions may share the directory.
func isPlaceEntry(name string, major int) bool {
	return major != 0 && strings.HasPrefix(name, fmt.Sprintf("PG_%d_", major))
}

// isOurs tells whether a name in a tablespace's directory is a mark.
func isOurs(name string) bool { return name == MarkName || name == MarkTemp }

// layout makes the directories every cluster has, the tablespace links, and
// sets modes and owners of the roots.
func (s *seeding) layout() error {
	mode := fs.FileMode(0o700)
	if s.group {
		mode = 0o750
	}
	for _, p := range []string{"pg_wal", "pg_wal/archive_status", "pg_tblspc", "pg_replslot", "pg_dynshmem", "pg_notify"} {
		if err := s.tree.mkdir(p, mode); err != nil {
			return err
		}
	}
	for _, sp := range s.tree.spaces {
		if err := s.tree.root.RemoveAll(sp.prefix); err != nil {
			return err
		}
		if err := s.tree.root.Symlink(sp.Dir, sp.prefix); err != nil {
			return err
		}
		if err := s.tree.chown(s.tree.root, sp.prefix); err != nil {
			return err
		}
	}
	for _, r := range s.tree.roots() {
		if err := r.root.Chmod(".", mode); err != nil {
			return err
		}
		if err := s.tree.chown(r.root, "."); err != nil {
			return err
		}
	}
	if s.cfg.Owner != nil {
		return s.tree.root.Lchown("backup_manifest", s.cfg.Owner.UID, s.cfg.Owner.GID)
	}
	return nil
}

// sync makes every file and directory durable. Files that were here already
// are synced too: nothing says that an earlier attempt came so far.
func (s *seeding) sync() error {
	g, ctx := errgroup.WithContext(s.ctx)
	g.SetLimit(syncWorkers)
	for _, r := range s.tree.roots() {
		err := fs.WalkDir(r.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if d.Type().IsRegular() || d.IsDir() {
				g.Go(func() error { return syncAt(r.root, name) })
			}
			return nil
		})
		if err != nil {
			return errors.Join(err, g.Wait())
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return syncDir(filepath.Dir(s.cfg.DataDir))
}

func syncAt(root *os.Root, name string) error {
	f, err := root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// control gives pg_control its name, durably.
func (s *seeding) control() error {
	if err := s.tree.root.Rename(controlAside, controlPath); err != nil {
		return err
	}
	return syncAt(s.tree.root, "global")
}

// unmarkPlaces removes the marks of the tablespaces. The main mark still names
// them, so a crash here does not make them foreign.
func (s *seeding) unmarkPlaces() error {
	for _, sp := range s.tree.spaces {
		if err := removeDurably(sp.Dir, MarkName); err != nil {
			return err
		}
	}
	return nil
}

// unmark removes the list and, last, the mark.
func (s *seeding) unmark() error {
	if err := removeDurably(s.cfg.DataDir, listName); err != nil {
		return err
	}
	if err := removeDurably(s.cfg.DataDir, MarkTemp); err != nil {
		return err
	}
	return removeDurably(s.cfg.DataDir, MarkName)
}
