package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/configs"
	"understudy/failover/decide"
	"understudy/failover/role"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// observe is what this node knows, for an operator's command. The ledger's
// state is confirmed where a majority can be asked.
func (n *Node) observe(ctx context.Context) decide.Observation {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	st, err := n.ledger.Read(ctx)
	if err != nil {
		st = n.known()
	}
	return decide.Observation{Now: time.Now(), SelfStore: n.spool.Store(), State: st, Reports: n.reports()}
}

// known is the newest state that this node has, also when it was started alone:
// Raft reads nothing back before a leader says what was committed.
func (n *Node) known() facts.State {
	if st := n.ledger.State(); st.Founded() {
		return st
	}
	b, err := os.ReadFile(knownFile(n.cfg))
	if err != nil {
		return facts.State{}
	}
	st, err := facts.Decode(b)
	if err != nil || st.Group.ID != n.creds.Identity().Group {
		n.log.Warn("read the last known state", "error", err)
		return facts.State{}
	}
	if own := n.named.get(); own.ID != "" && own.ID != st.Group.LedgerID {
		return facts.State{} // of a ledger that this node gave up
	}
	return st
}

func knownFile(cfg *configs.Node) string { return filepath.Join(cfg.StateDir, "known.json") }

// keepKnown writes the newest state down for known.
func (n *Node) keepKnown(st facts.State) {
	if !st.Founded() {
		return
	}
	b, err := facts.Encode(st)
	if err == nil {
		tmp := knownFile(n.cfg) + ".tmp"
		if err = os.WriteFile(tmp, b, 0o600); err == nil {
			err = os.Rename(tmp, knownFile(n.cfg))
		}
	}
	if err != nil {
		n.log.Warn("write the known state down", "error", err)
	}
}

func refusedAction(text string) error {
	return &admin.ActionError{Code: admin.CodeRefused, Text: strings.TrimSuffix(text, ".") + "."}
}

func (n *Node) orderSwitchover(ctx context.Context, args map[string]string) (doc.OrderReply, error) {
	o := n.observe(ctx)
	req := decide.PlanSwitchover(o, args["to"])
	if req.Refused != "" {
		return doc.OrderReply{}, refusedAction(req.Refused)
	}
	return n.order(ctx, o, req, facts.ChangeSwitchover, args)
}

func (n *Node) orderFailover(ctx context.Context, args map[string]string) (doc.OrderReply, error) {
	o := n.observe(ctx)
	req := decide.PlanFailover(o, args["to"], args["force"] == "true")
	if req.Refused != "" {
		return doc.OrderReply{}, refusedAction(req.Refused)
	}
	return n.order(ctx, o, req, facts.ChangeFailover, args)
}

// order records what was planned, or only says what it would do.
func (n *Node) order(ctx context.Context, o decide.Observation, req decide.Request, kind facts.ChangeKind, args map[string]string) (doc.OrderReply, error) {
	rep := doc.OrderReply{Kind: string(kind), From: req.From, To: req.To, Steps: req.Steps, Statement: req.Statement, After: before(o.State.Primary)}
	if args["dry_run"] == "true" {
		return rep, nil
	}
	if req.Statement != "" && args["confirm"] != req.Statement {
		if args["confirm"] != "" {
			return rep, refusedAction("what was confirmed is not what would happen now; look at it again")
		}
		return rep, nil
	}
	if req.Reform {
		if err := n.beginReform(req.Statement); err != nil {
			return rep, err
		}
		rep.Started, rep.ID = true, o.State.NextGeneration().String()
		return rep, nil
	}
	if old := o.State.Order; old != nil { // a forced one replaces what stands
		if err := n.propose(ctx, facts.Command{ClearOrder: &facts.ClearOrder{ID: old.ID, Why: "replaced by the operator"}}); err != nil {
			return rep, err
		}
	}
	ord := *req.Order
	ord.ID = randomID()
	if err := n.propose(ctx, facts.Command{SetOrder: &facts.SetOrder{Expect: o.State.Primary.Version, Order: ord}}); err != nil {
		return rep, err
	}
	rep.ID, rep.Started = ord.ID, true
	return rep, nil
}

// before is the newest epoch that is over for an order given now: one that is
// still being fenced may be the one in which it is carried out.
func before(p facts.Primaryship) pos.Epoch {
	e := p.Epoch
	if p.Phase == facts.PhaseFencing && e.Num > 0 {
		e.Num--
	}
	return e
}

// propose turns the ledger's refusal into one of the command.
func (n *Node) propose(ctx context.Context, c facts.Command) error {
	_, err := n.ledger.Propose(ctx, c)
	var refused *ledger.RefusedError
	switch {
	case errors.As(err, &refused):
		return refusedAction(refused.Text)
	case errors.Is(err, ledger.ErrNoLeader):
		return refusedAction("the ledger has no leader that can be reached; nothing was done as far as is known, look at: understudy status")
	}
	return err
}

func (n *Node) orderOffline(ctx context.Context, action string, args map[string]string) (doc.OrderReply, error) {
	o := n.observe(ctx)
	if !o.State.Founded() {
		return doc.OrderReply{}, refusedAction("this node knows of no group yet")
	}
	rep := doc.OrderReply{Kind: action, After: o.State.Primary.Epoch}
	c := facts.SetOffline{Offline: action == "offline"}
	if c.Offline {
		c.Wait = 30 * time.Second
		if w := args["wait"]; w != "" {
			d, err := time.ParseDuration(w)
			if err != nil || d < 0 {
				return rep, &admin.ActionError{Code: admin.CodeBadArgument, Text: "wait must be a duration such as 30s."}
			}
			c.Wait = d
		}
		rep.Steps = []string{"New clients of the primary are refused.", fmt.Sprintf("Those that are connected have %s to leave, then they are cut off.", c.Wait)}
	} else {
		rep.Steps = []string{"Clients are let in again."}
	}
	if args["dry_run"] == "true" {
		return rep, nil
	}
	if err := n.propose(ctx, facts.Command{SetOffline: &c}); err != nil {
		return rep, err
	}
	rep.Started = true
	return rep, nil
}

// reseedAsk is what a node is asked to do with its own database.
type reseedAsk struct {
	Method string `json:"method"`
}

func (n *Node) orderReseed(ctx context.Context, args map[string]string) (doc.OrderReply, error) {
	o := n.observe(ctx)
	rep := doc.OrderReply{Kind: doc.KindReseed, To: args["node"], After: o.State.Primary.Epoch}
	m, ok := o.State.MemberByName(args["node"])
	method := args["method"]
	if method == "" {
		method = string(role.MethodDelta)
	}
	switch {
	case !ok:
		return rep, refusedAction(fmt.Sprintf("the group has no node %q", args["node"]))
	case m.Kind != facts.KindData:
		return rep, refusedAction(m.Name + " has no PostgreSQL")
	case m.Store == o.State.Primary.Store:
		return rep, refusedAction(m.Name + " is the primary; hand its role over first with: understudy switchover")
	case o.State.Primary.Phase != facts.PhaseOpened:
		return rep, refusedAction("no primary is open to be seeded from")
	case !slices.Contains(role.Methods(), role.Method(method)):
		return rep, &admin.ActionError{Code: admin.CodeBadArgument, Text: fmt.Sprintf("method %q is none of %v.", method, role.Methods())}
	}
	rep.From = o.State.Primary.Node
	rep.Steps = []string{
		fmt.Sprintf("PostgreSQL of %s stops; its readers are cut off. Commits go on with the others.", m.Name),
		fmt.Sprintf("Its database is brought back by %s, or by what follows when that is not possible.", method),
		fmt.Sprintf("%s follows %s again.", m.Name, rep.From),
	}
	if args["dry_run"] == "true" {
		return rep, nil
	}
	body, err := json.Marshal(reseedAsk{method})
	if err != nil {
		return rep, err
	}
	if m.Store == n.spool.Store() {
		_, err = n.handleReseed(ctx, body)
	} else {
		_, err = n.control.ask(ctx, m.Address, "reseed", body)
	}
	if err != nil {
		return rep, refusedAction(fmt.Sprintf("%s did not take the order: %v", m.Name, err))
	}
	rep.Started = true
	return rep, nil
}

// handleReseed brings this node's own database back by a method.
func (n *Node) handleReseed(ctx context.Context, body []byte) ([]byte, error) {
	var ask reseedAsk
	if err := json.Unmarshal(body, &ask); err != nil {
		return nil, err
	}
	if n.server == nil || !slices.Contains(role.Methods(), role.Method(ask.Method)) {
		return nil, fmt.Errorf("%s cannot be reseeded by %q", n.cfg.Name, ask.Method)
	}
	st, err := n.ledger.Read(ctx)
	if err != nil {
		return nil, err
	}
	if st.Primary.Store == n.spool.Store() || st.Primary.Phase != facts.PhaseOpened {
		return nil, fmt.Errorf("%s is the primary, or none is open", n.cfg.Name)
	}
	return []byte("{}"), n.agent.Reseed(role.Method(ask.Method), st)
}
