// Package demo makes a playground: a group of three nodes with a real
// PostgreSQL, on loopback, in one directory.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/view"
	"understudy/failover/pgctl"
	"understudy/shipper/link"
)

// nodes are the playground's, in the order of their port offsets.
var nodes = [3]string{"main", "backup", "witness"}

const (
	// DefaultPort is N of the playground's ports.
	DefaultPort = 7500
	// The offsets of the ports: PostgreSQL N+1 and N+2, HTTP N+11 to N+13,
	// between the nodes N+21 to N+23.
	httpOffset = 11
	tlsOffset  = 21

	healthyWithin = 2 * time.Minute
	stopWithin    = 40 * time.Second
)

// Playground is one demo directory.
type Playground struct {
	Dir     string
	Port    int
	Out     io.Writer
	Version string
	Bare    bool // without backups
}

// Command is "understudy demo".
func Command(version string) *cobra.Command {
	p := &Playground{Version: version}
	var detach, load bool
	c := &cobra.Command{
		Use:   "demo --dir DIR",
		Short: "Make and run a playground of three nodes with a real PostgreSQL",
		Args:  cobra.NoArgs,
	}
	c.Flags().StringVar(&p.Dir, "dir", "", "directory of the playground; made when missing")
	c.Flags().IntVar(&p.Port, "port", DefaultPort, "N: PostgreSQL on N+1 and N+2, HTTP on N+11 to N+13, TLS on N+21 to N+23")
	c.Flags().BoolVar(&p.Bare, "no-backups", false, "keep no backups; otherwise they are in DIR/backup/backups")
	c.Flags().BoolVar(&detach, "detach", false, "return when the group is healthy; it goes on in the background")
	c.Flags().BoolVar(&load, "load", false, "keep writers running on the primary")
	c.MarkFlagRequired("dir")
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		p.Out = cmd.OutOrStdout()
		return p.run(cmd.Context(), detach, load)
	}
	var stopDir string
	stop := &cobra.Command{Use: "stop --dir DIR", Short: "Stop a playground: the primary's PostgreSQL first", Args: cobra.NoArgs}
	stop.Flags().StringVar(&stopDir, "dir", "", "directory of the playground")
	stop.MarkFlagRequired("dir")
	stop.RunE = func(cmd *cobra.Command, _ []string) error {
		dir, err := filepath.Abs(stopDir)
		if err != nil {
			return err
		}
		q := &Playground{Dir: dir, Out: cmd.OutOrStdout(), Version: version}
		if _, err := os.Stat(q.config("main")); err != nil {
			return fmt.Errorf("%s holds no playground", stopDir)
		}
		return q.Stop(context.WithoutCancel(cmd.Context()))
	}
	cli.Prepare(stop)
	c.AddCommand(stop, loadCommand())
	return c
}

func (p *Playground) config(node string) string {
	return filepath.Join(p.Dir, node, "understudy.yaml")
}
func (p *Playground) pidFile(node string) string { return filepath.Join(p.Dir, node, "daemon.pid") }
func (p *Playground) ownPIDFile(node string) string {
	return filepath.Join(p.Dir, node, "run", "daemon.pid")
}
func (p *Playground) logFile(node string) string { return filepath.Join(p.Dir, node, "daemon.log") }
func (p *Playground) binary() string             { return filepath.Join(p.Dir, "bin", "understudy") }

// DSN is how a client reaches the primary, wherever it is.
func (p *Playground) DSN() string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d,127.0.0.1:%d/postgres?target_session_attrs=read-write", p.Port+1, p.Port+2)
}

func (p *Playground) run(ctx context.Context, detach, load bool) error {
	var err error
	if p.Dir, err = filepath.Abs(p.Dir); err != nil {
		return err
	}
	fresh, err := p.Make(ctx)
	if err != nil {
		return err
	}
	if fresh {
		fmt.Fprintf(p.Out, "Made a playground in %s: main and backup run PostgreSQL, witness stores the log and votes.\n", p.Dir)
	}
	began := time.Now()
	for _, n := range nodes {
		if err := p.StartDaemon(n); err != nil {
			return errors.Join(err, p.Stop(context.WithoutCancel(ctx)))
		}
	}
	st, err := p.WaitHealthy(ctx, healthyWithin)
	if err != nil {
		if ctx.Err() != nil {
			return p.Stop(context.WithoutCancel(ctx))
		}
		return err
	}
	fmt.Fprintf(p.Out, "Healthy after %.1f s: %s\n\n", time.Since(began).Seconds(), st.Group.Safe.Sentence)
	p.hints(st.Group.Primary)
	if load {
		if detach {
			if err := p.startLoad(); err != nil {
				return err
			}
		} else {
			lctx, cancel := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() { defer close(done); Load(lctx, p.DSN(), loadWriters) }()
			defer func() { cancel(); <-done }()
		}
	}
	if detach {
		fmt.Fprintf(p.Out, "It goes on in the background. Stop it with:  %s demo stop --dir %s\n", p.binary(), p.Dir)
		return nil
	}
	p.watch(ctx)
	fmt.Fprintln(p.Out, "\nStopping: the primary's PostgreSQL first, then its peers.")
	return p.Stop(context.WithoutCancel(ctx))
}

// hints are what to try first, by which node is primary now.
func (p *Playground) hints(primary string) {
	other := nodes[0]
	if primary == other {
		other = nodes[1]
	}
	fmt.Fprintf(p.Out, `Connect:    psql '%s'
Status:     %s status --watch --config %s
Events:     %[2]s events --follow --config %[3]s
API, feed:  http://127.0.0.1:%[4]d/api/v1/status  ws://127.0.0.1:%[4]d/api/v1/feed
Try:        kill -9 $(cat %[5]s)    # %[6]s is lost: %[7]s takes over by itself
            %[2]s history 1 --config %[8]s
            %[2]s run --config %[9]s &    # it comes back as a standby
            %[2]s points --config %[3]s    # what the backups in %[10]s can bring back

`, p.DSN(), p.binary(), p.config("witness"), p.Port+httpOffset+2, p.ownPIDFile(primary), primary, other, p.config(other), p.config(primary), p.backups())
}

// StartDaemon starts a node's daemon in the background unless it runs.
func (p *Playground) StartDaemon(node string) error {
	if pid := p.pid(node); pid != 0 {
		return nil
	}
	log, err := os.OpenFile(p.logFile(node), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.binary(), "run", "--config", p.config(node))
	cmd.Dir = p.Dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is for the demo
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the daemon of %s: %w", node, err)
	}
	go cmd.Wait()
	return os.WriteFile(p.pidFile(node), []byte(strconv.Itoa(cmd.Process.Pid)+"\n"), 0o644)
}

// pid is the process id of a node's daemon, zero when it does not run.
func (p *Playground) pid(node string) int {
	// The daemon's own file first: somebody may have brought it back by hand.
	for _, f := range []string{p.ownPIDFile(node), p.pidFile(node)} {
		if pid := p.alive(node, f); pid != 0 {
			return pid
		}
	}
	return 0
}

// alive is the process id in a file when that is a daemon of the node.
func (p *Playground) alive(node, file string) int {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	if pid <= 0 || syscall.Kill(pid, 0) != nil {
		return 0
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	switch {
	case err != nil:
		return 0
	case len(cmdline) == 0:
		if exited(pid) {
			return 0
		}
		return pid // it is just being started
	case file == p.ownPIDFile(node) && cli.Held(file):
		return pid // whatever it was started as
	case !strings.Contains(string(cmdline), p.config(node)):
		return 0 // the number belongs to another process now
	}
	return pid
}

// exited tells whether a process has ended and only waits to be collected.
func exited(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, ok := strings.Cut(string(b), ") ")
	return !ok || strings.HasPrefix(rest, "Z") || strings.HasPrefix(rest, "X")
}

// Status asks a node's daemon.
func (p *Playground) Status(ctx context.Context, node string) (view.Status, error) {
	c, err := cli.NewClient(p.config(node))
	if err != nil {
		return view.Status{}, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var st view.Status
	err = c.Get(ctx, "/api/v1/status", &st)
	return st, err
}

// WaitHealthy waits until the group says that the data is safe and the standby
// applies.
func (p *Playground) WaitHealthy(ctx context.Context, patience time.Duration) (view.Status, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	said := ""
	for {
		st, err := p.anyStatus(ctx)
		if err == nil {
			if healthy(st) {
				return st, nil
			}
			if s := st.Group.Safe.Sentence; s != said {
				said = s
				fmt.Fprintln(p.Out, " ", s)
			}
		}
		for _, n := range nodes {
			if p.pid(n) == 0 {
				return st, fmt.Errorf("the daemon of %s ended; the last lines of %s:\n%s", n, p.logFile(n), tail(p.logFile(n), 5))
			}
		}
		select {
		case <-ctx.Done():
			return st, fmt.Errorf("the group is not healthy after %s: %s", patience, said)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *Playground) anyStatus(ctx context.Context) (view.Status, error) {
	var errs []error
	for _, n := range nodes {
		st, err := p.Status(ctx, n)
		if err == nil {
			return st, nil
		}
		errs = append(errs, err)
	}
	return view.Status{}, errors.Join(errs...)
}

func healthy(st view.Status) bool {
	if st.Group.Safe.Level != view.LevelSafe || len(st.Nodes) != len(nodes) {
		return false
	}
	for _, n := range st.Nodes {
		if !n.WALVoter || !n.LedgerVoter {
			return false
		}
	}
	return true
}

// watch shows the group live until ctx ends.
func (p *Playground) watch(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := ""
	for {
		if st, err := p.anyStatus(ctx); err == nil {
			if line := summary(st); line != last {
				fmt.Fprintln(p.Out, time.Now().Format("15:04:05"), line)
				last = line
			}
		} else if ctx.Err() == nil {
			fmt.Fprintln(p.Out, time.Now().Format("15:04:05"), "no daemon answers")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// summary is one line of the live view.
func summary(st view.Status) string {
	var b strings.Builder
	fmt.Fprintf(&b, "epoch %s  committed %s ", st.Group.Epoch, st.Group.Committed)
	for _, n := range st.Nodes {
		fmt.Fprintf(&b, " | %s %s", n.Name, n.Role)
		switch {
		case n.Presence == view.PresenceSilent || n.Presence == view.PresenceNever:
			b.WriteString(" away")
		case n.Lag != nil:
			fmt.Fprintf(&b, " %d B behind", n.Lag.Bytes)
		}
	}
	return b.String() + " | " + st.Group.Safe.Sentence
}

// Stop stops the load, the primary's PostgreSQL while its peers still
// acknowledge, then the rest.
func (p *Playground) Stop(ctx context.Context) error {
	p.stopLoad()
	order := nodes[:]
	if st, err := p.anyStatus(ctx); err == nil && st.Group.Primary == "backup" {
		order = []string{"backup", "main", "witness"}
	}
	var errs []error
	for _, n := range order {
		if err := p.stopNode(ctx, n); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", n, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Fprintln(p.Out, "Stopped.")
	return nil
}

func (p *Playground) stopNode(ctx context.Context, node string) error {
	pid := p.pid(node)
	if pid == 0 {
		// A PostgreSQL whose daemon is gone is ended through a daemon: that
		// adopts it and stops it in the regular way.
		if _, err := os.Stat(filepath.Join(p.Dir, node, "run", "guard.sock")); err != nil {
			return nil
		}
		if err := p.StartDaemon(node); err != nil {
			return err
		}
		pid = p.pid(node)
	}
	if err := syscall.Kill(pid, syscall.SIGINT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	deadline := time.Now().Add(stopWithin)
	for p.pid(node) != 0 {
		if time.Now().After(deadline) {
			return fmt.Errorf("the daemon (process %d) did not end within %s; see %s", pid, stopWithin, p.logFile(node))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

func tail(path string, lines int) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Make makes the playground's files when they are not there yet.
func (p *Playground) Make(ctx context.Context) (fresh bool, err error) {
	if _, err := os.Stat(p.config("main")); err == nil {
		return false, p.readPort()
	}
	if err := p.checkDir(); err != nil {
		return false, err
	}
	inst, err := pgctl.Find("")
	if err != nil {
		return false, err
	}
	if err := p.copyBinary(); err != nil {
		return false, err
	}
	group := fmt.Sprintf("demo-%x", time.Now().UnixNano())
	caCert, caKey, err := link.NewCA(group)
	if err != nil {
		return false, err
	}
	for i, n := range nodes {
		if err := p.makeNode(i, n, inst.BinDir, caCert, caKey); err != nil {
			return false, err
		}
	}
	args := []string{"init", "--config", p.config("main")}
	if !p.Bare {
		policy, err := p.makeLocation()
		if err != nil {
			return false, err
		}
		args = append(args, "--policy", policy)
	}
	out, err := exec.CommandContext(ctx, p.binary(), args...).CombinedOutput()
	if err != nil {
		os.Remove(p.config("main")) // so that the next try begins anew
		return false, fmt.Errorf("found the group: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return true, nil
}
