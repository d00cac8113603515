package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// State is what a data directory is.
type State int

// The states. Zero is invalid.
const (
	// Empty: missing, or holds nothing but a link pg_wal to an empty directory.
	Empty State = iota + 1
	// Partial: a seed or wipe was interrupted here; it has our mark.
	Partial
	// Foreign: holds files, but neither a cluster nor our mark.
	Foreign
	// Cluster: holds a PostgreSQL cluster without our mark.
	Cluster
)

// String is the state's name.
func (s State) String() string {
	switch s {
	case Empty:
		return "empty"
	case Partial:
		return "partial"
	case Foreign:
		return "foreign"
	case Cluster:
		return "cluster"
	}
	return "invalid"
}

// Inspect tells what dataDir is. It changes nothing.
func Inspect(dataDir string) (State, error) {
	names, err := readNames(dataDir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Empty, nil
	case err != nil:
		return 0, fmt.Errorf("inspect the data directory: %w", err)
	}
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(dataDir, name))
		return err == nil
	}
	onlyTemp := true // a mark that was never renamed into place
	for _, n := range names {
		if n != MarkTemp && !emptyWALLink(dataDir, n) {
			onlyTemp = false
		}
	}
	switch {
	case has(MarkName):
		return Partial, nil
	case onlyTemp:
		return Empty, nil
	case has("PG_VERSION") && has("global"):
		return Cluster, nil
	}
	return Foreign, nil
}

func emptyWALLink(dataDir, name string) bool {
	if name != "pg_wal" {
		return false
	}
	fi, err := os.Lstat(filepath.Join(dataDir, name))
	if err != nil || fi.Mode()&fs.ModeSymlink == 0 {
		return false
	}
	inside, err := readNames(filepath.Join(dataDir, name))
	return err == nil && len(inside) == 0
}

func readNames(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.Readdirnames(-1)
}

// Claim marks a stopped cluster as being seeded, so that a Seed overwrites it
// and is sent only the chunks that differ. On return the mark is durable and
// the cluster is no longer one to start. Partial directories stay as they
// are; anything else is ErrForeignDir. It refuses a cluster whose
// postmaster.pid names a living process.
func Claim(dataDir string) error {
	state, err := Inspect(dataDir)
	if err != nil {
		return err
	}
	switch state {
	case Partial:
		return nil
	case Cluster:
	default:
		return fmt.Errorf("%w: %s is %s, not a cluster to claim", ErrForeignDir, dataDir, state)
	}
	if err := notRunning(dataDir); err != nil {
		return err
	}
	places, err := LinkedTablespaces(dataDir)
	if err != nil {
		return err
	}
	return Mark{Major: majorOf(dataDir), DataDir: dataDir, Tablespaces: places}.Write(dataDir)
}

// ErrRunning is returned when the cluster's postmaster.pid names a living
// process.
var ErrRunning = errors.New("PostgreSQL runs on this data directory")

func notRunning(dataDir string) error {
	pid, err := Postmaster(dataDir)
	if err == nil && pid != 0 {
		err = fmt.Errorf("%w: %s (process %d)", ErrRunning, dataDir, pid)
	}
	return err
}

// Postmaster is the living process that postmaster.pid names; zero when there
// is none.
func Postmaster(dataDir string) (pid int, err error) {
	b, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read postmaster.pid: %w", err)
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, err = strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 0 {
		return 0, nil
	}
	if err := syscall.Kill(pid, 0); err == nil || errors.Is(err, syscall.EPERM) {
		return pid, nil
	}
	return 0, nil
}

// SystemID is the database's identity, the first field of pg_control. The error
// satisfies fs.ErrNotExist when there is no pg_control.
func SystemID(dataDir string) (uint64, error) {
	f, err := os.Open(filepath.Join(dataDir, controlPath))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	b := make([]byte, 8)
	if _, err := f.ReadAt(b, 0); err != nil {
		return 0, fmt.Errorf("read %s: %w", controlPath, err)
	}
	return binary.NativeEndian.Uint64(b), nil
}

// majorOf reads PG_VERSION; zero when it cannot.
func majorOf(dataDir string) int {
	b, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	if err != nil {
		return 0
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return major
}

// LinkedTablespaces are those outside the data directory: the links of
// pg_tblspc. One in place is a folder there, and none of them.
func LinkedTablespaces(dataDir string) ([]Place, error) {
	dir := filepath.Join(dataDir, "pg_tblspc")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read tablespace links: %w", err)
	}
	var places []Place
	for _, e := range entries {
		oid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil || e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read tablespace links: %w", err)
		}
		if !filepath.IsAbs(to) {
			to = filepath.Join(dir, to)
		}
		places = append(places, Place{OID: uint32(oid), Dir: filepath.Clean(to)})
	}
	return places, nil
}

// WipePlan lists what a wipe removes. Links are removed, not followed, except
// a link pg_wal, which stays while the contents of its directory go. Of a
// tablespace's directory only PostgreSQL's own subdirectories go.
type WipePlan struct {
	DataDir string
	Paths   []string // absolute; directories with all they hold
	mark    Mark
}

// PlanWipe lists what Wipe would remove from a directory with our mark, or,
// when cluster is true, from a stopped cluster too. It changes nothing.
func PlanWipe(dataDir string, cluster bool) (WipePlan, error) {
	p := WipePlan{DataDir: dataDir, mark: Mark{DataDir: dataDir}}
	state, err := Inspect(dataDir)
	if err != nil {
		return p, err
	}
	switch {
	case state == Empty:
		return p, nil
	case state == Partial:
		if p.mark, err = ReadMark(dataDir); err != nil {
			return p, err
		}
	case state == Cluster && cluster:
		if err := notRunning(dataDir); err != nil {
			return p, err
		}
		p.mark.Major = majorOf(dataDir)
		if p.mark.Tablespaces, err = LinkedTablespaces(dataDir); err != nil {
			return p, err
		}
	default:
		return p, fmt.Errorf("%w: %s is %s and has no seed mark, so it is not wiped", ErrForeignDir, dataDir, state)
	}
	for _, t := range p.mark.Tablespaces {
		if err := p.addAll(t.Dir, func(n string) bool { return isPlaceEntry(n, p.mark.Major) || isOurs(n) }); err != nil {
			return p, err
		}
	}
	wal := filepath.Join(dataDir, "pg_wal")
	if fi, err := os.Lstat(wal); err == nil && fi.Mode()&fs.ModeSymlink != 0 {
		if err := p.addAll(wal, func(string) bool { return true }); err != nil {
			return p, err
		}
		return p, p.addAll(dataDir, func(n string) bool { return n != MarkName && n != "pg_wal" })
	}
	return p, p.addAll(dataDir, func(n string) bool { return n != MarkName })
}

func (p *WipePlan) addAll(dir string, take func(name string) bool) error {
	names, err := readNames(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("plan a wipe: %w", err)
	}
	for _, n := range names {
		if take(n) {
			p.Paths = append(p.Paths, filepath.Join(dir, n))
		}
	}
	return nil
}

// Execute removes what the plan lists and then the mark; the directory is
// Empty afterwards, durably. The mark comes first, so that an interrupted wipe
// leaves a Partial directory, which can be wiped or seeded.
func (p WipePlan) Execute(ctx context.Context) error {
	if len(p.Paths) == 0 && p.mark.Tablespaces == nil {
		if _, err := os.Lstat(filepath.Join(p.DataDir, MarkName)); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	p.mark.Wiping = true
	if err := p.mark.Write(p.DataDir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(p.DataDir, controlPath)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("wipe %s: %w", p.DataDir, err)
	}
	for _, path := range p.Paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("wipe %s: %w", p.DataDir, err)
		}
	}
	if err := syncDir(p.DataDir); err != nil {
		return fmt.Errorf("wipe %s: %w", p.DataDir, err)
	}
	if err := removeDurably(p.DataDir, MarkName); err != nil {
		return fmt.Errorf("wipe %s: %w", p.DataDir, err)
	}
	return nil
}

// Wipe empties a directory that has our mark, and the tablespaces that its
// mark names; an Empty one stays as it is, anything else is ErrForeignDir.
func Wipe(dataDir string) error { return wipe(dataDir, false) }

// WipeCluster is Wipe for a stopped cluster too.
func WipeCluster(dataDir string) error { return wipe(dataDir, true) }

func wipe(dataDir string, cluster bool) error {
	p, err := PlanWipe(dataDir, cluster)
	if err != nil {
		return err
	}
	return p.Execute(context.Background())
}
