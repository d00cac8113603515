package integration_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/test/cluster"
	"understudy/test/pgtest"
)

const segSize = 16 << 20

// lsn asks a server for a position.
func lsn(t *testing.T, n *cluster.Node, expr string) pos.LSN {
	t.Helper()
	l, err := pos.ParseLSN(n.Query(t, "select "+expr))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// writeAlone ends the peers' daemons, makes the primary write what nobody else
// gets, and ends everything of the primary. The statements must not take longer
// than the primary's lease. The peers are started again.
func writeAlone(t *testing.T, g *cluster.Group, p *cluster.Node, statements ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := p.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	if _, err := c.Exec(ctx, "set synchronous_commit = local"); err != nil {
		t.Fatal(err)
	}
	s := g.Other(p)
	s.Kill(t)
	g.Witness.Kill(t)
	for _, sql := range statements {
		if _, err := c.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	p.KillEverything(t)
	s.Start(t)
	g.Witness.Start(t)
}

// TestRoles_Failover loses primaries and replaces them on the operator's word.
func TestRoles_Failover(t *testing.T) {
	t.Parallel()
	g := healthy(t)
	g.Main.Exec(t, "create table alone (a int)")

	run(t, "RefusedWhileHealthy", func(t *testing.T) {
		before := epoch(t, g)
		g.Witness.Refused(t, 4, "main is open and answers; use: understudy switchover --to backup", "failover", "--to", "backup")
		g.Witness.Refused(t, 4, `no node "nobody"`, "failover", "--to", "nobody")
		g.Witness.Refused(t, 4, "witness cannot be primary", "failover", "--to", "witness")
		g.Witness.Refused(t, 2, "--to NODE", "failover")
		g.Witness.Refused(t, 2, "--yes", "failover", "--to", "backup", "--force")
		if e := epoch(t, g); e != before {
			t.Errorf("epoch %s after what was refused, %s before", e, before)
		}
	})

	run(t, "UnderWriters", func(t *testing.T) {
		g.WaitHealthy(t)
		w := g.Writers(t, 4)
		w.WaitMore(t, 50, 10*time.Second)
		p, s := primaryAndStandby(t, g)
		lost := time.Now()
		p.KillEverything(t)
		c := g.Failover(t, s)
		w.WaitMore(t, 50, 20*time.Second)
		t.Logf("commits paused for %s", w.LongestGap(lost).Round(10*time.Millisecond))
		if c.Kind != "failover" || c.From != p.Name || c.Proof == nil || !c.Proof.Provisional ||
			!strings.HasPrefix(c.Proof.Sentence, "Nothing acknowledged was lost: a majority vouches") {
			t.Errorf("change %s", c)
		}
		p.Start(t)
		closed(t, g.WaitReturned(t, c.Epoch), "rewind")
		w.CheckNoneLost(t)
	})

	run(t, "RecoveryBeginsBeforeTheSourcesCheckpoint", func(t *testing.T) { recoveryBeginsEarlier(t, g) })
	run(t, "TailIsKept", func(t *testing.T) { tailIsKept(t, g) })
	run(t, "EscalatesToDelta", func(t *testing.T) { escalates(t, g) })
	run(t, "LogIsGone", func(t *testing.T) {
		g.WaitHealthy(t)
		w := g.Writers(t, 2)
		w.WaitMore(t, 20, 10*time.Second)
		p, s := primaryAndStandby(t, g)
		p.KillEverything(t)
		c := g.Failover(t, s)
		segments, err := filepath.Glob(filepath.Join(p.DataDir(), "pg_wal", "0*"))
		if err != nil || len(segments) == 0 {
			t.Fatalf("segments %v, %v", segments, err)
		}
		for _, path := range segments {
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		p.Start(t)
		c = g.WaitReturned(t, c.Epoch)
		if c.Return.Method != "delta" && c.Return.Method != "full" {
			t.Errorf("came back by %s: %s", c.Return.Method, c)
		}
		w.CheckNoneLost(t)
	})
}

// recoveryBeginsEarlier lets the new primary write segments and checkpoints
// before the old one is rewound: pg_control of the rewound directory is of the
// newest checkpoint, and its recovery begins segments before. The primary looks
// at what the group still needs whenever the ledger changes, so it is made to
// look all the time.
func recoveryBeginsEarlier(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	w := g.Writers(t, 2)
	w.WaitMore(t, 20, 10*time.Second)
	p, s := primaryAndStandby(t, g)
	p.KillEverything(t)
	c := g.Failover(t, s)
	for range 3 {
		s.Exec(t, "select pg_switch_wal()")
		s.Exec(t, "checkpoint")
		w.WaitMore(t, 10, 10*time.Second)
	}
	done := make(chan struct{})
	stopped := make(chan struct{})
	dir := t.TempDir()
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			file := filepath.Join(dir, "policy.yaml")
			if err := os.WriteFile(file, []byte("restart_grace: "+strconv.Itoa(10+i%2)+"s\n"), 0o600); err == nil {
				g.Witness.Command("policy", "apply", file).Run()
			}
		}
	}()
	p.Start(t)
	closed(t, g.WaitReturned(t, c.Epoch), "rewind")
	close(done)
	<-stopped
	w.CheckNoneLost(t)
}

// closed checks the record of a failover that lost nothing, with the old primary
// back.
func closed(t *testing.T, c cluster.Change, method string) {
	t.Helper()
	p := c.Proof
	if p == nil || p.Provisional || p.Lost != nil || p.MayLost != nil || len(p.Transactions) > 0 || !strings.Contains(p.Closed, c.From+" came back") ||
		!strings.HasPrefix(p.Sentence, "Nothing acknowledged was lost: everything up to") {
		t.Errorf("proof %s", c)
	}
	if r := c.Return; r == nil || r.Node != c.From || r.Method != method {
		t.Errorf("return of %s, want one by %s", c, method)
	}
}

// tailIsKept lets a primary commit what nobody else has. It was not promised,
// but it is kept where people can look at it.
func tailIsKept(t *testing.T, g *cluster.Group) {
	g.WaitHealthy(t)
	p, s := primaryAndStandby(t, g)
	writeAlone(t, g, p, "insert into alone values (1)", "insert into alone values (2), (3)")
	c := g.Failover(t, s)
	cluster.Eventually(t, 5*time.Second, s.Name+" letting clients in", s.Answers)
	if n := s.Query(t, "select count(*) from alone"); n != "0" {
		t.Errorf("%s has %s rows that it never got", s.Name, n)
	}
	p.Start(t)
	c = g.WaitReturned(t, c.Epoch)
	closed(t, c, "rewind")
	if c.Return.Tail == "" || c.Return.TailTransactions != 2 {
		t.Fatalf("return %s, want two transactions in a tail", c)
	}
	var report struct {
		From, To     pos.LSN
		Timeline     pos.Timeline
		Transactions []struct {
			Committed bool
			Tables    []struct{ Inserts int }
		}
	}
	b, err := os.ReadFile(filepath.Join(c.Return.Tail, "report.json"))
	if err == nil {
		err = json.Unmarshal(b, &report)
	}
	if err != nil {
		t.Fatalf("the report of the tail: %v\n%s", err, b)
	}
	rows, committed := 0, 0
	for _, x := range report.Transactions {
		if x.Committed {
			committed++
		}
		for _, tb := range x.Tables {
			rows += tb.Inserts
		}
	}
	if committed != 2 || rows != 3 || report.From != c.Start {
		t.Errorf("the report tells of %d transactions with %d rows from %s, want 2, 3 and %s:\n%s", committed, rows, report.From, c.Start, b)
	}
	dump := waldump(t, "-p", c.Return.Tail, "-t", strconv.Itoa(int(report.Timeline)), "-s", report.From.String(), "-e", report.To.String())
	if n := strings.Count(dump, "COMMIT"); n != 2 {
		t.Errorf("pg_waldump reads %d commits in the tail, want 2:\n%s", n, dump)
	}
	if n := p.Query(t, "select count(*) from alone"); n != "0" {
		t.Errorf("%s came back with %s rows that the group does not have", p.Name, n)
	}
}

// waldump runs the stock reader of the log.
func waldump(t *testing.T, args ...string) string {
	t.Helper()
	c := pgtest.Cluster{Bin: pgtest.BinDir(t)}
	cmd := c.Command(t, "pg_waldump", args...)
	cmd.SysProcAttr = nil // the daemon's own files
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("pg_waldump %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// escalates takes the segment away in which the histories' last common
// checkpoint is: there is nothing that a rewind could begin with.
func escalates(t *testing.T, g *cluster.Group) {
	timeline := g.WaitHealthy(t).Group.Timeline
	w := g.Writers(t, 2)
	p, s := primaryAndStandby(t, g)
	p.Exec(t, "checkpoint")
	common := lsn(t, p, "checkpoint_lsn from pg_control_checkpoint()")
	p.Exec(t, "select pg_switch_wal()")
	w.WaitMore(t, 20, 10*time.Second)
	w.Stop()
	writeAlone(t, g, p, "insert into alone values (1)", "select pg_switch_wal()", "checkpoint")
	c := g.Failover(t, s)
	gone := filepath.Join(p.DataDir(), "pg_wal", pos.SegName(timeline, common, segSize))
	if err := os.Remove(gone); err != nil {
		t.Fatal(err)
	}
	p.Start(t)
	closed(t, g.WaitReturned(t, c.Epoch), "delta")
	w.CheckNoneLost(t)
}
