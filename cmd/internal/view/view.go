// Package view turns what a node knows (the ledger's state, its own report and
// those it heard) into the status document: what the API, the feed and the
// status command show. It is pure.
package view

import (
	"cmp"
	"slices"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// DefaultStale is the age from which a report no longer counts: ten of the
// intervals in which reports are sent.
const DefaultStale = time.Second

// Input is everything a Status is made of.
type Input struct {
	State facts.State
	Self  decide.Report
	// Heard are the reports of the other nodes by node name. An entry of this
	// node's own name is ignored.
	Heard map[string]decide.Heard
	// Now is by the clock of Heard.At.
	Now time.Time
	// LedgerLeader is the name of the node that leads the ledger, "" when
	// nobody does or it is unknown.
	LedgerLeader string
	// Stale is the age from which a report no longer counts; zero means
	// DefaultStale.
	Stale time.Duration
	// Protection is ProtectionOf State, for a caller who has it already; nil
	// leaves it to Build.
	Protection *catalog.Protection
}

// Status is the document of /api/v1/status.
type Status struct {
	At        time.Time  `json:"at"`
	Node      string     `json:"node"` // whose view this is
	Version   string     `json:"version"`
	Group     Group      `json:"group"`
	Nodes     []Node     `json:"nodes"` // primary, other data nodes, witnesses; each by name
	Incidents []Incident `json:"incidents"`
	Backups   *Backups   `json:"backups,omitempty"` // absent while there is no group
}

// Group is what concerns all nodes.
type Group struct {
	Name            string          `json:"name"`
	ID              string          `json:"id"`
	Epoch           pos.Epoch       `json:"epoch"`
	Phase           facts.Phase     `json:"phase"`
	Primary         string          `json:"primary"` // name; "" while nobody is elected
	Timeline        pos.Timeline    `json:"timeline"`
	Durability      string          `json:"durability"`
	Committed       pos.LSN         `json:"committed"`
	MustAcknowledge MustAcknowledge `json:"must_acknowledge"`
	LedgerLeader    string          `json:"ledger_leader"`
	// Protected: besides the primary a node has a base, and commits go to more
	// than one node's disk. WAL without a base is no copy.
	Protected bool `json:"protected"`
	Paused    bool `json:"paused"` // automatic failover is paused now
	Safe      Safe `json:"safe"`
	// Failover is what happens by itself when the primary is lost; Scheduled is
	// the switchover that is to begin at a time, absent when none is.
	Failover  Failover   `json:"failover"`
	Scheduled *Scheduled `json:"scheduled,omitempty"`
}

// MustAcknowledge says who must have a commit on disk before it returns.
type MustAcknowledge struct {
	Voters   []string `json:"voters"` // names, the primary first
	Needed   int      `json:"needed"`
	Sentence string   `json:"sentence"`
}

// Level is a short word for how safe the data is right now.
type Level string

// The levels, best first.
const (
	LevelSafe        Level = "safe"        // any one node may be lost
	LevelDegraded    Level = "degraded"    // nothing is lost with one node, but there is no spare, or commits do not wait
	LevelUnprotected Level = "unprotected" // the data is on one node only
	LevelStopped     Level = "stopped"     // commits wait or cannot begin; what was acknowledged is kept
)

// Safe answers whether the data is safe right now.
type Safe struct {
	Level    Level  `json:"level"`
	Rule     string `json:"rule"` // stable id of the rule that made the sentence
	Sentence string `json:"sentence"`
}

// Incident is a standing condition that an operator should know of.
type Incident struct {
	Key      string    `json:"key"`
	Node     string    `json:"node,omitempty"`
	Severity string    `json:"severity"`
	Text     string    `json:"text"`
	Since    time.Time `json:"since,omitzero"`
}

// Build makes the status. The same input gives the same status.
func Build(in Input) Status {
	if in.Stale <= 0 {
		in.Stale = DefaultStale
	}
	s := newSituation(in)
	st := Status{
		At: in.Now.Round(0), Node: in.Self.Node, Version: in.Self.Version,
		Group: s.group(), Nodes: s.nodes(), Incidents: s.incidents(),
		Backups: s.backups(),
	}
	return st
}

// situation is the input with the members and their reports put together.
type situation struct {
	in      Input
	members []member // in the order of Status.Nodes
	primary *member  // elected one; nil while there is none
	voters  []*member
	needed  int
}

// member is a node with the newest report of it.
type member struct {
	facts.Member
	report   decide.Report
	presence Presence
	age      time.Duration // of the report; 0 for this node
	foreign  bool          // the name answers with another store id

	otherLedger bool // it answers as a member of another ledger
}

func (m *member) fresh() bool { return m.presence == PresenceSelf || m.presence == PresenceHeard }

func newSituation(in Input) *situation {
	s := &situation{in: in}
	for _, m := range in.State.Members {
		s.members = append(s.members, s.meet(m))
	}
	if _, ok := in.State.MemberByName(in.Self.Node); !ok && in.Self.Node != "" {
		s.members = append(s.members, member{
			Member:   facts.Member{Name: in.Self.Node, Store: in.Self.Store, Kind: facts.Kind(in.Self.Kind)},
			report:   in.Self,
			presence: PresenceSelf,
		})
	}
	p := in.State.Primary
	slices.SortFunc(s.members, func(a, b member) int {
		return cmp.Or(cmp.Compare(rank(a, p.Store), rank(b, p.Store)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Store, b.Store))
	})
	for i := range s.members {
		m := &s.members[i]
		if p.Store != "" && m.Store == p.Store {
			s.primary = m
		}
		if in.State.IsVoter(m.Store) {
			s.voters = append(s.voters, m)
		}
	}
	if n := len(in.State.Voters.Stores); n > 0 {
		s.needed = n/2 + 1
	}
	return s
}

func rank(m member, primary string) int {
	switch {
	case m.Store == primary && primary != "":
		return 0
	case m.Kind != facts.KindWitness:
		return 1
	default:
		return 2
	}
}

// meet finds the report of a member.
func (s *situation) meet(fm facts.Member) member {
	m := member{Member: fm, presence: PresenceNever}
	if fm.Name == s.in.Self.Node {
		m.report, m.presence = s.in.Self, PresenceSelf
	} else if h, ok := s.in.Heard[fm.Name]; ok {
		m.report, m.age = h.Report, max(s.in.Now.Sub(h.At), 0)
		m.presence = PresenceHeard
		if m.age >= s.in.Stale {
			m.presence = PresenceSilent
		}
	}
	if m.report.Store != "" && m.report.Store != fm.Store {
		// Another store under a known name is no member: what it reports
		// must not be shown as the member's.
		m.report, m.presence, m.foreign = decide.Report{}, PresenceNever, true
	}
	if own := s.in.State.Group.LedgerID; own != "" && m.report.Ledger != "" && m.report.Ledger != own {
		// It left this group for one that was formed anew, or was left out of one.
		m.report, m.presence, m.otherLedger = decide.Report{}, PresenceNever, true
	}
	return m
}

func (s *situation) group() Group {
	st := s.in.State
	g := Group{
		Name: st.Group.Name, ID: st.Group.ID, Epoch: st.Primary.Epoch, Phase: st.Primary.Phase,
		Timeline: st.Primary.Timeline, Durability: string(st.Policy.Durability), Committed: s.committed(),
		LedgerLeader: s.in.LedgerLeader, Paused: st.Policy.PauseStands(s.in.Now), Protected: s.protected(),
	}
	if g.Phase == "" {
		g.Phase = facts.PhaseNone
	}
	if g.Timeline == 0 {
		g.Timeline = st.Lineage.Last().Timeline
	}
	if s.primary != nil {
		g.Primary = s.primary.Name
	}
	g.MustAcknowledge = s.mustAcknowledge()
	g.Safe = s.safe()
	g.Failover, g.Scheduled = s.failover(), s.scheduled()
	return g
}

// committed is the highest committed LSN of the newest epoch anyone reported.
// Within an epoch it never falls; across epochs it may, to the fork.
func (s *situation) committed() pos.LSN {
	var best pos.Pos
	for i := range s.members {
		r := s.members[i].report
		if p := (pos.Pos{Epoch: r.Epoch, LSN: r.Committed}); r.Committed > 0 && best.Less(p) {
			best = p
		}
	}
	return best.LSN
}

// spares are the seeded data nodes other than the primary.
func (s *situation) spares() []*member {
	var out []*member
	for i := range s.members {
		if m := &s.members[i]; m.Kind == facts.KindData && m.Seeded && m != s.primary {
			out = append(out, m)
		}
	}
	return out
}

func (s *situation) protected() bool { return len(s.spares()) > 0 && len(s.voters) > 1 }

func (s *situation) incidents() []Incident {
	out := []Incident{}
	for _, i := range s.in.State.Incidents {
		if i.Until.IsZero() {
			out = append(out, Incident{Key: i.Key, Node: i.Node, Severity: i.Severity, Text: i.Text, Since: i.Since})
		}
	}
	for i := range s.members {
		m := &s.members[i]
		for key, text := range m.report.Problems {
			// The ledger keeps a node's complaint under the node's name.
			same := func(x Incident) bool { return x.Node == m.Name && (x.Key == key || x.Key == m.Name+"/"+key) }
			if m.fresh() && !slices.ContainsFunc(out, same) {
				out = append(out, Incident{Key: key, Node: m.Name, Severity: decide.Severity(key), Text: text})
			}
		}
		if m.foreign {
			out = append(out, Incident{
				Key: "another-store", Node: m.Name, Severity: facts.SeverityError,
				Text: m.Name + " answers with another store id: it lost its state and must join again as a new member.",
			})
		}
	}
	slices.SortFunc(out, func(a, b Incident) int {
		return cmp.Or(cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Key, b.Key))
	})
	return out
}
