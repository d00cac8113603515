package script

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// line does one line of a script.
func (g *group) line(words []string) error {
	cmd, args := words[0], words[1:]
	lines := map[string]func([]string) error{
		"group": g.found, "leader": g.lineLeader, "policy": g.linePolicy,
		"silent": g.lineSilent, "refuses": g.lineRefuses, "never": g.lineNever, "back": g.lineBack,
		"stream": g.lineStream, "report": g.lineReport, "leaving": g.lineLeaving, "order": g.lineOrder,
		"fence": g.lineFence, "opens": g.lineOpens, "schedule": g.lineSchedule, "seeded": g.lineSeeded,
		"wait": g.lineWait, "decide": func([]string) error { return nil },
	}
	do, ok := lines[cmd]
	if !ok {
		return fmt.Errorf("no command %q", cmd)
	}
	if cmd != "group" && len(g.nodes) == 0 {
		return errors.New("a script begins with its group")
	}
	return do(args)
}

// first is the node that the first word names, and the words after it.
func (g *group) first(args []string) (*node, []string, error) {
	if len(args) == 0 {
		return nil, nil, errors.New("which node?")
	}
	n, err := g.find(args[0])
	return n, args[1:], err
}

func (g *group) lineLeader(args []string) error {
	n, _, err := g.first(args)
	if err == nil {
		g.leader = n
	}
	return err
}

func (g *group) lineWait(args []string) error {
	if len(args) != 1 {
		return errors.New("wait for how long?")
	}
	d, err := time.ParseDuration(args[0])
	g.pass(d)
	return err
}

// linePolicy: policy failover=observe paused silence=1s main.priority=5
// main.no_failover main.no_vote main.apply_delay=1h
func (g *group) linePolicy(args []string) error {
	p := g.state.Policy
	for _, w := range args {
		k, v, _ := strings.Cut(w, "=")
		var err error
		if name, key, ok := strings.Cut(k, "."); ok {
			of := p.Of(name)
			switch key {
			case "priority":
				of.Priority, err = strconv.Atoi(v)
			case "no_failover":
				of.NoFailover = true
			case "no_vote":
				of.NoVote = true
			case "apply_delay":
				of.ApplyDelay = duration(v, &err)
			default:
				err = fmt.Errorf("no key %q of a node", key)
			}
			p = p.With(name, of)
		} else {
			switch k {
			case "failover":
				p.Failover = facts.FailoverMode(v)
			case "paused":
				p.Paused, p.PausedUntil = true, time.Time{}
				if v != "" {
					p.PausedUntil = g.now.Add(duration(v, &err))
				}
			case "silence":
				p.SilenceTimeout = duration(v, &err)
			default:
				err = fmt.Errorf("no key %q", k)
			}
		}
		if err != nil {
			return err
		}
	}
	return g.do(facts.Command{SetPolicy: &facts.SetPolicy{Expect: g.state.Policy.Version, Policy: p}})
}

// lineSilent: silent NODE AGO [gone] [clock=D] [LISTENER...]
func (g *group) lineSilent(args []string) error {
	args, opt := options(args, "gone", "clock")
	n, rest, err := g.first(args)
	if err != nil || len(rest) == 0 {
		return fmt.Errorf("who is silent, for how long, to whom? %v", err)
	}
	ago := duration(rest[0], &err)
	by, e := g.some(rest[1:], n)
	if err != nil || e != nil {
		return fmt.Errorf("%v %v", err, e)
	}
	for _, o := range by {
		h := o.hears[n.name]
		h.silent, h.at, h.gone = true, g.now.Add(-ago), opt["gone"] != ""
		if opt["clock"] != "" {
			h.clock = duration(opt["clock"], &err)
		}
	}
	return err
}

// lineRefuses: refuses NODE TIMES FOR [LISTENER...]
func (g *group) lineRefuses(args []string) error {
	n, rest, err := g.first(args)
	if err != nil || len(rest) < 2 {
		return fmt.Errorf("who refuses, how often, for how long? %v", err)
	}
	times, err := strconv.Atoi(rest[0])
	during := duration(rest[1], &err)
	by, e := g.some(rest[2:], n)
	if err != nil || e != nil {
		return fmt.Errorf("%v %v", err, e)
	}
	for _, o := range by {
		h := o.hears[n.name]
		if !h.silent {
			h.silent, h.at = true, g.now.Add(-during)
		}
		h.gone, h.times, h.during = true, times, during
	}
	return nil
}

// lineNever: never NODE SINCE LISTENER...: the listeners have begun since and
// have not heard it.
func (g *group) lineNever(args []string) error {
	n, rest, err := g.first(args)
	if err != nil || len(rest) < 2 {
		return fmt.Errorf("who was never heard, since when, by whom? %v", err)
	}
	since := duration(rest[0], &err)
	by, e := g.some(rest[1:], n)
	if err != nil || e != nil {
		return fmt.Errorf("%v %v", err, e)
	}
	for _, o := range by {
		o.began = g.now.Add(-since)
		*o.hears[n.name] = hearing{at: o.began, never: true, silent: true}
	}
	return nil
}

// lineBack: back NODE [LISTENER...]
func (g *group) lineBack(args []string) error {
	n, rest, err := g.first(args)
	if err != nil {
		return err
	}
	by, err := g.some(rest, n)
	for _, o := range by {
		*o.hears[n.name] = hearing{at: g.now, clock: o.hears[n.name].clock}
	}
	return err
}

// lineStream: stream NODE moved=D flushed=D [epoch=N]
func (g *group) lineStream(args []string) error {
	args, opt := options(args, "moved", "flushed", "epoch")
	n, _, err := g.first(args)
	if err != nil {
		return err
	}
	s := decide.Stream{Epoch: g.state.Primary.Epoch, Moved: duration(opt["moved"], &err), Flushed: duration(opt["flushed"], &err)}
	if e := opt["epoch"]; e != "" {
		s.Epoch.Num, err = strconv.ParseUint(e, 10, 64)
	}
	n.report.Stream = &s
	return err
}

// lineReport: report NODE [server=STATE] [failing=WHY] [ended] [applied=N]
// [durable=N] [from=N] [problem=WHY]; a blank in WHY is written _.
func (g *group) lineReport(args []string) error {
	args, opt := options(args, "server", "failing", "ended", "applied", "durable", "from", "problem")
	n, _, err := g.first(args)
	if err != nil {
		return err
	}
	r := &n.report
	for k, v := range opt {
		num, e := strconv.ParseUint(v, 10, 64)
		lsn := pos.LSN(num)
		switch k {
		case "server":
			r.Server.State, e = decide.ServerState(v), nil
		case "failing":
			r.Server.Failing, r.Server.FailingFor, e = v, 6*time.Second, nil
			if v == "no" {
				r.Server.Failing, r.Server.FailingFor = "", 0
			}
		case "ended":
			r.Server.Ended, r.Server.State, e = g.state.Primary.Epoch, decide.ServerStopped, nil
		case "problem":
			r.Server.Problem, e = v, nil
		case "applied":
			r.Applied = lsn
		case "durable":
			r.Durable, r.Received = lsn, lsn
		case "from":
			r.Spool.From = lsn
		}
		if e != nil {
			return e
		}
	}
	return nil
}

// lineLeaving: leaving NODE restarting|stopping FOR
func (g *group) lineLeaving(args []string) error {
	n, rest, err := g.first(args)
	if err != nil || len(rest) != 2 {
		return fmt.Errorf("who leaves, how, for how long? %v", err)
	}
	d := duration(rest[1], &err)
	if err != nil {
		return err
	}
	return g.do(facts.Command{SetLeaving: &facts.SetLeaving{Leaving: facts.Leaving{Store: n.store, Kind: rest[0], Until: g.now.Add(d), For: d}}})
}

// lineOrder: order switchover|failover NODE [force]
func (g *group) lineOrder(args []string) error {
	if len(args) < 2 {
		return errors.New("which order, to whom?")
	}
	n, err := g.find(args[1])
	if err != nil {
		return err
	}
	g.orders++
	return g.do(facts.Command{SetOrder: &facts.SetOrder{Expect: g.state.Primary.Version, Order: facts.Order{
		ID: strconv.Itoa(g.orders), Kind: facts.OrderKind(args[0]), To: n.store, Epoch: g.state.Primary.Epoch,
		Force: len(args) > 2 && args[2] == "force", At: g.now, Deadline: g.now.Add(30 * time.Second)}}})
}

// lineFence: fence LSN NODE...: they promise the epoch and hold log up to LSN.
func (g *group) lineFence(args []string) error {
	if len(args) < 2 {
		return errors.New("where does whose log end?")
	}
	at, err := strconv.ParseUint(args[0], 10, 64)
	if err != nil {
		return err
	}
	nodes, err := g.some(args[1:], nil)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if err := g.fence(n, pos.LSN(at)); err != nil {
			return err
		}
		if n.report.Server.State == decide.ServerOpen {
			n.report.Server.State = decide.ServerStopped
		}
	}
	return nil
}

// lineOpens: opens NODE: the assigned node starts and lets clients in.
func (g *group) lineOpens(args []string) error {
	n, _, err := g.first(args)
	if err != nil {
		return err
	}
	return g.opens(n)
}

// lineSchedule: schedule NODE|any IN WITHIN
func (g *group) lineSchedule(args []string) error {
	if len(args) != 3 {
		return errors.New("to whom, when, for how long is it tried?")
	}
	s := facts.Scheduled{ID: "planned"}
	if args[0] != "any" {
		n, err := g.find(args[0])
		if err != nil {
			return err
		}
		s.To = n.store
	}
	var err error
	s.At = g.now.Add(duration(args[1], &err))
	s.Until = s.At.Add(duration(args[2], &err))
	if err != nil {
		return err
	}
	return g.do(facts.Command{Schedule: &facts.Schedule{Scheduled: s}})
}

// lineSeeded: seeded NODE yes|no
func (g *group) lineSeeded(args []string) error {
	n, rest, err := g.first(args)
	if err != nil || len(rest) != 1 {
		return fmt.Errorf("who is seeded, yes or no? %v", err)
	}
	return g.do(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: n.store, Seeded: rest[0] == "yes"}})
}
