package rescue

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"understudy/configs"
	"understudy/standby/recover"
	"understudy/standby/restore"
)

// defaultConfig is the node file of a daemon that was told none.
const defaultConfig = "/etc/understudy/understudy.yaml"

// guard refuses a destination that somebody uses: the data directory of a node
// whose daemon runs, or whose PostgreSQL does, and a place of backups.
func (k *Knowledge) guard(dir string) error {
	if err := serverEnded(dir); err != nil {
		return err
	}
	for _, n := range k.nodes() {
		if n.PostgreSQL != nil && overlap(dir, n.PostgreSQL.DataDir) {
			if daemonRuns(n) {
				return refused("%s is the data directory of node %s, whose daemon runs; stop it first (understudy stop --config %s), or restore to another directory with --beside", dir, n.Name, n.File())
			}
			if err := serverGone(n.PostgreSQL.DataDir); err != nil {
				return err
			}
		}
		if overlap(dir, n.StateDir) {
			return refused("%s overlaps %s, where node %s keeps its log and its ledger; name another directory", dir, n.StateDir, n.Name)
		}
	}
	for _, p := range k.Places {
		if p.dir != "" && overlap(dir, p.dir) {
			return refused("%s overlaps %s, which is a location of backups; name another directory", dir, p.dir)
		}
	}
	if k.Drop != "" && overlap(dir, k.Drop) {
		return refused("%s overlaps the drop directory %s; name another directory", dir, k.Drop)
	}
	return nil
}

// spares refuses a recovery that could write into a database of this machine:
// log in which a tablespace was created names its directory, where the original
// has its files by the same numbers, and nothing can lead it elsewhere.
func (p *Plan) spares() error {
	var known []uint32
	for _, s := range p.Steps.Spaces {
		known = append(known, s.OID)
	}
	for _, n := range p.knowledge.nodes() {
		if n.PostgreSQL == nil || overlap(p.DataDir, n.PostgreSQL.DataDir) {
			continue
		}
		newer, err := newerSpaces(n.PostgreSQL.DataDir, p.knowledge.Catalog.SystemID, known)
		if err != nil {
			return refused("look at the tablespaces of node %s: %w", n.Name, err)
		}
		if len(newer) > 0 {
			return refused("set %s is older than tablespace %s of node %s on this machine, and its recovery could write there: restore on another machine, or take a new backup first", p.Set, newer[0], n.Name)
		}
	}
	return nil
}

// newerSpaces are the tablespaces, by where they are, that a data directory of
// the same database has outside and a set does not know.
func newerSpaces(dataDir string, systemID uint64, known []uint32) ([]string, error) {
	id, err := restore.SystemID(dataDir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && id != systemID {
		return nil, nil // no database, or another one
	}
	if err != nil {
		return nil, err
	}
	places, err := restore.LinkedTablespaces(dataDir)
	var out []string
	for _, p := range places {
		if !slices.Contains(known, p.OID) {
			out = append(out, p.Dir)
		}
	}
	return out, err
}

// nodes are the node files of this machine that are known: the one that was
// named, and those of the daemons that run.
func (k *Knowledge) nodes() []*configs.Node {
	var out []*configs.Node
	if k.node != nil {
		out = append(out, k.node)
	}
	for _, path := range runningConfigs() {
		if n, err := configs.Load(path); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// runningConfigs are the node files of the daemons that run on this machine, as
// far as this account can see.
func runningConfigs() []string {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, line := range lines {
		b, err := os.ReadFile(line)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if len(args) < 2 || args[1] != "run" {
			continue
		}
		path := defaultConfig // of another program: then it is no node file, or one that is looked at anyway
		for i, a := range args {
			if v, ok := strings.CutPrefix(a, "--config="); ok {
				path = v
			} else if a == "--config" && i+1 < len(args) {
				path = args[i+1]
			}
		}
		if !filepath.IsAbs(path) {
			cwd, err := os.Readlink(filepath.Join(filepath.Dir(line), "cwd"))
			if err != nil {
				continue
			}
			path = filepath.Join(cwd, path)
		}
		out = append(out, path)
	}
	return out
}

// daemonRuns looks at the lock that a daemon holds for as long as it lives.
func daemonRuns(n *configs.Node) bool {
	f, err := os.Open(filepath.Join(n.RunDir, "daemon.pid"))
	if err != nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// endPatience is how long the server of a restore that was killed may take to
// end: the kernel tells it to at once, and it may be in the midst of a write.
const endPatience = 30 * time.Second

// serverEnded is serverGone; it waits for the server of an interrupted restore.
func serverEnded(dir string) error {
	for deadline := time.Now().Add(endPatience); ; time.Sleep(100 * time.Millisecond) {
		err := serverGone(dir)
		if err == nil {
			return nil
		}
		if _, ours := recover.Inspect(dir); ours != nil || time.Now().After(deadline) {
			return err
		}
	}
}

// serverGone refuses a directory whose postmaster.pid names a living process.
func serverGone(dir string) error {
	pid, err := restore.Postmaster(dir)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return nil
	case err != nil:
		return refused("%w", err)
	case pid != 0:
		return refused("a PostgreSQL runs on %s (process %d); stop it first, or restore to another directory with --beside", dir, pid)
	}
	return nil
}

// overlap tells whether one of two directories is or lies in the other.
func overlap(a, b string) bool {
	a, b = realPath(a), realPath(b)
	return a == b || strings.HasPrefix(a, strings.TrimSuffix(b, "/")+"/") || strings.HasPrefix(b, strings.TrimSuffix(a, "/")+"/")
}

// realPath resolves links of the part of p that exists.
func realPath(p string) string {
	if r, err := filepath.EvalSymlinks(p); err == nil {
		return r
	}
	if parent := filepath.Dir(p); parent != p {
		return filepath.Join(realPath(parent), filepath.Base(p))
	}
	return filepath.Clean(p)
}
