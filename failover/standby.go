package failover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/failover/probe"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// standby keeps the local PostgreSQL following: seeds it when there is none,
// starts it again when it ends. It returns when ctx does.
func (a *Agent) standby(ctx context.Context) {
	wait := 100 * time.Millisecond
	for ctx.Err() == nil {
		began := time.Now()
		err := a.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			a.set(func(v *decide.Server) { v.Problem = err.Error() })
			a.log.Warn("standby", "error", err)
		}
		if time.Since(began) > 10*time.Second {
			wait = 100 * time.Millisecond
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, 2*time.Second)
	}
	g := a.running()
	if g == nil {
		return
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrRestarting):
		g.Detach()
	case errors.Is(cause, errElected):
		return // it is to be promoted
	case errors.Is(cause, ErrStopping):
		a.stopServer(g, guard.Fast, stopGrace)
	default:
		a.stopServer(g, guard.Immediate, stopGrace)
	}
}

// follow is one life of the standby's server.
func (a *Agent) follow(ctx context.Context) error {
	st := a.cfg.Ledger.State()
	v, g, err := a.view(ctx, st)
	if errors.Is(err, pgctl.ErrWrongMajor) {
		a.complain("database", err.Error())
		a.set(func(v *decide.Server) { v.State = decide.ServerFailed })
	}
	if err != nil {
		return err
	}
	next := role.ToStandby(v)
	a.step(string(next))
	if next != role.Watch && next != role.Stop {
		if err := a.cfg.Server.WaitGone(ctx); err != nil {
			return err
		}
	}
	switch next {
	case role.Watch:
		return a.watchStandby(ctx, g)
	case role.Stop:
		a.stopServer(g, guard.Immediate, stopGrace)
		return nil
	case role.Return:
		a.setRole(decide.RoleNone)
		return a.comeBack(ctx, st)
	case role.Pause:
		a.setRole(decide.RoleNone)
		if v.Past != role.PastForeign {
			return fmt.Errorf("%s waits until it is known where the log of %s begins", a.cfg.Name, st.Primary.Node)
		}
	}
	if err := a.ensureBase(ctx); err != nil {
		return err
	}
	if err := a.checkBase(ctx); err != nil {
		a.complain("database", err.Error())
		a.set(func(v *decide.Server) { v.State = decide.ServerFailed })
		return err
	}
	a.complain("database", "")
	a.setRole(decide.RoleStandby)
	if g, err = a.launchStandby(ctx); err != nil {
		return err
	}
	return a.watchStandby(ctx, g)
}

// ensureBase makes sure that there is a complete database to follow with.
func (a *Agent) ensureBase(ctx context.Context) error {
	state, err := a.cfg.Server.State()
	if err != nil {
		return err
	}
	switch state {
	case pgctl.Cluster:
		return a.markSeeded(ctx, true)
	case pgctl.Empty, pgctl.Seeding, pgctl.Rewinding:
		a.complain("database", "")
	case pgctl.Foreign:
		text := fmt.Sprintf("postgresql.data_dir %s holds files that are no PostgreSQL database; empty it or name another directory", a.cfg.Server.DataDir)
		a.complain("database", text)
		a.set(func(v *decide.Server) { v.State = decide.ServerFailed })
		return errors.New(text)
	}
	if state == pgctl.Rewinding {
		done, err := a.rewindAgain(ctx)
		if err != nil {
			return err
		}
		if done {
			return a.markSeeded(ctx, true)
		}
	}
	a.setRole(decide.RoleSeeding)
	a.set(func(v *decide.Server) { v.State, v.Problem = decide.ServerAbsent, "" })
	if err := a.markSeeded(ctx, false); err != nil {
		return err
	}
	if err := a.cfg.Plane.SyncLog(); err != nil {
		return fmt.Errorf("fsync the log before a seed: %w", err)
	}
	if err := a.cfg.Server.Mark(pgctl.Seeding); err != nil {
		return err
	}
	// Also after a crash between the mark and the claim.
	if err := a.cfg.Plane.Claim(); err != nil {
		return err
	}
	if err := a.cfg.Plane.Seed(ctx); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if err := a.cfg.Server.ClearMark(); err != nil {
		return err
	}
	if err := a.unmark(); err != nil {
		return err
	}
	return a.markSeeded(ctx, true)
}

// markSeeded records in the ledger whether this node has a base.
func (a *Agent) markSeeded(ctx context.Context, seeded bool) error {
	m, ok := a.cfg.Ledger.State().Members[a.cfg.Store]
	if !ok {
		return errors.New("this node is not admitted to the group yet")
	}
	if m.Seeded == seeded {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdMarkSeeded, MarkSeeded: &facts.MarkSeeded{Store: a.cfg.Store, Seeded: seeded}})
	if err != nil {
		return fmt.Errorf("record the base: %w", err)
	}
	return nil
}

// checkBase refuses a database that is not the group's.
func (a *Agent) checkBase(ctx context.Context) error {
	c, err := a.cfg.Server.Control(ctx)
	if err != nil {
		return err
	}
	st := a.cfg.Ledger.State()
	if c.SystemID != st.Group.SystemID {
		return fmt.Errorf("postgresql.data_dir %s holds the database with system identifier %d, the group's is %d; name an empty directory",
			a.cfg.Server.DataDir, c.SystemID, st.Group.SystemID)
	}
	a.set(func(v *decide.Server) {
		v.SystemID, v.Major, v.Timeline, v.Redo = c.SystemID, a.cfg.Server.Major, c.Timeline, a.redoOf(c)
	})
	a.cfg.Plane.SetRedo(a.redoOf(c))
	return nil
}

// leaseOf is how long a server that is promoted may run without a renewal: a
// standby has no lease, but it may become a primary under the same guard.
func (a *Agent) leaseOf() time.Duration {
	if d := a.cfg.Ledger.State().Policy.IsolationTimeout; d > 0 {
		return d
	}
	return facts.DefaultPolicy().IsolationTimeout
}

func (a *Agent) launchStandby(ctx context.Context) (*guard.Client, error) {
	s, st := a.cfg.Server, a.cfg.Ledger.State()
	if _, err := s.ForeignPostmaster(); err != nil {
		a.complain("server", err.Error())
		return nil, err
	}
	a.complain("server", "")
	a.set(func(v *decide.Server) { v.State, v.Problem = decide.ServerStarting, "" })
	c, err := s.Control(ctx)
	if err != nil {
		return nil, err
	}
	if err := a.cfg.Plane.Quarantine(c); err != nil {
		return nil, fmt.Errorf("check pg_wal against the group's history: %w", err)
	}
	if err := a.logIsWhole(c); err != nil {
		return nil, err
	}
	mode := pgctl.Mode{SyncName: pgctl.NoSyncName, MinSettings: c.Standby, PrimaryConninfo: a.cfg.Plane.Conninfo(), RestoreCommand: a.cfg.Plane.Restore(), SlotName: FloorSlot,
		ApplyDelay: a.delayOf(st)}
	if err := s.Configure(ctx, mode); err != nil {
		return nil, fmt.Errorf("configure: %w", err)
	}
	return a.launch(ctx, mode, guard.Tag{Role: tagStandby, Store: a.cfg.Store}, a.leaseOf())
}

// logIsWhole checks the records that the server is about to be given, from
// where its recovery begins. A store whose log is damaged has lost what it
// promised to keep, and is given up: another begins, with log from the others.
func (a *Agent) logIsWhole(c pgctl.Control) error {
	from, base, end := a.redoOf(c), a.cfg.Plane.LogBase(), a.cfg.Plane.LogEnd()
	if from < base { // a rewound directory has in pg_wal what comes before
		from = c.Redo
	}
	if base == 0 || from < base || from >= end {
		return nil
	}
	_, err := a.cfg.Plane.RecordEnd(from, end)
	if errors.Is(err, ErrLogDamaged) {
		return a.cfg.Plane.Renew(fmt.Sprintf("the received log of %s is damaged: %v", a.cfg.Name, err))
	}
	return err
}

// following is what watchStandby remembers of a standby's server.
type following struct {
	reads  bool          // ordinary clients are let in
	looked time.Time     // when it was asked last
	epoch  pos.Epoch     // of the primary then
	since  time.Time     // when that epoch was first seen
	delay  time.Duration // that it applies by; below zero when not known
	told   time.Duration // the delay that it was last told, below zero for none
	facts  pgctl.Facts   // its last answer
}

// due tells whether it is time to ask the server. What a primary was started
// with shows in its log a moment later, so a new epoch is watched closely.
func (f *following) due(e pos.Epoch) bool {
	now := time.Now()
	if e != f.epoch {
		f.epoch, f.since = e, now
	}
	return !f.reads || now.Sub(f.looked) >= houseEvery || now.Sub(f.since) < houseEvery
}

// rests tells whether the server, which has answered, stands still because it
// was told to.
func (f *following) rests() bool {
	return f.facts.InRecovery && (f.facts.Paused || f.delay != 0)
}

// watchStandby stays until the server has ended, or must: a directory that was
// wiped under a running server is seeded anew.
func (a *Agent) watchStandby(ctx context.Context, g *guard.Client) error {
	a.setRole(decide.RoleStandby)
	f := following{delay: -1, told: -1}
	defer a.probed(probe.Down, nil)
	defer a.complain("replay", "")
	defer a.complain("delay", "")
	a.mu.Lock()
	a.movedAt = time.Time{}
	a.mu.Unlock()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-g.Exited():
			a.set(func(v *decide.Server) { v.State, v.Streaming = decide.ServerStopped, false })
			return fmt.Errorf("PostgreSQL has ended: %s; its log is %s", g.ExitStatus(), a.cfg.Server.LogFile)
		case <-g.Dead():
			a.stopServer(g, guard.Immediate, stopGrace)
			return errors.New("the guard does not answer")
		case <-tick.C:
		}
		if _, err := os.Stat(filepath.Join(a.cfg.Server.DataDir, "global", "pg_control")); errors.Is(err, os.ErrNotExist) {
			a.cfg.Notify("database-gone", facts.SeverityError, "the database directory of "+a.cfg.Name+" is gone; a new base is fetched", pos.Epoch{})
			a.stopServer(g, guard.Immediate, stopGrace)
			if err := a.cfg.Plane.ClearRemains(); err != nil {
				return err
			}
			return errors.New("the database directory was removed")
		}
		st := a.cfg.Ledger.State()
		due := f.due(st.Primary.Epoch)
		if due {
			a.lookStandby(ctx, &f)
			f.looked = time.Now()
			if f.reads {
				a.probed(probe.Replica, g) // it may take its time to start
			}
			if over, err := a.judgeStandby(ctx, g, &f); over {
				return err
			}
		}
		if delay := a.delayOf(st); f.reads && f.delay != delay && (due || f.told != delay) {
			a.keepDelay(ctx, &f, delay)
		}
	}
}

// judgeStandby tells by its last answer whether the server's life is over, which
// it has ended then. Without an error it is just started again.
func (a *Agent) judgeStandby(ctx context.Context, g *guard.Client, f *following) (over bool, err error) {
	if low, err := a.lookPause(ctx, f); err != nil {
		a.log.Warn("look why replay is paused", "error", err)
	} else if len(low) > 0 {
		a.raiseSettings(g, low)
		return true, nil
	}
	if a.wentAstray(f.rests()) {
		if a.cannotBegin(ctx) {
			return true, a.seedOver(g)
		}
		a.stopServer(g, guard.Immediate, stopGrace)
		return true, errors.New("the standby neither streams nor replays although there is log for it; it is started anew")
	}
	if a.leftBehind() {
		return true, a.seedOver(g)
	}
	return false, nil
}

// lookPause complains of a replay that is paused by hand, and returns the
// settings over which PostgreSQL has paused it.
func (a *Agent) lookPause(ctx context.Context, f *following) ([]string, error) {
	if !f.facts.Paused {
		a.complain("replay", "")
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	p, err := a.cfg.Server.ReplayPause(ctx)
	if err != nil || !p.Paused || len(p.TooLow) > 0 {
		return p.TooLow, err
	}
	a.complain("replay", fmt.Sprintf("replay is paused by hand on %s, whose readers see data as of then: SELECT pg_wal_replay_resume() there", a.cfg.Name))
	return nil, nil
}

// raiseSettings ends a standby that cannot go on with settings lower than the
// primary's. Its next start has them raised, since pg_control tells them.
func (a *Agent) raiseSettings(g *guard.Client, low []string) {
	a.cfg.Notify("settings-raised", facts.SeverityWarning, fmt.Sprintf("PostgreSQL of %s is started anew with the primary's settings, which were raised: %s",
		a.cfg.Name, strings.Join(low, "; ")), pos.Epoch{})
	a.stopServer(g, guard.Fast, stopGrace)
}

// delayOf is how much later the standby shall apply. One that was elected must
// not wait; one that comes back has come when it streams, which PostgreSQL does
// only once it has applied what lies here.
func (a *Agent) delayOf(st facts.State) time.Duration {
	if !a.loadComeback().Epoch.IsZero() || role.Assigned(st, a.cfg.Store, a.wasPrimary()).Kind == role.Primary {
		return 0
	}
	return st.Policy.Of(a.cfg.Name).ApplyDelay
}

// keepDelay makes the server apply as late as the policy says.
func (a *Agent) keepDelay(ctx context.Context, f *following, want time.Duration) {
	f.told = want
	tctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := a.cfg.Server.SetApplyDelay(tctx, want); err != nil {
		if ctx.Err() == nil {
			a.complain("delay", fmt.Sprintf("%s does not apply with the delay of %s that the policy says: %v", a.cfg.Name, want, err))
		}
		return
	}
	a.complain("delay", "")
	if f.delay >= 0 {
		a.cfg.Notify("apply-delay", facts.SeverityInfo, fmt.Sprintf("%s applies with a delay of %s, before of %s", a.cfg.Name, want, f.delay), pos.Epoch{})
	}
	f.delay = want
}

// stranded is how long a standby may neither stream nor replay while there is
// log for it, before it is started anew and its directory judged.
const stranded = 10 * time.Second

// wentAstray tells whether the running standby gets nowhere although there is
// log for it: it may have replayed beyond the place where the group's history
// left its timeline. One that rests, by order, is not looked at: while it stands
// still nothing tells the one from the other.
func (a *Agent) wentAstray(rests bool) bool {
	end := a.cfg.Plane.LogEnd()
	a.mu.Lock()
	defer a.mu.Unlock()
	if rests || a.flows || a.replayedTo >= end || a.movedTo != a.replayedTo || a.movedAt.IsZero() {
		a.movedTo, a.movedAt = a.replayedTo, time.Now()
		return false
	}
	return time.Since(a.movedAt) > stranded
}

// cannotBegin tells whether a standby that gets nowhere never answered, and its
// recovery begins below the daemon's log.
func (a *Agent) cannotBegin(ctx context.Context) bool {
	a.mu.Lock()
	answered := a.replayed != 0
	a.mu.Unlock()
	base := a.cfg.Plane.LogBase()
	if answered || base == 0 {
		return false
	}
	c, err := a.cfg.Server.Control(ctx)
	return err == nil && a.redoOf(c) < base
}

// redoOf is where a start of the stopped directory begins to replay. A base and
// a rewound directory say so in their label: their pg_control is the source's,
// whose newest checkpoint may be much later.
func (a *Agent) redoOf(c pgctl.Control) pos.LSN {
	if from, ok, err := a.cfg.Server.BackupLabelStart(); err == nil && ok {
		return min(c.Redo, from)
	}
	return c.Redo
}

// leftBehind tells whether the standby needs log from before the daemon's: it
// can never follow again.
func (a *Agent) leftBehind() bool {
	base := a.cfg.Plane.LogBase()
	a.mu.Lock()
	defer a.mu.Unlock()
	return base != 0 && a.replayed != 0 && a.replayed < base
}

// seedOver gives the standby up for a new base, of which only what differs is
// sent.
func (a *Agent) seedOver(g *guard.Client) error {
	text := fmt.Sprintf("the standby of %s has applied %s, but no log is kept from before %s; a new base is fetched", a.cfg.Name, a.replayed, a.cfg.Plane.LogBase())
	a.cfg.Notify("left-behind", facts.SeverityError, text, pos.Epoch{})
	a.stopServer(g, guard.Fast, stopGrace)
	if err := a.cfg.Server.Mark(pgctl.Seeding); err != nil {
		return err
	}
	if err := a.cfg.Plane.Claim(); err != nil {
		return err
	}
	a.mu.Lock()
	a.replayed = 0
	a.mu.Unlock()
	return errors.New(text)
}

// lookStandby asks the standby how it is, and lets readers in once it answers.
func (a *Agent) lookStandby(ctx context.Context, to *following) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	f, err := a.cfg.Server.Facts(ctx)
	if err == nil && !to.reads {
		err = a.cfg.Server.Unlock(ctx)
		to.reads = err == nil
		// Left from a life as primary; nothing would ever advance it.
		if derr := a.cfg.Server.DropSlot(ctx, FloorSlot); derr != nil {
			a.log.Warn("drop the slot of an earlier life", "error", derr)
		}
		if derr := a.cfg.Server.DropOwnFailoverSlots(ctx); derr != nil {
			a.log.Warn("drop the logical slots of an earlier life", "error", derr)
		}
	}
	if err != nil {
		a.set(func(v *decide.Server) {
			if v.State != decide.ServerStarting { // until then no answer is no problem
				v.Problem = err.Error()
			}
		})
		return
	}
	to.facts = f
	a.set(func(v *decide.Server) {
		a.replayed = max(f.Replay, f.Receive)
		a.replayedTo, a.flows = f.Replay, f.Streaming
		v.State, v.Problem, v.Redo, v.Timeline = decide.ServerReplica, "", f.Redo, f.Timeline
		v.Major = a.cfg.Server.Major
	})
	a.cfg.Plane.SetRedo(f.Redo)
	if to.reads { // also of a store that is new, under a server that is not
		if err := a.markSeeded(ctx, true); err != nil {
			a.log.Info("record the base", "error", err)
		}
	}
	if to.reads && f.Streaming {
		a.cameBack(ctx)
	}
}
