// Package pgtest runs scratch PostgreSQL servers for tests: real binaries, an
// own directory, a private unix socket and a free loopback port, gone when the
// test ends. As root the server runs as user postgres.
package pgtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// BinDir is the directory of the newest PostgreSQL server binaries on this
// machine: UNDERSTUDY_PG_BINDIR when set, else Debian's place, else PATH. The
// test fails when there is none.
func BinDir(t testing.TB) string {
	t.Helper()
	if d := os.Getenv("UNDERSTUDY_PG_BINDIR"); d != "" {
		return d
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	sort.Slice(found, func(i, j int) bool { return majorOf(found[i]) < majorOf(found[j]) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	if p, err := exec.LookPath("postgres"); err == nil {
		return filepath.Dir(p)
	}
	t.Fatal("no PostgreSQL server binaries found: run scripts/install-postgres.sh, or set UNDERSTUDY_PG_BINDIR")
	return ""
}

func majorOf(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// Major is the major version of the binaries in BinDir.
func Major(t testing.TB) int {
	t.Helper()
	out, err := exec.Command(filepath.Join(BinDir(t), "postgres"), "--version").Output()
	if err != nil {
		t.Fatalf("postgres --version: %v", err)
	}
	_, v, _ := strings.Cut(string(out), "(PostgreSQL) ")
	n, err := strconv.Atoi(v[:len(v)-len(strings.TrimLeft(v, "0123456789"))])
	if err != nil {
		t.Fatalf("postgres --version printed %q", out)
	}
	return n
}

// Credential is the account that database processes of tests run as: user
// postgres when the test runs as root, nil otherwise.
func Credential(t testing.TB) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		t.Fatalf("tests run as root need the user postgres: %v", err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// Dir makes a short-named scratch directory that the database account owns
// and everybody may enter; it is removed when the test ends. (t.TempDir of
// root is closed to user postgres, and its names overrun a socket address.)
func Dir(t testing.TB) string {
	t.Helper()
	d, err := os.MkdirTemp("", "us")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	if err := os.Chmod(d, 0o755); err != nil {
		t.Fatal(err)
	}
	Own(t, d)
	return d
}

// Own gives path to the database account.
func Own(t testing.TB, path string) {
	t.Helper()
	if c := Credential(t); c != nil {
		if err := os.Chown(path, int(c.Uid), int(c.Gid)); err != nil {
			t.Fatal(err)
		}
	}
}

// FreePort returns a loopback TCP port that nobody listens on.
func FreePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Cluster is one scratch server.
type Cluster struct {
	Bin    string // directory of the binaries
	Data   string // data directory
	Socket string // directory of the unix socket
	Port   int
	log    string
	cmd    *exec.Cmd
	exited chan struct{}
}

// New runs initdb (superuser postgres, trust) and starts the server with the
// settings given as "name=value". InitArgs start with "--".
func New(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	c := Init(t, settings...)
	c.Start(t)
	return c
}

// Init is New without the start. Settings that begin with "--" go to initdb.
// Pages have checksums only where a test asks for them, whatever the version's
// default.
func Init(t testing.TB, settings ...string) *Cluster {
	t.Helper()
	d := Dir(t)
	c := &Cluster{Bin: BinDir(t), Data: filepath.Join(d, "data"), Socket: d, Port: FreePort(t), log: filepath.Join(d, "log")}
	args := []string{"-D", c.Data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"}
	var conf strings.Builder
	for _, s := range settings {
		if strings.HasPrefix(s, "--") {
			args = append(args, s)
			continue
		}
		k, v, _ := strings.Cut(s, "=")
		fmt.Fprintf(&conf, "%s = '%s'\n", k, strings.ReplaceAll(v, "'", "''"))
	}
	if Major(t) >= 18 && !slices.Contains(args, "--data-checksums") {
		args = append(args, "--no-data-checksums")
	}
	c.Tool(t, "initdb", args...)
	c.AppendConf(t, conf.String())
	return c
}

// AppendConf appends text to postgresql.conf.
func (c *Cluster) AppendConf(t testing.TB, text string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(c.Data, "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("\n" + text + "\n"); err != nil {
		t.Fatal(err)
	}
}

// Command prepares one of PostgreSQL's tools, run as the database account.
func (c *Cluster) Command(t testing.TB, tool string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(filepath.Join(c.Bin, tool), args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "PGHOST="+c.Socket, "PGPORT="+strconv.Itoa(c.Port), "PGUSER=postgres", "PGDATABASE=postgres")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: Credential(t)}
	return cmd
}

// Tool runs one of PostgreSQL's tools to its end and returns what it printed;
// the test fails when the tool does.
func (c *Cluster) Tool(t testing.TB, tool string, args ...string) string {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := c.Command(t, tool, args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", tool, strings.Join(args, " "), err, out.String(), errOut.String())
	}
	return out.String()
}

// Start starts the server and waits until it answers; extra arguments go to
// the postmaster.
func (c *Cluster) Start(t testing.TB, args ...string) {
	t.Helper()
	c.Launch(t, args...)
	deadline := time.Now().Add(30 * time.Second)
	for {
		conn, err := c.Connect(context.Background())
		if err == nil {
			conn.Close(context.Background())
			return
		}
		select {
		case <-c.exited:
			t.Fatalf("server ended during start\n%s", c.Log())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("server does not answer: %v\n%s", err, c.Log())
		}
	}
}

// Launch starts the postmaster without waiting for it to answer.
func (c *Cluster) Launch(t testing.TB, args ...string) {
	t.Helper()
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.cmd = c.Command(t, "postgres", append([]string{"-D", c.Data, "-p", strconv.Itoa(c.Port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + c.Socket}, args...)...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr.Setsid = true
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	c.exited = exited
	cmd := c.cmd
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() { c.Stop(syscall.SIGQUIT) })
}

// Stop sends sig to the postmaster (SIGINT fast, SIGQUIT immediate, SIGTERM
// smart) and waits for its end; nothing happens when it does not run.
func (c *Cluster) Stop(sig syscall.Signal) {
	if c.cmd == nil {
		return
	}
	c.cmd.Process.Signal(sig)
	select {
	case <-c.exited:
	case <-time.After(30 * time.Second):
		c.cmd.Process.Kill()
		<-c.exited
	}
	c.cmd = nil
}

// Crash kills the postmaster and all its processes at once, and waits until
// they are gone: each is a session of its own, and one that lives on keeps the
// shared memory that a new server wants.
func (c *Cluster) Crash() {
	pid := c.cmd.Process.Pid
	syscall.Kill(pid, syscall.SIGSTOP) // no new child while we look
	children := childrenOf(pid)
	syscall.Kill(pid, syscall.SIGKILL)
	for _, p := range children {
		syscall.Kill(p, syscall.SIGKILL)
	}
	<-c.exited
	for _, p := range children {
		for i := 0; i < 1000 && lives(p); i++ {
			time.Sleep(5 * time.Millisecond)
		}
	}
	c.cmd = nil
}

// lives tells whether a process has not ended; a zombie has.
func lives(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

// childrenOf lists the processes whose parent is pid.
func childrenOf(pid int) []int {
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		_, rest, _ := strings.Cut(string(b), ") ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(pid) {
			continue
		}
		if p, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			out = append(out, p)
		}
	}
	return out
}

// PID is the postmaster's process id.
func (c *Cluster) PID() int { return c.cmd.Process.Pid }

// Exited is closed when the postmaster that runs now has ended.
func (c *Cluster) Exited() <-chan struct{} { return c.exited }

// Log is what the server wrote.
func (c *Cluster) Log() string {
	b, _ := os.ReadFile(c.log)
	return string(b)
}

// DSN is a connection string over the unix socket.
func (c *Cluster) DSN() string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", c.Socket, c.Port)
}

// Connect opens a connection over the unix socket.
func (c *Cluster) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, c.DSN())
}

// Exec runs SQL (several statements may be in one string).
func (c *Cluster) Exec(t testing.TB, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := c.Connect(ctx)
	if err != nil {
		t.Fatalf("connect: %v\n%s", err, c.Log())
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Query returns the first column of the first row as text.
func (c *Cluster) Query(t testing.TB, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := c.Connect(ctx)
	if err != nil {
		t.Fatalf("connect: %v\n%s", err, c.Log())
	}
	defer conn.Close(ctx)
	res, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil || len(res) == 0 || len(res[len(res)-1].Rows) == 0 {
		t.Fatalf("%s: no row, %v", sql, err)
	}
	return string(res[len(res)-1].Rows[0][0])
}

// Eventually waits until cond is true; it fails the test with what after d.
func Eventually(t testing.TB, d time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(d)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s", d, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
