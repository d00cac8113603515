package sim

import (
	"time"

	"understudy/ledger/facts"
)

// scenarios are the kinds of runs; a seed takes one of them.
func scenarios() []scenario {
	calm := scenario{faults: 10, pause: 2500 * time.Millisecond, slow: 2 * time.Millisecond, disk: 4 * time.Millisecond, lag: 200 * time.Millisecond,
		groups: [][]string{{"main", "backup", "witness"}}, policy: sometimesManual}
	mixed := calm
	mixed.crashy, mixed.drop, mixed.dup = 0.02, 0.001, 0.01
	mixed.weights = [actions]int{6, 4, 4, 4, 3, 3, 2, 3, 3, 2, 1, 1, 2, 2, 2, 1}
	mixed.weights[actRestore] = 3
	orders := calm
	orders.crashy, orders.pause = 0.05, 1500*time.Millisecond
	orders.weights = [actions]int{actSwitchover: 10, actFailover: 4, actKillServer: 2, actKillDaemon: 1, actStallLedger: 1, actRestore: 1}
	storm := mixed
	storm.faults, storm.pause, storm.drop, storm.slow, storm.disk = 20, 700*time.Millisecond, 0.01, 40*time.Millisecond, 30*time.Millisecond
	storm.lag = 1500 * time.Millisecond
	lost := calm
	lost.crashy, lost.disk, lost.faults = 0.01, 25*time.Millisecond, 8
	lost.weights = [actions]int{actCutPrimary: 4, actPrimaryLost: 6, actOldTail: 6, actBlink: 3, actHalf: 6, actHeal: 1, actKillHost: 1}
	members := calm
	members.weights = [actions]int{actWipe: 4, actShrink: 4, actCutPrimary: 2, actPrimaryLost: 2, actStallLedger: 2, actFailover: 1, actSwitchover: 1}
	members.faults = 8
	all := []scenario{mixed, orders, storm, lost, members}
	return append(all, bySelf(calm)...)
}

// bySelf are the kinds of runs in which the group helps itself.
func bySelf(calm scenario) []scenario {
	calm.policy = func(_ *world, p *facts.Policy) { p.RestartGrace, p.StallTimeout = 3*time.Second, 2*time.Second }
	single := calm
	single.faults, single.weights = 5, [actions]int{actSingle: 1}
	silence := calm
	silence.weights = [actions]int{actCutSome: 10, actHalfBlink: 3, actReship: 2, actLateThird: 2, actForgetful: 2, actLateAnswers: 2, actUnsynced: 2, actKillDaemon: 1, actHeal: 1}
	silence.slow = 10 * time.Millisecond
	pauses := calm
	pauses.weights = [actions]int{actHalt: 6, actRestart: 4, actLeave: 3, actKillDaemon: 1, actKillHost: 1, actCutSome: 1}
	clocks := calm
	clocks.crashy = 0.01
	clocks.weights = [actions]int{actJump: 6, actSwitchover: 3, actFailover: 1, actKillHost: 2, actKillDaemon: 2, actCutSome: 3, actRestart: 3, actLeave: 2, actHalt: 2, actStallLedger: 1}
	policy := calm
	policy.groups = [][]string{{"main", "backup", "witness"}, {"main", "backup", "witness", "third"}}
	policy.policy = anyPolicy
	policy.weights = [actions]int{actKillHost: 3, actKillDaemon: 2, actKillServer: 2, actCutSome: 4, actHalt: 2, actSwitchover: 2, actFailover: 1, actPolicy: 2, actRestart: 1, actWipe: 1}
	large := policy
	large.groups = [][]string{{"main", "backup", "third"}, {"main", "backup", "witness", "third"}, {"main", "backup", "witness", "third", "fourth"}}
	large.policy = func(w *world, p *facts.Policy) {
		calm.policy(w, p)
		somePriorities(w, p)
		if len(w.nodes) == maxNodes && w.chance(0.5) {
			*p = p.With(w.nodes[maxNodes-1].name, facts.NodePolicy{NoVote: true})
		}
	}
	large.crashy = 0.01
	large.weights = [actions]int{actKillHost: 4, actKillDaemon: 3, actKillServer: 1, actCutSome: 5, actCutOne: 1, actHeal: 1, actHalt: 3, actSwitchover: 2, actWipe: 2, actLeave: 1, actRestart: 1}
	restore := policy
	restore.crashy, restore.policy, restore.faults = 0.02, sometimesManual, 8
	restore.weights = [actions]int{actRestore: 12, actSwitchover: 2, actFailover: 1, actKillHost: 2, actKillDaemon: 2, actKillServer: 1, actCutSome: 2, actHalt: 1, actRestart: 1, actStallLedger: 1, actWipe: 1}
	return []scenario{single, silence, pauses, clocks, policy, large, restore}
}

func sometimesManual(w *world, p *facts.Policy) {
	p.RestartGrace, p.StallTimeout = 3*time.Second, 2*time.Second
	if w.chance(0.5) {
		p.Failover = facts.FailoverManual
	}
}

// anyPolicy is whatever an operator may decide.
func anyPolicy(w *world, p *facts.Policy) {
	p.RestartGrace, p.StallTimeout = 2*time.Second, 2*time.Second
	p.SilenceTimeout = w.between(500*time.Millisecond, 2*time.Second)
	p.Failover = []facts.FailoverMode{facts.FailoverAutomatic, facts.FailoverAutomatic, facts.FailoverObserve, facts.FailoverManual}[w.rng.IntN(4)]
	p.Paused = w.chance(0.15)
	somePriorities(w, p)
	name := w.nodes[w.rng.IntN(len(w.nodes))].name
	switch of := p.Of(name); w.rng.IntN(4) {
	case 0:
		of.NoFailover = true
		*p = p.With(name, of)
	case 1:
		if len(w.nodes) > 3 {
			of.NoVote = true
			*p = p.With(name, of)
		}
	case 2:
		of.ApplyDelay = time.Hour
		*p = p.With(name, of)
	}
}

func somePriorities(w *world, p *facts.Policy) {
	for _, n := range w.nodes {
		if n.kind == facts.KindData && w.chance(0.5) {
			*p = p.With(n.name, facts.NodePolicy{Priority: w.rng.IntN(5)})
		}
	}
}
