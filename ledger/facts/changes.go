package facts

import (
	"fmt"
	"slices"
	"time"

	"understudy/shipper/pos"
)

// ChangeKind says why a primaryship began.
type ChangeKind string

// The kinds of changes.
const (
	ChangeFounding   ChangeKind = "founding"
	ChangeRestart    ChangeKind = "restart"    // the same node opens again
	ChangeSwitchover ChangeKind = "switchover" // ordered, the old primary handed over
	ChangeFailover   ChangeKind = "failover"   // the old primary was lost
	ChangeForced     ChangeKind = "forced"     // on the operator's word against a refusal
	ChangeRestore    ChangeKind = "restore"    // the group went back to a moment
)

// The names of phases, in the order in which they usually come.
const (
	StepLost      = "lost" // the last sign of life of a primary that was lost
	StepOrdered   = "ordered"
	StepFrozen    = "frozen"  // clients are shut out
	StepStopped   = "stopped" // the old server has ended
	StepEpoch     = "epoch"
	StepFenced    = "fenced" // by a majority
	StepCopied    = "copied" // the candidate has the donor's log
	StepAssigned  = "assigned"
	StepReplayed  = "replayed"
	StepPromoting = "promoting"
	StepPromoted  = "promoted"
	StepOpened    = "opened"
	StepReturned  = "returned" // the old primary is a standby again
)

// TimedStep is one step of a change. At is the clock of the ledger's leader, or
// of the node that took the step.
type TimedStep struct {
	Name string    `json:"name"`
	Node string    `json:"node,omitempty"`
	Text string    `json:"text,omitempty"`
	At   time.Time `json:"at"`
}

// Proof is what is known of losses in one change of primary. LSNs are of the
// history before the change.
type Proof struct {
	// Heard is the highest committed LSN that any node which fenced had heard
	// of; Bound the largest position that any of them reported; Promoted where
	// the new primary's log begins, in whole records; Elected the end of its
	// log, a record that was cut off included.
	Heard    pos.LSN `json:"heard"`
	Bound    pos.LSN `json:"bound"`
	Elected  pos.LSN `json:"elected"`
	Promoted pos.LSN `json:"promoted"`
	// Lost was acknowledged for certain and is not in the new history; MayLost
	// may have been. Both are empty when nothing was lost.
	Lost    pos.Range `json:"lost"`
	MayLost pos.Range `json:"may_lost"`
	// Async: commits did not wait for a majority, so no majority vouches for
	// what the lost primary had acknowledged.
	Async bool `json:"async,omitempty"`
	// Majority: the fence reports were those of a majority, which every
	// acknowledged commit must have met.
	Majority bool `json:"majority"`
	// Missing are the voters that did not report, by name. Provisional: the
	// old primary is among them, and its own record is not known yet.
	Missing     []string `json:"missing,omitempty"`
	Provisional bool     `json:"provisional"`
	// Closed is the old primary's own record, once it has come back.
	Closed *Closing `json:"closed,omitempty"`
}

// Closing is what a returned primary's own files say.
type Closing struct {
	Node      string    `json:"node"`
	LogEnd    pos.LSN   `json:"log_end"`   // end of its log on the old history
	Committed pos.LSN   `json:"committed"` // the highest it had recorded as committed
	At        time.Time `json:"at"`
	// Exact: nothing beyond Committed was acknowledged.
	Exact bool `json:"exact,omitempty"`
	// Tail is where what it had beyond the fork is kept on that node.
	Tail string `json:"tail,omitempty"`
	// Transactions are those of the tail that committed there, at most
	// MaxClosingTransactions; More counts the rest.
	Transactions []LostTransaction `json:"transactions,omitempty"`
	More         int               `json:"more,omitempty"`
}

// LostTransaction is one transaction beyond the fork.
type LostTransaction struct {
	XID    uint32    `json:"xid"`
	End    pos.LSN   `json:"end"` // of its commit record
	Time   time.Time `json:"time"`
	Tables []string  `json:"tables,omitempty"`
}

// MaxClosingTransactions bounds Closing.Transactions.
const MaxClosingTransactions = 100

// Return is how a former primary came back as a standby.
type Return struct {
	Node   string    `json:"node"`
	Method string    `json:"method"` // "follow", "rewind", "delta", "full"
	Why    string    `json:"why"`
	At     time.Time `json:"at"`
}

// Change is one change of the primaryship, from its epoch to the return of the
// old primary.
type Change struct {
	Epoch    pos.Epoch    `json:"epoch"`
	Kind     ChangeKind   `json:"kind"`
	From     string       `json:"from"` // node names
	To       string       `json:"to"`
	Cause    string       `json:"cause"`
	Decision string       `json:"decision"`
	Timeline pos.Timeline `json:"timeline"`
	Start    pos.LSN      `json:"start"`
	Steps    []TimedStep  `json:"steps"`
	Opened   bool         `json:"opened"`
	Failed   string       `json:"failed,omitempty"`
	Proof    *Proof       `json:"proof,omitempty"`
	Return   *Return      `json:"return,omitempty"`
	// Statement is what the operator confirmed.
	Statement string `json:"statement,omitempty"`
}

// The bounds of what is kept of changes.
const (
	maxChanges = 24
	maxSteps   = 32
	// maxNotes is how many steps there may be for nodes to add another, so that
	// room is left for what the ledger itself has to say.
	maxNotes = 24
)

// NotePhase adds a phase to the change of Epoch: said by the node that did it.
type NotePhase struct {
	Epoch pos.Epoch `json:"epoch"`
	Name  string    `json:"name"`
	Node  string    `json:"node"`
	Text  string    `json:"text,omitempty"`
}

// Returned says that a former primary follows again, and closes the proof of
// the change that replaced it.
type Returned struct {
	Store   string    `json:"store"`
	Epoch   pos.Epoch `json:"epoch"` // of the newest change that it missed as primary
	Method  string    `json:"method"`
	Why     string    `json:"why"`
	Closing *Closing  `json:"closing,omitempty"`
}

// ChangeOf is the change of an epoch.
func (s State) ChangeOf(e pos.Epoch) (Change, bool) {
	for _, c := range s.Changes {
		if c.Epoch == e {
			return c, true
		}
	}
	return Change{}, false
}

// beginChange starts the record of a new epoch.
func (t *tx) beginChange(c *BeginEpoch, before Primaryship) {
	kind := c.Change
	if kind == "" {
		kind = ChangeRestart
	}
	ch := Change{Epoch: t.s.Primary.Epoch, Kind: kind, From: t.s.NameOf(before.Previous), Cause: c.Cause, Decision: c.Decision}
	if o := t.s.Order; o != nil {
		ch.Statement = o.Statement
		ch.Steps = append(ch.Steps, TimedStep{Name: StepOrdered, At: o.At})
	}
	if !c.Lost.IsZero() {
		ch.Steps = append(ch.Steps, TimedStep{Name: StepLost, Node: before.Node, At: c.Lost})
	}
	n := len(t.s.Changes)
	if n > 0 && !t.s.Changes[n-1].Opened {
		last := t.s.Changes[n-1]
		last.Failed = fmt.Sprintf("epoch %s began before it was opened: %s", ch.Epoch, c.Cause)
		t.putChange(last)
		if t.s.Order != nil && t.s.Order.Attempts > 1 {
			// The change goes on in another epoch: its beginning is part of it.
			ch.Kind, ch.Steps = last.Kind, beginning(last.Steps)
		}
	}
	ch.Steps = append(ch.Steps, t.s.Early...)
	t.s.Early = nil
	keep := t.s.Changes[max(0, len(t.s.Changes)-maxChanges+1):]
	t.s.Changes = append(slices.Clone(keep), ch)
	t.phase(StepEpoch, "")
}

// beginning are the steps of a change up to the first epoch begun for it.
func beginning(steps []TimedStep) []TimedStep {
	n := slices.IndexFunc(steps, func(s TimedStep) bool { return s.Name == StepEpoch })
	return slices.Clone(steps[:max(0, n)])
}

func (t *tx) putChange(ch Change) {
	i := slices.IndexFunc(t.s.Changes, func(c Change) bool { return c.Epoch == ch.Epoch })
	if i < 0 {
		return
	}
	t.s.Changes = slices.Clone(t.s.Changes)
	t.s.Changes[i] = ch
}

// phase adds a step to the change of the present epoch.
func (t *tx) phase(name, node string) {
	t.phaseAt(t.s.Primary.Epoch, TimedStep{Name: name, Node: node, At: t.c.At})
}

func (t *tx) phaseAt(e pos.Epoch, p TimedStep) {
	ch, ok := t.s.ChangeOf(e)
	if !ok || len(ch.Steps) >= maxSteps {
		return
	}
	ch.Steps = append(slices.Clone(ch.Steps), p)
	t.putChange(ch)
}

func (t *tx) notePhase(c *NotePhase) *refusal {
	if !plain(c.Name) || len(c.Node) > maxNameBytes || len(c.Text) > maxTextBytes {
		return refuse(CodeBadCommand, "a phase needs a name and a text of at most %d bytes", maxTextBytes)
	}
	p := TimedStep{Name: c.Name, Node: c.Node, Text: c.Text, At: t.c.At}
	if o := t.s.Order; o != nil && o.Epoch == c.Epoch && o.Attempts == 0 {
		// Said before the epoch that it belongs to has begun.
		if len(t.s.Early) >= maxNotes-1 {
			return nil
		}
		t.s.Early = append(slices.Clone(t.s.Early), p)
		t.eventPhase(p)
		return nil
	}
	epoch := c.Epoch
	late := t.s.Order != nil && t.s.Order.Epoch == epoch
	if late {
		epoch = t.s.Primary.Epoch // that has begun for the order meanwhile
	}
	ch, ok := t.s.ChangeOf(epoch)
	if !ok {
		return refuse(CodeStaleEpoch, "no change of epoch %s is recorded", c.Epoch)
	}
	if len(ch.Steps) >= maxNotes {
		return nil
	}
	if i := slices.IndexFunc(ch.Steps, func(s TimedStep) bool { return s.Name == StepEpoch }); late && i >= 0 {
		ch.Steps = slices.Insert(slices.Clone(ch.Steps), i, p)
		t.putChange(ch)
	} else {
		t.phaseAt(epoch, p)
	}
	t.eventPhase(p)
	return nil
}

func (t *tx) eventPhase(p TimedStep) {
	text := p.Node + ": " + p.Name
	if p.Text != "" {
		text += ", " + p.Text
	}
	t.events = append(t.events, Event{Kind: "phase", Node: p.Node, Severity: SeverityInfo, Text: text})
}

// prove computes what is known of losses when the new primary's start is.
func (t *tx) prove(end pos.LSN) *Proof {
	p := t.s.Primary
	pr := &Proof{Elected: p.Elected.LSN, Promoted: end, Majority: t.s.FenceMajority(), Async: t.s.Policy.Durability == Async}
	if o := t.s.Order; o != nil && o.Reformed {
		pr.Majority = false // of the group as it was
	}
	var top pos.Pos
	for _, f := range p.Fence {
		pr.Heard = max(pr.Heard, f.Heard)
		if top.Less(f.Pos) {
			top = f.Pos
		}
	}
	pr.Bound = top.LSN
	if pr.Heard > pr.Elected {
		pr.Lost = pos.Range{From: end, To: pr.Heard}
	}
	// A majority that the elected log is level with vouches for everything; what
	// a node without a vote has beyond was nobody's commit.
	if vouched := pr.Majority && !p.Forced && !pr.Async; !vouched && pr.Bound > pr.Elected {
		pr.MayLost = pos.Range{From: end, To: pr.Bound}
	}
	for _, v := range t.s.Voters.Stores {
		if _, ok := p.Fence[v]; !ok {
			pr.Missing = append(pr.Missing, t.s.Members[v].Name)
		}
	}
	_, reported := p.Fence[p.Previous]
	pr.Provisional = p.Previous != "" && p.Previous != p.Store && !reported
	return pr
}

// Sentence says what a proof proves.
func (p Proof) Sentence() string {
	switch {
	case !p.Lost.Empty() && !p.MayLost.Empty():
		return fmt.Sprintf("Acknowledged commits were lost: everything from %s to %s; those up to %s may be lost too.", p.Lost.From, p.Lost.To, p.MayLost.To)
	case !p.Lost.Empty():
		return fmt.Sprintf("Acknowledged commits were lost: everything from %s to %s.", p.Lost.From, p.Lost.To)
	case !p.MayLost.Empty() && p.Closed != nil:
		return fmt.Sprintf("Commits from %s to %s may be lost: only the old primary had them, and it had not written down whether they were acknowledged.", p.MayLost.From, p.MayLost.To)
	case !p.MayLost.Empty():
		return fmt.Sprintf("Commits from %s to %s may be lost: another node has log up to there that the new primary does not.", p.MayLost.From, p.MayLost.To)
	case p.Async && p.Provisional:
		return fmt.Sprintf("Commits did not wait for another node (durability async): what the old primary acknowledged beyond %s is lost.", p.Promoted)
	case !p.Majority && p.Closed == nil:
		return fmt.Sprintf("No majority was asked: what others acknowledged beyond %s is not known until they return.", p.Promoted)
	case p.Provisional:
		return fmt.Sprintf("Nothing acknowledged was lost: a majority vouches for everything up to %s. The old primary's own record is awaited.", p.Promoted)
	}
	return fmt.Sprintf("Nothing acknowledged was lost: everything up to %s is there.", p.Promoted)
}

func (t *tx) returned(c *Returned) *refusal {
	m, r := t.member(c.Store)
	if r != nil {
		return r
	}
	ch, ok := t.s.ChangeOf(c.Epoch)
	if !ok {
		return refuse(CodeStaleEpoch, "no change of epoch %s is recorded", c.Epoch)
	}
	if ch.Return != nil && ch.Return.Node == m.Name {
		return nil
	}
	if ch.From != m.Name {
		return refuse(CodeNotAssigned, "%s was not the primary that epoch %s replaced", m.Name, c.Epoch)
	}
	if len(c.Method) > maxNameBytes || len(c.Why) > maxTextBytes {
		return refuse(CodeBadCommand, "a return needs a method and a reason of at most %d bytes", maxTextBytes)
	}
	if cl := c.Closing; cl != nil && (len(cl.Transactions) > MaxClosingTransactions || len(cl.Tail) > maxTextBytes) {
		return refuse(CodeBadCommand, "a closing names at most %d transactions", MaxClosingTransactions)
	}
	ch.Return = &Return{Node: m.Name, Method: c.Method, Why: c.Why, At: t.c.At}
	if c.Closing != nil && ch.Proof != nil {
		ch.Proof = ch.Proof.close(*c.Closing, m.Name, t.c.At)
	}
	t.putChange(ch)
	t.phaseAt(c.Epoch, TimedStep{Name: StepReturned, Node: m.Name, Text: c.Method, At: t.c.At})
	t.event("returned", c.Store, SeverityInfo, "%s follows again (%s): %s", m.Name, c.Method, c.Why)
	if pr := ch.Proof; pr != nil && !pr.Lost.Empty() {
		t.event("loss", c.Store, SeverityError, "%s", pr.Sentence())
	}
	return nil
}

// close adds a returned primary's own record: what it had recorded as
// committed beyond the fork was acknowledged and is lost; what it merely had
// was not acknowledged by a majority.
func (p Proof) close(c Closing, node string, at time.Time) *Proof {
	c.Node, c.At = node, at
	p.Closed, p.Provisional = &c, false
	p.Missing = slices.DeleteFunc(slices.Clone(p.Missing), func(n string) bool { return n == node })
	acked := c.Committed
	if p.Async {
		acked = c.LogEnd
	}
	p.MayLost = pos.Range{} // it is known now
	if acked > p.Elected {
		p.Lost = pos.Range{From: p.Promoted, To: max(acked, p.Lost.To)}
	}
	// Where no majority was asked, nobody vouches that what it had not yet
	// written down as committed was not.
	if known := max(acked, p.Promoted); !p.Majority && !c.Exact && c.LogEnd > max(known, p.Elected) {
		p.MayLost = pos.Range{From: known, To: c.LogEnd}
	}
	return &p
}

// LostTransactions are the transactions that are, or may be, lost, of those a
// returned primary listed.
func (p Proof) LostTransactions() []LostTransaction {
	if p.Closed == nil {
		return nil
	}
	var out []LostTransaction
	for _, x := range p.Closed.Transactions {
		if x.End > p.Lost.From && x.End <= p.Lost.To || x.End > p.MayLost.From && x.End <= p.MayLost.To {
			out = append(out, x)
		}
	}
	return out
}
