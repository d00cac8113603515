package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"time"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/doc"
	"understudy/failover/decide"
)

// Every node keeps the newest decisions about the primaryship, each with all
// that it was made from. They come with the ledger's commands, so that all
// nodes have them; one that was away has not those it missed.

const maxDecisions = 256

func (n *Node) decisionsDir() string { return filepath.Join(n.cfg.StateDir, "decisions") }

// keepDecision writes one down. It is for people: a failure is logged only.
func (n *Node) keepDecision(b json.RawMessage) {
	if len(b) == 0 {
		return
	}
	if err := n.writeDecision(b); err != nil {
		n.log.Warn("keep a decision", "error", err)
	}
}

func (n *Node) writeDecision(b []byte) error {
	var r decide.Record
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	id, err := strconv.ParseUint(r.ID, 10, 64)
	if err != nil {
		return fmt.Errorf("decision %q: %w", r.ID, err)
	}
	if err := os.MkdirAll(n.decisionsDir(), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(n.decisionsDir(), fmt.Sprintf("%d.json", id)), b, 0o600); err != nil {
		return err
	}
	ids, err := n.decisionIDs()
	if err != nil {
		return err
	}
	for len(ids) > maxDecisions {
		if err := os.Remove(filepath.Join(n.decisionsDir(), fmt.Sprintf("%d.json", ids[0]))); err != nil {
			return err
		}
		ids = ids[1:]
	}
	return nil
}

// decisionIDs are those of the kept decisions, oldest first.
func (n *Node) decisionIDs() ([]uint64, error) {
	entries, err := os.ReadDir(n.decisionsDir())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var ids []uint64
	for _, e := range entries {
		if id, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), ".json"), 10, 64); err == nil {
			ids = append(ids, id)
		}
	}
	sort.Slice(ids, func(i, j int) bool { return ids[i] < ids[j] })
	return ids, nil
}

func (n *Node) readDecision(id uint64) (decide.Record, error) {
	var r decide.Record
	b, err := os.ReadFile(filepath.Join(n.decisionsDir(), fmt.Sprintf("%d.json", id)))
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(b, &r)
}

// Plans lists the kept decisions.
func (n *Node) Plans(context.Context) (doc.Plans, error) {
	ids, err := n.decisionIDs()
	if err != nil {
		return doc.Plans{}, err
	}
	p := doc.Plans{Plans: []doc.PlanLine{}}
	for _, id := range ids {
		r, err := n.readDecision(id)
		if err != nil {
			return p, err
		}
		p.Plans = append(p.Plans, doc.PlanLine{ID: r.ID, At: r.At, Rule: r.Rule, Why: r.Why})
	}
	return p, nil
}

// Explain is one kept decision, the newest for an empty id.
func (n *Node) Explain(_ context.Context, id string) (doc.Explanation, error) {
	ids, err := n.decisionIDs()
	if err != nil {
		return doc.Explanation{}, err
	}
	want, perr := strconv.ParseUint(id, 10, 64)
	if id == "" && len(ids) > 0 {
		want, perr = ids[len(ids)-1], nil
	}
	if perr != nil || len(ids) == 0 {
		return doc.Explanation{}, &admin.ActionError{Code: "unknown-plan", Text: fmt.Sprintf("%s keeps no decision %q; list them with: understudy explain --list", n.cfg.Name, id)}
	}
	r, err := n.readDecision(want)
	if errors.Is(err, os.ErrNotExist) {
		return doc.Explanation{}, &admin.ActionError{Code: "unknown-plan", Text: fmt.Sprintf("%s keeps no decision %q; list them with: understudy explain --list", n.cfg.Name, id)}
	}
	if err != nil {
		return doc.Explanation{}, err
	}
	obs, err := json.Marshal(r.Observation)
	if err != nil {
		return doc.Explanation{}, err
	}
	e := doc.Explanation{ID: r.ID, At: r.At, Node: r.Node, Rule: r.Rule, RuleMeaning: decide.Meaning(r.Rule), Why: r.Why, Actions: r.Actions,
		Evidence: []doc.Evidence{}, Rejected: []doc.Rejected{}, Observation: obs}
	for _, x := range r.Evidence {
		e.Evidence = append(e.Evidence, doc.Evidence{Node: x.Node, Kind: x.Kind, Text: x.Text, AgeNS: int64(x.Age / time.Nanosecond)})
	}
	for _, x := range r.Rejected {
		e.Rejected = append(e.Rejected, doc.Rejected{What: x.What, Why: x.Why})
	}
	return e, nil
}
