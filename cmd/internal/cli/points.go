package cli

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

func pointsCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "points", Short: "Show which moments can be restored", Args: cobra.NoArgs,
		Long: "Show which moments can be restored, from all locations together or from one alone, how long a restore of the end of\n" +
			"each stretch will take, what is missing in between and why, and the named restore points.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	location := c.Flags().String("location", "", "only what can be restored from this location alone")
	c.RunE = func(c *cobra.Command, _ []string) error {
		path := "/api/v1/points"
		if c.Flags().Changed("location") {
			path += "?location=" + url.QueryEscape(*location)
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return ask(ctx, client, path, *asJSON, opts.Out, func(p doc.Points) string { return pointsText(p, opts.Width) })
		})
	}
	return c
}

// pointsText is a table of what can be reached, then what is missing, then the
// restore points.
func pointsText(p doc.Points, width int) string {
	var b strings.Builder
	if len(p.Intervals) == 0 {
		b.WriteString(paragraph("Nothing can be restored.", "", width))
	} else {
		t := table{head: []string{"FROM", "TO", "TLI", "SETS", "RESTORE"}, right: map[int]bool{2: true, 3: true}}
		for _, iv := range p.Intervals {
			from, to := secondTime(iv.From), secondTime(iv.To)
			if !iv.From.Before(iv.To) {
				from, to = iv.FromLSN.String(), iv.ToLSN.String() // no moment is known
			}
			t.add(from, to, fmt.Sprint(iv.Timeline), fmt.Sprint(len(iv.Sets)), estimateText(iv.EstimateNS))
		}
		b.WriteString(t.text(width))
		if !p.Measured {
			b.WriteString(paragraph("How long a restore takes was never measured here: it is a guess until a drill succeeds.", "", width))
		}
	}
	for _, g := range p.Gaps {
		b.WriteString(paragraph("Missing: "+gapText(g), "  ", width))
	}
	if len(p.Named) > 0 {
		t := table{head: []string{"RESTORE POINT", "TIME", "LSN"}}
		for _, n := range p.Named {
			t.add(n.Name, secondTime(n.At), n.LSN.String())
		}
		b.WriteString("\n" + t.text(width))
	}
	return b.String()
}

func estimateText(ns int64) string {
	if ns <= 0 {
		return "-"
	}
	return "about " + length(time.Duration(ns))
}

func gapText(g doc.Gap) string {
	text := fmt.Sprintf("%s to %s of timeline %d", g.From, g.To, g.Timeline)
	if g.Cause != "" {
		text += " (" + g.Cause + ")"
	}
	if !g.Since.IsZero() {
		text += ", since " + secondTime(g.Since)
	}
	return text
}
