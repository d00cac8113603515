package view

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
)

// Failover says what the group does by itself when its primary is lost, and
// whether it could do it now, as far as this node can see.
type Failover struct {
	Mode  facts.FailoverMode `json:"mode"` // the policy's, whether paused or not
	Ready bool               `json:"ready"`
	// Reason is the stable id of why it is not ready, "" when it is.
	Reason   string `json:"reason,omitempty"`
	Sentence string `json:"sentence"`
	// PausedUntil is zero when it is not paused, and when it is until an
	// operator resumes it.
	PausedUntil time.Time `json:"paused_until,omitzero"`
	// Candidates are the nodes of which one would become primary by itself.
	Candidates []string `json:"candidates"`
}

// The reasons for which a lost primary would not be replaced by itself.
const (
	NotFounded    = "no-group"
	NotPaused     = "paused"
	NotManual     = "manual"
	NotObserve    = "observe"
	NotChanging   = "changing"    // no primary is open that could be lost
	NotPair       = "pair"        // two hosts without a witness
	NotNoStandby  = "no-standby"  // nobody can take over
	NotNoMajority = "no-majority" // too few are heard, or the ledger has no leader
)

// Scheduled is a switchover that is to begin at a time.
type Scheduled struct {
	ID    string    `json:"id"`
	From  string    `json:"from,omitempty"` // the present primary
	To    string    `json:"to,omitempty"`   // "" leaves the choice to the group
	At    time.Time `json:"at"`
	Until time.Time `json:"until"` // it is tried until then
}

func (s *situation) scheduled() *Scheduled {
	sc := s.in.State.Scheduled
	if sc == nil {
		return nil
	}
	out := &Scheduled{ID: sc.ID, At: sc.At, Until: sc.Until}
	if sc.To != "" {
		out.To = s.in.State.NameOf(sc.To)
	}
	if s.primary != nil {
		out.From = s.primary.Name
	}
	return out
}

func (s *situation) failover() Failover {
	p := s.in.State.Policy
	f := Failover{Mode: p.Failover, Candidates: []string{}}
	if f.Mode == "" {
		f.Mode = facts.FailoverAutomatic
	}
	if p.PauseStands(s.in.Now) {
		f.PausedUntil = p.PausedUntil
	}
	for _, m := range s.standbys() {
		if s.noCandidate(m) == "" {
			f.Candidates = append(f.Candidates, m.Name)
		}
	}
	why := ""
	f.Reason, why = s.notReady(f)
	f.Ready = f.Reason == ""
	if f.Ready {
		f.Sentence = fmt.Sprintf("Ready: %s takes over by itself.", list(f.Candidates, "or"))
	} else {
		f.Sentence = fmt.Sprintf("Not ready: %s.", why)
	}
	return f
}

// notReady says why a lost primary would not be replaced by itself: first what
// was decided, then what is missing.
func (s *situation) notReady(f Failover) (reason, why string) {
	st := s.in.State
	switch p := st.Policy; {
	case !st.Founded():
		return NotFounded, "this node belongs to no group yet"
	case p.PauseStands(s.in.Now) && p.PausedUntil.IsZero():
		return NotPaused, "paused until it is resumed; switchover and failover work by command"
	case p.PauseStands(s.in.Now):
		return NotPaused, fmt.Sprintf("paused for another %s; switchover and failover work by command", span(p.PausedUntil.Sub(s.in.Now)))
	case f.Mode == facts.FailoverManual:
		return NotManual, "manual; the operator decides, with: understudy failover --to NODE"
	case f.Mode == facts.FailoverObserve:
		return NotObserve, "observe only; the group says what it would do, and does nothing"
	case s.primary == nil || s.phase() != facts.PhaseOpened || st.Order != nil:
		return NotChanging, "no primary is open, or it is handing over"
	case st.Pair():
		return NotPair, "in a pair without a witness nobody can tell a dead primary from a cut cable; the operator decides"
	case len(f.Candidates) == 0:
		return NotNoStandby, s.sayNoCandidate()
	}
	if why := s.noMajority(); why != "" {
		return NotNoMajority, why
	}
	return "", ""
}

// noCandidate says why a standby would not become primary by itself, "" when it
// could.
func (s *situation) noCandidate(m *member) string {
	l, leaving := s.in.State.Leaving[m.Store]
	switch {
	case !m.Seeded:
		return "has no complete base"
	case s.in.State.Policy.Of(m.Name).NoFailover:
		return "is kept from it (no_failover)"
	case leaving && l.Kind == facts.LeavingStopping:
		return "is stopping"
	}
	return s.cannotServe(m)
}

// cannotServe says why a seeded standby could not be primary, whoever wants it.
func (s *situation) cannotServe(m *member) string {
	srv := m.report.Server
	switch {
	case !m.fresh():
		return awayText(m)
	case srv.Failing != "":
		return "cannot serve: " + srv.Failing
	case srv.State == decide.ServerFailed && srv.Problem != "":
		return "does not follow: " + srv.Problem
	case srv.State == decide.ServerFailed:
		return "does not follow (its PostgreSQL is failed)"
	case s.in.State.Policy.Of(m.Name).NoVote:
		return "is kept out of the quorum (votes)"
	case !s.in.State.IsVoter(m.Store):
		return "has no vote, so it may lack what was acknowledged"
	}
	return ""
}

func (s *situation) sayNoCandidate() string {
	var parts []string
	for _, m := range s.standbys() {
		parts = append(parts, m.Name+" "+s.noCandidate(m))
	}
	if len(parts) == 0 {
		return "the group has no standby"
	}
	return "no standby can take over by itself: " + strings.Join(parts, "; ")
}

// noMajority says what is missing to tell that the primary is lost and to begin
// a new epoch without it.
func (s *situation) noMajority() string {
	heard := 0
	for _, v := range s.voters {
		if v != s.primary && v.fresh() {
			heard++
		}
	}
	if heard < s.needed {
		return fmt.Sprintf("without %s only %d of %d voters are heard, and %d must be", s.primary.Name, heard, len(s.voters), s.needed)
	}
	votes, alive := 0, 0
	for i := range s.members {
		if m := &s.members[i]; m.LedgerVoter {
			votes++
			if m != s.primary && m.fresh() {
				alive++
			}
		}
	}
	switch {
	case alive < votes/2+1:
		return fmt.Sprintf("without %s only %d of %d votes in the ledger are heard, and %d must be", s.primary.Name, alive, votes, votes/2+1)
	case s.in.LedgerLeader == "":
		return "the ledger has no leader now"
	}
	return ""
}

// Hears is how well one node hears another.
type Hears struct {
	Node  string  `json:"node"`
	Ago   float64 `json:"ago_seconds"`     // since the newest report; with Never, since it listens
	Gone  bool    `json:"gone,omitempty"`  // the connection has ended
	Never bool    `json:"never,omitempty"` // no report since its daemon began
	// Refusals is how often in a row the other's host refused a connection.
	Refusals int `json:"refusals,omitempty"`
}

// unheard is the age in seconds from which a node counts as not heard.
const unheard = 1.0

// Lost tells whether the other is not heard.
func (h Hears) Lost() bool { return h.Gone || h.Ago > unheard }

// hears is what a node says of the others. What it said long ago is no news.
func (s *situation) hears(m *member) []Hears {
	if !m.fresh() {
		return nil
	}
	var out []Hears
	for _, h := range m.report.Hears {
		if _, ok := s.in.State.MemberByName(h.Node); ok && h.Node != m.Name {
			out = append(out, Hears{Node: h.Node, Ago: h.Ago.Seconds(), Gone: h.Gone, Never: h.Never, Refusals: h.Refusals})
		}
	}
	slices.SortFunc(out, func(a, b Hears) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// unheardText says who is not heard by whom, "" when all are heard by all.
func unheardText(nodes []Node) string {
	by := map[string][]string{}
	for _, n := range nodes {
		for _, h := range n.Hears {
			if h.Lost() {
				by[h.Node] = append(by[h.Node], n.Name)
			}
		}
	}
	var parts []string
	for _, n := range nodes { // in their order
		if who := by[n.Name]; len(who) > 0 {
			parts = append(parts, n.Name+" by "+list(who, "and"))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "not heard: " + strings.Join(parts, "; ")
}

// kept is what the policy says of a node, in words.
func kept(n Node) string {
	var parts []string
	if n.NoFailover {
		parts = append(parts, "no failover")
	}
	if n.NoVote {
		parts = append(parts, "no vote")
	}
	if n.Priority != 0 {
		parts = append(parts, fmt.Sprintf("priority %d", n.Priority))
	}
	if n.ApplyDelay > 0 {
		text := "apply delay " + span(time.Duration(n.ApplyDelay*float64(time.Second)))
		if n.Lag != nil {
			text += fmt.Sprintf(" (%s not applied)", Size(n.Lag.ApplyBytes))
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// span is a length of time, in minutes where it is long: 1h20m, 5m, 45s.
func span(d time.Duration) string {
	unit := time.Second
	if d >= 10*time.Minute {
		unit = time.Minute
	}
	s := max(d.Round(unit), time.Second).String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
