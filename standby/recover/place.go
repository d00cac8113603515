package recover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"understudy/shipper/backupset"
	"understudy/standby/restore"
)

// found is what a destination is before a restore.
type found struct {
	state  restore.State
	places []restore.Place // tablespaces that are the directory's own
}

// destination refuses a directory that the mode must not use. Of one that runs
// nothing more is asked: it will be stopped first.
func (p Plan) destination(m Mode, runs bool) (found, error) {
	state, err := restore.Inspect(p.DataDir)
	if err != nil {
		return found{}, err
	}
	at := found{state: state}
	switch {
	case state == restore.Empty:
		return at, nil
	case state == restore.Foreign:
		return at, fmt.Errorf("%w: %s holds files that are no database and that no restore left there", ErrOccupied, p.DataDir)
	case m != Delta && state == restore.Partial:
		return at, fmt.Errorf("%w: an interrupted restore or seed lies in %s; go on with it, or restore over it in mode delta", ErrOccupied, p.DataDir)
	case m != Delta:
		return at, fmt.Errorf("%w: %s holds a database; restore over it in mode delta, or to another directory", ErrOccupied, p.DataDir)
	}
	if err := notRunning(p.DataDir); err != nil && !runs {
		return at, err
	}
	if state == restore.Partial {
		m, err := restore.ReadMark(p.DataDir)
		at.places = m.Tablespaces
		return at, err
	}
	if id, err := restore.SystemID(p.DataDir); err != nil || id != p.SystemID {
		return at, fmt.Errorf("%w: %s holds the database with system identifier %d, the set is of %d; empty the directory first if that one may go", ErrOccupied, p.DataDir, id, p.SystemID)
	}
	at.places, err = restore.LinkedTablespaces(p.DataDir)
	return at, err
}

// notRunning refuses a directory in which a server runs.
func notRunning(dataDir string) error {
	pid, err := restore.Postmaster(dataDir)
	if err == nil && pid != 0 {
		err = fmt.Errorf("%w: %w: %s (process %d); stop it first", ErrOccupied, restore.ErrRunning, dataDir, pid)
	}
	return err
}

// placeSpaces decides where every tablespace goes and refuses places that are
// not free; owned are those of the directory that is restored over.
func placeSpaces(dataDir string, set backupset.Set, mapped map[uint32]string, owned []restore.Place) ([]Space, error) {
	var spaces []Space
	known := map[uint32]bool{}
	for _, t := range set.Tablespaces {
		known[t.OID] = true
		if t.InPlace {
			if mapped[t.OID] != "" {
				return nil, refused("tablespace %d lies within the data directory and cannot be mapped to %s", t.OID, mapped[t.OID])
			}
			spaces = append(spaces, Space{OID: t.OID, InPlace: true})
			continue
		}
		dir := t.Location
		if to, ok := mapped[t.OID]; ok {
			dir = to
		}
		if !filepath.IsAbs(dir) || strings.ContainsAny(dir, "\x00\n\r") || filepath.Clean(dir) == "/" {
			return nil, refused("tablespace %d would go to %.200q, which is not an absolute path below /; map it elsewhere", t.OID, dir)
		}
		dir = filepath.Clean(dir)
		if err := apart(dataDir, dir, t.OID, spaces); err != nil {
			return nil, err
		}
		if err := free(dataDir, dir, t.OID, owned); err != nil {
			return nil, err
		}
		spaces = append(spaces, Space{OID: t.OID, Dir: dir})
	}
	for oid := range mapped {
		if !known[oid] {
			return nil, refused("the set has no tablespace %d to map", oid)
		}
	}
	return spaces, nil
}

// apart refuses places that lie within one another.
func apart(dataDir, dir string, oid uint32, others []Space) error {
	real := realPath(dir)
	if base := realPath(dataDir); nested(real, base) || nested(base, real) {
		return refused("tablespace %d would go to %s, which overlaps the data directory; map it elsewhere", oid, dir)
	}
	for _, o := range others {
		if o.InPlace {
			continue
		}
		if r := realPath(o.Dir); nested(real, r) || nested(r, real) {
			return refused("tablespaces %d and %d would both go to %s; map one elsewhere", o.OID, oid, dir)
		}
	}
	return nil
}

// free refuses a place that holds what is not ours.
func free(dataDir, dir string, oid uint32, owned []restore.Place) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return refused("tablespace %d: %w", oid, err)
	}
	m, err := restore.ReadMark(dir)
	switch {
	case err == nil && m.DataDir == dataDir:
		return nil
	case err == nil:
		return refused("tablespace %d would go to %s, where the data directory %s is being restored; map it elsewhere", oid, dir, m.DataDir)
	case len(entries) == 0, owns(owned, dir), len(entries) == 1 && entries[0].Name() == restore.MarkTemp:
		return nil
	}
	return refused("tablespace %d would go to %s, which is not empty and not of this database directory; map it elsewhere with an empty directory", oid, dir)
}

func owns(places []restore.Place, dir string) bool {
	for _, p := range places {
		if p.Dir == dir {
			return true
		}
	}
	return false
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
