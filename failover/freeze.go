package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/hook"
	"understudy/failover/probe"
	"understudy/ledger/facts"
)

const (
	// freezeStop is how long a regular stop may take in a switchover: it waits
	// until the group has the shutdown checkpoint. After it the stop is an
	// immediate one, and this node returns by a rewind.
	freezeStop = time.Second
	// freezeMargin is what a checkpoint leaves of an order's time.
	freezeMargin = 5 * time.Second
)

// errFrozen is how a primary ends that handed over.
var errFrozen = errors.New("stopped for a switchover")

// freeze stops the primary for a switchover. A checkpoint while clients are
// still served makes the stop short. It returns nil when the order was given
// up, and the primary goes on.
func (a *Agent) freeze(ctx context.Context, g *guard.Client, run PrimaryRun, o facts.Order) error {
	a.step("freeze")
	hooked := false
	err := a.whileGuarded(ctx, g, run.Contact, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, freezeWithin(o))
		defer cancel()
		if err := a.cfg.Server.Checkpoint(ctx); err != nil {
			return fmt.Errorf("the checkpoint before it did not end in time: %w", err)
		}
		if o.Kind == facts.OrderRestore {
			return nil // it is no switchover, which a hook may veto
		}
		var err error
		hooked, err = a.mayHandOver(ctx, o)
		return err
	})
	if ctx.Err() != nil || err != nil && g.ExitStatus() != "" {
		return err
	}
	if err == nil && a.stillOrdered(o) {
		return a.handOver(g, run, o)
	}
	if hooked {
		// What the hook prepared for the stop is undone.
		a.cfg.Hooks.Post(a.hookEvent(hook.AfterPromotion, a.cfg.Ledger.State()))
	}
	if err != nil {
		a.giveUpOrder(ctx, o, err)
	}
	return nil
}

// giveUpOrder ends an order that this primary cannot follow.
func (a *Agent) giveUpOrder(ctx context.Context, o facts.Order, why error) {
	a.log.Warn("give up the switchover", "error", why)
	text := why.Error()
	if _, err := a.cfg.Ledger.Propose(ctx, facts.Command{Kind: facts.CmdClearOrder,
		ClearOrder: &facts.ClearOrder{ID: o.ID, Why: text[:min(len(text), 2000)]}}); err != nil {
		a.log.Warn("give up the switchover", "error", err)
	}
}

// handOver stops the server. There is no way back: the order stands.
func (a *Agent) handOver(g *guard.Client, run PrimaryRun, o facts.Order) error {
	a.probed(probe.Down, nil)
	a.note(o.Epoch, facts.StepFrozen, "")
	a.set(func(v *decide.Server) { v.State = decide.ServerLocked })
	a.step("frozen")
	began := time.Now()
	a.endServer(g, guard.Fast, freezeStop)
	if exited(g) {
		a.ended(o.Epoch, errFrozen) // first of all: others wait for this word
	}
	run.Stop()
	a.step("stopped")
	a.note(o.Epoch, facts.StepStopped, fmt.Sprintf("in %d ms", time.Since(began).Milliseconds()))
	return errFrozen
}

// exited tells whether a server and all its processes have ended.
func exited(g *guard.Client) bool {
	select {
	case <-g.Exited():
		return true
	default:
		return false
	}
}

// stillOrdered asks a majority whether the order stands, so that a server is
// not stopped for one that was given up meanwhile.
func (a *Agent) stillOrdered(o facts.Order) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	st, err := a.cfg.Ledger.Read(ctx)
	return err == nil && st.Order != nil && st.Order.ID == o.ID && st.Primary.Epoch == o.Epoch && st.Primary.Phase == facts.PhaseOpened
}

// offlineKeeper keeps clients out of an open primary on the operator's word. It
// alone moves the doors of an open server.
type offlineKeeper struct {
	// adopted is the state of the ledger in which a server was taken over from
	// another daemon, which may have shut its doors. Zero for a server that this
	// one has opened, and once the doors are known.
	adopted uint64
	shut    bool
	since   time.Time
	cancel  context.CancelFunc
	done    chan struct{}
}

// doors is the keeper of a server that this daemon is about to open, or takes
// over from another one when it is open.
func (a *Agent) doors(st facts.State, adopted bool) offlineKeeper {
	a.shutFor.Store(nil)
	if adopted && st.Primary.Phase == facts.PhaseOpened {
		return offlineKeeper{adopted: st.Version}
	}
	return offlineKeeper{}
}

// doorMove is what is done with the doors.
type doorMove string

const (
	doorsStay doorMove = "stay"
	doorsOpen doorMove = "open"
	doorsShut doorMove = "shut"
)

// next is what the doors need now, once.
func (k *offlineKeeper) next(st facts.State) doorMove {
	want, adopted := st.Offline, k.adopted
	if st.Version < adopted {
		return doorsStay // what is known here may be of before
	}
	k.adopted = 0
	switch {
	case want == nil && (k.shut || adopted != 0):
		k.shut, k.since = false, time.Time{}
		return doorsOpen
	case want != nil && (!k.shut || k.since != want.Since):
		k.shut, k.since = true, want.Since
		return doorsShut
	}
	return doorsStay
}

// follow brings the server's doors to where the ledger wants them.
func (k *offlineKeeper) follow(ctx context.Context, a *Agent, st facts.State) {
	switch k.next(st) {
	case doorsOpen:
		k.end()
		a.shutFor.Store(nil)
		k.run(ctx, a.letIn)
	case doorsShut:
		k.end()
		a.shutFor.Store(nil)
		off := *st.Offline
		k.run(ctx, func(ctx context.Context) { a.keepOut(ctx, off) })
	}
}

func (k *offlineKeeper) run(ctx context.Context, f func(context.Context)) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	k.cancel, k.done = cancel, done
	go func() {
		defer close(done)
		f(ctx)
	}()
}

func (k *offlineKeeper) end() {
	if k.cancel != nil {
		k.cancel()
		<-k.done
		k.cancel = nil
	}
}

func (a *Agent) letIn(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.cfg.Server.Unlock(ctx)
		if err == nil {
			return
		}
		a.log.Warn("let clients in", "error", err)
		wait(ctx, time.Second)
	}
}

// keepOut lets nobody new in, waits for those who are there, and cuts off who
// is left.
func (a *Agent) keepOut(ctx context.Context, off facts.Offline) {
	patience := off.Wait
	until := time.Now().Add(patience)
	for ctx.Err() == nil {
		if err := a.cfg.Server.Lock(ctx); err == nil {
			a.shutFor.Store(&off)
			break
		} else if ctx.Err() == nil {
			a.log.Warn("keep clients out", "error", err)
		}
		wait(ctx, 200*time.Millisecond)
	}
	for ctx.Err() == nil && time.Now().Before(until) {
		if n, err := a.cfg.Server.Sessions(ctx); err == nil && n == 0 {
			return
		}
		wait(ctx, 100*time.Millisecond)
	}
	if ctx.Err() != nil {
		return
	}
	n, err := a.cfg.Server.TerminateSessions(ctx)
	if err != nil {
		a.log.Warn("cut clients off", "error", err)
	}
	if n > 0 {
		a.cfg.Notify("clients-cut", facts.SeverityWarning, fmt.Sprintf("%d clients did not leave in %s and were cut off", n, patience), a.cfg.Plane.Promised())
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
