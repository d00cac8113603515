package walserver_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"understudy/shipper/pos"
	"understudy/standby/walserver"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var oneTimeline = pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: 100}}

func state(l pos.Lineage) walserver.State {
	return walserver.State{SystemID: 77, Lineage: l, ServerVersion: "15.18", SegSize: segSize}
}

func TestServe_Commands(t *testing.T) {
	n := serve(t, memLog(segSize, segSize+500), state(oneTimeline), func(cfg *walserver.Config) {
		cfg.History = func(tli pos.Timeline) ([]byte, bool) { return []byte("x\ty\n")[:4*(tli%2)], tli < 6 }
	})
	c := connect(t, n)
	if v := c.pg.ParameterStatus("server_version"); v != "15.18" {
		t.Errorf("server_version %q", v)
	}
	id, err := pglogrepl.IdentifySystem(t.Context(), c.pg)
	if err != nil || id.SystemID != "77" || id.Timeline != 1 || pos.LSN(id.XLogPos) != segSize+500 {
		t.Errorf("%+v %v", id, err)
	}
	n.set(func(s *walserver.State) { s.Limit = segSize + 9 })
	if id, err = pglogrepl.IdentifySystem(t.Context(), c.pg); err != nil || pos.LSN(id.XLogPos) != segSize+9 {
		t.Errorf("limited: %+v %v", id, err)
	}
	for sql, want := range map[string]string{"SHOW data_directory_mode": "0700", "SHOW wal_segment_size": "16MB", "SHOW server_version": "15.18"} {
		if row, err := c.query(sql); err != nil || string(row[0]) != want {
			t.Errorf("%s: %s %v", sql, row, err)
		}
	}
	for tli, want := range map[int]string{5: "x\ty\n", 4: ""} {
		row, err := c.query("TIMELINE_HISTORY " + strconv.Itoa(tli))
		if err != nil || string(row[0]) != fmt.Sprintf("%08X.history", tli) || row[1] == nil || string(row[1]) != want {
			t.Errorf("history of %d: %q %v", tli, row, err)
		}
	}
	// Errors leave the connection usable.
	for sql, want := range map[string]string{
		"TIMELINE_HISTORY 6":                            "could not open file",
		"SHOW shared_buffers":                           "unrecognized configuration parameter",
		"SELECT 1":                                      "does not support",
		"START_REPLICATION x":                           "syntax error",
		"START_REPLICATION 0/1000000 TIMELINE 2":        "requested timeline 2 is not in this server's history",
		"START_REPLICATION SLOT s 0/2000000 TIMELINE 1": "is ahead of the WAL flush position of this server 0/10001F4",
		"START_REPLICATION 0/0 TIMELINE 1":              "requested WAL segment 000000010000000000000000 has already been removed",
	} {
		if _, err := c.query(sql); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if _, err := c.query(";"); err != nil {
		t.Errorf("empty: %v", err)
	}
}

func TestServe_StreamsAndCounts(t *testing.T) {
	log := memLog(segSize, segSize+1<<20+77)
	n := serve(t, log, state(oneTimeline), nil)
	c := connect(t, n)
	c.start(`START_REPLICATION SLOT "understudy" 0/1000000 TIMELINE 1`)
	c.wal(segSize, log.End())
	reported := func(flushed, counted pos.LSN) {
		t.Helper()
		pgtest.Eventually(t, 5*time.Second, fmt.Sprintf("flushed %s counts as %s, got %+v", flushed, counted, n.last()), func() bool {
			f := n.last()
			return f.Flushed == flushed && f.Counted == counted && f.Sent == log.End()
		})
	}
	// The first report is the replay position, even where it equals what was sent.
	c.report(log.End(), log.End()-9, log.End()-9, false)
	reported(log.End()-9, 0)
	c.report(log.End(), log.End(), log.End()-9, false)
	reported(log.End(), log.End())
	c.report(log.End()+50, log.End()+50, 0, true)
	reported(log.End()+50, log.End())
	old := log.End()
	log.setEnd(old + 300<<10)
	c.wal(old, log.End())

	b := append([]byte{'h'}, make([]byte, 8)...)
	for _, v := range []uint32{700, 3, 0, 3} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	c.send(&pgproto3.CopyData{Data: b})
	pgtest.Eventually(t, 5*time.Second, "feedback", func() bool {
		f := n.last()
		return f.HasFeedback && f.Xmin == 3<<32|700 && f.CatalogXmin == 0
	})
	// The client ends the COPY; the connection serves on.
	c.send(&pgproto3.CopyDone{})
	c.idle(false)
	if row, err := c.query("IDENTIFY_SYSTEM"); err != nil || string(row[0]) != "77" {
		t.Errorf("%s %v", row, err)
	}
	c.start("START_REPLICATION 0/1000000")
	c.wal(segSize, log.End())
}

func TestServe_CountsNothingOfACutHistory(t *testing.T) {
	log := memLog(segSize, 2*segSize)
	n := serve(t, log, state(oneTimeline), nil)
	c := connect(t, n)
	c.start("START_REPLICATION 0/1000000 TIMELINE 1")
	// The client does not read, so that the pump is stuck in a write.
	counted := func(want pos.LSN) {
		t.Helper()
		pgtest.Eventually(t, 5*time.Second, fmt.Sprintf("%s is counted of %+v", want, n.last()), func() bool {
			f := n.last()
			return f.Session == 1 && f.Counted == want
		})
	}
	c.report(segSize, segSize, segSize, false)
	counted(0)
	pgtest.Eventually(t, 5*time.Second, "data is sent", func() bool {
		c.report(segSize+9, segSize+9, segSize, false)
		return n.last().Sent >= segSize+9
	})
	counted(segSize + 9)
	cut := pos.Entry{Epoch: epoch(2), Timeline: 1, Start: segSize + 4}
	n.set(func(s *walserver.State) { s.Lineage = s.Lineage.With(cut) })
	c.report(segSize+10, segSize+10, segSize, false)
	pgtest.Eventually(t, 5*time.Second, "the report is in", func() bool { return n.last().Flushed == segSize+10 })
	if f := n.last(); f.Counted != 0 || f.Entry != oneTimeline[0] {
		t.Errorf("counted %s of %+v", f.Counted, f.Entry)
	}
	if got := c.ended(); !strings.Contains(got, "history changed") {
		t.Errorf("the server said %q", got)
	}
}

func TestServe_TimelineEnds(t *testing.T) {
	log := memLog(segSize, segSize+0x100)
	n := serve(t, log, state(oneTimeline), nil)
	c := connect(t, n)
	c.start("START_REPLICATION 0/1000000 TIMELINE 1")
	c.wal(segSize, segSize+0x100)
	fork := pos.LSN(segSize + 0x200)
	n.set(func(s *walserver.State) {
		s.Lineage = s.Lineage.With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: fork})
	})
	log.setEnd(segSize + 0x900)
	c.wal(segSize+0x100, fork)
	for {
		m, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := m.(*pgproto3.CopyDone); ok {
			break
		}
	}
	c.report(fork, fork, fork, false)
	c.send(&pgproto3.CopyDone{})
	c.idle(true)
	// From the fork itself there is nothing to stream.
	c.send(&pgproto3.Query{String: "START_REPLICATION 0/1000200 TIMELINE 1"})
	c.idle(true)
	if _, err := c.query("START_REPLICATION 0/1000201 TIMELINE 1"); err == nil || !strings.Contains(err.Error(), "is not in this server's history") {
		t.Errorf("beyond the fork: %v", err)
	}
	c.start("START_REPLICATION 0/1000000 TIMELINE 2")
	c.wal(segSize, segSize+0x900)
}

func TestServe_ClosesWhatNoLongerFits(t *testing.T) {
	end := pos.LSN(segSize + 0x400)
	for name, tt := range map[string]struct {
		act  func(n *node, c *client)
		want string
	}{
		"HistoryChangedBelowSent": {func(n *node, _ *client) {
			n.set(func(s *walserver.State) {
				s.Lineage = s.Lineage.With(pos.Entry{Epoch: epoch(2), Timeline: 1, Start: end - 1})
			})
		}, "history changed"},
		"HistoryChangedWhileHeld": {func(n *node, _ *client) {
			n.set(func(s *walserver.State) {
				s.Held, s.Lineage = true, s.Lineage.With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: end - 1})
			})
		}, "history changed"},
		"ReplayedPastTheFork": {func(n *node, c *client) {
			n.set(func(s *walserver.State) {
				s.Limit, s.Lineage = end, s.Lineage.With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: end + 8})
			})
			c.report(end+16, end+16, end+16, false)
		}, "0/1000410"},
		"Refused": {func(n *node, _ *client) { n.set(func(s *walserver.State) { s.Refuse = "the node is being rewound" }) }, "being rewound"},
		"Replaced": {func(n *node, c *client) {
			connect(c.t, n).start("START_REPLICATION 0/1000000 TIMELINE 1")
		}, "another walreceiver"},
		"ServerStops":   {func(n *node, c *client) { n.cancel() }, "replication server stops"},
		"Garbage":       {func(_ *node, c *client) { c.send(&pgproto3.CopyData{Data: []byte("rubbish")}) }, "unexpected standby message"},
		"TooLong":       {func(_ *node, c *client) { c.send(&pgproto3.CopyData{Data: make([]byte, 9000)}) }, "of 9000 bytes"},
		"ExtendedQuery": {func(_ *node, c *client) { c.send(&pgproto3.Sync{}) }, "unexpected message"},
	} {
		t.Run(name, func(t *testing.T) {
			n := serve(t, memLog(segSize, end), state(oneTimeline), nil)
			c := connect(t, n)
			c.start("START_REPLICATION 0/1000000 TIMELINE 1")
			c.wal(segSize, end)
			tt.act(n, c)
			if got := c.ended(); !strings.Contains(got, tt.want) {
				t.Errorf("the server said %q", got)
			}
			pgtest.Eventually(t, 5*time.Second, "the end is told", func() bool { return n.sessionN() >= 2 })
			n.mu.Lock()
			defer n.mu.Unlock()
			if n.sessions[0] != "true 0/1000000" || n.sessions[1] != "false "+end.String() {
				t.Errorf("sessions %v", n.sessions)
			}
		})
	}
}

func TestServe_HeldAdmitsLater(t *testing.T) {
	log := memLog(segSize, segSize+0x100)
	st := state(oneTimeline)
	st.Held = true
	n := serve(t, log, st, nil)
	good := connect(t, n)
	good.start("START_REPLICATION 0/1000000 TIMELINE 1")
	m, err := good.receive()
	if k, ok := m.(*pgproto3.CopyData); !ok || k.Data[0] != 'k' {
		t.Fatalf("held: %T %v", m, err)
	}
	n.set(func(s *walserver.State) { s.Held = false })
	good.wal(segSize, log.End())
	n.set(func(s *walserver.State) { s.Held = true })
	ahead := connect(t, n)
	ahead.start("START_REPLICATION 0/2000000 TIMELINE 1")
	n.set(func(s *walserver.State) { s.Held = false })
	if got := ahead.ended(); !strings.Contains(got, "is ahead of") {
		t.Errorf("the server said %q", got)
	}
}

// However limit, end and state move, what a client gets is the log's bytes up
// to the limit, no further, and all of it in the end.
func TestServe_LimitProperty(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		log := memLog(segSize, segSize)
		st := state(oneTimeline)
		st.Limit = segSize
		n := serve(t, log, st, nil)
		defer n.stop(t)
		c := connect(t, n)
		c.start("START_REPLICATION 0/1000000 TIMELINE 1")
		got := pos.LSN(segSize)
		for range rapid.IntRange(1, 6).Draw(rt, "steps") {
			end := log.End() + pos.LSN(rapid.IntRange(0, 300<<10).Draw(rt, "grow"))
			limit := pos.LSN(rapid.Uint64Range(uint64(got), uint64(end)+9).Draw(rt, "limit"))
			log.setEnd(end)
			n.set(func(s *walserver.State) { s.Limit, s.Held = limit, false })
			c.wal(got, min(limit, end))
			got = min(limit, end)
			if rapid.Bool().Draw(rt, "hold") {
				n.set(func(s *walserver.State) { s.Held = true })
			}
		}
		c.pg.Close(context.Background())
	})
}
