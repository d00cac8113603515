package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// proc is a process as /proc shows it.
type proc struct {
	pid, ppid int
	state     string // "Z" is dead already
	cmdline   string // arguments, separated by spaces
	exe       string
}

// readProcess is the zero proc when there is no such process.
func readProcess(pid int) proc {
	if pid <= 0 {
		return proc{}
	}
	dir := fmt.Sprintf("/proc/%d", pid)
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return proc{}
	}
	// The name in parentheses may hold anything; the fields come after it.
	_, rest, _ := strings.Cut(string(stat)[strings.LastIndexByte(string(stat), ')')+1:], " ")
	f := strings.Fields(rest)
	if len(f) < 2 {
		return proc{}
	}
	p := proc{pid: pid, state: f[0]}
	p.ppid, _ = strconv.Atoi(f[1])
	b, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	p.cmdline = strings.ReplaceAll(strings.TrimRight(string(b), "\x00"), "\x00", " ")
	p.exe, _ = os.Readlink(filepath.Join(dir, "exe"))
	return p
}

func (p proc) isGuard(binary string) bool {
	return p.exe == binary && strings.Contains(p.cmdline, "guard")
}

func listProcesses() []proc {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []proc
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if p := readProcess(pid); p.pid != 0 && p.state != "Z" {
				out = append(out, p)
			}
		}
	}
	return out
}

// descendants are all processes below pid.
func descendants(pid int) []int {
	children := map[int][]int{}
	for _, p := range listProcesses() {
		children[p.ppid] = append(children[p.ppid], p.pid)
	}
	var out []int
	for todo := children[pid]; len(todo) > 0; todo = todo[1:] {
		out = append(out, todo[0])
		todo = append(todo, children[todo[0]]...)
	}
	return out
}

func alive(pid int) bool {
	p := readProcess(pid)
	return p.pid != 0 && p.state != "Z"
}

func kill(pid int) {
	if pid > 1 {
		syscall.Kill(pid, syscall.SIGKILL) // a process that is gone is what we want
	}
}

// Kill ends a process of a group with SIGKILL and waits for its end.
func Kill(t testing.TB, pid int) {
	t.Helper()
	kill(pid)
	Eventually(t, 5*time.Second, fmt.Sprintf("the end of process %d", pid), func() bool { return !alive(pid) })
}
