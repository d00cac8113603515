package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"
)

// tree maps the paths of a base to directories of this host. All access goes
// through os.Root, so no link inside can lead out.
type tree struct {
	base   string
	owner  *Owner
	root   *os.Root
	wal    *os.Root // where a link pg_wal leads; nil when pg_wal is no link
	spaces []space  // out-of-place tablespaces
}

// space is an opened out-of-place tablespace.
type space struct {
	Place
	prefix string // its path in the base
	root   *os.Root
}

// open opens the data directory and the tablespaces, which must exist.
func (t *tree) open(places []Place) error {
	var err error
	if t.root, err = os.OpenRoot(t.base); err != nil {
		return err
	}
	if fi, err := t.root.Lstat("pg_wal"); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		if t.wal, err = os.OpenRoot(filepath.Join(t.base, "pg_wal")); err != nil {
			return fmt.Errorf("open the directory that the link pg_wal names: %w", err)
		}
	}
	for _, p := range places {
		r, err := os.OpenRoot(p.Dir)
		if err != nil {
			return err
		}
		t.spaces = append(t.spaces, space{Place: p, prefix: spacePrefix(p.OID), root: r})
	}
	return nil
}

func (t *tree) close() {
	for _, r := range t.roots() {
		r.root.Close()
	}
}

// rooted is a directory and the path in the base that it stands for.
type rooted struct {
	root   *os.Root
	prefix string
}

// roots lists every directory the base is spread over.
func (t *tree) roots() []rooted {
	var all []rooted
	if t.root != nil {
		all = append(all, rooted{t.root, ""})
	}
	if t.wal != nil {
		all = append(all, rooted{t.wal, "pg_wal"})
	}
	for _, s := range t.spaces {
		all = append(all, rooted{s.root, s.prefix})
	}
	return all
}

// locate finds the directory and the name in it for a path of the base.
func (t *tree) locate(p string) (*os.Root, string) {
	if t.wal != nil && within(p, "pg_wal") {
		return t.wal, below(p, "pg_wal")
	}
	if strings.HasPrefix(p, "pg_tblspc/") {
		for _, s := range t.spaces {
			if within(p, s.prefix) {
				return s.root, below(p, s.prefix)
			}
		}
	}
	if p == controlPath {
		return t.root, controlAside
	}
	return t.root, p
}

func within(p, dir string) bool { return p == dir || strings.HasPrefix(p, dir+"/") }

func below(p, dir string) string {
	if p == dir {
		return "."
	}
	return p[len(dir)+1:]
}

func spacePrefix(oid uint32) string {
	return "pg_tblspc/" + strconv.FormatUint(uint64(oid), 10)
}

// create opens a regular file for writing, in place of whatever else is there.
func (t *tree) create(p string) (*os.File, error) {
	root, name := t.locate(p)
	if fi, err := root.Lstat(name); err == nil && !fi.Mode().IsRegular() {
		if err := root.RemoveAll(name); err != nil {
			return nil, err
		}
	}
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		if err := t.mkdir(path.Dir(p), 0o700); err != nil {
			return nil, err
		}
		f, err = root.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	}
	return f, err
}

// mkdir makes a directory and those above it, in place of whatever else is
// there, and gives it mode and owner.
func (t *tree) mkdir(p string, mode fs.FileMode) error {
	root, name := t.locate(p)
	if name == "." {
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
		if err := root.Mkdir(part, 0o700); err != nil {
			return err
		}
		if err := t.chown(root, part); err != nil {
			return err
		}
	}
	return root.Chmod(name, mode)
}

func (t *tree) chown(root *os.Root, name string) error {
	if t.owner == nil {
		return nil
	}
	return root.Lchown(name, t.owner.UID, t.owner.GID)
}

// checkPath says whether a path from the sender is one a base may have.
func checkPath(p string) error {
	switch {
	case p == "." || !fs.ValidPath(p) || len(p) > maxPathBytes || strings.ContainsRune(p, 0) || !utf8.ValidString(p):
		return fmt.Errorf("%w: path %.200q", ErrProtocol, p)
	case p == MarkName || p == listName || p == MarkTemp || p == controlAside || p == "postmaster.pid" || p == "postmaster.opts":
		return fmt.Errorf("%w: %q is not part of a base", ErrProtocol, p)
	case p == "pg_tblspc/"+MarkName || strings.HasSuffix(p, "/"+MarkName):
		return fmt.Errorf("%w: %q is not part of a base", ErrProtocol, p)
	}
	for part := range strings.SplitSeq(p, "/") {
		if len(part) > maxNameBytes {
			return fmt.Errorf("%w: path %.200q", ErrProtocol, p)
		}
	}
	return nil
}

// fileMode and dirMode keep of the sender's mode what PostgreSQL accepts:
// the owner's rights and, when granted, reading by the group.
func fileMode(mode uint32) fs.FileMode { return fs.FileMode(0o600 | mode&0o040) }
func dirMode(mode uint32) fs.FileMode  { return fs.FileMode(0o700 | mode&0o050) }
