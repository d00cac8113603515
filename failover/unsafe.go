package failover

import (
	"context"
	"strings"
	"time"

	"understudy/failover/decide"
)

const (
	// unsafeEvery is the pace at which an open primary is searched for settings
	// that break what the group promises.
	unsafeEvery  = 5 * time.Minute
	unsafeAgain  = 10 * time.Second // after a look that failed
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
	for doubt := false; ctx.Err() == nil; {
		pause := unsafeEvery
		if doubt = a.advise(ctx, standing, doubt); doubt {
			pause = unsafeAgain
		}
		wait(ctx, pause)
	}
}

// advise looks once. It returns true when a database could not be looked at,
// which is said only when it was so the time before: it may have been a moment's
// trouble.
func (a *Agent) advise(ctx context.Context, standing map[string]bool, again bool) (doubt bool) {
	ctx, cancel := context.WithTimeout(ctx, unsafeWithin)
	defer cancel()
	found, err := a.cfg.Server.Unsafe(ctx)
	if err != nil {
		if ctx.Err() == nil {
			a.log.Warn("look for unsafe settings", "error", err)
		}
		return true // what was found before stands
	}
	if a.Server().State != decide.ServerOpen {
		return false // it was stopped meanwhile, which is no advice
	}
	now := map[string]bool{}
	for _, u := range found {
		key := decide.Advice + u.Key
		if strings.HasPrefix(u.Key, "database-unchecked") {
			doubt = true
			if !again && !standing[key] {
				continue
			}
		}
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
	return doubt
}
