package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/view"
)

func statusCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "status", Short: "Show the group and whether the data is safe right now", Args: cobra.NoArgs,
		Long: "Show the group, its nodes and whether the data is safe right now, as the local daemon knows it.\n" +
			"The exit code is 0 whenever the daemon answers; with --check it is 5 unless the data is safe and there is a spare.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON; with --watch one document a line")
	watch := c.Flags().Bool("watch", false, "print again every second until interrupted")
	check := c.Flags().Bool("check", false, "exit with 5 unless the level is \"safe\"")
	c.RunE = func(c *cobra.Command, _ []string) error {
		client, err := NewClient(*config)
		if err != nil {
			return err
		}
		defer client.Close()
		ctx := commandContext(c)
		if *watch {
			return watchStatus(ctx, client, opts, *asJSON)
		}
		var st view.Status
		if err := client.Get(ctx, "/api/v1/status", &st); err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(opts.Out, st)
		} else {
			err = view.Render(opts.Out, st, opts.Width, opts.Color)
		}
		if err == nil && *check && st.Group.Safe.Level != view.LevelSafe {
			return &ExitError{Code: ExitNotSafe}
		}
		return err
	}
	return c
}

// watchStatus prints the status every second until ctx ends. While the daemon
// does not answer it says so and goes on.
func watchStatus(ctx context.Context, client *Client, opts Options, asJSON bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		if err := watchOnce(ctx, client, opts, asJSON); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func watchOnce(ctx context.Context, client *Client, opts Options, asJSON bool) error {
	var st view.Status
	err := client.Get(ctx, "/api/v1/status", &st)
	if ctx.Err() != nil {
		return nil
	}
	if asJSON {
		if err != nil {
			return err
		}
		return json.NewEncoder(opts.Out).Encode(st)
	}
	if opts.Width > 0 { // clear the screen, go to its top left corner
		if _, err := fmt.Fprint(opts.Out, "\x1b[2J\x1b[H"); err != nil {
			return err
		}
	}
	if err != nil {
		_, err = fmt.Fprintln(opts.Out, err)
		return err
	}
	return view.Render(opts.Out, st, opts.Width, opts.Color)
}
