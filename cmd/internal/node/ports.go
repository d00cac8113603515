package node

import (
	"context"

	"understudy/failover/decide"
	"understudy/ledger"
	"understudy/ledger/facts"
)

// ledgerPort gives the control plane its view of the ledger.
type ledgerPort struct{ l *ledger.Ledger }

func (p ledgerPort) State() facts.State                            { return p.l.State() }
func (p ledgerPort) Changed() <-chan struct{}                      { return p.l.Changed() }
func (p ledgerPort) Read(ctx context.Context) (facts.State, error) { return p.l.Read(ctx) }
func (p ledgerPort) Propose(ctx context.Context, c facts.Command) (facts.Outcome, error) {
	return p.l.Propose(ctx, c)
}

func (p ledgerPort) Leader() (string, bool) {
	store, _, self := p.l.Leader()
	return store, self
}

func (p ledgerPort) Servers() ([]decide.RaftServer, error) {
	var out []decide.RaftServer
	for _, s := range p.l.Servers() {
		out = append(out, decide.RaftServer{Store: s.Store, Address: s.Addr, Voter: s.Voter})
	}
	return out, nil
}

func (p ledgerPort) AddServer(ctx context.Context, s decide.RaftServer) error {
	return p.l.AddServer(ctx, s.Store, s.Address, s.Voter)
}

func (p ledgerPort) RemoveServer(ctx context.Context, store string) error {
	return p.l.RemoveServer(ctx, store)
}

func (p ledgerPort) Transfer(ctx context.Context, store string) error {
	return p.l.TransferLeadership(ctx, store)
}
