package node

import (
	"context"
	"log/slog"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/configs"
	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
	"understudy/shipper/spool"
)

// Planner is a node of which only the ledger works, for commands.
type Planner struct{ n *Node }

// NewPlanner founds a group of one. Close ends it.
func NewPlanner(ctx context.Context, cfg *configs.Node, sp *spool.Spool) (Planner, error) {
	log := slog.New(slog.DiscardHandler)
	l, err := ledger.Open(ledger.Config{Dir: raftDir(cfg), Store: sp.Store(), Advertise: "n:1", Stream: newSilent("n:1"), Log: log})
	if err != nil {
		return Planner{}, err
	}
	c := newControl(cfg.Name, nil, log)
	c.report = func() decide.Report { return decide.Report{Node: cfg.Name, Store: sp.Store()} }
	n := &Node{cfg: cfg, ledger: l, spool: sp, control: c, named: &identity{}, log: log}
	return Planner{n}, l.Found(ctx, facts.Found{
		Group:  facts.Group{ID: "g", Name: "g", LedgerID: "l", SystemID: 1, PGMajor: 15, SegSize: 16 << 20, FoundedAt: time.Now()},
		Member: facts.Member{Name: cfg.Name, Store: sp.Store(), Kind: facts.KindData, Address: "n:1"},
	})
}

// Do carries out a planned action.
func (p Planner) Do(ctx context.Context, action string, args map[string]string) (any, bool, error) {
	return p.n.planned(ctx, action, args)
}

// Apply is the command policy-apply.
func (p Planner) Apply(ctx context.Context, args map[string]string) (facts.Policy, error) {
	return p.n.applyPolicy(ctx, args)
}

// State is the ledger's.
func (p Planner) State() facts.State { return p.n.ledger.State() }

// Propose puts a command into the ledger.
func (p Planner) Propose(ctx context.Context, c facts.Command) error { return p.n.propose(ctx, c) }

// Close ends the ledger.
func (p Planner) Close() error { return p.n.ledger.Close() }

// ParseAt reads a time.
func ParseAt(text string, now time.Time) (time.Time, error) { return parseAt(text, now) }

// PlanSchedule is what to record for a switchover at a time.
func PlanSchedule(o decide.Observation, args map[string]string) (doc.OrderReply, facts.Scheduled, error) {
	return planSchedule(o, args)
}

// ChangeDoc is a change as the API tells it.
func ChangeDoc(c facts.Change) doc.Change { return changeDoc(c) }
