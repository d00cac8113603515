package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/stats"
)

const (
	lagClients = 8
	lagShare   = 0.6                   // of native's highest rate
	lagPause   = 10 * time.Millisecond // between two samples
	// lagLost is how long a change may be awaited before the run is given up.
	lagLost = 30 * time.Second
)

// lag compares how long a change takes from the primary's disk until a query
// on the standby sees it.
func lag(ctx context.Context, b *bench) (string, error) {
	if err := b.fill(ctx); err != nil {
		return "", err
	}
	rate := b.rate
	if rate == 0 {
		if err := b.settle(ctx); err != nil {
			return "", err
		}
		top, err := b.tools.Bench(ctx, b.native.main.Server, pg.Load{Clients: lagClients, For: b.length()})
		if err != nil {
			return "", err
		}
		rate = top.TPS * lagShare
		b.say("native reaches %.1f tps; the load is %.1f", top.TPS, rate)
	}
	sides := [2][2]pg.Server{{b.group.Main(), b.group.Backup()}, {b.native.main.Server, b.native.standby.Server}}
	names := [2]string{"group: main → backup", "native: primary → standby"}
	var p50, p99, tps [2][]float64
	samples := 0
	for r := range b.rounds {
		for _, side := range stats.Order(2, r) {
			if err := b.settle(ctx); err != nil {
				return "", err
			}
			res, ms, err := lagRun(ctx, b, sides[side][0], sides[side][1], rate)
			if err != nil {
				return "", fmt.Errorf("%s: %w", names[side], err)
			}
			p50[side] = append(p50[side], stats.Percentile(ms, 50))
			p99[side] = append(p99[side], stats.Percentile(ms, 99))
			tps[side] = append(tps[side], res.TPS)
			samples += len(ms)
			b.say("round %d of %d, %s: p50 %.2f ms, p99 %.2f ms of %d", r+1, b.rounds, names[side], stats.Percentile(ms, 50), stats.Percentile(ms, 99), len(ms))
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "pgbench with %d clients offers %.0f transactions/s (%.0f %% of native's highest rate) in runs of %d s, %d rounds in changing order. "+
		"Beside it one poller commits a counter on the primary with `synchronous_commit = local` and asks the standby without pause until it sees it; "+
		"its one clock counts from the commit's return, thus from the primary's disk. %d samples; median (lowest – highest) of the rounds. %s\n\n",
		lagClients, rate, lagShare*100, b.seconds, b.rounds, samples, b.native.settingsNote())
	t := doc.Table{Head: []string{"side", "p50, ms", "p99, ms", "load reached, tps"}}
	for side, n := range names {
		t.Rows = append(t.Rows, []string{n, stats.Summarize(p50[side]).Format(2), stats.Summarize(p99[side]).Format(2), stats.Summarize(tps[side]).Format(0)})
	}
	r50, r99 := stats.Ratios(p50[0], p50[1]), stats.Ratios(p99[0], p99[1])
	t.Rows = append(t.Rows, []string{"group ÷ native, per round", stats.Summarize(r50).Format(2), stats.Summarize(r99).Format(2), ""})
	fmt.Fprintf(&out, "%s\nRatios round by round: p50 %s; p99 %s.\n", t, series(r50), series(r99))
	return out.String(), nil
}

// lagRun samples the lag, in milliseconds, while the load runs.
func lagRun(ctx context.Context, b *bench, primary, standby pg.Server, rate float64) (pg.Result, []float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p, err := newPoller(ctx, primary, standby)
	if err != nil {
		return pg.Result{}, nil, err
	}
	defer p.close()
	type polled struct {
		ms  []float64
		err error
	}
	stop, done := make(chan struct{}), make(chan polled, 1)
	go func() {
		ms, err := p.run(ctx, stop)
		if err != nil {
			cancel()
		}
		done <- polled{ms, err}
	}()
	res, err := b.tools.Bench(ctx, primary, pg.Load{Clients: lagClients, For: b.length(), Rate: rate})
	close(stop)
	got := <-done
	if got.err != nil {
		return res, nil, got.err
	}
	return res, got.ms, err
}

// poller commits a counter on one server and looks for it on the other.
type poller struct {
	primary, standby *pgx.Conn
	n                int64
}

func newPoller(ctx context.Context, primary, standby pg.Server) (*poller, error) {
	err := primary.Exec(ctx, "drop table if exists bench_lag", "create table bench_lag (n bigint not null)", "insert into bench_lag values (0)")
	if err != nil {
		return nil, err
	}
	p := &poller{}
	if p.primary, err = primary.Connect(ctx); err != nil {
		return nil, err
	}
	if p.standby, err = standby.Connect(ctx); err != nil {
		p.close()
		return nil, err
	}
	if _, err = p.primary.Exec(ctx, "set synchronous_commit = local"); err != nil {
		p.close()
		return nil, err
	}
	err = pg.Until(ctx, lagLost, "the counter's table is on the standby", func() (bool, error) {
		var there bool
		err := p.standby.QueryRow(ctx, "select to_regclass('bench_lag') is not null").Scan(&there)
		return there, err
	})
	if err == nil {
		err = p.await(ctx) // the row, too
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *poller) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, c := range []*pgx.Conn{p.primary, p.standby} {
		if c != nil {
			c.Close(ctx)
		}
	}
}

// run samples until stop is closed.
func (p *poller) run(ctx context.Context, stop <-chan struct{}) ([]float64, error) {
	var ms []float64
	for {
		p.n++
		if _, err := p.primary.Exec(ctx, "update bench_lag set n = $1", p.n); err != nil {
			return nil, fmt.Errorf("commit the counter: %w", err)
		}
		flushed := time.Now()
		if err := p.await(ctx); err != nil {
			return nil, err
		}
		ms = append(ms, time.Since(flushed).Seconds()*1e3)
		select {
		case <-stop:
			return ms, nil
		case <-time.After(lagPause):
		}
	}
}

// await asks the standby without pause until it has the counter.
func (p *poller) await(ctx context.Context) error {
	deadline := time.Now().Add(lagLost)
	for {
		n := int64(-1)
		if err := p.standby.QueryRow(ctx, "select max(n) from bench_lag").Scan(&n); err != nil {
			return fmt.Errorf("look for the counter: %w", err)
		}
		if n >= p.n {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the standby has not seen a change for %s", lagLost)
		}
	}
}
