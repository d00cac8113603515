package primary_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"understudy/primary"
	"understudy/shipper"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/pgtest"
)

func TestStart_RefusesALineageThatEndsElsewhere(t *testing.T) {
	if _, err := primary.Start(t.Context(), primary.Config{Epoch: pos.Epoch{Gen: 1, Num: 2},
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 1}}}); err == nil {
		t.Error("no error")
	}
}

// A commit returns when a majority of the voters has it: not before, and
// whichever they are.
func TestPrimary_CountsMajorities(t *testing.T) {
	r := newRig(t)
	r.add("b", true, nil)
	r.add("w", false, nil)
	r.run()
	r.returns(r.commit()) // the only voter is the primary itself
	r.vote("b", "w")
	r.streaming("b", "w")
	r.returns(r.commit())
	for _, lost := range []string{"b", "w"} {
		r.net.Cut("main", lost)
		r.returns(r.commit())
		r.net.Heal("main", lost)
	}
	r.net.Cut("main", "b")
	r.net.Cut("main", "w")
	done := r.commit()
	r.waits(done, 500*time.Millisecond)
	if c := r.primary.Snapshot(); c.Committed >= c.Received {
		t.Errorf("committed %s of %s without a majority", c.Committed, c.Received)
	}
	r.net.Heal("main", "w")
	r.returns(done)
	r.net.Heal("main", "b")
	end := r.primary.Snapshot().Received
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.primary.WaitCommitted(ctx, end); err != nil {
		t.Error(err)
	}
	// A peer that has no vote does not help.
	r.vote("x", "y")
	r.waits(r.commit(), 300*time.Millisecond)
}

// After Stop has returned no commit is acknowledged, although the peers hold
// it.
func TestPrimary_StopIsFinal(t *testing.T) {
	r := newRig(t)
	b := r.add("b", false, nil)
	r.run()
	r.vote("b")
	r.streaming("b")
	r.returns(r.commit())
	r.net.Cut("main", "b")
	done := r.commit()
	r.waits(done, 100*time.Millisecond)
	committed := r.primary.Committed()
	r.net.Heal("main", "b")
	r.primary.Stop()
	before := r.primary.Committed()
	select {
	case <-done:
		if before == committed {
			t.Error("a commit returned that no majority held")
		}
	default:
		r.waits(done, 300*time.Millisecond)
	}
	if after := r.primary.Committed(); after != before {
		t.Errorf("committed went from %s to %s after the end", before, after)
	}
	if err := r.primary.WaitCommitted(t.Context(), b.spool.End()+1<<30); err == nil {
		t.Error("waited for a primary that has ended")
	}
}

// Connections that break at any moment cost no byte and no commit.
func TestPrimary_ResumesAfterBrokenConnections(t *testing.T) {
	r := newRig(t)
	b, w := r.add("b", true, nil), r.add("w", false, nil)
	r.run()
	r.vote("b", "w")
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		c, err := r.pg.Connect(context.Background())
		if err != nil {
			done <- err
			return
		}
		defer c.Close(context.Background())
		for i := 0; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := c.Exec(context.Background(), fmt.Sprintf("select pg_logical_emit_message(true, 'x', repeat('y', %d))", 1+i*7919%60_000)); err != nil {
				done <- err
				return
			}
		}
	}()
	for range 15 {
		end := r.primary.Snapshot().Received
		pgtest.Eventually(t, patience, "more log", func() bool { return r.primary.Committed() > end })
		r.net.CloseAll()
	}
	close(stop)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	end := r.primary.Snapshot().Received
	for _, p := range []*peer{b, w} {
		pgtest.Eventually(t, patience, p.info.Name+" has all", func() bool { return p.spool.Durable() >= end })
		r.wantLog(p, end)
	}
}

// A peer whose log is another one is refused for good, and named.
func TestPrimary_RefusesOtherLog(t *testing.T) {
	r := newRig(t)
	r.add("b", false, func(sp *spool.Spool) {
		at := r.start.SegStart(segSize)
		if err := sp.Begin(r.system, segSize, at); err != nil {
			t.Fatal(err)
		}
		if err := sp.Adopt(r.lineage, r.lineage.Last().Epoch); err != nil {
			t.Fatal(err)
		}
		if err := sp.Append(r.lineage.Last().Epoch, at, make([]byte, 10_000)); err != nil {
			t.Fatal(err)
		}
	})
	far := r.add("c", false, func(sp *spool.Spool) {
		at := r.start.SegEnd(segSize) + segSize
		if err := sp.Begin(r.system, segSize, at); err != nil {
			t.Fatal(err)
		}
	})
	other := r.add("d", false, nil)
	other.info.Store = "dd" // the ledger knows another store than the one that answers
	r.run()
	for name, want := range map[string]struct{ code, part string }{
		"b": {shipper.RefuseDiverged, "b"},
		"c": {shipper.RefuseDiverged, "beyond the primary's end"},
		"d": {shipper.RefuseStore, "store d"},
	} {
		pgtest.Eventually(t, patience, name+" refused", func() bool { return r.link(name).State == "refused" })
		if l := r.link(name); l.ProblemCode != want.code || !strings.Contains(l.Problem, want.part) || strings.Contains(l.Problem, "\n") {
			t.Errorf("%s: %q: %s", name, l.ProblemCode, l.Problem)
		}
	}
	if far.Snapshot().Received > far.spool.Base() {
		t.Error("bytes were shipped to a log that is not the primary's")
	}
}

// A fenced peer takes nothing of the old epoch and says so.
func TestPrimary_IsRefusedByAFencedPeer(t *testing.T) {
	r := newRig(t)
	b := r.add("b", false, nil)
	r.run()
	r.vote("b")
	r.streaming("b")
	r.returns(r.commit())
	_, at, err := b.Fence(pos.Epoch{Gen: 1, Num: 2})
	if err != nil {
		t.Fatal(err)
	}
	done := r.commit()
	pgtest.Eventually(t, patience, "b refuses", func() bool { return r.link("b").ProblemCode == shipper.RefuseStale })
	r.waits(done, 300*time.Millisecond)
	if c := r.primary.Committed(); c > at.LSN {
		t.Errorf("committed %s, the fence is at %s", c, at)
	}
	if b.spool.End() != at.LSN {
		t.Errorf("the spool went on to %s, the fence is at %s", b.spool.End(), at)
	}
}

// A data peer without a vote receives all, and feeds its PostgreSQL only what
// is committed; a voter may feed at once.
func TestPrimary_FeedsNonVotersUpToCommitted(t *testing.T) {
	r := newRig(t)
	w, c := r.add("w", true, nil), r.add("c", true, nil)
	r.run()
	r.vote("w")
	r.net.CloseAll() // what may be fed is agreed when a stream begins
	r.streaming("w", "c")
	r.returns(r.commit())
	pgtest.Eventually(t, patience, "the limits", func() bool {
		limit, held, _ := c.Serve()
		atOnce, _, _ := w.Serve()
		return !held && limit == r.primary.Committed() && atOnce == 0
	})
	r.net.Cut("main", "w")
	done := r.commit()
	pgtest.Eventually(t, patience, "the log at c", func() bool { return c.spool.Durable() >= r.primary.Snapshot().Received })
	r.waits(done, 300*time.Millisecond)
	if limit, _, _ := c.Serve(); limit == 0 || limit > r.primary.Committed() || limit >= c.spool.End() {
		t.Errorf("c feeds up to %s, committed is %s", limit, r.primary.Committed())
	}
	r.net.Heal("main", "w")
	r.returns(done)
	pgtest.Eventually(t, patience, "the rest at c", func() bool { limit, _, _ := c.Serve(); return limit == r.primary.Committed() })
}

// A peer that is 200 MB behind catches up while another one goes on with
// every commit.
func TestPrimary_CatchUpDisturbsNobody(t *testing.T) {
	r := newRig(t)
	b := r.add("b", false, nil)
	c := r.add("c", false, nil)
	r.run()
	r.vote("b")
	r.streaming("b", "c")
	r.net.Cut("main", "c")
	r.pg.Exec(t, "select pg_logical_emit_message(true, 'x', repeat('y', 1 << 20)) from generate_series(1, 200)")
	behind := r.primary.Snapshot().Received
	r.net.Heal("main", "c")
	conn, err := r.pg.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var longest time.Duration
	n := 0
	for c.spool.Durable() < behind {
		t0 := time.Now()
		if _, err := conn.Exec(t.Context(), "insert into k values (1)"); err != nil {
			t.Fatal(err)
		}
		longest = max(longest, time.Since(t0))
		n++
		if s := r.link("b").State; s != "streaming" {
			t.Fatalf("b is %s", s)
		}
	}
	t.Logf("%d commits during the catch-up, the longest took %s", n, longest)
	if n < 10 || longest > 2*time.Second {
		t.Errorf("%d commits, the longest took %s", n, longest)
	}
	r.streaming("c")
	r.wantLog(c, behind)
	r.wantLog(b, behind)
}

// What a peer may feed follows the voters, also on a stream that is up: one
// that loses its vote, or is one of too many, must wait for committed again.
func TestPrimary_FeedingFollowsTheVoters(t *testing.T) {
	r := newRig(t)
	w := r.add("w", true, nil)
	r.run()
	r.streaming("w")
	atOnce := func() bool { limit, held, _ := w.Serve(); return limit == 0 && !held }
	if atOnce() {
		t.Error("fed at once without a vote")
	}
	r.vote("w")
	pgtest.Eventually(t, patience, "w feeds at once with its vote", atOnce)
	r.vote()
	pgtest.Eventually(t, patience, "w waits for committed without a vote", func() bool { return !atOnce() })
	r.vote("w")
	pgtest.Eventually(t, patience, "w feeds at once again", atOnce)
	r.primary.SetGroup([]primary.Peer{w.info}, r.version+1, []string{"A", "w", "x", "y"}, false)
	pgtest.Eventually(t, patience, "w waits for committed among four", func() bool { return !atOnce() })
}
