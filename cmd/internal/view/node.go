package view

import (
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Presence says whether a node is heard from.
type Presence string

// The presences of a node.
const (
	PresenceSelf   Presence = "self"   // the node whose view this is
	PresenceHeard  Presence = "heard"  // its newest report is young enough to count
	PresenceSilent Presence = "silent" // it reported once; the values are its last ones
	PresenceNever  Presence = "never"  // no report since this daemon started
)

// Node is one member. Positions are those of its newest report and zero where
// there is none.
type Node struct {
	Name        string       `json:"name"`
	Kind        facts.Kind   `json:"kind"`
	Role        decide.Role  `json:"role"`
	Address     string       `json:"address"`
	HTTP        string       `json:"http,omitempty"`
	Presence    Presence     `json:"presence"`
	SilentFor   float64      `json:"silent_seconds,omitempty"` // age of the newest report, when silent
	Epoch       pos.Epoch    `json:"epoch"`
	Timeline    pos.Timeline `json:"timeline"`
	Received    pos.LSN      `json:"received"`
	Durable     pos.LSN      `json:"durable"`
	Applied     pos.LSN      `json:"applied"`
	Lag         *Lag         `json:"lag,omitempty"` // absent when unknown, and on the primary
	Link        Link         `json:"link"`
	WALVoter    bool         `json:"wal_voter"`
	LedgerVoter bool         `json:"ledger_voter"`
	Seeded      bool         `json:"seeded"`
	Server      Server       `json:"server"`
	Seeding     *Seeding     `json:"seeding,omitempty"`
	SpoolBytes  uint64       `json:"spool_bytes"`
	Leaving     *Leaving     `json:"leaving,omitempty"`
	Version     string       `json:"version,omitempty"`
	// What the policy says of this node alone.
	Priority   int     `json:"priority,omitempty"`
	NoFailover bool    `json:"no_failover,omitempty"`
	NoVote     bool    `json:"no_vote,omitempty"`
	ApplyDelay float64 `json:"apply_delay_seconds,omitempty"`
	// Hears is how well it hears the others; absent when it is not heard itself.
	Hears []Hears `json:"hears,omitempty"`
}

// Lag is how far a node is behind the primary's flushed log.
type Lag struct {
	Bytes      uint64  `json:"bytes"`       // not durable here
	ApplyBytes uint64  `json:"apply_bytes"` // not applied here; equal to Bytes on a witness
	Seconds    float64 `json:"seconds"`     // age of the newest byte that is durable here, 0 when nothing is missing
}

// Link is the connection between the primary and a node.
type Link struct {
	// State is "streaming", "catching up", "connecting" or "refused" by the
	// account of the primary, or of the node when the primary is not heard;
	// "down" when neither knows of a connection, "" on the primary itself.
	State   string  `json:"state"`
	RTT     float64 `json:"rtt_seconds,omitempty"`
	Problem string  `json:"problem,omitempty"`
}

// LinkStreaming is the state of a link on which new commits are acknowledged.
const LinkStreaming = "streaming"

// Server is a node's PostgreSQL.
type Server struct {
	State   decide.ServerState `json:"state"`
	Problem string             `json:"problem,omitempty"`
	// Failing is why it, or the disk below it, cannot serve although it runs; ""
	// when it can.
	Failing    string  `json:"failing,omitempty"`
	FailingFor float64 `json:"failing_seconds,omitempty"`
}

// Seeding is the progress of a base being received.
type Seeding struct {
	Step       string `json:"step"`
	DoneBytes  uint64 `json:"done_bytes"`
	TotalBytes uint64 `json:"total_bytes"`
	Percent    int    `json:"percent"` // 0 while the total is unknown
	Attempt    int    `json:"attempt"`
	Problem    string `json:"problem,omitempty"`
}

// Leaving says that a node announced that it goes away.
type Leaving struct {
	Kind  string    `json:"kind"`
	Until time.Time `json:"until"`
}

func (s *situation) nodes() []Node {
	out := make([]Node, 0, len(s.members))
	for i := range s.members {
		out = append(out, s.node(&s.members[i]))
	}
	return out
}

func (s *situation) node(m *member) Node {
	r, own := m.report, s.in.State.Policy.Of(m.Name)
	n := Node{
		Name: m.Name, Kind: m.Kind, Role: s.role(m), Address: m.Address, HTTP: m.HTTP, Presence: m.presence,
		Epoch: r.Epoch, Timeline: r.Timeline, Received: r.Received, Durable: r.Durable, Applied: r.Applied,
		Link: s.link(m), WALVoter: s.in.State.IsVoter(m.Store), LedgerVoter: m.LedgerVoter, Seeded: m.Seeded,
		Server:     Server{State: r.Server.State, Problem: r.Server.Problem, Failing: r.Server.Failing, FailingFor: r.Server.FailingFor.Seconds()},
		SpoolBytes: r.Spool.Bytes, Version: r.Version, Lag: s.lag(m), Seeding: seeding(r.Seed),
		Priority: own.Priority, NoFailover: own.NoFailover, NoVote: own.NoVote, ApplyDelay: own.ApplyDelay.Seconds(), Hears: s.hears(m),
	}
	if m.presence == PresenceSilent {
		n.SilentFor = m.age.Seconds()
	}
	if l, ok := s.in.State.Leaving[m.Store]; ok {
		n.Leaving = &Leaving{Kind: l.Kind, Until: l.Until}
	}
	return n
}

// role is what the node says; of a node that is not heard, what the ledger
// assigned.
func (s *situation) role(m *member) decide.Role {
	switch {
	case m.fresh() && m.report.Role != "":
		return m.report.Role
	case m.Kind == facts.KindWitness:
		return decide.RoleWitness
	case m == s.primary:
		return decide.RolePrimary
	case s.primary != nil:
		return decide.RoleStandby
	default:
		return decide.RoleNone
	}
}

func (s *situation) lag(m *member) *Lag {
	p := s.primary
	if p == nil || m == p || m.report.Node == "" || p.report.Node == "" {
		return nil
	}
	head := max(p.report.Durable, p.report.Committed)
	l := &Lag{Bytes: head.Sub(m.report.Durable), ApplyBytes: head.Sub(m.report.Applied)}
	k := linkOf(p.report, m.Name)
	l.Seconds = k.Delay.Seconds()
	if k.Acked != 0 && p.fresh() {
		// One node's numbers of one instant, where two reports would differ by
		// what was written between them.
		l.Bytes = head.Sub(k.Acked)
		if k.Applied != 0 {
			l.ApplyBytes = head.Sub(k.Applied)
		}
	}
	if m.Kind == facts.KindWitness {
		l.ApplyBytes = l.Bytes
	}
	if m.presence == PresenceSilent {
		l.Seconds += m.age.Seconds() // it can only have fallen further behind
	}
	return l
}

func (s *situation) link(m *member) Link {
	p := s.primary
	if m == p {
		return Link{}
	}
	if p != nil && p.fresh() {
		if l, ok := linkTo(p.report, m.Name); ok {
			return l
		}
		return Link{State: "down"}
	}
	if p != nil && m.fresh() {
		if l, ok := linkTo(m.report, p.Name); ok {
			return l
		}
	}
	return Link{State: "down"}
}

// linkOf is what a primary says of its link to a peer; zero when nothing.
func linkOf(r decide.Report, peer string) decide.Link {
	for _, l := range r.Links {
		if l.Peer == peer {
			return l
		}
	}
	return decide.Link{}
}

func linkTo(r decide.Report, peer string) (Link, bool) {
	for _, l := range r.Links {
		if l.Peer == peer {
			return Link{State: l.State, RTT: l.RTT.Seconds(), Problem: l.Problem}, true
		}
	}
	return Link{}, false
}

func seeding(s *decide.Seed) *Seeding {
	if s == nil {
		return nil
	}
	return &Seeding{
		Step: s.Step, DoneBytes: s.DoneBytes, TotalBytes: s.TotalBytes, Percent: percent(s.DoneBytes, s.TotalBytes),
		Attempt: s.Attempt, Problem: s.Problem,
	}
}

// percent rounds down, so that 100 means all; a total that was guessed too low
// stays at 99.
func percent(done, total uint64) int {
	switch {
	case total == 0:
		return 0
	case done > total:
		return 99
	default:
		return int(float64(done) / float64(total) * 100)
	}
}
