package decide

import (
	"fmt"

	"understudy/ledger/facts"
)

// unheardHalf is the node of a pair that went on alone from which nothing is
// heard: it may have been promoted by force, so the other half does not open
// again by itself. Empty when there is nobody to ask, or the operator said so.
func unheardHalf(o Observation) string {
	if !o.State.Pair() || len(o.State.Voters.Stores) != 1 || o.State.Primary.Previous == "" {
		return ""
	}
	if ord := o.State.Order; ord != nil && ord.Force {
		return ""
	}
	for _, s := range sortedKeys(o.State.Members) {
		if o.State.IsVoter(s) || !o.State.Members[s].Seeded {
			continue
		}
		if _, alive := o.fresh(s); !alive {
			return o.name(s)
		}
	}
	return ""
}

// pairAlone takes the WAL vote of the lost standby of a pair, so that the
// primary may go on alone. The primary holds the ledger's only vote, so it is
// the one that decides, and it decides about itself; the ledger has the fact
// before the first commit is acknowledged without the other host.
func pairAlone(o Observation) ([]Action, string) {
	p, v := o.State.Primary, o.State.Voters
	if !o.State.Pair() || p.Store != o.SelfStore || !steady(o) || len(v.Stores) != 2 || v.Proposed != nil || o.State.Order != nil {
		return nil, ""
	}
	after := o.State.Policy.PairAloneAfter
	if o.Now.Sub(p.OpenedAt) < after {
		return nil, ""
	}
	for _, s := range v.Stores {
		if s == p.Store {
			continue
		}
		l, ok := o.link(o.name(s))
		if !ok || l.State == "streaming" || l.State == "catching up" || o.Now.Sub(l.Since) < after {
			return nil, ""
		}
		if h, heard := o.Reports[s]; heard && o.Now.Sub(h.At) < after && l.State != "refused" {
			return nil, "" // its daemon answers: the stream will come back
		}
		why := fmt.Sprintf("%s has been without %s for %s and goes on alone", p.Node, o.name(s), after)
		return []Action{command(facts.Command{Kind: facts.CmdDropVoter, DropVoter: &facts.DropVoter{Store: s}})}, why
	}
	return nil, ""
}

// aloneKey is the incident of a pair whose primary goes on alone.
const aloneKey = "alone"

// pairIncident says for as long as it is so that commits are on one host only.
// A standby that streams is about to get its vote.
func pairIncident(o Observation) ([]Action, string) {
	p, v := o.State.Primary, o.State.Voters
	inc, standing := o.State.Incidents[aloneKey]
	standing = standing && inc.Until.IsZero()
	if p.Phase != facts.PhaseOpened {
		return nil, ""
	}
	if standing && len(v.Stores) > 1 {
		return []Action{command(facts.Command{Kind: facts.CmdClearIncident, ClearIncident: &facts.ClearIncident{Key: aloneKey}})}, "commits are on two hosts again"
	}
	if standing || !o.State.Pair() || len(v.Stores) != 1 {
		return nil, ""
	}
	if _, heard := o.fresh(p.Store); !heard {
		return nil, ""
	}
	for _, s := range sortedKeys(o.State.Members) {
		if l, _ := o.link(o.name(s)); s == p.Store || !o.State.Members[s].Seeded || l.State == "streaming" {
			continue
		}
		text := fmt.Sprintf("%s goes on alone, without %s: commits are on %s only and are lost with it.", p.Node, o.name(s), p.Node)
		return []Action{command(facts.Command{Kind: facts.CmdRaiseIncident, RaiseIncident: &facts.RaiseIncident{
			Incident: facts.Incident{Key: aloneKey, Severity: facts.SeverityError, Text: text}}})}, text
	}
	return nil, ""
}

// settledPair tells whether the group is a pair and not one of three that is
// just replacing a node: Raft knows no server that is no member, and nobody
// asks to join. A vote that is taken meanwhile could be one too many.
func settledPair(o Observation) bool {
	if !o.State.Pair() || len(applicants(o)) > 0 {
		return false
	}
	for _, srv := range o.Raft {
		if _, member := o.State.Members[srv.Store]; !member {
			return false
		}
	}
	return true
}

// pairVote moves the ledger's only vote between Assign and the start: the new
// primary gets one, then the other gives its own up, so that neither half of a
// pair can lose the ledger by losing the host that is not primary. It also does
// so when a group has become a pair under an open primary.
func pairVote(o Observation) ([]Action, string) {
	p := o.State.Primary
	left := p.Phase == facts.PhaseOpened && o.State.Pair() // of three, or of a vote half moved
	if p.Phase != facts.PhaseAssigned && !left || len(o.State.Voters.Stores) > 2 || !settledPair(o) {
		return nil, ""
	}
	to, ok := o.State.Members[p.Store]
	if !ok {
		return nil, ""
	}
	n := 0
	for _, m := range o.State.Members {
		if m.LedgerVoter {
			n++
		}
	}
	if !to.LedgerVoter {
		return []Action{
			{RaftAdd: &RaftServer{Store: to.Store, Address: to.Address, Voter: true}},
			command(facts.Command{Kind: facts.CmdSetLedgerVote, SetLedgerVote: &facts.SetLedgerVote{Store: to.Store, Voter: true}}),
		}, fmt.Sprintf("%s is to be primary of a pair, so it keeps the ledger", to.Name)
	}
	if n != 2 {
		return nil, ""
	}
	for _, s := range sortedKeys(o.State.Members) {
		m := o.State.Members[s]
		if s == to.Store || !m.LedgerVoter {
			continue
		}
		if s == o.SelfStore {
			// A leader does not take its own vote: the other one leads first.
			return []Action{{Transfer: to.Store}}, fmt.Sprintf("%s leads the ledger of a pair whose primary it is to be", to.Name)
		}
		return []Action{
			// Raft first: the start that the fact permits must find one vote only.
			{RaftAdd: &RaftServer{Store: s, Address: m.Address, Voter: false}},
			command(facts.Command{Kind: facts.CmdSetLedgerVote, SetLedgerVote: &facts.SetLedgerVote{Store: s, Voter: false}}),
		}, fmt.Sprintf("%s keeps the ledger alone while the group is a pair", to.Name)
	}
	return nil, ""
}
