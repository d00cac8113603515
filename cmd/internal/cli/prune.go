package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

func pruneCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "prune", Short: "Delete the backups that the policy no longer keeps", Args: cobra.NoArgs,
		Long: "Show what the retention of each location keeps and why, what it lets go, and delete that after a question.\n" +
			"--dry-run only shows it. The group does the same by itself at the policy's backup.prune_at. Nothing is deleted that a\n" +
			"kept set, a pinned one or a running job needs; that is looked at again at the moment of each deletion.",
	}
	f := addWorkFlags(c)
	location := c.Flags().String("location", "", "only this location")
	yes := c.Flags().Bool("yes", false, "delete without being asked")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := f.check("prune"); err != nil {
			return err
		}
		return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
			w := work{client: client, opts: opts, flags: f, action: doc.ActionPrune, args: map[string]string{argLocations: *location}}
			return w.prune(ctx, *location, *yes)
		})
	}
	return c
}

// prune shows the plan and, once it is confirmed, has it carried out.
func (w *work) prune(ctx context.Context, location string, yes bool) error {
	path := "/api/v1/retention"
	if location != "" {
		path += "?location=" + url.QueryEscape(location)
	}
	var plan doc.RetentionPlan
	if err := w.client.Get(ctx, path, &plan); err != nil {
		return err
	}
	asJSON := *w.flags.asJSON
	if *w.flags.dryRun && asJSON {
		return printJSON(w.opts.Out, plan)
	}
	if !asJSON {
		if err := w.print(planText(plan, w.opts.Width)); err != nil {
			return err
		}
	}
	switch n := plan.RemoveN(); {
	case *w.flags.dryRun:
		return nil
	case n == 0 && plan.Frozen == "": // nothing is lost by clearing away what is left over
	case n == 0 && asJSON:
		return printJSON(w.opts.Out, doc.JobsReply{Action: doc.ActionPrune, Steps: []string{}, Jobs: []doc.Job{}, Plan: &plan})
	case n == 0:
		return nil
	case asJSON && !yes:
		return &ExitError{Code: ExitUsage, Err: errors.New("prune: with --json nothing is asked; confirm it with --yes")}
	case !asJSON:
		q := question{statement: fmt.Sprintf("Deleted sets do not come back (%s).", counted(n, "removal")), node: "prune", yes: yes}
		if err := q.confirm(ctx, w.opts); err != nil {
			return err
		}
	}
	return w.run(ctx)
}

// planText is what stays and goes, with the reasons.
func planText(p doc.RetentionPlan, width int) string {
	var b strings.Builder
	if p.Frozen != "" {
		b.WriteString(paragraph("Nothing is deleted: "+p.Frozen+".", "", width))
	}
	if len(p.Gold) > 0 {
		b.WriteString(paragraph("Kept for ever from now on: "+strings.Join(p.Gold, ", ")+".", "", width))
	}
	for _, l := range p.Places {
		b.WriteString(paragraph(placeTitle(l, p.Frozen == ""), "  ", width))
		t := table{head: []string{"", "WHAT", "SIZE", "WHY"}, right: map[int]bool{2: true}}
		for _, k := range l.Keep {
			t.add("  keep", k.Label, "", strings.Join(k.Why, "; "))
		}
		for _, r := range l.Remove {
			t.add("  delete", removedText(r), size(r.Bytes), r.Why)
		}
		if len(t.rows) > 0 {
			b.WriteString(t.text(width))
		}
	}
	if p.RemoveN() == 0 {
		b.WriteString(paragraph("There is nothing to delete.", "", width))
	}
	return b.String()
}

func placeTitle(l doc.RetentionPlace, free bool) string {
	var bytes int64
	for _, r := range l.Remove {
		bytes += r.Bytes
	}
	switch {
	case l.Frozen != "" && free:
		return l.Location + ": nothing is deleted here: " + l.Frozen
	case len(l.Remove) == 0:
		return l.Location + ": " + counted(len(l.Keep), "set") + " kept"
	}
	return fmt.Sprintf("%s: %s kept, %s deleted, %s freed", l.Location, counted(len(l.Keep), "set"), counted(removedSets(l), "set"), size(bytes))
}

func removedSets(l doc.RetentionPlace) int {
	return len(slices.DeleteFunc(slices.Clone(l.Remove), func(r doc.Removed) bool { return r.Label == "" }))
}

func removedText(r doc.Removed) string {
	if r.Label != "" {
		return r.Label
	}
	return fmt.Sprintf("log %s to %s (%d)", r.From, r.To, r.Timeline)
}
