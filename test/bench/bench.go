package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
)

// The ports beside the playground's, counted from -port.
const (
	nativeMainPort    = 31
	nativeStandbyPort = 32
	barePort          = 33 // and the next
)

// bench is what the parts share: the two sides, set up once.
type bench struct {
	options
	tools  *pg.Tools
	dir    string // scratch directory
	group  *group.Group
	native *native // nil when no part compares with it
	filled int     // pgbench's scale factor of the group's tables; zero has none
	began  time.Time
	load   string // the machine's load average before anything was started
}

// newBench sets both sides up. What it started is ended by close.
func newBench(ctx context.Context, o options) (b *bench, err error) {
	b = &bench{options: o, began: time.Now(), load: loadAverage()}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
			b = nil
		}
	}()
	if b.tools, err = pg.FindTools(o.pgbin); err != nil {
		return b, err
	}
	if b.dir, err = os.MkdirTemp(o.dir, "usb"); err != nil {
		return b, err
	}
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return b, err
	}
	b.tools.SegMiB = o.segMiB
	program := o.program
	if program == "" {
		if program, err = build(ctx, b.dir); err != nil {
			return b, err
		}
	} else if program, err = filepath.Abs(program); err != nil {
		return b, err
	}
	b.say("starting the group in %s", b.dir)
	if b.group, err = group.Start(ctx, program, filepath.Join(b.dir, "g"), o.port, b.tools); err != nil {
		return b, err
	}
	if todo, err := o.chosen(); err != nil || !slices.ContainsFunc(todo, func(p part) bool { return p.pair }) {
		return b, err
	}
	// Whether it strikes in one side's round or the other's is chance.
	if err := b.group.Main().Exec(ctx, "alter system set autovacuum = off", "select pg_reload_conf()"); err != nil {
		return b, err
	}
	b.say("starting the native pair")
	b.native, err = startNative(ctx, b.tools, b.group.Main(), filepath.Join(b.dir, "n"), o.port)
	return b, err
}

// close ends everything that was started and removes the scratch directory.
func (b *bench) close() error {
	b.say("cleaning up")
	err := errors.Join(b.group.Stop(), b.native.stop())
	if b.dir == "" || b.keep {
		return err
	}
	if err != nil {
		return fmt.Errorf("%w; the logs are in %s", err, b.dir)
	}
	return os.RemoveAll(b.dir)
}

// keepLogs leaves the scratch directory behind after a part that failed, unless
// it was interrupted.
func (b *bench) keepLogs(ctx context.Context) {
	if ctx.Err() == nil {
		b.keep = true
		b.say("failed; the scratch directory stays, with all logs: %s", b.dir)
	}
}

// say tells the person who waits what goes on.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

// length is how long one run of a load takes.
func (b *bench) length() time.Duration { return time.Duration(b.seconds) * time.Second }

// busiest is the largest of the numbers of clients asked for.
func (b *bench) busiest() int {
	counts, _ := b.clientCounts() // validated with the flags
	most := 0
	for _, n := range counts {
		most = max(most, n)
	}
	return most
}

// fill makes pgbench's tables on both sides, once.
func (b *bench) fill(ctx context.Context) error {
	if b.filled != 0 {
		return nil
	}
	for _, s := range []pg.Server{b.group.Main(), b.native.main.Server} {
		b.say("filling the tables on port %d, scale %d", s.Port, b.scale)
		if err := b.tools.FillBench(ctx, s, b.scale); err != nil {
			return err
		}
	}
	b.filled = b.scale
	return b.settle(ctx)
}

// settle brings both sides to rest: everything shipped and applied, and fresh
// checkpoints everywhere, so that no run pays for an earlier one.
func (b *bench) settle(ctx context.Context) error {
	if err := b.native.waitSettled(ctx); err != nil {
		return err
	}
	if err := b.group.WaitSettled(ctx); err != nil {
		return err
	}
	for _, s := range []pg.Server{b.group.Main(), b.group.Backup(), b.native.main.Server, b.native.standby.Server} {
		if err := s.Exec(ctx, "checkpoint"); err != nil {
			return fmt.Errorf("checkpoint on port %d: %w", s.Port, err)
		}
	}
	return nil
}
