package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

// scheduleFlags are those of a switchover that is not to begin now.
type scheduleFlags struct {
	at     *string
	within *time.Duration
	cancel *bool
}

func addScheduleFlags(c *cobra.Command) scheduleFlags {
	return scheduleFlags{
		at:     c.Flags().String("at", "", "begin at a time and not now: 2026-03-01T22:00:00Z, 22:00 (the next one in this host's zone) or +30m"),
		within: c.Flags().Duration("within", 0, "with --at: how long to try when it is refused then, at most 24h (default 10m)"),
		cancel: c.Flags().Bool("cancel", false, "withdraw the scheduled switchover"),
	}
}

// check refuses flags that contradict each other.
func (f scheduleFlags) check(c *cobra.Command) error {
	changed := c.Flags().Changed
	text := ""
	switch {
	case changed("at") && *f.at == "":
		text = "switchover: --at needs a time"
	case *f.cancel && (changed("at") || changed("to") || changed("within") || changed("dry-run")):
		text = "switchover: --cancel goes with no other flag"
	case changed("within") && !changed("at"):
		text = "switchover: --within needs --at"
	case *f.within < 0:
		text = "switchover: --within must not be negative"
	}
	if text != "" {
		return &ExitError{Code: ExitUsage, Err: errors.New(text)}
	}
	return nil
}

// order is what the flags ask for instead of a switchover now; "" for nothing.
func (f scheduleFlags) order(c *cobra.Command, args map[string]string) string {
	switch {
	case *f.cancel:
		return doc.KindUnschedule
	case *f.at == "":
		return ""
	}
	args[argAt] = *f.at
	if c.Flags().Changed("within") {
		args[argWithin] = f.within.String()
	}
	return doc.KindSchedule
}

// schedule gives an order about a switchover for a time. It has names of its
// own, so that a daemon that knows nothing of times begins none at once.
func schedule(ctx context.Context, client *Client, opts Options, o scheduleOrder) error {
	if o.dryRun {
		o.args[argDryRun] = argTrue
	}
	reply, err := client.order(ctx, o.action, o.args)
	switch {
	case err != nil:
		return err
	case !reply.Started && !o.dryRun:
		return notStarted(reply)
	case o.asJSON:
		return printJSON(opts.Out, reply)
	}
	return printLines(opts.Out, stepsText(reply))
}

type scheduleOrder struct {
	action         string
	args           map[string]string
	dryRun, asJSON bool
}
