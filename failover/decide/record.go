package decide

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"understudy/ledger/facts"
)

// Record is a decision as it is stored: everything it was made from, so that
// it can be made again, and everything a person may ask.
type Record struct {
	ID          string      `json:"id"`
	At          time.Time   `json:"at"`
	Node        string      `json:"node"` // that decided
	Rule        string      `json:"rule"`
	Why         string      `json:"why"`
	Actions     []string    `json:"actions"`
	Evidence    []Evidence  `json:"evidence"`
	Rejected    []Rejected  `json:"rejected"`
	Observation Observation `json:"observation"`
}

// Kept tells whether a plan is one that people ask about: it moves the
// primaryship, or nearly.
func (p Plan) Kept() bool { return p.Evidence != nil }

// ID names the decision that would be made from an observation.
func (o Observation) ID() string { return strconv.FormatUint(o.State.Version+1, 10) }

// NewRecord is the record of a plan. What no rule looks at is left out of the
// observation.
func NewRecord(o Observation, p Plan) Record {
	o.State.Recent, o.State.Changes = nil, nil
	o.State.Backups, o.State.Audit = facts.Backups{}, facts.Audit{}
	o.State.Policy.Backup, o.State.Policy.Locations = facts.BackupPolicy{}, nil
	r := Record{ID: o.ID(), At: o.Now, Node: o.name(o.SelfStore), Rule: p.Rule, Why: p.Why, Evidence: p.Evidence, Rejected: p.Rejected, Observation: o}
	for _, a := range p.Actions {
		r.Actions = append(r.Actions, a.String())
	}
	return r
}

// Meaning is what a rule does, in words.
func Meaning(rule string) string {
	for _, r := range Rules() {
		if r.ID == rule {
			return r.Then
		}
	}
	return ""
}

// String is an action in words.
func (a Action) String() string {
	switch {
	case a.Command != nil:
		c := *a.Command
		c.Decision = nil
		b, err := json.Marshal(c)
		if err != nil {
			return string(c.Kind)
		}
		return fmt.Sprintf("%s %s", kindOf(c), b)
	case a.RaftAdd != nil:
		return fmt.Sprintf("ledger server %s at %s, vote %t", a.RaftAdd.Store, a.RaftAdd.Address, a.RaftAdd.Voter)
	case a.RaftRemove != "":
		return "remove ledger server " + a.RaftRemove
	case a.Transfer != "":
		return "hand ledger leadership to " + a.Transfer
	}
	return "nothing"
}

func kindOf(c facts.Command) facts.CommandKind {
	if n, err := c.Normalize(); err == nil {
		return n.Kind
	}
	return c.Kind
}
