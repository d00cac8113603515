package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

// Quarantine moves aside what lies in the local pg_wal and is not of the
// received log's history: histories and segments of promotions that came to
// nothing. PostgreSQL would follow them by itself.
func (p *plane) Quarantine(c pgctl.Control) error {
	m := p.n.spool.Meta()
	if m.Base == 0 || len(m.Lineage) == 0 {
		return nil
	}
	known := map[pos.Timeline]bool{c.Timeline: true, c.MinRecoveryTimeline: true}
	for _, e := range written(m.Lineage, p.n.spool.End()) {
		known[e.Timeline] = true
	}
	entries, err := os.ReadDir(p.walDir())
	if err != nil {
		return err
	}
	aside := filepath.Join(p.n.cfg.StateDir, "quarantine")
	moved := 0
	for _, e := range entries {
		t, ok := timelineOf(e.Name(), m.SegSize)
		if !ok || known[t] || t < m.Lineage[0].Timeline {
			continue
		}
		if err := moveAside(p.walDir(), aside, e.Name()); err != nil {
			return fmt.Errorf("move %s out of pg_wal: %w", e.Name(), err)
		}
		moved++
	}
	if moved == 0 {
		return nil
	}
	p.n.log.Warn("moved files of another history out of pg_wal", "files", moved, "to", aside)
	return errors.Join(syncFile(p.walDir()), syncFile(aside))
}

// written are the entries of a history that a log up to end has bytes of. One
// that nobody wrote in is no part of any server's history.
func written(l pos.Lineage, end pos.LSN) pos.Lineage {
	var out pos.Lineage
	for i, e := range l {
		next := end
		if i+1 < len(l) {
			next = min(next, l[i+1].Start)
		}
		if i == 0 || e.Start < next || e.Timeline == l[i-1].Timeline && len(out) > 0 && out.Last().Timeline == e.Timeline {
			out = append(out, e)
		}
	}
	return out
}

func timelineOf(name string, segSize int64) (pos.Timeline, bool) {
	if t, ok := historyTimeline(name); ok {
		return t, true
	}
	t, _, err := pos.ParseSegName(strings.TrimSuffix(name, ".partial"), segSize)
	return t, err == nil
}

// historyTimeline reads the name of a history file.
func historyTimeline(name string) (pos.Timeline, bool) {
	hex, ok := strings.CutSuffix(name, ".history")
	if !ok || len(hex) != 8 {
		return 0, false
	}
	var t uint32
	if _, err := fmt.Sscanf(hex, "%08X", &t); err != nil || t == 0 {
		return 0, false
	}
	return pos.Timeline(t), true
}

// moveAside moves a file across file systems, durably.
func moveAside(from, to, name string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(from, name))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(to, name), b, 0o600); err != nil {
		return err
	}
	if err := syncFile(filepath.Join(to, name)); err != nil {
		return err
	}
	return os.Remove(filepath.Join(from, name))
}

// streamed is the history that a standby's PostgreSQL is shown: without
// timelines that were given out and never written on.
func streamed(l pos.Lineage) pos.Lineage {
	var out pos.Lineage
	for i, e := range l {
		if i+1 < len(l) && l[i+1].Start == e.Start && l[i+1].Timeline != e.Timeline && i > 0 {
			continue
		}
		out = append(out, e)
	}
	return out
}

// followed is the history that the local standby may follow now: without what
// this node was itself elected to begin. A standby that is being promoted and
// still finds the history of its own new timeline would take the next id.
func (n *Node) followed() pos.Lineage {
	// The mark holds also while this daemon's ledger is behind. An id that only
	// the cut would make the newest was never written on, and stays hidden.
	l := n.agent.Followed(streamed(n.spool.Lineage()))
	if p := n.ledger.State().Primary; p.Store == n.spool.Store() {
		for len(l) > 0 && !l.Last().Epoch.Less(p.Epoch) {
			l = l[:len(l)-1]
		}
	}
	return l
}

// history is the content of a timeline's history file: of those that the
// received log is of, and an empty one for ids that were used up.
func (n *Node) history(t pos.Timeline) ([]byte, bool) {
	l := n.followed()
	if len(l) == 0 || t > l.Last().Timeline {
		return nil, false
	}
	var lines []pgctl.HistoryLine
	found := false
	for i, e := range l {
		if e.Timeline > t {
			break
		}
		found = found || e.Timeline == t
		if i+1 < len(l) && l[i+1].Timeline > e.Timeline && l[i+1].Timeline <= t {
			lines = append(lines, pgctl.HistoryLine{Timeline: e.Timeline, End: l[i+1].Start, Reason: "promotion in epoch " + l[i+1].Epoch.String()})
		}
	}
	if !found {
		return nil, t > l[0].Timeline
	}
	return pgctl.RenderHistory(lines), true
}
