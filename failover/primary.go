package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// The roles in a guard's tag.
const (
	tagPrimary = "primary"
	tagStandby = "standby"
)

const (
	// orphan is how long a primary may run without its daemon.
	orphan = 700 * time.Millisecond
	// stopGrace is how long a regular stop waits for the last log to be
	// acknowledged before it becomes an immediate one.
	stopGrace = 10 * time.Second
	// houseEvery is the pace of questions to a running server that nobody waits
	// for: each takes the server's time.
	houseEvery = 5 * time.Second
	// FloorSlot pins the log that the group still needs in pg_wal.
	FloorSlot = "understudy_floor"
)

// primary opens the server in epoch e, by a start or a promotion, or takes over
// one that an earlier daemon opened in it, and keeps it until ctx ends. It
// returns an error when the server will not write in this epoch again.
func (a *Agent) primary(ctx context.Context, e pos.Epoch) error {
	adopted := a.running() != nil
	a.set(func(*decide.Server) { a.electedAt = time.Now() })
	for {
		st, ready := a.electable(e)
		if !ready {
			var err error
			if st, err = a.confirmed(ctx, e); err != nil {
				return err
			}
		}
		v, g, err := a.view(ctx, st)
		if err != nil {
			return err
		}
		next := role.ToPrimary(v, e)
		a.step(string(next))
		switch next {
		case role.Leave:
			return fmt.Errorf("epoch %s is no longer ours", e)
		case role.Stop:
			a.stopServer(g, guard.Immediate, 10*time.Second)
		case role.Start:
			if err = a.cfg.Server.WaitGone(ctx); err != nil {
				return err
			}
			if st, err = a.starting(ctx, st, e); err == nil {
				g, err = a.launchPrimary(ctx, st, e)
			}
			if err != nil {
				return err
			}
			return a.serve(ctx, g, st, e, false)
		case role.Launch:
			_, err = a.launchStandby(ctx)
		case role.Elect:
			if st, err = a.elect(ctx, g, st, e); err == nil {
				a.step(string(role.Promote))
				if err = a.promote(ctx, g, st, e, true); err == nil {
					a.step(string(role.Serve))
					return a.serve(ctx, g, st, e, false)
				}
			}
		case role.Promote:
			err = a.promote(ctx, g, st, e, false)
		case role.Serve:
			return a.serve(ctx, g, st, e, adopted && st.Primary.Phase == facts.PhaseOpened)
		default:
			if g != nil {
				a.stopServer(g, guard.Immediate, 10*time.Second)
			}
			return fmt.Errorf("the server of epoch %s does not run any more", e)
		}
		if errors.Is(err, pgctl.ErrSettingsTooLow) && ctx.Err() == nil {
			a.raiseSettings(g, []string{err.Error()})
			continue // launched with them raised, and elected again
		}
		if err != nil {
			if g := a.running(); g != nil && (ctx.Err() == nil || !errors.Is(context.Cause(ctx), ErrRestarting)) {
				a.stopServer(g, guard.Immediate, 10*time.Second)
			}
			return err
		}
	}
}

// electable tells whether a running standby was assigned e, by what this node
// knows: then there is nothing to ask a majority first. The directory is marked
// before anything is replayed that only it may hold, and the ledger takes the
// start that it proposes only while e is this node's.
func (a *Agent) electable(e pos.Epoch) (facts.State, bool) {
	st, g := a.cfg.Ledger.State(), a.running()
	p := st.Primary
	return st, g != nil && g.Tag().Role == tagStandby && p.Epoch == e && p.Store == a.cfg.Store && p.Phase == facts.PhaseAssigned
}

// view is what this node finds of itself.
func (a *Agent) view(ctx context.Context, st facts.State) (role.View, *guard.Client, error) {
	v := role.View{State: st, Store: a.cfg.Store, Server: role.ServerNone, Marked: a.wasPrimary()}
	g := a.running()
	if g == nil {
		past, c, err := a.past(ctx)
		v.Past = past
		if err == nil && past == role.PastStandby {
			v.Diverged, err = a.diverged(ctx, st, c)
		}
		return v, nil, err
	}
	v.Server, v.ServerEpoch = role.ServerStandby, g.Tag().Epoch
	if g.Tag().Role != tagPrimary {
		return v, g, nil
	}
	v.Server = role.ServerPrimary
	if v.ServerEpoch != st.Primary.Epoch {
		return v, g, nil
	}
	if err := a.cfg.Server.WaitReady(ctx); err != nil {
		return v, g, err
	}
	f, err := a.cfg.Server.Facts(ctx)
	v.InRecovery = f.InRecovery
	return v, g, err
}

// confirmed is a state, agreed by a majority, in which e is still ours. A
// follower's own state is never enough to open.
func (a *Agent) confirmed(ctx context.Context, e pos.Epoch) (facts.State, error) {
	for {
		st, err := a.read(ctx)
		switch {
		case err == nil && (st.Primary.Epoch != e || st.Primary.Store != a.cfg.Store):
			return st, fmt.Errorf("epoch %s is no longer ours: the ledger is at %s", e, st.Primary.Epoch)
		case err == nil:
			return st, nil
		}
		a.set(func(s *decide.Server) { s.Problem = "waits for the ledger: " + err.Error() })
		if g := a.running(); g != nil {
			// An adopted server waits under its guard's lease; past it, it ends.
			select {
			case <-g.Exited():
				return facts.State{}, errors.New("the guard stopped the server: " + g.ExitStatus())
			default:
			}
		}
		select {
		case <-ctx.Done():
			return facts.State{}, context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (a *Agent) read(ctx context.Context) (facts.State, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return a.cfg.Ledger.Read(ctx)
}

// starting records where this epoch's log begins, before anything of it is
// written, and adopts that here.
func (a *Agent) starting(ctx context.Context, st facts.State, e pos.Epoch) (facts.State, error) {
	c, err := a.cfg.Server.Control(ctx)
	if err != nil {
		return st, err
	}
	lineage := st.Lineage[:max(0, len(st.Lineage)-1)] // without this epoch's own entry
	own, err := a.ownLog(c, lineage)
	if err != nil {
		return st, err
	}
	if own.End < st.Primary.Elected.LSN {
		return st, fmt.Errorf("pg_wal ends at %s, but %s was elected with log up to %s", own.End, a.cfg.Name, st.Primary.Elected.LSN)
	}
	return a.begun(ctx, st, e, st.Lineage.Last().Timeline, own.End)
}

// begun records where this epoch's log begins, and adopts it here. The ledger
// takes the command only while the epoch is this node's, so its answer confirms
// that as well as a read would.
func (a *Agent) begun(ctx context.Context, st facts.State, e pos.Epoch, tli pos.Timeline, at pos.LSN) (facts.State, error) {
	if err := a.insist(ctx, facts.Command{Kind: facts.CmdStarting,
		Starting: &facts.Starting{Epoch: e, Store: a.cfg.Store, Timeline: tli, End: at}}); err != nil {
		return st, fmt.Errorf("record the start of epoch %s: %w", e, err)
	}
	a.step("recorded")
	p := &st.Primary
	p.Phase = facts.PhaseStarting
	if tli != st.Lineage.Last().Timeline {
		p.Phase = facts.PhasePromoting
	}
	p.Timeline, p.Start, p.Previous = tli, at, p.Store
	st.Lineage = st.Lineage.With(pos.Entry{Epoch: e, Timeline: tli, Start: at})
	marked := make(chan error, 1) // on another file than the adoption
	go func() { marked <- a.mark(primaryMark{Epoch: e, Timeline: tli, Start: at, Lineage: st.Lineage}) }()
	if err := a.cfg.Plane.Adopt(st.Lineage, e); err != nil {
		return st, errors.Join(fmt.Errorf("adopt epoch %s: %w", e, err), <-marked)
	}
	return st, <-marked
}

// insist proposes a command again while it is refused for a reason that passes:
// the ledger's vote of a pair is on its way.
func (a *Agent) insist(ctx context.Context, c facts.Command) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		out, err := a.cfg.Ledger.Propose(ctx, c)
		if err == nil || out.Code != facts.CodeLedgerVote {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-a.cfg.Ledger.Changed():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (a *Agent) primaryMode(st facts.State, e pos.Epoch) pgctl.Mode {
	m := pgctl.Mode{Primary: true, SyncName: pgctl.EpochSyncName(e), SlotName: FloorSlot}
	m.Async = st.Policy.Durability == facts.Async
	return m
}

// launchPrimary starts the server for writing with ordinary clients locked
// out.
func (a *Agent) launchPrimary(ctx context.Context, st facts.State, e pos.Epoch) (*guard.Client, error) {
	s := a.cfg.Server
	a.set(func(v *decide.Server) { v.State, v.StartedEpoch, v.Problem = decide.ServerStarting, e, "" })
	if _, err := s.ForeignPostmaster(); err != nil {
		a.complain("server", err.Error())
		return nil, err
	}
	a.complain("server", "")
	mode := a.primaryMode(st, e)
	if err := s.Configure(ctx, mode); err != nil { // clients are locked out by it
		return nil, fmt.Errorf("configure: %w", err)
	}
	tag := guard.Tag{Epoch: e, Role: tagPrimary, Timeline: st.Primary.Timeline, Start: st.Primary.Start, Store: a.cfg.Store}
	g, err := a.launch(ctx, mode, tag, st.Policy.IsolationTimeout)
	if err != nil {
		return nil, err
	}
	// Nobody but the daemon can connect yet, so recovery may take its time.
	if err := a.whileLeased(ctx, g, func(ctx context.Context) error { return s.WaitReady(ctx) }); err != nil {
		return nil, a.giveUp(g, fmt.Errorf("start for epoch %s: %w", e, err))
	}
	if err := s.EnsureRole(ctx); err != nil {
		return nil, a.giveUp(g, fmt.Errorf("prepare the daemon's role: %w", err))
	}
	return g, nil
}

// launch starts the postmaster under a guard of its own.
func (a *Agent) launch(ctx context.Context, mode pgctl.Mode, tag guard.Tag, lease time.Duration) (*guard.Client, error) {
	s := a.cfg.Server
	if err := s.Permit(ctx, 0); err != nil {
		return nil, fmt.Errorf("permit the start: %w", err)
	}
	l := guard.Launch{
		Socket: a.cfg.GuardSocket, Argv: s.Args(mode), Env: serverEnv(), Dir: "/", LogFile: s.LogFile,
		UID: s.Account.UID, GID: s.Account.GID, Groups: s.Account.Groups, SetUser: s.Account.Switch,
		Tag: tag, Lease: lease, Orphan: orphan, Primary: mode.Primary, Permit: s.PermitFile(),
	}
	g, err := guard.Start(ctx, a.cfg.Binary, l)
	if err != nil {
		return nil, fmt.Errorf("start the guard: %w", err)
	}
	a.mu.Lock()
	a.guard = g
	a.mu.Unlock()
	if err := s.Permit(ctx, g.PostmasterPID()); err != nil {
		return nil, a.giveUp(g, fmt.Errorf("permit the server: %w", err))
	}
	return g, nil
}

// serverEnv is what PostgreSQL finds in its environment: nothing of the
// daemon's own.
func serverEnv() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"}
}

// giveUp stops a server whose start failed.
func (a *Agent) giveUp(g *guard.Client, err error) error {
	a.stopServer(g, guard.Immediate, 10*time.Second)
	return err
}

// serve ships and acknowledges for a running server, lets clients in when a
// majority has its whole log, and stays until the role or the server ends.
func (a *Agent) serve(ctx context.Context, g *guard.Client, st facts.State, e pos.Epoch, adopted bool) error {
	s := a.cfg.Server
	from := st.Primary.Start
	if adopted {
		f, err := s.Facts(ctx)
		if err != nil {
			return a.giveUp(g, fmt.Errorf("look at the adopted server: %w", err))
		}
		if from = f.Flush; from == 0 {
			from = f.Receive
		}
	}
	run, err := a.cfg.Plane.StartPrimary(ctx, PrimarySpec{State: st, Epoch: e, From: from})
	if err != nil {
		return a.giveUp(g, fmt.Errorf("receive from the server: %w", err))
	}
	a.mu.Lock()
	a.run = run
	a.mu.Unlock()
	a.set(func(v *decide.Server) { v.State, v.StartedEpoch, v.Problem = decide.ServerLocked, e, "" })
	stopped := false
	stop := func() {
		if !stopped {
			stopped = true
			run.Stop()
			a.mu.Lock()
			a.run = nil
			a.mu.Unlock()
		}
	}
	defer stop()
	doors := a.doors(st, adopted)
	if doors.adopted != 0 {
		a.set(func(v *decide.Server) { v.State, a.openIn = decide.ServerOpen, e })
		a.clearLeaving()
	} else if err := a.whileLeased(ctx, g, func(ctx context.Context) error { return a.open(ctx, st, run, e) }); err != nil {
		if ctx.Err() == nil || !errors.Is(context.Cause(ctx), ErrRestarting) {
			stop()
			return a.giveUp(g, fmt.Errorf("open epoch %s: %w", e, err))
		}
	}
	err = a.attend(ctx, g, run, e, doors)
	switch cause := context.Cause(ctx); {
	case ctx.Err() == nil:
		if exited(g) {
			a.ended(e, err) // first of all: others wait for this word
		}
		stop()
		a.stopServer(g, guard.Immediate, 10*time.Second)
		return err
	case errors.Is(cause, ErrRestarting):
		a.leaveRunning(g)
	case errors.Is(cause, ErrStopping):
		// The receiver confirms until the stream ends, or a fast stop never would.
		a.stopServer(g, guard.Fast, stopGrace)
	default:
		stop()
		a.stopServer(g, guard.Immediate, 10*time.Second)
	}
	return nil
}

// open lets clients in. A majority has everything up to the flush pointer read
// after recovery, PostgreSQL waits for our receiver, and the ledger knows.
func (a *Agent) open(ctx context.Context, st facts.State, run PrimaryRun, e pos.Epoch) error {
	s := a.cfg.Server
	f, err := s.Facts(ctx)
	if err != nil {
		return err
	}
	if f.InRecovery {
		return errors.New("the server is in recovery where a primary was started")
	}
	if f.Timeline != 0 && f.Timeline != st.Primary.Timeline {
		return fmt.Errorf("the server writes timeline %d, the ledger gave it %d", f.Timeline, st.Primary.Timeline)
	}
	if err := a.mayOpen(ctx, st, run, e, f.Flush); err != nil {
		return err
	}
	if err := a.readsEnded(ctx, st); err != nil {
		return err
	}
	a.step("opened")
	if _, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdOpened,
		Opened: &facts.Opened{Epoch: e, Store: a.cfg.Store, LSN: f.Flush}}); err != nil {
		return fmt.Errorf("record the opening: %w", err)
	}
	if a.cfg.Ledger.State().Offline == nil {
		if err := s.Unlock(ctx); err != nil {
			return fmt.Errorf("let clients in: %w", err)
		}
	}
	a.set(func(v *decide.Server) { v.State = decide.ServerOpen })
	a.isOpen(st)
	a.clearLeaving()
	a.cfg.Notify("opened", facts.SeverityInfo, fmt.Sprintf("%s is open for writing in epoch %s", a.cfg.Name, e), e)
	return nil
}

// strictMargin is added to the old primary's lease: what its guard needs to end
// a server.
const strictMargin = 200 * time.Millisecond

// readsEnded waits, where the policy says so, until nobody can read from the
// primary before any more: it said itself that its server has ended, or its
// lease is over. That was last renewed by an answer of a majority, one of which
// had fenced before this node was elected.
func (a *Agent) readsEnded(ctx context.Context, st facts.State) error {
	ch, ok := st.ChangeOf(st.Primary.Epoch)
	if !st.Policy.StrictReads || !ok || ch.From == "" || ch.From == a.cfg.Name {
		return nil
	}
	lease := st.Policy.IsolationTimeout + strictMargin
	if m, known := st.MemberByName(ch.From); known {
		if _, fenced := st.Primary.Fence[m.Store]; fenced {
			return nil
		}
		lease += st.Leaving[m.Store].For // its guard was told of the restart
	}
	a.mu.Lock()
	left := lease - time.Since(a.electedAt)
	a.mu.Unlock()
	if left <= 0 {
		return nil
	}
	wait(ctx, left)
	return context.Cause(ctx)
}

// mayOpen waits for everything that an opening needs, at once: a majority has
// the log up to flushed, commits wait for our receiver, the log is pinned.
func (a *Agent) mayOpen(ctx context.Context, st facts.State, run PrimaryRun, e pos.Epoch, flushed pos.LSN) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	needs := []func() error{
		func() error {
			if err := run.WaitCommitted(ctx, flushed); err != nil {
				return fmt.Errorf("wait until a majority has the log up to %s: %w", flushed, err)
			}
			return nil
		},
		func() error {
			if st.Policy.Durability == facts.Async {
				return nil
			}
			return a.verifySync(ctx, pgctl.EpochSyncName(e))
		},
		func() error {
			if err := a.cfg.Server.EnsureSlot(ctx, FloorSlot); err != nil {
				return fmt.Errorf("make slot %s: %w", FloorSlot, err)
			}
			return nil
		},
	}
	done := make(chan error, len(needs))
	for _, f := range needs {
		go func() { done <- f() }()
	}
	var first error
	for range needs {
		if err := <-done; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// verifySync checks that commits wait for our receiver and for nobody else,
// and that PostgreSQL counts it.
func (a *Agent) verifySync(ctx context.Context, name string) error {
	if err := a.cfg.Server.CheckSyncName(ctx, name); err != nil {
		a.complain("sync", err.Error())
		return err
	}
	a.complain("sync", "")
	for { // the first report needs a majority, which may take its time
		state, err := a.cfg.Server.CountsReceiver(ctx, name)
		if err != nil || state == "sync" {
			return err
		}
		wait(ctx, 3*time.Millisecond)
	}
}

// isBack takes back what an earlier daemon announced when it stopped for good.
// An announced restart is over when a majority answers the server that goes on.
func (a *Agent) isBack() {
	if a.cfg.Ledger.State().Leaving[a.cfg.Store].Kind == facts.LeavingStopping {
		a.clearLeaving()
	}
}

func (a *Agent) clearLeaving() {
	if _, left := a.cfg.Ledger.State().Leaving[a.cfg.Store]; !left {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	_, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdClearLeaving, ClearLeaving: &facts.ClearLeaving{Store: a.cfg.Store}})
	if err != nil {
		a.log.Warn("clear the announced restart", "error", err)
	}
}

// leaveRunning hands the server to the next daemon: the lease is lengthened
// once the ledger knows of the restart.
func (a *Agent) leaveRunning(g *guard.Client) {
	st := a.cfg.Ledger.State()
	bootUntil := guard.Boottime() + st.Policy.RestartGrace
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdSetLeaving,
		SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: a.cfg.Store, Kind: facts.LeavingRestarting, For: st.Policy.RestartGrace}}})
	if err == nil {
		err = g.Extend(bootUntil)
	}
	if err != nil {
		a.log.Warn("announce the restart: the server keeps only its lease", "error", err)
	}
	g.Detach()
}

// stopServer ends the server in the given mode, by force at the deadline, and
// leaves its directory so that nobody starts it for writing.
func (a *Agent) stopServer(g *guard.Client, mode guard.StopMode, patience time.Duration) {
	a.endServer(g, mode, patience)
	a.mu.Lock()
	done := a.guard != g
	if !done {
		a.guard = nil
	}
	a.mu.Unlock()
	if !done {
		a.clearAway(g)
	}
}

// endServer ends the server's processes.
func (a *Agent) endServer(g *guard.Client, mode guard.StopMode, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := g.Stop(ctx, mode); err != nil {
		a.log.Warn("stop postgresql", "mode", mode, "error", err)
	}
}

// clearAway leaves the directory of a server that has ended.
func (a *Agent) clearAway(g *guard.Client) {
	if err := a.cfg.Server.Unpermit(); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("withdraw the permit", "error", err)
	}
	if g.Tag().Role == tagPrimary {
		// Whoever starts it by hand gets a standby that nobody feeds.
		if err := a.cfg.Server.PutStandbySignal(); err != nil {
			a.log.Warn("mark the stopped directory as a standby's", "error", err)
		}
	}
	a.set(func(v *decide.Server) { v.State, v.Streaming = decide.ServerStopped, false })
	a.hasStopped(g)
}
