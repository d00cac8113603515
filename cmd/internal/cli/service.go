package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

const (
	offlineWait = 30 * time.Second
	// maxOfflineWait is the longest that the group takes.
	maxOfflineWait = 24 * time.Hour
)

func reseedCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "reseed NODE", Short: "Bring a node's database back to what the primary has", Args: cobra.ExactArgs(1),
		Long: "Bring a node's database back to what the primary has. Without --method the cheapest way that can work is taken,\n" +
			"and the next one when it does not: follow copies nothing, rewind copies what the log names, delta compares all blocks\n" +
			"and copies those that differ, full copies everything. The command returns when it has begun; status shows how far it is.",
	}
	config := ConfigFlag(c)
	method := c.Flags().String("method", "", "follow, rewind, delta or full")
	yes := c.Flags().Bool("yes", false, "confirm what would be lost without being asked")
	dryRun := c.Flags().Bool("dry-run", false, "say what would happen, and do nothing")
	c.RunE = func(c *cobra.Command, args []string) error {
		order := map[string]string{argNode: args[0]}
		if *method != "" {
			if ways := []string{doc.MethodFollow, doc.MethodRewind, doc.MethodDelta, doc.MethodFull}; !slices.Contains(ways, *method) {
				return &ExitError{Code: ExitUsage, Err: fmt.Errorf("reseed: there is no method %q, only %s", *method, strings.Join(ways, ", "))}
			}
			order[argMethod] = *method
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return reseed(ctx, client, opts, reseedOrder{args: order, yes: *yes, dryRun: *dryRun})
		})
	}
	return c
}

type reseedOrder struct {
	args        map[string]string
	yes, dryRun bool
}

func reseed(ctx context.Context, client *Client, opts Options, o reseedOrder) error {
	plan, err := client.plan(ctx, doc.KindReseed, o.args)
	if err != nil {
		return err
	}
	if err := printLines(opts.Out, stepsText(plan)); err != nil {
		return err
	}
	if o.dryRun {
		return printLines(opts.Out, printable(plan.Statement))
	}
	if plan.Statement != "" {
		q := question{statement: plan.Statement, node: o.args[argNode], yes: o.yes}
		if err := q.confirm(ctx, opts); err != nil {
			return err
		}
		o.args[argConfirm] = plan.Statement
	}
	reply, err := client.order(ctx, doc.KindReseed, o.args)
	if err != nil {
		return err
	}
	if !reply.Started {
		return notStarted(reply)
	}
	return printLines(opts.Out, fmt.Sprintf("Begun. understudy status shows how far %s is.", printable(o.args[argNode])))
}

func offlineCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "offline", Short: "Keep clients out of the primary until told otherwise", Args: cobra.NoArgs,
		Long: "Keep clients out of the primary. No new session is let in at once; those that are there may finish within --wait and\n" +
			"are then cut off. The standbys go on receiving. understudy online lets clients in again.",
	}
	config := ConfigFlag(c)
	wait := c.Flags().Duration("wait", offlineWait, "how long sessions may go on before they are cut off, at most 24h")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *wait < 0 || *wait > maxOfflineWait {
			return &ExitError{Code: ExitUsage, Err: errors.New("offline: --wait must be between 0 and 24h")}
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return plainOrder(ctx, client, opts.Out, doc.KindOffline, map[string]string{argWait: wait.String()})
		})
	}
	return c
}

func onlineCommand(opts Options) *cobra.Command {
	c := &cobra.Command{Use: "online", Short: "Let clients into the primary again", Args: cobra.NoArgs}
	config := ConfigFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return plainOrder(ctx, client, opts.Out, doc.KindOnline, nil)
		})
	}
	return c
}

// plainOrder gives an order that nothing has to be confirmed for, and prints
// what it does.
func plainOrder(ctx context.Context, client *Client, out io.Writer, action string, args map[string]string) error {
	reply, err := client.order(ctx, action, args)
	if err != nil {
		return err
	}
	if !reply.Started {
		return notStarted(reply)
	}
	return printLines(out, stepsText(reply))
}

// printLines prints a text that has no newline at its end, or nothing.
func printLines(out io.Writer, text string) error {
	if text == "" {
		return nil
	}
	_, err := fmt.Fprintln(out, text)
	return err
}
