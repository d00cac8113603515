package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
)

const (
	followEvery = 100 * time.Millisecond
	// sayEvery is how often progress is printed where it cannot be redrawn.
	sayEvery = 10 * time.Second
)

// The arguments of the actions on backups, as the daemon takes them.
const (
	argLocations = "locations" // names, separated by commas
	argLabel     = "label"
	argLog       = "log"
	argTarget    = "target"
	argWhy       = "why"
	argID        = "id"
	argName      = "name"
	argNote      = "note." // before the name of a note
	argForm      = "form"  // of a backup: full or incremental
)

// workFlags are those of the commands that begin jobs.
type workFlags struct {
	config         *string
	asJSON, detach *bool
	dryRun         *bool
	wait           *time.Duration
}

func addWorkFlags(c *cobra.Command) workFlags {
	return workFlags{
		config: ConfigFlag(c),
		asJSON: c.Flags().Bool("json", false, "print one JSON document at the end"),
		dryRun: c.Flags().Bool("dry-run", false, "say what would happen, and do nothing"),
		detach: c.Flags().Bool("detach", false, "do not wait until it has ended"),
		wait:   c.Flags().Duration("wait", 0, "how long to wait at most; 0 waits until it has ended. It goes on in any case"),
	}
}

func (f workFlags) check(name string) error {
	if *f.wait < 0 {
		return usage("%s: --wait must not be negative", name)
	}
	return nil
}

func usage(format string, args ...any) error {
	return &ExitError{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// work begins jobs and follows them.
type work struct {
	client *Client
	opts   Options
	flags  workFlags
	action string
	args   map[string]string
}

// run gives the order, and unless told otherwise waits for what it began.
func (w *work) run(ctx context.Context) error {
	if *w.flags.dryRun {
		w.args[argDryRun] = argTrue
	}
	var r doc.JobsReply
	if err := w.client.Do(ctx, w.action, w.args, &r); err != nil {
		return err
	}
	if !*w.flags.asJSON {
		if err := w.print(orderText(r, w.opts.Width)); err != nil {
			return err
		}
	}
	var err error
	if r.Started && !*w.flags.detach {
		err = w.follow(ctx, r.Jobs)
	}
	if *w.flags.asJSON {
		return errors.Join(printJSON(w.opts.Out, r), err)
	}
	return err
}

func (w *work) print(text string) error {
	_, err := fmt.Fprint(w.opts.Out, text)
	return err
}

// orderText says what was begun, or would be.
func orderText(r doc.JobsReply, width int) string {
	var b strings.Builder
	for _, s := range r.Steps {
		b.WriteString(paragraph(s, "", width))
	}
	if r.Started {
		for _, j := range r.Jobs {
			b.WriteString(paragraph(fmt.Sprintf("Job %s: %s.", j.ID, jobTitle(j)), "", width))
		}
	}
	return b.String()
}

// jobTitle is what a job is, in words.
func jobTitle(j doc.Job) string {
	text := j.Kind
	if j.Label != "" {
		text += " " + j.Label
	}
	text += " on " + j.Node
	if len(j.Locations) > 0 {
		text += " at " + strings.Join(j.Locations, ", ")
	}
	return text
}

// follow shows the progress of jobs until all have ended, and fails when one of
// them did. The jobs are replaced by what they have become.
func (w *work) follow(ctx context.Context, jobs []doc.Job) error {
	wait, cancel := ctx, context.CancelFunc(func() {})
	if *w.flags.wait > 0 {
		wait, cancel = context.WithTimeout(ctx, *w.flags.wait)
	}
	defer cancel()
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	p := progress{opts: w.opts, quiet: *w.flags.asJSON, said: map[string]string{}, at: map[string]time.Time{}}
	ended := map[string]bool{}
	for len(ended) < len(jobs) {
		for i := range jobs {
			if ended[jobs[i].ID] {
				continue
			}
			var d doc.JobDetail
			err := w.client.Get(wait, "/api/v1/jobs/"+url.PathEscape(jobs[i].ID)+"?lines=0&files=0", &d)
			switch {
			case err != nil && wait.Err() == nil && Code(err) != ExitNotRunning:
				return err
			case err != nil:
				continue // it may be restarting; what it was told stands in the ledger
			}
			jobs[i] = d.Job
			if d.Job.State != doc.JobRunning {
				ended[d.Job.ID] = true
			}
			if err := p.show(d.Job); err != nil {
				return err
			}
		}
		if len(ended) == len(jobs) {
			break
		}
		select {
		case <-wait.Done():
			return w.gaveUp(ctx, jobs, ended)
		case <-tick.C:
		}
	}
	return outcome(jobs)
}

// gaveUp says that what was begun goes on.
func (w *work) gaveUp(ctx context.Context, jobs []doc.Job, ended map[string]bool) error {
	var ids []string
	for _, j := range jobs {
		if !ended[j.ID] {
			ids = append(ids, j.ID)
		}
	}
	why := "interrupted"
	if ctx.Err() == nil {
		why = fmt.Sprintf("it takes longer than %s", *w.flags.wait)
	}
	return fmt.Errorf("%s; it goes on: understudy jobs %s shows it, and understudy jobs cancel %s ends it", why, ids[0], ids[0])
}

// outcome is an error when a job did not do what it was for.
func outcome(jobs []doc.Job) error {
	var bad []string
	for _, j := range jobs {
		if j.State != doc.JobDone {
			bad = append(bad, printable(endText(j)))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	return errors.New(strings.Join(bad, "\n"))
}

// endText is what became of a job.
func endText(j doc.Job) string {
	words := map[string]string{doc.JobDone: "is done", "failed": "failed", "cancelled": "was cancelled", "lost": "was lost"}
	text := jobTitle(j) + " " + cmp.Or(words[j.State], "is "+j.State)
	if why := cmp.Or(j.Problem, j.Result); why != "" {
		text += ": " + why
	}
	if !j.Ended.IsZero() && j.State == doc.JobDone {
		text += " (" + length(j.Ended.Sub(j.Began)) + ")"
	}
	return text
}

// progress shows how far jobs are: on a terminal in one line that is redrawn,
// elsewhere in a line for each step and now and then.
type progress struct {
	opts  Options
	quiet bool
	lines map[string]string // of running jobs, redrawn
	drawn bool
	said  map[string]string // step by job
	at    map[string]time.Time
}

func (p *progress) show(j doc.Job) error {
	if p.quiet {
		return nil
	}
	if j.State != doc.JobRunning {
		delete(p.lines, j.ID)
		if err := p.wipe(); err != nil || j.State != doc.JobDone {
			return err // the end of the others is the command's error
		}
		_, err := fmt.Fprint(p.opts.Out, paragraph(sentence(endText(j)), "", p.opts.Width))
		return err
	}
	text := progressText(j)
	if p.opts.Width > 0 {
		return p.draw(j.ID, text)
	}
	step := ""
	if j.Progress != nil {
		step = j.Progress.Step
	}
	if text == "" || p.said[j.ID] == step && time.Since(p.at[j.ID]) < sayEvery {
		return nil
	}
	p.said[j.ID], p.at[j.ID] = step, time.Now()
	_, err := fmt.Fprintln(p.opts.Out, printable(text))
	return err
}

// draw replaces the line of the terminal.
func (p *progress) draw(id, text string) error {
	if p.lines == nil {
		p.lines = map[string]string{}
	}
	p.lines[id] = text
	var all []string
	for _, id := range slices.Sorted(maps.Keys(p.lines)) {
		if p.lines[id] != "" {
			all = append(all, p.lines[id])
		}
	}
	p.drawn = true
	_, err := fmt.Fprint(p.opts.Out, "\r\x1b[K"+cut(printable(strings.Join(all, " | ")), p.opts.Width-1))
	return err
}

func (p *progress) wipe() error {
	if !p.drawn {
		return nil
	}
	p.drawn = false
	_, err := fmt.Fprint(p.opts.Out, "\r\x1b[K")
	return err
}

// progressText is how far a running job is; "" while nothing is known.
func progressText(j doc.Job) string {
	g := j.Progress
	if g == nil {
		return ""
	}
	text := j.Kind + ": " + cmp.Or(g.Step, "working")
	switch {
	case g.TotalBytes > 0:
		text += fmt.Sprintf(", %d %%, %s of %s", g.Percent, size(g.DoneBytes), size(g.TotalBytes))
	case g.DoneBytes > 0:
		text += ", " + size(g.DoneBytes)
	}
	if g.RemainingNS > 0 {
		text += ", " + length(time.Duration(g.RemainingNS)) + " left"
	}
	if j.Cancel != "" {
		text += ", to be ended: " + j.Cancel
	}
	return text
}

// mark has the daemon carry out an action that is done at once, and prints its
// sentence.
func mark(c *cobra.Command, config, action string, args map[string]string, asJSON bool, opts Options) error {
	return withClient(c, config, func(ctx context.Context, client *Client) error {
		var m doc.Mark
		if err := client.Do(ctx, action, args, &m); err != nil {
			return err
		}
		if asJSON {
			return printJSON(opts.Out, m)
		}
		_, err := fmt.Fprint(opts.Out, paragraph(m.Sentence, "", opts.Width))
		return err
	})
}
