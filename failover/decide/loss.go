package decide

import (
	"fmt"
	"strings"
	"time"

	"understudy/ledger/facts"
)

const (
	// refusedFor is how long, and refusedTimes how often in a row, a host has to
	// refuse connections to count as without a daemon: one that is being started
	// again refuses too.
	refusedFor   = 100 * time.Millisecond
	refusedTimes = 2
	// cutOffFor is how long a primary has to go on saying that no majority answers
	// it. If it was the others that were paused, its next word is a better one.
	cutOffFor = 300 * time.Millisecond
	// vetoPatience is how many times the silence may last, while log still
	// advances, before people are told.
	vetoPatience = 10
)

// Refuses tells whether refused connections, in a row, mean that a host runs no
// daemon.
func Refuses(times int, within time.Duration) bool {
	return times >= refusedTimes && within >= refusedFor
}

// loss is that the open primary can be replaced, and why. A zero loss is none.
type loss struct {
	rule, why string
	since     time.Time // of its last sign of life, by our clock
}

// loss is what the evidence says of the open primary: first what its own daemon
// says, then what its host says, then what nobody says.
func (o Observation) loss() loss {
	p := o.State.Primary
	if p.Phase != facts.PhaseOpened {
		return loss{}
	}
	if l := o.failing(); l.rule != "" {
		return l
	}
	if o.restarting(p.Store) {
		return loss{}
	}
	if l := o.cutOff(); l.rule != "" {
		return l
	}
	if l := o.refusing(); l.rule != "" {
		return l
	}
	return o.unheard()
}

// failing: the primary's own daemon has found that it cannot serve.
func (o Observation) failing() loss {
	p := o.State.Primary
	rep, alive := o.fresh(p.Store)
	if !alive || rep.Server.Failing == "" || rep.Server.State != ServerOpen || rep.Server.StartedEpoch != p.Epoch {
		return loss{}
	}
	return loss{"begin-failing", fmt.Sprintf("%s cannot serve: %s", p.Node, rep.Server.Failing), o.Now.Add(-rep.Server.FailingFor)}
}

// cutOff: the primary says that no majority has answered it for as long as
// silence may last. What it sends may still come; nothing reaches it, so no
// commit can be acknowledged.
func (o Observation) cutOff() loss {
	p := o.State.Primary
	rep, alive := o.fresh(p.Store)
	if !alive || rep.Epoch != p.Epoch || rep.MajorityContact.IsZero() {
		return loss{}
	}
	without := rep.SentAt.Sub(rep.MajorityContact)
	if without < o.State.Policy.SilenceTimeout || !o.CutOffSeen.IsZero() && o.Now.Sub(o.CutOffSeen) < cutOffFor {
		return loss{}
	}
	return loss{"begin-cut-off", fmt.Sprintf("%s says that no majority has answered it for %s", p.Node, without.Round(10*time.Millisecond)), o.Now.Add(-without)}
}

// SaysCutOff tells whether the primary says so now, however long it has.
func (o Observation) SaysCutOff() bool {
	o.CutOffSeen = time.Time{}
	return o.State.Primary.Phase == facts.PhaseOpened && o.cutOff().rule != ""
}

// hearsMajority tells whether a node that is heard hears a majority itself, so
// that it can learn what the group agrees on.
func (o Observation) hearsMajority(store string) bool {
	rep, alive := o.fresh(store)
	n := len(o.State.Voters.Stores)
	for _, h := range rep.Hears {
		if o.State.IsVoter(h.Store) && (h.Never || h.Ago >= Fresh) {
			n--
		}
	}
	return alive && n >= o.majority()
}

// refusing: the primary's host refuses connections to a majority, which hears
// nothing of it any more: its daemon has ended.
func (o Observation) refusing() loss {
	p := o.State.Primary
	by := o.witnesses(func(h Hears) bool {
		return (h.Gone || h.Never) && Refuses(h.Refusals, h.RefusedFor)
	})
	if len(by) < o.majority() {
		return loss{}
	}
	return loss{"begin-refused", fmt.Sprintf("the host of %s refuses connections from %s: its daemon has ended", p.Node, o.names(by)), o.lastHeard()}
}

// unheard: a majority hears nothing of the primary, and no log of it advances.
func (o Observation) unheard() loss {
	p := o.State.Primary
	by := o.deaf()
	if len(by) < o.majority() || o.vetoed(by) {
		return loss{}
	}
	return loss{"begin-silent", fmt.Sprintf("%s has not been heard by %s for %s", p.Node, o.names(by), o.State.Policy.SilenceTimeout), o.lastHeard()}
}

// deaf are the voters that do not hear the primary, if the leader is not one
// that does.
func (o Observation) deaf() []string {
	if _, alive := o.fresh(o.State.Primary.Store); alive {
		return nil
	}
	return o.witnesses(func(h Hears) bool { return h.Ago >= o.State.Policy.SilenceTimeout })
}

// witnesses are the voters, besides the primary, whose fresh word of what they
// hear of it satisfies what is asked. What a daemon says includes for how long
// it has listened, so its own pause is no silence of others.
func (o Observation) witnesses(asked func(Hears) bool) []string {
	var out []string
	p := o.State.Primary
	for _, s := range o.State.Voters.Stores {
		rep, alive := o.fresh(s)
		if s == p.Store || !alive {
			continue
		}
		for _, h := range rep.Hears {
			if h.Store == p.Store && asked(h) {
				out = append(out, s)
			}
		}
	}
	return out
}

// vetoed tells whether log proves that the primary lives although it is not
// heard: PostgreSQL flushed it after the last word of its daemon, it reached one
// of those who hear nothing, and what is committed moved there just now.
func (o Observation) vetoed(by []string) bool {
	var word time.Duration // newest, by the primary's clock
	for _, s := range by {
		for _, h := range o.Reports[s].Report.Hears {
			if h.Store == o.State.Primary.Store {
				word = max(word, h.Clock)
			}
		}
	}
	for _, s := range by {
		st := o.Reports[s].Report.Stream
		if st != nil && st.Epoch == o.State.Primary.Epoch && st.Moved < o.State.Policy.SilenceTimeout && st.Flushed > word {
			return true
		}
	}
	return false
}

// lastHeard is when the primary was last heard here.
func (o Observation) lastHeard() time.Time {
	if h, ok := o.Reports[o.State.Primary.Store]; ok {
		return h.At
	}
	return o.Began
}

// restarting tells whether a node announced that it comes back, and has time
// left to.
func (o Observation) restarting(store string) bool {
	return o.leaves(store, facts.LeavingRestarting)
}

// leaves tells whether a node announced that it leaves, and may be about to
// still.
func (o Observation) leaves(store, kind string) bool {
	l, ok := o.State.Leaving[store]
	if !ok || l.Kind != kind {
		return false
	}
	// Until may be of another host's clock, which is not trusted for how long.
	seen, since := o.LeavingSeen[store]
	return o.Now.Before(l.Until) && (!since || l.For == 0 || o.Now.Sub(seen) < l.For) || since && o.Now.Sub(seen) < l.For
}

// names are stores' nodes in words.
func (o Observation) names(stores []string) string {
	names := make([]string, len(stores))
	for i, s := range stores {
		names[i] = o.name(s)
	}
	switch n := len(names); n {
	case 0:
		return "nobody"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
}

// successors are the nodes that could take over by themselves, and why the
// others could not.
func (o Observation) successors() (able []string, rejected []Rejected) {
	for _, s := range sortedKeys(o.State.Members) {
		if s == o.State.Primary.Store {
			continue
		}
		if why := o.noSuccessor(s); why != "" {
			rejected = append(rejected, Rejected{o.name(s), why})
			continue
		}
		able = append(able, s)
	}
	return able, rejected
}

// noSuccessor says why a node could not take over by itself; "" when it could.
func (o Observation) noSuccessor(store string) string {
	m := o.State.Members[store]
	rep, alive := o.fresh(store)
	switch {
	case m.Kind != facts.KindData:
		return "has no PostgreSQL"
	case !m.Seeded:
		return "has no complete base"
	case !o.State.IsVoter(store):
		return "has no WAL vote, so its log proves nothing"
	case o.State.Policy.Of(m.Name).NoFailover:
		return "is never chosen by itself (no_failover)"
	case !alive:
		return "is silent"
	case rep.Server.State == ServerFailed:
		return "cannot start PostgreSQL: " + rep.Server.Problem
	case rep.Server.Failing != "":
		return "cannot serve: " + rep.Server.Failing
	case !o.hearsMajority(store):
		return "does not hear a majority of the group"
	}
	if o.leaves(store, facts.LeavingStopping) {
		return "is stopping"
	}
	return ""
}

// replace begins an epoch for a loss of the kind that the rule is for. A
// primary that nobody can replace is left alone: it may come back.
func replace(rule string) func(Observation) ([]Action, string) {
	return func(o Observation) ([]Action, string) {
		l := o.loss()
		if l.rule != rule || o.State.Policy.Mode(o.Now) != facts.FailoverAutomatic {
			return nil, ""
		}
		if able, _ := o.successors(); len(able) == 0 || o.voices(o.State.Primary.Store) < o.majority() {
			return nil, ""
		}
		return []Action{command(facts.Command{Kind: facts.CmdBeginEpoch, BeginEpoch: &facts.BeginEpoch{
			Expect: o.State.Primary.Version, Cause: l.why, Change: facts.ChangeFailover, Lost: l.since}})}, l.why
	}
}

// lossEvidence is what is known of the primary and who could not take over.
func lossEvidence(o Observation) ([]Evidence, []Rejected) {
	ev, _ := primaryEvidence(o)
	p := o.State.Primary
	for _, s := range o.State.Voters.Stores {
		rep, alive := o.fresh(s)
		if !alive || s == p.Store {
			continue
		}
		for _, h := range rep.Hears {
			if h.Store == p.Store {
				ev = append(ev, Evidence{Node: o.name(s), Kind: Inferred, Age: h.Ago, Text: h.words(p.Node)})
			}
		}
	}
	_, rejected := o.successors()
	return ev, rejected
}

// words say how well a node is heard.
func (h Hears) words(node string) string {
	switch {
	case h.Refusals > 0:
		return fmt.Sprintf("was refused by the host of %s %d times within %s", node, h.Refusals, h.RefusedFor.Round(time.Millisecond))
	case h.Never:
		return fmt.Sprintf("has never heard %s", node)
	case h.Gone:
		return fmt.Sprintf("last heard %s %s ago, and its connection has ended", node, h.Ago.Round(time.Millisecond))
	}
	return fmt.Sprintf("last heard %s %s ago", node, h.Ago.Round(time.Millisecond))
}

// The incidents about a primary that is lost and not replaced.
const (
	wouldKey       = "would-failover"
	vetoKey        = "silence-veto"
	noSuccessorKey = "no-successor"
)

// lossIncident says what is not done about a lost primary, and why: the group
// only observes, nobody could take over, or its log still advances.
func lossIncident(o Observation) ([]Action, string) {
	key, text := o.undone()
	for _, k := range []string{wouldKey, vetoKey, noSuccessorKey} {
		inc, standing := o.State.Incidents[k]
		standing = standing && inc.Until.IsZero()
		switch {
		case k == key && !standing:
			return []Action{command(facts.Command{Kind: facts.CmdRaiseIncident, RaiseIncident: &facts.RaiseIncident{
				Incident: facts.Incident{Key: k, Severity: facts.SeverityError, Text: text}}})}, text
		case k != key && standing && o.settled():
			return []Action{command(facts.Command{Kind: facts.CmdClearIncident, ClearIncident: &facts.ClearIncident{Key: k}})}, "over: " + inc.Text
		}
	}
	return nil, ""
}

// settled tells whether a primary is open and heard, or on its way.
func (o Observation) settled() bool {
	_, alive := o.fresh(o.State.Primary.Store)
	return alive || o.State.Primary.Phase != facts.PhaseOpened
}

// undone is the loss that nothing is done about.
func (o Observation) undone() (key, text string) {
	p := o.State.Primary
	l := o.loss()
	if l.rule == "" {
		if by := o.deaf(); p.Phase == facts.PhaseOpened && len(by) >= o.majority() && o.vetoed(by) && o.Now.Sub(o.lastHeard()) > vetoPatience*o.State.Policy.SilenceTimeout {
			return vetoKey, fmt.Sprintf("%s has not been heard for %s, but its log still advances: nothing is done by itself. Look at its daemon; use: understudy failover --to NODE --force", p.Node, vetoPatience*o.State.Policy.SilenceTimeout)
		}
		return "", ""
	}
	if o.State.Policy.Mode(o.Now) == facts.FailoverObserve {
		return wouldKey, fmt.Sprintf("Observed only: another node would become primary now, because %s.", l.why)
	}
	if o.State.Policy.Mode(o.Now) != facts.FailoverAutomatic {
		return wouldKey, fmt.Sprintf("No failover, since it is %s: %s. Use: understudy failover --to NODE", o.whyNot(), l.why)
	}
	able, rejected := o.successors()
	if len(able) > 0 && o.voices(p.Store) >= o.majority() {
		return "", ""
	}
	var all []string
	for _, r := range rejected {
		if m, ok := o.State.MemberByName(r.What); ok && m.Kind == facts.KindData {
			all = append(all, r.What+" "+r.Why)
		}
	}
	return noSuccessorKey, fmt.Sprintf("Nobody can take over, although %s: %s.", l.why, strings.Join(all, "; "))
}

func (o Observation) whyNot() string {
	if o.State.Policy.PauseStands(o.Now) {
		return "paused"
	}
	return "manual"
}

// pauseOver ends a pause whose time is over.
func pauseOver(o Observation) ([]Action, string) {
	p := o.State.Policy
	if !p.Paused || p.PauseStands(o.Now) {
		return nil, ""
	}
	expect := p.Version
	p.Paused, p.PausedUntil = false, time.Time{}
	return []Action{command(facts.Command{Kind: facts.CmdSetPolicy, SetPolicy: &facts.SetPolicy{Expect: expect, Policy: p}})}, "the pause of automatic failover is over"
}
