package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/proc"
)

const (
	// pauseFor is how long a process is stopped.
	pauseFor = 300 * time.Millisecond
	// One pause follows the other after pauseEvery and a part of pauseSpread.
	pauseEvery  = 2 * time.Second
	pauseSpread = 3 * time.Second
	// alarmSay is how often the person who waits is told something.
	alarmSay = time.Minute
)

// alarms is one run of pauses.
type alarms struct {
	*changes
	random  *rand.Rand
	minutes float64
	pauses  map[group.Process]int
	missed  int           // pauses of a process that did not run
	longest time.Duration // of the pauses, as they came out
	// What was measured at the end.
	took, gap, slowest time.Duration
	commits            int
	busy               float64 // share of the processors' time
	begun              int     // epochs
	causes             []string
}

// falseAlarm shows that a machine that is busy to the limit, on which processes
// stop for a while now and then, is not taken for a lost primary.
func falseAlarm(ctx context.Context, b *bench) (text string, err error) {
	c, err := prepareChanges(ctx, b)
	defer func() { err = errors.Join(err, c.close()) }()
	if err != nil {
		return "", err
	}
	intro, err := c.loadIntro(ctx)
	if err != nil {
		return "", err
	}
	b.say("seed %d", b.seed)
	a := &alarms{changes: c, random: rand.New(rand.NewPCG(uint64(b.seed), 0)), minutes: b.options.minutes, pauses: map[group.Process]int{}}
	err = a.run(ctx)
	verdict, verr := c.verify(ctx)
	if err = errors.Join(err, verr); err != nil {
		err = fmt.Errorf("seed %d: %w", b.seed, err)
	}
	return a.report(intro, verdict), err
}

// run pauses processes of a group under load for as long as was asked, and looks
// afterwards whether an epoch was begun.
func (a *alarms) run(ctx context.Context) (err error) {
	primary, err := a.primary(ctx)
	if err != nil {
		return err
	}
	st, err := a.group.WaitReady(ctx, primary, ledElsewhere, leaderOff)
	if err != nil {
		return err
	}
	w, err := a.writers(ctx)
	if err != nil {
		return err
	}
	defer w.Stop()
	load, err := startBurners(ctx, a.dir)
	defer func() { err = errors.Join(err, load.stop()) }()
	if err != nil {
		return err
	}
	before, err := proc.ReadMachine()
	if err != nil {
		return err
	}
	began, commits := time.Now(), w.Acked()
	err = a.pauseAll(ctx, began)
	now := time.Now()
	a.took, a.gap, a.slowest, a.commits = now.Sub(began), w.OutageBetween(began, now), w.SlowestWriter(began, now), w.Acked()-commits
	after, merr := proc.ReadMachine()
	if total := after.Busy + after.Idle + after.Wait - before.Busy - before.Idle - before.Wait; total > 0 {
		a.busy = (after.Busy - before.Busy).Seconds() / total.Seconds()
	}
	if err = errors.Join(err, merr, load.stop()); err != nil {
		return err
	}
	w.Stop()
	return a.judge(ctx, st.Group.Epoch)
}

// pauseAll stops one process after another, until the time is over.
func (a *alarms) pauseAll(ctx context.Context, began time.Time) error {
	said := began
	for time.Since(began) < time.Duration(a.minutes*float64(time.Minute)) {
		if err := rest(ctx, pauseEvery+time.Duration(a.random.Int64N(int64(pauseSpread)))); err != nil {
			return err
		}
		all := group.Processes()
		if err := a.pause(all[a.random.IntN(len(all))]); err != nil {
			return err
		}
		if time.Since(said) >= alarmSay {
			said = time.Now()
			st, err := a.group.Any(ctx)
			if err != nil {
				a.say("%d pauses; no daemon answers: %v", a.count(), err)
				continue
			}
			a.say("%d pauses, the longest %.0f ms; epoch %s, primary %s: %s", a.count(), millis(a.longest), st.Group.Epoch, st.Group.Primary, st.Group.Safe.Sentence)
		}
	}
	return nil
}

// pause stops one process and lets it go on, whatever happens.
func (a *alarms) pause(p group.Process) error {
	pids, err := a.group.Send(p, syscall.SIGSTOP)
	began := time.Now()
	switch {
	case errors.Is(err, group.ErrNotRunning):
		a.missed++
		return nil
	case err != nil:
		return err
	}
	time.Sleep(pauseFor) // not to be interrupted
	a.group.Continue(p, pids)
	a.longest = max(a.longest, time.Since(began))
	a.pauses[p]++
	return nil
}

func (a *alarms) count() int {
	n := 0
	for _, k := range a.pauses {
		n += k
	}
	return n
}

// judge waits until the group is healthy and counts the epochs that were begun
// since the one before.
func (a *alarms) judge(ctx context.Context, before pos.Epoch) error {
	primary, err := a.primary(ctx)
	if err != nil {
		return err
	}
	st, err := a.group.WaitReady(ctx, primary, "", nil)
	if err != nil {
		return err
	}
	a.begun = int(st.Group.Epoch.Num - before.Num)
	if a.begun == 0 {
		return nil
	}
	all, err := a.group.History(ctx, primary)
	for _, c := range all {
		if before.Less(c.Epoch) {
			a.causes = append(a.causes, fmt.Sprintf("epoch %s (%s, %s → %s): %s", c.Epoch, c.Kind, c.From, c.To, c.Cause))
		}
	}
	return errors.Join(fmt.Errorf("%d epochs were begun although nothing failed: %s", a.begun, strings.Join(a.causes, "; ")), err)
}

func (a *alarms) report(intro, rows string) string {
	if a.took == 0 {
		return ""
	}
	var out strings.Builder
	fmt.Fprintf(&out, "For %.1f minutes one process keeps each processor busy, one copies memory and one writes and makes it durable on the same disk. Every %.0f to %.0f s one process of the group, drawn from all daemons, guards and PostgreSQLs (postmaster with all children), "+
		"is stopped for %d ms by SIGSTOP. No epoch may begin. `-seed=%d` repeats the order. %s %s\n\n", a.took.Minutes(), pauseEvery.Seconds(), (pauseEvery + pauseSpread).Seconds(), pauseFor.Milliseconds(), a.seed, intro, rows)
	t := doc.Table{Head: []string{"measured", "", ""}, Rows: [][]string{
		{"epochs begun, must be 0", fmt.Sprint(a.begun), verdict(a.begun == 0)},
		{"pauses", fmt.Sprint(a.count()), ""},
		{"longest pause as it came out, ms", fmt.Sprintf("%.0f", millis(a.longest)), ""},
		{"pauses left out, since the process did not run", fmt.Sprint(a.missed), ""},
		{"longest time without a commit of any writer, ms", fmt.Sprintf("%.0f", millis(a.gap)), ""},
		{"longest of any single writer, ms", fmt.Sprintf("%.0f", millis(a.slowest)), ""},
		{"commits/s", fmt.Sprintf("%.0f", float64(a.commits)/a.took.Seconds()), ""},
		{"processors busy", fmt.Sprintf("%.0f %%", a.busy*100), ""},
	}}
	out.WriteString(t.String())
	for _, c := range a.causes {
		fmt.Fprintf(&out, "\n* %s\n", c)
	}
	p := doc.Table{Head: []string{"paused", "times"}}
	for _, k := range group.Processes() {
		p.Rows = append(p.Rows, []string{k.String(), fmt.Sprint(a.pauses[k])})
	}
	fmt.Fprintf(&out, "\n%s", p)
	return out.String()
}
