package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

// maxPause is the longest pause that the daemon takes.
const maxPause = 366 * 24 * time.Hour

func pauseCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "pause", Short: "Stop automatic failover for a while", Args: cobra.NoArgs,
		Long: "Stop automatic failover, for maintenance, until understudy resume or for --for. A lost primary is then not replaced by\n" +
			"itself. Switchover and failover still work by command, and a scheduled switchover still begins. A pause replaces one\n" +
			"that stands.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	length := c.Flags().Duration("for", 0, "how long, such as 2h; without it until understudy resume")
	c.RunE = func(c *cobra.Command, _ []string) error {
		args := map[string]string{}
		if c.Flags().Changed("for") {
			if *length < time.Second || *length > maxPause {
				return &ExitError{Code: ExitUsage, Err: errors.New("pause: --for must be at least 1s and at most a year")}
			}
			args[argFor] = length.String()
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return changePause(ctx, client, opts, pauseOrder{doc.KindPause, args, *asJSON})
		})
	}
	return c
}

func resumeCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "resume", Short: "End a pause of automatic failover", Args: cobra.NoArgs,
		Long: "End a pause of automatic failover. It is no error when it is not paused. A policy of failover: observe or manual\n" +
			"stays as it is.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return changePause(ctx, client, opts, pauseOrder{doc.KindResume, nil, *asJSON})
		})
	}
	return c
}

type pauseOrder struct {
	action string
	args   map[string]string
	asJSON bool
}

func changePause(ctx context.Context, client *Client, opts Options, o pauseOrder) error {
	var p doc.Pause
	if err := client.Do(ctx, o.action, o.args, &p); err != nil {
		return err
	}
	if o.asJSON {
		return printJSON(opts.Out, p)
	}
	return printLines(opts.Out, pauseText(p))
}

// pauseText says what is in force now.
func pauseText(p doc.Pause) string {
	var text string
	switch {
	case p.Paused && !p.Changed: // only a pause without an end is not replaced
		text = "Automatic failover was paused already, until understudy resume."
	case p.Paused && p.Until.IsZero():
		text = "Automatic failover is paused until understudy resume. Switchover and failover still work by command."
	case p.Paused:
		text = "Automatic failover is paused until " + p.Until.Local().Format("2006-01-02 15:04:05") + ", or understudy resume. Switchover and failover still work by command."
	case p.Changed:
		text = "Automatic failover is no longer paused."
	default:
		text = "Automatic failover was not paused."
	}
	if p.Mode != doc.ModeAutomatic {
		text += "\nThe policy says failover: " + printable(p.Mode) + ", so nothing is done by itself in any case."
	}
	return text
}
