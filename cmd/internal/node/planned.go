package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
)

const (
	// switchoverWithin is how long a scheduled switchover is tried.
	switchoverWithin    = 10 * time.Minute
	maxSwitchoverWithin = 24 * time.Hour
	// maxAhead bounds pauses and schedules: a year that was mistyped is far away.
	maxAhead = 366 * 24 * time.Hour
	// pauseTries is how often a pause is proposed while others change the policy.
	pauseTries = 5
)

// planned carries out what an operator decides for later: pause, resume,
// schedule and unschedule. known is false for any other action.
func (n *Node) planned(ctx context.Context, action string, args map[string]string) (result any, known bool, err error) {
	switch action {
	case doc.KindPause:
		result, err = n.orderPause(ctx, args)
	case doc.KindResume:
		result, err = n.changePause(ctx, resumed)
	case doc.KindSchedule:
		result, err = n.orderSchedule(ctx, args)
	case doc.KindUnschedule:
		result, err = n.orderUnschedule(ctx)
	default:
		return nil, false, nil
	}
	return result, true, err
}

func badArgument(format string, args ...any) error {
	return &admin.ActionError{Code: admin.CodeBadArgument, Text: fmt.Sprintf(format, args...)}
}

func (n *Node) orderPause(ctx context.Context, args map[string]string) (doc.Pause, error) {
	var d time.Duration
	if text := args["for"]; text != "" {
		var err error
		if d, err = time.ParseDuration(text); err != nil || d < time.Second || d > maxAhead {
			return doc.Pause{}, badArgument("for must be a duration such as 2h, from 1s to %s.", inWords(maxAhead))
		}
	}
	return n.changePause(ctx, pausedFor(d))
}

// pausedFor pauses for a time, or with 0 until it is resumed. A pause that
// stands is replaced.
func pausedFor(d time.Duration) func(facts.Policy, time.Time) (facts.Policy, bool) {
	return func(p facts.Policy, now time.Time) (facts.Policy, bool) {
		if d == 0 && p.Paused && p.PausedUntil.IsZero() {
			return p, false
		}
		p.Paused, p.PausedUntil = true, time.Time{}
		if d > 0 {
			p.PausedUntil = now.Add(d).Round(0)
		}
		return p, true
	}
}

// resumed ends a pause. One whose time is over was ended before.
func resumed(p facts.Policy, now time.Time) (facts.Policy, bool) {
	if !p.PauseStands(now) {
		return p, false
	}
	p.Paused, p.PausedUntil = false, time.Time{}
	return p, true
}

// changePause changes the policy's pause and nothing else of it, whoever else
// changes the policy at the same time.
func (n *Node) changePause(ctx context.Context, change func(facts.Policy, time.Time) (facts.Policy, bool)) (doc.Pause, error) {
	for try := 1; ; try++ {
		st, err := n.ledger.Read(ctx)
		if err != nil {
			return doc.Pause{}, refusedAction("the ledger has no leader that can be reached; nothing was changed, look at: understudy status")
		}
		if !st.Founded() {
			return doc.Pause{}, refusedAction(n.cfg.Name + " knows of no group yet")
		}
		p, changed := change(st.Policy, time.Now())
		if !changed {
			return pauseDoc(p, time.Now(), false), nil
		}
		p, err = n.setPolicy(ctx, st.Policy.Version, p)
		var refused *ledger.RefusedError
		switch {
		case err == nil:
			return pauseDoc(p, time.Now(), true), nil
		case errors.As(err, &refused) && refused.Code == facts.CodeStaleVersion && try < pauseTries:
		case errors.As(err, &refused):
			return doc.Pause{}, refusedAction(refused.Text + "; nothing was changed")
		default:
			return doc.Pause{}, fmt.Errorf("it is not known whether this was recorded, look at the status: %w", err)
		}
	}
}

func pauseDoc(p facts.Policy, now time.Time, changed bool) doc.Pause {
	d := doc.Pause{Paused: p.PauseStands(now), Changed: changed, Version: p.Version}
	if d.Paused {
		d.Until = p.PausedUntil
	}
	p.Paused = false
	d.Mode = string(p.Mode(now))
	return d
}

func (n *Node) orderSchedule(ctx context.Context, args map[string]string) (doc.OrderReply, error) {
	o := n.observe(ctx)
	rep, s, err := planSchedule(o, args)
	if err != nil || args["dry_run"] == "true" {
		return rep, err
	}
	s.ID = randomID()
	rep.ID, rep.Scheduled.ID = s.ID, s.ID
	if err := n.propose(ctx, facts.Command{Schedule: &facts.Schedule{Scheduled: s}}); err != nil {
		return rep, err
	}
	rep.Started = true
	return rep, nil
}

// planSchedule is what to record for a switchover at a time. That it would be
// refused now is no reason not to: it is for later.
func planSchedule(o decide.Observation, args map[string]string) (doc.OrderReply, facts.Scheduled, error) {
	rep := doc.OrderReply{Kind: doc.KindSchedule, From: o.State.Primary.Node, To: args["to"], After: o.State.Primary.Epoch}
	var s facts.Scheduled
	var err error
	if s.At, err = parseAt(args["at"], o.Now); err != nil {
		return rep, s, err
	}
	within := switchoverWithin
	if text := args["within"]; text != "" {
		if within, err = time.ParseDuration(text); err != nil || within < 0 || within > maxSwitchoverWithin {
			return rep, s, badArgument("within must be a duration such as 10m, at most %s.", inWords(maxSwitchoverWithin))
		}
	}
	s.Until = s.At.Add(within)
	if s.To, err = scheduleTarget(o.State, args["to"]); err != nil {
		return rep, s, err
	}
	rep.Scheduled = &doc.Scheduled{To: args["to"], At: s.At, Until: s.Until}
	to := args["to"]
	if to == "" {
		to = "the best standby"
	}
	rep.Steps = []string{fmt.Sprintf("At %s, in %s, a switchover to %s begins.", clock(s.At), inWords(s.At.Sub(o.Now)), to),
		fmt.Sprintf("If it is refused then, it is tried until %s.", clock(s.Until))}
	if old := o.State.Scheduled; old != nil {
		rep.Steps = append(rep.Steps, fmt.Sprintf("It replaces the one that was scheduled for %s.", clock(old.At.In(o.Now.Location()))))
	}
	req := decide.PlanSwitchover(o, args["to"])
	switch {
	case req.Refused != "":
		rep.Steps = append(rep.Steps, "Now it would be refused: "+strings.TrimSuffix(req.Refused, ".")+".")
	case args["dry_run"] == "true":
		rep.Steps = append(rep.Steps, fmt.Sprintf("If it began now, to %s:", req.To))
		rep.Steps = append(rep.Steps, req.Steps...)
	}
	return rep, s, nil
}

// scheduleTarget is the store that a switchover is scheduled to, "" where the
// group is to choose.
func scheduleTarget(st facts.State, to string) (string, error) {
	if !st.Founded() {
		return "", refusedAction("this node knows of no group yet; wait until it has joined one")
	}
	if to == "" {
		return "", nil
	}
	m, ok := st.MemberByName(to)
	switch {
	case !ok:
		return "", refusedAction(fmt.Sprintf("the group has no node %q; it has %s", to, strings.Join(memberNames(st), ", ")))
	case m.Kind != facts.KindData:
		return "", refusedAction(fmt.Sprintf("%s cannot be primary: it has no PostgreSQL; name a node that has one", to))
	case m.Store == st.Primary.Store:
		return "", refusedAction(to + " is the primary; name another node")
	case st.Policy.Of(to).NoVote:
		return "", refusedAction(fmt.Sprintf("%s cannot be primary: the policy gives it no vote (node.%s.votes)", to, to))
	}
	return m.Store, nil
}

// parseAt reads a time: one with its date and zone, the next HH:MM in the host's
// zone, or a duration from now.
func parseAt(text string, now time.Time) (time.Time, error) {
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		if after, ok := strings.CutPrefix(text, "+"); ok {
			d, derr := time.ParseDuration(after)
			at, err = now.Add(d).Round(0), derr
		} else if hm, herr := time.Parse("15:04", text); herr == nil {
			at, err = next(hm, now), nil
		}
	}
	switch {
	case err != nil:
		return at, badArgument("at must be a time such as 2026-03-01T22:00:00Z, 22:00 (the next one here) or +30m.")
	case !at.After(now):
		return at, refusedAction(clock(at) + " is over; name a time to come")
	case at.Sub(now) > maxAhead:
		return at, refusedAction(clock(at) + " is more than a year ahead")
	}
	return at, nil
}

// next is when it is that hour and minute next.
func next(hm, now time.Time) time.Time {
	y, m, d := now.Date()
	at := time.Date(y, m, d, hm.Hour(), hm.Minute(), 0, 0, now.Location())
	if !at.After(now) {
		at = time.Date(y, m, d+1, hm.Hour(), hm.Minute(), 0, 0, now.Location())
	}
	return at
}

// clock is a time for people.
func clock(t time.Time) string { return t.Format("2006-01-02 15:04:05 MST") }

// inWords is a duration without what is below a second, and 1h0m0s as 1h.
func inWords(d time.Duration) string {
	s := d.Round(time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func (n *Node) orderUnschedule(ctx context.Context) (doc.OrderReply, error) {
	o := n.observe(ctx)
	rep := doc.OrderReply{Kind: doc.KindUnschedule, After: o.State.Primary.Epoch, Started: true}
	s := o.State.Scheduled
	if s == nil {
		rep.Steps = []string{"No switchover is scheduled."}
		return rep, nil
	}
	rep.ID, rep.Scheduled = s.ID, scheduledDoc(o.State)
	rep.Steps = []string{fmt.Sprintf("The switchover that was scheduled for %s is withdrawn.", clock(s.At.In(o.Now.Location())))}
	return rep, n.propose(ctx, facts.Command{Unschedule: &facts.Unschedule{ID: s.ID, Why: "withdrawn by the operator"}})
}

// scheduledDoc is the scheduled switchover, nil when there is none.
func scheduledDoc(st facts.State) *doc.Scheduled {
	s := st.Scheduled
	if s == nil {
		return nil
	}
	d := &doc.Scheduled{ID: s.ID, At: s.At, Until: s.Until}
	if s.To != "" {
		d.To = st.NameOf(s.To)
	}
	return d
}
