package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
)

// switchBar is what the median outage may be.
const switchBar = 250 * time.Millisecond

// switchover shows how long nobody can write while the primary moves.
func switchover(ctx context.Context, b *bench) (text string, err error) {
	c, err := newChanges(ctx, b)
	defer func() { err = errors.Join(err, c.close()) }()
	if err != nil {
		return "", err
	}
	intro, err := c.changeIntro(ctx)
	if err != nil {
		return "", err
	}
	var runs []changed
	for i := range b.runs {
		var r changed
		if r, err = c.switchOnce(ctx); err != nil {
			err = fmt.Errorf("run %d: %w", i+1, err)
			break
		}
		runs = append(runs, r)
		b.say("switchover %d of %d, %s → %s: outage %.0f ms, slowest writer %.0f ms, command %.0f ms, old primary: %s; %s", i+1, b.runs, r.from, r.to,
			millis(r.outage), millis(r.slowest), millis(r.command), method(r.change), phases(r.change))
		if err = c.byHand(ctx); err != nil {
			break
		}
	}
	verdict, verr := c.verify(ctx)
	return c.switchReport(intro, verdict, runs), errors.Join(err, verr)
}

// switchOnce moves the primary once and waits until its old one follows.
func (c *changes) switchOnce(ctx context.Context) (r changed, err error) {
	if r.from, err = c.primary(ctx); err != nil {
		return r, err
	}
	r.to = group.Other(r.from)
	st, err := c.group.WaitReady(ctx, r.from, ledElsewhere, leaderOff)
	if err != nil {
		return r, err
	}
	r.leader = st.Group.LedgerLeader
	w, err := c.writers(ctx)
	if err != nil {
		return r, err
	}
	defer w.Stop()
	if err := rest(ctx, changeRest); err != nil {
		return r, err
	}
	began := time.Now()
	if _, err := c.group.Command(ctx, r.to, "switchover", "--to", r.to); err != nil {
		return r, err
	}
	ended := time.Now()
	r.command = ended.Sub(began)
	if err := waitCommit(ctx, w, ended); err != nil {
		return r, err
	}
	if err := rest(ctx, changeRest); err != nil {
		return r, err
	}
	if _, err := c.group.WaitReady(ctx, r.to, "", nil); err != nil {
		return r, err
	}
	now := time.Now()
	r.outage, r.slowest = w.OutageBetween(began, now), w.SlowestWriter(began, now)
	if err := c.checkRun(ctx, w, r.to); err != nil {
		return r, err
	}
	r.change, err = c.recorded(ctx, r.to, st.Group.Epoch)
	return r, err
}

func (c *changes) switchReport(intro, verdict string, runs []changed) string {
	if len(runs) == 0 {
		return ""
	}
	var out strings.Builder
	fmt.Fprintf(&out, "`understudy switchover --to NODE` to the other data node and back, %d times, with the ledger led from another node than the primary. %s %s\n\n", len(runs), intro, verdict)
	sum := doc.Table{Head: []string{"ms", "runs", "median", "worst"}, Rows: [][]string{
		medianWorst("outage", pick(runs, func(r changed) time.Duration { return r.outage })),
		medianWorst("slowest writer", pick(runs, func(r changed) time.Duration { return r.slowest })),
		medianWorst("the command, from start to end", pick(runs, func(r changed) time.Duration { return r.command })),
	}}
	sum.Rows = append(sum.Rows, c.bareRows()...)
	outages := summary(runs, func(r changed) time.Duration { return r.outage })
	fmt.Fprintf(&out, "%s\nThe bar of the median outage, ms, is %s: %s. The old primary came back by: %s.\n\n%s\n", sum, bar(switchBar), passed(outages, outages.Median, switchBar), methods(runs), phaseTable(runs))
	t := doc.Table{Head: []string{"run", "primary", "outage, ms", "slowest writer, ms", "command, ms", "old primary", "phases, ms"}}
	for i, r := range runs {
		t.Rows = append(t.Rows, []string{fmt.Sprint(i + 1), r.from + " → " + r.to, fmt.Sprintf("%.0f", millis(r.outage)), fmt.Sprintf("%.0f", millis(r.slowest)),
			fmt.Sprintf("%.0f", millis(r.command)), method(r.change), phases(r.change)})
	}
	out.WriteString(t.String())
	return out.String()
}
