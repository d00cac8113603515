package hook

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// maxLinks bounds the symbolic links on the way to a hook, as the kernel does.
const maxLinks = 40

// trusted refuses a hook that somebody else than root and the account uid could
// have written or could replace: it runs with that account's rights. The file,
// its folder and every folder and link above it are looked at, so that nothing
// can change between this and the start. The error names what is at fault.
func trusted(file string, uid uint32) error {
	dir, rest := "/", parts(file)
	for links := 0; len(rest) > 0; {
		if err := trustedFolder(dir, uid, false); err != nil {
			return err
		}
		name := rest[0]
		rest = rest[1:]
		if name == ".." { // not resolved by its text: the folder may be a link
			dir = filepath.Dir(dir)
			continue
		}
		at := filepath.Join(dir, name)
		fi, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("it cannot be run: %w", err)
		}
		if err := trustedOwner(at, fi, uid); err != nil {
			return err
		}
		switch {
		case fi.Mode()&os.ModeSymlink != 0:
			if links++; links > maxLinks {
				return fmt.Errorf("%s: too many symbolic links", at)
			}
			to, err := os.Readlink(at)
			if err != nil {
				return fmt.Errorf("it cannot be run: %w", err)
			}
			if filepath.IsAbs(to) {
				dir = "/"
			}
			rest = append(parts(to), rest...)
		case len(rest) > 0:
			dir = at
		default:
			if err := trustedFolder(dir, uid, true); err != nil {
				return err
			}
			return trustedFile(at, fi)
		}
	}
	return fmt.Errorf("%s is a folder and no program", file)
}

// parts are the names in a path, with ".." kept.
func parts(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(s string) bool { return s == "" || s == "." })
}

func trustedOwner(path string, fi os.FileInfo, uid uint32) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || st.Uid != 0 && st.Uid != uid {
		return fmt.Errorf("%s belongs neither to root nor to the account that runs hooks: give it to root, since what it says is run", path)
	}
	return nil
}

// trustedFolder refuses a folder in which others may create or rename. Above
// the hook's own one, a sticky folder such as /tmp is fine: others cannot
// replace in it what is not theirs.
func trustedFolder(path string, uid uint32, own bool) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("it cannot be run: %w", err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("%s is no folder", path)
	}
	if err := trustedOwner(path, fi, uid); err != nil {
		return err
	}
	if fi.Mode().Perm()&0o022 != 0 && (own || fi.Mode()&os.ModeSticky == 0) {
		return fmt.Errorf("the folder %s can be written by others (%s), who could replace the hook: chmod go-w %s", path, fi.Mode(), path)
	}
	return nil
}

func trustedFile(path string, fi os.FileInfo) error {
	switch {
	case fi.IsDir():
		return fmt.Errorf("%s is a folder and no program", path)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is no regular file", path)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others (%s), and would run what they wrote: chmod go-w %s", path, fi.Mode(), path)
	case fi.Mode().Perm()&0o111 == 0:
		return fmt.Errorf("%s is not executable: chmod +x %s", path, path)
	}
	return nil
}
