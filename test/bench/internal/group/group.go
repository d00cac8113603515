// Package group runs an Understudy group for measurements: three daemons and
// two PostgreSQL servers on loopback, through the program's own demo command, or
// on hosts of their own; and single processes of it killed, stopped and brought
// back.
package group

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/pg"
)

// Nodes are the playground's nodes in the order of their ports.
var Nodes = [3]string{"main", "backup", "witness"}

// httpOffset is the playground's base port to main's HTTP port.
const httpOffset = 11

const (
	startWithin   = 3 * time.Minute
	healthyWithin = 5 * time.Minute
	stopWithin    = 2 * time.Minute
	replyWithin   = 2 * time.Second
	maxReply      = 1 << 20
)

// Group is one playground.
type Group struct {
	Dir     string
	Port    int
	http    *http.Client
	program string
	hosts   map[string]Host // by node; nil is loopback
}

// Status is the part of a node's status document that measurements look at.
type Status struct {
	Node  string `json:"node"`
	Group struct {
		Epoch        pos.Epoch `json:"epoch"`
		Phase        string    `json:"phase"`
		Primary      string    `json:"primary"`
		LedgerLeader string    `json:"ledger_leader"`
		Safe         struct {
			Level    string `json:"level"`
			Sentence string `json:"sentence"`
		} `json:"safe"`
	} `json:"group"`
	Nodes []Node `json:"nodes"`
}

// Node is one node in a status document.
type Node struct {
	Name     string  `json:"name"`
	Presence string  `json:"presence"`
	Durable  pos.LSN `json:"durable"`
	Applied  pos.LSN `json:"applied"`
	Link     struct {
		State string `json:"state"`
	} `json:"link"`
	WALVoter    bool `json:"wal_voter"`
	LedgerVoter bool `json:"ledger_voter"`
}

// Start makes a playground in dir, which the database account can enter, and
// returns when it is healthy. The tools count only when they ask for another
// size of WAL segments. Stop must be called also after an error.
func Start(ctx context.Context, program, dir string, port int, t *pg.Tools) (*Group, error) {
	g := newGroup(program, dir, port)
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if t.SegMiB != 0 {
		if err := g.make(ctx, t); err != nil {
			return g, err
		}
	}
	return g, g.demo(ctx, "--dir", dir, "--port", strconv.Itoa(port), "--detach", "--no-backups")
}

func newGroup(program, dir string, port int) *Group {
	return &Group{Dir: dir, Port: port, program: program, http: &http.Client{Timeout: replyWithin}}
}

func (g *Group) demo(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, g.program, append([]string{"demo"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopWithin
	out, err := os.CreateTemp("", "understudy-demo-*")
	if err != nil {
		return err
	}
	defer os.Remove(out.Name())
	defer out.Close() // a file, since the daemons would hold a pipe open
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		b, _ := os.ReadFile(out.Name())
		return fmt.Errorf("understudy demo: %w: %s", err, strings.TrimSpace(string(b[max(0, len(b)-2000):])))
	}
	return nil
}

// Stop ends the playground: all daemons and servers in it.
func (g *Group) Stop() error {
	if g == nil {
		return nil
	}
	if _, err := os.Stat(g.config("main")); err != nil {
		return nil // it was never made
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopWithin)
	defer cancel()
	if g.hosts != nil {
		return g.stopOnHosts(ctx)
	}
	return g.demo(ctx, "stop", "--dir", g.Dir)
}

// Main is the PostgreSQL of the first data node, at first the primary's.
func (g *Group) Main() pg.Server { return pg.Server{Host: g.hosts[Data[0]].IP, Port: g.Port + 1} }

// Backup is the PostgreSQL of the second data node.
func (g *Group) Backup() pg.Server { return pg.Server{Host: g.hosts[Data[1]].IP, Port: g.Port + 2} }

func (g *Group) config(node string) string  { return filepath.Join(g.Dir, node, "understudy.yaml") }
func (g *Group) pidFile(node string) string { return filepath.Join(g.Dir, node, "daemon.pid") }

// PID is the process id of a node's daemon, zero when it does not run.
func (g *Group) PID(node string) int {
	pid := readPID(g.pidFile(node))
	if pid == 0 {
		return 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !strings.Contains(string(b), g.config(node)) {
		return 0 // ended; the number may belong to another process now
	}
	return pid
}

// ServerPID is the process id of a data node's postmaster, zero without one.
func (g *Group) ServerPID(node string) int {
	return readPID(filepath.Join(g.Dir, node, "pgdata", "postmaster.pid"))
}

// readPID reads the number in a file's first line.
func readPID(path string) int {
	f, err := os.Open(path)
	if err != nil {
		return 0
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Scan()
	pid, _ := strconv.Atoi(strings.TrimSpace(s.Text()))
	return max(pid, 0)
}

// Signal sends sig to a node's daemon alone and returns at once.
func (g *Group) Signal(node string, sig syscall.Signal) error {
	pid := g.PID(node)
	if pid == 0 {
		return fmt.Errorf("the daemon of %s does not run", node)
	}
	return syscall.Kill(pid, sig)
}

// Kill ends a node's daemon with SIGKILL and returns when it is gone.
func (g *Group) Kill(ctx context.Context, node string) error {
	if err := g.Signal(node, syscall.SIGKILL); err != nil {
		return err
	}
	return pg.Until(ctx, 10*time.Second, "the daemon of "+node+" is gone", func() (bool, error) { return g.PID(node) == 0, nil })
}

// StartDaemon starts a node's daemon, as the demo does, and does not wait until
// it answers.
func (g *Group) StartDaemon(ctx context.Context, node string) error {
	log, err := os.OpenFile(filepath.Join(g.Dir, node, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := g.command(node, g.binary(), "run", "--config", g.config(node))
	cmd.Dir, cmd.Stdout, cmd.Stderr = g.Dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon of %s: %w", node, err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }() // it ends with the playground
	if err := os.WriteFile(g.pidFile(node), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644); err != nil {
		return err
	}
	// A process has no command line for a moment after its start; PID needs it.
	return pg.Until(ctx, 10*time.Second, "the daemon of "+node+" has started", func() (bool, error) {
		select {
		case <-exited:
			return false, fmt.Errorf("the daemon of %s ended during its start; see its log in %s", node, g.Dir)
		default:
			return g.PID(node) != 0, nil
		}
	})
}

// Status asks a node's daemon.
func (g *Group) Status(ctx context.Context, node string) (Status, error) {
	var st Status
	i := 0
	for j, n := range Nodes {
		if n == node {
			i = j
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/api/v1/status", g.ip(node), g.Port+httpOffset+i), nil)
	if err != nil {
		return st, err
	}
	resp, err := g.http.Do(req)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("status of %s: %s", node, resp.Status)
	}
	err = json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxReply)).Decode(&st)
	return st, err
}

// Self is what a node's own daemon says of itself.
func (g *Group) Self(ctx context.Context, node string) (Node, error) {
	st, err := g.Status(ctx, node)
	if err != nil {
		return Node{}, err
	}
	for _, n := range st.Nodes {
		if n.Name == node {
			return n, nil
		}
	}
	return Node{}, fmt.Errorf("the daemon of %s does not know itself yet", node)
}

// Settled tells whether everything of a group that is whole is in place: main
// is the primary, every node votes, streams, and has what main had flushed.
func (s Status) Settled() bool {
	if s.Group.Primary != "main" || s.Group.Safe.Level != "safe" || len(s.Nodes) != len(Nodes) {
		return false
	}
	var head pos.LSN
	for _, n := range s.Nodes {
		if n.Name == "main" {
			head = n.Durable
		}
	}
	for _, n := range s.Nodes {
		if !n.WALVoter || !n.LedgerVoter || n.Presence == "silent" || n.Presence == "never" || n.Durable < head {
			return false
		}
		if n.Name == "backup" && n.Applied < head || n.Name != "main" && n.Link.State != "streaming" {
			return false
		}
	}
	return true
}

// WaitSettled waits until main's daemon says that the group is Settled. It
// gives up at once when another node has become the primary: nothing that is
// measured here may cause that.
func (g *Group) WaitSettled(ctx context.Context) error {
	last := "no daemon answered"
	err := pg.Until(ctx, healthyWithin, "the group is healthy", func() (bool, error) {
		st, err := g.Status(ctx, "main")
		if err != nil {
			return false, nil
		}
		last = st.Group.Safe.Sentence
		if p := st.Group.Primary; p != "" && p != "main" {
			return false, errors.New("there was a failover to " + p)
		}
		return st.Settled(), nil
	})
	if err != nil {
		err = fmt.Errorf("%w; its last word: %s", err, last)
	}
	return err
}
