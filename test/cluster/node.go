package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/link"
	"understudy/test/netlab"
	"understudy/test/pgtest"
)

// Node is one node of a group. Its daemon is a child process of the test.
type Node struct {
	Name     string
	Dir      string
	Port     int // of PostgreSQL; unused on a witness
	HTTPPort int
	LinkPort int // between the nodes

	group *Group
	host  *netlab.Host // nil on loopback
	disks bool         // see WithDisks

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended
	frozen bool
	env    []string // of the next daemon
	faults int      // that were asked for
}

// Config is the path of the node file.
func (n *Node) Config() string { return filepath.Join(n.Dir, "understudy.yaml") }

// DataDir is the data directory of PostgreSQL.
func (n *Node) DataDir() string { return filepath.Join(n.Dir, n.dataDir()) }

// dataDir is it as the node file names it.
func (n *Node) dataDir() string {
	if n.disks {
		return "data/pgdata" // below the mount point, which cannot be renamed
	}
	return "pgdata"
}

// IP is the address of all that the node listens on.
func (n *Node) IP() string {
	if n.host != nil {
		return n.host.IP
	}
	return "127.0.0.1"
}

// StateDir is the daemon's own durable state.
func (n *Node) StateDir() string { return filepath.Join(n.Dir, "state") }

// RunDir holds the sockets and the permit.
func (n *Node) RunDir() string { return filepath.Join(n.Dir, "run") }

func (n *Node) logFile() string { return filepath.Join(n.Dir, "daemon.log") }

// Log is what the daemons of this node wrote so far.
func (n *Node) Log() string {
	b, _ := os.ReadFile(n.logFile())
	return string(b)
}

// PostgresLog is what the PostgreSQL of this node wrote so far.
func (n *Node) PostgresLog() string {
	b, _ := os.ReadFile(filepath.Join(n.StateDir(), "postgresql", "postgresql.log"))
	return string(b)
}

// make writes the node's files.
func (n *Node) make(t testing.TB, o options) {
	t.Helper()
	if err := os.MkdirAll(n.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if n.disks {
		n.mount(t)
	}
	n.Issue(t, n.Name)
	var y strings.Builder
	kind := "data"
	if n.Name == Witness {
		kind = "witness"
	}
	fmt.Fprintf(&y, "name: %s\ngroup: test\nkind: %s\nstate_dir: state\nrun_dir: run\n", n.Name, kind)
	fmt.Fprintf(&y, "listen: %s:%d\nhttp: %[1]s:%[3]d\npeers:\n", n.IP(), n.LinkPort, n.HTTPPort)
	for _, p := range n.group.Nodes() {
		if p != n {
			fmt.Fprintf(&y, "  - {name: %s, address: \"%s:%d\"}\n", p.Name, p.IP(), p.LinkPort)
		}
	}
	fmt.Fprintf(&y, "tls: {cert: node.crt, key: node.key, ca: ca.crt}\nlog: {level: %s}\n", o.level)
	if kind == "data" {
		fmt.Fprintf(&y, "postgresql:\n  bin_dir: %s\n  data_dir: %s\n  port: %d\n  listen: [%s]\n  hba:\n", pgtest.BinDir(t), n.dataDir(), n.Port, n.IP())
		for _, line := range o.hba {
			fmt.Fprintf(&y, "    - %q\n", line)
		}
		from := "127.0.0.1/32"
		if n.host != nil {
			from = "samenet"
		}
		fmt.Fprintf(&y, "    - host all all %s trust\n  parameters:\n", from)
		for k, v := range o.params {
			fmt.Fprintf(&y, "    %s: %q\n", k, v)
		}
	}
	if err := os.WriteFile(n.Config(), []byte(y.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Issue writes the node's certificate, made by the group's authority for a
// node of the given name.
func (n *Node) Issue(t testing.TB, name string) {
	t.Helper()
	cert, key, err := link.Issue(n.group.caCert, n.group.caKey, name, []string{n.IP()})
	if err != nil {
		t.Fatal(err)
	}
	for f, b := range map[string][]byte{"node.crt": cert, "node.key": key, "ca.crt": n.group.caCert} {
		if err := os.WriteFile(filepath.Join(n.Dir, f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// Edit replaces text in the node file, which must hold it. It matters from the
// daemon's next start on.
func (n *Node) Edit(t testing.TB, old, new string) {
	t.Helper()
	b, err := os.ReadFile(n.Config())
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(b), old) {
		t.Fatalf("%s does not hold %q", n.Config(), old)
	}
	if err := os.WriteFile(n.Config(), []byte(strings.Replace(string(b), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Command prepares the daemon's binary with a subcommand that takes --config.
func (n *Node) Command(args ...string) *exec.Cmd {
	cmd := exec.Command(n.group.binary, append(args, "--config", n.Config())...)
	cmd.Dir = n.Dir
	return cmd
}

// daemon prepares the daemon, on its host in a lab. Other commands talk to it
// over a socket in the file system, and so run anywhere.
func (n *Node) daemon() *exec.Cmd {
	cmd := n.Command("run")
	if n.host == nil {
		return cmd
	}
	in := n.host.Command(context.Background(), cmd.Path, cmd.Args[1:]...)
	in.Dir = cmd.Dir
	return in
}

// Start starts the daemon; it does not wait until it answers.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	if n.Running() {
		t.Fatalf("the daemon of %s runs already", n.Name)
	}
	log, err := os.OpenFile(n.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := n.daemon()
	n.mu.Lock()
	cmd.Env = append(os.Environ(), n.env...)
	n.mu.Unlock()
	cmd.Stdout, cmd.Stderr = log, log
	// A session of its own, and an end in the regular way when the test dies.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGINT}
	if err := n.group.spawn.start(cmd); err != nil {
		t.Fatalf("start the daemon of %s: %v", n.Name, err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	n.mu.Lock()
	n.cmd, n.exited, n.frozen = cmd, exited, false
	n.mu.Unlock()
}

func (n *Node) process() (*exec.Cmd, chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cmd, n.exited
}

// Running tells whether the daemon's process lives.
func (n *Node) Running() bool {
	cmd, exited := n.process()
	if cmd == nil {
		return false
	}
	select {
	case <-exited:
		return false
	default:
		return true
	}
}

// PID is the daemon's process id, 0 when it does not run.
func (n *Node) PID() int {
	if !n.Running() {
		return 0
	}
	cmd, _ := n.process()
	return cmd.Process.Pid
}

// ExitCode is that of the daemon's latest run, -1 while it runs or when a
// signal ended it.
func (n *Node) ExitCode() int {
	cmd, _ := n.process()
	if cmd == nil || n.Running() {
		return -1
	}
	return cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the daemon.
func (n *Node) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if !n.Running() {
		t.Fatalf("the daemon of %s does not run", n.Name)
	}
	cmd, _ := n.process()
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatalf("signal the daemon of %s: %v", n.Name, err)
	}
}

func (n *Node) signalAndWait(t testing.TB, sig syscall.Signal) {
	t.Helper()
	n.Signal(t, sig)
	n.WaitExit(t, exitWithin)
}

// WaitExit waits until the daemon has ended.
func (n *Node) WaitExit(t testing.TB, d time.Duration) {
	t.Helper()
	if !n.waitExit(d) {
		t.Fatalf("after %s the daemon of %s still runs", d, n.Name)
	}
}

func (n *Node) waitExit(d time.Duration) bool {
	_, exited := n.process()
	if exited == nil {
		return true
	}
	select {
	case <-exited:
		return true
	case <-time.After(d):
		return false
	}
}

// Kill ends the daemon, and nothing else, with SIGKILL.
func (n *Node) Kill(t testing.TB) { t.Helper(); n.signalAndWait(t, syscall.SIGKILL) }

// Term ends the daemon with SIGTERM: it leaves PostgreSQL to the next one.
func (n *Node) Term(t testing.TB) { t.Helper(); n.signalAndWait(t, syscall.SIGTERM) }

// Interrupt ends daemon and PostgreSQL with SIGINT.
func (n *Node) Interrupt(t testing.TB) { t.Helper(); n.signalAndWait(t, syscall.SIGINT) }

// Freeze stops the daemon's process (SIGSTOP) until Thaw.
func (n *Node) Freeze(t testing.TB) {
	t.Helper()
	n.Signal(t, syscall.SIGSTOP)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen = true
}

// Thaw lets a frozen daemon go on.
func (n *Node) Thaw(t testing.TB) {
	t.Helper()
	n.Signal(t, syscall.SIGCONT)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen = false
}

func (n *Node) signalThaw() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.frozen {
		n.cmd.Process.Signal(syscall.SIGCONT)
		n.frozen = false
	}
}

func (n *Node) signalStop() {
	if cmd, _ := n.process(); n.Running() {
		cmd.Process.Signal(syscall.SIGINT)
	}
}

func (n *Node) signalKill() {
	if cmd, _ := n.process(); n.Running() {
		cmd.Process.Kill()
	}
}

// PostgresPID is the postmaster's process id by its pid file, 0 when no such
// process works in the data directory.
func (n *Node) PostgresPID() int {
	b, err := os.ReadFile(filepath.Join(n.DataDir(), "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(b), "\n")
	pid, _ := strconv.Atoi(strings.TrimSpace(first))
	if pid <= 0 || !strings.Contains(readProcess(pid).cmdline, n.DataDir()) {
		return 0
	}
	return pid
}

// GuardPID is the process id of PostgreSQL's guard, 0 when there is none.
func (n *Node) GuardPID() int {
	pid := n.PostgresPID()
	if pid == 0 {
		return 0
	}
	if p := readProcess(readProcess(pid).ppid); p.isGuard(n.group.binary) {
		return p.pid
	}
	return 0
}

// KillPostgres kills the postmaster, and nothing else, with SIGKILL.
func (n *Node) KillPostgres(t testing.TB) {
	t.Helper()
	pid := n.PostgresPID()
	if pid == 0 {
		t.Fatalf("PostgreSQL of %s does not run", n.Name)
	}
	kill(pid)
	Eventually(t, 5*time.Second, "the end of the postmaster of "+n.Name, func() bool { return !alive(pid) })
}

// KillEverything kills the daemon, the guard and every process of PostgreSQL
// with SIGKILL, as a lost machine would.
func (n *Node) KillEverything(t testing.TB) {
	t.Helper()
	var pids []int
	if guard := n.GuardPID(); guard != 0 {
		pids = append([]int{guard}, descendants(guard)...)
	}
	if pid := n.PID(); pid != 0 {
		pids = append([]int{pid}, pids...)
	}
	for _, pid := range pids {
		kill(pid)
	}
	for _, pid := range pids {
		Eventually(t, 5*time.Second, fmt.Sprintf("the end of process %d of %s", pid, n.Name), func() bool { return !alive(pid) })
	}
	n.WaitExit(t, 5*time.Second)
}

// DSN reaches this node's PostgreSQL, whatever its role.
func (n *Node) DSN() string {
	return fmt.Sprintf("postgres://postgres@%s/postgres?sslmode=disable&connect_timeout=2", n.Address())
}

// Connect opens a connection to this node's PostgreSQL.
func (n *Node) Connect(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, n.DSN()) }

// Answers tells whether this node's PostgreSQL lets an ordinary client in and
// answers it.
func (n *Node) Answers() bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c, err := n.Connect(ctx)
	if err != nil {
		return false
	}
	defer c.Close(ctx)
	return c.Ping(ctx) == nil
}

// PortOpen tells whether anybody accepts connections on PostgreSQL's port.
func (n *Node) PortOpen() bool {
	c, err := net.DialTimeout("tcp", n.Address(), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// Exec runs SQL on this node.
func (n *Node) Exec(t testing.TB, sql string) {
	t.Helper()
	if _, err := n.TryQuery(sql); err != nil {
		t.Fatalf("%s: %s: %v", n.Name, sql, err)
	}
}

// Query runs SQL on this node and returns the first column of the first row as
// text, "" for NULL and when there is no row.
func (n *Node) Query(t testing.TB, sql string) string {
	t.Helper()
	s, err := n.TryQuery(sql)
	if err != nil {
		t.Fatalf("%s: %s: %v", n.Name, sql, err)
	}
	return s
}

// TryQuery is Query with an error for the caller. It gives up after 20 s.
func (n *Node) TryQuery(sql string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := n.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	res, err := c.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil || len(res) == 0 || len(res[len(res)-1].Rows) == 0 {
		return "", err
	}
	return string(res[len(res)-1].Rows[0][0]), nil
}
