package node

import (
	"context"
	"fmt"
	"time"

	"understudy/failover/hook"
	"understudy/ledger/facts"
)

// hooksLinger is how long a daemon that ends waits for hooks that are due.
const hooksLinger = 5 * time.Second

// newHooks are the hooks of the node file; nil when it names none.
func (n *Node) newHooks() (*hook.Runner, error) {
	h := n.cfg.Hooks
	if n.cfg.PostgreSQL == nil || len(h.Commands()) == 0 {
		return nil, nil
	}
	acc, err := hook.ResolveAccount(h.User, n.cfg.PostgreSQL.Account)
	if err != nil {
		return nil, fmt.Errorf("%s: hooks.user: %w", n.cfg.File(), err)
	}
	return hook.New(hook.Config{
		Group: n.cfg.Group, Node: n.cfg.Name, Commands: h.Commands(), Timeout: h.Timeout, Account: acc, Log: n.log,
		Done: func(ev hook.Event, r hook.Result, err error) {
			if err != nil {
				n.notify("hook-failed", facts.SeverityWarning, err.Error(), ev.Epoch)
				return
			}
			n.notify("hook", facts.SeverityInfo, fmt.Sprintf("hook %s ended well in %d ms", ev.Hook, r.Took.Milliseconds()), ev.Epoch)
		},
	})
}

// closeHooks runs what is due and waits a while for it.
func (n *Node) closeHooks() {
	ctx, cancel := context.WithTimeout(context.Background(), hooksLinger)
	defer cancel()
	if err := n.hooks.Close(ctx); err != nil {
		n.log.Warn("end the hooks", "error", err)
	}
}
