package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/shipper/catalog"
)

func backupCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "backup", Short: "Take a backup now", Args: cobra.NoArgs,
		Long: "Take a backup now, to all enabled locations or to those of --location: a full one, or, where the policy has\n" +
			"backup.incremental, what the schedule would take. --full and --incremental say which. An incremental one holds what has\n" +
			"changed since the newest set, and is restored together with that; where none is possible a full one is taken. The group chooses the node: a standby\n" +
			"unless the policy says otherwise. The command waits until the backup is complete: its files and all log that it\n" +
			"needs are then at a location. Exit code 0 means just that, 1 that it failed.\n\n" +
			"--needed takes none: it says whether one is needed and why. The exit code is then 6 when one is needed and 0 when not.",
	}
	f := addWorkFlags(c)
	locations := c.Flags().StringSlice("location", nil, "location to write to, may be repeated; without it all that are enabled")
	notes := c.Flags().StringArray("note", nil, "note on the set, such as reason=upgrade; may be repeated")
	full := c.Flags().Bool("full", false, "take a full backup, whatever the policy says")
	incremental := c.Flags().Bool("incremental", false, "take what has changed since the newest set (PostgreSQL 17 or newer)")
	needed := c.Flags().Bool("needed", false, "only say whether a new backup is needed, and why")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.check("backup"); err != nil {
			return err
		}
		if *needed {
			if len(*locations)+len(*notes) > 0 || *f.detach || *f.dryRun || *full || *incremental {
				return usage("backup: --needed goes with --json only")
			}
			return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
				return askNeeded(ctx, client, *f.asJSON, opts)
			})
		}
		args := map[string]string{argLocations: strings.Join(*locations, ",")}
		if err := addNotes(args, *notes); err != nil {
			return usage("backup: %w", err)
		}
		switch {
		case *full && *incremental:
			return usage("backup: --full and --incremental exclude each other")
		case *full:
			args[argForm] = "full"
		case *incremental:
			args[argForm] = "incremental"
		}
		return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
			w := work{client: client, opts: opts, flags: f, action: doc.ActionBackup, args: args}
			return w.run(ctx)
		})
	}
	return c
}

// addNotes reads notes of the form name=text. An empty text takes a note back.
func addNotes(args map[string]string, notes []string) error {
	for _, n := range notes {
		k, v, ok := strings.Cut(n, "=")
		if !ok || k == "" {
			return fmt.Errorf("%q is no note, write it as name=text", n)
		}
		if _, twice := args[argNote+k]; twice {
			return fmt.Errorf("note %q is given twice", k)
		}
		args[argNote+k] = v
	}
	return nil
}

func askNeeded(ctx context.Context, client *Client, asJSON bool, opts Options) error {
	var n doc.Needed
	if err := client.Get(ctx, "/api/v1/needed", &n); err != nil {
		return err
	}
	if asJSON {
		if err := printJSON(opts.Out, n); err != nil {
			return err
		}
	} else if _, err := fmt.Fprint(opts.Out, neededText(n, opts.Width)); err != nil {
		return err
	}
	if n.Needed {
		return &ExitError{Code: ExitNeeded}
	}
	return nil
}

func neededText(n doc.Needed, width int) string {
	text := "No backup is needed: " + n.Why
	if n.Needed {
		text = "A backup is needed: " + n.Why
	}
	out := paragraph(strings.TrimSuffix(text, ".")+".", "", width)
	if n.Running != "" {
		out += paragraph("Job "+n.Running+" is taking one.", "", width)
	}
	if n.Newest != "" {
		out += paragraph(fmt.Sprintf("The newest that can be used is %s of %s.", n.Newest, secondTime(n.EndedAt)), "", width)
	}
	if !n.Next.IsZero() {
		out += paragraph("The schedule has the next one for "+secondTime(n.Next)+".", "", width)
	}
	return out
}

func verifyCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "verify [LABEL]", Short: "Prove the contents of stored backups, byte for byte", Args: cobra.MaximumNArgs(1),
		Long: "Read every stored byte of a set, or of all sets and of the log when no LABEL is given, and prove it. What is damaged\n" +
			"is recorded, not used for a restore any more, and replaced from another location. With a LABEL, --wal also proves\n" +
			"the log of the locations. The exit code is 0 when all that was read is sound.",
	}
	f := addWorkFlags(c)
	locations := c.Flags().StringSlice("location", nil, "location to look at, may be repeated; without it all that are enabled")
	wal := c.Flags().Bool("wal", false, "prove the log, too (always so without a LABEL)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.check("verify"); err != nil {
			return err
		}
		ask := map[string]string{argLocations: strings.Join(*locations, ",")}
		if len(args) > 0 {
			ask[argLabel] = args[0]
		}
		if *wal || len(args) == 0 {
			ask[argLog] = argTrue
		}
		return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
			w := work{client: client, opts: opts, flags: f, action: doc.ActionVerify, args: ask}
			return w.run(ctx)
		})
	}
	return c
}

func drillCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "drill", Short: "Try a restore out, in a scratch server beside the database", Args: cobra.NoArgs,
		Long: "Restore a backup into a scratch server, compare its rows with what the database held, and remove it again. It is\n" +
			"recorded how long that took. Without --target a moment is chosen at random. A time without an offset from UTC is\n" +
			"one of this host's zone.",
	}
	f := addWorkFlags(c)
	target := c.Flags().String("target", "", `what to restore: latest, a time such as "2026-03-01 10:00:00+01", an LSN, xid:N or name:NAME`)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.check("drill"); err != nil {
			return err
		}
		ask := map[string]string{}
		if c.Flags().Changed("target") {
			t, err := catalog.Parse(*target, localZone())
			if err != nil {
				return usage("drill: --target: %w", err)
			}
			ask[argTarget] = t.String()
		}
		return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
			w := work{client: client, opts: opts, flags: f, action: doc.ActionDrill, args: ask}
			return w.run(ctx)
		})
	}
	return c
}
