package failover

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/hook"
	"understudy/failover/pgctl"
	"understudy/failover/probe"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// The causes that end a role. What a role does on its way out depends on it.
var (
	// ErrSuperseded: a newer epoch began; the server is stopped at once.
	ErrSuperseded = errors.New("a newer epoch began")
	// ErrRestarting: the daemon goes and comes back; the server stays.
	ErrRestarting = errors.New("the daemon restarts")
	// ErrStopping: daemon and server stop in the regular way.
	ErrStopping = errors.New("the daemon and its PostgreSQL stop")
	// errElected: the standby is to be promoted; its server stays.
	errElected = errors.New("this node was elected")
)

// AgentConfig is what an agent works with. Store and Ledger may be set later,
// by Attach.
type AgentConfig struct {
	Store, Name string
	Witness     bool
	Ledger      Ledger
	Plane       Plane
	Server      *pgctl.Server // nil on a witness
	Binary      string        // this program, which becomes the guard
	GuardSocket string
	StateDir    string
	Notify      Notify
	Log         *slog.Logger
	// Step is called before each step of a change of role; it is for tests that
	// interrupt one there. Nil for none.
	Step func(name string)
	// Hooks are the operator's; nil for none.
	Hooks *hook.Runner
	// Restore brings the stopped database back to what the ledger's order says,
	// until ctx ends; nil where there is none.
	Restore func(ctx context.Context)
	// Pace is that of the probes of disk and server; zero for the usual one.
	Pace time.Duration
}

// Agent makes the local PostgreSQL be what the ledger says.
type Agent struct {
	cfg AgentConfig
	log *slog.Logger

	mu      sync.Mutex
	guard   *guard.Client
	run     PrimaryRun
	server  decide.Server
	roleIs  decide.Role
	probe   *probe.Watcher
	out     handedOut
	openIn  pos.Epoch // newest in which clients were let in here
	endedAt time.Time // when server.Ended was last moved
	// electedAt is when this node began to be the primary of its newest epoch.
	electedAt time.Time
	// replayed is how far the running standby has come.
	replayed, replayedTo pos.LSN
	flows                bool      // it streams
	movedTo              pos.LSN   // where its replay stood
	movedAt              time.Time // since when
	problem              map[string]string
	marked               atomic.Bool // the mark of the directory exists
	// spoolOnly: the directory is being brought back, and the received log is
	// what this node speaks for.
	spoolOnly atomic.Bool
	markedFor atomic.Pointer[pos.Epoch]
	// shutFor is for which the doors of the open server are locked; nil while they
	// are not.
	shutFor atomic.Pointer[facts.Offline]
	copying pos.Epoch // epoch for which log is being copied
	// coming is how this node is coming back; nil when it is not.
	coming atomic.Pointer[comeback]
}

// NewAgent makes an agent; Run starts it.
func NewAgent(cfg AgentConfig) *Agent {
	a := &Agent{cfg: cfg, log: cfg.Log, roleIs: decide.RoleNone, problem: map[string]string{}}
	a.server.State = decide.ServerAbsent
	if cfg.Witness {
		a.roleIs = decide.RoleWitness
		return a
	}
	_, err := os.Stat(a.markPath())
	a.marked.Store(err == nil)
	if err == nil {
		m := a.readMark()
		a.markedFor.Store(&m.Epoch)
	}
	// Which road holds what this node acknowledged is asked for by the first
	// report, long before the role begins.
	a.loadComeback()
	return a
}

// Connect finds a server that an earlier daemon left running under its guard.
// It is called first of all, since the guard's patience with an absent daemon
// is short.
func (a *Agent) Connect(ctx context.Context) error {
	if a.cfg.Witness {
		return nil
	}
	g, err := guard.Connect(ctx, a.cfg.GuardSocket)
	switch {
	case errors.Is(err, guard.ErrNoGuard):
		return nil
	case errors.Is(err, guard.ErrDead):
		a.log.Warn("the guard of an earlier daemon does not answer; its server is ended", "error", err)
		return guard.Destroy(ctx, a.cfg.GuardSocket)
	case err != nil:
		return fmt.Errorf("connect to the guard: %w", err)
	}
	a.mu.Lock()
	a.guard = g
	a.mu.Unlock()
	// The daemon before may have died before it wrote whose start it permitted.
	if err := a.cfg.Server.Permit(ctx, g.PostmasterPID()); err != nil {
		return fmt.Errorf("permit the adopted server: %w", err)
	}
	a.log.Info("adopted the guard", "postmaster", g.PostmasterPID(), "epoch", g.Tag().Epoch.String(), "role", g.Tag().Role)
	return nil
}

// Attach gives the agent its ledger, which is opened after Connect.
func (a *Agent) Attach(l Ledger, store string) { a.cfg.Ledger, a.cfg.Store = l, store }

// Guarded tells whether a server of ours runs now.
func (a *Agent) Guarded() bool { return a.running() != nil }

// Server is what the reports say of the local PostgreSQL.
func (a *Agent) Server() decide.Server {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.server
	s.Failing, s.FailingFor = a.failing(a.probe.Latest())
	if !a.endedAt.IsZero() {
		s.EndedFor = max(time.Since(a.endedAt), 1)
	}
	if a.guard != nil {
		s.PID = a.guard.PostmasterPID()
	}
	return s
}

// Role is what this node is doing.
func (a *Agent) Role() decide.Role {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.roleIs
}

// Problems are the agent's standing complaints.
func (a *Agent) Problems() map[string]string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := make(map[string]string, len(a.problem))
	for k, v := range a.problem {
		out[k] = v
	}
	h := a.probe.Latest()
	for k, v := range h.Warnings {
		out[decide.Advice+string(k)] = v
	}
	if text, _ := a.failing(h); text != "" {
		out["failing"] = text
	}
	return out
}

// PrimaryRun is the running data plane of the primary, nil when there is none.
func (a *Agent) PrimaryRun() PrimaryRun {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run
}

func (a *Agent) set(f func(s *decide.Server)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f(&a.server)
}

func (a *Agent) setRole(r decide.Role) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.roleIs = r
}

// complain sets or, with an empty text, ends a standing problem.
func (a *Agent) complain(key, text string) {
	a.mu.Lock()
	had := a.problem[key]
	if text == "" {
		delete(a.problem, key)
	} else {
		a.problem[key] = text
	}
	a.mu.Unlock()
	if text != "" && text != had {
		a.cfg.Notify("problem", decide.Severity(key), text, pos.Epoch{})
	}
}

// running is the guard of a server that runs now.
func (a *Agent) running() *guard.Client {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.guard == nil {
		return nil
	}
	select {
	case <-a.guard.Exited():
		return nil
	default:
		return a.guard
	}
}

// Run follows the ledger until ctx ends. The cause of ctx decides what becomes
// of the server: ErrRestarting leaves it running, anything else stops it.
func (a *Agent) Run(ctx context.Context) {
	a.watchServer(ctx)
	defer a.probe.Close()
	if !a.settle(ctx) {
		a.abandon(context.Cause(ctx))
		return
	}
	a.isBack()
	var cur life
	defer func() { cur.end(context.Cause(ctx)) }()
	var helpers sync.WaitGroup
	defer helpers.Wait()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		changed := a.cfg.Ledger.Changed()
		st := a.cfg.Ledger.State()
		if e, owed := role.Fence(st, a.cfg.Store, a.cfg.Plane.Promised()); owed {
			if cur.as.Kind == role.Primary && cur.as.Epoch.Less(e) {
				cur.end(ErrSuperseded)
				cur = life{}
			}
			if err := a.fence(ctx, e, st); err != nil && ctx.Err() == nil {
				// Refused as past fencing when the group went on meanwhile: the
				// promise is kept all the same.
				a.log.Info("fence", "epoch", e.String(), "error", err)
			}
			st = a.cfg.Ledger.State()
		}
		a.maybeCopy(ctx, st, &helpers)
		if want := role.Assigned(st, a.cfg.Store, a.wasPrimary()); want != cur.as {
			cause := ErrSuperseded
			if want.Kind == role.Primary && cur.as.Kind == role.Standby {
				cause = errElected
			}
			cur.end(cause)
			cur = a.begin(ctx, want)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-tick.C:
		}
	}
}

// settle waits until the ledger's state here is as new as a majority knew after
// this daemon began. While Raft replays its log the state passes through every
// role that this node ever had; none of them may be acted on. A node that is no
// member has nothing to wait for, and nothing it could do wrong.
func (a *Agent) settle(ctx context.Context) bool {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := a.read(ctx)
		for err == nil && ctx.Err() == nil && a.cfg.Ledger.State().Version < st.Version {
			<-tick.C
		}
		if err == nil && ctx.Err() == nil {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
}

// abandon leaves before the ledger was heard: a server of an earlier daemon is
// stopped only when that was asked for.
func (a *Agent) abandon(cause error) {
	g := a.running()
	switch {
	case g == nil:
	case errors.Is(cause, ErrStopping):
		a.stopServer(g, guard.Fast, 2*time.Second)
	default:
		g.Detach()
	}
}

// life is a role being lived; the zero life is none.
type life struct {
	as     role.Assignment
	cancel context.CancelCauseFunc
	done   chan struct{}
}

func (a *Agent) begin(ctx context.Context, as role.Assignment) life {
	ctx, cancel := context.WithCancelCause(ctx)
	l := life{as: as, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		a.inside(ctx, as)
	}()
	return l
}

// end leaves the role for a cause and waits until it is left.
func (l life) end(cause error) {
	if l.cancel != nil {
		l.cancel(cause)
		<-l.done
	}
}

// inside is the role as a function: it returns when the role has ended.
func (a *Agent) inside(ctx context.Context, as role.Assignment) {
	a.log.Info("role", "kind", string(as.Kind), "epoch", as.Epoch.String())
	switch as.Kind {
	case role.Primary:
		a.setRole(decide.RolePrimary)
		if err := a.primary(ctx, as.Epoch); err != nil && ctx.Err() == nil {
			a.log.Warn("primary ended", "epoch", as.Epoch.String(), "error", err)
			a.ended(as.Epoch, err)
		}
		a.setRole(decide.RoleNone)
	case role.Standby:
		a.standby(ctx)
	case role.Restore:
		a.setRole(decide.RoleNone)
		a.restore(ctx)
	case role.Hold:
		if g := a.running(); g != nil && (g.Tag().Role != tagPrimary || g.Tag().Epoch.Less(a.cfg.Ledger.State().Primary.Epoch)) {
			a.stopServer(g, guard.Immediate, 10*time.Second)
		}
	}
	<-ctx.Done()
}

// ended says that the server of an epoch of ours will not write again.
func (a *Agent) ended(e pos.Epoch, err error) {
	again := false
	a.set(func(s *decide.Server) {
		again = s.Ended == e
		if s.Ended.Less(e) {
			s.Ended, a.endedAt = e, time.Now()
		}
		s.State = decide.ServerStopped
		s.Problem = err.Error()
	})
	if again {
		return // said already
	}
	severity := facts.SeverityError
	if errors.Is(err, errFrozen) {
		severity = facts.SeverityInfo
	}
	a.cfg.Notify("server-ended", severity, fmt.Sprintf("PostgreSQL ended in epoch %s: %v", e, err), e)
}

// fence promises e and reports what is durable here to the ledger.
func (a *Agent) fence(ctx context.Context, e pos.Epoch, st facts.State) error {
	if g := a.running(); g != nil && g.Tag().Role == tagPrimary && g.Tag().Epoch.Less(e) {
		a.stopServer(g, guard.Immediate, 5*time.Second)
	}
	lineage, lsn, err := a.cfg.Plane.Fence(e)
	if err != nil {
		return err
	}
	if st.Primary.Phase != facts.PhaseFencing || st.Primary.Epoch != e {
		return nil // the promise is kept; nobody waits for a report
	}
	rep, err := a.fenceReport(ctx, e, lineage, lsn)
	if err != nil {
		return err
	}
	rep.Voters = st.Voters.Version
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdReportFence, ReportFence: &facts.ReportFence{FenceReport: rep}})
	return err
}

// FenceReport promises e and says how far the log of this node reaches, for a
// ledger that is made anew.
func (a *Agent) FenceReport(ctx context.Context, e pos.Epoch) (facts.FenceReport, error) {
	lineage, lsn, err := a.cfg.Plane.Fence(e)
	if err != nil {
		return facts.FenceReport{}, err
	}
	return a.fenceReport(ctx, e, lineage, lsn)
}

// fenceReport is the word of this node, whose received log ends at lsn. A
// database that was opened for writing here has a log of its own.
func (a *Agent) fenceReport(ctx context.Context, e pos.Epoch, lineage pos.Lineage, lsn pos.LSN) (facts.FenceReport, error) {
	rep := facts.FenceReport{Store: a.cfg.Store, Epoch: e, Lineage: lineage, LSN: lsn, Heard: a.cfg.Plane.Heard()}
	rep.Timeline = lineage.TimelineAt(lsn)
	past, c, err := a.past(ctx)
	if err == nil && a.GivenUp() {
		err = fmt.Errorf("%s gave its own log up for a restore of the group", a.cfg.Name)
	}
	if err != nil {
		return rep, err
	}
	if a.spoolOnly.Load() {
		return rep, nil
	}
	if past == role.PastPrimary {
		lineage = a.ownLineage(lineage)
		rep.Lineage, rep.Opened = lineage, true
		own, err := a.ownLog(c, lineage)
		if err != nil {
			a.complain("log", err.Error())
			return rep, err
		}
		if newer, ok := stands(lineage, a.cfg.Ledger.State().Lineage, own.End, c.Timeline); ok {
			m := a.readMark()
			m.Lineage = newer
			if err := a.mark(m); err != nil {
				return rep, err
			}
			lineage, rep.Lineage = newer, newer
		}
		rep.LSN, rep.Timeline = own.End, c.Timeline
		if len(lineage) > 0 {
			rep.Timeline = lineage.TimelineAt(own.End)
		}
		a.complain("log", "")
	}
	if past == role.PastPrimary || a.wasPrimary() {
		// A primary has counted nothing beyond its own log; what it heard in the
		// life before may have ended within a record that was cut off since.
		rep.Heard = min(rep.Heard, rep.LSN)
	}
	return rep, nil
}

// stands is the group's history when a log with its own one is all of it, byte
// for byte: what the group has begun since begins where the log ends, on its
// timeline. Its epochs were elected and came to no start, or to none of which
// this log lacks anything.
func stands(own, group pos.Lineage, end pos.LSN, tli pos.Timeline) (pos.Lineage, bool) {
	if len(own) == 0 || len(own) >= len(group) {
		return nil, false
	}
	for i, e := range group {
		if i < len(own) && e != own[i] || i >= len(own) && (e.Start != end || e.Timeline != tli) {
			return nil, false
		}
	}
	return group, true
}

// OwnEnd is where the log ends that this node has written itself, zero when its
// directory was last a standby's. No server of ours may run.
func (a *Agent) OwnEnd(ctx context.Context) (pos.LSN, error) {
	past, c, err := a.past(ctx)
	if err != nil || past != role.PastPrimary {
		return 0, err
	}
	own, err := a.cfg.Plane.OwnLog(c, a.ownLineage(a.cfg.Plane.Lineage()))
	return own.RecordEnd, err
}

// StopNow ends the local server at once: this node is no part of the group
// any more.
func (a *Agent) StopNow() {
	if g := a.running(); g != nil {
		a.stopServer(g, guard.Immediate, 10*time.Second)
	}
}

// ownLineage is the history of the log in the directory of a former primary.
// The received log, which is empty or of an earlier life, may have taken up
// another one since.
func (a *Agent) ownLineage(received pos.Lineage) pos.Lineage {
	if l := a.readMark().Lineage; len(l) > 0 {
		return l
	}
	return received
}

// past looks how the database directory was left. A directory that was elected
// here, but whose server never left recovery, is still a standby's.
func (a *Agent) past(ctx context.Context) (role.Past, pgctl.Control, error) {
	if a.cfg.Witness {
		return role.PastNone, pgctl.Control{}, nil
	}
	state, err := a.cfg.Server.State()
	if err != nil {
		return "", pgctl.Control{}, err
	}
	switch state {
	case pgctl.Empty:
		return role.PastNone, pgctl.Control{}, nil
	case pgctl.Seeding, pgctl.Rewinding:
		return role.PastHalf, pgctl.Control{}, nil
	case pgctl.Foreign:
		return role.PastForeign, pgctl.Control{}, nil
	}
	if !a.wasPrimary() {
		return role.PastStandby, pgctl.Control{}, nil
	}
	c, err := a.cfg.Server.Control(ctx)
	if err != nil {
		return "", c, err
	}
	if strings.Contains(c.State, "recovery") && c.State != "in crash recovery" {
		return role.PastStandby, c, nil
	}
	return role.PastPrimary, c, nil
}

// ownLog is the end of the log in this node's own pg_wal, of a server that was
// last opened for writing here. Its bytes are fsynced.
func (a *Agent) ownLog(c pgctl.Control, lineage pos.Lineage) (OwnLog, error) {
	own, err := a.cfg.Plane.OwnLog(c, lineage)
	if err != nil {
		return own, fmt.Errorf("scan pg_wal from %s: %w", c.Redo, err)
	}
	if last := lineage.Last(); own.End < last.Start {
		return own, fmt.Errorf("the log in %s ends at %s, before epoch %s began at %s: the directory has lost log and must not be opened",
			a.cfg.Server.DataDir, own.End, last.Epoch, last.Start)
	}
	return own, nil
}

// step lets a test interrupt a change of role.
func (a *Agent) step(name string) {
	if a.cfg.Step != nil {
		a.cfg.Step(name)
	}
}
