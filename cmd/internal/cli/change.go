package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/view"
	"understudy/ledger/facts"
)

const (
	progressEvery = 50 * time.Millisecond
	// changeWait is how long to follow a change by default.
	changeWait = 60 * time.Second
	// lastLook bounds the question who is primary after the wait is over.
	lastLook = 2 * time.Second
	// orderGone is how long an order must be gone to count as given up: a daemon
	// that was started again knows of it only when it has read its ledger.
	orderGone = 500 * time.Millisecond
)

// changeFlags are what switchover and failover have in common.
type changeFlags struct {
	config, to     *string
	dryRun, asJSON *bool
	wait           *time.Duration
}

func addChangeFlags(c *cobra.Command, to string) changeFlags {
	return changeFlags{
		config: ConfigFlag(c),
		to:     c.Flags().String("to", "", to),
		dryRun: c.Flags().Bool("dry-run", false, "say what would happen, and do nothing"),
		asJSON: c.Flags().Bool("json", false, "print one JSON document at the end"),
		wait:   c.Flags().Duration("wait", changeWait, "how long to wait for the new primary; what was begun goes on after it"),
	}
}

func (f changeFlags) check(name string) error {
	if *f.wait <= 0 {
		return &ExitError{Code: ExitUsage, Err: fmt.Errorf("%s: --wait must be more than 0", name)}
	}
	return nil
}

func switchoverCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "switchover", Short: "Hand the primary over to another node, losing nothing", Args: cobra.NoArgs,
		Long: "Hand the primary over to a standby. Clients are shut out, the primary stops, the standby takes over with\n" +
			"everything it had, and the old primary becomes a standby. If it cannot be completed, a node opens again all the same.\n" +
			"The exit code is 0 when the wanted node is primary, 1 when it was tried and is not, and 4 when it was refused.\n\n" +
			"With --at it begins at a time, and is tried for --within when it is refused then. One is scheduled at most: another\n" +
			"--at replaces it, --cancel withdraws it. The exit code is then 0 when that is recorded. With --dry-run it is said\n" +
			"what would happen now. It works while automatic failover is paused, too.",
	}
	f := addChangeFlags(c, "node to hand over to; without it the best standby")
	later := addScheduleFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if err := errors.Join(f.check("switchover"), later.check(c)); err != nil {
			return err
		}
		args := map[string]string{}
		if *f.to != "" {
			args[argTo] = *f.to
		}
		return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
			if action := later.order(c, args); action != "" {
				return schedule(ctx, client, opts, scheduleOrder{action, args, *f.dryRun, *f.asJSON})
			}
			m := mover{client: client, opts: opts, flags: f, action: doc.KindSwitchover, args: args}
			return m.run(ctx)
		})
	}
	return c
}

func failoverCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "failover", Short: "Make a node primary, on your word that the present primary is lost", Args: cobra.NoArgs,
		Long: "Make a standby primary, on your word that the present primary is lost. It is refused where commits that returned\n" +
			"could be lost, or where two nodes could write. --force does it all the same: what may be lost is printed, has to be\n" +
			"confirmed, and is recorded. It works while automatic failover is paused, too.",
	}
	f := addChangeFlags(c, "node that becomes primary (required)")
	force := c.Flags().Bool("force", false, "go on where it would be refused; what may be lost has to be confirmed")
	yes := c.Flags().Bool("yes", false, "confirm what --force says without being asked")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *f.to == "" {
			return &ExitError{Code: ExitUsage, Err: errors.New("failover: say which node becomes primary with --to NODE")}
		}
		if err := f.check("failover"); err != nil {
			return err
		}
		args := map[string]string{argTo: *f.to}
		if *force {
			args[argForce] = argTrue
		}
		return withClient(c, *f.config, func(ctx context.Context, client *Client) error {
			m := mover{client: client, opts: opts, flags: f, action: doc.KindFailover, args: args, yes: *yes}
			return m.run(ctx)
		})
	}
	return c
}

// mover carries a switchover or failover through.
type mover struct {
	client *Client
	opts   Options
	flags  changeFlags
	action string
	args   map[string]string
	yes    bool
	// printed are the phases that were shown.
	printed map[doc.Phase]bool
}

func (m *mover) forced() bool { return m.args[argForce] != "" }

func (m *mover) run(ctx context.Context) error {
	out, err := m.carry(ctx)
	if *m.flags.asJSON {
		if err != nil && out.Sentence == "" {
			out.Sentence = err.Error()
		}
		return errors.Join(printJSON(m.opts.Out, out), err)
	}
	if err != nil {
		return err // its sentence is printed by the program
	}
	return m.say(out.Sentence)
}

// carry gives the order and follows the change.
func (m *mover) carry(ctx context.Context) (doc.Outcome, error) {
	if *m.flags.dryRun || m.forced() {
		reply, err := m.prepare(ctx)
		if err != nil || *m.flags.dryRun {
			return doc.Outcome{Order: reply}, err
		}
	}
	reply, err := m.client.order(ctx, m.action, m.args)
	switch {
	case err != nil:
		return doc.Outcome{Order: reply}, m.refusal(ctx, reply, err)
	case !reply.Started:
		return doc.Outcome{Order: reply}, notStarted(reply)
	}
	if !m.forced() { // else it was said before
		if err := m.say(stepsText(reply)); err != nil {
			return doc.Outcome{Order: reply}, err
		}
	}
	return m.follow(ctx, reply)
}

// prepare says what would happen and, unless it is a dry run, has the operator
// confirm what may be lost.
func (m *mover) prepare(ctx context.Context) (doc.OrderReply, error) {
	reply, err := m.client.plan(ctx, m.action, m.args)
	if err != nil {
		return reply, m.refusal(ctx, reply, err)
	}
	if err := m.say(stepsText(reply)); err != nil {
		return reply, err
	}
	if *m.flags.dryRun {
		return reply, m.say(printable(reply.Statement))
	}
	if reply.Statement == "" {
		return reply, nil
	}
	m.args[argConfirm] = reply.Statement
	if *m.flags.asJSON {
		if m.yes {
			return reply, nil
		}
		return reply, &ExitError{Code: ExitUsage, Err: errors.New("with --json nothing is asked; this has to be confirmed with --yes: " + printable(reply.Statement))}
	}
	return reply, question{statement: reply.Statement, node: m.args[argTo], yes: m.yes}.confirm(ctx, m.opts)
}

// refusal adds to a failover's refusal what --force would mean.
func (m *mover) refusal(ctx context.Context, reply doc.OrderReply, err error) error {
	if Code(err) != ExitRefused || m.action != doc.KindFailover || m.forced() {
		return err
	}
	statement := reply.Statement
	if statement == "" {
		forced, ferr := m.client.plan(ctx, m.action, map[string]string{argTo: m.args[argTo], argForce: argTrue})
		switch {
		case Code(ferr) == ExitRefused:
			return fmt.Errorf("%w\n--force would not help: %w", err, ferr)
		case ferr != nil:
			return err
		}
		statement = forced.Statement
	}
	if statement == "" {
		return fmt.Errorf("%w\nWith --force it would be tried all the same", err)
	}
	return fmt.Errorf("%w\nWith --force it would be tried all the same, and this has to be confirmed: %s", err, printable(statement))
}

// say prints a text, unless JSON was asked for.
func (m *mover) say(text string) error {
	if text == "" || *m.flags.asJSON {
		return nil
	}
	_, err := fmt.Fprintln(m.opts.Out, text)
	return err
}

// follow shows the phases of the change under an order until some node is open
// as primary, the order was given up, or the wait is over.
func (m *mover) follow(ctx context.Context, order doc.OrderReply) (doc.Outcome, error) {
	wait, cancel := context.WithTimeout(ctx, *m.flags.wait)
	defer cancel()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	out := doc.Outcome{Order: order}
	m.printed = map[doc.Phase]bool{}
	var stood time.Time // when the order was last seen; zero means never
	for {
		var h doc.History
		if err := m.client.Get(wait, "/api/v1/history", &h); err != nil {
			stood = time.Time{} // a daemon that does not answer says nothing of it
		} else {
			changes := following(h, order)
			if err := m.show(changes); err != nil {
				return out, err
			}
			if n := len(changes); n > 0 {
				out.Change = &changes[n-1]
				if out.Change.Opened {
					return m.opened(out, changes)
				}
			}
			if order.ID != "" && h.Order == order.ID {
				stood = time.Now()
			}
			if !stood.IsZero() && time.Since(stood) > orderGone {
				return m.gaveUp(ctx, out, "it was given up; understudy events says why")
			}
		}
		select {
		case <-wait.Done():
			if ctx.Err() != nil {
				return out, errors.New("interrupted; the " + m.action + " goes on, and understudy history shows it")
			}
			return m.gaveUp(ctx, out, fmt.Sprintf("it took longer than %s; what was begun goes on, and understudy history shows it", *m.flags.wait))
		case <-tick.C:
		}
	}
}

// following are the changes after an order, up to the first that opened.
func following(h doc.History, order doc.OrderReply) []doc.Change {
	var out []doc.Change
	for _, c := range h.Changes {
		if !order.After.Less(c.Epoch) {
			continue
		}
		out = append(out, c)
		if c.Opened {
			break
		}
	}
	return out
}

// show prints the phases that are new. A change that is tried again in another
// epoch repeats those of the first attempt.
func (m *mover) show(changes []doc.Change) error {
	for _, c := range changes {
		for _, p := range c.Phases {
			key := doc.Phase{Name: p.Name, Node: p.Node, At: p.At.UTC().Round(0)}
			if m.printed[key] {
				continue
			}
			m.printed[key] = true
			if err := m.say(phaseLine(p)); err != nil {
				return err
			}
		}
	}
	return nil
}

// opened is the end of a change: a node is open as primary, the wanted one or
// another.
func (m *mover) opened(out doc.Outcome, changes []doc.Change) (doc.Outcome, error) {
	c := changes[len(changes)-1]
	wanted := out.Order.To
	if wanted == "" {
		wanted = *m.flags.to
	}
	out.Done = c.To == wanted || wanted == "" && c.To != out.Order.From
	if out.Done {
		out.Sentence = doneText(c)
		return out, nil
	}
	out.Sentence = otherText(m.action, wanted, changes)
	return out, &ExitError{Code: ExitFailure, Err: errors.New(out.Sentence)}
}

// gaveUp is the end of a change that did not open: it says why, and who is
// primary now.
func (m *mover) gaveUp(ctx context.Context, out doc.Outcome, why string) (doc.Outcome, error) {
	out.Sentence = fmt.Sprintf("the %s did not succeed: %s", m.action, why)
	if out.Change != nil && out.Change.Failed != "" {
		out.Sentence += ". " + printable(out.Change.Failed)
	}
	ctx, cancel := context.WithTimeout(ctx, lastLook)
	defer cancel()
	var st view.Status
	if err := m.client.Get(ctx, "/api/v1/status", &st); err != nil {
		out.Sentence += ". Who is primary now is not known: " + err.Error()
	} else if g := st.Group; g.Primary != "" && g.Phase == facts.PhaseOpened {
		out.Sentence += fmt.Sprintf(". %s is primary in epoch %s", printable(g.Primary), g.Epoch)
	} else {
		out.Sentence += ". No node is primary now; understudy status says what is missing"
	}
	return out, &ExitError{Code: ExitFailure, Err: errors.New(out.Sentence)}
}
