package integration_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
	"understudy/test/cluster"
)

// TestRoles_Loss promotes a node that was away while others acknowledged: once
// where the log can be had from the witness, once where it is lost.
func TestRoles_Loss(t *testing.T) {
	t.Parallel()
	g := healthy(t)

	run(t, "CandidateCopiesFromTheWitness", func(t *testing.T) {
		w := g.Writers(t, 4)
		p, s := primaryAndStandby(t, g)
		p.Exec(t, "create table bulk (a int, filler text)")
		cluster.CatchUp(t, p, s)
		s.Freeze(t)
		// More than fits into the sockets of a frozen node.
		p.Exec(t, "insert into bulk select i, repeat('x', 500) from generate_series(1, 60000) i")
		w.WaitMore(t, 50, 20*time.Second)
		p.KillEverything(t)
		s.Thaw(t)
		c := g.Failover(t, s)
		w.WaitMore(t, 50, 20*time.Second)
		if !c.Has("copied") || c.Proof == nil || c.Proof.Lost != nil || c.Proof.MayLost != nil {
			t.Errorf("change %s, want one with a copy and nothing lost", c)
		}
		if n := s.Query(t, "select count(*) from bulk"); n != "60000" {
			t.Errorf("%s rows of 60000 that were acknowledged", n)
		}
		p.Start(t)
		closed(t, g.WaitReturned(t, c.Epoch), "rewind")
		w.CheckNoneLost(t)
	})

	run(t, "ForcedLoss", func(t *testing.T) { forcedLoss(t, g) })
}

// inserted is one acknowledged row and its transaction.
type inserted struct {
	row int
	xid uint32
}

// insertRows commits rows one by one, from the given number on.
func insertRows(t *testing.T, p *cluster.Node, from, n int) []inserted {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := p.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	var out []inserted
	for row := from; row < from+n; row++ {
		var xid int64
		if err := c.QueryRow(ctx, "insert into planted values ($1) returning pg_current_xact_id()::text::bigint", row).Scan(&xid); err != nil {
			t.Fatal(err)
		}
		out = append(out, inserted{row, uint32(xid)})
	}
	return out
}

// plantedRows are the rows of planted on a node, in order.
func plantedRows(t *testing.T, n *cluster.Node) []int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := n.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	rs, err := c.Query(ctx, "select a from planted order by a")
	if err != nil {
		t.Fatal(err)
	}
	rows, err := pgx.CollectRows(rs, pgx.RowTo[int])
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

// forcedLoss loses both nodes that have the newest commits for a while. The
// third goes on alone on the operator's word; when the two return, what was lost
// has a name.
func forcedLoss(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	p, s := primaryAndStandby(t, g)
	p.Exec(t, "create table planted (a int)")
	kept := insertRows(t, p, 0, 20)
	cluster.CatchUp(t, p, s)
	generation := epoch(t, g).Gen
	s.KillEverything(t)
	lost := insertRows(t, p, len(kept), 30)
	end := lsn(t, p, "pg_current_wal_flush_lsn()")
	recorded(t, p, end)
	p.KillEverything(t)
	// The survivor knows the group, and has none of the log.
	s.Start(t)
	s.WaitStatus(t, 20*time.Second, "the group", func(st cluster.Status) bool { return st.Group.Epoch.Gen == generation })
	g.Witness.Kill(t)
	cluster.Eventually(t, 20*time.Second, "the word that a majority is missing", func() bool {
		out, code := s.Run(t, "failover", "--to", s.Name)
		return code == 4 && strings.Contains(out, "only 1 of 3 voters are heard") && strings.Contains(out, "--force")
	})
	s.Refused(t, 2, "--yes", "failover", "--to", s.Name, "--force")
	c := g.Failover(t, s, "--force", "--yes")
	if c.Kind != "forced" || c.Epoch.Gen <= generation || !strings.Contains(c.Statement, "formed anew with "+s.Name+" alone") {
		t.Errorf("change %s", c)
	}
	if c.Proof == nil || strings.HasPrefix(c.Proof.Sentence, "Nothing acknowledged was lost") {
		t.Errorf("proof %s: nobody who could know was asked", c)
	}
	cluster.Eventually(t, 10*time.Second, s.Name+" letting clients in", s.Answers)
	var want []int
	for _, r := range kept {
		want = append(want, r.row)
	}
	if got := plantedRows(t, s); !slices.Equal(got, want) {
		t.Errorf("%s has the rows %v, want %v", s.Name, got, want)
	}

	p.Start(t)
	g.Witness.Start(t)
	c = g.WaitReturned(t, c.Epoch)
	named := map[uint32]bool{}
	for _, x := range c.Proof.Transactions {
		named[x.XID] = true
	}
	planted := map[uint32]bool{}
	for _, r := range lost {
		planted[r.xid] = true
	}
	if !maps.Equal(named, planted) {
		t.Errorf("the proof names the transactions %v, lost were %v\n%s", slices.Sorted(maps.Keys(named)), slices.Sorted(maps.Keys(planted)), c)
	}
	if r := c.Proof.Lost; r == nil || r.From != c.Start || r.To > end || r.To < lastCommit(c) {
		t.Errorf("the proof says that %v was lost, which began at %s and ended before %s\n%s", r, c.Start, end, c)
	}
	if !strings.HasPrefix(c.Proof.Sentence, fmt.Sprintf("Acknowledged commits were lost: everything from %s to", c.Start)) {
		t.Errorf("the sentence: %s", c.Proof.Sentence)
	}
	insertRows(t, s, 1000, 5)
	cluster.CatchUp(t, s, p)
	if got, other := plantedRows(t, s), plantedRows(t, p); !slices.Equal(got, other) || len(got) != len(kept)+5 {
		t.Errorf("%s has %v, %s %v", s.Name, got, p.Name, other)
	}
}

// recorded waits until a primary has written down that everything up to end is
// committed, which it does now and then. What was acknowledged after that cannot
// be told from what was not.
func recorded(t *testing.T, p *cluster.Node, end pos.LSN) {
	t.Helper()
	cluster.Eventually(t, 10*time.Second, p.Name+" having recorded "+end.String(), func() bool {
		var heard struct{ LSN pos.LSN }
		b, err := os.ReadFile(filepath.Join(p.StateDir(), "committed.json"))
		return err == nil && json.Unmarshal(b, &heard) == nil && heard.LSN >= end
	})
}

// lastCommit is the end of the last transaction that a proof names.
func lastCommit(c cluster.Change) (last pos.LSN) {
	for _, x := range c.Proof.Transactions {
		last = max(last, x.End)
	}
	return last
}
