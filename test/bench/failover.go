package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/doc"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/cluster/clients"
)

const (
	// killSpread is the span from which the moment of a kill is drawn.
	killSpread = 3 * time.Second
	// leaderTries is how often a run tries to have the ledger's leader on the
	// primary before it is given up.
	leaderTries = 5
)

// failovers is one series of kills.
type failovers struct {
	*changes
	random *rand.Rand
	// leaderOn kills the ledger's leader with the primary.
	leaderOn bool
	runs     []changed
	// unarranged counts the runs in which the leader was never on the primary.
	unarranged int
}

// failover shows how long nobody can write when the primary's host is lost and
// an operator orders a failover at once.
func failover(ctx context.Context, b *bench) (text string, err error) {
	c, err := newChanges(ctx, b)
	defer func() { err = errors.Join(err, c.close()) }()
	if err != nil {
		return "", err
	}
	intro, err := c.changeIntro(ctx)
	if err != nil {
		return "", err
	}
	b.say("seed %d", b.seed)
	random := rand.New(rand.NewPCG(uint64(b.seed), 0))
	all := []*failovers{{changes: c, random: random}}
	if b.leaderOn {
		all = append(all, &failovers{changes: c, random: random, leaderOn: true})
	}
	for _, f := range all {
		if err = f.series(ctx); err != nil {
			err = fmt.Errorf("seed %d: %w", b.seed, err)
			break
		}
	}
	verdict, verr := c.verify(ctx)
	err = errors.Join(err, verr)
	var out strings.Builder
	fmt.Fprintf(&out, "SIGKILL for every process of the primary's node (daemon, guard, PostgreSQL with all its children) at a random moment of the load, and at once `understudy failover --to NODE` on the other data node. "+
		"*Resumes* is from the start of that command to the first acknowledged commit. Then the killed daemon is started again and has to come back as a healthy standby, under the load, before the next run. `-seed=%d` repeats the moments. %s %s\n", b.seed, intro, verdict)
	for _, f := range all {
		out.WriteString(f.report())
	}
	return out.String(), err
}

// title names the series.
func (f *failovers) title() string {
	if f.leaderOn {
		return "ledger leader on the primary, lost with it"
	}
	return "ledger leader on another node"
}

func (f *failovers) series(ctx context.Context) error {
	for i := range f.bench.runs {
		r, arranged, err := f.once(ctx)
		if err != nil {
			return fmt.Errorf("%s, run %d: %w", f.title(), i+1, err)
		}
		if !arranged {
			f.unarranged++
			f.say("failover %d of %d: the ledger's leader was never on the primary in %d tries", i+1, f.bench.runs, leaderTries)
			continue
		}
		f.runs = append(f.runs, r)
		f.say("failover %d of %d, %s → %s, ledger leader %s: resumes after %.0f ms, outage %.0f ms, slowest writer %.0f ms; %s back by %s after %.1f s; %s", i+1, f.bench.runs, r.from, r.to, r.leader,
			millis(r.resumes), millis(r.outage), millis(r.slowest), r.from, method(r.change), r.back.Seconds(), phases(r.change))
		if err := f.byHand(ctx); err != nil {
			return err
		}
	}
	return nil
}

// once is one kill, from a healthy group to a healthy group. It is not
// arranged when the leader could not be had on the primary.
func (f *failovers) once(ctx context.Context) (r changed, arranged bool, err error) {
	if r.from, err = f.primary(ctx); err != nil {
		return r, false, err
	}
	if _, err := f.group.WaitReady(ctx, r.from, ledElsewhere, leaderOff); err != nil {
		return r, false, err
	}
	w, err := f.writers(ctx)
	if err != nil {
		return r, false, err
	}
	defer w.Stop()
	if f.leaderOn {
		if r.from, arranged, err = f.arrange(ctx, w, r.from); err != nil || !arranged {
			return r, false, err
		}
	} else if err := rest(ctx, time.Duration(f.random.Int64N(int64(killSpread)))); err != nil {
		return r, false, err
	}
	r.to = group.Other(r.from)
	epoch, err := f.strike(ctx, w, &r)
	if err != nil {
		if f.group.PID(r.from) == 0 { // for the rows, which are looked up in the end
			err = errors.Join(err, f.group.StartDaemon(ctx, r.from))
		}
		return r, true, err
	}
	if err := f.comeBack(ctx, w, &r); err != nil {
		return r, true, err
	}
	if err := f.checkRun(ctx, w, r.to); err != nil {
		return r, true, err
	}
	r.change, err = f.recorded(ctx, r.to, epoch)
	return r, true, err
}

// strike kills the primary's node and orders the failover; it returns the
// epoch before it.
func (f *failovers) strike(ctx context.Context, w *clients.Clients, r *changed) (epoch pos.Epoch, err error) {
	st, err := f.group.Status(ctx, r.from)
	if err != nil {
		return epoch, err
	}
	r.leader, epoch = st.Group.LedgerLeader, st.Group.Epoch
	killed := time.Now()
	if err := f.group.KillEverything(r.from); err != nil {
		return epoch, err
	}
	ordered := time.Now()
	_, err = f.group.Command(ctx, r.to, "failover", "--to", r.to)
	r.command = time.Since(ordered)
	if err = errors.Join(err, f.group.WaitGone(ctx, r.from)); err != nil {
		return epoch, err
	}
	if err := waitCommit(ctx, w, ordered); err != nil {
		return epoch, err
	}
	first, _ := w.FirstBegun(ordered)
	r.resumes = first.Sub(ordered)
	if err := rest(ctx, changeRest); err != nil {
		return epoch, err
	}
	now := time.Now()
	r.outage, r.slowest = w.OutageBetween(killed, now), w.SlowestWriter(killed, now)
	return epoch, nil
}

// comeBack starts the killed daemon and waits until its node is a healthy
// standby, under the load.
func (f *failovers) comeBack(ctx context.Context, w *clients.Clients, r *changed) error {
	started := time.Now()
	if err := f.group.StartDaemon(ctx, r.from); err != nil {
		return err
	}
	if _, err := f.group.WaitReady(ctx, r.to, "", nil); err != nil {
		return err
	}
	now := time.Now()
	r.back, r.backGap = now.Sub(started), w.OutageBetween(started, now)
	return nil
}

// arrange moves the primary to the node that leads the ledger, and returns at
// once when it does both: about a second later it leads no more.
func (c *changes) arrange(ctx context.Context, w *clients.Clients, primary string) (string, bool, error) {
	for range leaderTries {
		st, err := c.group.WaitReady(ctx, primary, ledElsewhere, leaderOff)
		if err != nil {
			return primary, false, err
		}
		if st.Group.LedgerLeader != group.Other(primary) {
			if err := c.leaderToData(ctx, primary); err != nil {
				return primary, false, err
			}
			continue
		}
		next := group.Other(primary)
		if _, err := c.group.Command(ctx, next, "switchover", "--to", next); err != nil {
			return primary, false, err
		}
		primary = next
		if ok, err := c.leads(ctx, w, primary, time.Now()); ok || err != nil {
			return primary, ok, err
		}
	}
	return primary, false, nil
}

// leads waits until the new primary leads the ledger, streams to the other
// data node and has acknowledged a commit, or leads no more.
func (c *changes) leads(ctx context.Context, w *clients.Clients, primary string, opened time.Time) (bool, error) {
	both := false
	err := pg.Until(ctx, 10*time.Second, "the ledger is led from one node or the other", func() (bool, error) {
		st, err := c.group.Status(ctx, primary)
		if err != nil || st.Group.Primary != primary || st.Group.LedgerLeader == "" {
			return false, nil
		}
		if st.Group.LedgerLeader != primary {
			return true, nil
		}
		_, served := w.FirstBegun(opened)
		both = served && st.Group.Phase == "opened" && st.Of(group.Other(primary)).Link.State == "streaming"
		return both, nil
	})
	return both, err
}

// leaderToData makes the standby lead the ledger: the witness is away for a
// while.
func (c *changes) leaderToData(ctx context.Context, primary string) error {
	witness := group.Nodes[2]
	if err := c.group.Kill(ctx, witness); err != nil {
		return err
	}
	err := pg.Until(ctx, time.Minute, "the standby leads the ledger", func() (bool, error) {
		st, err := c.group.Status(ctx, primary)
		return err == nil && st.Group.LedgerLeader == group.Other(primary), nil
	})
	return errors.Join(err, c.group.StartDaemon(ctx, witness))
}

func (f *failovers) report() string {
	var out strings.Builder
	fmt.Fprintf(&out, "\n**%s**\n\n", strings.ToUpper(f.title()[:1])+f.title()[1:])
	if f.unarranged > 0 {
		fmt.Fprintf(&out, "In %d of %d runs this could not be arranged: the leader was never on the primary in %d tries each.\n\n", f.unarranged, f.unarranged+len(f.runs), leaderTries)
	}
	if len(f.runs) == 0 {
		return out.String() + "Nothing was measured.\n"
	}
	sum := doc.Table{Head: []string{"ms", "runs", "median", "worst"}, Rows: [][]string{
		medianWorst("writes resume after the command's start", pick(f.runs, func(r changed) time.Duration { return r.resumes })),
		medianWorst("outage, from the last commit before the kill", pick(f.runs, func(r changed) time.Duration { return r.outage })),
		medianWorst("slowest writer", pick(f.runs, func(r changed) time.Duration { return r.slowest })),
		medianWorst("the command, from start to end", pick(f.runs, func(r changed) time.Duration { return r.command })),
		medianWorst("killed node healthy again after its daemon's start", pick(f.runs, func(r changed) time.Duration { return r.back })),
		medianWorst("longest time without a commit while it came back", pick(f.runs, func(r changed) time.Duration { return r.backGap })),
	}}
	sum.Rows = append(sum.Rows, f.bareRows()...)
	fmt.Fprintf(&out, "%s\nThe killed primary came back by: %s.\n\n%s\n", sum, methods(f.runs), phaseTable(f.runs))
	t := doc.Table{Head: []string{"run", "killed → promoted", "ledger leader", "resumes, ms", "outage, ms", "slowest writer, ms", "back by", "after, s", "phases, ms"}}
	for i, r := range f.runs {
		t.Rows = append(t.Rows, []string{fmt.Sprint(i + 1), r.from + " → " + r.to, r.leader, fmt.Sprintf("%.0f", millis(r.resumes)), fmt.Sprintf("%.0f", millis(r.outage)),
			fmt.Sprintf("%.0f", millis(r.slowest)), method(r.change), fmt.Sprintf("%.1f", r.back.Seconds()), phases(r.change)})
	}
	out.WriteString(t.String())
	return out.String()
}
