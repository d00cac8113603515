package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// elect makes the running standby ready to be primary: it replays everything
// that was elected, and the ledger records where the new timeline begins. What
// is applied here from now on may be applied nowhere else, so the directory is
// marked first.
func (a *Agent) elect(ctx context.Context, g *guard.Client, st facts.State, e pos.Epoch) (facts.State, error) {
	a.set(func(v *decide.Server) { v.Problem = "" })
	slot := make(chan error, 1) // it takes a while, and harms nobody
	go func() { slot <- a.cfg.Server.EnsureSlot(ctx, FloorSlot) }()
	marked := make(chan error, 1)
	go func() {
		marked <- a.mark(primaryMark{Epoch: e, Timeline: st.Lineage.Last().Timeline, Start: st.Primary.Elected.LSN, Lineage: st.Lineage})
	}()
	end, err := a.replayAll(ctx, g, st.Primary.Elected.LSN, marked)
	if err != nil {
		return st, err
	}
	a.note(e, facts.StepReplayed, end.String())
	// While the ledger records the fork, the server is prepared for it: nobody
	// can be hurt if the one or the other fails.
	tli := st.NextTimeline()
	ready := make(chan error, 1)
	pctx, cancel := context.WithCancel(ctx)
	defer cancel()
	elected := st
	go func() { ready <- a.prepare(pctx, elected, e, tli, slot) }()
	st, err = a.begun(ctx, st, e, tli, end)
	if err != nil {
		cancel()
	}
	if perr := <-ready; err == nil && perr != nil {
		err = fmt.Errorf("prepare the promotion: %w", perr)
	}
	return st, err
}

// replayAll feeds the standby the log up to elected, once the directory is
// marked, and waits until it has replayed the last whole record of it.
func (a *Agent) replayAll(ctx context.Context, g *guard.Client, elected pos.LSN, marked <-chan error) (pos.LSN, error) {
	end, err := a.lastRecord(ctx, g, elected)
	if err = errors.Join(err, <-marked); err != nil {
		return 0, err
	}
	a.cfg.Plane.Feed(elected)
	err = a.whileGuarded(ctx, g, nil, func(ctx context.Context) error { return a.waitReplay(ctx, end) })
	return end, err
}

// lastRecord is the end of the last whole record below elected.
func (a *Agent) lastRecord(ctx context.Context, g *guard.Client, elected pos.LSN) (pos.LSN, error) {
	replayed, err := a.cfg.Server.Replayed(ctx)
	if err != nil { // it may just have been started
		if err := a.whileGuarded(ctx, g, nil, a.cfg.Server.WaitReady); err != nil {
			return 0, err
		}
		replayed, err = a.cfg.Server.Replayed(ctx)
	}
	if err != nil {
		return 0, err
	}
	end, err := a.cfg.Plane.RecordEnd(replayed, elected)
	if err != nil {
		return 0, fmt.Errorf("look for the last whole record below %s: %w", elected, err)
	}
	return end, nil
}

// replayPatience is how long an elected standby may stand still in its replay
// before another epoch has to choose again.
const replayPatience = 10 * time.Second

// promotePatience is how long a promotion may take, which has nothing left to
// replay, before another epoch has to choose again.
const promotePatience = time.Minute

// An elected standby that has not replayed everything after hurryAfter is kept
// from pausing at the pace of resumeEvery. Most need neither.
const (
	hurryAfter  = 20 * time.Millisecond
	resumeEvery = 200 * time.Millisecond
)

func (a *Agent) waitReplay(ctx context.Context, end pos.LSN) error {
	var before pos.LSN
	moved := time.Now()
	hurry := moved.Add(hurryAfter)
	for {
		at, err := a.cfg.Server.Replayed(ctx)
		if err != nil {
			return err
		}
		switch {
		case at == end:
			return nil
		case at > end:
			return fmt.Errorf("the standby has replayed %s, beyond the elected %s", at, end)
		case at != before:
			before, moved = at, time.Now()
		case time.Since(moved) > replayPatience:
			return fmt.Errorf("the standby stands at %s and does not replay up to %s", at, end)
		}
		if time.Now().After(hurry) {
			// Whoever delayed or paused the replay did not mean that nobody shall be
			// primary.
			if err := a.cfg.Server.SetApplyDelay(ctx, 0); err != nil {
				return err
			}
			if err := a.cfg.Server.ResumeReplay(ctx); err != nil {
				return err
			}
			hurry = time.Now().Add(resumeEvery)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// prepare readies the standby for a promotion to tli: it waits for the epoch's
// receiver and for nobody else, clients are out, the log is pinned, and the
// timeline ids in between are used up.
func (a *Agent) prepare(ctx context.Context, st facts.State, e pos.Epoch, tli pos.Timeline, slot <-chan error) error {
	s := a.cfg.Server
	mode := a.primaryMode(st, e)
	if err := s.PreparePromotion(ctx, mode.SyncName, mode.Async); err != nil {
		return err
	}
	if err := <-slot; err != nil { // of an earlier try of elect, before the server answered
		if err := s.EnsureSlot(ctx, FloorSlot); err != nil {
			return err
		}
	}
	return s.BurnTimelines(st.Lineage.Last().Timeline, tli)
}

// promote promotes the standby, and makes sure that it went where the ledger
// said. Prepared: elect has just made it ready; else an earlier daemon did, or
// came only half way.
func (a *Agent) promote(ctx context.Context, g *guard.Client, st facts.State, e pos.Epoch, prepared bool) error {
	p, s := st.Primary, a.cfg.Server
	before := st.Lineage[:len(st.Lineage)-1].TimelineAt(p.Start)
	if !prepared {
		if err := a.prepareAgain(ctx, g, st, e, before); err != nil {
			return err
		}
	}
	if err := g.SetTag(guard.Tag{Epoch: e, Role: tagPrimary, Timeline: p.Timeline, Start: p.Start, Store: a.cfg.Store}); err != nil {
		return err
	}
	if err := g.SetPrimary(true); err != nil {
		return err
	}
	a.set(func(v *decide.Server) { v.State, v.StartedEpoch = decide.ServerStarting, e })
	a.beforePromotion(ctx, st)
	a.step("promoting")
	var got pos.Timeline
	var fork pos.LSN
	err := a.whileLeased(ctx, g, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, promotePatience)
		defer cancel()
		pr, err := s.Promote(ctx)
		got, fork = pr.Timeline, pr.Fork
		return err
	})
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if got != p.Timeline || fork != p.Start {
		return fmt.Errorf("the server went to timeline %d at %s, the ledger gave it %d at %s", got, fork, p.Timeline, p.Start)
	}
	if err := s.UnburnTimelines(before, p.Timeline); err != nil {
		a.log.Warn("remove the used-up timeline ids", "error", err)
	}
	a.note(e, facts.StepPromoted, "")
	return nil
}

// prepareAgain makes sure that a standby whose promotion was recorded by an
// earlier daemon is ready for it.
func (a *Agent) prepareAgain(ctx context.Context, g *guard.Client, st facts.State, e pos.Epoch, before pos.Timeline) error {
	p, s := st.Primary, a.cfg.Server
	if err := a.cfg.Plane.Adopt(st.Lineage, e); err != nil {
		return fmt.Errorf("adopt epoch %s: %w", e, err)
	}
	if a.readMark().Epoch != e {
		return fmt.Errorf("the directory was not elected for epoch %s", e)
	}
	if err := a.mark(primaryMark{Epoch: e, Timeline: p.Timeline, Start: p.Start, Lineage: st.Lineage}); err != nil {
		return err
	}
	f, err := s.Facts(ctx)
	if err != nil || !f.InRecovery {
		return err
	}
	if f.Replay != p.Start {
		return fmt.Errorf("the standby has replayed %s, the ledger records a start at %s", f.Replay, p.Start)
	}
	mode := a.primaryMode(st, e)
	if err := s.EnsureSlot(ctx, FloorSlot); err != nil {
		return err
	}
	if err := s.PreparePromotion(ctx, mode.SyncName, mode.Async); err != nil {
		return err
	}
	return s.BurnTimelines(before, p.Timeline)
}

// note records a timed step for people, without waiting for it.
func (a *Agent) note(e pos.Epoch, name, text string) {
	c := facts.Command{At: time.Now().UTC(), NotePhase: &facts.NotePhase{Epoch: e, Name: name, Node: a.cfg.Name, Text: text}}
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
		defer cancel()
		if _, err := a.cfg.Ledger.Propose(ctx, c); err != nil {
			a.log.Info("note a step", "step", name, "error", err)
		}
	}()
}
