package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// raftForget removes ledger servers that the facts do not know: a removal is
// recorded in the facts first and carried out here, also after a crash between
// the two. A server that is being added is known by its fresh report.
func raftForget(o Observation) ([]Action, string) {
	if !o.State.Founded() {
		return nil, ""
	}
	for _, srv := range o.Raft {
		if _, member := o.State.Members[srv.Store]; member || srv.Store == o.SelfStore {
			continue
		}
		if _, retired := o.State.Retired[srv.Store]; !retired {
			if _, asks := o.fresh(srv.Store); asks {
				continue
			}
		}
		return []Action{{RaftRemove: srv.Store}}, fmt.Sprintf("ledger server %s is no member", srv.Store)
	}
	return nil, ""
}

// raftRestore adds members that the ledger's servers lack: a member is added to
// Raft first and to the facts second, so one that is missing was lost there.
func raftRestore(o Observation) ([]Action, string) {
	for _, s := range sortedKeys(o.State.Members) {
		m := o.State.Members[s]
		if slices.ContainsFunc(o.Raft, func(r RaftServer) bool { return r.Store == s && (r.Voter || !m.LedgerVoter) }) {
			continue
		}
		return []Action{{RaftAdd: &RaftServer{Store: s, Address: m.Address, Voter: m.LedgerVoter}}},
			fmt.Sprintf("%s is a member, but the ledger's servers lack it", m.Name)
	}
	return nil, ""
}

// applicants are reports of stores that are no members, oldest name first.
func applicants(o Observation) []Report {
	var out []Report
	for _, s := range o.stores() {
		if _, member := o.State.Members[s]; member {
			continue
		}
		if _, gone := o.State.Retired[s]; gone {
			continue
		}
		if rep, ok := o.fresh(s); ok && rep.Address != "" && (rep.Kind == string(facts.KindData) || rep.Kind == string(facts.KindWitness)) {
			out = append(out, rep)
		}
	}
	slices.SortFunc(out, func(a, b Report) int { return strings.Compare(a.Node+a.Store, b.Node+b.Store) })
	return out
}

// memberReplace retires the store that a node no longer has. A node that lost
// its promises must not count as the one that made them.
func memberReplace(o Observation) ([]Action, string) {
	if !o.State.Founded() {
		return nil, ""
	}
	for _, rep := range applicants(o) {
		old, known := o.State.MemberByName(rep.Node)
		if !known {
			continue
		}
		if _, alive := o.fresh(old.Store); alive {
			continue // two daemons under one name; the one that is a member stays
		}
		if old.Store == o.State.Primary.Store && o.State.Primary.Phase != facts.PhaseFencing {
			continue
		}
		why := fmt.Sprintf("%s came back with store %s instead of %s", rep.Node, rep.Store, old.Store)
		if prop := o.State.Voters.Proposed; prop != nil && prop.Store == old.Store {
			return []Action{command(facts.Command{Kind: facts.CmdWithdrawVoter, WithdrawVoter: &facts.WithdrawVoter{}})}, why
		}
		if o.State.IsVoter(old.Store) {
			v := o.State.Voters
			if v.Confirmed != v.Version || v.Proposed != nil || len(v.Stores) == 1 {
				continue // one change at a time, and never the last vote
			}
			return []Action{command(facts.Command{Kind: facts.CmdDropVoter, DropVoter: &facts.DropVoter{Store: old.Store}})}, why
		}
		return []Action{command(facts.Command{Kind: facts.CmdRemoveMember,
			RemoveMember: &facts.RemoveMember{Store: old.Store, Expect: o.State.MembersVersion}})}, why
	}
	return nil, ""
}

// memberAdd makes an applicant a ledger observer and then a member without
// votes. Its certificate has already proved that it belongs to the group.
func memberAdd(o Observation) ([]Action, string) {
	if !o.State.Founded() {
		return nil, ""
	}
	for _, rep := range applicants(o) {
		if _, known := o.State.MemberByName(rep.Node); known {
			continue
		}
		m := facts.Member{Name: rep.Node, Store: rep.Store, Kind: facts.Kind(rep.Kind), Address: rep.Address, HTTP: rep.HTTP}
		return []Action{
			{RaftAdd: &RaftServer{Store: rep.Store, Address: rep.Address}},
			command(facts.Command{Kind: facts.CmdAddMember, AddMember: &facts.AddMember{Member: m, Expect: o.State.MembersVersion}}),
		}, fmt.Sprintf("%s asks to join", rep.Node)
	}
	return nil, ""
}

func memberAddress(o Observation) ([]Action, string) {
	for _, s := range o.stores() {
		m, ok := o.State.Members[s]
		rep, alive := o.fresh(s)
		if !ok || !alive || rep.Address == "" || (rep.Address == m.Address && rep.HTTP == m.HTTP) {
			continue
		}
		return []Action{
			{RaftAdd: &RaftServer{Store: s, Address: rep.Address, Voter: m.LedgerVoter}},
			command(facts.Command{Kind: facts.CmdUpdateMember, UpdateMember: &facts.UpdateMember{Store: s, Address: rep.Address, HTTP: rep.HTTP}}),
		}, fmt.Sprintf("%s is now at %s", rep.Node, rep.Address)
	}
	return nil, ""
}

// steady tells whether the voter set may change: a primary is open and counts
// by the present set.
func steady(o Observation) bool {
	return o.State.Primary.Phase == facts.PhaseOpened && o.State.Voters.Confirmed == o.State.Voters.Version
}

func voterWithdraw(o Observation) ([]Action, string) {
	p := o.State.Voters.Proposed
	if p == nil {
		return nil, ""
	}
	if h, ok := o.Reports[p.Store]; ok && o.Now.Sub(h.At) < forgetProposal {
		return nil, ""
	}
	return []Action{command(facts.Command{Kind: facts.CmdWithdrawVoter, WithdrawVoter: &facts.WithdrawVoter{}})},
		fmt.Sprintf("%s fell silent before it became a voter", o.name(p.Store))
}

func voterAdmit(o Observation) ([]Action, string) {
	v := o.State.Voters
	if v.Proposed == nil || !steady(o) {
		return nil, ""
	}
	l, ok := o.link(o.name(v.Proposed.Store))
	if !ok || l.Acked < v.Proposed.At {
		return nil, ""
	}
	return []Action{command(facts.Command{Kind: facts.CmdAdmitVoter,
			AdmitVoter: &facts.AdmitVoter{Store: v.Proposed.Store, Acked: l.Acked, VotersVersion: v.Version}})},
		fmt.Sprintf("%s holds the log up to %s", o.name(v.Proposed.Store), l.Acked)
}

func voterPropose(o Observation) ([]Action, string) {
	if !steady(o) || o.State.Voters.Proposed != nil || len(o.State.Voters.Stores) >= MaxVoters {
		return nil, ""
	}
	rep, ok := o.fresh(o.State.Primary.Store)
	if !ok || rep.Epoch != o.State.Primary.Epoch {
		return nil, ""
	}
	for _, s := range sortedKeys(o.State.Members) {
		m := o.State.Members[s]
		if _, alive := o.fresh(s); !alive || o.State.IsVoter(s) || o.State.Policy.Of(m.Name).NoVote {
			continue
		}
		l, ok := o.link(m.Name)
		if !ok || l.State != "streaming" || rep.Received.Sub(l.Acked) > closeEnough {
			continue
		}
		if own := o.Reports[s].Report.Spool.From; own > rep.Committed {
			continue // what it lacks is not committed yet
		}
		at := max(rep.Committed, pos.LSN(1))
		return []Action{command(facts.Command{Kind: facts.CmdProposeVoter, ProposeVoter: &facts.ProposeVoter{Store: s, Committed: at}})},
			fmt.Sprintf("%s streams and is %d bytes behind", m.Name, rep.Received.Sub(l.Acked))
	}
	return nil, ""
}

// ledgerVote keeps the ledger's voters those of the WAL, from three on: with
// two, one of which may be lost, the ledger stays with its founder.
func ledgerVote(o Observation) ([]Action, string) {
	raft := map[string]RaftServer{}
	for _, r := range o.Raft {
		raft[r.Store] = r
	}
	for _, s := range sortedKeys(o.State.Members) {
		m := o.State.Members[s]
		srv, inRaft := raft[s]
		switch {
		case inRaft && srv.Voter && !m.LedgerVoter:
			return []Action{command(facts.Command{Kind: facts.CmdSetLedgerVote, SetLedgerVote: &facts.SetLedgerVote{Store: s, Voter: true}})},
				fmt.Sprintf("%s votes in the ledger", m.Name)
		case m.LedgerVoter || !o.State.IsVoter(s) || len(o.State.Voters.Stores) < 3:
			continue
		}
		if _, alive := o.fresh(s); !alive {
			continue
		}
		return []Action{
			{RaftAdd: &RaftServer{Store: s, Address: m.Address, Voter: true}},
			command(facts.Command{Kind: facts.CmdSetLedgerVote, SetLedgerVote: &facts.SetLedgerVote{Store: s, Voter: true}}),
		}, fmt.Sprintf("%s votes on the log, so it votes in the ledger", m.Name)
	}
	return nil, ""
}

// voterDrop takes the WAL vote of a node that the policy gives none. The
// primary keeps its own: it counts itself.
func voterDrop(o Observation) ([]Action, string) {
	v := o.State.Voters
	if !steady(o) || v.Proposed != nil || len(v.Stores) == 1 || o.State.Order != nil {
		return nil, ""
	}
	for _, s := range v.Stores {
		if !o.State.Policy.Of(o.name(s)).NoVote || s == o.State.Primary.Store || !majorityWithout(o, s) {
			continue
		}
		return []Action{command(facts.Command{Kind: facts.CmdDropVoter, DropVoter: &facts.DropVoter{Store: s}})},
			fmt.Sprintf("the policy gives %s no vote", o.name(s))
	}
	return nil, ""
}

// heardJustNow is how old a report may be to count for taking a vote: three
// reports long. Nothing is lost by taking it later.
const heardJustNow = 300 * time.Millisecond

// majorityWithout tells whether the primary and a majority of the voters are
// heard when one of them is left out. A vote taken while the primary is lost
// could be the one with which the group elects another.
func majorityWithout(o Observation, without string) bool {
	p := o.State.Primary
	if rep, ok := o.fresh(p.Store); !ok || rep.Epoch != p.Epoch || o.Now.Sub(o.Reports[p.Store].At) > heardJustNow {
		return false
	}
	heard, left := 0, 0
	for _, s := range o.State.Voters.Stores {
		if s == without {
			continue
		}
		left++
		if _, ok := o.fresh(s); ok {
			heard++
		}
	}
	return heard > left/2
}

// ledgerUnvote takes the ledger vote of a node whose WAL vote was taken: a
// group of three or more has the same voters for both.
func ledgerUnvote(o Observation) ([]Action, string) {
	if !steady(o) || len(o.State.Members) < 3 {
		return nil, ""
	}
	others := 0
	for _, m := range o.State.Members {
		if m.LedgerVoter && o.State.IsVoter(m.Store) {
			others++
		}
	}
	for _, s := range sortedKeys(o.State.Members) {
		m := o.State.Members[s]
		if !m.LedgerVoter || o.State.IsVoter(s) || !o.State.Policy.Of(m.Name).NoVote || others == 0 {
			continue
		}
		why := fmt.Sprintf("the policy gives %s no vote", m.Name)
		if s == o.SelfStore {
			for _, t := range o.State.Voters.Stores {
				if _, alive := o.fresh(t); alive && o.State.Members[t].LedgerVoter {
					return []Action{{Transfer: t}}, why
				}
			}
			continue
		}
		return []Action{
			{RaftAdd: &RaftServer{Store: s, Address: m.Address, Voter: false}},
			command(facts.Command{Kind: facts.CmdSetLedgerVote, SetLedgerVote: &facts.SetLedgerVote{Store: s, Voter: false}}),
		}, why
	}
	return nil, ""
}

// Advice is the prefix of the keys of problems that endanger nothing that is
// acknowledged now, but that an operator should mend.
const Advice = "advice-"

// Severity is that of a node's problem.
func Severity(key string) string {
	if strings.HasPrefix(key, Advice) {
		return facts.SeverityWarning
	}
	return facts.SeverityError
}

// incidentKey is the ledger's key of a node's own complaint.
func incidentKey(node, key string) string { return node + "/" + key }

func incidentRaise(o Observation) ([]Action, string) {
	for _, s := range o.stores() {
		rep, alive := o.fresh(s)
		if _, member := o.State.Members[s]; !member || !alive {
			continue
		}
		for _, key := range sortedKeys(rep.Problems) {
			text := rep.Problems[key]
			inc, had := o.State.Incidents[incidentKey(rep.Node, key)]
			if had && inc.Until.IsZero() {
				continue // numbers in the text move; one entry per complaint
			}
			return []Action{command(facts.Command{Kind: facts.CmdRaiseIncident, RaiseIncident: &facts.RaiseIncident{Incident: facts.Incident{
				Key: incidentKey(rep.Node, key), Node: rep.Node, Severity: Severity(key), Text: text}}})}, text
		}
	}
	return nil, ""
}

func incidentClear(o Observation) ([]Action, string) {
	for _, key := range sortedKeys(o.State.Incidents) {
		inc := o.State.Incidents[key]
		if !inc.Until.IsZero() || inc.Node == "" {
			continue
		}
		m, ok := o.State.MemberByName(inc.Node)
		if !ok {
			continue
		}
		rep, alive := o.fresh(m.Store)
		if !alive {
			continue
		}
		if _, still := rep.Problems[strings.TrimPrefix(key, inc.Node+"/")]; still {
			continue
		}
		return []Action{command(facts.Command{Kind: facts.CmdClearIncident, ClearIncident: &facts.ClearIncident{Key: key}})},
			fmt.Sprintf("%s no longer says: %s", inc.Node, inc.Text)
	}
	return nil, ""
}
