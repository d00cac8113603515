package failover

import (
	"context"
	"net"

	"understudy/failover/guard"
	"understudy/failover/hook"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// hookEvent is what a hook of this node is told of the present change.
func (a *Agent) hookEvent(name hook.Name, st facts.State) hook.Event {
	p := st.Primary
	ev := hook.Event{Hook: name, Epoch: p.Epoch, Timeline: p.Timeline, To: p.Node, Cause: p.Cause}
	if ch, ok := st.ChangeOf(p.Epoch); ok {
		ev.From = ch.From
	}
	if m, ok := st.Members[p.Store]; ok {
		if host, _, err := net.SplitHostPort(m.Address); err == nil {
			ev.PrimaryHost = host
		}
		if m.Store == a.cfg.Store && a.cfg.Server != nil {
			ev.PrimaryPort = a.cfg.Server.Port
		}
	}
	return ev
}

// mayHandOver asks the hook that may veto a switchover. ran tells that it was
// begun, so that it has to be undone if the primary stays.
func (a *Agent) mayHandOver(ctx context.Context, o facts.Order) (ran bool, err error) {
	st := a.cfg.Ledger.State()
	ev := a.hookEvent(hook.BeforeSwitchover, st)
	ev.From, ev.To, ev.Cause = a.cfg.Name, st.NameOf(o.To), "a switchover was ordered"
	res, err := a.cfg.Hooks.Run(ctx, ev)
	return res.Ran, err
}

// beforePromotion runs the hook that is told before a promotion. It cannot veto:
// nobody else may be left.
func (a *Agent) beforePromotion(ctx context.Context, st facts.State) {
	if _, err := a.cfg.Hooks.Run(ctx, a.hookEvent(hook.BeforePromotion, st)); err != nil {
		a.log.Warn("hook", "error", err)
	}
}

// isOpen notes that clients were let in, and tells the hook.
func (a *Agent) isOpen(st facts.State) {
	a.mu.Lock()
	a.openIn = st.Primary.Epoch
	a.mu.Unlock()
	a.cfg.Hooks.Post(a.hookEvent(hook.AfterPromotion, st))
}

// hasStopped tells the hook that a server has ended that clients wrote to.
func (a *Agent) hasStopped(g *guard.Client) {
	e := g.Tag().Epoch
	a.mu.Lock()
	was := g.Tag().Role == tagPrimary && a.openIn == e && !e.IsZero()
	if was {
		a.openIn = pos.Epoch{}
	}
	a.mu.Unlock()
	if !was {
		return
	}
	ev := a.hookEvent(hook.AfterDemotion, a.cfg.Ledger.State())
	ev.From = a.cfg.Name
	if ev.To == a.cfg.Name {
		ev.To = ""
	}
	a.cfg.Hooks.Post(ev)
}
