package node

import (
	"context"
	"fmt"
	"time"

	"understudy/cmd/internal/aside"
	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// asideEvery is how often a node looks for what it has kept aside for long
// enough.
const asideEvery = time.Hour

// keepAside forgets what this node had put aside, once it was kept for long
// enough.
func (n *Node) keepAside(ctx context.Context) {
	tick := time.NewTicker(asideEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		due := n.asideDue(n.ledger.State())
		if len(due) == 0 {
			continue
		}
		if err := aside.Remove(n.cfg.StateDir, due); err != nil {
			n.log.Warn("forget what was put aside", "error", err)
			continue
		}
		n.notify("aside-forgotten", facts.SeverityInfo, fmt.Sprintf("%s forgot what it had put aside: %s", n.cfg.Name, aside.Words(due, view.Size)), pos.Epoch{})
	}
}

// asideDue is what this node forgets next: nothing while the group is not as it
// should be.
func (n *Node) asideDue(st facts.State) []aside.Thing {
	now, ok := asideNow(st, time.Now())
	if !ok {
		return nil
	}
	found, err := aside.Find(n.cfg.StateDir)
	if err != nil {
		n.log.Warn("look for what was put aside", "error", err)
		return nil
	}
	return aside.Due(found, now)
}

// asideNow is the time by which things grow old: that of the newest entry of
// the group's audit, or this host's if that is behind. A clock that jumps ahead
// on one of the two makes nothing old.
func asideNow(st facts.State, now time.Time) (time.Time, bool) {
	newest := len(st.Audit.Newest)
	if newest == 0 || st.Order != nil || st.Primary.Phase != facts.PhaseOpened {
		return now, false
	}
	if at := st.Audit.Newest[newest-1].At; at.Before(now) {
		now = at
	}
	return now, true
}

// asideSteps say what this node forgets next.
func (n *Node) asideSteps(st facts.State) []string {
	due := n.asideDue(st)
	if len(due) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("Within the hour %s itself forgets what it had put aside: %s.", n.cfg.Name, aside.Words(due, view.Size))}
}
