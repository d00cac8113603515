package cluster

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
)

// Kind is a kind of process of a node.
type Kind string

// The kinds of processes. A witness has a daemon only.
const (
	Daemon       Kind = "daemon"
	Guard        Kind = "guard"
	Postmaster   Kind = "postmaster"
	Backend      Kind = "backend" // of ordinary clients
	Walsender    Kind = "walsender"
	Walreceiver  Kind = "walreceiver"
	Startup      Kind = "startup"
	Checkpointer Kind = "checkpointer"
	Host         Kind = "host" // all of them
)

// titles find processes by what PostgreSQL shows of them. A backend shows the
// address of its client; the daemon's own come over a unix socket.
var titles = map[Kind]*regexp.Regexp{
	Backend:      regexp.MustCompile(`^postgres: (understudy: )?\S+ \S+ \d+\.\d+\.\d+\.\d+\(\d+\)`),
	Walsender:    regexp.MustCompile(`^postgres: (understudy: )?walsender `),
	Walreceiver:  regexp.MustCompile(`^postgres: (understudy: )?walreceiver`),
	Startup:      regexp.MustCompile(`^postgres: (understudy: )?startup`),
	Checkpointer: regexp.MustCompile(`^postgres: (understudy: )?checkpointer`),
}

// Processes are the process ids of a kind that the node has now, in order.
func (n *Node) Processes(k Kind) []int {
	var out []int
	add := func(pids ...int) {
		for _, pid := range pids {
			if pid != 0 {
				out = append(out, pid)
			}
		}
	}
	switch k {
	case Daemon:
		add(n.PID())
	case Guard:
		add(n.GuardPID())
	case Postmaster:
		add(n.PostgresPID())
	case Host:
		add(n.everything()...)
	default:
		for _, pid := range below(n.PostgresPID()) {
			if t := titles[k]; t != nil && t.MatchString(strings.TrimSpace(readProcess(pid).cmdline)) {
				add(pid)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// everything is what works in the node's directory or names it on its command
// line, with guards, and without commands that the test runs.
func (n *Node) everything() []int {
	out := []int{n.PID(), n.GuardPID()}
	for _, p := range listProcesses() {
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid))
		if p.ppid != os.Getpid() && (strings.Contains(p.cmdline, n.Dir+"/") || strings.HasPrefix(cwd+"/", n.Dir+"/")) {
			out = append(out, p.pid)
		}
	}
	return out
}

// below are the processes below one that may not be there: what is below no
// process is not ours.
func below(pid int) []int {
	if pid <= 1 {
		return nil
	}
	return descendants(pid)
}
