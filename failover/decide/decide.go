package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/ledger/facts"
)

// RaftServer is one server of the ledger's Raft configuration.
type RaftServer struct {
	Store   string
	Address string
	Voter   bool
}

// Observation is everything a decision may use. Decide looks at nothing else.
type Observation struct {
	Now          time.Time
	SelfStore    string // the ledger leader, which decides
	State        facts.State
	Reports      map[string]Heard // newest report by store, the leader's own included
	Raft         []RaftServer
	LastTransfer time.Time // when ledger leadership was last handed on from here
	// EpochSeen is when this leader first saw the present epoch, and LeavingSeen
	// when it saw that a store announced that it leaves: times in the ledger may
	// be of another host's clock. Zero, or no entry: the ledger's time is taken.
	EpochSeen   time.Time            `json:",omitzero"`
	LeavingSeen map[string]time.Time `json:",omitempty"`
	// CutOffSeen is since when this leader has seen the primary say that no
	// majority answers it; zero when it does not, or when that is not known.
	CutOffSeen time.Time `json:",omitzero"`
	// Began is since when this node has listened to the others: what it has not
	// heard in a shorter time is no silence.
	Began time.Time
}

// Action is one thing the controller does: exactly one field is set. Commands
// are compare-and-set on the ledger; the others change Raft's own membership.
type Action struct {
	Command    *facts.Command
	RaftAdd    *RaftServer
	RaftRemove string
	Transfer   string // hand ledger leadership to this store
}

// Plan is what Decide chose: the actions are carried out in order, and the
// rest is dropped when one of them is refused.
type Plan struct {
	Rule    string
	Why     string
	Actions []Action
	// Evidence is what the rule looked at, and Rejected what it could have
	// chosen instead, for people; only rules about the primaryship say so.
	Evidence []Evidence
	Rejected []Rejected
}

// Empty tells whether there is nothing to do.
func (p Plan) Empty() bool { return len(p.Actions) == 0 }

// Rule is one row of the table. When returns the plan's actions and reason; no
// actions mean that the rule does not fire.
type Rule struct {
	ID   string
	Then string // what the rule does, for people
	when func(Observation) ([]Action, string)
	// why says more of a plan that is kept; nil for rules that nobody asks about.
	why func(Observation) ([]Evidence, []Rejected)
}

// Limits of the rules. Each names the mistake it prefers.
const (
	// Fresh is how old a report may be to count as what a node says now. Too
	// short asks twice, too long believes the dead.
	Fresh = time.Second
	// retryStart is the pause before a start that failed is tried in a new
	// epoch: rather late than a storm of epochs.
	retryStart = 2 * time.Second
	// stuckAfter is when a group without a primary says what it waits for.
	stuckAfter = 10 * time.Second
	// closeEnough is how near to the primary's end a node must be to be
	// proposed as voter: with it commits would wait for its catch-up.
	closeEnough = 1 << 20
	// forgetProposal ends the candidacy of a voter that fell silent.
	forgetProposal = 5 * time.Second
	// transferEvery bounds how often leadership moves.
	transferEvery = 10 * time.Second
	// MaxVoters bounds the set of WAL voters.
	MaxVoters = 7
)

// Rules is the table, in the order in which it is tried.
func Rules() []Rule {
	return []Rule{
		{"begin-founding", "begin the first epoch of a group", beginFounding, primaryEvidence},
		{"begin-ordered", "begin a new epoch for what the operator ordered", beginOrdered, primaryEvidence},
		{"begin-ended", "begin a new epoch after the primary's server has ended", beginEnded, primaryEvidence},
		{"begin-failing", "replace a primary whose own daemon says that it cannot serve", replace("begin-failing"), lossEvidence},
		{"begin-cut-off", "replace a primary that no majority answers any more", replace("begin-cut-off"), lossEvidence},
		{"begin-refused", "replace a primary whose host refuses connections from a majority", replace("begin-refused"), lossEvidence},
		{"begin-silent", "replace a primary that a majority does not hear", replace("begin-silent"), lossEvidence},
		{"begin-stalled", "begin a new epoch when the elected node fell silent before it opened", beginStalled, primaryEvidence},
		{"loss-incident", "say why a lost primary is not replaced", lossIncident, lossEvidence},
		{"order-over", "give up an order that the primary did not follow", orderOver, primaryEvidence},
		{"assign", "assign the primary when a majority has fenced", assign, electionEvidence},
		{"stuck", "say what a group without a primary waits for", stuck, nil},
		{"switchover-leaving", "hand over from a primary that is stopping", switchoverLeaving, primaryEvidence},
		{"switchover-due", "begin the scheduled switchover, or give it up", switchoverDue, primaryEvidence},
		{"pause-over", "end a pause whose time is over", pauseOver, nil},
		{"pair-vote", "move the ledger's only vote to the new primary of a pair", pairVote, nil},
		{"raft-forget", "remove a ledger server that is no member", raftForget, nil},
		{"raft-restore", "add a member that the ledger's servers lack", raftRestore, nil},
		{"member-replace", "retire the lost store of a node that came back with another", memberReplace, nil},
		{"member-add", "admit a node that asks to join", memberAdd, nil},
		{"member-address", "follow a member that moved", memberAddress, nil},
		{"voter-withdraw", "give up a candidate voter that fell silent", voterWithdraw, nil},
		{"voter-admit", "give the vote to a candidate that has caught up", voterAdmit, nil},
		{"pair-alone", "let the primary of a pair go on without its lost standby", pairAlone, primaryEvidence},
		{"voter-drop", "take the vote of a node that shall have none", voterDrop, nil},
		{"voter-propose", "propose the next voter", voterPropose, nil},
		{"ledger-vote", "give ledger votes to the WAL voters", ledgerVote, nil},
		{"ledger-unvote", "take the ledger vote of a node that shall have none", ledgerUnvote, nil},
		{"leaving-over", "forget an announced restart whose time is over", leavingOver, nil},
		{"pair-incident", "say that the primary of a pair goes on alone, and when that is over", pairIncident, nil},
		{"incident-raise", "record what a node complains of", incidentRaise, nil},
		{"incident-clear", "close what a node no longer complains of", incidentClear, nil},
		{"leader-off-primary", "lead the ledger from a node that is not the primary", leaderOffPrimary, nil},
	}
}

// Decide tries the rules in order and returns the plan of the first that
// fires; an empty plan when none does. The same observation gives the same
// plan.
func Decide(o Observation) Plan {
	for _, r := range Rules() {
		actions, why := r.when(o)
		if len(actions) == 0 {
			continue
		}
		p := Plan{Rule: r.ID, Why: why, Actions: actions}
		if r.why != nil {
			p.Evidence, p.Rejected = r.why(o)
		}
		return p
	}
	return Plan{}
}

func command(c facts.Command) Action { return Action{Command: &c} }

// fresh is the newest report of a store when it is young enough.
func (o Observation) fresh(store string) (Report, bool) {
	h, ok := o.Reports[store]
	if !ok || h.Gone || o.Now.Sub(h.At) > Fresh {
		return Report{}, false
	}
	return h.Report, true
}

// stores are the reporting stores in a fixed order.
func (o Observation) stores() []string {
	out := make([]string, 0, len(o.Reports))
	for s := range o.Reports {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// link is what the primary says of its link to a store.
func (o Observation) link(node string) (Link, bool) {
	rep, ok := o.fresh(o.State.Primary.Store)
	if !ok {
		return Link{}, false
	}
	for _, l := range rep.Links {
		if l.Peer == node {
			return l, true
		}
	}
	return Link{}, false
}

// epochAge is for how long the present epoch has been known here.
func (o Observation) epochAge() time.Duration {
	if o.EpochSeen.IsZero() {
		return o.Now.Sub(o.State.Primary.Since)
	}
	return o.Now.Sub(o.EpochSeen)
}

func (o Observation) name(store string) string { return o.State.NameOf(store) }

func beginFounding(o Observation) ([]Action, string) {
	if !o.State.Founded() || o.State.Primary.Phase != facts.PhaseNone {
		return nil, ""
	}
	why := "the group is new"
	return []Action{command(facts.Command{Kind: facts.CmdBeginEpoch,
		BeginEpoch: &facts.BeginEpoch{Expect: o.State.Primary.Version, Cause: why, Change: facts.ChangeFounding}})}, why
}

// stuckKey is the incident of a group that cannot choose a primary.
const stuckKey = "no-primary"

func stuck(o Observation) ([]Action, string) {
	p := o.State.Primary
	inc, standing := o.State.Incidents[stuckKey]
	standing = standing && inc.Until.IsZero()
	if p.Phase == facts.PhaseOpened && standing {
		return []Action{command(facts.Command{Kind: facts.CmdClearIncident, ClearIncident: &facts.ClearIncident{Key: stuckKey}})}, "a primary is open"
	}
	if p.Phase != facts.PhaseFencing || o.epochAge() < stuckAfter {
		return nil, ""
	}
	text := "No primary: "
	if !o.State.FenceMajority() {
		text += fmt.Sprintf("%d of %d voters have fenced, missing are %s.", len(p.Fence), len(o.State.Voters.Stores), strings.Join(unfenced(o), ", "))
	} else if c := elect(o); c.wait != "" {
		text += c.wait + "."
	} else {
		return nil, ""
	}
	if standing && inc.Text == text {
		return nil, ""
	}
	return []Action{command(facts.Command{Kind: facts.CmdRaiseIncident, RaiseIncident: &facts.RaiseIncident{
		Incident: facts.Incident{Key: stuckKey, Severity: facts.SeverityError, Text: text}}})}, text
}

func unfenced(o Observation) []string {
	var out []string
	for _, s := range o.State.Voters.Stores {
		if _, ok := o.State.Primary.Fence[s]; !ok {
			out = append(out, o.name(s))
		}
	}
	return out
}

func leavingOver(o Observation) ([]Action, string) {
	for _, s := range sortedKeys(o.State.Leaving) {
		if l := o.State.Leaving[s]; o.Now.After(l.Until.Add(time.Minute)) {
			return []Action{command(facts.Command{Kind: facts.CmdClearLeaving, ClearLeaving: &facts.ClearLeaving{Store: s}})},
				fmt.Sprintf("the restart that %s announced is over", o.name(s))
		}
	}
	return nil, ""
}

func leaderOffPrimary(o Observation) ([]Action, string) {
	p := o.State.Primary
	if p.Store != o.SelfStore || p.Phase != facts.PhaseOpened || o.State.Order != nil || o.Now.Sub(o.LastTransfer) < transferEvery || o.Now.Sub(p.OpenedAt) < time.Second {
		return nil, ""
	}
	var best facts.Member
	for _, s := range sortedKeys(o.State.Members) {
		m := o.State.Members[s]
		if _, alive := o.fresh(s); !alive || !m.LedgerVoter || s == o.SelfStore {
			continue
		}
		if best.Store == "" || m.Kind == facts.KindWitness { // the witness will never be primary
			best = m
		}
	}
	if best.Store == "" {
		return nil, ""
	}
	return []Action{{Transfer: best.Store}}, fmt.Sprintf("%s is the primary; losing it shall not also cost an election", p.Node)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
