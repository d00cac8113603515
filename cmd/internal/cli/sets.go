package cli

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

func setsCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "sets [LABEL]", Short: "Show the backups, or one of them", Args: cobra.MaximumNArgs(1),
		Long: "Show the backups, newest first, and where each of them can be restored from; or one with all its copies.\n" +
			"Labels are the time of the beginning in UTC.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			if len(args) > 0 {
				return ask(ctx, client, "/api/v1/sets/"+url.PathEscape(args[0]), *asJSON, opts.Out, func(s doc.Set) string { return fit(setText(s), opts.Width) })
			}
			return ask(ctx, client, "/api/v1/sets", *asJSON, opts.Out, func(s doc.Sets) string { return setsText(s, opts.Width) })
		})
	}
	for _, sub := range []*cobra.Command{
		setsMark(opts, doc.ActionPin, "Keep a set, whatever the retention says"),
		setsMark(opts, doc.ActionUnpin, "Let the retention decide about a set again"),
		setsNote(opts),
	} {
		Prepare(sub)
		c.AddCommand(sub)
	}
	return c
}

func setsMark(opts Options, action, short string) *cobra.Command {
	c := &cobra.Command{Use: action + " LABEL", Short: short, Args: cobra.ExactArgs(1)}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		return mark(c, *config, action, map[string]string{argLabel: args[0]}, *asJSON, opts)
	}
	return c
}

func setsNote(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "note LABEL NAME=TEXT...", Short: "Write notes on a set", Args: cobra.MinimumNArgs(2),
		Long: "Write notes on a set, such as reason=upgrade. NAME= takes one back.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		say := map[string]string{argLabel: args[0]}
		if err := addNotes(say, args[1:]); err != nil {
			return usage("sets note: %w", err)
		}
		return mark(c, *config, doc.ActionNote, say, *asJSON, opts)
	}
	return c
}

func setsText(s doc.Sets, width int) string {
	out := ""
	if s.Frozen != "" {
		out = paragraph("Nothing is deleted now: "+s.Frozen+".", "", width)
	}
	if len(s.Sets) == 0 {
		return out + paragraph("There is no backup yet.", "", width)
	}
	t := table{head: []string{"LABEL", "STATE", "ENDED", "STORED", "WHERE"}, right: map[int]bool{3: true}}
	for _, x := range s.Sets {
		t.add(x.Label, x.State, minuteTime(x.Ended), size(x.Bytes), whereText(x))
	}
	return out + t.text(width)
}

// whereText is where a set can be restored from, where not and why, and how it
// is marked.
func whereText(s doc.Set) string {
	var parts []string
	for _, c := range s.Copies {
		switch {
		case c.State == "complete" && c.Restorable:
			parts = append(parts, c.Location)
		case c.State == "complete":
			parts = append(parts, c.Location+" (log is missing)")
		default:
			parts = append(parts, c.Location+" ("+c.State+")")
		}
	}
	if n := len(s.Chain); n > 1 {
		parts = append(parts, "built on "+s.Chain[n-2])
	}
	for _, m := range []struct {
		is   bool
		word string
	}{{s.Pinned, "pinned"}, {s.Gold, "gold"}, {s.Damaged, "damaged pages"}} {
		if m.is {
			parts = append(parts, m.word)
		}
	}
	if s.State == "failed" && s.Problem != "" {
		parts = append(parts, s.Problem)
	}
	return dash(strings.Join(parts, ", "))
}

// setText is all that is known of a set.
func setText(s doc.Set) string {
	var t labelled
	fmt.Fprintf(&t.b, "%s  %s  %s\n", printable(s.Label), printable(s.State), strings.Join(marksOf(s), ", "))
	t.line("taken", fmt.Sprintf("on %s, %s to %s (%s)", printable(dash(s.Node)), secondTime(s.Began), secondTime(s.Ended), length(time.Duration(s.DurationNS))))
	if len(s.Chain) > 0 {
		t.line("kind", printable(string(s.Kind)+", built on "+strings.Join(s.Chain[:len(s.Chain)-1], ", ")))
	}
	t.line("size", fmt.Sprintf("%s stored, %s of the database", size(s.Bytes), size(s.RawBytes)))
	t.line("log", fmt.Sprintf("timeline %d, %s to %s", s.Timeline, s.Start, s.End))
	t.line("digest", printable(s.Digest))
	if s.Damaged {
		t.line("damaged", "pages of the database were corrupt when it was taken")
	}
	t.line("problem", printable(s.Problem))
	t.line("job", printable(s.Job))
	label := "notes"
	for _, k := range slices.Sorted(maps.Keys(s.Notes)) {
		t.line(label, printable(k+"="+s.Notes[k]))
		label = ""
	}
	label = "copies"
	for _, c := range s.Copies {
		t.line(label, printable(copyText(c)))
		label = ""
	}
	return t.b.String()
}

func marksOf(s doc.Set) []string {
	out := []string{"can be restored"}
	if !s.Restorable {
		out[0] = "cannot be restored"
	}
	if s.Pinned {
		out = append(out, "pinned")
	}
	if s.Gold {
		out = append(out, "gold")
	}
	return out
}

func copyText(c doc.Copy) string {
	text := c.Location + ": " + c.State + " since " + secondTime(c.At)
	if c.Verified.IsZero() {
		text += ", never proven"
	} else {
		text += ", proven " + secondTime(c.Verified)
	}
	if c.State == "complete" && !c.Restorable {
		text += ", lacks log that it needs"
	}
	if c.Problem != "" {
		text += ": " + c.Problem
	}
	return text
}
