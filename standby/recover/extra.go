package recover

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"understudy/shipper/backupset"
)

// ErrNoExtra is returned when a set has no other files than the database's.
var ErrNoExtra = errors.New("the set has only the files of the database")

// Files calls f for every line of a set's list of files, from the first place
// whose list is undamaged. digest is that of set.json, empty for any.
func (s Sources) Files(ctx context.Context, label, digest string, f func(backupset.File) error) error {
	set, _, err := s.set(ctx, label, digest)
	if err != nil {
		return err
	}
	list, ok := set.Object(backupset.FilesName)
	if !ok {
		return fmt.Errorf("%w: set %s has no list of files", ErrDamaged, label)
	}
	return s.first(ctx, list.Name, func(src Source) error {
		// Proven before any line of it is believed.
		if err := s.listAt(ctx, src, label, list, func(backupset.File) error { return nil }); err != nil {
			return err
		}
		return s.listAt(ctx, src, label, list, f)
	})
}

// listAt reads a list of files at one place, and proves it at the end.
func (s Sources) listAt(ctx context.Context, src Source, label string, list backupset.Object, f func(backupset.File) error) error {
	r, err := src.Location.Open(ctx, s.Root.Object(label, list.Name), 0, -1)
	if err != nil {
		return err
	}
	defer r.Close()
	p := newProven(r, list)
	if err := eachFile(p, list.RawBytes, f); err != nil {
		return err
	}
	return p.verify()
}

// first does it with one place after the other until one succeeds.
func (s Sources) first(ctx context.Context, what string, do func(Source) error) error {
	var all error
	for _, src := range s.Places {
		err := do(src)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all = errors.Join(all, fmt.Errorf("location %s: %w", src.Name, err))
	}
	return fmt.Errorf("%w: read %s: %w", ErrDamaged, what, all)
}

// Extra is what came of unpacking the other files of a set.
type Extra struct {
	Dir   string `json:"dir"`
	FileN int    `json:"files"`
	Bytes int64  `json:"bytes"`
	// LeftOut are links that lead out of the directory, as "path -> target".
	LeftOut []string `json:"left_out,omitempty"`
}

// maxLeftOut bounds the links that are told one by one.
const maxLeftOut = 1000

// CheckExtra refuses a directory that UnpackExtra cannot make. It changes
// nothing.
func CheckExtra(dir string) error {
	if !filepath.IsAbs(dir) || filepath.Clean(dir) == "/" {
		return refused("the directory for the other files, %q, is not an absolute path below /", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return refused("the directory for the other files: %w", err)
	}
	if len(entries) > 0 {
		return refused("%s is not empty; name an empty directory, or one that is not there yet, for the other files of the host", dir)
	}
	return nil
}

// UnpackExtra puts the files that a set has beside the database below dir, which
// must be missing or empty, under the paths that they had on their host. Nothing
// is written outside of dir: paths and links that lead out of it are not made.
// The files belong to the account of this process and have the permissions that
// they had. dir is there whole or not at all; a call that was interrupted is
// repeated.
func (s Sources) UnpackExtra(ctx context.Context, label, digest, dir string) (Extra, error) {
	if err := CheckExtra(dir); err != nil {
		return Extra{}, err
	}
	set, _, err := s.set(ctx, label, digest)
	if err != nil {
		return Extra{}, err
	}
	o, ok := set.Object(backupset.ExtraName)
	if !ok {
		return Extra{}, fmt.Errorf("%w: set %s", ErrNoExtra, label)
	}
	dir = filepath.Clean(dir)
	temp := filepath.Join(filepath.Dir(dir), "."+filepath.Base(dir)+".unpacking")
	var out Extra
	err = s.first(ctx, o.Name, func(src Source) error {
		if err := os.RemoveAll(temp); err != nil { // of another place, or an earlier run
			return err
		}
		if err := makeDir(temp); err != nil {
			return err
		}
		r, err := src.Location.Open(ctx, s.Root.Object(label, o.Name), 0, -1)
		if err != nil {
			return err
		}
		defer r.Close()
		out, err = unpack(ctx, newProven(r, o), temp)
		return err
	})
	if err != nil {
		return Extra{}, errors.Join(err, os.RemoveAll(temp))
	}
	if err := syncTree(temp); err != nil {
		return Extra{}, errors.Join(err, os.RemoveAll(temp))
	}
	err = os.Remove(dir) // that it is empty was seen; a rename replaces none
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = os.Rename(temp, dir)
	}
	if err != nil {
		return Extra{}, errors.Join(fmt.Errorf("give %s its name: %w", dir, err), os.RemoveAll(temp))
	}
	out.Dir = dir
	return out, syncDir(filepath.Dir(dir))
}

// syncTree makes the file system of a directory durable.
func syncTree(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// unpacking is an archive on its way to a directory.
type unpacking struct {
	root  *os.Root
	out   Extra
	links []tar.Header // made last: nothing is written through one
	dirs  []tar.Header // get their permissions and times last
}

func unpack(ctx context.Context, p *proven, dir string) (Extra, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Extra{}, err
	}
	defer root.Close()
	dec, err := zstd.NewReader(p, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return Extra{}, fmt.Errorf("unpack %s: %w", p.want.Name, err)
	}
	defer dec.Close()
	u := &unpacking{root: root}
	for in := tar.NewReader(io.LimitReader(dec, p.want.RawBytes+1)); ; {
		if ctx.Err() != nil {
			return Extra{}, context.Cause(ctx)
		}
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = u.entry(h, in)
		}
		if err != nil {
			return Extra{}, fmt.Errorf("unpack %s: %w", p.want.Name, err)
		}
	}
	if err := p.verify(); err != nil {
		return Extra{}, err
	}
	return u.out, u.end()
}

// entry takes one file, folder or link.
func (u *unpacking) entry(h *tar.Header, in io.Reader) error {
	h.Name = strings.TrimSuffix(h.Name, "/")
	if !fs.ValidPath(h.Name) || h.Name == "." || strings.ContainsRune(h.Name, 0) {
		return fmt.Errorf("%w: path %.200q leads elsewhere", backupset.ErrDamaged, h.Name)
	}
	if err := u.root.MkdirAll(path.Dir(h.Name), 0o700); err != nil {
		return err
	}
	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs = append(u.dirs, tar.Header{Name: h.Name, Mode: h.Mode, ModTime: h.ModTime})
		return u.root.MkdirAll(h.Name, 0o700)
	case tar.TypeSymlink:
		u.links = append(u.links, tar.Header{Name: h.Name, Linkname: h.Linkname})
		return nil
	case tar.TypeReg:
		return u.file(h, in)
	}
	return fmt.Errorf("%w: %.200q is of type %q", backupset.ErrDamaged, h.Name, h.Typeflag)
}

func (u *unpacking) file(h *tar.Header, in io.Reader) error {
	f, err := u.root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY|noFollow, 0o600)
	if err != nil {
		return err
	}
	n, err := io.Copy(f, in)
	if err == nil {
		err = f.Chmod(fs.FileMode(h.Mode) & fs.ModePerm)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	u.out.FileN++
	u.out.Bytes += n
	return u.root.Chtimes(h.Name, time.Time{}, h.ModTime)
}

// end makes the links, and gives the folders what writing into them changed.
func (u *unpacking) end() error {
	for _, l := range u.links {
		if leadsOut(l.Name, l.Linkname) {
			if len(u.out.LeftOut) < maxLeftOut {
				u.out.LeftOut = append(u.out.LeftOut, l.Name+" -> "+l.Linkname)
			}
			continue
		}
		if err := u.root.Symlink(l.Linkname, l.Name); err != nil {
			return err
		}
		u.out.FileN++
	}
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		if err := u.root.Chtimes(d.Name, time.Time{}, d.ModTime); err != nil {
			return err
		}
		if err := u.root.Chmod(d.Name, fs.FileMode(d.Mode)&fs.ModePerm); err != nil {
			return err
		}
	}
	return nil
}

// leadsOut tells whether a link might be followed out of the directory that it
// is unpacked in. What goes up may do so only at the beginning: behind a name,
// which may be a link itself, nobody knows where that leads.
func leadsOut(name, target string) bool {
	if target == "" || path.IsAbs(target) {
		return true
	}
	depth := strings.Count(name, "/")
	named := false
	for _, e := range strings.Split(target, "/") {
		switch e {
		case "..":
			depth--
			if named || depth < 0 {
				return true
			}
		case "", ".":
		default:
			named = true
		}
	}
	return false
}
