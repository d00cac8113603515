package sim

import (
	"maps"
	"slices"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Mutation is a bug planted into the model around the rules, never into the
// rules themselves: what a rule would overlook is hidden from it, and what a
// refusal would stop is shown to it in another form. The checks must find each.
type Mutation int

// The mutations. None is the protocol as it is.
const (
	None                   Mutation = iota
	FenceNotFsynced                 // of the fence, and of the log below it
	OwnCopyAfterFence               // a primary reports its fence and goes on counting its own flush
	OldEpochAccepted                // a fenced node goes on acknowledging to the older epoch
	OrderByLSN                      // whatever they have adopted
	OrderByMaker                    // a position is of the epoch that wrote its last byte
	WipedVoterVotes                 // a node that lost its log and its promises keeps its store id
	FirstFlushCounted               // it is where replay stands, not what was flushed
	PromoteBeforeReplay             // a standby is promoted where its replay happens to be
	TimelineReused                  // the next timeline id is counted from the own one
	TwoVotersAtOnce                 // a voter is added before the primary counts by the last one
	OpenWithoutMajority             // clients are let in before a majority has the recovered log
	OpenOnStaleRead                 // permission is taken from the node's own copy of the ledger
	FollowWithoutFork               // a former primary follows whatever its log holds
	AckBeforeAdoption               // a stream is taken without adopting its lineage durably
	FenceReportedEarlier            // the position is read before the stream is closed
	ElectedBeforeMajority           // whoever has fenced elects
	NoVoteCounted                   // commits count a node that the policy gives no vote
	SilenceByLeaderAlone            // what the leader does not hear, nobody is asked about
	SilenceBeforeListening          // a daemon that has just begun calls silence what it has not heard yet
	RefusedOnce                     // one refused connection is enough
	VetoIgnored                     // log that goes on is no sign of life
	LeaseByReceipt                  // the lease begins when the answer to a heartbeat comes
	LeavingIgnored                  // an announced restart gives no time
	AdoptionNotFsynced              // of a lineage: a lost host comes back with the one before
	MarkNotFsynced                  // that a directory was opened for writing here
	LastLogNotSaved                 // the primary stops for a restore of the group although the location lacks log
	RestoredUnsaid                  // a restored node goes on although no majority has said that nobody else does
	OldLogReplayed                  // a standby is started with whatever log of a history that was left it has
	FinalWithdrawn                  // a restore is withdrawn although the restored node goes on already
)

// known is what is said of each mutation.
type known struct {
	name  string
	words string
	// kind is the kind of runs in which it does harm soonest.
	kind int
	// sticks: it harms only by keeping the group from becoming whole.
	sticks bool
}

func catalogue() []known {
	return []known{
		{name: "None", words: "nothing"},
		{"FenceNotFsynced", "skip the fence's fsync", kindSilence, false},
		{"OwnCopyAfterFence", "count the own copy after the fence", kindSilence, false},
		{"OldEpochAccepted", "count an acknowledgement of an older epoch", kindStorm, false},
		{"OrderByLSN", "order positions by LSN alone", kindLost, false},
		{"OrderByMaker", "order positions by the epoch in which a byte was made", kindSilence, false},
		{"WipedVoterVotes", "let a wiped voter vote", kindMembers, false},
		{"FirstFlushCounted", "acknowledge the walreceiver's first flush", kindSilence, false},
		{"PromoteBeforeReplay", "promote before the replay caught up", kindStorm, false},
		{"TimelineReused", "reuse a timeline id", kindOrders, false},
		{"TwoVotersAtOnce", "change two voters at once", kindMembers, false},
		{"OpenWithoutMajority", "open before a majority has the recovered log", kindOrders, false},
		{"OpenOnStaleRead", "open on a stale ledger read", kindLost, false},
		{"FollowWithoutFork", "follow without looking for the fork", kindOrders, true},
		{"AckBeforeAdoption", "acknowledge before the lineage is adopted", kindMixed, false},
		{"FenceReportedEarlier", "report the position before the stream is closed", kindSilence, false},
		{"ElectedBeforeMajority", "elected before a fence majority", kindSilence, false},
		{"NoVoteCounted", "a no-vote node counted", kindLarge, false},
		{"SilenceByLeaderAlone", "silence judged by the leader alone", kindSilence, false},
		{"SilenceBeforeListening", "silence counted before the node has listened that long", kindSilence, false},
		{"RefusedOnce", "refusal seen once is enough", kindSingle, false},
		{"VetoIgnored", "veto ignored", kindSilence, false},
		{"LeaseByReceipt", "a lease renewed by the receipt instead of the sending of the heartbeat", kindSilence, false},
		{"LeavingIgnored", "leaving-until ignored", kindPauses, false},
		{"AdoptionNotFsynced", "skip the fsync of an adopted lineage", kindLost, false},
		{"MarkNotFsynced", "skip the fsync of the mark on an opened directory", kindLost, false},
		{"LastLogNotSaved", "stop for a restore before the last log was saved", kindRestore, false},
		{"RestoredUnsaid", "go on restored before a majority knows of it", kindRestore, false},
		{"OldLogReplayed", "start a standby on log of a history that was left", kindRestore, false},
		{"FinalWithdrawn", "withdraw a restore past its point of no return", kindRestore, false},
	}
}

// Mutations are all of them.
func Mutations() []Mutation {
	var all []Mutation
	for m := None + 1; int(m) < len(catalogue()); m++ {
		all = append(all, m)
	}
	return all
}

// String is the mutation's name.
func (m Mutation) String() string { return catalogue()[m].name }

// Words say what the mutation does.
func (m Mutation) Words() string { return catalogue()[m].words }

// Scenario is the kind of runs in which the mutation does harm soonest.
func (m Mutation) Scenario() uint64 { return uint64(catalogue()[m].kind) }

// Sticks tells whether the mutation harms only by keeping the group from
// becoming whole: what it breaks is caught before anything is lost.
func (m Mutation) Sticks() bool { return catalogue()[m].sticks }

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
	case p.m == FinalWithdrawn && c.ClearOrder != nil:
		s = unfinished(s)
	case p.m == TwoVotersAtOnce:
		s.Voters.Confirmed = s.Voters.Version
	case p.m == TimelineReused && c.Starting != nil:
		s.LastTimeline = s.Lineage.Last().Timeline
	case p.m == ElectedBeforeMajority && c.Assign != nil:
		all := s.Voters
		n, out := facts.Apply(fencedOnly(s), c)
		if out.Refused == "" {
			n.Voters = all
		}
		return n, out
	}
	n, out := facts.Apply(s, c)
	if p.m == OrderByMaker && c.ReportFence != nil && out.Refused == "" {
		f := n.Primary.Fence[c.ReportFence.Store]
		f.Pos = c.ReportFence.Pos
		n.Primary.Fence = maps.Clone(n.Primary.Fence)
		n.Primary.Fence[f.Store] = f
	}
	if p.m == TwoVotersAtOnce {
		n.Voters.Confirmed = n.Voters.Version
	}
	return n, out
}

// fencedOnly is a state in which nobody votes but who has fenced.
func fencedOnly(s facts.State) facts.State {
	if len(s.Primary.Fence) > 0 {
		s.Voters.Stores = slices.DeleteFunc(slices.Clone(s.Voters.Stores), func(v string) bool { _, ok := s.Primary.Fence[v]; return !ok })
	}
	return s
}

// unfinished is a state in which a restore that was made final can be taken
// back.
func unfinished(s facts.State) facts.State {
	if o, ok := s.Restoring(); ok && o.Restore.Stage == facts.RestoreFinal {
		r := *o.Restore
		r.Stage, o.Restore = facts.RestoreRewriting, &r
		s.Order = &o
	}
	return s
}

// observe is an observation with what some mutations make of it.
func (p planted) observe(o decide.Observation) decide.Observation {
	switch p.m {
	case ElectedBeforeMajority:
		if o.State.Primary.Phase == facts.PhaseFencing {
			o.State = fencedOnly(o.State)
		}
	case LeavingIgnored:
		o.State.Leaving = maps.Clone(o.State.Leaving)
		maps.DeleteFunc(o.State.Leaving, func(_ string, l facts.Leaving) bool { return l.Kind == facts.LeavingRestarting })
	case SilenceBeforeListening:
		o.Began = o.Began.AddDate(-1, 0, 0)
	case SilenceByLeaderAlone:
		own := o.Reports[o.SelfStore].Report.Hears
		for s, h := range o.Reports {
			if s != o.State.Primary.Store {
				h.Report.Hears = own
				o.Reports[s] = h
			}
		}
	}
	return o
}

// made is the end of a log, in the epoch that wrote its last byte.
func made(log wal) pos.Pos {
	p := pos.Pos{LSN: log.end}
	if len(log.recs) > 0 {
		p.Epoch = log.recs[len(log.recs)-1].epoch
	}
	return p
}

// voters are who counts.
func (p planted) voters(s facts.State) []string {
	if p.m != NoVoteCounted {
		return s.Voters.Stores
	}
	all := slices.Clone(s.Voters.Stores)
	for store, m := range s.Members {
		if s.Policy.Of(m.Name).NoVote && !s.IsVoter(store) {
			all = append(all, store)
		}
	}
	slices.Sort(all)
	return all
}
