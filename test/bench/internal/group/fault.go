package group

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"syscall"

	"understudy/test/bench/internal/proc"
)

// The kinds of processes of a node.
const (
	Daemon     = "daemon"
	Guard      = "guard"
	PostgreSQL = "PostgreSQL" // the postmaster and all its children
)

// Process names one kind of process of one node.
type Process struct{ Node, Kind string }

// String is the process as a report names it.
func (p Process) String() string { return p.Node + "'s " + p.Kind }

// Processes are all that a group has, node by node.
func Processes() []Process {
	var out []Process
	for _, n := range Nodes {
		out = append(out, Process{n, Daemon})
		if slices.Contains(Data[:], n) {
			out = append(out, Process{n, Guard}, Process{n, PostgreSQL})
		}
	}
	return out
}

// ErrNotRunning is returned for a process that is not there.
var ErrNotRunning = errors.New("it does not run")

// Send sends sig to a process, in PostgreSQL's case to the postmaster and then
// to all its children, and returns whom it was sent to. It does not wait for
// what becomes of them.
func (g *Group) Send(p Process, sig syscall.Signal) ([]int, error) {
	var pids []int
	switch p.Kind {
	case Daemon:
		pids = []int{g.PID(p.Node)}
	case Guard:
		pids = []int{g.guardPID(p.Node)}
	case PostgreSQL:
		var err error
		if pids, err = g.serverPIDs(p.Node); err != nil {
			return nil, err
		}
	}
	if len(pids) == 0 || pids[0] <= 1 {
		return nil, fmt.Errorf("%s: %w", p, ErrNotRunning)
	}
	for i, pid := range pids {
		if err := syscall.Kill(pid, sig); err != nil && i == 0 { // a child may end at any time
			return nil, fmt.Errorf("%s: %w", p, err)
		}
	}
	return pids, nil
}

// Continue sends SIGCONT to the processes that Send stopped, to those of them
// that live.
func (g *Group) Continue(p Process, pids []int) {
	for _, pid := range pids {
		if p.Kind != PostgreSQL || worksIn(pid, g.dataDir(p.Node)) {
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

// serverPIDs are the processes of a node's PostgreSQL, the postmaster first;
// none when it does not run.
func (g *Group) serverPIDs(node string) ([]int, error) {
	server := g.ServerPID(node)
	if server == 0 || !worksIn(server, g.dataDir(node)) {
		return nil, nil
	}
	tree, err := proc.Tree(server)
	if err != nil {
		return nil, err
	}
	delete(tree, server)
	return append([]int{server}, slices.Sorted(maps.Keys(tree))...), nil
}

// guardPID is the process id of a node's guard, zero without one.
func (g *Group) guardPID(node string) int {
	server := g.ServerPID(node)
	if server == 0 || !worksIn(server, g.dataDir(node)) {
		return 0
	}
	if u, err := proc.Read(server); err == nil && g.isGuard(u) {
		return u.PPID
	}
	return 0
}
