package pgctl

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// replace writes a file under a temporary name, fsyncs it, renames it into
// place and fsyncs the directory. As root, the file goes to uid and gid.
func (s *Server) replace(path string, data string, mode os.FileMode, uid, gid int) error {
	if err := s.put(path, data, mode, uid, gid, (*os.File).Sync); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// put writes a file under a temporary name, calls sync on it and renames it
// into place.
func (s *Server) put(path, data string, mode os.FileMode, uid, gid int, sync func(*os.File) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".understudy-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	if s.Switch {
		if err := f.Chown(uid, gid); err != nil {
			f.Close()
			return err
		}
	}
	_, werr := f.WriteString(data)
	if err := errors.Join(werr, f.Chmod(mode), sync(f), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// managed writes a file that is ours and that the database account may read.
func (s *Server) managed(path, data string) error {
	if b, err := os.ReadFile(path); err == nil && string(b) == data {
		return nil // was made durable when it was written
	}
	return s.replace(path, data, 0o640, os.Geteuid(), int(s.GID))
}

// passing is managed without waiting for the disk, for a running server that is
// told to read the file at once. A loss of power may leave the file torn, which
// harms nobody: Configure writes every managed file again before a start.
func (s *Server) passing(path, data string) error {
	if b, err := os.ReadFile(path); err == nil && string(b) == data {
		return nil
	}
	return s.put(path, data, 0o640, os.Geteuid(), int(s.GID), func(*os.File) error { return nil })
}

// owned writes a file of the data directory.
func (s *Server) owned(name, data string) error {
	return s.replace(filepath.Join(s.DataDir, name), data, 0o600, int(s.UID), int(s.GID))
}

func (s *Server) writeState(name, data string) error {
	if err := os.MkdirAll(s.StateDir, 0o755); err != nil {
		return fmt.Errorf("make state directory: %w", err)
	}
	return s.managed(filepath.Join(s.StateDir, name), data)
}

func (s *Server) removeState(name string) error {
	return remove(filepath.Join(s.StateDir, name))
}

// remove deletes a file durably; one that is not there is fine.
func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("open directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}

// makeDir makes a directory of the database account.
func (s *Server) makeDir(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	if s.Switch {
		if err := os.Chown(dir, int(s.UID), int(s.GID)); err != nil {
			return fmt.Errorf("give directory to %s: %w", s.Name, err)
		}
	}
	if err := os.Chmod(dir, mode); err != nil {
		return fmt.Errorf("set mode of directory: %w", err)
	}
	return nil
}

// reachable checks that the database account may enter dir and all above it,
// so that a directory below root's home is refused by name and not by a
// puzzling message in the server's log.
func (s *Server) reachable(dir string) error {
	for d := dir; ; d = filepath.Dir(d) {
		fi, err := os.Stat(d)
		if err != nil {
			return fmt.Errorf("check access: %w", err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		if ok && !s.mayEnter(st) {
			return fmt.Errorf("%s is closed to the database account %s, which needs %s: choose another directory", d, s.Name, dir)
		}
		if d == "/" || d == "." {
			return nil
		}
	}
}

func (s *Server) mayEnter(st *syscall.Stat_t) bool {
	switch {
	case st.Uid == s.UID:
		return st.Mode&0o100 != 0
	case st.Gid == s.GID:
		return st.Mode&0o010 != 0
	}
	for _, g := range s.Groups {
		if st.Gid == g {
			return st.Mode&0o010 != 0
		}
	}
	return st.Mode&0o001 != 0
}

// quote writes a value as postgresql.conf wants it.
func quote(v string) (string, error) {
	if strings.ContainsAny(v, "\n\r\x00") {
		return "", fmt.Errorf("value %q: line breaks are not possible in a setting", v)
	}
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(v) + "'", nil
}
