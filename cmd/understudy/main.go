// Command understudy is the daemon, its guard, and the commands to use them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"
	_ "time/tzdata" // schedules name time zones, which a bare host may not know

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/demo"
	"understudy/cmd/internal/node"
	"understudy/configs"
	"understudy/failover"
	"understudy/failover/guard"
)

// version is set by the build.
var version = "dev"

// memoryLimit is what the Go runtime keeps its memory below, the program's own
// pages not counted: the collector runs seldom far below it and often near it.
const memoryLimit = 44 << 20

// timerSlack is how late the kernel may wake the daemon's timers. The Go
// runtime's monitor thread naps for 20 µs at a time after every wake-up of an
// idle process; with the usual slack that is a quarter of the daemon's CPU time
// at a few hundred commits a second, with this one it is not seen.
const timerSlack = 500 * time.Microsecond

// slackened starts the program again in the same process, once, so that all of
// the runtime's threads inherit the slack.
func slackened() error {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(now) >= timerSlack {
		return err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(timerSlack), 0, 0, 0); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, os.Environ())
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		if err := slackened(); err != nil {
			fmt.Fprintln(os.Stderr, "understudy: set the timer slack:", err)
		}
	}
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		os.Exit(guard.Main(os.Args[2:])) // before anything else of the program starts
	}
	if len(os.Args) == 2 && os.Args[1] == "worker" {
		os.Exit(workerMain())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := root(stop).ExecuteContext(ctx)
	stop()
	if err != nil && !cli.Silent(err) {
		fmt.Fprintln(os.Stderr, "understudy:", err)
	}
	os.Exit(cli.Code(err))
}

func root(release context.CancelFunc) *cobra.Command {
	c := &cobra.Command{
		Use:           "understudy",
		Short:         "Keeps a second machine ready to take over, with nothing acknowledged ever lost",
		SilenceErrors: true, SilenceUsage: true,
	}
	c.CompletionOptions.HiddenDefaultCmd = true
	width, terminal := terminalWidth()
	opts := cli.Options{Out: os.Stdout, Version: version, Width: width, Color: terminal}
	c.AddCommand(cli.Commands(opts)...)
	for _, own := range []*cobra.Command{runCommand(release), initCommand(opts), demo.Command(version)} {
		cli.Prepare(own)
		c.AddCommand(own)
	}
	return c
}

// terminalWidth is the width of standard output in columns, when it is a
// terminal.
func terminalWidth() (columns int, ok bool) {
	ws, err := unix.IoctlGetWinsize(int(os.Stdout.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0, false
	}
	return int(ws.Col), os.Getenv("NO_COLOR") == ""
}

func runCommand(release context.CancelFunc) *cobra.Command {
	c := &cobra.Command{
		Use:   "run",
		Short: "Run this node's daemon",
		Long: "Run this node's daemon in the foreground.\n\n" +
			"SIGTERM ends the daemon and leaves PostgreSQL to the next one, which has ten seconds to come.\n" +
			"SIGINT (Ctrl-C) stops PostgreSQL too.",
		Args: cobra.NoArgs,
	}
	config := cli.ConfigFlag(c)
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		release() // run tells the two signals apart
		return run(context.Background(), *config)
	}
	return c
}

func run(ctx context.Context, config string) error {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(400)
	cfg, err := configs.Load(config)
	if err != nil {
		return usage(err)
	}
	log, closeLog, err := logger(cfg)
	if err != nil {
		return err
	}
	defer closeLog()
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	n, err := node.Open(ctx, cfg, node.Options{Version: version, Binary: binary, Log: log, Step: faultPoints()})
	if err != nil {
		log.Error("not started", "error", err)
		return err
	}
	sig := make(chan os.Signal, 2)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(sig)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-sig:
				if s == syscall.SIGTERM {
					cancel(failover.ErrRestarting)
				} else {
					cancel(failover.ErrStopping)
				}
			}
		}
	}()
	err = n.Run(ctx)
	if errors.Is(err, node.ErrRenew) {
		log.Warn("starting anew", "why", err)
		return unix.Exec(binary, os.Args, os.Environ())
	}
	if err != nil {
		log.Error("ended", "error", err)
	}
	return err
}

func usage(err error) error {
	var bad *configs.Error
	if errors.As(err, &bad) || errors.Is(err, os.ErrNotExist) {
		return &cli.ExitError{Code: cli.ExitUsage, Err: err}
	}
	return err
}

func logger(cfg *configs.Node) (*slog.Logger, func(), error) {
	var out io.Writer = os.Stderr
	done := func() {}
	if cfg.Log.File != "" {
		if err := os.MkdirAll(filepath.Dir(cfg.Log.File), 0o755); err != nil {
			return nil, nil, err
		}
		f, err := os.OpenFile(cfg.Log.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			return nil, nil, fmt.Errorf("open log.file: %w", err)
		}
		out, done = f, func() { f.Close() }
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, nil, fmt.Errorf("log.level: %w", err)
	}
	return slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: level})), done, nil
}
