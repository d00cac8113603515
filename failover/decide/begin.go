package decide

import (
	"fmt"
	"slices"
	"time"

	"understudy/ledger/facts"
)

// stalledAfter is how long an elected node may be silent before it has opened.
// Nobody could write yet, so another epoch costs nothing but its time.
const stalledAfter = 2 * time.Second

func begin(o Observation, kind facts.ChangeKind, why string) []Action {
	return []Action{command(facts.Command{Kind: facts.CmdBeginEpoch,
		BeginEpoch: &facts.BeginEpoch{Expect: o.State.Primary.Version, Cause: why, Change: kind}})}
}

// ended tells whether the primary's own daemon says that its server has ended
// in the present epoch.
func ended(o Observation) (Report, bool) {
	rep, ok := o.fresh(o.State.Primary.Store)
	return rep, ok && !rep.Server.Ended.Less(o.State.Primary.Epoch)
}

// held tells whether the ledger names somebody who writes, or is about to.
func held(p facts.Primaryship) bool {
	return p.Store != "" && p.Phase != facts.PhaseFencing && p.Phase != facts.PhaseNone
}

// beginOrdered acts on the operator's word. A switchover begins when the
// primary has stopped; one that was recorded is authority to finish when the
// primary fell silent on the way.
func beginOrdered(o Observation) ([]Action, string) {
	p, ord := o.State.Primary, o.State.Order
	if ord == nil || ord.Attempts > 0 || ord.Epoch != p.Epoch || !held(p) || p.Store == ord.To && ord.Kind != facts.OrderRestore {
		return nil, "" // given while the epoch was fenced, it may have been followed already
	}
	rep, stopped := ended(o)
	_, alive := o.fresh(p.Store)
	_, restoring := o.State.Restoring()
	switch {
	case restoring && stopped:
		why := fmt.Sprintf("PostgreSQL of %s has stopped for the restore of the group by %s", p.Node, o.name(ord.To))
		return begin(o, facts.ChangeRestore, why), why
	case restoring && o.silent(p.Store):
		why := fmt.Sprintf("%s fell silent before it stopped for the restore of the group by %s", p.Node, o.name(ord.To))
		return begin(o, facts.ChangeRestore, why), why
	case ord.Kind == facts.OrderSwitchover && stopped:
		why := fmt.Sprintf("PostgreSQL of %s has stopped for the switchover to %s", p.Node, o.name(ord.To))
		return begin(o, facts.ChangeSwitchover, why), why
	case ord.Kind == facts.OrderSwitchover && o.silent(p.Store) && o.Now.Sub(ord.At) > stalledAfter:
		why := fmt.Sprintf("%s fell silent during the switchover to %s", p.Node, o.name(ord.To))
		return begin(o, facts.ChangeFailover, why), why
	case ord.Kind == facts.OrderFailover && (ord.Force || stopped || !alive || rep.Server.State != ServerOpen):
		why := fmt.Sprintf("the operator ordered a failover from %s to %s", p.Node, o.name(ord.To))
		return begin(o, facts.ChangeFailover, why), why
	}
	return nil, ""
}

// silent tells whether nothing was heard from a store for long, by a node that
// has listened for as long.
func (o Observation) silent(store string) bool {
	h, ok := o.Reports[store]
	return o.Now.Sub(o.Began) > stalledAfter && (!ok || o.Now.Sub(h.At) > stalledAfter)
}

func beginEnded(o Observation) ([]Action, string) {
	p := o.State.Primary
	if !held(p) {
		return nil, ""
	}
	rep, gone := ended(o)
	if !gone || p.Phase != facts.PhaseOpened && o.epochAge() < retryStart {
		return nil, ""
	}
	why := fmt.Sprintf("PostgreSQL of %s has ended", p.Node)
	if rep.Server.Problem != "" {
		why += ": " + rep.Server.Problem
	}
	acts := begin(o, facts.ChangeRestart, why)
	if rep.Server.EndedFor > 0 {
		acts[0].Command.BeginEpoch.Lost = o.Now.Add(-rep.Server.EndedFor)
	}
	return acts, why
}

func beginStalled(o Observation) ([]Action, string) {
	p := o.State.Primary
	if !held(p) || p.Phase == facts.PhaseOpened || o.epochAge() < stalledAfter {
		return nil, ""
	}
	why := fmt.Sprintf("%s fell silent before it opened epoch %s", p.Node, p.Epoch)
	switch _, alive := o.fresh(p.Store); {
	case o.silent(p.Store):
	case alive && !o.hearsMajority(p.Store):
		why = fmt.Sprintf("%s does not hear the group, and has not opened epoch %s", p.Node, p.Epoch)
	default:
		return nil, ""
	}
	return begin(o, facts.ChangeRestart, why), why
}

// orderOver ends an order that the primary, which is open, did not follow in
// its time, and a restore of the group that its own node has not begun.
func orderOver(o Observation) ([]Action, string) {
	p, ord := o.State.Primary, o.State.Order
	if ord == nil || ord.Attempts > 0 || p.Phase != facts.PhaseOpened || !o.Now.After(ord.Deadline) {
		return nil, ""
	}
	why := fmt.Sprintf("%s is still open", p.Node)
	rep, alive := o.fresh(p.Store)
	switch {
	case ord.Restore != nil && ord.Restore.Stage == facts.RestoreDraining:
		why = fmt.Sprintf("%s has not carried it out", o.name(ord.To)) // nobody stops for it yet
	case !alive || rep.Server.State != ServerOpen:
		return nil, "" // it is stopping, or its end is about to be known
	}
	return []Action{command(facts.Command{Kind: facts.CmdClearOrder, ClearOrder: &facts.ClearOrder{ID: ord.ID, Why: why}})}, why
}

// The kinds of evidence.
const (
	FirstHand = "first-hand" // a node says it of itself
	Inferred  = "inferred"   // from silence
	Operator  = "operator"   // a command
	Recorded  = "ledger"     // what the group has agreed
)

// Evidence is one thing that a decision rests on.
type Evidence struct {
	Node string        `json:"node"`
	Kind string        `json:"kind"`
	Text string        `json:"text"`
	Age  time.Duration `json:"age_ns"`
}

// Rejected is what could have been chosen instead, and why it was not.
type Rejected struct {
	What string `json:"what"`
	Why  string `json:"why"`
}

// primaryEvidence is what is known of the present primary.
func primaryEvidence(o Observation) ([]Evidence, []Rejected) {
	p := o.State.Primary
	ev := []Evidence{{Kind: Recorded, Text: fmt.Sprintf("epoch %s is %s, primary %q", p.Epoch, p.Phase, p.Node)}}
	if ord := o.State.Order; ord != nil {
		ev = append(ev, Evidence{Node: o.name(ord.To), Kind: Operator, Age: o.Now.Sub(ord.At), Text: fmt.Sprintf("%s to %s ordered", ord.Kind, o.name(ord.To))})
	}
	for _, s := range sortedKeys(o.State.Members) {
		ev = append(ev, o.evidenceOf(s))
	}
	return ev, nil
}

func (o Observation) evidenceOf(store string) Evidence {
	h, ok := o.Reports[store]
	if !ok {
		return Evidence{Node: o.name(store), Kind: Inferred, Text: "was never heard here"}
	}
	age := o.Now.Sub(h.At)
	if age > Fresh {
		return Evidence{Node: o.name(store), Kind: Inferred, Age: age, Text: "silent"}
	}
	r := h.Report
	text := fmt.Sprintf("is %s, PostgreSQL %s, log to %s, fenced for %s", r.Role, r.Server.State, r.Durable, r.Fence)
	if !r.Server.Ended.IsZero() {
		text += fmt.Sprintf(", its server ended in epoch %s", r.Server.Ended)
	}
	if r.Server.Problem != "" {
		text += " (" + r.Server.Problem + ")"
	}
	return Evidence{Node: r.Node, Kind: FirstHand, Age: age, Text: text}
}

// electionEvidence is what the fence reports say and who could not be chosen.
func electionEvidence(o Observation) ([]Evidence, []Rejected) {
	var ev []Evidence
	p := o.State.Primary
	for _, s := range sortedKeys(p.Fence) {
		f := p.Fence[s]
		ev = append(ev, Evidence{Node: o.name(s), Kind: Recorded, Age: o.Now.Sub(f.At), Text: fmt.Sprintf("refuses epochs below %s and holds %s", f.Epoch, f.Pos)})
	}
	if ord := o.State.Order; ord != nil {
		ev = append(ev, Evidence{Node: o.name(ord.To), Kind: Operator, Age: o.Now.Sub(ord.At), Text: fmt.Sprintf("%s to %s ordered", ord.Kind, o.name(ord.To))})
	}
	c := elect(o)
	out := c.rejected
	for _, s := range sortedKeys(p.Fence) {
		if s == c.store || slices.ContainsFunc(out, func(r Rejected) bool { return r.What == o.name(s) }) {
			continue
		}
		why := (&election{o: o, p: p}).unfit(s)
		if why == "" {
			why = fmt.Sprintf("holds %s, but %s is preferred", p.Fence[s].Pos, o.name(c.store))
		}
		out = append(out, Rejected{o.name(s), why})
	}
	return ev, out
}
