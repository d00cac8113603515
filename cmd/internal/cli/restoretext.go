package cli

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"understudy/cmd/internal/rescue"
	"understudy/cmd/internal/view"
	"understudy/standby/recover"
)

// fields are lines of a name and a text that is wrapped beside it.
type fields struct {
	b     strings.Builder
	width int
}

// fieldIndent is where the text of a field begins.
const fieldIndent = 14

func (f *fields) add(name, format string, args ...any) {
	lines := []string{printable(fmt.Sprintf(format, args...))}
	if room := f.width - fieldIndent; room >= minLast {
		lines = wrapped(lines[0], room)
	}
	for i, l := range lines {
		if i > 0 {
			name = ""
		}
		f.b.WriteString(cut(fmt.Sprintf("  %-*s%s", fieldIndent-2, name, l), f.width) + "\n")
	}
}

// reached is where a recovery ended. A server that stopped without opening does
// not always tell, and what it read last is no answer.
func (f *fields) reached(r recover.Reached, opened bool) {
	if !r.Time.IsZero() {
		f.add("last commit", "%s", preciseTime(r.Time))
	}
	if opened || !r.Time.IsZero() {
		f.add("LSN", "%s", r.LSN)
	}
	if r.Timeline != 0 {
		f.add("timeline", "%d", r.Timeline)
	}
}

// planOfRestoreText is what a restore will do.
func planOfRestoreText(p *rescue.Plan, width int) string {
	f := fields{width: width}
	f.b.WriteString(paragraph(fmt.Sprintf("Restore of the database of group %s, known from %s:", p.Group, p.Source), "", width))
	f.add("set", "%s, ended %s, %s at %s", p.Set, secondTime(p.SetEnded), size(p.Bytes), strings.Join(p.Locations, ", "))
	f.add("files", "%s, %s", counted(int(p.FileN), "file"), size(p.FileBytes))
	for i, w := range p.WAL {
		f.add(map[bool]string{true: "log", false: ""}[i == 0], "%s to %s of timeline %d, %s at %s", w.From, w.To, w.Timeline, size(int64(w.To.Sub(w.From))), cmp.Or(strings.Join(w.Locations, ", "), "no location"))
	}
	f.add("target", "%s, along timeline %d", p.Target, p.Timeline)
	f.add("to", "%s", p.DataDir)
	for _, s := range p.Spaces {
		if !s.InPlace {
			f.add("tablespace", "%d in %s", s.OID, s.Dir)
		}
	}
	if p.Resumes != "" {
		f.add("continues", "%s", p.Resumes)
	}
	if p.Overwrite != "" {
		f.add("overwrites", "%s", p.Overwrite)
	}
	if p.Extra != nil {
		f.extra(*p.Extra)
	}
	f.add("result", "%s", resultText(p))
	guess := " (a guess: no drill has measured it)"
	if p.Measured {
		guess = ""
	}
	f.add("takes", "about %s%s", length(p.Estimate), guess)
	for _, n := range p.Notes {
		f.b.WriteString(paragraph("Note: "+n, "  ", width))
	}
	return f.b.String()
}

// resultText is what the directory will be.
func resultText(p *rescue.Plan) string {
	switch {
	case p.Mode == recover.Beside:
		return fmt.Sprintf("another database with an identity of its own for port %d, opened once and stopped", p.Port)
	case p.Promotes && p.NewLine != 0:
		return fmt.Sprintf("opened once for writing, on the new timeline %d, and stopped", p.NewLine)
	case p.Promotes:
		return "opened once for writing and stopped"
	}
	return "stopped at the target and not opened; --promote opens it"
}

// outcomeText is what came out of a restore.
func outcomeText(o rescue.Outcome, width int) string {
	f := fields{width: width}
	f.b.WriteString(paragraph(fmt.Sprintf("Restored to %s in %s.", o.DataDir, length(o.Took.Round(100*time.Millisecond))), "", width))
	f.reached(o.Reached, o.Opened)
	f.add("stopped", "%s", cmp.Or(strings.TrimPrefix(o.Reached.Stop, "recovery stopping "), "at the end of the log"))
	f.add("identity", "%d", o.SystemID)
	if o.FileBytes > 0 {
		f.add("files", "%s, of which %s were there already", size(o.FileBytes), size(o.SameBytes))
	}
	f.add("opened", "%s", map[bool]string{true: "yes, once; it is stopped now", false: "no; it is stopped at its target"}[o.Opened])
	if o.Extra != nil {
		f.unpacked(*o.Extra)
	}
	for _, p := range o.Problems {
		f.b.WriteString(paragraph(fmt.Sprintf("Note: %s at %s was passed over: %s", p.Object, p.Location, p.Text), "  ", width))
	}
	if o.Dropped != "" {
		f.b.WriteString(paragraph("The drop directory "+o.Dropped+" was emptied.", "", width))
	}
	for _, n := range o.Next {
		f.b.WriteString(printable(n) + "\n") // commands are not broken into lines
	}
	return f.b.String()
}

// preciseTime is in microseconds, as a target is.
func preciseTime(t time.Time) string { return zoned(t, "2006-01-02 15:04:05.999999 -0700") }

// restoreStatusText is what a directory is.
func restoreStatusText(s rescue.Status, width int) string {
	f := fields{width: width}
	what := map[bool]string{true: "A restore works on " + s.DataDir + " now.", false: "No restore works on " + s.DataDir + " now."}[s.Running]
	f.b.WriteString(paragraph(what, "", width))
	f.add("set", "%s", s.Set)
	f.add("target", "%s", s.Target)
	f.add("mode", "%s", s.Mode)
	f.add("begun", "%s", secondTime(s.Begun))
	f.add("step", "%s, %s", s.Step, secondTime(s.At))
	switch {
	case s.Step == recover.Finished && s.Opened:
		f.add("it is", "recovered, was opened once, and can be started")
	case s.Step == recover.Finished:
		f.add("it is", "stopped at its target and was not opened; restore --promote with the same target opens it")
	case s.Startable:
		f.add("it is", "complete as to its files, and not recovered yet; the same restore command goes on")
	default:
		f.add("it is", "not complete and cannot be started; the same restore command goes on")
	}
	if r := s.Reached; r != nil {
		f.reached(*r, s.Opened)
	}
	return f.b.String()
}

// restoreProgress shows how far a restore is: on a terminal in one line that is
// redrawn, elsewhere in a line for each step and now and then. It takes what
// the restore logs as warnings, too.
type restoreProgress struct {
	opts  Options
	quiet bool

	mu    sync.Mutex
	drawn bool
	step  string
	at    time.Time
}

func (p *restoreProgress) show(g rescue.Progress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.quiet {
		return
	}
	text := restoreProgressText(g)
	if p.opts.Width > 0 {
		p.drawn = true
		_, _ = fmt.Fprint(p.opts.Out, "\r\x1b[K"+cut(printable(text), p.opts.Width-1)) // the result tells of a broken output
		return
	}
	if p.step == g.Phase && time.Since(p.at) < sayEvery {
		return
	}
	p.step, p.at = g.Phase, time.Now()
	_, _ = fmt.Fprintln(p.opts.Out, printable(text))
}

func restoreProgressText(g rescue.Progress) string {
	text := "files"
	if g.Phase == rescue.PhaseLog {
		text = "log"
		if g.At != 0 {
			text += " replayed to " + g.At.String()
		}
	}
	if g.Total > 0 {
		text += fmt.Sprintf(", %d %%, %s of %s", min(100, g.Done*100/g.Total), view.Size(g.Done), view.Size(g.Total))
	}
	if g.Left > 0 {
		text += fmt.Sprintf(", %s left, done at about %s", length(g.Left), time.Now().Add(g.Left).Local().Format(time.TimeOnly))
	}
	return text
}

func (p *restoreProgress) wipe() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.drawn {
		return nil
	}
	p.drawn = false
	_, err := fmt.Fprint(p.opts.Out, "\r\x1b[K")
	return err
}

// Enabled implements slog.Handler: warnings are shown.
func (p *restoreProgress) Enabled(_ context.Context, l slog.Level) bool {
	return l >= slog.LevelWarn && !p.quiet
}

// Handle implements slog.Handler.
func (p *restoreProgress) Handle(_ context.Context, r slog.Record) error {
	text := r.Message
	r.Attrs(func(a slog.Attr) bool {
		text += fmt.Sprintf(", %s %s", strings.ReplaceAll(a.Key, "_", " "), a.Value)
		return true
	})
	if err := p.wipe(); err != nil {
		return err
	}
	_, err := fmt.Fprint(p.opts.Out, paragraph("Note: "+text, "  ", p.opts.Width))
	return err
}

// WithAttrs implements slog.Handler; nothing here uses it.
func (p *restoreProgress) WithAttrs([]slog.Attr) slog.Handler { return p }

// WithGroup implements slog.Handler; nothing here uses it.
func (p *restoreProgress) WithGroup(string) slog.Handler { return p }
