package faults_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"understudy/test/cluster"
)

// who a fault concerns, by its role when the round begins.
type who string

const (
	primary who = "primary"
	standby who = "standby"
	witness who = "witness"
	peers   who = "peers" // of the other one: both
	outside who = "clients"
	all     who = "every node" // for processes
)

// fault is one thing that happens.
type fault struct {
	do   string // see the catalog
	on   who
	proc cluster.Kind
	to   who
	disk cluster.Disk
}

// String is the fault's kind in the table of results.
func (f fault) String() string {
	var b strings.Builder
	b.WriteString(f.do)
	if f.proc != "" {
		fmt.Fprintf(&b, " %s of", f.proc)
	}
	if f.disk != "" {
		fmt.Fprintf(&b, " %s disk of", f.disk)
	}
	fmt.Fprintf(&b, " %s", f.on)
	if f.to != "" {
		fmt.Fprintf(&b, " and %s", f.to)
	}
	return strings.Replace(b.String(), " and ", map[bool]string{true: " to ", false: " and "}[f.do == "one-way" || f.do == "switchover"], 1)
}

// processes are the kinds that a node of a role has.
var processes = map[who][]cluster.Kind{
	primary: {cluster.Daemon, cluster.Guard, cluster.Postmaster, cluster.Backend, cluster.Walsender, cluster.Checkpointer, cluster.Host},
	standby: {cluster.Daemon, cluster.Guard, cluster.Postmaster, cluster.Backend, cluster.Walreceiver, cluster.Startup, cluster.Checkpointer, cluster.Host},
	witness: {cluster.Daemon},
}

// processFaults kill (SIGKILL) or stop (SIGSTOP until the round heals) one
// process, or all of a node.
func processFaults() []fault {
	var out []fault
	for _, w := range []who{primary, standby, witness} {
		for _, k := range processes[w] {
			out = append(out, fault{do: "kill", on: w, proc: k}, fault{do: "stop", on: w, proc: k})
		}
	}
	return out
}

func networkFaults() []fault {
	out := []fault{
		{do: "isolate", on: primary}, {do: "isolate", on: standby}, {do: "isolate", on: witness},
		{do: "isolate-peers", on: primary}, // its clients still reach it
		{do: "cut", on: primary, to: outside},
		{do: "one-way", on: primary, to: peers}, {do: "one-way", on: peers, to: primary},
		{do: "reject", on: primary, to: peers}, {do: "reject", on: primary, to: outside},
		{do: "flap", on: primary, to: peers},
		{do: "slow", on: primary}, {do: "slow", on: standby},
	}
	for _, p := range [][2]who{{primary, standby}, {primary, witness}, {standby, witness}} {
		out = append(out, fault{do: "cut", on: p[0], to: p[1]}, fault{do: "reject", on: p[0], to: p[1]}, fault{do: "flap", on: p[0], to: p[1]},
			fault{do: "one-way", on: p[0], to: p[1]}, fault{do: "one-way", on: p[1], to: p[0]})
	}
	return out
}

// diskFaults fill a disk, or kill a node and flip a byte in its received log.
func diskFaults() []fault {
	return []fault{
		{do: "fill", on: primary, disk: cluster.StateDisk}, {do: "fill", on: standby, disk: cluster.StateDisk},
		{do: "fill", on: witness, disk: cluster.StateDisk}, {do: "fill", on: primary, disk: cluster.DataDisk},
		{do: "fill", on: standby, disk: cluster.DataDisk},
		{do: "corrupt", on: standby, disk: cluster.StateDisk}, {do: "corrupt", on: witness, disk: cluster.StateDisk},
	}
}

// catalog is every single fault.
func catalog() []fault {
	everywhere := []fault{{do: "kill", on: all, proc: cluster.Host}, {do: "kill", on: all, proc: cluster.Daemon}, {do: "stop", on: all, proc: cluster.Host}}
	return slices.Concat(processFaults(), everywhere, networkFaults(), diskFaults())
}

// badDonor makes the witness the only one besides the primary that has the
// newest log, flips a bit of it, and loses the primary.
func badDonor() []step {
	return []step{
		{0, fault{do: "cut", on: primary, to: standby}},
		{800 * time.Millisecond, fault{do: "corrupt", on: witness, disk: cluster.StateDisk}},
		{850 * time.Millisecond, fault{do: "start", on: witness}},
		{1500 * time.Millisecond, fault{do: "kill", on: primary, proc: cluster.Host}},
	}
}

// step is a fault and when it happens, from the first one on.
type step struct {
	at time.Duration
	fault
}

// plan is one round.
type plan struct {
	n      int
	before time.Duration // of quiet writing
	steps  []step
	hold   time.Duration // from the first fault to the healing
	// A second time, while the group recovers from the first; nil for none.
	again            []step
	pause, holdAgain time.Duration
}

// kind is what happens, in words.
func (p plan) kind() string {
	var out []string
	for _, s := range p.steps {
		out = append(out, s.String())
	}
	for _, s := range p.again {
		out = append(out, "then "+s.String())
	}
	return strings.Join(out, ", ")
}

// row is the round's row in the table of results: its first fault, and whether
// it was alone.
func (p plan) row() string {
	if len(p.steps) == 1 && p.again == nil {
		return p.steps[0].String()
	}
	return p.steps[0].String() + ", and more"
}

// String is the round's schedule.
func (p plan) String() string {
	var b strings.Builder
	for _, s := range p.steps {
		fmt.Fprintf(&b, "%s after %s; ", s.fault, s.at.Round(time.Millisecond))
	}
	fmt.Fprintf(&b, "healed after %s", p.hold.Round(time.Millisecond))
	for _, s := range p.again {
		fmt.Fprintf(&b, "; %s later %s for %s", p.pause.Round(time.Millisecond), s.fault, p.holdAgain.Round(time.Millisecond))
	}
	return b.String()
}

// makePlan makes round n of a seed: nothing else is in it, so that a round can
// be repeated alone. Every fault of the catalog begins one round before any
// begins a second.
func makePlan(seed uint64, n int) plan {
	every := catalog()
	turn := rand.New(rand.NewPCG(seed, uint64(n/len(every))<<32))
	first := every[turn.Perm(len(every))[n%len(every)]]
	r := rand.New(rand.NewPCG(seed, uint64(n)+1))
	upTo := func(d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }
	p := plan{n: n, before: 300*time.Millisecond + upTo(700*time.Millisecond)}
	// From 0.2 s to 6 s, short ones as often as long ones.
	hold := func() time.Duration {
		return time.Duration(float64(200*time.Millisecond) * math.Exp(r.Float64()*math.Log(30)))
	}
	p.hold = hold()
	p.steps = []step{{fault: first}}
	second := func(f fault, at time.Duration) { p.steps = append(p.steps, step{at, f}) }
	switch dice := r.IntN(100); {
	case first.do == "corrupt" && first.on == witness:
		p.steps, p.hold = badDonor(), p.hold+1500*time.Millisecond
	case dice < 52: // one fault
	case dice < 64: // a process of another node at the same moment
		if f := processFaults()[r.IntN(len(processFaults()))]; f.on != first.on {
			second(f, 0)
		}
	case dice < 80: // another fault before the first is healed
		second(every[r.IntN(len(every))], upTo(p.hold))
	case dice < 90:
		second(fault{do: "switchover", on: primary, to: standby}, upTo(p.hold))
	default:
		second(fault{do: "failover", on: standby}, upTo(p.hold))
	}
	if r.IntN(100) < 25 {
		p.again = []step{{fault: every[r.IntN(len(every))]}}
		p.pause, p.holdAgain = upTo(2*time.Second), hold()/2
	}
	return p
}

// harmless tells whether the round concerns one node only that is not the
// primary, so that nothing has to change.
func (p plan) harmless() bool {
	steps := slices.Concat(p.steps, p.again)
	for _, s := range steps {
		switch s.do {
		case "kill", "stop", "fill", "corrupt", "isolate", "slow":
		default:
			return false
		}
		if s.on == primary || s.on == all || s.on != steps[0].on {
			return false
		}
	}
	return true
}
