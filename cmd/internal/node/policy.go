package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/ledger"
	"understudy/ledger/facts"
)

// policySeen bounds the wait for this node's own copy of a change that is
// durable already.
const policySeen = 2 * time.Second

// policy is the policy in force, as this node knows it.
func (n *Node) policy() (facts.Policy, error) {
	st := n.ledger.State()
	if !st.Founded() {
		return facts.Policy{}, &admin.ActionError{Code: admin.CodeRefused, Text: n.cfg.Name + " knows of no group yet, so there is no policy."}
	}
	return st.Policy, nil
}

// applyPolicy replaces the policy of version args["expect"] by args["policy"]
// and returns what is in force then.
func (n *Node) applyPolicy(ctx context.Context, args map[string]string) (facts.Policy, error) {
	expect, err := strconv.ParseUint(args["expect"], 10, 64)
	if err != nil {
		return facts.Policy{}, &admin.ActionError{Code: admin.CodeBadArgument, Text: "expect must be the version of the policy that is to be replaced."}
	}
	var p facts.Policy
	dec := json.NewDecoder(strings.NewReader(args["policy"]))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return facts.Policy{}, &admin.ActionError{Code: admin.CodeBadArgument, Text: "policy must be a JSON object with the fields of the policy."}
	}
	if _, err := n.policy(); err != nil {
		return facts.Policy{}, err
	}
	if why := unknownNodes(n.newest(ctx), p); why != "" {
		return facts.Policy{}, refusedAction(why + "; nothing was changed")
	}
	p, err = n.setPolicy(ctx, expect, p)
	var refused *ledger.RefusedError
	switch {
	case errors.As(err, &refused):
		return facts.Policy{}, &admin.ActionError{Code: admin.CodeRefused, Text: refused.Text + "; nothing was changed."}
	case err != nil:
		return facts.Policy{}, fmt.Errorf("it is not known whether the policy was changed, look at it again: %w", err)
	}
	return p, nil
}

// newest is the ledger's state, confirmed where a majority can be asked.
func (n *Node) newest(ctx context.Context) facts.State {
	ctx, cancel := context.WithTimeout(ctx, policySeen)
	defer cancel()
	st, err := n.ledger.Read(ctx)
	if err != nil {
		return n.ledger.State()
	}
	return st
}

// setPolicy replaces the policy of version expect, and returns what is in force
// then.
func (n *Node) setPolicy(ctx context.Context, expect uint64, p facts.Policy) (facts.Policy, error) {
	if _, err := n.ledger.Propose(ctx, facts.Command{Kind: facts.CmdSetPolicy, SetPolicy: &facts.SetPolicy{Expect: expect, Policy: p}}); err != nil {
		return p, err
	}
	p.Version = expect + 1
	n.awaitPolicy(ctx, p.Version)
	return p, nil
}

// unknownNodes says which nodes a policy says something new of that are none of
// the group's; "" when there are none. What it says of one that has left stays
// until it is taken back.
func unknownNodes(st facts.State, p facts.Policy) string {
	var unknown []string
	for name, np := range p.Nodes {
		if _, ok := st.MemberByName(name); !ok && st.Policy.Of(name) != np {
			unknown = append(unknown, strconv.Quote(name))
		}
	}
	for _, l := range p.Locations {
		if _, ok := st.MemberByName(l.Node); l.Node != "" && !ok {
			unknown = append(unknown, strconv.Quote(l.Node))
		}
	}
	if len(unknown) == 0 {
		return ""
	}
	slices.Sort(unknown)
	unknown = slices.Compact(unknown)
	return fmt.Sprintf("the group has no node %s; it has %s", strings.Join(unknown, " and "), strings.Join(memberNames(st), ", "))
}

// memberNames are the names of the group's nodes, sorted.
func memberNames(st facts.State) []string {
	var out []string
	for _, m := range st.Members {
		out = append(out, m.Name)
	}
	slices.Sort(out)
	return out
}

// awaitPolicy waits until this node's copy of the ledger has the policy, so
// that what it is asked next is answered with it.
func (n *Node) awaitPolicy(ctx context.Context, version uint64) {
	ctx, cancel := context.WithTimeout(ctx, policySeen)
	defer cancel()
	stop := n.ledger.Subscribe(func(st facts.State, _ []facts.Event) {
		if st.Policy.Version >= version {
			cancel()
		}
	})
	defer stop()
	<-ctx.Done()
}
