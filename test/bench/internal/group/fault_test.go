package group_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/test/bench/internal/group"
	"understudy/test/pgtest"
)

// stateOf is the state letter of a process, "" when it is gone.
func stateOf(pid int) string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return rest[:1]
}

// worker starts a shell with a child in the node's data directory, and names it
// in the file.
func worker(t *testing.T, dir, node string, pidFile ...string) *exec.Cmd {
	t.Helper()
	data := filepath.Join(dir, node, "pgdata")
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "sleep 60 & echo; wait", "sh", filepath.Join(dir, node, "understudy.yaml"))
	cmd.Dir = data
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	if _, err := out.Read(make([]byte, 1)); err != nil { // the child is there
		t.Fatal(err)
	}
	name := filepath.Join(append([]string{dir, node}, pidFile...)...)
	if err := os.WriteFile(name, fmt.Appendf(nil, "%d\n", cmd.Process.Pid), 0o644); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// All processes of one kind stop and go on, and nobody else.
func TestGroup_SendAndContinue(t *testing.T) {
	g := &group.Group{Dir: t.TempDir()}
	daemon := worker(t, g.Dir, "main", "daemon.pid")
	server := worker(t, g.Dir, "main", "pgdata", "postmaster.pid")
	for _, c := range []struct {
		kind         string
		own, foreign int
		processes    int
	}{{group.PostgreSQL, server.Process.Pid, daemon.Process.Pid, 2}, {group.Daemon, daemon.Process.Pid, server.Process.Pid, 1}} {
		p := group.Process{Node: "main", Kind: c.kind}
		pids, err := g.Send(p, syscall.SIGSTOP)
		if err != nil || len(pids) != c.processes || pids[0] != c.own {
			t.Fatalf("%s: sent to %v, %v", p, pids, err)
		}
		for _, pid := range pids {
			pgtest.Eventually(t, 5*time.Second, "the process is stopped", func() bool { return stateOf(pid) == "T" })
		}
		if s := stateOf(c.foreign); s == "T" {
			t.Errorf("%s: another process is in state %s", p, s)
		}
		g.Continue(p, pids)
		for _, pid := range pids {
			pgtest.Eventually(t, 5*time.Second, "the process goes on", func() bool { return stateOf(pid) == "S" })
		}
	}
}

func TestGroup_SendToNobody(t *testing.T) {
	g := &group.Group{Dir: t.TempDir()}
	worker(t, g.Dir, "main", "pgdata", "postmaster.pid") // has no guard
	for _, p := range []group.Process{{"main", group.Daemon}, {"main", group.Guard}, {"backup", group.PostgreSQL}, {"witness", group.Daemon}, {"main", "nothing"}} {
		if pids, err := g.Send(p, syscall.SIGKILL); !errors.Is(err, group.ErrNotRunning) {
			t.Errorf("%s: sent to %v, %v", p, pids, err)
		}
	}
}

func TestProcesses_AllOfAGroup(t *testing.T) {
	if got := fmt.Sprint(group.Processes()); got != "[main's daemon main's guard main's PostgreSQL backup's daemon backup's guard backup's PostgreSQL witness's daemon]" {
		t.Errorf("got %s", got)
	}
}
