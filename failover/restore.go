package failover

import (
	"context"
	"errors"
	"os"
	"time"

	"understudy/failover/decide"
	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// stopsFor tells whether a primary has to stop for an order.
func stopsFor(st facts.State, o facts.Order) bool {
	_, restoring := st.Restoring()
	return o.Kind == facts.OrderSwitchover || restoring
}

// freezeWithin is how long the checkpoint before a stop may take.
func freezeWithin(o facts.Order) time.Duration {
	if o.Kind == facts.OrderRestore {
		return facts.RestoreStopWithin - freezeMargin
	}
	return o.Deadline.Sub(o.At) - freezeMargin
}

// ShutOut tells whether no client can come in on the operator's word, as it is
// recorded.
func (a *Agent) ShutOut(off facts.Offline) bool {
	now := a.shutFor.Load()
	return now != nil && now.Since.Equal(off.Since)
}

// restore has the group's database brought back on this node, with no server of
// ours running. The role ends when the order does; until then nobody else works
// on the directory.
func (a *Agent) restore(ctx context.Context) {
	if g := a.running(); g != nil {
		a.stopServer(g, guard.Fast, stopGrace)
	}
	a.set(func(s *decide.Server) { s.State, s.Problem = decide.ServerStopped, "" })
	if a.cfg.Restore != nil {
		a.cfg.Restore(ctx)
	}
}

// TakeRestored makes a database that was restored here, and promoted at start,
// this node's own: it is opened as one that this node has written itself. It may
// be called again after a crash.
func (a *Agent) TakeRestored(l pos.Lineage) error {
	last := l.Last()
	a.keepComeback(&comeback{})
	if err := os.Remove(a.comebackPath()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	a.spoolOnly.Store(false)
	if err := a.mark(primaryMark{Epoch: last.Epoch, Timeline: last.Timeline, Start: last.Start, Lineage: l}); err != nil {
		return err
	}
	return a.cfg.Server.ClearMark()
}

// GiveForRestore marks the stopped database as none, durably, before a restore
// changes anything in it: whatever becomes of that, nothing starts it, and a
// node whose restore was withdrawn is seeded anew.
func (a *Agent) GiveForRestore() error {
	if a.running() != nil {
		return errors.New("the server of this node still runs")
	}
	m := primaryMark{Epoch: a.cfg.Plane.Promised(), Lineage: a.cfg.Plane.Lineage()}
	if a.wasPrimary() {
		if m = a.readMark(); m.Given == a.cfg.Store {
			return a.cfg.Server.Mark(pgctl.Seeding)
		}
		state, err := a.cfg.Server.State()
		if err != nil {
			return err
		}
		// What this node had written was in pg_wal only, and it has vouched for it.
		if m.Given = ""; state == pgctl.Cluster {
			m.Given = a.cfg.Store
		}
	}
	if err := a.mark(m); err != nil {
		return err
	}
	return a.cfg.Server.Mark(pgctl.Seeding)
}

// GivenUp tells whether this node's own log was given up for a restore that has
// not ended: its store can vouch for nothing any more.
func (a *Agent) GivenUp() bool {
	return a.wasPrimary() && a.cfg.Store != "" && a.readMark().Given == a.cfg.Store
}
