// Package pgctl is everything about the PostgreSQL of this host: finding the
// binaries, making and describing a data directory, its configuration, who may
// connect, and the questions the daemon asks a running server. Differences
// between PostgreSQL versions live here and nowhere else.
//
// Starting and stopping is not here: package guard is the server's parent.
package pgctl

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/failover/account"
	"understudy/shipper/pos"
)

// minMajor is the oldest PostgreSQL that understudy works with.
const minMajor = 14

// roleName is the database role of the daemon.
const roleName = "understudy"

// ErrNotInstalled is returned by Find when there are no server binaries.
var ErrNotInstalled = errors.New("PostgreSQL server binaries not found")

// ErrNotEmpty is returned by InitDB for a directory that holds something.
var ErrNotEmpty = errors.New("data directory is not empty")

// ErrWrongMajor is returned when the data directory belongs to another major
// version than the binaries.
var ErrWrongMajor = errors.New("data directory of another major version")

// ErrForeignSetting is returned by SetSyncName when something outside our
// managed file decides synchronous_standby_names.
var ErrForeignSetting = errors.New("setting is decided outside the managed configuration")

// ErrForeignServer is returned by ForeignPostmaster when somebody else runs, or
// will run at boot, a server on our data directory.
var ErrForeignServer = errors.New("data directory is used by a server that understudy did not start")

// ErrPortTaken is returned by ForeignPostmaster when another process listens on
// the port.
var ErrPortTaken = errors.New("port is taken")

// ErrNotReloaded is returned when a running server did not take a changed
// configuration over.
var ErrNotReloaded = errors.New("server did not load its configuration")

// Install is one set of server binaries.
type Install struct {
	BinDir  string
	Major   int
	Version string // as the server prints it: "15.18"
}

// Find looks for server binaries: in hint when it is not empty (setting
// bin_dir), else the newest in the places of the distributions, else on PATH.
func Find(hint string) (Install, error) {
	if hint != "" {
		in, err := inspect(hint)
		if err != nil {
			return Install{}, fmt.Errorf("bin_dir %s: %w", hint, err)
		}
		return in, nil
	}
	all := installed()
	if len(all) == 0 {
		return Install{}, fmt.Errorf("%w: install the package postgresql (%d or newer), for example with scripts/install-postgres.sh, or set bin_dir", ErrNotInstalled, minMajor)
	}
	return all[0], nil
}

// FindMajor looks for server binaries of one major version where Find looks
// without a hint; false when there are none.
func FindMajor(major int) (Install, bool) {
	for _, in := range installed() {
		if in.Major == major {
			return in, true
		}
	}
	return Install{}, false
}

// installed are the server binaries of this host, newest first.
func installed() []Install {
	var dirs []string
	for _, glob := range []string{"/usr/lib/postgresql/*/bin/postgres", "/usr/pgsql-*/bin/postgres"} {
		found, _ := filepath.Glob(glob)
		dirs = append(dirs, found...)
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, p)
	}
	var all []Install
	for _, p := range dirs {
		if in, err := inspect(filepath.Dir(p)); err == nil {
			all = append(all, in)
		}
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].Major > all[j].Major })
	return all
}

func inspect(dir string) (Install, error) {
	p := filepath.Join(dir, "postgres")
	if _, err := os.Stat(p); err != nil {
		return Install{}, fmt.Errorf("%w there", ErrNotInstalled)
	}
	out, err := exec.Command(p, "--version").Output()
	if err != nil {
		return Install{}, fmt.Errorf("run %s --version: %w", p, err)
	}
	in, err := parseVersion(string(out))
	if err != nil {
		return Install{}, err
	}
	in.BinDir = dir
	return in, nil
}

// parseVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0)".
func parseVersion(out string) (Install, error) {
	f := strings.Fields(out)
	if len(f) < 3 || f[1] != "(PostgreSQL)" {
		return Install{}, fmt.Errorf("postgres --version printed %q", strings.TrimSpace(out))
	}
	digits := f[2][:len(f[2])-len(strings.TrimLeft(f[2], "0123456789"))]
	major, err := strconv.Atoi(digits)
	if err != nil {
		return Install{}, fmt.Errorf("postgres --version printed %q", strings.TrimSpace(out))
	}
	if major < minMajor {
		return Install{}, fmt.Errorf("PostgreSQL %s is too old: %d or newer is needed", f[2], minMajor)
	}
	return Install{Major: major, Version: f[2]}, nil
}

// Account is the operating-system user that runs PostgreSQL.
type Account = account.Account

// ResolveAccount finds the database account. For root it is the user name, by
// default postgres, and never root itself; for an ordinary user it is that
// user, and name must be empty or the same.
func ResolveAccount(name string) (Account, error) {
	if os.Geteuid() == 0 && name == "" {
		name = "postgres"
	}
	a, err := account.Resolve(name)
	switch {
	case err != nil:
		return Account{}, fmt.Errorf("database account %q: %w", name, err)
	case a.Name == "":
		return Account{}, fmt.Errorf("find own user: user id %d has no name", a.UID)
	case a.UID == 0:
		return Account{}, errors.New("database account root: PostgreSQL refuses to run as root; name another user")
	}
	return a, nil
}

// Server describes the PostgreSQL of one node. All paths are absolute.
// Methods that change files must not run concurrently.
type Server struct {
	Install
	Account
	DataDir         string
	StateDir        string            // managed configuration and marks; the daemon's
	RunDir          string            // permit file; lost at boot
	SocketDir       string            // unix socket of the daemon's own connections
	ClientSocketDir string            // another socket for ordinary clients; may be empty
	Port            int               // TCP port, also part of the sockets' names
	Listen          []string          // addresses; empty means unix sockets only
	ClientHBA       []string          // pg_hba lines for ordinary clients
	Parameters      map[string]string // operator's settings
	LogFile         string
	Log             *slog.Logger

	spareMu sync.Mutex
	spare   []*pgx.Conn // kept for the next question, guarded by spareMu
}

// Mode is the role that a server is configured for.
type Mode struct {
	Primary         bool
	SyncName        string         // application name of the epoch's receiver; "understudy_none" on standbys
	Async           bool           // commits wait for nobody; SyncName is ignored
	PrimaryConninfo string         // standby
	RestoreCommand  string         // standby
	SlotName        string         // primary_slot_name; may be empty
	MinSettings     map[string]int // what a standby must match, see StandbySettings
	ApplyDelay      time.Duration  // standby: how much later it applies, see SetApplyDelay
}

// NoSyncName is the name that no receiver ever has: a server that waits for it
// acknowledges no synchronous commit.
const NoSyncName = "understudy_none"

// EpochSyncName is the application name of the one receiver that can satisfy
// commits of epoch e.
func EpochSyncName(e pos.Epoch) string {
	return fmt.Sprintf("understudy_%d_%d", e.Gen, e.Num)
}

// command prepares one of PostgreSQL's tools as the database account.
func (s *Server) command(ctx context.Context, tool string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(s.BinDir, tool), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if s.Switch {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: s.UID, Gid: s.GID, Groups: s.Groups}
	}
	return cmd
}

// tool runs one of PostgreSQL's tools and returns what it printed.
func (s *Server) tool(ctx context.Context, tool string, args ...string) (string, error) {
	out, _, err := s.toolSaid(ctx, tool, args...)
	return out, err
}

// toolSaid is tool with the messages of one that did not fail.
func (s *Server) toolSaid(ctx context.Context, tool string, args ...string) (out, messages string, err error) {
	cmd := s.command(ctx, tool, args...)
	var printed, msg strings.Builder
	cmd.Stdout, cmd.Stderr = &printed, &msg
	if err := cmd.Run(); err != nil {
		return "", "", fmt.Errorf("run %s: %w: %s", tool, err, strings.TrimSpace(msg.String()))
	}
	return printed.String(), msg.String(), nil
}
