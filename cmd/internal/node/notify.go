package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"understudy/cmd/internal/eventlog"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// notify records an event of this node.
func (n *Node) notify(kind, severity, text string, epoch pos.Epoch) {
	n.events.Add(eventlog.Event{Kind: kind, Node: n.cfg.Name, Severity: severity, Text: text, Epoch: epoch})
	if n.control != nil {
		n.control.hurry()
	}
}

// ledgerEvents records the group's own events, once each: a restart replays
// the ledger since its last snapshot, so the newest version told is kept.
func (n *Node) ledgerEvents() func(facts.State, []facts.Event) {
	path := filepath.Join(n.cfg.StateDir, "events.seen")
	b, _ := os.ReadFile(path)
	seen, _ := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 64)
	return func(st facts.State, events []facts.Event) {
		n.keepKnown(st)
		before := seen
		for _, e := range events {
			if e.Version <= before {
				continue
			}
			seen = max(seen, e.Version)
			n.keepDecision(e.Decision)
			n.events.Add(eventlog.Event{Kind: e.Kind, Node: e.Node, Severity: e.Severity, Text: e.Text, Epoch: e.Epoch, At: e.At})
		}
		if seen > before {
			if err := os.WriteFile(path, []byte(strconv.FormatUint(seen, 10)+"\n"), 0o600); err != nil {
				n.log.Warn("note the newest event", "error", err)
			}
		}
	}
}
