package guard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

// serveArg makes Main the guard proper instead of the process that lets go of
// it.
const serveArg = "serve"

// maxLogBytes is the size beyond which guard.log is renamed to guard.log.1
// when a guard starts.
const maxLogBytes = 1 << 20

// Main is the hidden subcommand "guard"; args are what follows that word. It
// reads a Launch from standard input, answers one line on standard output and
// returns the exit code. It must be called from the main goroutine before
// anything else of the program has started.
//
// Without arguments it starts itself again as "guard serve" in a session of
// its own and returns, so that the guard is nobody's child and outlives the
// daemon.
func Main(args []string) int {
	if len(args) == 1 && args[0] == serveArg {
		return serveMain()
	}
	if err := letGo(); err != nil {
		answer(ready{Error: err.Error()})
		return 1
	}
	return 0
}

func letGo() error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find own binary: %w", err)
	}
	cmd := exec.Command(self, "guard", serveArg)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start guard: %w", err)
	}
	return nil
}

func answer(r ready) {
	b, err := json.Marshal(r)
	if err != nil {
		return
	}
	os.Stdout.Write(append(b, '\n')) // nobody there to tell when this fails
}

func serveMain() int {
	runtime.LockOSThread() // the parent-death signal follows the thread that forks
	// The daemon lives with a coarse timer slack; PostgreSQL gets the usual one.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 50_000, 0, 0, 0); err != nil {
		slog.Warn("set the timer slack", "error", err)
	}
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(8 << 20)

	g, err := prepare(os.Stdin)
	if err != nil {
		answer(ready{Error: err.Error(), Taken: errors.Is(err, ErrGuardRuns)})
		return 1
	}
	answer(ready{})
	if err := g.detachOutput(); err != nil {
		g.log.Error("redirect own output", "error", err)
	}
	debug.FreeOSMemory()
	g.run()
	return 0
}

// prepare reads the order, opens log and socket and starts the postmaster.
func prepare(stdin io.Reader) (*process, error) {
	b, err := io.ReadAll(io.LimitReader(stdin, maxLaunch+1))
	if err != nil {
		return nil, fmt.Errorf("read launch order: %w", err)
	}
	if len(b) > maxLaunch {
		return nil, fmt.Errorf("launch order longer than %d bytes", maxLaunch)
	}
	var l Launch
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return nil, fmt.Errorf("decode launch order: %w", err)
	}
	if err := l.validate(); err != nil {
		return nil, err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become reaper of the server's processes: %w", err)
	}
	logFile, err := openLog(filepath.Join(filepath.Dir(l.LogFile), "guard.log"))
	if err != nil {
		return nil, err
	}
	held, err := lock(l.Socket)
	if err != nil {
		return nil, err
	}
	ln, err := listen(l.Socket)
	if err != nil {
		return nil, err
	}
	g := newProcess(l, ln, logFile, held, slog.New(slog.NewTextHandler(logFile, nil)))
	if err := g.launch(); err != nil {
		ln.Close()
		return nil, err
	}
	return g, nil
}

func openLog(path string) (*os.File, error) {
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxLogBytes {
		if err := os.Rename(path, path+".1"); err != nil {
			return nil, fmt.Errorf("rotate guard log: %w", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return nil, fmt.Errorf("open guard log: %w", err)
	}
	return f, nil
}

// lock makes this the one guard of a socket. Asking the socket itself would look
// to the other guard like a new daemon.
func lock(socket string) (*os.File, error) {
	f, err := os.OpenFile(socket+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open guard lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrGuardRuns
		}
		return nil, fmt.Errorf("take guard lock: %w", err)
	}
	return f, nil
}

// listen opens the socket; the lock is held, so one that exists is stale.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale guard socket: %w", err)
	}
	old := syscall.Umask(0o177)
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	syscall.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("listen for the daemon: %w", err)
	}
	return ln, nil
}

// samePeer tells whether the other end runs as this user or root.
func samePeer(c *net.UnixConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	ok := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ok = err == nil && (cred.Uid == 0 || int(cred.Uid) == os.Geteuid())
	})
	return err == nil && ok
}
