package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// TestRoles_TimelineIsBurned kills a candidate after the ledger gave out an id
// and before the promotion. Nobody may ever write on that id: it is skipped, and
// who asks for its history is told that it has none.
func TestRoles_TimelineIsBurned(t *testing.T) {
	t.Parallel()
	g := healthy(t, cluster.WithFaults())
	w := g.Writers(t, 2)
	p, s := primaryAndStandby(t, g)
	s.Term(t)
	happened := s.FaultAt("promoting", "kill")
	s.Start(t)
	timeline := g.WaitHealthy(t).Group.Timeline

	g.Witness.WaitPossible(t, "switchover", "--to", s.Name)
	if out, code := g.Witness.Run(t, "switchover", "--to", s.Name); code != 1 {
		t.Errorf("a switchover to a node that was killed ended with %d: %s", code, out)
	}
	if _, err := os.Stat(happened); err != nil {
		t.Fatalf("%s was not killed at its promotion: %v", s.Name, err)
	}
	w.WaitMore(t, 20, 30*time.Second)
	if now := g.Primary(t); now != p {
		t.Fatalf("%s is primary, want %s, which can open again", now.Name, p.Name)
	}
	s.Start(t)
	burned := timeline + 1
	// It may have followed the candidate already, and was then promoted itself.
	reopened := g.WaitHealthy(t).Group.Timeline
	if reopened == burned {
		t.Errorf("%s opened on timeline %d, which was given to %s", p.Name, burned, s.Name)
	}
	c := g.Switchover(t, s)
	if want := max(burned, reopened) + 1; c.Timeline != want {
		t.Errorf("timeline %d, want %d: %d was given out before", c.Timeline, want, want-1)
	}
	c = g.WaitReturned(t, c.Epoch)
	w.WaitMore(t, 20, 20*time.Second)
	w.CheckNoneLost(t)
	cluster.Eventually(t, 10*time.Second, p.Name+" streaming", func() bool {
		return p.Query(t, "select status || ' ' || received_tli from pg_stat_wal_receiver") == fmt.Sprintf("streaming %d", c.Timeline)
	})
	if b := timelineHistory(t, p, burned); len(b) != 0 {
		t.Errorf("the history of the burned timeline %d: %q", burned, b)
	}
	if b := timelineHistory(t, p, c.Timeline); !bytes.Contains(b, []byte(c.Start.String())) {
		t.Errorf("the history of timeline %d does not name its beginning %s: %q", c.Timeline, c.Start, b)
	}
	for _, n := range []*cluster.Node{p, s} {
		left, err := filepath.Glob(filepath.Join(n.DataDir(), "pg_wal", fmt.Sprintf("%08X*", uint32(burned))))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range left {
			if fi, err := os.Stat(path); err == nil && fi.Size() > 0 {
				t.Errorf("%s has %s, of %d bytes", n.Name, filepath.Base(path), fi.Size())
			}
		}
	}
}

// timelineHistory asks the daemon of a standby as its walreceiver does.
func timelineHistory(t *testing.T, n *cluster.Node, tli pos.Timeline) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	sockets, err := filepath.Glob(filepath.Join(n.RunDir(), "wal", ".s.PGSQL.*"))
	if err != nil || len(sockets) == 0 {
		t.Fatalf("no socket of the log server of %s: %v", n.Name, err)
	}
	c, err := pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%s user=postgres replication=yes sslmode=disable",
		filepath.Dir(sockets[0]), filepath.Ext(sockets[0])[1:]))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	res, err := c.Exec(ctx, fmt.Sprintf("TIMELINE_HISTORY %d", tli)).ReadAll()
	if err != nil || len(res) != 1 || len(res[0].Rows) != 1 || len(res[0].Rows[0]) != 2 {
		t.Fatalf("TIMELINE_HISTORY %d: %v, %v", tli, res, err)
	}
	return res[0].Rows[0][1]
}
