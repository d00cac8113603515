package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/shipper/pos"
)

func locationsCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "locations", Short: "Show the places for backups and how each of them stands", Args: cobra.NoArgs,
		Long: "Show the places for backups: whether the log gets there, how far behind it is, and what can be restored from each of\n" +
			"them alone. Locations are keys of the policy: understudy policy show.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return ask(ctx, client, "/api/v1/locations", *asJSON, opts.Out, func(l doc.Locations) string { return locationsText(l, opts.Width) })
		})
	}
	for _, sub := range []*cobra.Command{locationsInit(opts), locationsCloseGap(opts)} {
		Prepare(sub)
		c.AddCommand(sub)
	}
	return c
}

func locationsInit(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "init NAME", Short: "Make the directory of a local location of this node", Args: cobra.ExactArgs(1),
		Long: "Make the directory of a local location of this node, with the marker without which nothing is written there: a disk\n" +
			"that is not mounted has no marker. Run it on the node that the location names, with the disk mounted.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	yes := c.Flags().Bool("yes", false, "do not ask")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *asJSON && !*yes {
			return usage("locations init: with --json nothing is asked; confirm it with --yes")
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			var m doc.Mark
			if err := client.Do(ctx, doc.ActionLocationInit, map[string]string{argName: args[0], argDryRun: argTrue}, &m); err != nil {
				return err
			}
			if m.Changed && !*asJSON {
				if err := (question{statement: m.Sentence, node: args[0], yes: *yes}).confirm(ctx, opts); err != nil {
					return err
				}
			}
			return mark(c, *config, doc.ActionLocationInit, map[string]string{argName: args[0]}, *asJSON, opts)
		})
	}
	return c
}

func locationsCloseGap(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "close-gap NAME FROM", Short: "Take a gap in the log of a location off the record", Args: cobra.ExactArgs(2),
		Long: "Take a gap in the log of a location off the record, which begins at the LSN FROM: one that was filled, or with\n" +
			"--given-up one that never will be. What the log lacks cannot be restored either way; the moments around it can.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	timeline := c.Flags().Uint32("timeline", 0, "timeline of the gap (required)")
	givenUp := c.Flags().String("given-up", "", "why it will never be filled")
	c.RunE = func(c *cobra.Command, args []string) error {
		from, err := pos.ParseLSN(args[1])
		if err != nil {
			return usage("locations close-gap: %q is no LSN such as 0/3000000", args[1])
		}
		if *timeline == 0 {
			return usage("locations close-gap: say which --timeline the gap is on; understudy locations --json has them all")
		}
		say := map[string]string{argName: args[0], "timeline": strconv.FormatUint(uint64(*timeline), 10), "from": from.String()}
		if c.Flags().Changed("given-up") {
			if strings.TrimSpace(*givenUp) == "" {
				return usage("locations close-gap: --given-up needs a reason")
			}
			say["given_up"], say[argWhy] = argTrue, *givenUp
		}
		return mark(c, *config, doc.ActionCloseGap, say, *asJSON, opts)
	}
	return c
}

func locationsText(list doc.Locations, width int) string {
	if len(list.Locations) == 0 {
		return paragraph("The policy names no location for backups. Add one with: understudy policy apply FILE", "", width)
	}
	t := table{head: []string{"NAME", "STATE", "BEHIND", "SETS", "STORED", "FREE", "FED BY", "WHERE"}, right: map[int]bool{2: true, 3: true, 4: true, 5: true}}
	var notes strings.Builder
	for _, l := range list.Locations {
		free := "-"
		if l.Total > 0 {
			free = size(l.Free)
		}
		t.add(l.Name, l.State, behindText(l), fmt.Sprint(l.SetN), size(l.Bytes), free, dash(l.Feeder), placeText(l))
		notes.WriteString(locationNotes(l, width))
	}
	return t.text(width) + notes.String()
}

// behindText is how far the log of a location is behind, in time where that is
// known.
func behindText(l doc.Location) string {
	switch {
	case !l.Enabled:
		return "-"
	case l.LagSeconds != nil && *l.LagSeconds > 0:
		return length(time.Duration(*l.LagSeconds * float64(time.Second)).Round(time.Second))
	case l.LagBytes > 0:
		return size(l.LagBytes)
	case l.Archived == 0:
		return "-"
	}
	return "0s"
}

func placeText(l doc.Location) string {
	text := l.Where
	if l.Kind == "local" && l.Node != "" {
		text = l.Node + ":" + text
	}
	for _, m := range []struct {
		is   bool
		word string
	}{{l.Encrypted, "encrypted"}, {l.Tier == "cold", "cold"}} {
		if m.is {
			text += ", " + m.word
		}
	}
	return text
}

// locationNotes are the sentences below the table.
func locationNotes(l doc.Location, width int) string {
	var b strings.Builder
	say := func(text string) { b.WriteString(paragraph(l.Name+": "+text, "  ", width)) }
	if l.Problem != "" {
		text := l.Problem
		if !l.Since.IsZero() {
			text += ", since " + secondTime(l.Since)
		}
		say(text)
	}
	if l.Waiting != "" {
		say("waits: " + l.Waiting)
	}
	for _, g := range l.Gaps {
		say("the log lacks " + gapText(g))
	}
	return b.String()
}

// localZone is this host's.
func localZone() *time.Location { return time.Local }

// errNothing is for commands that need one of their sub-commands.
func errNothing(name, which string) error {
	return &ExitError{Code: ExitUsage, Err: errors.New(name + ": say which: " + which)}
}
