// Package cluster runs real groups for tests: the daemon's own binary, real
// PostgreSQL, real sockets on loopback, in one scratch directory.
//
// A Group is a main, a backup and a witness. Everything it starts it ends when
// the test ends, and only that: processes are found through the group's own
// files, never by name. All waits are bounded. Groups of parallel tests do not
// meet: each reserves ports of its own.
package cluster

import (
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/shipper/link"
	"understudy/test/netlab"
	"understudy/test/pgtest"
)

// The names of a group's nodes.
const (
	Main    = "main"
	Backup  = "backup"
	Witness = "witness"
)

var names = [3]string{Main, Backup, Witness}

// How long things may take on a busy machine before the test fails.
const (
	healthyWithin = 60 * time.Second
	exitWithin    = 40 * time.Second
)

// Group is one running group of three nodes.
type Group struct {
	Dir     string
	Main    *Node
	Backup  *Node
	Witness *Node

	binary string
	spawn  *spawner
	caCert []byte
	caKey  []byte
}

type options struct {
	params map[string]string
	hba    []string
	start  bool
	level  string
	binary *program
	lab    *netlab.Lab
	disks  bool
	policy string
}

// Option changes how New makes a group.
type Option func(*options)

// WithParameter sets a parameter of both PostgreSQL servers.
func WithParameter(name, value string) Option {
	return func(o *options) { o.params[name] = value }
}

// WithHBA adds a line to the pg_hba of both PostgreSQL servers, before the one
// that lets everybody in from loopback.
func WithHBA(line string) Option { return func(o *options) { o.hba = append(o.hba, line) } }

// WithPolicy founds the group with what this policy file says, instead of
// "failover: manual": a test that kills daemons means to say itself who takes
// over.
func WithPolicy(yaml string) Option { return func(o *options) { o.policy = yaml } }

// WithoutStart makes the files and founds the group, and starts no daemon.
func WithoutStart() Option { return func(o *options) { o.start = false } }

// WithDebugLog makes the daemons log at level debug.
func WithDebugLog() Option { return func(o *options) { o.level = "debug" } }

// WithFaults runs the group with a binary whose daemons can be interrupted at
// the steps of a change of role, by Node.FaultAt.
func WithFaults() Option { return func(o *options) { o.binary = &faulty } }

// WithLab puts each node on the host of its name: its daemon, guard and
// PostgreSQL use the network of that host only. The lab must have the hosts
// main, backup and witness, and outlive the group.
func WithLab(lab *netlab.Lab) Option { return func(o *options) { o.lab = lab } }

// New makes a group with main as its founder and starts its three daemons. It
// does not wait until the group is healthy. The test's end stops it; when the
// test failed, the ends of all logs are printed. UNDERSTUDY_KEEP=1 keeps the
// directory.
func New(t testing.TB, opts ...Option) *Group {
	t.Helper()
	o := options{start: true, policy: "failover: manual\n", level: "info", binary: &built, params: map[string]string{
		"max_connections": "100", "allow_in_place_tablespaces": "on", "shared_buffers": "32MB",
	}}
	for _, f := range opts {
		f(&o)
	}
	g := &Group{binary: o.binary.path(t), spawn: newSpawner()}
	dir, err := os.MkdirTemp("", "us")
	if err != nil {
		t.Fatal(err)
	}
	g.Dir = dir
	t.Cleanup(func() { g.end(t) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if g.caCert, g.caKey, err = link.NewCA("test-" + filepath.Base(dir)); err != nil {
		t.Fatal(err)
	}
	port := reservePorts(t)
	for i, n := range names {
		node := &Node{Name: n, Dir: filepath.Join(dir, n), Port: port + i, HTTPPort: port + 3 + i, LinkPort: port + 6 + i, group: g, disks: o.disks}
		if o.lab != nil {
			if node.host = o.lab.Host(n); node.host == nil {
				t.Fatalf("the lab has no host %s", n)
			}
		}
		*g.slot(n) = node
	}
	for _, n := range g.Nodes() {
		n.make(t, o)
	}
	policy := filepath.Join(g.Dir, "policy.yaml")
	if err := os.WriteFile(policy, []byte(o.policy), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := g.Main.Command("init", "--policy", policy).CombinedOutput(); err != nil {
		t.Fatalf("found the group: %v\n%s", err, out)
	}
	if o.start {
		g.Start(t)
	}
	return g
}

func (g *Group) slot(name string) **Node {
	switch name {
	case Main:
		return &g.Main
	case Backup:
		return &g.Backup
	default:
		return &g.Witness
	}
}

// Nodes are main, backup and witness.
func (g *Group) Nodes() []*Node { return []*Node{g.Main, g.Backup, g.Witness} }

// Node is the node of that name.
func (g *Group) Node(name string) *Node { return *g.slot(name) }

// Start starts every daemon that does not run.
func (g *Group) Start(t testing.TB) {
	t.Helper()
	for _, n := range g.Nodes() {
		if !n.Running() {
			n.Start(t)
		}
	}
}

// DSN reaches the primary, wherever it is.
func (g *Group) DSN() string {
	return fmt.Sprintf("postgres://postgres@%s,%s/postgres?target_session_attrs=read-write&sslmode=disable&connect_timeout=2",
		g.Main.Address(), g.Backup.Address())
}

// portsPerGroup is how many consecutive ports a group reserves.
const portsPerGroup = 10

// reservePorts finds consecutive free ports below the ephemeral range, so that
// no outgoing connection takes the port of a daemon that is down for a while.
// An abstract socket keeps other test processes off them.
func reservePorts(t testing.TB) int {
	t.Helper()
	const low, high = 12000, 31000
	slots := (high - low) / portsPerGroup
	first := int(time.Now().UnixNano()/1000+int64(os.Getpid())*37) % slots
	for i := range slots {
		base := low + (first+i)%slots*portsPerGroup
		lock, err := net.Listen("unix", "@understudy-test-ports-"+strconv.Itoa(base))
		if err != nil {
			continue
		}
		if !free(base, portsPerGroup) {
			lock.Close()
			continue
		}
		t.Cleanup(func() { lock.Close() })
		return base
	}
	t.Fatal("no free ports for a group")
	return 0
}

func free(base, n int) bool {
	for p := base; p < base+n; p++ {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err != nil {
			return false
		}
		l.Close()
	}
	return true
}

// spawner starts processes from one thread that lives as long as the group:
// the parent-death signal follows the thread, and so the daemons end when the
// test process is killed or panics.
type spawner struct {
	work chan func()
	done chan struct{}
}

func newSpawner() *spawner {
	s := &spawner{work: make(chan func()), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		runtime.LockOSThread() // never unlocked: the thread ends with the group
		for f := range s.work {
			f()
		}
	}()
	return s
}

func (s *spawner) start(cmd *exec.Cmd) error {
	res := make(chan error, 1)
	s.work <- func() { res <- cmd.Start() }
	return <-res
}

func (s *spawner) close() {
	close(s.work)
	<-s.done
}

// end stops the group and removes its directory.
func (g *Group) end(t testing.TB) {
	if g.Witness == nil {
		g.spawn.close()
		g.unmount()
		os.RemoveAll(g.Dir)
		return
	}
	if t.Failed() {
		g.printLogs(t)
	}
	g.stop()
	g.spawn.close()
	for _, n := range g.Nodes() {
		if s := crash(n.Log()); s != "" {
			t.Errorf("the daemon of %s crashed:\n%s", n.Name, s)
		}
	}
	if left := g.sweep(); len(left) > 0 {
		t.Errorf("processes %v of the group had to be killed", left)
	}
	if os.Getenv("UNDERSTUDY_KEEP") != "" {
		t.Logf("the group's directory is kept: %s", g.Dir)
		return
	}
	g.unmount()
	if err := os.RemoveAll(g.Dir); err != nil {
		t.Logf("remove %s: %v", g.Dir, err)
	}
}

// stop ends everything in the regular way: the primary's PostgreSQL first,
// while its peers acknowledge; what does not end in time is killed.
func (g *Group) stop() {
	order := g.Nodes()
	if st, err := g.Status(); err == nil && st.Group.Primary == Backup {
		order = []*Node{g.Backup, g.Main, g.Witness}
	}
	for _, n := range order {
		n.signalThaw()
	}
	for i, n := range order {
		n.signalStop()
		if i == 0 {
			n.waitExit(4 * time.Second) // else it waits for peers that are gone
		}
	}
	for _, n := range order {
		if !n.waitExit(12 * time.Second) {
			n.signalKill()
			n.waitExit(5 * time.Second)
		}
	}
}

// sweep kills servers and guards of this group whose daemon was gone already
// and names what did not end even so.
func (g *Group) sweep() []int {
	deadline := time.Now().Add(15 * time.Second)
	for {
		left := g.processes()
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		for _, pid := range left {
			kill(pid)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// processes are the living processes that name the group's directory on their
// command line or work in it, and guards above them.
func (g *Group) processes() []int {
	found := map[int]bool{}
	for _, p := range listProcesses() {
		cwd, _ := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid))
		if !strings.Contains(p.cmdline, g.Dir+"/") && !strings.HasPrefix(cwd, g.Dir+"/") {
			continue
		}
		found[p.pid] = true
		if parent := readProcess(p.ppid); parent.isGuard(g.binary) {
			found[p.ppid] = true
		}
	}
	delete(found, os.Getpid())
	return slices.Sorted(maps.Keys(found))
}

// printLogs shows the ends of all logs.
func (g *Group) printLogs(t testing.TB) {
	for _, n := range g.Nodes() {
		t.Logf("--- %s: daemon\n%s", n.Name, tail(n.Log(), 60))
		if n.Name != Witness {
			t.Logf("--- %s: postgresql\n%s", n.Name, tail(n.PostgresLog(), 25))
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, n := range g.Nodes() {
		if st, err := n.Status(ctx); err == nil {
			t.Logf("--- %s: %s", n.Name, st)
		}
	}
}

// crash is the part of a daemon's log that begins with a panic or a report of
// the race detector, at most 60 lines; "" when there is none.
func crash(log string) string {
	at := -1
	for _, mark := range []string{"WARNING: DATA RACE", "panic: ", "fatal error: "} {
		// At the start of a line: a log entry may quote such words.
		i := strings.Index("\n"+log, "\n"+mark)
		if i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at < 0 {
		return ""
	}
	lines := strings.SplitN(log[at:], "\n", 61)
	return strings.Join(lines[:min(60, len(lines))], "\n")
}

func tail(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Eventually waits until cond is true; the test fails with what after d.
func Eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	pgtest.Eventually(t, d, what, cond)
}
