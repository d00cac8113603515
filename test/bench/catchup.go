package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/proc"
	"understudy/test/bench/internal/stats"
)

// The receivers that catch up.
const (
	catchWitness = iota
	catchSpool
	catchReceive
	catchReceiveSync
	catchStandby
	catchSides
)

var catchNames = [catchSides]string{
	"group: witness from main's pg_wal, mTLS",
	"group: spool from spool, mTLS",
	"pg_receivewal",
	"pg_receivewal --synchronous",
	"native standby (walreceiver)",
}

// The memory that a daemon may take.
const (
	loadedLimit = 256 << 20
	idleLimit   = 64 << 20
	catchWithin = 30 * time.Minute
)

// caught is one catch-up.
type caught struct {
	bytes uint64
	took  time.Duration
	peak  uint64 // of the receiving process, zero when it was not looked at
}

func (c caught) rate() float64 { return float64(c.bytes) / 1e6 / c.took.Seconds() }

// catchup compares how fast a receiver that was away gets everything to its
// disk, and how much memory the daemons take meanwhile and at rest.
func catchup(ctx context.Context, b *bench) (string, error) {
	c := &catcher{bench: b, peak: map[string]uint64{}}
	if err := c.prepare(ctx); err != nil {
		return "", err
	}
	var rates [catchSides][]float64
	for r := range b.catchupRounds {
		if err := c.generate(ctx, r); err != nil {
			return "", err
		}
		for _, side := range stats.Order(catchSides, r) {
			unix.Sync() // nobody pays for what others left in the page cache
			got, err := c.run(ctx, side)
			if err != nil {
				return "", fmt.Errorf("%s: %w", catchNames[side], err)
			}
			b.say("round %d of %d, %s: %.0f MB in %.1f s, %.0f MB/s", r+1, b.catchupRounds, catchNames[side], float64(got.bytes)/1e6, got.took.Seconds(), got.rate())
			rates[side] = append(rates[side], got.rate())
		}
		if err := c.finishRound(ctx); err != nil {
			return "", err
		}
	}
	idle, err := c.idleMemory(ctx)
	if err != nil {
		return "", err
	}
	return c.report(rates, idle), nil
}

// catcher is the state of the catch-up part.
type catcher struct {
	*bench
	spools spools
	peak   map[string]uint64 // highest resident memory by process

	groupFrom, groupTo   pos.LSN
	nativeFrom, nativeTo pos.LSN
}

func (c *catcher) prepare(ctx context.Context) error {
	if err := c.settle(ctx); err != nil {
		return err
	}
	var err error
	c.spools, err = makeSpools(filepath.Join(c.dir, "spools"), int64(c.walMiB)<<20)
	return err
}

// slotFor is the slot of a side's pg_receivewal.
func slotFor(side int) string { return fmt.Sprintf("bench_receive_%d", side) }

// generate writes the round's WAL on both primaries while the receivers are
// away.
func (c *catcher) generate(ctx context.Context, round int) (err error) {
	if err := c.settle(ctx); err != nil {
		return err
	}
	for _, n := range group.Nodes {
		if err := proc.ResetPeak(c.group.PID(n)); err != nil {
			return fmt.Errorf("reset the peak memory of %s: %w", n, err)
		}
	}
	if err := c.group.Kill(ctx, "witness"); err != nil {
		return err
	}
	c.say("round %d: %d MiB of WAL on the group's primary, the backup acknowledges", round+1, c.walMiB)
	if c.groupFrom, c.groupTo, err = c.emit(ctx, c.group.Main(), "on"); err != nil {
		return err
	}
	for _, side := range []int{catchReceive, catchReceiveSync} {
		if _, err := c.native.main.Query(ctx, "select pg_create_physical_replication_slot($1, true)", slotFor(side)); err != nil {
			return err
		}
	}
	if err := c.native.standby.Stop(); err != nil {
		return err
	}
	c.say("round %d: the same on the native primary, nobody listens", round+1)
	c.nativeFrom, c.nativeTo, err = c.emit(ctx, c.native.main.Server, "local")
	return err
}

// emit writes WAL and returns where it begins and ends. A little more follows
// the end: pg_receivewal stops only when it has seen what lies beyond.
func (c *catcher) emit(ctx context.Context, s pg.Server, syncCommit string) (from, to pos.LSN, err error) {
	conn, err := s.Connect(ctx)
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "set synchronous_commit = "+syncCommit); err != nil {
		return 0, 0, err
	}
	if from, err = flushed(ctx, s); err != nil {
		return 0, 0, err
	}
	// A MiB at a time, sixteen to a commit.
	const message = "select count(pg_logical_emit_message(true, 'bench', repeat('0123456789abcdef', 65536))) from generate_series(1, $1::int)"
	for left := c.walMiB; left > 0; left -= 16 {
		if _, err := conn.Exec(ctx, message, min(left, 16)); err != nil {
			return 0, 0, fmt.Errorf("write WAL: %w", err)
		}
	}
	if to, err = flushed(ctx, s); err != nil {
		return 0, 0, err
	}
	_, err = conn.Exec(ctx, "select pg_logical_emit_message(true, 'bench', 'beyond')")
	return from, to, err
}

func (c *catcher) run(ctx context.Context, side int) (caught, error) {
	ctx, cancel := context.WithTimeout(ctx, catchWithin)
	defer cancel()
	switch side {
	case catchWitness:
		return c.witness(ctx)
	case catchSpool:
		got, err := c.spools.run(ctx)
		c.note("spool from spool: receiver", got.peak)
		return got, err
	case catchReceive:
		return c.receive(ctx, side)
	case catchReceiveSync:
		return c.receive(ctx, side, "--synchronous")
	default:
		return c.standby(ctx)
	}
}

func (c *catcher) note(name string, peak uint64) { c.peak[name] = max(c.peak[name], peak) }

// witness starts the witness' daemon and waits until it says that it has
// everything on its disk.
func (c *catcher) witness(ctx context.Context) (caught, error) {
	began := time.Now()
	if err := c.group.StartDaemon(ctx, "witness"); err != nil {
		return caught{}, err
	}
	err := pg.Until(ctx, catchWithin, "the witness has caught up", func() (bool, error) {
		if c.group.PID("witness") == 0 {
			return false, fmt.Errorf("the witness' daemon ended; see its log in %s", c.group.Dir)
		}
		n, err := c.group.Self(ctx, "witness")
		return err == nil && n.Durable >= c.groupTo, nil
	})
	got := caught{bytes: c.groupTo.Sub(c.groupFrom), took: time.Since(began)}
	for _, n := range group.Nodes {
		m, merr := proc.ReadMemory(c.group.PID(n))
		if merr != nil {
			return got, merr
		}
		c.note(n+"'s daemon", m.Peak)
	}
	return got, err
}

// receive runs pg_receivewal into an empty directory.
func (c *catcher) receive(ctx context.Context, side int, args ...string) (caught, error) {
	dir := filepath.Join(c.dir, slotFor(side))
	if err := c.tools.MakeDir(dir); err != nil {
		return caught{}, err
	}
	defer os.RemoveAll(dir)
	args = append(append(c.native.main.Args(), "-D", dir, "-S", slotFor(side), "-E", c.nativeTo.String(), "--no-loop"), args...)
	began := time.Now()
	_, err := c.tools.Run(ctx, "pg_receivewal", args...)
	return caught{bytes: c.nativeTo.Sub(c.nativeFrom), took: time.Since(began)}, err
}

// standby starts the native standby and waits until its walreceiver has
// flushed everything.
func (c *catcher) standby(ctx context.Context) (caught, error) {
	began := time.Now()
	if err := c.native.standby.Start(ctx); err != nil {
		return caught{}, err
	}
	conn, err := c.native.standby.Connect(ctx)
	if err != nil {
		return caught{}, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = pg.Until(ctx, catchWithin, "the native standby has caught up", func() (bool, error) {
		var done bool
		err := conn.QueryRow(ctx, "select coalesce(max(flushed_lsn) >= $1::text::pg_lsn, false) from pg_stat_wal_receiver", c.nativeTo.String()).Scan(&done)
		return done, err
	})
	return caught{bytes: c.nativeTo.Sub(c.nativeFrom), took: time.Since(began)}, err
}

// finishRound gives the disk back what the round's receivers held.
func (c *catcher) finishRound(ctx context.Context) error {
	for _, side := range []int{catchReceive, catchReceiveSync} {
		if err := c.native.main.Exec(ctx, "select pg_drop_replication_slot('"+slotFor(side)+"')"); err != nil {
			return err
		}
	}
	return c.settle(ctx)
}

// idleMemory is every daemon's resident memory after a rest.
func (c *catcher) idleMemory(ctx context.Context) (map[string]uint64, error) {
	c.say("resting for %s", c.idle)
	if err := rest(ctx, c.idle); err != nil {
		return nil, err
	}
	out := map[string]uint64{}
	for _, n := range group.Nodes {
		m, err := proc.ReadMemory(c.group.PID(n))
		if err != nil {
			return nil, err
		}
		out[n+"'s daemon"] = m.Now
	}
	return out, nil
}

func (c *catcher) report(rates [catchSides][]float64, idle map[string]uint64) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%d MiB of WAL were written while the receiver was away; its time runs from the start of its process until all of it is durable there, %d rounds in changing order, page caches warm. "+
		"The native standby also replays meanwhile. Spool from spool is the library's fetch between two processes. MB is 10⁶ bytes; median (lowest – highest), ratios per round.\n\n", c.walMiB, c.catchupRounds)
	t := doc.Table{Head: []string{"receiver", "MB/s", "÷ pg_receivewal", "÷ pg_receivewal --synchronous", "÷ native standby"}}
	for side, name := range catchNames {
		row := []string{name, stats.Summarize(rates[side]).Format(0)}
		for _, other := range []int{catchReceive, catchReceiveSync, catchStandby} {
			row = append(row, stats.Summarize(stats.Ratios(rates[side], rates[other])).Format(2))
		}
		t.Rows = append(t.Rows, row)
	}
	fmt.Fprintf(&out, "%s\nHighest resident memory (VmHWM) while the WAL was written and caught up with, limit %d MiB, and resident memory after %s of rest, limit %d MiB:\n\n",
		t, loadedLimit>>20, c.idle, idleLimit>>20)
	m := doc.Table{Head: []string{"process", "peak, MiB", "", "idle, MiB", ""}}
	for _, n := range group.Nodes {
		name := n + "'s daemon"
		m.Rows = append(m.Rows, []string{name, mib(c.peak[name]), verdict(c.peak[name] <= loadedLimit), mib(idle[name]), verdict(idle[name] <= idleLimit)})
	}
	name := "spool from spool: receiver"
	m.Rows = append(m.Rows, []string{name, mib(c.peak[name]), verdict(c.peak[name] <= loadedLimit), "", ""})
	out.WriteString(m.String())
	return out.String()
}

func mib(bytes uint64) string { return fmt.Sprintf("%.1f", float64(bytes)/(1<<20)) }
