// Command bench measures Understudy side by side with what PostgreSQL has on
// board: synchronous streaming, pg_receivewal and its own standby, in
// alternating rounds on one machine and one disk; and its backups with those of
// pgBackRest. It also measures how long nobody can write when the primary moves
// or is lost. It prints Markdown; see the flags for what to measure.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"understudy/test/bench/internal/doc"
	"understudy/test/netlab"
)

// options are the flags.
type options struct {
	only          string
	rounds        int
	seconds       int
	scale         int
	clients       string
	walMiB        int
	catchupRounds int
	kills         int
	runs          int
	seed          int64
	leaderOn      bool
	scenarios     string
	minutes       float64
	segMiB        int
	changeScale   int
	backupScale   int
	backupWAL     int
	backupMinutes float64
	idle          time.Duration
	rate          float64
	port          int
	dir           string
	program       string
	pgbin         string
	write         string
	perf          bool
	keep          bool
}

// part is one section of the report.
type part struct {
	name  string
	title string
	// pair tells that it compares with the native pair, which then runs.
	pair bool
	// lab tells that every node needs a network of its own.
	lab bool
	// alone tells that it has servers of its own, and no group runs meanwhile.
	alone bool
	// need says what is missing on this machine; nil needs nothing.
	need func() error
	// run measures. Text that comes with an error is shown and not written into
	// a document.
	run func(context.Context, *bench) (string, error)
}

// parts is every section, in the order they are measured.
func parts() []part {
	return []part{
		{name: "commit", title: "Synchronous commits", pair: true, run: commit},
		{name: "profile", title: "Where the time goes", pair: true, run: profile},
		{name: "lag", title: "Replay lag", pair: true, run: lag},
		{name: "kill", title: "A peer's daemon is killed", pair: true, run: kill},
		{name: "catchup", title: "Catching up, and memory", pair: true, run: catchup},
		// The last ones, since they leave another primary behind.
		{name: "switchover", title: "Switchover", run: switchover},
		{name: "failover", title: "The primary's host is lost", run: failover},
		{name: "falsealarm", title: "No failover without a cause", run: falseAlarm},
		// They have servers of their own, and another group.
		{name: "backup", title: "Backups", alone: true, need: needBackup, run: backup},
		{name: "loss", title: "Automatic failover", lab: true, need: netlab.Need, run: loss},
	}
}

func main() {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], helperPrefix) {
		if err := helper(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, "bench helper:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parseFlags(args []string) (options, string, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.only, "only", "", "parts to measure, comma separated: commit, profile, lag, kill, catchup, switchover, failover, falsealarm, loss, backup; empty is all")
	fs.IntVar(&o.rounds, "rounds", 9, "alternating rounds of commit, lag and backup")
	fs.IntVar(&o.seconds, "seconds", 30, "length of one run of a load")
	fs.IntVar(&o.scale, "scale", 50, "pgbench's scale factor")
	fs.StringVar(&o.clients, "clients", "1,8", "numbers of clients of commit, comma separated")
	fs.IntVar(&o.walMiB, "wal", 4096, "WAL to catch up with, in MiB")
	fs.IntVar(&o.catchupRounds, "catchup-rounds", 3, "alternating rounds of catchup")
	fs.IntVar(&o.kills, "kills", 5, "kills of each daemon")
	fs.IntVar(&o.runs, "n", 20, "runs of switchover, of each series of failover, and of each scenario of loss")
	fs.Int64Var(&o.seed, "seed", 0, "seed of the moments at which failover and loss strike, and of the pauses of falsealarm; zero takes one by the clock")
	fs.BoolVar(&o.leaderOn, "leader-on-primary", false, "failover: a second series that kills the ledger's leader with the primary")
	fs.StringVar(&o.scenarios, "scenarios", "", "scenarios of loss, comma separated: "+strings.Join(faultNames(), ", ")+"; empty is all")
	fs.Float64Var(&o.minutes, "minutes", 20, "falsealarm: how long it pauses processes")
	fs.IntVar(&o.segMiB, "segsize", 0, "size of WAL segments in MiB; zero is PostgreSQL's default")
	fs.IntVar(&o.changeScale, "change-scale", 5, "pgbench's scale factor of switchover, failover, falsealarm and loss, when no part before them has made its tables")
	fs.IntVar(&o.backupScale, "backup-scale", 80, "backup: pgbench's scale factor; as many random bytes are added")
	fs.IntVar(&o.backupWAL, "backup-wal", 2048, "backup: log to archive and to recover, in MiB")
	fs.Float64Var(&o.backupMinutes, "backup-minutes", 13.5, "backup: no further round begins that would not end within this time; three are always made")
	fs.DurationVar(&o.idle, "idle", 30*time.Second, "rest before the idle memory is read")
	fs.Float64Var(&o.rate, "rate", 0, "load of lag in transactions per second; zero is 60 % of what native reaches")
	fs.IntVar(&o.port, "port", 17500, "first port; this one and the next 40 must be free")
	fs.StringVar(&o.dir, "dir", "/var/tmp", "where the scratch directory is made; user postgres must be able to enter it")
	fs.StringVar(&o.program, "program", "", "understudy binary; empty builds it")
	fs.StringVar(&o.pgbin, "pgbin", os.Getenv("UNDERSTUDY_PG_BINDIR"), "directory of PostgreSQL's binaries; empty is the newest installed")
	fs.StringVar(&o.write, "write", "", "Markdown file whose sections to renew; empty prints only")
	fs.BoolVar(&o.perf, "perf", false, "profile: add the hottest functions of the primary's daemon, by Linux perf; backup: those of our processes")
	fs.BoolVar(&o.keep, "keep", false, "leave the scratch directory behind")
	if err := fs.Parse(args); err != nil {
		return o, "", err
	}
	if fs.NArg() > 0 {
		return o, "", fmt.Errorf("%q is not a flag", fs.Arg(0))
	}
	if o.seed == 0 {
		o.seed = time.Now().UnixNano()
	}
	repeat := "go run ./test/bench"
	fs.Visit(func(f *flag.Flag) {
		// What was measured, not where it was done or written.
		if !slices.Contains([]string{"dir", "program", "pgbin", "write", "keep", "only", "port"}, f.Name) {
			repeat += fmt.Sprintf(" -%s=%s", f.Name, f.Value)
		}
	})
	return o, repeat, o.validate()
}

func (o options) validate() error {
	for name, v := range map[string]int{"rounds": o.rounds, "seconds": o.seconds, "scale": o.scale, "wal": o.walMiB, "catchup-rounds": o.catchupRounds, "kills": o.kills, "n": o.runs, "change-scale": o.changeScale, "backup-scale": o.backupScale, "backup-wal": o.backupWAL} {
		if v < 1 {
			return fmt.Errorf("-%s must be at least 1", name)
		}
	}
	if o.segMiB < 0 || o.segMiB > 1024 || o.segMiB&(o.segMiB-1) != 0 {
		return fmt.Errorf("-segsize must be a power of two from 1 to 1024, or zero")
	}
	if o.minutes <= 0 || o.backupMinutes <= 0 {
		return fmt.Errorf("-minutes and -backup-minutes must be above zero")
	}
	if _, err := o.chosen(); err != nil {
		return err
	}
	if _, err := o.chosenFaults(); err != nil {
		return err
	}
	_, err := o.clientCounts()
	return err
}

// chosen are the parts that -only names.
func (o options) chosen() ([]part, error) {
	all := parts()
	if o.only == "" {
		return all, nil
	}
	names := strings.Split(o.only, ",")
	for _, n := range names {
		if !slices.ContainsFunc(all, func(p part) bool { return p.name == n }) {
			return nil, fmt.Errorf("-only: there is no part %q", n)
		}
	}
	return slices.DeleteFunc(all, func(p part) bool { return !slices.Contains(names, p.name) }), nil
}

func (o options) clientCounts() ([]int, error) {
	var out []int
	for s := range strings.SplitSeq(o.clients, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > 90 {
			return nil, fmt.Errorf("-clients: %q is not a number from 1 to 90", s)
		}
		out = append(out, n)
	}
	return out, nil
}

func run(ctx context.Context, args []string) (err error) {
	o, repeat, err := parseFlags(args)
	if err != nil {
		return err
	}
	todo, err := o.chosen()
	if err != nil {
		return err
	}
	b, err := newBench(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	machine := ""
	for _, p := range todo {
		err := b.enter(ctx, p)
		if err == nil && machine == "" {
			machine, err = b.machine(ctx)
		}
		if err != nil {
			b.keepLogs(ctx)
			return fmt.Errorf("set up for %s: %w", p.name, err)
		}
		b.say("%s", p.title)
		body, err := p.run(ctx, b)
		if body != "" {
			body = fmt.Sprintf("## %s\n\n%s\n\n%s  \nTo repeat: `%s -only=%s`\n", p.title, strings.TrimSpace(body), machine, repeat, p.name)
			fmt.Println(body)
		}
		if err != nil {
			b.keepLogs(ctx)
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if o.write != "" {
			if err := doc.Write(o.write, p.name, body); err != nil {
				return err
			}
		}
	}
	return nil
}

// build makes the understudy binary in dir from the module this runs in.
func build(ctx context.Context, dir string) (string, error) {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	if err != nil || root == "." {
		return "", errors.New("not inside the module: run from the repository, or name the understudy binary with -program")
	}
	out := filepath.Join(dir, "understudy")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", out, "./cmd/understudy")
	cmd.Dir = root
	if msg, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build understudy: %w: %s", err, msg)
	}
	return out, nil
}
