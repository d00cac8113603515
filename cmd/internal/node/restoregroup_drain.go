package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// shutAsk asks the primary to shut its clients out for an order.
type shutAsk struct {
	ID string `json:"id"`
}

// shutAnswer is where its log ended when none was left.
type shutAnswer struct {
	Flush pos.LSN `json:"flush"`
}

// handleShut makes sure that no client is left on the open primary, and says
// where its log ends: nothing that anybody committed lies beyond.
func (n *Node) handleShut(ctx context.Context, body []byte) ([]byte, error) {
	var ask shutAsk
	if err := json.Unmarshal(body, &ask); err != nil {
		return nil, err
	}
	st, err := n.ledger.Read(ctx)
	if err != nil {
		return nil, err
	}
	if o := st.Order; o == nil || o.ID != ask.ID || o.Restore == nil || st.Offline == nil || st.Primary.Store != n.spool.Store() || n.primaryRun() == nil {
		return nil, fmt.Errorf("%s has no clients to shut out for this order", n.cfg.Name)
	}
	// Whoever locks the doors also opens them when the order is withdrawn.
	for !n.agent.ShutOut(*st.Offline) {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s has not locked its clients out: %w", n.cfg.Name, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if _, err := n.server.TerminateSessions(ctx); err != nil {
		return nil, err
	}
	if left, err := n.server.Sessions(ctx); err != nil || left > 0 {
		return nil, errors.Join(fmt.Errorf("%d clients are still there", left), err)
	}
	f, err := n.server.Facts(ctx)
	if err != nil {
		return nil, err
	}
	if !n.agent.ShutOut(*st.Offline) {
		return nil, fmt.Errorf("%s lets clients in again", n.cfg.Name)
	}
	return json.Marshal(shutAnswer{f.Flush})
}

// watchRestore carries an order to restore the group with this node up to where
// the primary stops.
func (n *Node) watchRestore(ctx context.Context) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var since time.Time
	id := ""
	for {
		st := n.ledger.State()
		if o := st.Order; n.server != nil && o != nil && o.Kind == facts.OrderRestore && !o.Reformed && o.To == n.spool.Store() && o.Restore.Stage == facts.RestoreDraining {
			if o.ID != id {
				id, since = o.ID, time.Now()
			}
			err := n.drain(ctx, st, *o, time.Since(since))
			n.restore.set(func(d *doc.GroupRestore) { d.Step, d.Problem = "draining", problemText(err) })
		}
		n.afterWithdrawal(st)
		select {
		case <-ctx.Done():
			return
		case <-n.ledger.Changed():
		case <-tick.C:
		}
	}
}

// afterWithdrawal gives the store up of a node whose own log was overwritten for
// a restore that was withdrawn: it has vouched for log that it lacks now.
func (n *Node) afterWithdrawal(st facts.State) {
	if n.server == nil || !st.Founded() || !n.agent.GivenUp() || n.restore.gone {
		return
	}
	if o, ok := st.Restoring(); ok && o.To == n.spool.Store() {
		return
	}
	rctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	st, err := n.ledger.Read(rctx) // its own state may be of before the order
	if err != nil {
		return
	}
	if o, ok := st.Restoring(); ok && o.To == n.spool.Store() {
		return
	}
	why := "the restore of the group was withdrawn after this node's database had been overwritten"
	if err := n.renew(renewal{Why: why, Joins: n.named.get()}); err != nil {
		n.log.Error("give the store up", "error", err)
		return
	}
	n.restore.gone = true
	n.notify("store-given-up", facts.SeverityError, why+"; it begins anew", st.Primary.Epoch)
	n.later(errRenewKeep)
}

func problemText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// drain takes one step towards a stop of the primary: what waits is asked again.
func (n *Node) drain(ctx context.Context, st facts.State, o facts.Order, waited time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	r := *o.Restore
	var open error
	switch {
	case st.Primary.Phase != facts.PhaseOpened:
		open = errors.New("the primary was lost before its last log was saved")
	case r.Upto == 0:
		at, err := n.shut(ctx, st, o)
		if err == nil {
			return n.advance(ctx, o, facts.AdvanceRestore{Stage: facts.RestoreDraining, Upto: at})
		}
		open = err
	default:
		if lacking := lackLog(st, r.Upto); len(lacking) > 0 {
			open = fmt.Errorf("the log up to %s is not at %s yet", r.Upto, strings.Join(lacking, ", "))
		}
	}
	switch {
	case open == nil, waited > r.Wait && r.Unarchived:
		return n.advance(ctx, o, facts.AdvanceRestore{Stage: facts.RestoreStopping})
	case waited > r.Wait:
		return n.giveUpRestore(ctx, o, fmt.Errorf("%w after %s", open, r.Wait))
	}
	return open
}

// shut asks the primary, which may be this node.
func (n *Node) shut(ctx context.Context, st facts.State, o facts.Order) (pos.LSN, error) {
	body, err := json.Marshal(shutAsk{o.ID})
	if err != nil {
		return 0, err
	}
	if st.Primary.Store == n.spool.Store() {
		body, err = n.handleShut(ctx, body)
	} else {
		body, err = n.control.ask(ctx, st.Members[st.Primary.Store].Address, opRestoreShut, body)
	}
	var a shutAnswer
	if err == nil {
		err = json.Unmarshal(body, &a)
	}
	if err == nil && a.Flush == 0 {
		err = errors.New("the primary does not say where its log ends")
	}
	return a.Flush, err
}

// lackLog are the enabled locations that do not have the log of the present
// history up to a byte.
func lackLog(st facts.State, upto pos.LSN) []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(st.Policy.Locations)) {
		p := st.Policy.Locations[name]
		if p.Disabled || p.Tier == facts.TierCold {
			continue
		}
		if span, ok := newestSpan(st, name); !ok || span.To < upto {
			out = append(out, name)
		}
	}
	return out
}

func (n *Node) advance(ctx context.Context, o facts.Order, c facts.AdvanceRestore) error {
	c.ID = o.ID
	_, err := n.ledger.Propose(ctx, facts.Command{AdvanceRestore: &c})
	return err
}

// giveUpRestore withdraws the order before anything of it was destroyed here.
func (n *Node) giveUpRestore(ctx context.Context, o facts.Order, why error) error {
	text := why.Error()
	n.notify("restore-refused", facts.SeverityError, "the restore of the group was given up, nothing has changed: "+text, o.Epoch)
	_, err := n.ledger.Propose(ctx, facts.Command{ClearOrder: &facts.ClearOrder{ID: o.ID, Why: text[:min(len(text), 2000)]}})
	return err
}
