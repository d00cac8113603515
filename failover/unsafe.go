package failover

import (
	"context"
	"time"

	"understudy/failover/decide"
)

const (
	// unsafeEvery is the pace at which an open primary is searched for settings
	// that break what the group promises.
	unsafeEvery  = 5 * time.Minute
	unsafeWithin = time.Minute
	unsafeAfter  = 2 * time.Second
)

// adviseOn searches an open primary for what a failover would lose although
// commits waited for it, until ctx ends.
func (a *Agent) adviseOn(ctx context.Context) {
	standing := map[string]bool{}
	defer func() {
		for key := range standing {
			a.complain(key, "")
		}
	}()
	wait(ctx, unsafeAfter) // a server that has just opened has clients to serve
	for ctx.Err() == nil {
		a.advise(ctx, standing)
		wait(ctx, unsafeEvery)
	}
}

func (a *Agent) advise(ctx context.Context, standing map[string]bool) {
	ctx, cancel := context.WithTimeout(ctx, unsafeWithin)
	defer cancel()
	found, err := a.cfg.Server.Unsafe(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("look for unsafe settings", "error", err)
		}
		return // what was found before stands
	}
	now := map[string]bool{}
	for _, u := range found {
		key := decide.Advice + u.Key
		now[key] = true
		a.complain(key, u.Text)
	}
	for key := range standing {
		if !now[key] {
			a.complain(key, "")
			delete(standing, key)
		}
	}
	for key := range now {
		standing[key] = true
	}
}
