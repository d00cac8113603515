package failover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/failover/hook"
	"understudy/failover/pgctl"
	"understudy/failover/role"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// comeback is the way of a former primary back into the group's history. It is
// durable, so that a restart neither forgets which methods have failed nor
// what the directory held before it was overwritten.
type comeback struct {
	Epoch    pos.Epoch      `json:"epoch"` // of the primaryship that it comes back to
	Method   role.Method    `json:"method"`
	Why      string         `json:"why"`
	Floor    role.Method    `json:"floor"`    // the least method that may still work
	Attempts int            `json:"attempts"` // of Method
	Closing  *facts.Closing `json:"closing,omitempty"`
	Done     bool           `json:"done"` // it follows; the ledger has to be told
	// Spool: the directory's own log is given up, what was unique is kept aside,
	// and the received log is the group's: this node speaks for that one, and
	// acknowledges by it while the directory is brought back.
	Spool bool `json:"spool"`
	// Ordered by the operator: a tail that cannot be kept does not hold it up.
	Ordered bool `json:"ordered,omitempty"`
}

func (a *Agent) comebackPath() string { return filepath.Join(a.cfg.StateDir, "comeback.json") }

// loadComeback is how this node is coming back; at first, what an earlier daemon
// left.
func (a *Agent) loadComeback() *comeback {
	if now := a.coming.Load(); now != nil {
		c := *now
		return &c
	}
	c := &comeback{}
	b, err := os.ReadFile(a.comebackPath())
	if err == nil {
		err = json.Unmarshal(b, c)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("read how this node was coming back", "error", err)
	}
	a.keepComeback(c)
	return c
}

func (a *Agent) saveComeback(c *comeback) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := writeDurably(a.comebackPath(), append(b, '\n')); err != nil {
		return err
	}
	a.keepComeback(c)
	return nil
}

// keepComeback keeps a copy: the role's goroutine and an operator's order both
// look at it.
func (a *Agent) keepComeback(c *comeback) {
	own := *c
	a.coming.Store(&own)
	a.spoolOnly.Store(c.Spool)
}

// diverged tells whether a standby's directory holds pages from beyond the
// place where the group's history left its own, or log from there in pg_wal,
// which a start would replay.
func (a *Agent) diverged(ctx context.Context, st facts.State, c pgctl.Control) (bool, error) {
	if c.SystemID == 0 {
		var err error
		if c, err = a.cfg.Server.Control(ctx); err != nil {
			return false, err
		}
	}
	end, err := a.standbyEnd(st, c)
	return end > leaves(st.Lineage, c.MinRecoveryTimeline), err
}

// standbyEnd is how far a standby's directory goes: its pages, and what of its
// log is beyond the place where the group's history left its timeline. That is
// there only when the group went back to a moment, or on without it by force.
func (a *Agent) standbyEnd(st facts.State, c pgctl.Control) (pos.LSN, error) {
	fork := leaves(st.Lineage, c.MinRecoveryTimeline)
	if c.MinRecovery == 0 || c.MinRecovery > fork || fork == ^pos.LSN(0) {
		return c.MinRecovery, nil
	}
	own, err := a.cfg.Plane.OwnLog(c, until(st.Lineage, c.MinRecoveryTimeline))
	switch {
	case errors.Is(err, ErrLogGone):
		return c.MinRecovery, nil // there is nothing to be replayed
	case err != nil:
		return 0, fmt.Errorf("look for log of another history in pg_wal: %w", err)
	case own.RecordEnd > fork:
		return own.RecordEnd, nil
	}
	return c.MinRecovery, nil
}

// leaves is where a history has left a timeline: it went on to one with a higher
// id, which is a younger one. Zero when it did so without ever being on it; the
// highest LSN while it has not.
func leaves(l pos.Lineage, t pos.Timeline) pos.LSN {
	seen := false
	for _, e := range l {
		switch {
		case e.Timeline == t:
			seen = true
		case e.Timeline > t && seen:
			return e.Start
		case e.Timeline > t && l[0].Timeline < t:
			return 0
		}
	}
	return ^pos.LSN(0)
}

// comeBack brings the directory into the group's history, one method after the
// other. What it holds beyond is kept first.
func (a *Agent) comeBack(ctx context.Context, st facts.State) error {
	c, err := a.cfg.Server.Control(ctx)
	if err != nil {
		return err
	}
	cb := *a.loadComeback()
	if cb.Epoch != st.Primary.Epoch {
		if cb.Done {
			cb.Closing = nil
		}
		cb = comeback{Epoch: st.Primary.Epoch, Closing: cb.Closing, Spool: cb.Spool, Ordered: cb.Ordered}
	}
	r, err := a.remains(st, c)
	if err != nil {
		return err
	}
	if r.NoLog && a.cfg.Plane.LogBase() != 0 {
		// Its log ends in a gap that nobody may be able to fill, and what it had
		// vouched for as the primary is gone: a lost store.
		return a.cfg.Plane.Renew("the log that " + a.cfg.Name + " wrote as the primary is gone")
	}
	r.Floor = floorOf(cb, r)
	method, why := role.ChooseMethod(r, st.Lineage)
	opened := st.Primary.Phase == facts.PhaseOpened
	if method != role.MethodFollow && !opened && !cb.Spool && time.Since(st.Primary.Since) < openAlone {
		return fmt.Errorf("%s comes back by %s once %s is open", a.cfg.Name, method, st.Primary.Node)
	}
	cb.Method, cb.Why = method, why
	a.log.Info("coming back", "method", string(method), "why", why, "epoch", st.Primary.Epoch.String())
	if err := a.keepTail(ctx, &cb, st, c, r); err != nil {
		a.complain("tail", err.Error())
		return err
	}
	a.complain("tail", "")
	if method != role.MethodFollow {
		if err := a.giveUpLog(ctx, &cb, st, c, r); err != nil {
			return err
		}
	}
	if method != role.MethodFollow && !opened {
		return fmt.Errorf("%s takes the log, and comes back by %s once %s is open", a.cfg.Name, method, st.Primary.Node)
	}
	cb.Attempts++
	if err := a.saveComeback(&cb); err != nil {
		return err
	}
	a.cfg.Notify("coming-back", facts.SeverityInfo, fmt.Sprintf("%s comes back by %s: %s", a.cfg.Name, method, why), st.Primary.Epoch)
	a.step("comeback-" + string(method))
	err = a.comeBackBy(ctx, method, st, c, r)
	if err == nil {
		cb.Done = true
		return a.saveComeback(&cb)
	}
	if ctx.Err() == nil {
		a.escalate(&cb, err)
	}
	return fmt.Errorf("come back by %s: %w", method, err)
}

// floorOf is the least method that may work.
func floorOf(cb comeback, r role.Remains) role.Method {
	switch {
	case r.Recovery && len(r.Lineage) == 0 && cb.Floor != role.MethodFull:
		return role.MethodDelta // after a rewind it could not be told what log is still needed
	case cb.Spool && cb.Floor == "":
		return role.MethodRewind // its own log is no longer what it speaks for
	}
	return cb.Floor
}

// openAlone is how long a new primary is left to open without a former one
// whose directory has to be overwritten. After it the opening seems to need this
// node's acknowledgements.
const openAlone = 3 * time.Second

// giveUpLog makes the received log, up to where the histories part, what this
// node speaks for and goes on with. Until that is durable it speaks for the log
// in its directory; from then on it cannot be elected before it has come back.
func (a *Agent) giveUpLog(ctx context.Context, cb *comeback, st facts.State, c pgctl.Control, r role.Remains) error {
	if err := a.markSeeded(ctx, false); err != nil {
		return err
	}
	if cb.Spool || r.NoLog || r.Half {
		return nil
	}
	if r.Recovery {
		// A standby has only the received log. It goes on taking the stream while
		// its directory is changed: the primary may need its word to open at all.
		cb.Spool = true
		return a.saveComeback(cb)
	}
	a.step("give-up-log")
	fork := min(r.LogEnd, role.ForkOf(r.Lineage, st.Lineage))
	err := a.cfg.Plane.Rebase(c, st.Lineage, fork, fork)
	if errors.Is(err, ErrLogGone) && a.cfg.Plane.LogBase() == 0 {
		// A store without log has vouched for nothing: it begins where the primary
		// says, and only a base can help.
		a.log.Info("the directory's log does not reach back to where the histories part", "fork", fork.String())
		err = nil
	}
	if err != nil {
		return fmt.Errorf("take the group's log up to %s from pg_wal: %w", fork, err)
	}
	// From where a start will replay is known only when the directory is back;
	// until then nobody drops log for it.
	a.cfg.Plane.SetRedo(0)
	cb.Spool = true
	return a.saveComeback(cb)
}

// rewindAgain goes on with a rewind that was interrupted. It reports whether
// the directory can follow now; when it cannot, it is one to be seeded over.
func (a *Agent) rewindAgain(ctx context.Context) (bool, error) {
	st := a.cfg.Ledger.State()
	if st.Primary.Phase != facts.PhaseOpened {
		return false, errors.New("no primary is open to be rewound to")
	}
	cb := *a.loadComeback()
	if cb.Method == role.MethodRewind && cb.Floor == "" && cb.Closing != nil {
		cb.Attempts++
		if err := a.saveComeback(&cb); err != nil {
			return false, err
		}
		err := a.rewind(ctx, st, role.Remains{LogEnd: cb.Closing.LogEnd, Lineage: a.ownLineage(a.cfg.Plane.Lineage())})
		if err == nil {
			cb.Done, cb.Epoch = true, st.Primary.Epoch
			return true, a.saveComeback(&cb)
		}
		if ctx.Err() == nil {
			a.escalate(&cb, err)
		}
		return false, fmt.Errorf("go on with the rewind: %w", err)
	}
	cb.Method, cb.Floor, cb.Why, cb.Done = role.MethodDelta, role.MethodDelta, "a rewind did not succeed", true
	return false, a.saveComeback(&cb)
}

// escalate gives a method up when trying it again cannot help.
func (a *Agent) escalate(cb *comeback, err error) {
	if !errors.Is(err, pgctl.ErrRewindImpossible) && cb.Attempts < 5 {
		return
	}
	all := role.Methods()
	for i, m := range all[:len(all)-1] {
		if m == cb.Method {
			cb.Floor, cb.Attempts = all[i+1], 0
		}
	}
	if serr := a.saveComeback(cb); serr != nil {
		a.log.Warn("note that a method failed", "error", serr)
	}
}

// remains looks at what this directory holds.
func (a *Agent) remains(st facts.State, c pgctl.Control) (role.Remains, error) {
	past, _, err := a.past(context.Background())
	if err != nil {
		return role.Remains{}, err
	}
	r := role.Remains{Half: past == role.PastHalf, Lineage: a.cfg.Plane.Lineage()}
	if past == role.PastPrimary || len(r.Lineage) == 0 {
		r.Lineage = a.ownLineage(r.Lineage)
	}
	if past == role.PastStandby {
		r.Recovery, r.MinRecovery = true, c.MinRecovery
		if c.MinRecovery != 0 {
			r.Lineage = until(r.Lineage, c.MinRecoveryTimeline)
		}
		switch leaves(st.Lineage, c.MinRecoveryTimeline) {
		case 0:
			r.Lineage = nil // where its timeline began is not known here
		case ^pos.LSN(0):
		default: // the received log may be a new one, and know of less
			r.Lineage = until(st.Lineage, c.MinRecoveryTimeline)
		}
		r.LogEnd, err = a.standbyEnd(st, c)
		return r, err
	}
	own, err := a.cfg.Plane.OwnLog(c, r.Lineage)
	if errors.Is(err, ErrLogGone) {
		a.log.Warn("the tail of this node's log cannot be kept", "error", err)
		r.NoLog = true
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("scan pg_wal from %s: %w", c.Redo, err)
	}
	r.LogEnd, r.Clean = own.RecordEnd, c.CleanShutdown() && own.Shutdown
	return r, nil
}

// until is the history that the pages of a directory can be of which was replayed
// on timeline t. The received log may have gone on to another one since.
func until(l pos.Lineage, t pos.Timeline) pos.Lineage {
	n := 0
	for n < len(l) && l[n].Timeline <= t {
		n++
	}
	return l[:n:n]
}

// keepTail keeps what the log holds beyond the fork, once, before anything
// overwrites it.
func (a *Agent) keepTail(ctx context.Context, cb *comeback, st facts.State, c pgctl.Control, r role.Remains) error {
	if r.Recovery || r.Half || r.NoLog || cb.Closing != nil {
		return nil
	}
	fork := role.ForkOf(r.Lineage, st.Lineage)
	cb.Closing = &facts.Closing{LogEnd: r.LogEnd, Committed: a.cfg.Plane.Heard(), Exact: a.cfg.Plane.HeardAll()}
	if r.LogEnd <= fork {
		return nil
	}
	a.step("keep-tail")
	t, err := a.cfg.Plane.KeepTail(ctx, c, r.Lineage, fork, r.LogEnd)
	if err != nil && ctx.Err() == nil && (cb.Ordered || errors.Is(err, ErrLogGone)) {
		a.cfg.Notify("tail-lost", facts.SeverityError, fmt.Sprintf("the log that %s had from %s to %s could not be kept: %v", a.cfg.Name, fork, r.LogEnd, err), st.Primary.Epoch)
		return nil
	}
	if err != nil {
		return fmt.Errorf("keep the log that %s had beyond %s: %w", a.cfg.Name, fork, err)
	}
	cb.Closing.Tail, cb.Closing.Transactions, cb.Closing.More = t.Dir, t.Transactions, t.More
	a.cfg.Notify("tail-kept", facts.SeverityWarning, fmt.Sprintf("%s had log from %s to %s that the group does not have, with %d committed transactions; it is kept in %s",
		a.cfg.Name, fork, r.LogEnd, len(t.Transactions)+t.More, t.Dir), st.Primary.Epoch)
	return nil
}

func (a *Agent) comeBackBy(ctx context.Context, m role.Method, st facts.State, c pgctl.Control, r role.Remains) error {
	plane, s := a.cfg.Plane, a.cfg.Server
	switch m {
	case role.MethodFollow:
		if err := s.PutStandbySignal(); err != nil {
			return err
		}
		if !r.Recovery { // a standby's received log is where it was
			if err := plane.Rebase(c, r.Lineage, c.Redo, r.LogEnd); err != nil {
				return fmt.Errorf("take the log from pg_wal: %w", err)
			}
		}
		return a.unmark()
	case role.MethodRewind:
		return a.rewind(ctx, st, r)
	}
	// A base: of the old directory only equal blocks are kept.
	if err := s.Mark(pgctl.Seeding); err != nil {
		return err
	}
	if m == role.MethodFull {
		return plane.Wipe()
	}
	return plane.Claim()
}

// rewind brings the directory back by copying what changed since the histories
// parted.
func (a *Agent) rewind(ctx context.Context, st facts.State, r role.Remains) error {
	plane, s := a.cfg.Plane, a.cfg.Server
	if err := plane.SyncLog(); err != nil {
		return err
	}
	a.setRole(decide.RoleSeeding)
	if err := plane.Rewind(ctx, st.Lineage); err != nil {
		return err
	}
	c, err := s.Control(ctx)
	if err != nil {
		return err
	}
	// Beyond the fork pg_wal holds what the source had written, committed or not.
	// Before it, it holds what a start needs, from the last common checkpoint on;
	// the rest comes from the received log.
	if err := plane.DropWAL(c.SegSize, min(r.LogEnd, role.ForkOf(r.Lineage, st.Lineage))); err != nil {
		return fmt.Errorf("drop the source's newest log: %w", err)
	}
	if err := a.removeMark(); err != nil {
		return err
	}
	if err := s.ClearMark(); err != nil {
		return err
	}
	// Last: who is being rewound and has no received log to speak for takes no
	// stream, and the primary may need its word before it can be rewound again.
	return a.endSpoolOnly()
}

// cameBack tells the ledger that this node follows again.
func (a *Agent) cameBack(ctx context.Context) {
	cb := a.loadComeback()
	if cb.Epoch.IsZero() || !cb.Done {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	a.nameTables(ctx, cb.Closing)
	_, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdReturned, Returned: &facts.Returned{
		Store: a.cfg.Store, Epoch: cb.Epoch, Method: string(cb.Method), Why: cb.Why, Closing: cb.Closing}})
	if err != nil && ctx.Err() != nil {
		a.log.Info("record the return", "error", err)
		return // later
	}
	if err != nil {
		a.log.Warn("record the return", "error", err)
	}
	a.keepComeback(&comeback{})
	a.cfg.Hooks.Post(a.hookEvent(hook.AfterStandby, a.cfg.Ledger.State()))
	if err := os.Remove(a.comebackPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.log.Warn("forget how this node came back", "error", err)
	}
}

// nameTables gives the tables of lost transactions their names, which only a
// running server of the group's history knows; one made in the tail has none.
func (a *Agent) nameTables(ctx context.Context, c *facts.Closing) {
	if c == nil {
		return
	}
	var numbers []string
	for _, x := range c.Transactions {
		numbers = append(numbers, x.Tables...)
	}
	names, err := a.cfg.Server.RelationNames(ctx, numbers)
	if err != nil {
		a.log.Info("name the tables of the kept log", "error", err)
	}
	for i, x := range c.Transactions {
		tables := slices.Clone(x.Tables)
		for j, t := range tables {
			if name, ok := names[t]; ok {
				tables[j] = name
			}
		}
		c.Transactions[i].Tables = tables
	}
}

// Reseed starts the way back for a healthy or broken standby on the operator's
// word, at the given method.
func (a *Agent) Reseed(m role.Method, st facts.State) error {
	was := a.loadComeback()
	if err := a.saveComeback(&comeback{Epoch: st.Primary.Epoch, Floor: m, Spool: was.Spool, Closing: was.Closing, Ordered: true}); err != nil {
		return err
	}
	if !a.wasPrimary() { // else the mark says more: the history of the directory's own log
		if err := a.mark(primaryMark{Epoch: st.Primary.Epoch, Lineage: a.cfg.Plane.Lineage()}); err != nil {
			return err
		}
	}
	if g := a.running(); g != nil && g.Tag().Role == tagStandby {
		a.stopServer(g, "fast", stopGrace)
	}
	return nil
}
