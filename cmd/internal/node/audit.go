package node

import (
	"context"
	"time"

	"understudy/ledger/audit"
)

// keepAudit writes the group's audit down on this node, as the ledger tells it.
func (n *Node) keepAudit(ctx context.Context) {
	f, err := audit.Open(n.AuditFile())
	if err != nil {
		n.log.Error("open the audit", "error", err)
		return
	}
	defer f.Close()
	if why := f.Problem(); why != "" {
		n.log.Warn("the audit of this node had to be set aside", "why", why)
	}
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
		}
	}
}
