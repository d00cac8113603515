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
	"understudy/test/netlab"
)

// The ports beside the playground's, counted from -port.
const (
	nativeMainPort    = 31
	nativeStandbyPort = 32
	barePort          = 33 // and the next
	backupPort        = 35 // and the next
)

// bench is what the parts share: the sides, set up once.
type bench struct {
	options
	tools  *pg.Tools
	dir    string // scratch directory
	binary string // understudy
	pair   bool   // a part compares with the native pair
	group  *group.Group
	lab    *netlab.Lab // the network of a group on hosts of their own; nil is loopback
	native *native     // nil when no part compares with it
	filled int         // pgbench's scale factor of the group's tables; zero has none
	began  time.Time
	load   string // the machine's load average before anything was started
}

// newBench prepares what all parts need. What it made is ended by close.
func newBench(ctx context.Context, o options) (b *bench, err error) {
	b = &bench{options: o, began: time.Now(), load: loadAverage()}
	todo, err := o.chosen()
	if err != nil {
		return b, err
	}
	b.pair = slices.ContainsFunc(todo, func(p part) bool { return p.pair })
	for _, p := range todo {
		if p.need == nil {
			continue
		}
		if err := p.need(); err != nil {
			return b, err
		}
	}
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
	if o.program == "" {
		b.binary, err = build(ctx, b.dir)
	} else {
		b.binary, err = filepath.Abs(o.program)
	}
	return b, err
}

// enter sees to it that the group runs that the part measures, and nothing
// when it measures none.
func (b *bench) enter(ctx context.Context, p part) error {
	if p.alone {
		return b.leave()
	}
	if b.group != nil && p.lab == (b.lab != nil) {
		return nil
	}
	if err := b.leave(); err != nil {
		return err
	}
	if p.lab {
		return b.startInLab(ctx)
	}
	b.say("starting the group in %s", b.dir)
	var err error
	if b.group, err = group.Start(ctx, b.binary, filepath.Join(b.dir, "g"), b.port, b.tools); err != nil || !b.pair {
		return err
	}
	// Whether it strikes in one side's round or the other's is chance.
	if err := b.group.Main().Exec(ctx, "alter system set autovacuum = off", "select pg_reload_conf()"); err != nil {
		return err
	}
	b.say("starting the native pair")
	b.native, err = startNative(ctx, b.tools, b.group.Main(), filepath.Join(b.dir, "n"), b.port)
	return err
}

// startInLab starts a group whose nodes have networks of their own.
func (b *bench) startInLab(ctx context.Context) (err error) {
	b.say("starting the group in %s, each node in a network of its own", b.dir)
	if b.lab, err = netlab.New(ctx, group.Nodes[:]...); err != nil {
		return err
	}
	hosts := map[string]group.Host{}
	for _, n := range group.Nodes {
		h := b.lab.Host(n)
		hosts[n] = group.Host{IP: h.IP, Command: h.Command}
	}
	b.group, err = group.StartOn(ctx, b.binary, filepath.Join(b.dir, "l"), b.port, b.tools, hosts)
	return err
}

// leave ends everything that enter has started.
func (b *bench) leave() error {
	var err error
	if b.lab != nil {
		err = b.lab.Heal() // the nodes end faster when they hear each other
	}
	err = errors.Join(err, b.group.Stop(), b.native.stop())
	if b.lab != nil {
		err = errors.Join(err, b.lab.Close())
	}
	b.group, b.native, b.lab, b.filled = nil, nil, nil, 0
	return err
}

// close ends everything that was started and removes the scratch directory.
func (b *bench) close() error {
	b.say("cleaning up")
	err := b.leave()
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
