package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/rescue"
	"understudy/cmd/internal/view"
)

// actionRebuild adds what a location was found to hold to the ledger, and
// argScan is what was found: a catalog as JSON; argRemovals is the ledger's count
// of removals from before. The answer is a doc.Mark.
const (
	actionRebuild = "rebuild"
	argScan       = "scan"
	argRemovals   = "removals"
	argLocation   = "location"
)

// withRebuild adds rebuild to the commands of the ledger.
func withRebuild(c *cobra.Command, opts Options) *cobra.Command {
	sub := ledgerRebuild(opts)
	Prepare(sub)
	c.AddCommand(sub)
	return c
}

func ledgerRebuild(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "rebuild --from LOCATION", Short: "Add what a location holds to the ledger of backups", Args: cobra.NoArgs,
		Long: "Look what sets and log a location holds, and add to the ledger what it does not know: after a new group was founded\n" +
			"for an old database, or when a disk with backups was brought. Nothing that the ledger knows is forgotten, and nothing\n" +
			"at the location is changed. LOCATION is a name of the policy, a directory, or an address as restore --from takes it.\n" +
			"On a machine without a group it is shown what is there, and what to do with it.",
	}
	f := addKnowFlags(c, ConfigFlag(c))
	dryRun := c.Flags().Bool("dry-run", false, "show what would be added, and do nothing")
	yes := c.Flags().Bool("yes", false, "do not ask")
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		switch {
		case len(*f.from) != 1:
			return usage("ledger rebuild: say with --from which location, one at a time")
		case *asJSON && !*yes && !*dryRun:
			return usage("ledger rebuild: with --json nothing is asked; confirm it with --yes")
		}
		return runRebuild(c, f, rebuildFlags{*dryRun, *yes, *asJSON}, opts)
	}
	return c
}

type rebuildFlags struct{ dryRun, yes, asJSON bool }

// rebuildDoc is the document of ledger rebuild --json.
type rebuildDoc struct {
	rescue.Rebuild
	Mark *doc.Mark `json:"mark,omitempty"` // what the daemon did
}

func runRebuild(c *cobra.Command, f knowFlags, how rebuildFlags, opts Options) error {
	cfg, done, err := f.know(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer done()
	ctx := commandContext(c)
	r, err := rescue.MakeRebuild(ctx, cfg, (*f.from)[0])
	if err != nil {
		return rescueError(err)
	}
	d := rebuildDoc{Rebuild: r}
	if !how.asJSON {
		if _, err := fmt.Fprint(opts.Out, rebuildText(r, opts.Width)); err != nil {
			return err
		}
	}
	if how.dryRun || !r.Known || !r.Changes() {
		if how.asJSON {
			return printJSON(opts.Out, d)
		}
		return nil
	}
	if !how.asJSON {
		q := question{statement: "The ledger is changed for the whole group.", node: r.Location, yes: how.yes}
		if err := q.confirm(ctx, opts); err != nil {
			return err
		}
	}
	m, err := proposeRebuild(ctx, *f.config, r)
	if err != nil {
		return err
	}
	if d.Mark = &m; how.asJSON {
		return printJSON(opts.Out, d)
	}
	_, err = fmt.Fprint(opts.Out, paragraph(m.Sentence, "", opts.Width))
	return err
}

func proposeRebuild(ctx context.Context, config string, r rescue.Rebuild) (doc.Mark, error) {
	client, err := NewClient(config)
	if err != nil {
		return doc.Mark{}, err
	}
	defer client.Close()
	scan, err := json.Marshal(r.Scan)
	if err != nil {
		return doc.Mark{}, fmt.Errorf("encode what was found: %w", err)
	}
	var m doc.Mark
	err = client.Do(ctx, actionRebuild, map[string]string{argLocation: r.Location, argScan: string(scan), argRemovals: strconv.FormatUint(r.Removals, 10)}, &m)
	return m, err
}

// rebuildText is what a location holds, and what of it is new.
func rebuildText(r rescue.Rebuild, width int) string {
	f := fields{width: width}
	f.b.WriteString(paragraph(fmt.Sprintf("%s holds backups of group %s:", r.Where, r.Group), "", width))
	for _, s := range r.Sets {
		what := "not known to the ledger"
		if s.State == "copy" {
			what = "a copy that the ledger does not know of"
		}
		if !r.Known {
			what = "complete"
		}
		f.add("set", "%s, %s, %s", s.Label, size(s.Bytes), what)
	}
	for _, w := range r.WAL {
		f.add("log", "%s to %s of timeline %d", w.From, w.To, w.Timeline)
	}
	if x := r.Export; x != nil {
		f.add("ledger", "of the nodes %s, with the locations %s; highest timeline %d", strings.Join(x.Members, ", "), strings.Join(x.Locations, ", "), x.LastTimeline)
	}
	for _, l := range r.Missing {
		f.b.WriteString(paragraph(fmt.Sprintf("Note: the ledger has set %s there, and it is not: understudy verify %s --location %s records that", l, l, r.Location), "  ", width))
	}
	for _, p := range r.Problems {
		f.b.WriteString(paragraph("Note: "+p, "  ", width))
	}
	switch {
	case !r.Known:
		f.b.WriteString(bareText(r))
	case !r.Changes():
		f.b.WriteString("The ledger knows all of it.\n")
	default:
		f.b.WriteString(paragraph(fmt.Sprintf("New to the ledger: %s, %s of log, %s.", counted(len(r.Sets), "set"), view.Size(r.NewBytes), counted(len(r.Timelines), "timeline")), "", width))
	}
	return f.b.String()
}

// bareText says how to go on where no group is.
func bareText(r rescue.Rebuild) string {
	return strings.Join([]string{
		"No daemon of this machine knows a group, so there is no ledger to add to. To go on from here:",
		"  1. Restore the database:      understudy restore --from " + printable(r.Where) + " --to DIR --promote",
		"  2. Found a group on it:       understudy init --adopt --config FILE, with DIR as postgresql.data_dir, then understudy run --config FILE",
		"  3. Tell it of these backups:  understudy ledger rebuild --from LOCATION, once its policy has the location",
		"",
	}, "\n")
}
