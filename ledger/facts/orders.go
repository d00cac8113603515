package facts

import (
	"time"

	"understudy/shipper/pos"
)

// OrderKind is what an operator ordered.
type OrderKind string

// The kinds of orders.
const (
	OrderSwitchover OrderKind = "switchover" // the healthy primary hands over
	OrderFailover   OrderKind = "failover"   // the operator's word that the primary is lost
	OrderRestore    OrderKind = "restore"    // the group goes back to a moment, with To's database
)

// Order is the operator's word that the primaryship moves. It is recorded
// before anything is stopped, so that the primary's agent does not restart a
// server that was stopped on purpose, and so that the group finishes what was
// begun, whoever is killed on the way. At most one stands; the next opening
// ends it.
type Order struct {
	ID   string    `json:"id"`
	Kind OrderKind `json:"kind"`
	To   string    `json:"to"`   // store that is wanted
	From string    `json:"from"` // store that was primary
	// Epoch is the one in force when the order was given.
	Epoch pos.Epoch `json:"epoch"`
	// Force lets To be elected although it lacks log that another node has and
	// cannot give. Statement is what the operator confirmed.
	Force     bool      `json:"force,omitempty"`
	Statement string    `json:"statement,omitempty"`
	At        time.Time `json:"at"`
	// Deadline is until when the primary must have stopped; past it the order
	// is void while that primary is open.
	Deadline time.Time `json:"deadline"`
	// Attempts counts the epochs begun under the order.
	Attempts int `json:"attempts"`
	// Scheduled is the id of the scheduled switchover that this is.
	Scheduled string `json:"scheduled,omitempty"`
	// Reformed: the group was formed anew under this order, without asking a
	// majority of the group as it was.
	Reformed bool `json:"reformed,omitempty"`
	// Restore says what an order of kind OrderRestore brings back; nil for others.
	Restore *Restore `json:"restore,omitempty"`
}

// SetOrder records an order. Expect is Primaryship.Version; the order's
// Attempts are ignored.
type SetOrder struct {
	Expect uint64 `json:"expect"`
	Order  Order  `json:"order"`
}

// ClearOrder withdraws the order of that ID; it is no error if it is over.
type ClearOrder struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// Offline says that clients are kept out of the primary on the operator's
// word.
type Offline struct {
	Since time.Time `json:"since"`
	// Wait is how long clients may finish before they are cut off.
	Wait time.Duration `json:"wait_ns"`
}

// SetOffline keeps clients out of the primary, or lets them in again.
type SetOffline struct {
	Offline bool          `json:"offline"`
	Wait    time.Duration `json:"wait_ns"`
}

// maxOfflineWait bounds the wait of SetOffline.
const maxOfflineWait = 24 * time.Hour

func (t *tx) setOrder(c *SetOrder) *refusal {
	p, o := t.s.Primary, c.Order
	if r := stale("primaryship", c.Expect, p.Version); r != nil {
		return r
	}
	restore := o.Kind == OrderRestore
	if o.Kind != OrderSwitchover && o.Kind != OrderFailover && !restore || !restore && o.Restore != nil {
		return refuse(CodeBadCommand, "order %q is neither %q, %q nor %q", clip(string(o.Kind)), OrderSwitchover, OrderFailover, OrderRestore)
	}
	if !plain(o.ID) || len(o.Statement) > maxTextBytes {
		return refuse(CodeBadCommand, "an order needs an id, and a statement of at most %d bytes", maxTextBytes)
	}
	if t.s.Order != nil {
		return refuse(CodeOrderStands, "the %s to %s is not finished", t.s.Order.Kind, t.s.NameOf(t.s.Order.To))
	}
	m, r := t.member(o.To)
	if r != nil {
		return r
	}
	switch {
	case o.Epoch != p.Epoch:
		return refuse(CodeStaleEpoch, "the order is of epoch %s, the present one is %s", o.Epoch, p.Epoch)
	case p.Phase == PhaseNone || p.Phase == "":
		return refuse(CodeWrongPhase, "the group never had a primary")
	case o.Kind == OrderSwitchover && p.Phase != PhaseOpened:
		return refuse(CodeWrongPhase, "no primary is open that could hand over")
	case m.Kind != KindData:
		return refuse(CodeNotData, "%s cannot be primary: it has no PostgreSQL", m.Name)
	case !m.Seeded:
		return refuse(CodeNotSeeded, "%s cannot be primary: it has no complete base", m.Name)
	case !t.s.IsVoter(m.Store):
		return refuse(CodeNotVoter, "%s cannot be primary: it has no WAL vote", m.Name)
	case m.Store == p.Store && p.Phase == PhaseOpened && !restore:
		return refuse(CodeIsPrimary, "%s is the primary already", m.Name)
	}
	t.stampOrder(&o)
	if restore {
		if r := t.admitRestore(&o); r != nil {
			return r
		}
	}
	t.s.Order = &o
	if s := t.s.Scheduled; s != nil && s.ID == o.Scheduled {
		t.s.Scheduled = nil
	}
	if ch, ok := t.s.ChangeOf(p.Epoch); ok && p.Phase == PhaseFencing {
		// No other epoch begins for it: it is part of the one under way.
		ch.Statement = o.Statement
		t.putChange(ch)
		t.phaseAt(p.Epoch, TimedStep{Name: StepOrdered, At: o.At})
	}
	if restore {
		t.event("restore-ordered", m.Store, SeverityWarning, "the operator ordered to restore the group with %s to %s, and confirmed: %s", m.Name, o.Restore.Target, o.Statement)
		return nil
	}
	t.event(string(o.Kind)+"-ordered", m.Store, SeverityWarning, "%s to %s ordered", o.Kind, m.Name)
	return nil
}

// stampOrder fills in what the ledger knows better than who gave the order.
func (t *tx) stampOrder(o *Order) {
	p := t.s.Primary
	o.From, o.Attempts, o.Reformed = p.Store, 0, false
	if o.From == "" {
		o.From = p.Previous
	}
	if !o.At.IsZero() && !t.c.At.IsZero() {
		// The same time left, by the clock of the command.
		o.Deadline = t.c.At.Add(o.Deadline.Sub(o.At))
	}
	if !t.c.At.IsZero() {
		o.At = t.c.At
	}
}

func (t *tx) clearOrder(c *ClearOrder) *refusal {
	if t.s.Order == nil || t.s.Order.ID != c.ID {
		return nil
	}
	if len(c.Why) > maxTextBytes {
		return refuse(CodeBadCommand, "the reason has at most %d bytes", maxTextBytes)
	}
	o := t.s.Order
	if o.Reformed {
		// It is what remembers that no majority was asked.
		return refuse(CodeOrderStands, "the group was formed anew under this order, which ends when a primary opens")
	}
	if o.Kind == OrderRestore {
		if r := t.withdrawRestore(o); r != nil {
			return r
		}
		t.letIn(o)
	}
	t.s.Order, t.s.Early = nil, nil
	t.event("order-over", o.To, SeverityWarning, "the %s to %s was given up: %s", o.Kind, t.s.NameOf(o.To), c.Why)
	return nil
}

func (t *tx) setOffline(c *SetOffline) *refusal {
	if c.Wait < 0 || c.Wait > maxOfflineWait {
		return refuse(CodeBadCommand, "the wait of %s is not between 0 and %s", c.Wait, maxOfflineWait)
	}
	if !c.Offline {
		if t.s.Offline != nil {
			t.s.Offline = nil
			t.event("online", "", SeverityInfo, "clients are let in again")
		}
		return nil
	}
	if t.s.Offline == nil {
		t.s.Offline = &Offline{Since: t.c.At, Wait: c.Wait}
		t.event("offline", "", SeverityWarning, "clients are kept out of the primary on the operator's word")
	}
	return nil
}
