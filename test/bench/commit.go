package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/stats"
)

// The sides of commit.
const (
	sideGroup = iota
	sideNoWitness
	sideNative
	commitSides
)

var commitNames = [commitSides]string{"group: main, backup, witness", "group: main, backup (witness down)", "native: primary, standby"}

// commit compares the rate of synchronous commits.
func commit(ctx context.Context, b *bench) (string, error) {
	if err := b.fill(ctx); err != nil {
		return "", err
	}
	counts, err := b.clientCounts()
	if err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "pgbench, TPC-B-like, scale %d, fsync on, runs of %d s, %d rounds in changing order; between runs every server makes a checkpoint and the idle side stays up. "+
		"The ratio is taken per round; median (lowest – highest). %s\n", b.scale, b.seconds, b.rounds, b.native.settingsNote())
	for _, n := range counts {
		var tps, ms [commitSides][]float64
		for r := range b.rounds {
			for _, side := range stats.Order(commitSides, r) {
				res, err := commitRun(ctx, b, side, n)
				if err != nil {
					return "", fmt.Errorf("%s: %w", commitNames[side], err)
				}
				b.say("round %d of %d, %d clients, %s: %.1f tps", r+1, b.rounds, n, commitNames[side], res.TPS)
				tps[side] = append(tps[side], res.TPS)
				ms[side] = append(ms[side], res.Latency.Seconds()*1e3)
			}
		}
		fmt.Fprintf(&out, "\n**%s**\n\n%s", plural(n, "client"), commitTable(tps, ms))
		fmt.Fprintf(&out, "\nRatios round by round: %s; witness down: %s.\n",
			series(stats.Ratios(tps[sideGroup], tps[sideNative])), series(stats.Ratios(tps[sideNoWitness], tps[sideNative])))
	}
	return out.String(), nil
}

func commitTable(tps, ms [commitSides][]float64) string {
	t := doc.Table{Head: []string{"side", "commits/s", "mean latency, ms", "commits/s ÷ native"}}
	for side, name := range commitNames {
		ratio := "1"
		if side != sideNative {
			ratio = stats.Summarize(stats.Ratios(tps[side], tps[sideNative])).Format(2)
		}
		t.Rows = append(t.Rows, []string{name, stats.Summarize(tps[side]).Format(0), stats.Summarize(ms[side]).Format(2), ratio})
	}
	return t.String()
}

// commitRun is one run of one side, from rest.
func commitRun(ctx context.Context, b *bench, side, clients int) (pg.Result, error) {
	if err := b.settle(ctx); err != nil {
		return pg.Result{}, err
	}
	load := pg.Load{Clients: clients, For: b.length()}
	if side == sideNative {
		return b.tools.Bench(ctx, b.native.main.Server, load)
	}
	if side == sideNoWitness {
		if err := stopWitness(ctx, b); err != nil {
			return pg.Result{}, err
		}
	}
	res, err := b.tools.Bench(ctx, b.group.Main(), load)
	if err == nil && side == sideNoWitness {
		err = b.group.StartDaemon(ctx, "witness")
	}
	return res, err
}

// stopWitness stops the witness' daemon and waits until the group knows.
func stopWitness(ctx context.Context, b *bench) error {
	if err := b.group.Signal("witness", syscall.SIGTERM); err != nil {
		return err
	}
	return pg.Until(ctx, time.Minute, "the witness is gone and missed", func() (bool, error) {
		if b.group.PID("witness") != 0 {
			return false, nil
		}
		st, err := b.group.Status(ctx, "main")
		if err != nil {
			return false, nil
		}
		for _, n := range st.Nodes {
			if n.Name == "witness" {
				return n.Presence != "heard", nil
			}
		}
		return false, nil
	})
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// series lists ratios with two decimals.
func series(v []float64) string {
	s := make([]string, len(v))
	for i, x := range v {
		s[i] = fmt.Sprintf("%.2f", x)
	}
	return strings.Join(s, " ")
}
