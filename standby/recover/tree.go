package recover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"understudy/standby/restore"
)

// noFollow keeps a link that somebody put in a file's place from being written
// through.
const noFollow = syscall.O_NOFOLLOW

// tree maps the paths of a data directory to directories of this host. All
// access goes through os.Root, so no link inside can lead out. Its methods may
// be called concurrently for different paths.
type tree struct {
	owner *restore.Owner
	root  *os.Root
	wal   *os.Root // where a link pg_wal leads; nil when pg_wal is no link
	out   []outside
}

// outside is an opened tablespace outside the data directory.
type outside struct {
	Space
	prefix string
	root   *os.Root
}

// openTree opens the plan's directories, which must exist.
func openTree(p *Plan) (*tree, error) {
	t := &tree{owner: p.Owner}
	var err error
	if t.root, err = os.OpenRoot(p.DataDir); err != nil {
		return nil, err
	}
	if fi, err := t.root.Lstat("pg_wal"); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		if t.wal, err = os.OpenRoot(filepath.Join(p.DataDir, "pg_wal")); err != nil {
			t.close()
			return nil, fmt.Errorf("open the directory that the link pg_wal names: %w", err)
		}
	}
	for _, s := range p.Spaces {
		if s.InPlace {
			continue
		}
		r, err := os.OpenRoot(s.Dir)
		if err != nil {
			t.close()
			return nil, err
		}
		t.out = append(t.out, outside{Space: s, prefix: spacePrefix(s.OID), root: r})
	}
	return t, nil
}

func (t *tree) close() {
	for _, r := range t.roots() {
		r.root.Close()
	}
}

// rooted is a directory and the path in the data directory that it stands for.
type rooted struct {
	root   *os.Root
	prefix string
	space  bool
}

func (t *tree) roots() []rooted {
	all := []rooted{{root: t.root}}
	if t.wal != nil {
		all = append(all, rooted{root: t.wal, prefix: "pg_wal"})
	}
	for _, s := range t.out {
		all = append(all, rooted{root: s.root, prefix: s.prefix, space: true})
	}
	return all
}

// locate finds the directory, and the name in it, of a path.
func (t *tree) locate(p string) (*os.Root, string) {
	if t.wal != nil && nested(p, "pg_wal") {
		return t.wal, below(p, "pg_wal")
	}
	if strings.HasPrefix(p, "pg_tblspc/") {
		for _, s := range t.out {
			if nested(p, s.prefix) {
				return s.root, below(p, s.prefix)
			}
		}
	}
	if p == controlPath {
		return t.root, controlAside
	}
	return t.root, p
}

func below(p, dir string) string {
	if p == dir {
		return "."
	}
	return p[len(dir)+1:]
}

// open opens a regular file for reading and writing and makes it when missing,
// in place of whatever else is there, for which it looks when dirty. was tells
// its state before, nil for none.
func (t *tree) open(p string, dirty bool) (f *os.File, was fs.FileInfo, err error) {
	root, name := t.locate(p)
	for range 3 {
		if dirty {
			if fi, err := root.Lstat(name); err == nil && !fi.Mode().IsRegular() {
				if err := root.RemoveAll(name); err != nil {
					return nil, nil, err
				}
			}
		}
		if f, err = root.OpenFile(name, os.O_RDWR, 0); err == nil {
			if was, err = f.Stat(); err != nil {
				return nil, nil, errors.Join(err, f.Close())
			}
			return f, was, nil
		}
		if errors.Is(err, fs.ErrNotExist) {
			if f, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				return f, nil, nil
			}
		}
		switch {
		case errors.Is(err, fs.ErrExist): // another worker was quicker
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			if err := t.mkdir(parent(p), 0o700); err != nil {
				return nil, nil, err
			}
		default:
			return nil, nil, err
		}
	}
	return nil, nil, err
}

// mkdir makes a directory and those above it, in place of whatever else is
// there, and gives it mode and owner.
func (t *tree) mkdir(p string, mode fs.FileMode) error {
	root, name := t.locate(p)
	if name == "." || name == "" {
		return nil
	}
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '/' {
			continue
		}
		part := name[:i]
		fi, err := root.Lstat(part)
		if err == nil && fi.IsDir() {
			continue
		}
		if err == nil {
			if err := root.Remove(part); err != nil {
				return err
			}
		}
		if err := root.Mkdir(part, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := t.chown(root, part); err != nil {
			return err
		}
	}
	return errors.Join(root.Chmod(name, mode), t.chown(root, name))
}

func (t *tree) chown(root *os.Root, name string) error {
	if t.owner == nil {
		return nil
	}
	return root.Lchown(name, t.owner.UID, t.owner.GID)
}

// dress gives an opened file mode and owner; was is its state before.
func (t *tree) dress(f *os.File, mode uint32, was fs.FileInfo) error {
	want := fileMode(mode)
	if was == nil || was.Mode() != want {
		if err := f.Chmod(want); err != nil {
			return err
		}
	}
	if t.owner == nil {
		return nil
	}
	if was != nil {
		if st, ok := was.Sys().(*syscall.Stat_t); ok && int(st.Uid) == t.owner.UID && int(st.Gid) == t.owner.GID {
			return nil
		}
	}
	return f.Chown(t.owner.UID, t.owner.GID)
}

// fileMode and dirMode keep of a mode what PostgreSQL accepts: the owner's
// rights and, when granted, reading by the group.
func fileMode(mode uint32) fs.FileMode { return fs.FileMode(0o600 | mode&0o040) }
func dirMode(mode uint32) fs.FileMode  { return fs.FileMode(0o700 | mode&0o050) }

// clear takes away what would let PostgreSQL start, and every tablespace link,
// so that no path of the set leads through an old one.
func (t *tree) clear() error {
	for _, name := range []string{controlPath, "backup_label", "tablespace_map", "recovery.signal", "standby.signal"} {
		if err := t.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	links, err := fs.ReadDir(t.root.FS(), "pg_tblspc")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type()&fs.ModeSymlink != 0 {
			if err := t.root.Remove(path.Join("pg_tblspc", l.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
