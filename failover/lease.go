package failover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"understudy/failover/guard"
)

// whileGuarded runs f for as long as the server and its guard live. A server
// under a lease has it renewed meanwhile, as of what contact returns; nil for
// one without. Zero contact renews nothing.
func (a *Agent) whileGuarded(ctx context.Context, g *guard.Client, contact func() time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-g.Exited():
			cancel(fmt.Errorf("PostgreSQL ended (%s); its log is %s", g.ExitStatus(), a.cfg.Server.LogFile))
		case <-g.Dead():
			cancel(errors.New("the guard does not answer"))
		case <-tick.C:
			a.renew(g, contact)
			continue
		}
		<-done
		return context.Cause(ctx)
	}
}

func (a *Agent) renew(g *guard.Client, contact func() time.Duration) {
	if contact == nil {
		return
	}
	c := contact()
	if c == 0 {
		return
	}
	if err := g.Renew(c); err != nil {
		a.log.Warn("renew the lease", "error", err)
	}
}

// whileLeased is whileGuarded for the time in which no ordinary client can be
// served: nobody needs to be heard for that.
func (a *Agent) whileLeased(ctx context.Context, g *guard.Client, f func(context.Context) error) error {
	return a.whileGuarded(ctx, g, guard.Boottime, f)
}
