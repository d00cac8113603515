// Package pg runs scratch PostgreSQL clusters and PostgreSQL's own tools for
// measurements. As root everything of PostgreSQL runs as user postgres.
package pg

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// stopWithin is how long a server may take for a fast shutdown before it is
// killed.
const stopWithin = time.Minute

// Tools are the binaries of one PostgreSQL and the account they run as.
type Tools struct {
	Bin string // directory
	// SegMiB is the size of a new cluster's WAL segments in MiB; zero is
	// PostgreSQL's default.
	SegMiB int
	cred   *syscall.Credential
}

// FindTools takes the binaries in bin or, when that is empty, those of the
// newest major version in Debian's place or PATH.
func FindTools(bin string) (*Tools, error) {
	t := &Tools{Bin: bin}
	if bin == "" {
		found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
		major := func(p string) int {
			n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
			return n
		}
		slices.SortFunc(found, func(a, b string) int { return major(b) - major(a) })
		if len(found) == 0 {
			p, err := exec.LookPath("postgres")
			if err != nil {
				return nil, errors.New("no PostgreSQL server binaries found: run scripts/install-postgres.sh, or name their directory with -pgbin")
			}
			found = []string{p}
		}
		t.Bin = filepath.Dir(found[0])
	}
	if os.Geteuid() != 0 {
		return t, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("root's PostgreSQL runs as user postgres: %w", err)
	}
	uid, _ := strconv.ParseUint(u.Uid, 10, 32)
	gid, _ := strconv.ParseUint(u.Gid, 10, 32)
	t.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return t, nil
}

// Own gives path to the account.
func (t *Tools) Own(path string) error {
	if t.cred == nil {
		return nil
	}
	return os.Chown(path, int(t.cred.Uid), int(t.cred.Gid))
}

// MakeDir makes a directory of the account.
func (t *Tools) MakeDir(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return t.Own(path)
}

// Command prepares a tool. It runs in a session of its own, so that a Ctrl-C
// meant for the measurement does not reach it before the clean-up does; the end
// of ctx interrupts it.
func (t *Tools) Command(ctx context.Context, tool string, args ...string) *exec.Cmd {
	return t.Program(ctx, filepath.Join(t.Bin, tool), args...)
}

// Program is Command for any program, which the account must be able to reach.
func (t *Tools) Program(ctx context.Context, path string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: t.cred, Setsid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Run runs a tool to its end and returns what it printed.
func (t *Tools) Run(ctx context.Context, tool string, args ...string) (string, error) {
	return Output(t.Command(ctx, tool, args...))
}

// Output runs a prepared command to its end and returns what it printed.
func Output(cmd *exec.Cmd) (string, error) {
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, tail(out.String()+errOut.String()))
	}
	return out.String(), nil
}

// tail is the end of what a program said.
func tail(s string) string {
	const most = 500
	return strings.TrimSpace(s[max(0, len(s)-most):])
}

// Server is an address that speaks PostgreSQL, with a superuser postgres who
// needs no password.
type Server struct {
	Host string // IP address; empty is loopback
	Port int
}

func (s Server) host() string { return cmp.Or(s.Host, "127.0.0.1") }

// Address is host:port.
func (s Server) Address() string { return net.JoinHostPort(s.host(), strconv.Itoa(s.Port)) }

// Args name the server to a tool.
func (s Server) Args() []string {
	return []string{"-h", s.host(), "-p", strconv.Itoa(s.Port), "-U", "postgres"}
}

// DSN is a connection string; name becomes the application name.
func (s Server) DSN(name string) string {
	return fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable connect_timeout=5 application_name=%s", s.host(), s.Port, name)
}

// Connect opens a connection.
func (s Server) Connect(ctx context.Context) (*pgx.Conn, error) {
	return pgx.Connect(ctx, s.DSN("bench"))
}

// Exec runs one statement per string, each outside of a transaction block.
func (s Server) Exec(ctx context.Context, statements ...string) error {
	c, err := s.Connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close(context.WithoutCancel(ctx))
	for _, q := range statements {
		if _, err := c.PgConn().Exec(ctx, q).ReadAll(); err != nil {
			return fmt.Errorf("%s: %w", q, err)
		}
	}
	return nil
}

// Query returns the first column of the first row as text.
func (s Server) Query(ctx context.Context, q string, args ...any) (string, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	var out string
	if err := c.QueryRow(ctx, "select ("+q+")::text", args...).Scan(&out); err != nil {
		return "", fmt.Errorf("%s: %w", q, err)
	}
	return out, nil
}

// Cluster is a scratch server with its own directory.
type Cluster struct {
	Server
	tools  *Tools
	dir    string
	cmd    *exec.Cmd
	exited chan struct{}
}

// Data is the data directory.
func (c *Cluster) Data() string { return filepath.Join(c.dir, "data") }

// SocketDir is where a running server has its unix socket.
func (c *Cluster) SocketDir() string { return c.dir }

// At is the cluster whose data directory lies below dir already.
func (t *Tools) At(dir string, port int) *Cluster {
	return &Cluster{Server: Server{Port: port}, tools: t, dir: dir}
}

// Init makes a cluster in dir with checksums when asked; settings are lines of
// its postgresql.conf.
func (t *Tools) Init(ctx context.Context, dir string, port int, checksums bool, settings map[string]string) (*Cluster, error) {
	c := &Cluster{Server: Server{Port: port}, tools: t, dir: dir}
	if err := t.MakeDir(dir); err != nil {
		return nil, err
	}
	args := []string{"-D", c.Data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"}
	if checksums {
		args = append(args, "-k")
	}
	if t.SegMiB != 0 {
		args = append(args, fmt.Sprintf("--wal-segsize=%d", t.SegMiB))
	}
	if _, err := t.Run(ctx, "initdb", args...); err != nil {
		return nil, err
	}
	return c, c.Configure(settings)
}

// Backup makes a standby of c in dir with pg_basebackup; it streams from c by
// the slot name, which is made, under the application name name.
func (c *Cluster) Backup(ctx context.Context, dir string, port int, name string) (*Cluster, error) {
	s := &Cluster{Server: Server{Port: port}, tools: c.tools, dir: dir}
	if err := c.tools.MakeDir(dir); err != nil {
		return nil, err
	}
	args := append(c.Args(), "-D", s.Data(), "-X", "stream", "-C", "-S", name, "-R", "-c", "fast")
	if _, err := c.tools.Run(ctx, "pg_basebackup", args...); err != nil {
		return nil, err
	}
	return s, s.Configure(map[string]string{"primary_conninfo": c.DSN(name), "primary_slot_name": name})
}

// Configure appends settings to postgresql.auto.conf, which beats
// postgresql.conf; they are in force after the next start or reload.
func (c *Cluster) Configure(settings map[string]string) error {
	f, err := os.OpenFile(filepath.Join(c.Data(), "postgresql.auto.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	var b strings.Builder
	for k, v := range settings {
		fmt.Fprintf(&b, "%s = '%s'\n", k, strings.ReplaceAll(v, "'", "''"))
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}

// Launch starts the server and does not wait until it answers.
func (c *Cluster) Launch() error {
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.tools.Command(context.Background(), "postgres", "-D", c.Data(), "-p", strconv.Itoa(c.Port),
		"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="+c.dir)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	c.cmd, c.exited = cmd, exited
	return nil
}

// Start starts the server and waits until it answers.
func (c *Cluster) Start(ctx context.Context) error {
	if err := c.Launch(); err != nil {
		return err
	}
	return Until(ctx, time.Minute, "the server on port "+strconv.Itoa(c.Port)+" answers", func() (bool, error) {
		select {
		case <-c.exited:
			b, _ := os.ReadFile(filepath.Join(c.dir, "log"))
			return false, fmt.Errorf("server ended during its start: %s", tail(string(b)))
		default:
		}
		conn, err := c.Connect(ctx)
		if err != nil {
			return false, nil
		}
		return true, conn.Close(ctx)
	})
}

// PID is the postmaster's process id, zero when it does not run.
func (c *Cluster) PID() int {
	if c == nil || c.cmd == nil {
		return 0
	}
	return c.cmd.Process.Pid
}

// Stop shuts the server down fast and waits for its end; nothing happens when
// it does not run.
func (c *Cluster) Stop() error {
	if c == nil || c.cmd == nil {
		return nil
	}
	cmd := c.cmd
	c.cmd = nil
	cmd.Process.Signal(os.Interrupt)
	select {
	case <-c.exited:
		return nil
	case <-time.After(stopWithin):
	}
	cmd.Process.Signal(syscall.SIGQUIT) // the postmaster takes its children along
	<-c.exited
	return fmt.Errorf("the server on port %d did not end within %s", c.Port, stopWithin)
}

// Until asks cond every 10 ms until it is true or fails; what, a full clause,
// is in the error when that takes longer than patience.
func Until(ctx context.Context, patience time.Duration, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("waited %s until %s", patience, what))
	defer cancel()
	for {
		ok, err := cond()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
