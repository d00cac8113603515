package rescue

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"understudy/cmd/internal/logserver"
	"understudy/failover/pgctl"
	"understudy/shipper/archive"
)

// runDir is the folder of a running restore beside its destination: sockets,
// log that was fetched ahead, and the recovering server's own log. Its place
// follows from the destination, so that a repeated command finds it.
type runDir struct{ path string }

// maxSocket is the longest path of a unix socket.
const maxSocket = 107

func newRunDir(dataDir string) runDir {
	beside := filepath.Join(filepath.Dir(dataDir), "."+filepath.Base(dataDir)+".restore")
	if len(filepath.Join(beside, "pg", ".s.PGSQL.65535")) <= maxSocket && !strings.ContainsAny(beside, "\",\n") {
		return runDir{beside}
	}
	sum := sha256.Sum256([]byte(dataDir))
	return runDir{filepath.Join(os.TempDir(), "understudy-restore-"+hex.EncodeToString(sum[:6]))}
}

func (d runDir) socket() string    { return filepath.Join(d.path, "get.sock") }
func (d runDir) ahead() string     { return filepath.Join(d.path, "wal") }
func (d runDir) hand() string      { return filepath.Join(d.path, "hand") }
func (d runDir) pgSocket() string  { return filepath.Join(d.path, "pg") }
func (d runDir) serverLog() string { return filepath.Join(d.path, "postgresql.log") }
func (d runDir) lockFile() string  { return filepath.Join(d.path, "lock") }
func (d runDir) program() string   { return filepath.Join(d.path, "understudy") }

// restoreCommand is what PostgreSQL runs to fetch a file of its log.
func (d runDir) restoreCommand(binary string) string {
	return archive.RestoreCommand(binary, d.socket(), d.hand())
}

// take makes the folder and locks it: two restores must not work on one
// directory.
func (d runDir) take() (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(d.path, 0o711); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	fi, err := os.Lstat(d.path)
	if err != nil {
		return nil, err
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); !fi.IsDir() || !ok || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return nil, refused("%s is not a folder of this account alone; remove it", d.path)
	}
	f, err := os.OpenFile(d.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(refused("another restore to the same directory runs"), f.Close())
	}
	return f, nil
}

// held tells whether a restore to the directory runs.
func (d runDir) held() bool {
	f, err := os.Open(d.lockFile())
	if err != nil {
		return false
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB) != nil
}

// programFor is this program where the database account can execute it.
func (d runDir) programFor(binary string, a pgctl.Account) (string, error) {
	return logserver.ProgramFor(binary, d.program(), a)
}

// remove removes the folder, but for the lock's holder, who removes that last.
func (d runDir) remove() error { return os.RemoveAll(d.path) }

// reachable says why the database account cannot enter the folder's parents.
func reachable(dir string, a pgctl.Account) error {
	if !a.Switch {
		return nil
	}
	for p := filepath.Dir(dir); ; p = filepath.Dir(p) {
		fi, err := os.Stat(p)
		if errors.Is(err, os.ErrNotExist) {
			continue // it will be made for everybody to enter
		}
		if err != nil {
			return err
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		perm := fi.Mode().Perm()
		if may := perm&0o001 != 0 || ok && st.Uid == a.UID && perm&0o100 != 0 || ok && st.Gid == a.GID && perm&0o010 != 0; !may {
			return refused("account %s, who runs PostgreSQL, cannot enter %s (mode %s); name a directory that it can reach", a.Name, p, strconv.FormatUint(uint64(perm), 8))
		}
		if p == filepath.Dir(p) {
			return nil
		}
	}
}
