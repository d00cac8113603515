package role

import (
	"fmt"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Past is how a node's database directory was left.
type Past string

// The pasts. PastPrimary is a directory that was last opened for writing by
// this node; one that was elected but never promoted is PastStandby.
const (
	PastNone    Past = "none"    // empty
	PastHalf    Past = "half"    // a base or a rewind that is not complete
	PastForeign Past = "foreign" // no database
	PastStandby Past = "standby"
	PastPrimary Past = "primary"
)

// Server is what runs on a node.
type Server string

// The kinds of running servers.
const (
	ServerNone    Server = "none"
	ServerStandby Server = "standby"
	ServerPrimary Server = "primary" // started, or about to be promoted, for ServerEpoch
)

// View is what a data node knows of itself when it takes its next step.
type View struct {
	State       facts.State // confirmed by a majority
	Store       string
	Past        Past
	Server      Server
	ServerEpoch pos.Epoch // of a primary
	InRecovery  bool      // the primary's server was not promoted yet
	Marked      bool      // the directory was elected or opened for writing here, and was not given up since
	Diverged    bool      // a standby's directory holds pages, or log, from beyond the group's history
}

// Step is what a node does next on its way into a role. Each is safe to do
// again: after a crash the next step follows from what is found.
type Step string

// The steps.
const (
	Leave   Step = "leave"   // the assignment is another one now
	Stop    Step = "stop"    // end the server at once: it is of an older epoch
	Gone    Step = "gone"    // say that this epoch has failed here
	Start   Step = "start"   // open the directory for writing on the timeline it had
	Launch  Step = "launch"  // start the directory as a standby
	Elect   Step = "elect"   // let the standby replay all of the elected log, and record where it ended
	Promote Step = "promote" // promote it to the timeline that the ledger gave out
	Serve   Step = "serve"   // ship, count, let clients in
	Watch   Step = "watch"   // follow
	Seed    Step = "seed"    // fetch a base
	Return  Step = "return"  // bring a former primary back
	Pause   Step = "pause"   // nothing can be done before the group goes on
)

// ToPrimary is the next step of a node that is assigned epoch e.
func ToPrimary(v View, e pos.Epoch) Step {
	p := v.State.Primary
	if p.Epoch != e || p.Store != v.Store || p.Phase == facts.PhaseFencing {
		return Leave
	}
	switch v.Server {
	case ServerPrimary:
		switch {
		case v.ServerEpoch != e:
			return Stop
		case !v.InRecovery:
			return Serve
		case p.Phase == facts.PhasePromoting:
			return Promote
		}
		return Gone // it was to be promoted, and the ledger does not know where
	case ServerStandby:
		switch p.Phase {
		case facts.PhaseAssigned:
			return Elect
		case facts.PhasePromoting:
			return Promote
		}
		return Gone
	}
	if p.Phase != facts.PhaseAssigned {
		return Gone // every start for writing is an epoch of its own
	}
	switch v.Past {
	case PastPrimary:
		return Start
	case PastStandby:
		return Launch
	}
	return Gone
}

// ToStandby is the next step of a node that follows, or will.
func ToStandby(v View) Step {
	switch v.Server {
	case ServerPrimary:
		return Stop
	case ServerStandby:
		// One that was elected here, and left behind by its daemon, comes back
		// like a former primary: it may have replayed what nobody else has.
		if v.Marked || v.Diverged && v.State.Primary.Phase == facts.PhaseOpened {
			return Stop
		}
		return Watch
	}
	known := Known(v.State.Primary)
	switch v.Past {
	case PastNone, PastHalf:
		return Seed
	case PastForeign:
		return Pause
	case PastPrimary:
		if known {
			return Return
		}
		return Pause
	}
	switch {
	case !v.Marked && !v.Diverged:
		return Launch
	case known:
		return Return
	}
	return Pause
}

// Known tells whether it is recorded where the present primary's log begins,
// so that a log can be compared with it. What destroys anything waits until
// that primary has opened.
func Known(p facts.Primaryship) bool {
	return p.Phase == facts.PhaseStarting || p.Phase == facts.PhasePromoting || p.Phase == facts.PhaseOpened
}

// Method is a way in which a former primary becomes a standby.
type Method string

// The methods, cheapest first; each escalates to the next.
const (
	MethodFollow Method = "follow" // it holds nothing that the group does not
	MethodRewind Method = "rewind" // only what changed since the histories parted is copied
	MethodDelta  Method = "delta"  // every block is compared, those that differ are copied
	MethodFull   Method = "full"   // everything is copied
)

// Methods are all methods in order.
func Methods() []Method { return []Method{MethodFollow, MethodRewind, MethodDelta, MethodFull} }

// Remains is what a node that must return holds.
type Remains struct {
	Half bool // only a base can help
	// NoLog: not even the place can be read where its recovery would begin.
	NoLog bool
	// Recovery: it was last a standby, whose pages reach up to MinRecovery.
	Recovery    bool
	MinRecovery pos.LSN
	// Clean: it was shut down as a primary, and its shutdown checkpoint is the
	// last record of its log.
	Clean bool
	// LogEnd is the end of its valid log, in whole records; of one that was last
	// a standby only where that is of another history.
	LogEnd pos.LSN
	// Lineage is the history that its log adopted.
	Lineage pos.Lineage
	// Floor is the least method to use, after others have failed or on the
	// operator's word; empty for the cheapest.
	Floor Method
}

// ForkOf is how far a log with its own lineage is also the group's.
func ForkOf(own, group pos.Lineage) pos.LSN {
	fork, same := own.Fork(group)
	if same && len(own) == len(group) {
		return ^pos.LSN(0)
	}
	return fork
}

// ChooseMethod is how a node comes back into the group's history, and why.
func ChooseMethod(r Remains, group pos.Lineage) (Method, string) {
	fork := ForkOf(r.Lineage, group)
	least := 0
	for i, m := range Methods() {
		if m == r.Floor {
			least = i
		}
	}
	why := fmt.Sprintf("its log ends at %s, the histories part at %s", r.LogEnd, fork)
	switch {
	case r.Half:
		why, least = "an earlier attempt was interrupted", max(least, 2)
	case r.NoLog:
		why, least = "its own log cannot be read", max(least, 2)
	case r.Recovery && max(r.MinRecovery, r.LogEnd) <= fork:
		why = fmt.Sprintf("it was a standby up to %s, the histories part at %s", r.MinRecovery, fork)
	case r.Clean && r.LogEnd <= fork:
		why += ", after a regular stop"
	default:
		least = max(least, 1)
		if !r.Recovery && !r.Clean && r.LogEnd <= fork {
			why += ", but it was not stopped in the regular way"
		}
	}
	if r.Floor != "" && Methods()[least] == r.Floor {
		why += "; " + string(r.Floor) + " was asked for, or is what is left"
	}
	return Methods()[least], why
}
