// Package backupservers runs the servers that backups are kept on, for tests:
// a real OpenSSH server with its own SFTP, and a real MinIO, on loopback, in
// scratch directories, gone when the test ends. A server that is missing fails
// the test with the command that installs it.
package backupservers

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// install is what a test says when a server is missing.
const install = "run scripts/install-backup-servers.sh"

// startTime bounds the start of a server.
const startTime = 30 * time.Second

// process is one server of a test. It ends with the test program even when
// that is killed.
type process struct {
	cmd    *exec.Cmd
	log    *bytes.Buffer
	exited chan struct{}
}

// launch starts cmd. The kernel ends the process with the thread that started
// it, so that thread is kept for as long.
func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, log: &bytes.Buffer{}, exited: make(chan struct{})}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = p.log, p.log
	// What a killed server leaves behind may hold its output open.
	cmd.WaitDelay = time.Second
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	t.Cleanup(p.kill)
	return p
}

// await waits until ready is nil.
func (p *process) await(t testing.TB, ready func() error) {
	t.Helper()
	deadline := time.Now().Add(startTime)
	for {
		err := ready()
		if err == nil {
			return
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended during its start:\n%s", p.cmd.Path, p.log)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.kill()
			t.Fatalf("%s does not answer: %v\n%s", p.cmd.Path, err, p.log)
		}
	}
}

// kill ends the process and all its descendants at once.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.exited
}

// signal reaches the process and its descendants, the youngest last, so that
// none appears meanwhile.
func (p *process) signal(sig syscall.Signal) {
	select {
	case <-p.exited:
		return
	default:
	}
	all := append([]int{p.cmd.Process.Pid}, descendants(p.cmd.Process.Pid)...)
	for _, pid := range all {
		syscall.Kill(pid, sig)
	}
}

// descendants lists the processes below pid, parents first.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err != nil || len(fields) < 2 {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	var out []int
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		out = append(out, children[next[0]]...)
		next = append(next, children[next[0]]...)
	}
	return out
}

// root is the directory of go.mod above the package that is tested.
func root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above this test")
		}
		dir = up
	}
}

// cached is a path below what the script installs, which may be missing.
func cached(t testing.TB, path string) string {
	t.Helper()
	r, err := root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(r, ".cache", "backup-servers", path)
}

// dialable is nil when somebody listens at addr.
func dialable(addr string) error {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return err
	}
	return c.Close()
}
