package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/cluster/clients"
)

const (
	// strikeSpread is the span from which the moment of a fault is drawn.
	strikeSpread = time.Second
	// openedWithin is how long the new primary may take to be told of by its
	// peers after it took the first write.
	openedWithin = 10 * time.Second
)

// losses is one series of runs with one fault.
type losses struct {
	*changes
	fault      fault
	random     *rand.Rand
	runs       []changed
	unarranged int // runs in which the leader was never on the primary
	// What a fault has stopped.
	stopped group.Process
	pids    []int
}

// loss shows how long nobody can write when the primary is lost in one way or
// another and the group promotes by itself.
func loss(ctx context.Context, b *bench) (text string, err error) {
	c, err := prepareChanges(ctx, b)
	defer func() { err = errors.Join(err, c.close()) }()
	if err != nil {
		return "", err
	}
	chosen, err := b.chosenFaults()
	if err != nil {
		return "", err
	}
	intro, err := c.loadIntro(ctx)
	if err != nil {
		return "", err
	}
	b.say("seed %d", b.seed)
	var all []*losses
	for _, f := range chosen {
		// A scenario's moments do not depend on which others are measured.
		n := slices.IndexFunc(faults(), func(g fault) bool { return g.name == f.name })
		l := &losses{changes: c, fault: f, random: rand.New(rand.NewPCG(uint64(b.seed), uint64(n)))}
		all = append(all, l)
		if err = l.series(ctx); err != nil {
			err = fmt.Errorf("seed %d, %s: %w", b.seed, f.name, err)
			break
		}
	}
	verdict, verr := c.verify(ctx)
	return lossReport(b.seed, intro, verdict, all), errors.Join(err, verr)
}

func (l *losses) series(ctx context.Context) (err error) {
	if l.fault.plain && l.bare == nil {
		if err := l.startPlain(ctx); err != nil {
			return err
		}
		// It is not to be in the way of the other scenarios.
		defer func() { err = errors.Join(err, l.stopPlain()) }()
	}
	for i := range l.bench.runs {
		r, arranged, err := l.once(ctx)
		if err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
		if !arranged {
			l.unarranged++
			l.say("%s, run %d of %d: the ledger's leader was never on the primary in %d tries", l.fault.name, i+1, l.bench.runs, leaderTries)
			continue
		}
		l.runs = append(l.runs, r)
		l.say("%s, run %d of %d, %s → %s, ledger leader %s: outage %.0f ms, slowest writer %.0f ms, epochs %d; %s back by %s after %.1f s; %s", l.fault.name, i+1, l.bench.runs,
			r.from, r.to, r.leader, millis(r.outage), millis(r.slowest), r.epochs, r.from, method(r.change), r.back.Seconds(), stagesText(r))
		if l.fault.plain {
			if err := l.byHand(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// once is one fault, from a healthy group to a healthy group. It is not
// arranged when the leader could not be had on the primary.
func (l *losses) once(ctx context.Context) (r changed, arranged bool, err error) {
	if r.from, err = l.primary(ctx); err != nil {
		return r, false, err
	}
	if _, err := l.group.WaitReady(ctx, r.from, ledElsewhere, leaderOff); err != nil {
		return r, false, err
	}
	w, err := l.writers(ctx)
	if err != nil {
		return r, false, err
	}
	defer w.Stop()
	if l.fault.leaderOn {
		if r.from, arranged, err = l.arrange(ctx, w, r.from); err != nil || !arranged {
			return r, false, err
		}
	} else if err := rest(ctx, changeRest/2+time.Duration(l.random.Int64N(int64(strikeSpread)))); err != nil {
		return r, false, err
	}
	epoch, err := l.lose(ctx, w, &r)
	if err != nil {
		// For the rows, which are looked up in the end.
		return r, true, errors.Join(err, l.fault.mend(l, context.WithoutCancel(ctx), r.from))
	}
	if err := l.comeBack(ctx, w, &r); err != nil {
		return r, true, err
	}
	if err := l.checkRun(ctx, w, r.to); err != nil {
		return r, true, err
	}
	return r, true, l.record(ctx, &r, epoch)
}

// lose strikes and waits until the group has another primary, by itself; it
// returns the epoch before it.
func (l *losses) lose(ctx context.Context, w *clients.Clients, r *changed) (epoch pos.Epoch, err error) {
	st, err := l.group.Status(ctx, r.from)
	if err != nil {
		return epoch, err
	}
	r.leader, epoch = st.Group.LedgerLeader, st.Group.Epoch
	began := time.Now()
	if err := l.fault.strike(l, ctx, r.from); err != nil {
		return epoch, err
	}
	r.struck = time.Now()
	if l.fault.struck != nil {
		if err := l.fault.struck(l, ctx, r.from); err != nil {
			return epoch, err
		}
	}
	if err := waitCommitFor(ctx, promoteLost, w, r.struck); err != nil {
		return epoch, l.notPromoted(ctx, *r, err)
	}
	r.first, _ = w.FirstBegun(r.struck)
	if err := rest(ctx, changeRest); err != nil {
		return epoch, err
	}
	now := time.Now()
	r.outage, r.slowest = w.OutageBetween(began, now), w.SlowestWriter(began, now)
	r.to, err = l.successor(ctx, r.from, epoch)
	return epoch, err
}

// notPromoted says what became of a loss after which nobody can write.
func (l *losses) notPromoted(ctx context.Context, r changed, err error) error {
	err = fmt.Errorf("the primary %s was lost, and the group has not promoted by itself: %w", r.from, err)
	for _, n := range group.Nodes {
		if n == r.from {
			continue
		}
		st, serr := l.group.Status(ctx, n)
		if serr != nil {
			err = errors.Join(err, serr)
			continue
		}
		err = errors.Join(err, fmt.Errorf("%s says: epoch %s %s, primary %q, ledger leader %q; %s", n, st.Group.Epoch, st.Group.Phase, st.Group.Primary, st.Group.LedgerLeader, st.Group.Safe.Sentence))
	}
	return err
}

// successor is the node that the others know as the primary of a later epoch.
// The lost one is not asked: it may not have heard of it, or not answer.
func (l *losses) successor(ctx context.Context, lost string, epoch pos.Epoch) (string, error) {
	var to string
	err := pg.Until(ctx, openedWithin, "another node than "+lost+" knows a primary of a later epoch than "+epoch.String(), func() (bool, error) {
		for _, n := range group.Nodes {
			if n == lost {
				continue
			}
			st, err := l.group.Status(ctx, n)
			if err == nil && epoch.Less(st.Group.Epoch) && st.Group.Phase == "opened" && st.Group.Primary != "" {
				to = st.Group.Primary
				return true, nil
			}
		}
		return false, nil
	})
	return to, err
}

// comeBack takes the fault back and waits until the node is a healthy standby,
// under the load.
func (l *losses) comeBack(ctx context.Context, w *clients.Clients, r *changed) error {
	mended := time.Now()
	if err := l.fault.mend(l, ctx, r.from); err != nil {
		return err
	}
	if _, err := l.group.WaitReady(ctx, r.to, "", nil); err != nil {
		return err
	}
	now := time.Now()
	r.back, r.backGap = now.Sub(mended), w.OutageBetween(mended, now)
	return nil
}

// record adds what the history says of the change, and counts the epochs since
// the one before it.
func (l *losses) record(ctx context.Context, r *changed, before pos.Epoch) error {
	st, err := l.group.Status(ctx, r.to)
	if err != nil {
		return err
	}
	r.epochs = int(st.Group.Epoch.Num - before.Num)
	if r.to == r.from { // it opened again, and nobody has to come back
		all, err := l.group.History(ctx, r.to)
		if err == nil {
			r.change, err = group.ChangeTo(all, r.to, before)
		}
		return err
	}
	r.change, err = l.recorded(ctx, r.to, before)
	return err
}
