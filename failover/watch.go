package failover

import (
	"context"
	"time"

	"understudy/failover/guard"
	"understudy/failover/probe"
	"understudy/shipper/pos"
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

// handedOut is how far the server's own sender of log has come, which no commit
// gets past.
type handedOut struct {
	at    pos.LSN
	since time.Time // it has stood there although there is more
	stuck string
}

// look takes what was received of a log that is flushed up to flushed.
func (h *handedOut) look(received, flushed pos.LSN, now time.Time, stall time.Duration) {
	switch {
	case received >= flushed:
		*h = handedOut{at: received}
	case received != h.at || h.since.IsZero():
		*h = handedOut{at: received, since: now}
	case now.Sub(h.since) > stall:
		h.stuck = "PostgreSQL does not hand out its log, so no commit returns"
	}
}

// failing is why the server cannot serve, "" when it can, and for how long: by
// the newest look of the probes, or because it hands out no log. mu is held.
func (a *Agent) failing(h probe.Health) (why string, since time.Duration) {
	if h.Failing == "" && a.out.stuck != "" {
		return a.out.stuck, time.Since(a.out.since)
	}
	return h.Failing, h.For
}

// probed says what the probes find when all is well: a server that writes, that
// replays, or none. A nil guard is none.
func (a *Agent) probed(mode probe.Mode, g *guard.Client) {
	a.mu.Lock()
	w := a.probe
	a.out = handedOut{}
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
