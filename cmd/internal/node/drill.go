package node

import (
	"understudy/cmd/internal/worker"
	"understudy/ledger/facts"
)

// drillPart is what a restore is tried out with.
func (n *Node) drillPart(st facts.State, j facts.Job, s *worker.Spec) error {
	s.Drill = &worker.Drill{Target: j.Target, ConnString: n.server.DSN(false), BinDir: n.cfg.PostgreSQL.BinDir, Account: n.cfg.PostgreSQL.Account, TimeZone: st.Policy.Backups().TimeZone}
	return nil
}
