// Package script plays scenarios of a group through the rules of
// failover/decide: a text file says who hears whom and what nodes report, time
// passes, and what the rules decide, until they come to rest, is compared with
// what stands in the file. README.md has the language.
package script

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/failover/decide"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// end is where all logs end unless the script says otherwise.
const end = pos.LSN(5000)

// node is one node as the script describes it.
type node struct {
	name   string
	store  string
	report decide.Report // what it says of itself, besides what it hears
	hears  map[string]*hearing
	began  time.Time // since when its daemon has listened
}

// hearing is what one node hears of another.
type hearing struct {
	at     time.Time // of the newest report
	never  bool
	silent bool // nothing comes while time passes
	gone   bool
	times  int
	during time.Duration
	clock  time.Duration
}

// group is the observation that a script builds.
type group struct {
	now    time.Time
	nodes  []*node
	leader *node
	state  facts.State
	raft   []decide.RaftServer
	moved  time.Time // when leadership was last handed on
	seen   pos.Epoch
	since  time.Time // when the leader first saw that epoch
	left   map[string]time.Time
	orders int
}

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func (g *group) find(name string) (*node, error) {
	for _, n := range g.nodes {
		if n.name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("no node %q", name)
}

// some are the nodes of the given names, or all others when none are given.
func (g *group) some(names []string, but *node) ([]*node, error) {
	var out []*node
	if len(names) == 0 {
		for _, n := range g.nodes {
			if n != but {
				out = append(out, n)
			}
		}
		return out, nil
	}
	for _, name := range names {
		n, err := g.find(name)
		if err != nil {
			return nil, err
		}
		out = append(out, n)
	}
	return out, nil
}

// do applies a command that may not be refused.
func (g *group) do(c facts.Command) error {
	c.At = g.now
	s, out := facts.Apply(g.state, c)
	if out.Refused != "" {
		return fmt.Errorf("%s: %s", out.Code, out.Refused)
	}
	g.state = s
	g.notice()
	return nil
}

// notice remembers when the leader first saw what has a time in the ledger.
func (g *group) notice() {
	if g.seen != g.state.Primary.Epoch {
		g.seen, g.since = g.state.Primary.Epoch, g.now
	}
	for s := range g.state.Leaving {
		if _, ok := g.left[s]; !ok {
			g.left[s] = g.now
		}
	}
}

// found makes a group of the given names, all of them voters, open on the
// first. A name that begins with "witness" is a witness's.
func (g *group) found(names []string) error {
	if len(names) == 0 {
		return errors.New("a group needs nodes")
	}
	*g = group{now: start, moved: start.Add(-time.Hour), left: map[string]time.Time{}}
	for i, name := range names {
		kind := facts.KindData
		if strings.HasPrefix(name, "witness") {
			kind = facts.KindWitness
		}
		n := &node{name: name, store: "s-" + name, hears: map[string]*hearing{}, began: start.Add(-time.Hour)}
		g.nodes = append(g.nodes, n)
		m := facts.Member{Name: name, Store: n.store, Kind: kind, Address: name + ":1", HTTP: name + ":2"}
		n.report = decide.Report{Node: name, Store: n.store, Kind: string(kind), Address: m.Address, HTTP: m.HTTP,
			Received: end, Durable: end, Applied: end, Committed: end, Spool: decide.Spool{From: 1, End: end}}
		// Of a pair one keeps the ledger.
		if err := g.join(n, m, i == 0 || len(names) > 2); err != nil {
			return err
		}
	}
	for _, n := range g.nodes {
		for _, o := range g.nodes {
			if o != n {
				n.hears[o.name] = &hearing{at: g.now, clock: time.Hour}
			}
		}
		g.settle(n)
	}
	g.leader = g.nodes[len(g.nodes)-1]
	if len(g.nodes) == 2 {
		g.leader = g.nodes[0]
	}
	return nil
}

// settle makes a node report what the ledger says it is.
func (g *group) settle(n *node) {
	r, p := &n.report, g.state.Primary
	r.Epoch = p.Epoch
	switch {
	case r.Kind == string(facts.KindWitness):
		r.Role, r.Server.State = decide.RoleWitness, decide.ServerAbsent
	case p.Store == n.store:
		r.Role, r.Server.State, r.Server.StartedEpoch = decide.RolePrimary, decide.ServerOpen, p.Epoch
	default:
		r.Role, r.Server.State, r.Server.Streaming = decide.RoleStandby, decide.ServerReplica, true
	}
}

// join makes n a member and a voter; the first one founds the group.
func (g *group) join(n *node, m facts.Member, vote bool) error {
	first := len(g.nodes) == 1
	var cs []facts.Command
	add := func(c facts.Command) { cs = append(cs, c) }
	if first {
		add(facts.Command{Found: &facts.Found{Group: facts.Group{ID: "g", Name: "shop", LedgerID: "l", SystemID: 1, PGMajor: 15, SegSize: 16 << 20}, Member: m}})
		add(facts.Command{BeginEpoch: &facts.BeginEpoch{Cause: "founding", Change: facts.ChangeFounding}})
	} else {
		add(facts.Command{AddMember: &facts.AddMember{Member: m, Expect: g.state.MembersVersion}})
		add(facts.Command{ProposeVoter: &facts.ProposeVoter{Store: n.store, Committed: end}})
		add(facts.Command{AdmitVoter: &facts.AdmitVoter{Store: n.store, Acked: end, VotersVersion: g.state.Voters.Version}})
		add(facts.Command{ConfirmVoters: &facts.ConfirmVoters{Version: g.state.Voters.Version + 1, Epoch: g.state.Primary.Epoch}})
		if vote {
			add(facts.Command{SetLedgerVote: &facts.SetLedgerVote{Store: n.store, Voter: true}})
		}
		if m.Kind == facts.KindData {
			add(facts.Command{MarkSeeded: &facts.MarkSeeded{Store: n.store, Seeded: true}})
		}
	}
	for _, c := range cs {
		if c.BeginEpoch != nil {
			c.BeginEpoch.Expect = g.state.Primary.Version
		}
		if err := g.do(c); err != nil {
			return err
		}
	}
	g.raft = append(g.raft, decide.RaftServer{Store: n.store, Address: m.Address, Voter: vote})
	if !first {
		return nil
	}
	if err := g.fence(n, end); err != nil {
		return err
	}
	if err := g.do(facts.Command{Assign: &facts.Assign{Expect: g.state.Primary.Version, Epoch: g.state.Primary.Epoch, Store: n.store}}); err != nil {
		return err
	}
	return g.opens(n)
}

func (g *group) fence(n *node, at pos.LSN) error {
	return g.do(facts.Command{ReportFence: &facts.ReportFence{FenceReport: facts.FenceReport{Store: n.store,
		Epoch: g.state.Primary.Epoch, Voters: g.state.Voters.Version, Lineage: g.state.Lineage, LSN: at, Timeline: 1}}})
}

// opens lets the assigned node start and open.
func (g *group) opens(n *node) error {
	p := g.state.Primary
	if err := g.do(facts.Command{Starting: &facts.Starting{Epoch: p.Epoch, Store: n.store, Timeline: g.state.NextTimeline(), End: p.Elected.LSN}}); err != nil {
		return err
	}
	if err := g.do(facts.Command{Opened: &facts.Opened{Epoch: p.Epoch, Store: n.store, LSN: p.Elected.LSN}}); err != nil {
		return err
	}
	for _, o := range g.nodes {
		g.settle(o)
	}
	return nil
}

// pass lets time pass: who is not silent goes on to be heard.
func (g *group) pass(d time.Duration) {
	g.now = g.now.Add(d)
	for _, n := range g.nodes {
		for _, h := range n.hears {
			if !h.silent {
				h.at = g.now
			}
		}
		if n.report.Server.Failing != "" {
			n.report.Server.FailingFor += d
		}
	}
}

// observe is what the leader sees.
func (g *group) observe() decide.Observation {
	o := decide.Observation{Now: g.now, SelfStore: g.leader.store, State: g.state, Raft: g.raft, LastTransfer: g.moved,
		Began: g.leader.began, EpochSeen: g.since, LeavingSeen: g.left, Reports: map[string]decide.Heard{}}
	for _, n := range g.nodes {
		h := g.leader.hears[n.name]
		if n == g.leader {
			h = &hearing{at: g.now}
		}
		if !h.never {
			o.Reports[n.store] = decide.Heard{Report: g.says(n), At: h.at, Gone: h.gone}
		}
	}
	return o
}

// says is the report of a node, with what it hears.
func (g *group) says(n *node) decide.Report {
	r := n.report
	for _, o := range g.nodes {
		if o == n {
			continue
		}
		h := n.hears[o.name]
		e := decide.Hears{Node: o.name, Store: o.store, Never: h.never, Ago: g.now.Sub(h.at), Gone: h.gone, Refusals: h.times, RefusedFor: h.during, Clock: h.clock}
		if h.never {
			e.Ago = g.now.Sub(n.began)
		}
		r.Hears = append(r.Hears, e)
		if r.Role == decide.RolePrimary {
			l := decide.Link{Peer: o.name, State: "streaming", Acked: o.report.Durable, Applied: o.report.Applied}
			if h.silent {
				l.State, l.Since = "connecting", h.at
			}
			r.Links = append(r.Links, l)
		}
	}
	slices.SortFunc(r.Hears, func(a, b decide.Hears) int { return strings.Compare(a.Node, b.Node) })
	return r
}
