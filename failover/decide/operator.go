package decide

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// Request is what an operator's command comes to: an order to record, or why
// not. Nothing was done yet.
type Request struct {
	Order *facts.Order // nil when refused
	From  string       // node names
	To    string
	Steps []string // what will happen, one sentence each
	// Statement is what may be lost; it must be confirmed word by word.
	Statement string
	Refused   string // one sentence: why not, and what to do
	// Reform: no majority can be asked, so the group would be formed anew by
	// the node To, without a ledger.
	Reform bool
}

func refused(format string, args ...any) Request {
	return Request{Refused: fmt.Sprintf(format, args...)}
}

const (
	// orderDeadline is how long a primary has to stop for a switchover: a
	// checkpoint while it still serves, then a fast stop.
	orderDeadline = 30 * time.Second
)

// target checks whom the operator named, or chooses when nobody was: a standby
// with a WAL vote, the one that has applied most.
func (o Observation) target(to string) (facts.Member, string) {
	if to == "" {
		if best := o.bestStandby(); best.Store != "" {
			return best, ""
		}
		return facts.Member{}, "no standby is ready to take over; start one, or wait until it is seeded and has its vote"
	}
	m, ok := o.State.MemberByName(to)
	switch {
	case !ok:
		return m, fmt.Sprintf("the group has no node %q; look at: understudy status", to)
	case m.Kind != facts.KindData:
		return m, fmt.Sprintf("%s cannot be primary: it has no PostgreSQL; name a node that has one", to)
	case m.Store == o.State.Primary.Store && o.State.Primary.Phase == facts.PhaseOpened:
		return m, fmt.Sprintf("%s is the primary already; name another node", to)
	case !m.Seeded:
		return m, fmt.Sprintf("%s cannot be primary: it has no complete base yet; wait until it is seeded", to)
	case !o.State.IsVoter(m.Store):
		return m, fmt.Sprintf("%s cannot be primary: it has no WAL vote, so it may lack what was acknowledged; wait until it has caught up and got one", to)
	}
	if _, alive := o.fresh(m.Store); !alive {
		return m, fmt.Sprintf("%s is not heard; start its daemon first", to)
	}
	return m, ""
}

// bestStandby is whom an operator means who names nobody: of those that could
// take over by themselves the one with the highest priority, then the one that
// has applied most.
func (o Observation) bestStandby() facts.Member {
	var best facts.Member
	var at pos.LSN
	able, _ := o.successors()
	for _, s := range able {
		m := o.State.Members[s]
		rep, _ := o.fresh(s)
		mine, its := o.State.Policy.Of(m.Name), o.State.Policy.Of(best.Name)
		if mine.ApplyDelay > 0 {
			continue
		}
		if best.Store == "" || mine.Priority > its.Priority || mine.Priority == its.Priority && rep.Applied > at {
			best, at = m, rep.Applied
		}
	}
	return best
}

// voices counts the WAL voters that are heard, without one of them.
func (o Observation) voices(without string) int {
	n := 0
	for _, s := range o.State.Voters.Stores {
		if _, alive := o.fresh(s); alive && s != without {
			n++
		}
	}
	return n
}

func (o Observation) majority() int { return len(o.State.Voters.Stores)/2 + 1 }

// common is what refuses any order.
func (o Observation) common() string {
	switch {
	case !o.State.Founded():
		return "this node knows of no group yet; wait until it has joined one"
	case o.State.Primary.Phase == facts.PhaseNone:
		return "the group never had a primary; wait until the first one is open"
	case o.State.Order != nil:
		return fmt.Sprintf("the %s to %s is not finished; look at: understudy history", o.State.Order.Kind, o.name(o.State.Order.To))
	}
	return ""
}

// PlanSwitchover is what a switchover to a node would do; an empty name leaves
// the choice of the node to us.
func PlanSwitchover(o Observation, to string) Request {
	if why := o.common(); why != "" {
		return refused("%s", why)
	}
	p := o.State.Primary
	rep, alive := o.fresh(p.Store)
	if p.Phase != facts.PhaseOpened || !alive || rep.Server.State != ServerOpen {
		return refused("no primary is open that could hand over; use: understudy failover --to NODE")
	}
	m, why := o.target(to)
	if why != "" {
		return refused("%s", why)
	}
	if o.voices("") < o.majority() {
		return refused("only %d of %d voters are heard, a switchover needs %d; start the others first", o.voices(""), len(o.State.Voters.Stores), o.majority())
	}
	l, linked := o.link(m.Name)
	if !linked || l.State != "streaming" {
		return refused("%s does not stream from %s now; a switchover begins only to a standby that keeps up; wait until it streams", m.Name, p.Node)
	}
	cand, _ := o.fresh(m.Store)
	if cand.Server.State != ServerReplica {
		return refused("PostgreSQL of %s is %s; a switchover needs a running standby; wait until it runs", m.Name, cand.Server.State)
	}
	limit := uint64(o.State.Policy.SwitchoverMaxLagBytes)
	applied := max(l.Applied, cand.Applied)
	if applied == 0 {
		return refused("%s has just begun to stream and has not said how far it has applied; wait a moment", m.Name)
	}
	if lag := rep.Received.Sub(min(l.Acked, applied)); lag > limit {
		return refused("%s is %d MiB behind, more than switchover_max_lag (%d MiB); wait until it has caught up", m.Name, lag>>20, limit>>20)
	}
	return Request{
		From: p.Node, To: m.Name,
		Order: &facts.Order{Kind: facts.OrderSwitchover, To: m.Store, Epoch: p.Epoch, At: o.Now, Deadline: o.Now.Add(orderDeadline)},
		Steps: []string{
			fmt.Sprintf("%s writes a checkpoint while it still serves.", p.Node),
			fmt.Sprintf("PostgreSQL of %s stops; clients are cut off.", p.Node),
			fmt.Sprintf("%s replays everything, is promoted, and lets clients in.", m.Name),
			fmt.Sprintf("%s follows %s as a standby.", p.Node, m.Name),
			fmt.Sprintf("If %s cannot take over, %s opens again.", m.Name, p.Node),
		},
	}
}

// PlanFailover is what a manual failover to a node would do. It is for a
// primary that is lost; a healthy one is replaced by force only.
func PlanFailover(o Observation, to string, force bool) Request {
	if why := o.common(); why != "" && !(force && o.State.Founded()) {
		return refused("%s", why)
	}
	if to == "" {
		return refused("name the node that shall be primary: understudy failover --to NODE")
	}
	p := o.State.Primary
	old := p.Store
	if old == "" {
		old = p.Previous
	}
	m, why := o.target(to)
	if o.leftBehind(m, old) {
		if why = ""; !force {
			why = fmt.Sprintf("%s went on alone, so %s lacks what it acknowledged since; start %s, or, if it is lost for good and switched off, use --force",
				o.name(old), m.Name, o.name(old))
		}
	}
	if why != "" {
		return refused("%s", why)
	}
	req := Request{From: o.name(old), To: m.Name}
	if ord, ok := o.State.Restoring(); ok && ord.Restore.Stage == facts.RestoreFinal {
		return o.planAfterRestore(req, m, ord, force)
	}
	if o.voices("") < o.majority() {
		return o.planReform(req, m, force)
	}
	rep, alive := o.fresh(old)
	healthy := p.Phase == facts.PhaseOpened && alive && rep.Server.State == ServerOpen
	if healthy && !force {
		return refused("%s is open and answers; use: understudy switchover --to %s (with --force its clients are cut off at once)", p.Node, m.Name)
	}
	if other := unheardHalf(o); other != "" && !force {
		return refused("%s is not heard and may have been made primary meanwhile; start it, or, if it is switched off, use --force", other)
	}
	req.Order = &facts.Order{Kind: facts.OrderFailover, To: m.Store, Epoch: p.Epoch, Force: force, At: o.Now, Deadline: o.Now.Add(orderDeadline)}
	req.Steps = []string{
		"A majority promises to take nothing more from " + o.name(old) + ".",
		fmt.Sprintf("%s copies what it lacks, replays it, is promoted, and lets clients in.", m.Name),
		fmt.Sprintf("When %s returns, what it has beyond is kept and reported, and it becomes a standby.", o.name(old)),
	}
	if m.Store == old {
		req.Steps = []string{fmt.Sprintf("%s replays what it has, and lets clients in.", m.Name)}
	}
	if force {
		req.Statement = o.forceStatement(old, m)
		req.Order.Statement = req.Statement
	}
	return req
}

// planAfterRestore is for a group whose restore is past the point of no return,
// and whose restored node is lost: only a new ledger can go on without it.
func (o Observation) planAfterRestore(req Request, m facts.Member, ord facts.Order, force bool) Request {
	restored := o.name(ord.To)
	if m.Store != o.SelfStore || m.Store == ord.To || !force {
		return refused("%s was restored to %s and goes on alone; start its daemon, or, if it is lost for good and switched off, run the command with --force on the node that shall go on without the restore", restored, ord.Restore.Target)
	}
	return o.planReform(req, m, force)
}

// leftBehind tells whether m is the half of a pair that the other half went on
// without, and that other half is not heard.
func (o Observation) leftBehind(m facts.Member, other string) bool {
	_, heard := o.fresh(other)
	_, alive := o.fresh(m.Store)
	return o.State.Pair() && m.Seeded && alive && m.Store != other && !o.State.IsVoter(m.Store) && o.State.IsVoter(other) && !heard
}

// forceStatement says what a forced failover with a majority may lose.
func (o Observation) forceStatement(old string, m facts.Member) string {
	if other := unheardHalf(o); other != "" {
		return fmt.Sprintf("%s opens although %s is not heard; I confirm that %s cannot run. If %s was made primary meanwhile, what is written to %s from now on is lost when the two meet.",
			m.Name, other, other, other, m.Name)
	}
	text := fmt.Sprintf("%s is made primary although this may not be safe. ", m.Name)
	if rep, alive := o.fresh(old); alive && rep.Server.State == ServerOpen {
		text += fmt.Sprintf("%s is open: its clients are cut off and what they wait for is not acknowledged. ", o.name(old))
	}
	return text + fmt.Sprintf("If another node holds log that %s cannot get within %s, acknowledged commits in it are lost; the loss proof will name them.", m.Name, o.State.Policy.SwitchoverCatchup)
}

// planReform is for a group whose majority cannot be asked.
func (o Observation) planReform(req Request, m facts.Member, force bool) Request {
	n, need := o.voices(""), o.majority()
	if m.Store != o.SelfStore {
		return refused("only %d of %d voters are heard, a failover needs %d; if the others are lost for good, run the command with --force on %s itself", n, len(o.State.Voters.Stores), need, m.Name)
	}
	if !force {
		return refused("only %d of %d voters are heard, a failover needs %d; start the others, or, if they are lost for good and switched off, use --force", n, len(o.State.Voters.Stores), need)
	}
	req.Reform = true
	rep := o.Reports[o.SelfStore].Report
	var others []string
	for _, s := range sortedKeys(o.State.Members) {
		if s != m.Store {
			others = append(others, o.name(s))
		}
	}
	slices.Sort(others)
	req.Statement = fmt.Sprintf("The group is formed anew with %s alone; I confirm that %s cannot run. ", m.Name, strings.Join(others, " and "))
	switch {
	case req.From == m.Name:
		req.Statement += fmt.Sprintf("%s holds all that it acknowledged; if another node was made primary meanwhile, what is written to %s from now on is lost when the two meet. ", m.Name, m.Name)
	case o.State.Pair() && !o.State.IsVoter(m.Store):
		req.Statement += fmt.Sprintf("%s went on alone: commits that it acknowledged since are lost, for %s has log up to %s only. ", req.From, m.Name, rep.Durable)
	case o.State.Pair():
		req.Statement += fmt.Sprintf("If %s lived for more than %s after %s last heard it, it may have acknowledged commits that %s does not have. ",
			req.From, o.State.Policy.PairAloneAfter, m.Name, m.Name)
	default:
		req.Statement += fmt.Sprintf("Commits that the others acknowledged beyond %s, up to which %s has log, are lost. ", rep.Durable, m.Name)
	}
	req.Statement += "Who was left out joins as new, and what it had beyond is kept there."
	req.Steps = []string{
		fmt.Sprintf("%s makes a new ledger in which it is alone.", m.Name),
		fmt.Sprintf("PostgreSQL of %s replays what it has, is promoted, and lets clients in.", m.Name),
		"The others join as new nodes when they return; their logs are never merged.",
	}
	return req
}
