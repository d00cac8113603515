package failover

import (
	"context"
	"time"

	"understudy/failover/guard"
	"understudy/failover/probe"
)

// watchServer begins to probe the disk below the database, and the server while
// it is served, for failures that nobody else notices.
func (a *Agent) watchServer(ctx context.Context) {
	s := a.cfg.Server
	if s == nil {
		return
	}
	w, err := probe.Watch(context.WithoutCancel(ctx), probe.Config{
		Disk:    &probe.Disk{Dirs: []string{a.cfg.StateDir}, Data: s.DataDir, UID: s.Account.UID, GID: s.Account.GID},
		Connect: probe.Dial(s.DSN(false)), Pace: a.cfg.Pace,
		Stall: func() time.Duration { return a.cfg.Ledger.State().Policy.StallTimeout },
	})
	if err != nil {
		a.log.Error("probe the server", "error", err)
		return
	}
	a.mu.Lock()
	a.probe = w
	a.mu.Unlock()
}

// probed says what the probes find when all is well: a server that writes, that
// replays, or none. A nil guard is none.
func (a *Agent) probed(mode probe.Mode, g *guard.Client) {
	a.mu.Lock()
	w := a.probe
	a.mu.Unlock()
	if w == nil {
		return
	}
	if g == nil {
		w.Serve(probe.Down, 0)
		return
	}
	w.Serve(mode, g.PostmasterPID())
}
