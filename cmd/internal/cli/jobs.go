package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

func jobsCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "jobs [ID]", Short: "Show the work on backups, or one job", Args: cobra.MaximumNArgs(1),
		Long: "Show the jobs that run, then those that ended, newest first; or one job. Its log and the list of the objects that it\n" +
			"wrote or removed are kept on the node that ran it.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	log := c.Flags().Bool("log", false, "print the end of the job's log")
	files := c.Flags().Bool("files", false, "list the objects that the job wrote or removed")
	kind := c.Flags().String("kind", "", "only jobs of this kind: backup, verify, restore, drill, prune or fill")
	c.RunE = func(c *cobra.Command, args []string) error {
		switch {
		case len(args) == 0 && (*log || *files):
			return usage("jobs: --log and --files need the ID of a job")
		case len(args) > 0 && *kind != "":
			return usage("jobs: --kind goes with no ID")
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			if len(args) > 0 {
				return askJob(ctx, client, opts, jobQuestion{args[0], *log, *files, *asJSON})
			}
			return ask(ctx, client, "/api/v1/jobs?kind="+url.QueryEscape(*kind), *asJSON, opts.Out, func(j doc.Jobs) string { return jobsText(j, opts.Width) })
		})
	}
	cancel := jobsCancel(opts)
	Prepare(cancel)
	c.AddCommand(cancel)
	return c
}

func jobsCancel(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "cancel ID", Short: "End a running job", Args: cobra.ExactArgs(1),
		Long: "End a running job. It cleans up what it began; it is no error when it has ended already.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	why := c.Flags().String("why", "", "reason, for the record")
	c.RunE = func(c *cobra.Command, args []string) error {
		return mark(c, *config, doc.ActionCancel, map[string]string{argID: args[0], argWhy: *why}, *asJSON, opts)
	}
	return c
}

type jobQuestion struct {
	id                 string
	log, files, asJSON bool
}

const (
	shownLines = 1000
	shownFiles = 10000
)

func askJob(ctx context.Context, client *Client, opts Options, q jobQuestion) error {
	lines, files := 0, 0
	if q.log || q.asJSON {
		lines = shownLines
	}
	if q.files || q.asJSON {
		files = shownFiles
	}
	var d doc.JobDetail
	if err := client.Get(ctx, fmt.Sprintf("/api/v1/jobs/%s?lines=%d&files=%d", url.PathEscape(q.id), lines, files), &d); err != nil {
		return err
	}
	if q.asJSON {
		return printJSON(opts.Out, d)
	}
	if (q.log || q.files) && !d.Here {
		return &ExitError{Code: ExitFailure, Err: errors.New(printable(d.Elsewhere))}
	}
	text := fit(jobText(d), opts.Width)
	if q.log {
		text += logText(d)
	}
	if q.files {
		text += filesText(d, opts.Width)
	}
	_, err := io.WriteString(opts.Out, text)
	return err
}

func jobsText(list doc.Jobs, width int) string {
	if len(list.Jobs) == 0 {
		return paragraph("No job is recorded.", "", width)
	}
	t := table{head: []string{"ID", "KIND", "STATE", "NODE", "BEGAN", "WHAT"}}
	for _, j := range list.Jobs {
		t.add(j.ID, j.Kind, j.State, j.Node, minuteTime(j.Began), whatText(j))
	}
	return t.text(width)
}

// whatText is what a job is about and how it stands.
func whatText(j doc.Job) string {
	var parts []string
	if j.Label != "" {
		parts = append(parts, j.Label)
	} else if len(j.Locations) > 0 {
		parts = append(parts, strings.Join(j.Locations, ", "))
	}
	switch {
	case j.State == doc.JobRunning && j.Progress != nil:
		_, text, _ := strings.Cut(progressText(j), ": ")
		parts = append(parts, text)
	case j.State != doc.JobRunning:
		parts = append(parts, length(j.Ended.Sub(j.Began)))
	}
	if j.Problem != "" {
		parts = append(parts, j.Problem)
	} else if j.Result != "" {
		parts = append(parts, j.Result)
	}
	return dash(strings.Join(parts, "; "))
}

func jobText(d doc.JobDetail) string {
	var t labelled
	j := d.Job
	fmt.Fprintf(&t.b, "%s  %s  %s\n", printable(j.ID), printable(jobTitle(j)), printable(j.State))
	t.line("why", printable(j.Why))
	t.line("began", secondTime(j.Began))
	if !j.Due.IsZero() {
		t.line("due", secondTime(j.Due))
	}
	if !j.Ended.IsZero() {
		t.line("ended", secondTime(j.Ended)+" ("+length(j.Ended.Sub(j.Began))+")")
	}
	if j.State == doc.JobRunning && !j.Deadline.IsZero() {
		t.line("deadline", secondTime(j.Deadline))
	}
	if j.Attempt > 1 {
		t.line("attempt", fmt.Sprint(j.Attempt))
	}
	t.line("progress", printable(progressText(j)))
	t.line("cancel", printable(j.Cancel))
	t.line("result", printable(j.Result))
	t.line("problem", printable(j.Problem))
	if j.Bytes > 0 {
		t.line("bytes", size(j.Bytes))
	}
	t.line("kept", printable(d.Elsewhere))
	return t.b.String()
}

func logText(d doc.JobDetail) string {
	var b strings.Builder
	b.WriteString("\n")
	if d.LogCut {
		b.WriteString("(earlier lines are left out)\n")
	}
	for _, l := range d.Log {
		b.WriteString(printable(l) + "\n")
	}
	if len(d.Log) == 0 {
		b.WriteString("The log is empty.\n")
	}
	return b.String()
}

func filesText(d doc.JobDetail, width int) string {
	t := table{head: []string{"", "LOCATION", "SIZE", "OBJECT"}, right: map[int]bool{2: true}}
	for _, f := range d.Files {
		verb := "wrote"
		if f.Removed {
			verb = "removed"
		}
		t.add(verb, f.Location, size(f.Bytes), f.Key)
	}
	text := "\n" + t.text(width)
	if more := d.FileN - len(d.Files); more > 0 {
		text += fmt.Sprintf("and %d more\n", more)
	}
	return text + fmt.Sprintf("%s, %s\n", counted(d.FileN, "object"), size(d.FileBytes))
}
