package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/failover/probe"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// attend is the life of an open primary: renew the lease as long as a majority
// answers, count by the ledger's voters, publish the floor. It returns when
// ctx ends or the server has.
func (a *Agent) attend(ctx context.Context, g *guard.Client, run PrimaryRun, e pos.Epoch, offline offlineKeeper) error {
	a.probed(probe.Primary, g)
	defer a.probed(probe.Down, nil)
	renew := time.NewTicker(100 * time.Millisecond)
	defer renew.Stop()
	house := time.NewTicker(houseEvery)
	defer house.Stop()
	work := make(chan struct{}, 1)
	keeper := make(chan struct{})
	hctx, over := context.WithCancel(ctx)
	go func() { // the ledger and the server may be slow; the lease must not be
		defer close(keeper)
		for range work {
			a.housekeep(hctx, run, e)
		}
	}()
	advisor := make(chan struct{})
	go func() {
		defer close(advisor)
		a.adviseOn(hctx)
	}()
	defer func() { over(); close(work); <-keeper; <-advisor }()
	kick := func() {
		select {
		case work <- struct{}{}:
		default:
		}
	}
	kick()
	heard, declined := false, ""
	defer offline.end()
	for {
		changed := a.cfg.Ledger.Changed()
		st := a.cfg.Ledger.State()
		run.SetState(st)
		if o := st.Order; o != nil && stopsFor(st, *o) && o.From == a.cfg.Store && o.Epoch == e && st.Primary.Phase == facts.PhaseOpened && o.ID != declined {
			if err := a.freeze(ctx, g, run, *o); err != nil {
				return err
			}
			declined = o.ID // that it is withdrawn may come to be known here later
		}
		offline.follow(ctx, a, st)
		select {
		case <-ctx.Done():
			return nil
		case <-g.Exited():
			return fmt.Errorf("PostgreSQL has ended: %s", g.ExitStatus())
		case <-g.Dead():
			return errors.New("the guard does not answer")
		case <-changed:
			kick()
		case <-house.C:
			kick()
		case <-renew.C:
			if st.Voters.Confirmed != st.Voters.Version && run.Settled(st.Voters.Version) {
				kick()
			}
			c := run.Contact()
			if c == 0 {
				continue
			}
			err := g.Renew(c)
			if err == nil && !heard {
				heard = true
				err = g.Extend(0) // an announced restart is over: a majority answers this daemon
			}
			if err != nil {
				a.log.Warn("renew the lease", "error", err)
			}
		}
	}
}

// housekeep confirms the voter set and moves the retention floor.
func (a *Agent) housekeep(ctx context.Context, run PrimaryRun, e pos.Epoch) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	st := a.cfg.Ledger.State()
	if v := st.Voters; v.Confirmed != v.Version && st.Primary.Epoch == e && st.Primary.Phase == facts.PhaseOpened {
		run.SetState(st)
		// Confirmed, another change may follow. It must not before what the voters
		// before these committed is on a majority of these.
		if run.Settled(v.Version) {
			if _, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdConfirmVoters,
				ConfirmVoters: &facts.ConfirmVoters{Version: v.Version, Epoch: e}}); err != nil && ctx.Err() == nil {
				a.log.Warn("confirm the voters", "version", v.Version, "error", err)
			}
		}
	}
	f, err := a.cfg.Server.Facts(ctx)
	if err != nil {
		return
	}
	if err := a.applyDurability(ctx, st, run, e, f.Flush); err != nil && ctx.Err() == nil {
		a.log.Warn("apply the durability", "durability", st.Policy.Durability, "error", err)
	}
	a.set(func(*decide.Server) { a.out.look(run.Received(), f.Flush, time.Now(), st.Policy.StallTimeout) })
	a.set(func(v *decide.Server) { v.Redo, v.Timeline, v.Written = f.Redo, f.Timeline, f.Flush })
	if n, err := a.cfg.Server.EndImpostors(ctx); err == nil && n > 0 {
		a.cfg.Notify("impostor", facts.SeverityError, fmt.Sprintf("%d replication connections of others used the name of this epoch's receiver and were ended", n), e)
	}
	floor := run.Floor(f.Redo, st.Policy.SpoolMaxBytes)
	if floor == 0 {
		return
	}
	if err := a.cfg.Server.AdvanceSlot(ctx, FloorSlot, floor); err != nil {
		a.log.Warn("advance the slot", "floor", floor.String(), "error", err)
		return
	}
	run.SetFloor(floor)
}

// applyDurability follows the policy on a running server. Towards async the
// ledger says so before the server stops waiting; towards quorum the server
// waits only once a majority has everything that async commits left behind.
func (a *Agent) applyDurability(ctx context.Context, st facts.State, run PrimaryRun, e pos.Epoch, flushed pos.LSN) error {
	want := ""
	if st.Policy.Durability != facts.Async {
		want = pgctl.EpochSyncName(e)
	}
	err := a.cfg.Server.CheckSyncName(ctx, want)
	if err == nil {
		a.complain("sync", "")
		return nil
	}
	if !errors.Is(err, pgctl.ErrForeignSetting) {
		return err // it does not answer; what it would say is not known
	}
	if want == "" {
		if err := a.cfg.Server.SetSyncName(ctx, ""); err != nil {
			return err
		}
		run.SetAsync(true)
		a.cfg.Notify("durability", facts.SeverityWarning, "commits no longer wait for another node", e)
		return nil
	}
	run.SetAsync(false)
	a.complain("sync", "commits do not wait for another node yet: a majority does not have the log up to "+flushed.String())
	if err := run.WaitCommitted(ctx, flushed); err != nil {
		return err
	}
	if err := a.cfg.Server.SetSyncName(ctx, want); err != nil {
		a.complain("sync", err.Error())
		return err
	}
	a.cfg.Notify("durability", facts.SeverityInfo, fmt.Sprintf("from %s on commits wait for a majority again", flushed), e)
	return a.verifySync(ctx, want)
}
