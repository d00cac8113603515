package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/stats"
)

const (
	killWriters = 8
	// killWindow is how long before and after a kill commits are looked at.
	killWindow = 5 * time.Second
	// killLimit is by how much the slowest commit may get slower.
	killLimit = 50 * time.Millisecond
	// killLost is how long a commit may take before the run is given up.
	killLost = 30 * time.Second
)

// sample is one commit.
type sample struct{ began, ended time.Time }

// kill shows what clients notice when a peer's daemon is killed.
func kill(ctx context.Context, b *bench) (string, error) {
	if err := b.group.Main().Exec(ctx, "create table if not exists bench_kill (id bigint generated always as identity primary key, writer int not null)"); err != nil {
		return "", err
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%d writers, each on its own connection, insert single rows. After eleven seconds a peer's daemon gets SIGKILL; the slowest commit of the %.0f s before is compared with the slowest that "+
		"was under way at the kill or began in the %.0f s after. The difference must be at most %d ms. *Noise* is the same difference between the two spans of five seconds before the kill. Each kill is a run of its own; the daemon is brought back and the group healthy before the next.\n\n",
		killWriters, killWindow.Seconds(), killWindow.Seconds(), killLimit.Milliseconds())
	t := doc.Table{Head: []string{"killed", "run", "commits/s", "slowest before, ms", "slowest after, ms", "difference, ms", "noise, ms", ""}}
	for _, node := range []string{"backup", "witness"} {
		var worst []float64
		for i := range b.kills {
			k, err := killRun(ctx, b, node)
			if err != nil {
				return "", fmt.Errorf("%s: %w", node, err)
			}
			b.say("%s killed, run %d of %d: slowest %s before, %s after", node, i+1, b.kills, k.before, k.after)
			worst = append(worst, millis(k.after-k.before))
			t.Rows = append(t.Rows, []string{node + "'s daemon", fmt.Sprint(i + 1), fmt.Sprintf("%.0f", k.rate), fmt.Sprintf("%.1f", millis(k.before)), fmt.Sprintf("%.1f", millis(k.after)),
				fmt.Sprintf("%+.1f", millis(k.after-k.before)), fmt.Sprintf("%+.1f", millis(k.before-k.earlier)), verdict(k.after-k.before <= killLimit)})
		}
		s := stats.Summarize(worst)
		t.Rows = append(t.Rows, []string{node + "'s daemon", "median, worst", "", "", "", fmt.Sprintf("%+.1f, %+.1f", s.Median, s.Max), "", verdict(s.Max <= millis(killLimit))})
	}
	out.WriteString(t.String())
	return out.String(), nil
}

func millis(d time.Duration) float64 { return d.Seconds() * 1e3 }

func verdict(ok bool) string {
	if ok {
		return "pass"
	}
	return "**miss**"
}

// killed is the outcome of one kill: the slowest commits of three spans.
type killed struct {
	earlier, before, after time.Duration
	rate                   float64 // commits per second in the span before
}

func killRun(ctx context.Context, b *bench, node string) (killed, error) {
	if err := b.group.WaitSettled(ctx); err != nil {
		return killed{}, err
	}
	if err := b.group.Main().Exec(ctx, "checkpoint"); err != nil {
		return killed{}, err
	}
	stop, done := make(chan struct{}), make(chan writersEnd, 1)
	go func() { done <- writers(ctx, b.group.Main(), stop) }()
	err := rest(ctx, 2*killWindow+time.Second)
	at := time.Now()
	if err == nil {
		err = b.group.Kill(ctx, node)
	}
	if err == nil {
		err = rest(ctx, killWindow)
	}
	close(stop)
	end := <-done
	if b.group.PID(node) == 0 {
		err = errors.Join(err, b.group.StartDaemon(ctx, node))
	}
	if err = errors.Join(err, end.err); err != nil {
		return killed{}, err
	}
	if err := b.group.WaitSettled(ctx); err != nil {
		return killed{}, err
	}
	return judge(end.samples, at)
}

// judge compares the spans around the kill at at. A commit counts in the span
// in which it ended; after the kill also those that took longer than the span.
func judge(samples []sample, at time.Time) (killed, error) {
	var k killed
	before, after := 0, 0
	for _, s := range samples {
		took := s.ended.Sub(s.began)
		switch {
		case s.ended.Before(at.Add(-2*killWindow)) || !s.began.Before(at.Add(killWindow)):
		case s.ended.Before(at.Add(-killWindow)):
			k.earlier = max(k.earlier, took)
		case s.ended.Before(at):
			k.before = max(k.before, took)
			before++
		default:
			k.after = max(k.after, took)
			after++
		}
	}
	if before == 0 || after == 0 {
		return k, fmt.Errorf("%d commits before the kill and %d after it are too few to compare", before, after)
	}
	k.rate = float64(before) / killWindow.Seconds()
	return k, nil
}

type writersEnd struct {
	samples []sample
	err     error
}

// writers insert rows until stop is closed. An insert that fails ends the run:
// a killed peer may not be noticed that way.
func writers(ctx context.Context, s pg.Server, stop <-chan struct{}) writersEnd {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var end writersEnd
	var wg sync.WaitGroup
	for w := range killWriters {
		wg.Go(func() {
			got, err := writer(ctx, s, w, stop)
			if err != nil {
				cancel()
			}
			mu.Lock()
			defer mu.Unlock()
			end.samples = append(end.samples, got...)
			if end.err == nil {
				end.err = err // the first one is the cause of the others
			}
		})
	}
	wg.Wait()
	return end
}

func writer(ctx context.Context, s pg.Server, w int, stop <-chan struct{}) ([]sample, error) {
	c, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close(context.WithoutCancel(ctx))
	var out []sample
	for {
		select {
		case <-stop:
			return out, nil
		default:
		}
		began := time.Now()
		ictx, cancel := context.WithTimeout(ctx, killLost)
		_, err := c.Exec(ictx, "insert into bench_kill (writer) values ($1)", w)
		cancel()
		if err != nil {
			return out, fmt.Errorf("insert of writer %d: %w", w, err)
		}
		out = append(out, sample{began, time.Now()})
	}
}
