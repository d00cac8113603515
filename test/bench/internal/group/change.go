package group

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/proc"
)

// commandWithin is how long a command may take before it is killed.
const commandWithin = 5 * time.Minute

// Data are the nodes that have a database.
var Data = [2]string{"main", "backup"}

// Other is the other data node.
func Other(node string) string {
	if node == Data[0] {
		return Data[1]
	}
	return Data[0]
}

// Server is a data node's PostgreSQL.
func (g *Group) Server(node string) pg.Server {
	if node == Data[0] {
		return g.Main()
	}
	return g.Backup()
}

// Change is what a history says of one change of the primaryship.
type Change struct {
	Epoch  pos.Epoch `json:"epoch"`
	Kind   string    `json:"kind"`
	From   string    `json:"from"`
	To     string    `json:"to"`
	Cause  string    `json:"cause"`
	Opened bool      `json:"opened"`
	Failed string    `json:"failed"`
	Phases []Phase   `json:"phases"`
	Proof  *struct {
		Sentence string `json:"sentence"`
	} `json:"proof"`
	Return *Return `json:"return"`
}

// Phase is one step of a change, with the time since the first one. At is the
// clock of the node that said so.
type Phase struct {
	Name  string        `json:"name"`
	Node  string        `json:"node"`
	At    time.Time     `json:"at"`
	After time.Duration `json:"after_ns"`
}

// Return is how the old primary came back, or comes back: At is zero until
// then.
type Return struct {
	Node    string    `json:"node"`
	Method  string    `json:"method"`
	At      time.Time `json:"at"`
	Bytes   uint64    `json:"bytes"`
	Problem string    `json:"problem"`
}

// Returned tells whether the old primary is back.
func (c Change) Returned() bool { return c.Return != nil && !c.Return.At.IsZero() }

// ErrNoChange is returned when a history holds no change that was looked for.
var ErrNoChange = errors.New("the history holds no such change")

// History asks a node for all changes, the newest last.
func (g *Group) History(ctx context.Context, node string) ([]Change, error) {
	out, err := g.Command(ctx, node, "history", "--json")
	if err != nil {
		return nil, err
	}
	return parseHistory(out)
}

func parseHistory(text []byte) ([]Change, error) {
	var h struct {
		Changes []Change `json:"changes"`
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, fmt.Errorf("history: %w", err)
	}
	return h.Changes, nil
}

// ChangeTo is the newest change after the epoch that opened node.
func ChangeTo(changes []Change, node string, after pos.Epoch) (Change, error) {
	for _, c := range slices.Backward(changes) {
		if c.To == node && c.Opened && after.Less(c.Epoch) {
			return c, nil
		}
	}
	return Change{}, fmt.Errorf("%w: to %s, after epoch %s", ErrNoChange, node, after)
}

// Command runs one of the program's commands to its end with the node's file,
// as an operator on that host does, and returns what it printed.
func (g *Group) Command(ctx context.Context, node string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.binary(), append(args, "--config", g.config(node))...)
	cmd.Dir = g.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		said := strings.TrimSpace(out.String() + errOut.String())
		return nil, fmt.Errorf("understudy %s on %s: %w: %s", strings.Join(args, " "), node, err, said[max(0, len(said)-2000):])
	}
	return out.Bytes(), nil
}

// Ready tells whether primary may be lost or left: it is open, all three
// nodes vote and are heard, and the other data node streams and has applied
// everything up to head.
func (s Status) Ready(primary string, head pos.LSN) bool {
	if s.Group.Primary != primary || s.Group.Phase != "opened" || s.Group.Safe.Level != "safe" || len(s.Nodes) != len(Nodes) {
		return false
	}
	for _, n := range s.Nodes {
		if !n.WALVoter || !n.LedgerVoter || n.Presence == "silent" || n.Presence == "never" {
			return false
		}
		if n.Name != primary && n.Link.State != "streaming" || n.Name == Other(primary) && n.Applied < head {
			return false
		}
	}
	return true
}

// Of is the entry of a node, zero when there is none.
func (s Status) Of(node string) Node {
	i := slices.IndexFunc(s.Nodes, func(n Node) bool { return n.Name == node })
	if i < 0 {
		return Node{}
	}
	return s.Nodes[i]
}

// Any is the status of the first node that answers and knows a primary, else
// of the first that answers.
func (g *Group) Any(ctx context.Context) (Status, error) {
	var found []Status
	var errs []error
	for _, n := range Nodes {
		st, err := g.Status(ctx, n)
		switch {
		case err != nil:
			errs = append(errs, err)
		case st.Group.Primary != "":
			return st, nil
		default:
			found = append(found, st)
		}
	}
	if len(found) > 0 {
		return found[0], nil
	}
	return Status{}, errors.Join(errs...)
}

// WaitReady waits until the primary's own daemon says that the group is Ready,
// with everything applied that was flushed when this began to be so, and that
// ok, which may be nil, holds.
func (g *Group) WaitReady(ctx context.Context, primary, what string, ok func(Status) bool) (Status, error) {
	var st Status
	var head pos.LSN
	last := "its daemon did not answer"
	err := pg.Until(ctx, healthyWithin, "the group is healthy with "+primary+" as its primary"+what, func() (bool, error) {
		now, err := g.Status(ctx, primary)
		if err != nil {
			return false, nil
		}
		st, last = now, fmt.Sprintf("epoch %s %s, primary %q, ledger leader %q: %s", now.Group.Epoch, now.Group.Phase, now.Group.Primary, now.Group.LedgerLeader, now.Group.Safe.Sentence)
		if head == 0 {
			if st.Ready(primary, 0) {
				head = st.Of(primary).Durable
			}
			return false, nil
		}
		return st.Ready(primary, head) && (ok == nil || ok(st)), nil
	})
	if err != nil {
		err = fmt.Errorf("%w; the last word: %s", err, last)
	}
	return st, err
}

// KillEverything sends SIGKILL to the daemon, the guard and every process of
// the PostgreSQL of a data node, as if its machine were lost. It does not wait
// until they are gone; see WaitGone.
func (g *Group) KillEverything(node string) error {
	roots := []int{g.PID(node), g.guardPID(node)}
	if server := g.ServerPID(node); server != 0 && worksIn(server, g.dataDir(node)) {
		roots = append(roots, server)
	}
	roots = slices.DeleteFunc(roots, func(pid int) bool { return pid <= 1 })
	tree, err := proc.Tree(roots...)
	if err != nil {
		return err
	}
	if len(tree) == 0 {
		return fmt.Errorf("nothing of %s runs", node)
	}
	// The daemon and the guard before the server, so that neither sees it end.
	for _, pid := range append(roots, slices.Sorted(maps.Keys(tree))...) {
		syscall.Kill(pid, syscall.SIGKILL) // one that is gone is what is wanted
	}
	return nil
}

// WaitGone waits until no process of a node that was killed is left, and kills
// a child of PostgreSQL that was just being started then.
func (g *Group) WaitGone(ctx context.Context, node string) error {
	return pg.Until(ctx, 10*time.Second, "all processes of "+node+" are gone", func() (bool, error) {
		left := processesIn(g.dataDir(node))
		for _, pid := range left {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(left) == 0 && g.PID(node) == 0, nil
	})
}

func (g *Group) dataDir(node string) string { return filepath.Join(g.Dir, node, "pgdata") }

// isGuard tells whether the parent of a postmaster is this group's guard.
func (g *Group) isGuard(postmaster proc.Usage) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", postmaster.PPID))
	return err == nil && exe == g.binary()
}

// worksIn tells whether a process lives and dir is its working directory.
func worksIn(pid int, dir string) bool {
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)) // fails for one that has ended
	return err == nil && cwd == dir
}

// processesIn are the processes whose working directory is dir.
func processesIn(dir string) []int {
	var out []int
	found, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range found {
		if cwd, err := os.Readlink(link); err == nil && cwd == dir {
			var pid int
			if _, err := fmt.Sscanf(link, "/proc/%d/cwd", &pid); err == nil {
				out = append(out, pid)
			}
		}
	}
	return out
}
