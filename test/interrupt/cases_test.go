package interrupt_test

import (
	"slices"
	"strings"
)

// who is interrupted.
type who string

const (
	oldPrimary who = "OldPrimary"
	candidate  who = "Candidate" // the other node with a database
	witness    who = "Witness"
)

// how a node is interrupted. What was killed is started again each time.
type how string

const (
	daemon  how = "Daemon"  // the daemon is killed; the next one may find its server running
	late    how = "Late"    // so is it, and the next one comes when the others went on, or gave it time to
	machine how = "Machine" // daemon, guard and PostgreSQL are killed
)

// change is what goes on when a node is interrupted.
type change string

const (
	switchover change = "Switchover"
	failover   change = "Failover" // manual, after the primary's machine was lost
	forced     change = "Forced"   // manual, while the primary is open
	tail       change = "Tail"     // a failover from a primary that has log which nobody else has
	behind     change = "Behind"   // a failover to a node that lacks log which the witness has
	fallback   change = "Fallback" // a switchover whose candidate is lost, so that the old primary opens again
	restart    change = "Restart"  // the primary's machine is lost and comes back
	delta      change = "Delta"    // the standby is seeded again, block by block
	full       change = "Full"
)

// interruption is one case.
type interruption struct {
	change change
	who    who
	at     string // see where
	how    how
	often  bool   // part of every run of the tests
	then   string // a step at which the daemon that comes next is killed, too
	leads  bool   // it leads the ledger when the change begins
}

// where an interruption happens: at a step of the daemon, which is killed in
// it; "phase:NAME", when the group's history has that phase; "mark:NAME", while
// the database has that mark.
func (c interruption) where() (kind, name string) {
	if kind, name, ok := strings.Cut(c.at, ":"); ok {
		return kind, name
	}
	return "step", c.at
}

func (c interruption) name() string {
	parts := []string{string(c.change), string(c.who), strings.ReplaceAll(c.at, ":", "-"), string(c.how)}
	if c.then != "" {
		parts = append(parts, c.then)
	}
	return strings.Join(parts, "_")
}

// cross is every step in every way; those named in often, as "STEP_HOW", run
// with every test.
func cross(ch change, w who, steps []string, hows []how, often ...string) []interruption {
	var out []interruption
	for _, at := range steps {
		for _, h := range hows {
			out = append(out, interruption{change: ch, who: w, at: at, how: h, often: slices.Contains(often, at+"_"+string(h))})
		}
	}
	return out
}

// twice is a node that is interrupted, and again when it comes back.
func twice(ch change, w who, at string, h how, then string) []interruption {
	return []interruption{{change: ch, who: w, at: at, how: h, then: then}}
}

var (
	allWays = []how{daemon, late, machine}
	// promotion are the steps of a candidate whose standby runs.
	promotion = []string{"elect", "recorded", "promote", "promoting", "serve", "opened"}
)

func switchovers() []interruption {
	return slices.Concat(
		cross(switchover, oldPrimary, []string{"freeze", "frozen", "stopped"}, allWays, "frozen_Daemon", "stopped_Machine"),
		cross(switchover, candidate, promotion, allWays, "recorded_Machine", "promote_Late", "promoting_Daemon", "opened_Late"),
		twice(switchover, candidate, "promoting", daemon, "promote"),
		twice(switchover, candidate, "elect", daemon, "elect"),
	)
}

func failovers() []interruption {
	return slices.Concat(
		cross(failover, candidate, promotion, allWays, "elect_Daemon", "promoting_Machine", "opened_Machine"),
		twice(failover, candidate, "elect", machine, "launch"),
		cross(behind, candidate, []string{"copy", "recorded"}, allWays, "copy_Machine"),
		cross(forced, candidate, []string{"elect", "promoting"}, allWays),
		cross(forced, oldPrimary, []string{"phase:epoch", "phase:assigned"}, []how{daemon, machine}),
	)
}

func returns() []interruption {
	return slices.Concat(
		cross(switchover, oldPrimary, []string{"return", "comeback-follow", "launch", "phase:returned"}, []how{daemon, machine}, "comeback-follow_Machine"),
		cross(failover, oldPrimary, []string{"return", "comeback-rewind", "mark:rewinding", "launch", "phase:returned"}, []how{daemon, machine}, "mark:rewinding_Daemon"),
		cross(tail, oldPrimary, []string{"keep-tail", "comeback-rewind", "mark:rewinding"}, []how{daemon, machine}, "keep-tail_Daemon"),
		twice(switchover, oldPrimary, "phase:returned", daemon, "watch"),
		twice(failover, oldPrimary, "mark:rewinding", machine, "seed"),
		cross(forced, oldPrimary, []string{"return", "comeback-rewind"}, []how{daemon, machine}),
	)
}

func openings() []interruption {
	return slices.Concat(
		cross(restart, oldPrimary, []string{"start", "recorded", "opened"}, allWays, "recorded_Daemon"),
		cross(fallback, oldPrimary, []string{"start", "recorded", "opened"}, allWays, "opened_Machine"),
	)
}

func reseeds() []interruption {
	return slices.Concat(
		cross(delta, candidate, []string{"return", "comeback-delta", "mark:seeding", "seed"}, []how{daemon, machine}, "mark:seeding_Machine"),
		cross(full, candidate, []string{"comeback-full", "mark:seeding", "seed"}, []how{daemon, machine}),
	)
}

func coordinators() []interruption {
	phases := []string{"phase:ordered", "phase:stopped", "phase:epoch", "phase:fenced", "phase:assigned", "phase:promoting", "phase:opened"}
	out := slices.Concat(
		cross(switchover, witness, phases, []how{daemon, late}, "phase:epoch_Daemon"),
		cross(switchover, candidate, phases, []how{daemon, machine}),
		cross(failover, witness, phases[2:], []how{daemon, late}, "phase:assigned_Late"),
		cross(failover, candidate, phases[2:], []how{daemon, machine}),
	)
	for i := range out {
		out[i].leads = true
	}
	return out
}
