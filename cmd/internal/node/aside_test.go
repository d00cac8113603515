package node_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/cmd/internal/doc"
	"understudy/cmd/internal/node"
	"understudy/ledger/facts"
)

func TestAsideNow(t *testing.T) {
	st := facts.State{}
	st.Primary.Phase = facts.PhaseOpened
	st.Audit.Newest = []facts.AuditEntry{{At: backupNow.Add(-time.Hour)}, {At: backupNow}}
	for name, tt := range map[string]struct {
		change func(*facts.State)
		ahead  time.Duration // of this host
		want   time.Duration // after backupNow
		ok     bool
	}{
		"Right":       {nil, time.Second, 0, true},
		"HostJumps":   {nil, 365 * 24 * time.Hour, 0, true},
		"LeaderJumps": {nil, -365 * 24 * time.Hour, -365 * 24 * time.Hour, true},
		"NoAudit":     {func(st *facts.State) { st.Audit.Newest = nil }, 0, 0, false},
		"Order":       {func(st *facts.State) { st.Order = &facts.Order{} }, 0, 0, false},
		"NoPrimary":   {func(st *facts.State) { st.Primary.Phase = facts.PhaseFencing }, 0, 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := st
			if tt.change != nil {
				tt.change(&s)
			}
			got, ok := node.AsideNow(s, backupNow.Add(tt.ahead))
			if ok != tt.ok || ok && !got.Equal(backupNow.Add(tt.want)) {
				t.Errorf("got %s, %v", got, ok)
			}
		})
	}
}

// The plan of a clean-up also tells what the node itself forgets next.
func TestBackupOrder_PruneTellsWhatIsForgotten(t *testing.T) {
	p, _ := backupPlanner(t)
	for _, at := range []time.Time{time.Now().AddDate(0, -6, 0), time.Now().AddDate(0, -3, -3), time.Now()} {
		dir := filepath.Join(p.StateDir(), "lost-"+at.UTC().Format("20060102T150405.000"))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if steps := strings.Join(do[doc.JobsReply](t, p, "prune", "dry_run=true").Steps, " "); strings.Contains(steps, "aside") {
		t.Errorf("while no primary is open: %s", steps)
	}
	steps := p.AsideSteps(facts.PhaseOpened)
	if len(steps) != 1 || !strings.HasSuffix(steps[0], "itself forgets what it had put aside: 2 stores that were given up (0 B), kept for 90 days.") {
		t.Errorf("got %q", steps)
	}
}
