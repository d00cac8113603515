package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

const (
	actionStop    = "stop"
	actionRestart = "restart"
	argHandOver   = "hand_over"
	argNo         = "no"

	// stopWait is how long to wait for the daemon to be gone by default: a
	// hand-over and a shutdown checkpoint fit.
	stopWait  = 60 * time.Second
	goneEvery = 50 * time.Millisecond
)

// departure is an order after which the daemon ends.
type departure struct {
	action string
	args   map[string]string
	wait   time.Duration
	done   string // said when it is gone
}

func stopCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "stop", Short: "Stop this node: the daemon and its PostgreSQL", Args: cobra.NoArgs,
		Long: "Stop this node: the daemon and its PostgreSQL. A primary hands over to a standby first, as in a switchover, where\n" +
			"failover is automatic and a standby can take over; else it says why not and stops all the same. The command waits\n" +
			"until the daemon is gone. A service manager that starts whatever ends starts it again: there, disable the service\n" +
			"first.\n\n" +
			"--no-handover leaves that out, for the stop of the whole group, in which the others' stop comes next. While failover\n" +
			"is automatic, the others replace a primary that stopped like one that was lost: pause first to keep them from it.",
	}
	config := ConfigFlag(c)
	stay := c.Flags().Bool("no-handover", false, "stop a primary without handing over first")
	wait := waitFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		d := departure{action: actionStop, wait: *wait, done: "Stopped."}
		if *stay {
			d.args = map[string]string{argHandOver: argNo}
		}
		return d.run(c, opts, *config)
	}
	return c
}

func restartCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "restart", Short: "Have this node's daemon leave, so that it is started again; PostgreSQL goes on", Args: cobra.NoArgs,
		Long: "Have this node's daemon leave, for another binary or node file. PostgreSQL goes on, and commits of a primary wait,\n" +
			"for restart_grace (10 s) at most: then the group replaces it. Nothing here starts the next daemon: a service manager\n" +
			"that starts whatever ends does (Restart=always for systemd), or: understudy run. The command waits until this one\n" +
			"is gone.",
	}
	config := ConfigFlag(c)
	wait := waitFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		d := departure{action: actionRestart, wait: *wait, done: "The daemon is gone. If nobody starts the next one, do it now: understudy run"}
		return d.run(c, opts, *config)
	}
	return c
}

func waitFlag(c *cobra.Command) *time.Duration {
	return c.Flags().Duration("wait", stopWait, "how long to wait until the daemon is gone; what was begun goes on after it")
}

func (d departure) run(c *cobra.Command, opts Options, config string) error {
	if d.wait <= 0 {
		return &ExitError{Code: ExitUsage, Err: fmt.Errorf("%s: --wait must be more than 0", d.action)}
	}
	return withClient(c, config, func(ctx context.Context, client *Client) error {
		return d.leave(ctx, client, opts)
	})
}

// leave gives the order, prints the answer and waits until the daemon is gone.
func (d departure) leave(ctx context.Context, client *Client, opts Options) error {
	before := lookAt(client)
	var reply struct {
		Result string `json:"result"`
	}
	if err := client.Do(ctx, d.action, d.args, &reply); err != nil {
		return err
	}
	client.Close() // a kept connection would hold up its end
	if err := printLines(opts.Out, sentence(printable(reply.Result))); err != nil {
		return err
	}
	limit, cancel := context.WithTimeout(ctx, d.wait)
	defer cancel()
	switch err := before.gone(limit); {
	case err == nil:
		return printLines(opts.Out, d.done)
	case errors.Is(err, errNextDaemon) && d.action == actionRestart:
		return printLines(opts.Out, "The next daemon is there already.")
	case errors.Is(err, errNextDaemon):
		return errors.New("stop: it stopped, and somebody started the daemon again; stop it by what starts it")
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted; the %s goes on", d.action)
	}
	return fmt.Errorf("%s: the daemon is not gone after %s; what was begun goes on, and its log says what it waits for", d.action, d.wait)
}

// sentence begins a text with a capital and ends it with a full stop.
func sentence(text string) string {
	if text == "" {
		return ""
	}
	if c := text[0]; c >= 'a' && c <= 'z' {
		text = string(c-'a'+'A') + text[1:]
	}
	if text[len(text)-1] != '.' {
		text += "."
	}
	return text
}

// errNextDaemon is returned when another daemon came before the end of the one
// that was asked had been seen.
var errNextDaemon = errors.New("another daemon answers")

// presence is by what a running daemon is known: its socket, and the lock that
// the next one must take.
type presence struct {
	socket string
	info   os.FileInfo // of the socket; nil when it was not there
	lock   string
}

func lookAt(c *Client) presence {
	p := presence{socket: c.socket, lock: filepath.Join(c.node.RunDir, "daemon.pid")}
	if info, err := os.Stat(p.socket); err == nil {
		p.info = info
	}
	return p
}

// gone waits until the daemon no longer answers and has let go of its lock.
func (p presence) gone(ctx context.Context) error {
	tick := time.NewTicker(goneEvery)
	defer tick.Stop()
	for {
		if !answers(ctx, p.socket) && !Held(p.lock) {
			return nil
		}
		if p.replaced() {
			return errNextDaemon
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// replaced tells whether another daemon made the socket anew.
func (p presence) replaced() bool {
	now, err := os.Stat(p.socket)
	return err == nil && p.info != nil && (!os.SameFile(now, p.info) || !now.ModTime().Equal(p.info.ModTime()))
}

// answers tells whether somebody listens on a socket; anything but a certain no
// counts as yes.
func answers(ctx context.Context, socket string) bool {
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "unix", socket)
	if err == nil {
		conn.Close()
	}
	return !errors.Is(err, syscall.ENOENT) && !errors.Is(err, syscall.ECONNREFUSED)
}

// Held tells whether a running daemon holds a file of its process id.
func Held(pidFile string) bool {
	f, err := os.Open(pidFile)
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
