package sim

import "understudy/ledger/facts"

// Mutation is a bug planted into the model around the rules, never into the
// rules themselves. The checks must find each.
type Mutation int

// The mutations. None is the protocol as it is.
const (
	None                 Mutation = iota
	FenceNotFsynced               // a fence is reported before it, and the log below it, is on disk
	OwnCopyAfterFence             // a primary reports its fence and goes on counting its own flush
	OldEpochAccepted              // a fenced node goes on acknowledging to the older epoch
	OrderByLSN                    // reports are compared by LSN, whatever they have adopted
	WipedVoterVotes               // a node that lost its log and its promises keeps its store id
	PromoteBeforeReplay           // a standby is promoted where its replay happens to be
	TimelineReused                // the next timeline id is counted from the own one
	TwoVotersAtOnce               // a voter is added before the primary counts by the last one
	OpenWithoutMajority           // clients are let in before a majority has the recovered log
	OpenOnStaleRead               // permission is taken from the node's own copy of the ledger
	FollowWithoutFork             // a former primary follows whatever its log holds
	AckBeforeAdoption             // a stream is taken without adopting its lineage durably
	FenceReportedEarlier          // the position is read before the stream is closed
)

// planted is the mutation of one run.
type planted struct{ m Mutation }

func (p planted) on(m Mutation) bool { return p.m == m }

// apply is facts.Apply with what some mutations make of its input or output.
func (p planted) apply(s facts.State, c facts.Command) (facts.State, facts.Outcome) {
	switch {
	case p.m == OrderByLSN && c.ReportFence != nil:
		rep := *c.ReportFence
		rep.Lineage = s.Lineage
		c.ReportFence = &rep
	case p.m == TwoVotersAtOnce:
		s.Voters.Confirmed = s.Voters.Version
	case p.m == TimelineReused && c.Starting != nil:
		s.LastTimeline = s.Lineage.Last().Timeline
	}
	n, out := facts.Apply(s, c)
	if p.m == TwoVotersAtOnce {
		n.Voters.Confirmed = n.Voters.Version
	}
	return n, out
}

// Mutations are all of them.
func Mutations() []Mutation {
	var all []Mutation
	for m := None + 1; int(m) < len(names()); m++ {
		all = append(all, m)
	}
	return all
}

func names() []string {
	return []string{
		"None", "FenceNotFsynced", "OwnCopyAfterFence", "OldEpochAccepted", "OrderByLSN", "WipedVoterVotes",
		"PromoteBeforeReplay", "TimelineReused", "TwoVotersAtOnce", "OpenWithoutMajority", "OpenOnStaleRead", "FollowWithoutFork",
		"AckBeforeAdoption", "FenceReportedEarlier",
	}
}

// String is the mutation's name.
func (m Mutation) String() string { return names()[m] }

// Scenario is the kind of runs in which the mutation does harm soonest.
func (m Mutation) Scenario() uint64 {
	switch m {
	case OwnCopyAfterFence, AckBeforeAdoption, FenceReportedEarlier:
		return 0
	case TimelineReused, OpenWithoutMajority, FollowWithoutFork:
		return 1
	case OldEpochAccepted, PromoteBeforeReplay:
		return 2
	case FenceNotFsynced, OpenOnStaleRead, OrderByLSN:
		return 3
	}
	return 4
}

// Sticks tells whether the mutation harms only by keeping the group from
// becoming whole: what it breaks is caught before anything is lost.
func (m Mutation) Sticks() bool { return m == FollowWithoutFork }
