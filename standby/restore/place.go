package restore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// choosePlaces decides where every out-of-place tablespace goes and checks
// that the place is free or ours. It changes nothing.
func (s *seeding) choosePlaces() ([]Place, error) {
	if len(s.plan.Tablespaces) > maxTablespaces {
		return nil, fmt.Errorf("%w: %d tablespaces", ErrProtocol, len(s.plan.Tablespaces))
	}
	var places []Place
	seen := map[string]uint32{}
	for _, t := range s.plan.Tablespaces {
		if t.OID == 0 || len(t.Location) > maxPathBytes || strings.ContainsRune(t.Location, 0) {
			return nil, fmt.Errorf("%w: tablespace %d at %.200q", ErrProtocol, t.OID, t.Location)
		}
		if t.InPlace {
			if t.Location != spacePrefix(t.OID) {
				return nil, fmt.Errorf("%w: in-place tablespace %d at %.200q", ErrProtocol, t.OID, t.Location)
			}
			continue
		}
		dir, err := s.destination(t)
		if err != nil {
			return nil, err
		}
		if other, dup := seen[dir]; dup {
			return nil, fmt.Errorf("%w: tablespaces %d and %d would both go to %s", ErrTablespace, other, t.OID, dir)
		}
		seen[dir] = t.OID
		if err := s.checkPlace(t, dir); err != nil {
			return nil, err
		}
		places = append(places, Place{OID: t.OID, Dir: dir})
	}
	return places, nil
}

// destination asks the map where a tablespace goes.
func (s *seeding) destination(t tablespace) (string, error) {
	dir := t.Location
	if s.cfg.TablespaceMap != nil {
		var err error
		if dir, err = s.cfg.TablespaceMap(t.OID, t.Location); err != nil {
			return "", fmt.Errorf("%w: tablespace %d at %s: %w", ErrTablespace, t.OID, t.Location, err)
		}
	}
	if !filepath.IsAbs(dir) || strings.ContainsAny(dir, "\x00\n") {
		return "", fmt.Errorf("%w: tablespace %d would go to %.200q, which is not an absolute path", ErrTablespace, t.OID, dir)
	}
	dir = filepath.Clean(dir)
	real, base := realPath(dir), realPath(s.cfg.DataDir)
	if nested(real, base) || nested(base, real) {
		return "", fmt.Errorf("%w: tablespace %d would go to %s, which overlaps the data directory %s; map it elsewhere", ErrTablespace, t.OID, dir, s.cfg.DataDir)
	}
	return dir, nil
}

func nested(p, dir string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// realPath resolves links of the part of p that exists.
func realPath(p string) string {
	if r, err := filepath.EvalSymlinks(p); err == nil {
		return r
	}
	if parent := filepath.Dir(p); parent != p {
		return filepath.Join(realPath(parent), filepath.Base(p))
	}
	return p
}

func (s *seeding) checkPlace(t tablespace, dir string) error {
	fi, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTablespace, err)
	}
	if !fi.IsDir() {
		return fmt.Errorf("%w: tablespace %d would go to %s, which is not a directory", ErrTablespace, t.OID, dir)
	}
	if s.sameHost && t.isDir(fi) {
		return fmt.Errorf("%w: tablespace %d would go to %s, which the sending node on this host uses itself; map it elsewhere or make it an in-place tablespace", ErrTablespace, t.OID, dir)
	}
	names, err := readNames(dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrTablespace, err)
	}
	if m, err := ReadMark(dir); err == nil && m.DataDir != s.cfg.DataDir {
		return fmt.Errorf("%w: tablespace %d would go to %s, where the data directory %s is being seeded", ErrTablespace, t.OID, dir, m.DataDir)
	} else if err == nil {
		return nil
	}
	if len(names) == 0 || s.owns(dir) || len(names) == 1 && names[0] == MarkTemp {
		return nil
	}
	return fmt.Errorf("%w: tablespace %d would go to %s, which is not empty and was not left there by a seed of this data directory", ErrTablespace, t.OID, dir)
}

// isDir tells whether fi, on the sender's host, is the tablespace's directory.
func (t tablespace) isDir(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && t.Inode != 0 && uint64(st.Dev) == t.Device && st.Ino == t.Inode
}

// owns tells whether the mark names dir as ours.
func (s *seeding) owns(dir string) bool {
	for _, p := range s.mark.Tablespaces {
		if p.Dir == dir {
			return true
		}
	}
	return false
}

// markAll makes the directories and marks them: the data directory first, with
// the places in its mark, then the places.
func (s *seeding) markAll(places []Place) error {
	if err := makeDir(s.cfg.DataDir); err != nil {
		return err
	}
	s.mark.SystemID, s.mark.Major, s.mark.Wiping = s.plan.SystemID, s.plan.Major, false
	for _, p := range places {
		if !s.owns(p.Dir) {
			s.mark.Tablespaces = append(s.mark.Tablespaces, p)
		}
	}
	if err := s.mark.Write(s.cfg.DataDir); err != nil {
		return err
	}
	for _, p := range places {
		if err := makeDir(p.Dir); err != nil {
			return fmt.Errorf("%w: %w", ErrTablespace, err)
		}
		m := Mark{SystemID: s.plan.SystemID, DataDir: s.cfg.DataDir}
		if err := m.Write(p.Dir); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes a directory that survives a crash.
func makeDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// hostID names the running operating system; empty when unknown.
func hostID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
