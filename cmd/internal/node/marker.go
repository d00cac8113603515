package node

import (
	"context"
	"time"
)

// keepMarking writes a small transaction from time to time while this node is
// the primary: recovery to a time stops at the first commit after it, so an
// idle database would have no moment to be restored to.
func (n *Node) keepMarking(ctx context.Context) {
	if n.server == nil {
		return
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p := n.ledger.State().Policy
		every := p.Backups().MarkerEvery
		if every <= 0 || len(p.Locations) == 0 || n.primaryRun() == nil || time.Since(last) < every {
			continue
		}
		if err := n.mark(ctx); err != nil {
			n.log.Debug("write a marker", "error", err)
			continue
		}
		last = time.Now()
	}
}

// markerPatience bounds one marker; the next one comes soon enough.
const markerPatience = 5 * time.Second

func (n *Node) mark(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, markerPatience)
	defer cancel()
	conn, err := n.server.Connect(ctx, "postgres")
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "SELECT pg_logical_emit_message(true, 'understudy.marker', '')")
	return err
}
