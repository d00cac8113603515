package node

import (
	"context"
	"fmt"
	"slices"

	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// History is what the group remembers of changes of the primaryship.
func (n *Node) History(context.Context) (doc.History, error) {
	st := n.ledger.State()
	h := doc.History{Changes: []doc.Change{}}
	if st.Order != nil {
		h.Order = st.Order.ID
	}
	for _, c := range st.Changes {
		h.Changes = append(h.Changes, changeDoc(c))
	}
	return h, nil
}

const unloggedSentence = "Unlogged tables are empty after a promotion, and sequences may skip values."

func changeDoc(c facts.Change) doc.Change {
	d := doc.Change{ID: c.Epoch.String(), Epoch: c.Epoch, Kind: string(c.Kind), From: c.From, To: c.To, Cause: c.Cause, Plan: c.Decision,
		Timeline: c.Timeline, Start: c.Start, Opened: c.Opened, Failed: c.Failed, Statement: c.Statement, Phases: []doc.Phase{}}
	steps := slices.Clone(c.Steps)
	slices.SortStableFunc(steps, func(a, b facts.TimedStep) int { return a.At.Compare(b.At) })
	for _, s := range steps {
		d.Phases = append(d.Phases, doc.Phase{Name: s.Name, Node: s.Node, Text: s.Text, At: s.At, AfterNS: int64(s.At.Sub(steps[0].At))})
	}
	d.Durations = doc.Durations(d.Phases)
	if p := c.Proof; p != nil {
		d.Proof = proofDoc(*p)
		if c.To != c.From {
			d.Proof.Unlogged = unloggedSentence
		}
	}
	if r := c.Return; r != nil {
		d.Return = &doc.Return{Node: r.Node, Method: r.Method, Why: r.Why, At: r.At}
		if c.Proof != nil && c.Proof.Closed != nil {
			cl := c.Proof.Closed
			d.Return.Tail, d.Return.TailTransactions, d.Return.Transactions = cl.Tail, len(cl.Transactions)+cl.More, transactionDocs(cl.Transactions)
		}
	}
	return d
}

func proofDoc(p facts.Proof) *doc.Proof {
	d := &doc.Proof{Heard: p.Heard, Bound: p.Bound, Promoted: p.Promoted, Provisional: p.Provisional, Missing: p.Missing, Sentence: p.Sentence()}
	d.Lost, d.MayLost = rangeDoc(p.Lost), rangeDoc(p.MayLost)
	if c := p.Closed; c != nil {
		d.Closed = fmt.Sprintf("%s came back: its log ended at %s, and it had recorded %s as committed.", c.Node, c.LogEnd, c.Committed)
		if n := len(c.Transactions) + c.More; n > 0 {
			d.Closed += fmt.Sprintf(" %d transactions beyond were its own alone; they are kept in %s.", n, c.Tail)
		}
	}
	d.Transactions = transactionDocs(p.LostTransactions())
	return d
}

func transactionDocs(list []facts.LostTransaction) []doc.LostTransaction {
	var out []doc.LostTransaction
	for _, x := range list {
		out = append(out, doc.LostTransaction{XID: x.XID, End: x.End, Time: x.Time, Tables: x.Tables})
	}
	return out
}

func rangeDoc(r pos.Range) *pos.Range {
	if r.Empty() {
		return nil
	}
	return &r
}
