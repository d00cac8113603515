package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

// historyShown is how many changes history prints by default.
const historyShown = 10

func historyCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "history [N]", Short: "Show the newest changes of primary, and what each of them cost", Args: cobra.MaximumNArgs(1),
		Long: fmt.Sprintf("Show the newest N (%d) changes of primary, newest last: why, its phases, how long each part took, what was lost, and\n"+
			"how the old primary came back. ~ stands where the clocks of two hosts differ by more than a part took.", historyShown),
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	tail := c.Flags().Bool("tail", false, "list the transactions that only an old primary had, lost or never acknowledged")
	c.RunE = func(c *cobra.Command, args []string) error {
		n := historyShown
		if len(args) > 0 {
			var err error
			if n, err = strconv.Atoi(args[0]); err != nil || n < 1 {
				return &ExitError{Code: ExitUsage, Err: fmt.Errorf("history: %q is no number of changes", args[0])}
			}
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			var h doc.History
			if err := client.Get(ctx, "/api/v1/history", &h); err != nil {
				return err
			}
			h.Changes = h.Changes[max(0, len(h.Changes)-n):]
			if *asJSON {
				return printJSON(opts.Out, h)
			}
			_, err := io.WriteString(opts.Out, historyText(h, *tail))
			return err
		})
	}
	return c
}

func explainCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "explain [PLAN]", Short: "Say why something was decided", Args: cobra.MaximumNArgs(1),
		Long: "Say why something was decided: the rule, the evidence and how old it was, what was rejected and why, and what was done.\n" +
			"PLAN is the id of a decision, as history, events and --list name it; without it the newest is explained.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON, with all that the decision was made from")
	list := c.Flags().Bool("list", false, "list the stored decisions, newest last")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *list && len(args) > 0 {
			return &ExitError{Code: ExitUsage, Err: errors.New("explain: --list takes no decision")}
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			if *list {
				return ask(ctx, client, "/api/v1/plans", *asJSON, opts.Out, plansText)
			}
			path := "/api/v1/explain"
			if len(args) > 0 {
				path += "?plan=" + url.QueryEscape(args[0])
			}
			return ask(ctx, client, path, *asJSON, opts.Out, explanationText)
		})
	}
	return c
}

// ask prints a document of the daemon, as JSON or as text.
func ask[T any](ctx context.Context, client *Client, path string, asJSON bool, out io.Writer, text func(T) string) error {
	var v T
	if err := client.Get(ctx, path, &v); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, v)
	}
	_, err := io.WriteString(out, text(v))
	return err
}
