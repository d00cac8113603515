// Package pgbackrest runs pgBackRest beside the library: full backups, restores
// and the log of one server, in a repository on a local directory.
package pgbackrest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"understudy/test/bench/internal/pg"
)

// stanza is pgBackRest's name for the database.
const stanza = "bench"

// label is the name of a full backup.
var label = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}F$`)

// Find is the installed pgBackRest.
func Find() (string, error) {
	p, err := exec.LookPath("pgbackrest")
	if err != nil {
		return "", errors.New("no pgbackrest on PATH: run scripts/install-pgbackrest.sh")
	}
	return p, nil
}

// Tool is pgBackRest with a configuration of its own.
type Tool struct {
	// Version is what the program calls itself.
	Version string

	path  string
	dir   string
	tools *pg.Tools
}

// New configures pgBackRest for a server; everything it needs lies in dir,
// which is made. Processes is how many it may use.
func New(ctx context.Context, tools *pg.Tools, dir string, c *pg.Cluster, processes int) (*Tool, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	t := &Tool{path: path, dir: dir, tools: tools}
	for _, d := range []string{dir, t.Repo(), t.spool(), filepath.Join(dir, "lock")} {
		if err := tools.MakeDir(d); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(t.config(), []byte(t.text(c, processes)), 0o644); err != nil {
		return nil, err
	}
	version, err := pg.Output(tools.Program(ctx, path, "version"))
	t.Version = strings.TrimSpace(version)
	return t, err
}

// text is the configuration file.
func (t *Tool) text(c *pg.Cluster, processes int) string {
	var b strings.Builder
	b.WriteString("[global]\n")
	for _, kv := range [][2]string{
		{"repo1-path", t.Repo()}, {"repo1-retention-full", "9999999"}, {"spool-path", t.spool()}, {"lock-path", filepath.Join(t.dir, "lock")},
		{"log-level-file", "off"}, {"log-level-console", "warn"}, {"expire-auto", "n"},
		{"compress-type", "zst"}, {"compress-level", "3"}, {"process-max", fmt.Sprint(processes)},
		{"start-fast", "y"}, {"checksum-page", "y"}, {"archive-async", "y"},
	} {
		fmt.Fprintf(&b, "%s=%s\n", kv[0], kv[1])
	}
	fmt.Fprintf(&b, "[%s]\npg1-path=%s\npg1-port=%d\npg1-socket-path=%s\npg1-user=postgres\n", stanza, c.Data(), c.Port, c.SocketDir())
	return b.String()
}

func (t *Tool) config() string { return filepath.Join(t.dir, "pgbackrest.conf") }
func (t *Tool) spool() string  { return filepath.Join(t.dir, "spool") }

// Repo is the directory of the repository.
func (t *Tool) Repo() string { return filepath.Join(t.dir, "repo") }

// Log is the directory of the log in the repository.
func (t *Tool) Log() string { return filepath.Join(t.Repo(), "archive", stanza) }

func (t *Tool) args(args ...string) []string {
	return append([]string{"--config=" + t.config(), "--stanza=" + stanza}, args...)
}

func (t *Tool) run(ctx context.Context, args ...string) error {
	_, err := pg.Output(t.tools.Program(ctx, t.path, t.args(args...)...))
	return err
}

// NewRepo empties the repository and makes it one for the server, which runs.
func (t *Tool) NewRepo(ctx context.Context) error {
	if err := empty(t.Repo()); err != nil {
		return err
	}
	return t.run(ctx, "stanza-create")
}

// Backup takes a full backup. Like ours it does not wait for the log.
func (t *Tool) Backup(ctx context.Context) error {
	return t.run(ctx, "--type=full", "--no-archive-check", "backup")
}

// Set is the directory of the one backup in the repository.
func (t *Tool) Set() (string, error) {
	dir := filepath.Join(t.Repo(), "backup", stanza)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	found := ""
	for _, e := range entries {
		if !label.MatchString(e.Name()) {
			continue
		}
		if found != "" {
			return "", fmt.Errorf("more than one backup in %s", dir)
		}
		found = filepath.Join(dir, e.Name())
	}
	if found == "" {
		return "", fmt.Errorf("no backup in %s", dir)
	}
	return found, nil
}

// Restore restores the newest backup into a directory, which is empty or, for a
// delta, holds an earlier restore.
func (t *Tool) Restore(ctx context.Context, dataDir string, delta bool) error {
	args := []string{"--pg1-path=" + dataDir}
	if delta {
		args = append(args, "--delta")
	}
	return t.run(ctx, append(args, "restore")...)
}

// EmptyLog takes all log out of the repository.
func (t *Tool) EmptyLog() error {
	entries, err := os.ReadDir(t.Log())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := os.RemoveAll(filepath.Join(t.Log(), e.Name())); err != nil {
				return err
			}
		}
	}
	return empty(t.spool())
}

// Push archives all segments that lie ready in the pg_wal of a data directory,
// of which only pg_control is needed besides. It is the process that an
// archive_command leaves behind in the background, without what the commands
// themselves take.
func (t *Tool) Push(ctx context.Context, dataDir string) error {
	return t.run(ctx, "--pg1-path="+dataDir, "archive-push:async", filepath.Join(dataDir, "pg_wal"))
}

// GetCommand is a restore_command for a data directory; what an earlier one
// fetched ahead is forgotten.
func (t *Tool) GetCommand(dataDir string) (string, error) {
	words := append([]string{t.path}, t.args("--pg1-path="+dataDir, "archive-get", "%f", `"%p"`)...)
	return strings.Join(words, " "), empty(t.spool())
}

// Size is the size of all files below dir, in bytes.
func Size(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			n += fi.Size()
		}
		return err
	})
	return n, err
}

// empty removes what is in a directory.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}
