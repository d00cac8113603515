package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	_, err = n.ledger.Propose(ctx, facts.Command{Kind: facts.CmdSetPolicy, SetPolicy: &facts.SetPolicy{Expect: expect, Policy: p}})
	var refused *ledger.RefusedError
	switch {
	case errors.As(err, &refused):
		return facts.Policy{}, &admin.ActionError{Code: admin.CodeRefused, Text: refused.Text + "; nothing was changed."}
	case err != nil:
		return facts.Policy{}, fmt.Errorf("it is not known whether the policy was changed, look at it again: %w", err)
	}
	p.Version = expect + 1
	n.awaitPolicy(ctx, p.Version)
	return p, nil
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
