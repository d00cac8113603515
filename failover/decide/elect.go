package decide

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

const (
	// copyPatience is how long a candidate may copy without getting any further
	// before another one is tried.
	copyPatience = 5 * time.Second
	// replayMuch is how much more log a preferred candidate may have to replay
	// than another: about two seconds of it.
	replayMuch = 80 << 20
	// restartMuch is how much log the previous primary may have to replay to be
	// preferred: about a third of a second of it.
	restartMuch = 32 << 20
)

// choice is who shall be primary: store, after it has copied from donor if
// that is set. With an empty store, wait says what is missing.
type choice struct {
	store, donor string
	force        bool
	why, wait    string
	rejected     []Rejected
}

// assign elects the primary, or asks the candidate to copy first.
func assign(o Observation) ([]Action, string) {
	p := o.State.Primary
	if p.Phase != facts.PhaseFencing || !o.State.FenceMajority() {
		return nil, ""
	}
	c := elect(o)
	switch {
	case c.store == "":
		return nil, ""
	case c.donor == "":
		return []Action{command(facts.Command{Kind: facts.CmdAssign,
			Assign: &facts.Assign{Expect: p.Version, Epoch: p.Epoch, Store: c.store, Force: c.force}})}, c.why
	case p.Copy != nil && p.Copy.Store == c.store && p.Copy.Donor == c.donor:
		return nil, "" // it is copying
	}
	return []Action{command(facts.Command{Kind: facts.CmdNominate,
		Nominate: &facts.Nominate{Expect: p.Version, Epoch: p.Epoch, Store: c.store, Donor: c.donor}})}, c.why
}

// election is one run of elect.
type election struct {
	o    Observation
	p    facts.Primaryship
	top  string // the voter with the largest position: only voters' logs prove anything
	late bool   // patience with preferences is over
	out  choice
}

// elect chooses among the nodes that have reported their fence: whom the
// operator wants, else who was primary before, else whoever holds the most,
// else whoever can copy what it lacks. Preferences are waited for as long as a
// switchover may take; then anybody will do, since a group must not be left
// without a primary.
func elect(o Observation) choice {
	p := o.State.Primary
	e := &election{o: o, p: p, late: o.epochAge() > o.State.Policy.SwitchoverCatchup}
	for _, s := range sortedKeys(p.Fence) {
		if o.State.IsVoter(s) && (e.top == "" || e.better(s, e.top)) {
			e.top = s
		}
	}
	if e.top == "" {
		return choice{wait: "nobody has fenced"}
	}
	if ord, ok := o.State.Restoring(); ok {
		return choice{wait: fmt.Sprintf("%s restores the group to %s; how far it is says: understudy restore --group --status", o.name(ord.To), ord.Restore.Target)}
	}
	if other := unheardHalf(o); other != "" {
		return choice{wait: fmt.Sprintf("%s has to be heard first, since it may have been made primary meanwhile; if it is switched off, use: understudy failover --to %s --force",
			other, o.name(e.top))}
	}
	for _, step := range []func() bool{e.ordered, e.previous, e.complete, e.copying} {
		if step() {
			return e.out
		}
	}
	e.out.wait = "no node with a database holds, or can copy, " + p.Fence[e.top].Pos.String()
	var all []string
	for _, r := range e.out.rejected {
		if m, ok := o.State.MemberByName(r.What); !ok || m.Kind == facts.KindData {
			all = append(all, r.What+" "+r.Why)
		}
	}
	if len(all) > 0 {
		e.out.wait = strings.Join(all, "; ")
	}
	return e.out
}

// better tells whether a store holds more than another, or as much and can give
// more of it: a silent one shall not hide another that could be copied from.
func (e *election) better(store, than string) bool {
	if c := e.p.Fence[store].Pos.Compare(e.p.Fence[than].Pos); c != 0 {
		return c > 0
	}
	return e.gives(store) < e.gives(than)
}

// gives is where the log begins that a store can give now.
func (e *election) gives(store string) pos.LSN {
	if rep, alive := e.o.fresh(store); alive && rep.Spool.From != 0 {
		return rep.Spool.From
	}
	return math.MaxUint64
}

func (e *election) take(store, why string) bool {
	e.out.store, e.out.why = store, why
	return true
}

func (e *election) waitFor(why string) bool {
	e.out.wait = why
	return true
}

func (e *election) rejected(store string) bool {
	return slices.ContainsFunc(e.out.rejected, func(r Rejected) bool { return r.What == e.o.name(store) })
}

func (e *election) reject(store, why string) {
	if e.rejected(store) {
		return
	}
	e.out.rejected = append(e.out.rejected, Rejected{e.o.name(store), why})
}

// notFenced is why a store is unfit that may be fit in a moment.
const notFenced = "has not reported its log"

// unfit says why a store cannot be elected at all; "" when it can.
func (e *election) unfit(store string) string {
	m, ok := e.o.State.Members[store]
	if !ok {
		return "is no member any more"
	}
	switch {
	case m.Kind != facts.KindData:
		return "has no PostgreSQL"
	case !m.Seeded:
		return "has no complete base"
	case !e.o.State.IsVoter(store):
		return "has no WAL vote, so its log proves nothing"
	}
	rep, alive := e.o.fresh(store)
	if alive && rep.Server.Failing != "" {
		return "cannot serve: " + rep.Server.Failing
	}
	if alive && !e.o.hearsMajority(store) {
		return "does not hear a majority of the group"
	}
	f, ok := e.p.Fence[store]
	if !ok {
		return notFenced
	}
	if ord := e.o.State.Order; f.Opened && f.LSN > f.Pos.LSN && (ord == nil || !ord.Force || ord.To != store) {
		return fmt.Sprintf("has a database that goes to %s, but the group vouches for it only up to %s: it has to be rewound to another primary", f.LSN, f.Pos)
	}
	if !alive {
		return "is silent"
	}
	if rep.Server.State == ServerFailed {
		return "cannot start PostgreSQL: " + rep.Server.Problem
	}
	if !rep.Server.Ended.Less(e.p.Epoch) {
		return "has failed to start in this epoch"
	}
	return ""
}

// holds tells whether a store has as much as anybody who reported.
func (e *election) holds(store string) bool {
	return !e.p.Fence[store].Pos.Less(e.p.Fence[e.top].Pos)
}

// ordered prefers whom the operator named, for one attempt.
func (e *election) ordered() bool {
	ord := e.o.State.Order
	if ord == nil || (ord.Attempts > 1 || ord.Kind == facts.OrderRestore) && !ord.Reformed {
		return false
	}
	if why := e.unfit(ord.To); why != "" {
		if !e.late {
			return e.waitFor(fmt.Sprintf("%s, which the operator named, %s", e.o.name(ord.To), why))
		}
		e.reject(ord.To, why)
		return false
	}
	if e.holds(ord.To) {
		return e.take(ord.To, fmt.Sprintf("the operator named %s, which holds %s, as much as any that reported", e.o.name(ord.To), e.p.Fence[ord.To].Pos))
	}
	why := e.cannotCopy(ord.To)
	// The fences may have come late: nobody is given up, nor elected by force,
	// who was not asked to copy.
	asked := e.p.Copy != nil && (e.p.Copy.Store == ord.To || !ord.Force)
	switch {
	case why == "" && (!e.late || !asked || e.progress(ord.To)):
		e.out.donor = e.top
		return e.take(ord.To, fmt.Sprintf("the operator named %s; it copies what it lacks from %s", e.o.name(ord.To), e.o.name(e.top)))
	case ord.Force && e.late:
		e.out.force = true
		return e.take(ord.To, fmt.Sprintf("the operator confirmed that %s is elected although it has only %s of %s", e.o.name(ord.To), e.p.Fence[ord.To].Pos, e.p.Fence[e.top].Pos))
	case !e.late:
		return e.waitFor(e.o.name(ord.To) + " " + why)
	}
	if why == "" {
		why = "did not copy what it lacks in time"
	}
	e.reject(ord.To, why)
	return false
}

// previous prefers the node that was primary before, which needs no promotion.
func (e *election) previous() bool {
	prev := e.p.Previous
	if prev == "" {
		return false
	}
	why := e.unfit(prev)
	slow := e.slow(prev)
	if why == "" && e.failures(prev) >= tooOften && e.other(prev) {
		e.reject(prev, fmt.Sprintf("was elected %d times in a row and has never opened", e.failures(prev)))
		return false
	}
	if slow != "" && (why == "" || why == notFenced) && e.other(prev) {
		e.reject(prev, slow)
		return false
	}
	if why == "" && e.holds(prev) {
		return e.take(prev, fmt.Sprintf("%s was primary before and holds %s, as much as any that reported", e.o.name(prev), e.p.Fence[prev].Pos))
	}
	if why == "" {
		top := e.p.Fence[e.top]
		why = fmt.Sprintf("holds only %s where %s holds %s", e.p.Fence[prev].Pos, e.o.name(e.top), top.Pos)
		if own := e.p.Fence[prev]; own.Pos.Epoch == top.Pos.Epoch && e.o.State.Lineage.Last().Epoch == top.Pos.Epoch {
			why += ": it has lost log that it had flushed"
		}
		e.reject(prev, why)
		return false
	}
	_, alive := e.o.fresh(prev)
	// One that was being overwritten, for a restore that was withdrawn, never opens.
	pinned := e.o.State.Policy.Mode(e.o.Now) != facts.FailoverAutomatic && !e.operator() && e.o.State.Members[prev].Seeded
	if pinned || why == notFenced && alive && !e.late {
		return e.waitFor(fmt.Sprintf("%s, which was primary, %s", e.o.name(prev), why))
	}
	e.reject(prev, why)
	return false
}

// operator tells whether an order stands that says who is elected.
func (e *election) operator() bool {
	o := e.o.State.Order
	return o != nil && (o.Kind != facts.OrderRestore || o.Reformed)
}

// slow says why a restart of the previous primary would take long: what its
// crash recovery has to replay. Whoever has replayed everything is faster.
func (e *election) slow(prev string) string {
	if e.o.State.Order != nil || e.o.State.Policy.Mode(e.o.Now) != facts.FailoverAutomatic {
		return ""
	}
	rep, alive := e.o.fresh(prev)
	// What others hold, it has written.
	end := max(rep.Server.Written, e.p.Fence[prev].LSN, e.p.Fence[e.top].Pos.LSN)
	if !alive || rep.Server.Redo == 0 || end <= rep.Server.Redo || end-rep.Server.Redo <= restartMuch {
		return ""
	}
	return fmt.Sprintf("would have to replay %d MiB of log", (end-rep.Server.Redo)>>20)
}

// tooOften is how often in a row a store may be elected and not open before
// somebody else is tried.
const tooOften = 3

// failures is how often in a row, before this epoch, a store was elected and did
// not open.
func (e *election) failures(store string) int {
	n, name := 0, e.o.name(store)
	all := e.o.State.Changes
	for i := len(all) - 2; i >= 0 && !all[i].Opened; i-- {
		if slices.ContainsFunc(all[i].Steps, func(s facts.TimedStep) bool { return s.Name == facts.StepAssigned && s.Node == name }) {
			n++
		}
	}
	return n
}

// other tells whether somebody else could be elected at once.
func (e *election) other(prev string) bool {
	for s := range e.p.Fence {
		rep, _ := e.o.fresh(s)
		if s != prev && e.unwilling(s) == "" && e.holds(s) && e.o.State.Policy.Of(e.o.name(s)).ApplyDelay == 0 &&
			e.p.Fence[s].Pos.LSN.Sub(min(e.p.Fence[s].Pos.LSN, rep.Applied)) <= restartMuch {
			return true
		}
	}
	return false
}

// complete takes the best of the nodes that hold everything.
func (e *election) complete() bool {
	best := ""
	for _, s := range e.byPreference() {
		switch why := e.unwilling(s); {
		case e.rejected(s):
		case why != "":
			e.reject(s, why)
		case !e.holds(s):
		case best == "":
			best = s
		default:
			e.reject(s, fmt.Sprintf("holds %s too, but %s is preferred", e.p.Fence[s].Pos, e.o.name(best)))
		}
	}
	if best == "" {
		return false
	}
	return e.take(best, fmt.Sprintf("%s holds %s, as much as any that reported", e.o.name(best), e.p.Fence[best].Pos))
}

// unwilling says why a store is not elected when nobody named it.
func (e *election) unwilling(store string) string {
	if why := e.unfit(store); why != "" {
		return why
	}
	if e.o.State.Policy.Of(e.o.name(store)).NoFailover && store != e.p.Previous {
		return "is never chosen by itself (no_failover); use: understudy failover --to " + e.o.name(store)
	}
	return ""
}

// byPreference are the stores that fenced, the best candidate first: one that
// never opens comes last, one that is delayed before it, one that has much to replay after one that has little,
// then the operator's priority counts, then what is left to replay.
func (e *election) byPreference() []string {
	type rank struct {
		failed  bool
		delayed bool
		slow    bool
		prio    int
		left    uint64
	}
	ranks, least := map[string]rank{}, uint64(math.MaxUint64)
	for s, f := range e.p.Fence {
		p := e.o.State.Policy.Of(e.o.name(s))
		r := rank{failed: e.failures(s) >= tooOften, delayed: p.ApplyDelay > 0, prio: p.Priority}
		if rep, alive := e.o.fresh(s); alive {
			r.left = f.Pos.LSN.Sub(min(f.Pos.LSN, rep.Applied))
		}
		if e.unwilling(s) == "" && e.holds(s) {
			least = min(least, r.left)
		}
		ranks[s] = r
	}
	for s, r := range ranks {
		r.slow = r.left > least && r.left-least > replayMuch
		ranks[s] = r
	}
	out := sortedKeys(e.p.Fence)
	slices.SortStableFunc(out, func(a, b string) int {
		x, y := ranks[a], ranks[b]
		return cmp.Or(falseFirst(x.failed, y.failed), falseFirst(x.delayed, y.delayed), falseFirst(x.slow, y.slow), cmp.Compare(y.prio, x.prio), cmp.Compare(x.left, y.left))
	})
	return out
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// copying takes the fit node that has the most and can get the rest.
func (e *election) copying() bool {
	best := ""
	for _, s := range e.byPreference() {
		if e.unwilling(s) != "" {
			continue
		}
		if why := e.cannotCopy(s); why != "" {
			e.reject(s, why)
			continue
		}
		if c := e.p.Copy; c != nil && c.Store == s && !e.progress(s) {
			e.reject(s, "does not get on with copying")
			continue
		}
		if best == "" || e.p.Fence[best].Pos.Less(e.p.Fence[s].Pos) {
			best = s
		}
	}
	if best == "" {
		return false
	}
	e.out.donor = e.top
	return e.take(best, fmt.Sprintf("%s copies what it lacks from %s", e.o.name(best), e.o.name(e.top)))
}

// progress tells whether a nominated store has got further lately.
func (e *election) progress(store string) bool {
	c := e.p.Copy
	if c == nil || c.Store != store {
		return false
	}
	last := c.At
	if f := e.p.Fence[store]; f.At.After(last) {
		last = f.At
	}
	return e.o.Now.Sub(last) < copyPatience
}

// cannotCopy says why a store cannot get from the node that holds the most
// what it lacks; "" when it can. The log must go on from its own without a gap.
func (e *election) cannotCopy(store string) string {
	own, top := e.p.Fence[store], e.p.Fence[e.top]
	rep, alive := e.o.fresh(e.top)
	switch {
	case own.Opened:
		return fmt.Sprintf("holds only %s, and was opened for writing: its database cannot go on with copied log", own.Pos)
	case !alive:
		return fmt.Sprintf("holds only %s, and %s, which holds %s, is silent", own.Pos, e.o.name(e.top), top.Pos)
	case rep.Spool.From == 0 || rep.Spool.From > own.Pos.LSN:
		return fmt.Sprintf("holds only %s, and the log that %s keeps begins at %s", own.Pos, e.o.name(e.top), rep.Spool.From)
	}
	return ""
}
