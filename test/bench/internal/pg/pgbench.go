package pg

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// ErrOutput is returned when pgbench did not print what is looked for.
var ErrOutput = errors.New("not a result of pgbench")

// Load is one run of pgbench's built-in TPC-B-like transaction.
type Load struct {
	Clients int
	For     time.Duration // whole seconds
	Rate    float64       // transactions per second; zero is as fast as it goes
}

// Result is what pgbench found.
type Result struct {
	TPS     float64
	Latency time.Duration // mean; with a rate it is counted from the time due
	Failed  int
}

// FillBench makes pgbench's tables.
func (t *Tools) FillBench(ctx context.Context, s Server, scale int) error {
	_, err := t.Run(ctx, "pgbench", append(s.Args(), "-i", "-q", "-s", strconv.Itoa(scale), "postgres")...)
	return err
}

// Transactions runs n of pgbench's transactions for each of some clients, as
// fast as it goes.
func (t *Tools) Transactions(ctx context.Context, s Server, clients, n int) error {
	_, err := t.Run(ctx, "pgbench", append(s.Args(), "-n", "-c", strconv.Itoa(clients), "-j", strconv.Itoa(min(clients, 2)), "-t", strconv.Itoa(n), "postgres")...)
	return err
}

// Bench runs the load. A run in which a transaction failed is an error.
func (t *Tools) Bench(ctx context.Context, s Server, l Load) (Result, error) {
	args := append(s.Args(), "-c", strconv.Itoa(l.Clients), "-j", strconv.Itoa(min(l.Clients, 2)),
		"-T", strconv.Itoa(int(l.For/time.Second)))
	if l.Rate > 0 {
		args = append(args, "-R", strconv.FormatFloat(l.Rate, 'f', 1, 64))
	}
	out, err := t.Run(ctx, "pgbench", append(args, "postgres")...)
	if err != nil {
		return Result{}, err
	}
	r, err := parseBench(out)
	if err == nil && r.Failed > 0 {
		err = fmt.Errorf("pgbench: %d transactions failed", r.Failed)
	}
	return r, err
}

// parseBench reads the summary that pgbench 14 and later print.
func parseBench(out string) (Result, error) {
	var r Result
	found := 0
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		switch k, v, _ := strings.Cut(line, " = "); k {
		case "latency average":
			ms, err := strconv.ParseFloat(strings.TrimSuffix(v, " ms"), 64)
			if err != nil {
				return r, fmt.Errorf("%w: %q", ErrOutput, line)
			}
			r.Latency = time.Duration(ms * float64(time.Millisecond))
			found++
		case "tps":
			tps, _, _ := strings.Cut(v, " ")
			n, err := strconv.ParseFloat(tps, 64)
			if err != nil || n <= 0 {
				return r, fmt.Errorf("%w: %q", ErrOutput, line)
			}
			r.TPS = n
			found++
		}
		if v, ok := strings.CutPrefix(line, "number of failed transactions: "); ok {
			n, _, _ := strings.Cut(v, " ")
			failed, err := strconv.Atoi(n)
			if err != nil {
				return r, fmt.Errorf("%w: %q", ErrOutput, line)
			}
			r.Failed = failed
		}
	}
	if found != 2 {
		return r, fmt.Errorf("%w: %q", ErrOutput, out)
	}
	return r, nil
}
