package node

import (
	"context"
	"fmt"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/failover"
	"understudy/failover/decide"
	"understudy/ledger/facts"
)

const (
	// handOverWithin bounds how long a stopping primary waits for the other node
	// to have opened.
	handOverWithin = 40 * time.Second
	// handOverBegins is how long the switchover may take to be ordered.
	handOverBegins = 3 * time.Second
)

// stop ends the daemon and its PostgreSQL. The primary hands over first when a
// standby can take over and nobody said otherwise.
func (n *Node) stop(ctx context.Context, args map[string]string) (any, error) {
	switch v := args["hand_over"]; v {
	case "", "yes":
	case "no":
		n.later(failover.ErrStopping)
		return map[string]string{"result": "stopping the daemon and its PostgreSQL"}, nil
	default:
		return nil, &admin.ActionError{Code: admin.CodeBadArgument, Text: fmt.Sprintf("hand_over is %q, it must be yes or no.", v)}
	}
	to, why := n.successor(ctx)
	if to == "" {
		n.later(failover.ErrStopping)
		return map[string]string{"result": "stopping the daemon and its PostgreSQL" + why}, nil
	}
	go func() {
		if err := n.handOver(context.WithoutCancel(ctx)); err != nil {
			n.log.Warn("hand over before the stop", "error", err)
		}
		n.later(failover.ErrStopping)
	}()
	return map[string]string{"result": "handing over to " + to + ", then stopping the daemon and its PostgreSQL"}, nil
}

// successor is who takes over when this node stops; empty with the reason when
// nobody does. A node that is not the primary needs none.
func (n *Node) successor(ctx context.Context) (to, why string) {
	o := n.observe(ctx)
	p := o.State.Primary
	if p.Store != n.spool.Store() || p.Phase != facts.PhaseOpened {
		return "", ""
	}
	if m := o.State.Policy.Mode(o.Now); m != facts.FailoverAutomatic {
		return "", fmt.Sprintf("; nobody takes over, since failover is %s", m)
	}
	req := decide.PlanSwitchover(o, "")
	if req.Refused != "" {
		return "", "; nobody takes over: " + req.Refused
	}
	return req.To, ""
}

// handOver says in the ledger that this node stops, and waits until another one
// is open or none will be.
func (n *Node) handOver(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, handOverWithin)
	defer cancel()
	self := n.spool.Store()
	began := time.Now()
	if _, err := n.ledger.Propose(ctx, facts.Command{Kind: facts.CmdSetLeaving, SetLeaving: &facts.SetLeaving{
		Leaving: facts.Leaving{Store: self, Kind: facts.LeavingStopping, For: handOverWithin}}}); err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		changed := n.ledger.Changed()
		st := n.ledger.State()
		p := st.Primary
		switch {
		case p.Phase == facts.PhaseOpened && p.Store != self:
			return nil
		case p.Phase == facts.PhaseOpened && st.Order == nil && time.Since(began) > handOverBegins:
			return fmt.Errorf("no switchover was begun within %s", handOverBegins)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no other node opened within %s", handOverWithin)
		case <-changed:
		case <-tick.C:
		}
	}
}
