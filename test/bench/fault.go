package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"

	"understudy/test/bench/internal/group"
)

// fault is one way to lose the primary, of which the group is told nothing.
type fault struct {
	name  string // as -scenarios has it
	title string
	// leaderOn has the ledger's leader on the primary, and so lost with it.
	leaderOn bool
	// plain has the plain pair changed by hand between the runs, which compares
	// where a machine is lost at once.
	plain bool
	// median and worst are how long nobody may be able to write; zero has no bar.
	median, worst time.Duration
	// strike begins it on a node and returns when it is in force.
	strike func(*losses, context.Context, string) error
	// struck, which may be nil, is done right after it.
	struck func(*losses, context.Context, string) error
	// mend takes it back once another node is primary; it may be called when
	// there is nothing to take back.
	mend func(*losses, context.Context, string) error
}

// faults are all of them, in the order in which they are measured.
func faults() []fault {
	const ms = time.Millisecond
	return []fault{
		{name: "killall", title: "every process of the primary's node gets SIGKILL", plain: true, median: 700 * ms, worst: 1500 * ms,
			strike: (*losses).killAll, struck: (*losses).waitGone, mend: (*losses).startDaemon},
		{name: "killall-leader", title: "every process of the primary's node gets SIGKILL, and the node led the ledger too", leaderOn: true,
			strike: (*losses).killAll, struck: (*losses).waitGone, mend: (*losses).startDaemon},
		{name: "cut", title: "the primary's host is cut from peers and clients, packets are dropped", median: 1600 * ms, worst: 2500 * ms,
			strike: (*losses).cut, mend: (*losses).heal},
		{name: "cutpeers", title: "the primary's host is cut from its peers only, clients still reach it", median: 2200 * ms, worst: 2500 * ms,
			strike: (*losses).cutPeers, mend: (*losses).heal},
		{name: "postgres", title: "the primary's PostgreSQL gets SIGKILL, postmaster and children", median: 700 * ms, worst: 700 * ms,
			strike: (*losses).killPostgres, mend: (*losses).startDaemon},
		{name: "daemon", title: "the primary's daemon gets SIGKILL, its PostgreSQL lives", median: 1000 * ms, worst: 1000 * ms,
			strike: (*losses).killDaemon, mend: (*losses).startDaemon},
		{name: "freeze", title: "the primary's daemon gets SIGSTOP", median: 2500 * ms, worst: 2500 * ms,
			strike: (*losses).freezeDaemon, mend: (*losses).thaw},
		{name: "frozenpg", title: "the primary's PostgreSQL gets SIGSTOP, postmaster and children",
			strike: (*losses).freezePostgres, mend: (*losses).thaw},
	}
}

func faultNames() []string {
	var out []string
	for _, f := range faults() {
		out = append(out, f.name)
	}
	return out
}

// chosenFaults are the faults that -scenarios names.
func (o options) chosenFaults() ([]fault, error) {
	all := faults()
	if o.scenarios == "" {
		return all, nil
	}
	names := strings.Split(o.scenarios, ",")
	for _, n := range names {
		if !slices.ContainsFunc(all, func(f fault) bool { return f.name == n }) {
			return nil, fmt.Errorf("-scenarios: there is no scenario %q", n)
		}
	}
	return slices.DeleteFunc(all, func(f fault) bool { return !slices.Contains(names, f.name) }), nil
}

func (l *losses) killAll(_ context.Context, node string) error { return l.group.KillEverything(node) }

func (l *losses) waitGone(ctx context.Context, node string) error {
	return l.group.WaitGone(ctx, node)
}

func (l *losses) cut(_ context.Context, node string) error      { return l.lab.Isolate(node) }
func (l *losses) cutPeers(_ context.Context, node string) error { return l.lab.IsolatePeers(node) }
func (l *losses) heal(context.Context, string) error            { return l.lab.Heal() }

func (l *losses) killPostgres(_ context.Context, node string) error {
	_, err := l.group.Send(group.Process{Node: node, Kind: group.PostgreSQL}, syscall.SIGKILL)
	return err
}

func (l *losses) killDaemon(ctx context.Context, node string) error { return l.group.Kill(ctx, node) }

// startDaemon starts the node's daemon unless it runs.
func (l *losses) startDaemon(ctx context.Context, node string) error {
	if l.group.PID(node) != 0 {
		return nil
	}
	return l.group.StartDaemon(ctx, node)
}

func (l *losses) freezeDaemon(_ context.Context, node string) error {
	return l.freeze(group.Process{Node: node, Kind: group.Daemon})
}

func (l *losses) freezePostgres(_ context.Context, node string) error {
	return l.freeze(group.Process{Node: node, Kind: group.PostgreSQL})
}

func (l *losses) freeze(p group.Process) (err error) {
	l.stopped = p
	l.pids, err = l.group.Send(p, syscall.SIGSTOP)
	return err
}

// thaw lets go on what freeze has stopped, as far as it lives.
func (l *losses) thaw(context.Context, string) error {
	l.group.Continue(l.stopped, l.pids)
	l.pids = nil
	return nil
}
