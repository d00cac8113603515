package probe

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// FileName is the file that a probe writes. Base backups leave out every file
// whose name begins with "pgsql_tmp", in any directory; pg_rewind does so below
// the first level, and where it copies or removes this one nothing is lost; a
// server that starts removes only the directory of exactly that name.
const FileName = "pgsql_tmp.understudy-probe"

const fileText = "This disk is probed by writing this file again and again. It may be removed.\n"

const blockSize = 4096

// errNoFile is returned for a probe file that somebody replaced by another
// thing: the daemon may be root and writes in a directory of another account.
var errNoFile = errors.New("the probe file is no plain file of its own: remove it")

// realDisk is the machine's.
type realDisk struct{ uid, gid uint32 }

// list names the data directory and where its log and its tablespaces are, as
// far as they can be seen.
func (realDisk) list(data string) []string {
	out := []string{data}
	links, err := filepath.Glob(filepath.Join(data, "pg_tblspc", "*"))
	if err != nil {
		links = nil // only for a data directory whose name is a bad pattern
	}
	for _, p := range append([]string{filepath.Join(data, "pg_wal")}, links...) {
		if to, err := os.Readlink(p); err == nil {
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(p), to)
			}
			p = to
		} else if _, err := os.Lstat(p); err != nil {
			continue // no cluster there
		}
		out = append(out, p)
	}
	return out
}

func (realDisk) look(dir string) (look, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return look{}, fmt.Errorf("look at %s: %w", dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return look{}, fmt.Errorf("look at %s: %w", dir, err)
	}
	return look{
		dev: st.Dev, free: int64(fs.Bavail) * fs.Bsize, readOnly: fs.Flags&unix.ST_RDONLY != 0,
		inodes: fs.Files == 0 || fs.Ffree > 0, // some filesystems have no fixed number
	}, nil
}

// write overwrites one block and waits until the disk has it. The file is
// opened anew each time: it may have been removed, and a filesystem with a
// file open for writing cannot be remounted. An overwrite needs no new block
// on most filesystems, so it does not tell a full disk; look does.
func (r realDisk) write(path string, create bool) (err error) {
	flags := unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC
	if create {
		flags |= unix.O_CREAT
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EISDIR) {
		return errNoFile
	}
	if err != nil {
		return fmt.Errorf("open the probe file: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("look at the probe file: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink > 1 {
		return errNoFile
	}
	if r.uid != 0 && st.Uid != r.uid {
		if err := f.Chown(int(r.uid), int(r.gid)); err != nil {
			return fmt.Errorf("give the probe file to the database account: %w", err)
		}
	}
	block := make([]byte, blockSize)
	copy(block, fileText)
	if _, err := f.WriteAt(block, 0); err != nil {
		return fmt.Errorf("write the probe file: %w", err)
	}
	if err := unix.Fdatasync(int(f.Fd())); err != nil {
		return fmt.Errorf("sync the probe file: %w", err)
	}
	return nil
}
