package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"understudy/ledger/audit"
	"understudy/ledger/facts"
)

// auditFile is this node's copy of the audit while it is open.
type auditFile struct{ atomic.Pointer[audit.File] }

// keepAudit writes the group's audit down on this node, as the ledger tells it,
// and fills in what it missed while it was away.
func (n *Node) keepAudit(ctx context.Context) {
	f, err := audit.Open(n.AuditFile())
	if err != nil {
		n.log.Error("open the audit", "error", err)
		return
	}
	defer f.Close()
	n.audit.Store(f)
	defer n.audit.Store(nil)
	if why := f.Problem(); why != "" {
		n.log.Warn("the audit of this node had to be set aside", "why", why)
	}
	fill := time.NewTicker(holeEvery)
	defer fill.Stop()
	for {
		changed := n.ledger.Changed()
		if st := n.ledger.State(); st.Founded() {
			if err := f.Follow(st); err != nil {
				n.log.Warn("write the audit", "error", err)
				select {
				case <-ctx.Done():
					return
				case <-time.After(time.Second):
				}
				continue
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-fill.C:
			fillAudit(ctx, f, n.auditPeers(), n.log)
		}
	}
}

const (
	// opAudit asks another node for entries of the audit.
	opAudit = "audit"
	// holeEvery is how often a node asks the others for what it missed.
	holeEvery = 30 * time.Second
	// holeAsk bounds the wait for an answer, and holeAsks is how often it asks at
	// once: what is left comes the next time.
	holeAsk  = 5 * time.Second
	holeAsks = 20
	// auditEntries and auditBytes bound an answer, which shares its connection
	// with reports.
	auditEntries = 128
	auditBytes   = 128 << 10
)

// auditAsk asks for entries up to To, none of them before From.
type auditAsk struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"`
}

// handleAudit gives another node entries that it missed.
func (n *Node) handleAudit(body []byte) ([]byte, error) {
	var q auditAsk
	if err := json.Unmarshal(body, &q); err != nil {
		return nil, err
	}
	f := n.audit.Load()
	if f == nil {
		return nil, errors.New("the audit is not open")
	}
	if q.To >= auditEntries {
		q.From = max(q.From, q.To-auditEntries+1)
	}
	entries, err := f.Last(q.From, q.To)
	if err != nil {
		return nil, err
	}
	for {
		b, err := json.Marshal(entries)
		if err != nil || len(b) <= auditBytes || len(entries) <= 1 {
			return b, err
		}
		entries = entries[len(entries)/2:]
	}
}

// auditPeer is another node as one that has entries.
type auditPeer struct {
	name string
	ask  func(context.Context, auditAsk) ([]facts.AuditEntry, error)
}

func (n *Node) auditPeers() (out []auditPeer) {
	for _, m := range n.others() {
		out = append(out, auditPeer{m.Name, func(ctx context.Context, q auditAsk) ([]facts.AuditEntry, error) { return n.askAudit(ctx, m, q) }})
	}
	return out
}

// fillAudit asks other nodes for the entries that this one missed.
func fillAudit(ctx context.Context, f *audit.File, peers []auditPeer, log *slog.Logger) {
	for range holeAsks {
		holes, err := f.Holes()
		if err != nil {
			log.Warn("look for holes in the audit", "error", err)
			return
		}
		if !fillHole(ctx, f, holes, peers, log) {
			return
		}
	}
}

// fillHole fills one of the holes, or a part of it; false when there is none
// that anybody can fill.
func fillHole(ctx context.Context, f *audit.File, holes []audit.Hole, peers []auditPeer, log *slog.Logger) bool {
	for _, h := range holes {
		for _, p := range peers {
			entries, err := p.ask(ctx, auditAsk{h.From, h.To})
			if err != nil || len(entries) == 0 {
				log.Debug("ask for entries of the audit", "from", p.name, "error", err)
				continue
			}
			if err := f.Fill(entries); err != nil {
				log.Warn("fill the audit", "from", p.name, "error", err)
				continue
			}
			log.Info("filled in what was missing of the audit", "from", p.name, "first", entries[0].N, "last", h.To)
			return true
		}
	}
	return false
}

func (n *Node) askAudit(ctx context.Context, m facts.Member, q auditAsk) ([]facts.AuditEntry, error) {
	ctx, cancel := context.WithTimeout(ctx, holeAsk)
	defer cancel()
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	answer, err := n.control.ask(ctx, m.Address, opAudit, body)
	if err != nil {
		return nil, err
	}
	var entries []facts.AuditEntry
	if err := json.Unmarshal(answer, &entries); err != nil {
		return nil, fmt.Errorf("read entries of the audit: %w", err)
	}
	return entries, nil
}
