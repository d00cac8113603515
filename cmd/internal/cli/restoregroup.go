package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
)

// groupFlags are those of restore --group. Some are the ordinary restore's too.
type groupFlags struct {
	group, cancel, force *bool
	node                 *string
	archiveWait, wait    *time.Duration
}

// groupRestore adds the restore of the whole group to the command restore: with
// --group its own flags count, and another thing is done.
func groupRestore(c *cobra.Command, opts Options) *cobra.Command {
	fl := c.Flags()
	f := groupFlags{
		group:       fl.Bool("group", false, "bring the whole group back, in place"),
		cancel:      fl.Bool("cancel", false, "with --group: withdraw a restore that has not reached the point of no return"),
		node:        fl.String("node", "", "with --group: node whose database is restored and becomes primary; without it that of the primary"),
		force:       fl.Bool("force", false, "with --group: give up what no location has; has to be confirmed"),
		archiveWait: fl.Duration("archive-wait", 2*time.Minute, "with --group: how long the locations may take for the last log"),
		wait:        fl.Duration("wait", time.Hour, "with --group: how long to wait for the end; what was begun goes on after it"),
	}
	c.Long = strings.TrimSpace(c.Long+"\n\nWith --group the whole group goes back to a moment while its daemons run: clients are shut out, the last log is saved to the locations,\n"+
		"one node restores its database and is promoted on a new timeline, and the others follow it. What happens is shown first, and what is\n"+
		"thrown away has to be confirmed. A restore that was interrupted goes on by itself when its daemon is back.") + "\n"
	alone := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*f.group {
			for _, name := range []string{"cancel", "node", "force", "archive-wait", "wait"} {
				if c.Flags().Changed(name) {
					return usage("restore: --%s goes with --group only", name)
				}
			}
			return alone(c, args)
		}
		return f.run(c, opts)
	}
	return c
}

func flagText(c *cobra.Command, name string) string {
	if f := c.Flags().Lookup(name); f != nil && f.Value.String() != "0" {
		return f.Value.String()
	}
	return ""
}

func (f groupFlags) run(c *cobra.Command, opts Options) error {
	on := func(name string) bool { return flagText(c, name) == argTrue }
	return withClient(c, flagText(c, "config"), func(ctx context.Context, client *Client) error {
		r := groupRun{client: client, opts: opts, asJSON: on("json"), yes: on("yes"), wait: *f.wait}
		switch {
		case *f.cancel:
			return r.cancel(ctx)
		case on("status"):
			return r.status(ctx)
		}
		// The same command again goes on with what was begun.
		now, err := r.now(ctx)
		if err != nil {
			return err
		}
		if now.ID != "" {
			return r.follow(ctx, doc.OrderReply{ID: now.ID, To: now.Node})
		}
		target := flagText(c, "target")
		if !c.Flags().Changed("target") {
			return usage("restore: say what to restore to with --target")
		}
		r.args = map[string]string{"target": target, "set": flagText(c, "set"), "timeline": flagText(c, "timeline"), argNode: *f.node, argWait: f.archiveWait.String()}
		if *f.force {
			r.args[argForce] = argTrue
		}
		return r.begin(ctx, on("dry-run"))
	})
}

// groupRun carries a restore of the group through.
type groupRun struct {
	client      *Client
	opts        Options
	args        map[string]string
	asJSON, yes bool
	wait        time.Duration
}

func (r groupRun) now(ctx context.Context) (doc.GroupRestore, error) {
	var now doc.GroupRestore
	err := r.client.Do(ctx, doc.ActionRestoreStatus, nil, &now)
	return now, err
}

func (r groupRun) begin(ctx context.Context, dry bool) error {
	plan, err := r.client.plan(ctx, doc.ActionRestoreGroup, r.args)
	if err != nil {
		return err
	}
	if dry && r.asJSON {
		return printJSON(r.opts.Out, plan)
	}
	for _, s := range plan.Steps {
		if !r.asJSON {
			if _, err := fmt.Fprintln(r.opts.Out, printable(s)); err != nil {
				return err
			}
		}
	}
	if dry {
		return nil
	}
	if err := (question{statement: plan.Statement, node: plan.To, yes: r.yes}).confirm(ctx, r.opts); err != nil {
		return err
	}
	r.args[argConfirm] = plan.Statement
	reply, err := r.client.order(ctx, doc.ActionRestoreGroup, r.args)
	if err != nil {
		return err
	}
	if !reply.Started {
		return notStarted(reply)
	}
	return r.follow(ctx, reply)
}

// restoreGone is how long no order may stand, and no restored primary be open, to
// count as given up: a daemon that begins anew knows of neither for a moment.
const restoreGone = 5 * time.Second

// follow shows how far it is until a primary is open again. The daemon that is
// asked may begin anew on the way.
func (r groupRun) follow(ctx context.Context, reply doc.OrderReply) error {
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	since, err := r.newest(ctx)
	if err != nil {
		return err
	}
	last, gone := "", time.Time{}
	for {
		now, err := r.now(ctx)
		switch {
		case err == nil && now.ID == "":
			if ch, err := r.newest(ctx); err == nil && since.Epoch.Less(ch.Epoch) && ch.Opened && ch.Kind == string(facts.ChangeRestore) {
				return r.done(ch)
			}
			if gone.IsZero() {
				gone = time.Now()
			} else if time.Since(gone) > restoreGone {
				return &ExitError{Code: ExitFailure, Err: fmt.Errorf("the restore of the group by %s was given up; look at: understudy events", reply.To)}
			}
		case err == nil:
			gone = time.Time{}
			if line := progressLine(now); line != last && !r.asJSON {
				last = line
				if _, err := fmt.Fprintln(r.opts.Out, printable(line)); err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return errors.New("the restore of the group has not ended; it goes on, look at: understudy restore --group --status")
		case <-time.After(4 * progressEvery):
		}
	}
}

// newest is the newest change of the primaryship.
func (r groupRun) newest(ctx context.Context) (doc.Change, error) {
	var h doc.History
	if err := r.client.Get(ctx, "/api/v1/history", &h); err != nil || len(h.Changes) == 0 {
		return doc.Change{}, err
	}
	return h.Changes[len(h.Changes)-1], nil
}

func (r groupRun) done(ch doc.Change) error {
	if r.asJSON {
		return printJSON(r.opts.Out, ch)
	}
	_, err := fmt.Fprintf(r.opts.Out, "%s is primary in epoch %s on timeline %d: %s.\n", printable(ch.To), ch.Epoch, ch.Timeline, printable(ch.Cause))
	return err
}

func progressLine(g doc.GroupRestore) string {
	s := fmt.Sprintf("%s: %s", g.Node, cmp.Or(g.Step, g.Stage))
	if g.Step == "files" && g.TotalBytes > 0 {
		s += fmt.Sprintf(" %d of %d MiB", g.DoneBytes>>20, g.TotalBytes>>20)
	}
	if g.Problem != "" {
		s += " (" + g.Problem + ")"
	}
	return s
}

func (r groupRun) cancel(ctx context.Context) error {
	reply, err := r.client.order(ctx, doc.ActionRestoreCancel, nil)
	if err != nil {
		return err
	}
	if r.asJSON {
		return printJSON(r.opts.Out, reply)
	}
	for _, s := range reply.Steps {
		if _, err := fmt.Fprintln(r.opts.Out, printable(s)); err != nil {
			return err
		}
	}
	return nil
}

func (r groupRun) status(ctx context.Context) error {
	now, err := r.now(ctx)
	if err != nil {
		return err
	}
	if r.asJSON {
		return printJSON(r.opts.Out, now)
	}
	text := "No restore of the group is under way."
	if now.ID != "" {
		text = progressLine(now) + ", to " + now.Target
	}
	_, err = fmt.Fprintln(r.opts.Out, printable(text))
	return err
}
