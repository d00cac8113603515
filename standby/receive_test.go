package standby_test

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/pos"
	"understudy/standby"
	"understudy/standby/walserver"
	"understudy/test/faultfs"
	"understudy/test/pgtest"
)

func TestReceiver_AcksWhatIsDurable(t *testing.T) {
	n := start(t)
	lin := history(base)
	s := n.stream(t, hello(lin, base))
	if s.wel.Resume != base || s.wel.Store != "B" {
		t.Fatalf("welcome %+v", s.wel)
	}
	at := base
	for _, size := range []int{1, 100, 8192, 300_000, segSize} {
		s.mustData(at, size, 0)
		at += pos.LSN(size)
		if a := s.waitAck(at); a.Epoch != epoch(1) || a.LineageEpoch != epoch(1) || a.Voters != 3 || a.Received != at {
			t.Errorf("ack %+v", a)
		}
		if d := n.spool.Durable(); d < at {
			t.Errorf("acknowledged %s, durable is %s", at, d)
		}
	}
	n.wantLog(t, lin, at)
	s.conn.Close()
}

func TestReceiver_RefusesForeigners(t *testing.T) {
	n := start(t)
	for name, tt := range map[string]struct {
		change func(*shipper.Hello)
		code   string
		part   string
	}{
		"group":   {func(h *shipper.Hello) { h.Group = "x" }, shipper.RefuseForeign, "group x"},
		"ledger":  {func(h *shipper.Hello) { h.Ledger = "x" }, shipper.RefuseForeign, "ledger x"},
		"system":  {func(h *shipper.Hello) { h.SystemID++ }, shipper.RefuseForeign, "system identifier 78"},
		"major":   {func(h *shipper.Hello) { h.Major = 16 }, shipper.RefuseForeign, "postgresql.bin_dir"},
		"segment": {func(h *shipper.Hello) { h.SegSize *= 2 }, shipper.RefuseForeign, "segments"},
		"lineage": {func(h *shipper.Hello) { h.Epoch = epoch(9) }, shipper.RefuseBroken, "lineage"},
		"store":   {func(h *shipper.Hello) { h.To = "old" }, shipper.RefuseStore, "now store B, not old"},
	} {
		t.Run(name, func(t *testing.T) {
			h := hello(history(base), base)
			tt.change(&h)
			if ref := n.refused(t, h); ref.Code != tt.code || !strings.Contains(ref.Text, tt.part) || strings.Contains(ref.Text, "\n") {
				t.Errorf("got %+v", ref)
			}
			if n.spool.Base() != 0 || len(n.spool.Lineage()) != 0 || !n.spool.Fence().IsZero() {
				t.Error("the spool was changed")
			}
		})
	}
}

// However a connection is cut, the next one goes on at a byte that both have,
// nothing acknowledged is asked for again, and the log comes out whole.
func TestReceiver_ResumesAfterCutsAnywhere(t *testing.T) {
	lin := history(base)
	rapid.Check(t, func(t *rapid.T) {
		n := newNode(t)
		defer n.close()
		end := base + pos.LSN(rapid.IntRange(1, 200_000).Draw(t, "bytes"))
		var acked pos.LSN
		for try := range 10 {
			s := n.stream(t, hello(lin, end))
			if s.wel.Resume < acked || s.wel.Resume > end {
				t.Fatalf("resume at %s, acknowledged was %s, sent at most %s", s.wel.Resume, acked, end)
			}
			if crc := crc32.Checksum(wal(epoch(1), s.wel.CRCFrom, int(s.wel.Resume-s.wel.CRCFrom)), castagnoli); crc != s.wel.CRC {
				t.Fatalf("wrong checksum over %s..%s", s.wel.CRCFrom, s.wel.Resume)
			}
			if s.wel.Resume == end {
				s.conn.Close()
				break
			}
			raw := rest(t, s.wel.Resume, end, rapid.IntRange(1000, 70_000).Draw(t, "frame"))
			if try == 9 { // at last all of it
				_, _ = s.conn.Write(raw)
				s.waitAck(end)
				s.conn.Close()
				break
			}
			done := make(chan struct{})
			go func() { defer close(done); s.ended() }()
			_, _ = s.conn.Write(raw[:rapid.IntRange(0, len(raw)).Draw(t, "cut")])
			s.conn.Close()
			<-done
			acked = max(acked, s.acked)
		}
		n.wantLog(t, lin, end)
	})
}

// rest is the log between two bytes, in the frames that follow a hello.
func rest(t fataler, from, end pos.LSN, size int) []byte {
	t.Helper()
	var raw bytes.Buffer
	w := frame.NewWriter(&raw)
	if err := errors.Join(w.WriteJSON(frame.Hello, shipper.Hello{}), w.Flush()); err != nil {
		t.Fatalf("encode: %v", err)
	}
	raw.Reset()
	for at := from; at < end; at += pos.LSN(size) {
		size = min(size, int(end-at))
		head := frame.DataHead{Epoch: epoch(1), LineageEpoch: epoch(1), LSN: at, SourceEnd: end}
		if err := errors.Join(w.WriteData(head, wal(epoch(1), at, size)), w.Flush()); err != nil {
			t.Fatalf("encode: %v", err)
		}
	}
	return raw.Bytes()
}

func TestReceiver_FlippedFrame(t *testing.T) {
	n := start(t)
	lin := history(base)
	s := n.stream(t, hello(lin, base+1000))
	s.mustData(base, 1000, 0)
	s.waitAck(base + 1000)
	s.conn.Close()
	raw := rest(t, base+1000, base+1100, 100)
	for i := 0; i < len(raw); i += 3 {
		s := n.stream(t, hello(lin, base+1100))
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if _, err := s.conn.Write(bad); err != nil {
			t.Fatal(err)
		}
		if i >= 4 && i < 8 { // a length that turned over waits for more
			s.conn.Close()
		}
		s.ended()
		s.conn.Close()
		if s.acked > base+1000 {
			t.Fatalf("byte %d flipped: acknowledged %s", i, s.acked)
		}
	}
	n.wantLog(t, lin, base+1000)
}

func TestReceiver_RefusesGapsAndOtherBytes(t *testing.T) {
	n := start(t)
	lin := history(base)
	s := n.stream(t, hello(lin, base+1000))
	s.mustData(base, 1000, 0)
	s.waitAck(base + 1000)
	s.mustData(base+1001, 10, 0)
	var ref *shipper.RefusedError
	if err := s.ended(); !errors.As(err, &ref) || ref.Code != shipper.RefuseBroken {
		t.Errorf("a gap: %v", err)
	}
	s = n.stream(t, hello(lin, base+1000))
	s.mustData(base+500, 600, 0) // an overlap that agrees
	s.waitAck(base + 1100)
	s.epoch = epoch(1)
	head := frame.DataHead{Epoch: epoch(1), LineageEpoch: epoch(1), LSN: base, SourceEnd: base + 10}
	if err := errors.Join(s.w.WriteData(head, make([]byte, 10)), s.w.Flush()); err != nil {
		t.Fatal(err)
	}
	if err := s.ended(); !errors.As(err, &ref) || ref.Code != shipper.RefuseBroken {
		t.Errorf("other bytes: %v", err)
	}
	n.wantLog(t, lin, base+1100)
}

func TestReceiver_FramesOfAnotherEpochEndTheStream(t *testing.T) {
	n := start(t)
	s := n.stream(t, hello(history(base), base))
	s.epoch = epoch(2)
	s.mustData(base, 10, 0)
	if err := s.ended(); err == nil || n.spool.End() != base {
		t.Errorf("%v, the spool ends at %s", err, n.spool.End())
	}
}

func TestReceiver_TheNewestStreamWins(t *testing.T) {
	n := start(t)
	lin := history(base)
	first := n.stream(t, hello(lin, base))
	first.mustData(base, 100, 0)
	first.waitAck(base + 100)
	second := n.stream(t, hello(lin, base+100))
	if second.wel.Resume != base+100 {
		t.Errorf("resume at %s", second.wel.Resume)
	}
	if err := first.ended(); err == nil {
		t.Error("the older stream goes on")
	}
	second.mustData(base+100, 100, 0)
	second.waitAck(base + 200)
	// One of an older epoch does not push out one of a newer.
	newer := history(base, base+200)
	third := n.stream(t, hello(newer, base+200))
	if ref := n.refused(t, hello(lin, base+200)); ref.Code != shipper.RefuseStale {
		t.Errorf("got %+v", ref)
	}
	third.mustData(base+200, 5, 0)
	third.waitAck(base + 205)
	third.conn.Close()
}

// After Fence has returned, nothing of the older epoch is acknowledged, taken
// or even written, and what was acknowledged is in the position it returned.
func TestReceiver_FenceIsFinal(t *testing.T) {
	for range 20 {
		fenceOnce(t)
	}
}

func fenceOnce(t *testing.T) {
	n := newNode(t)
	defer n.close()
	var closed atomic.Bool
	var late atomic.Int64
	n.wrap = func(c net.Conn) net.Conn { return watched{c, &closed, &late} }
	lin := history(base)
	s := n.stream(t, hello(lin, base))
	var wg sync.WaitGroup
	wg.Go(func() {
		for at := base; s.data(at, 500, 0) == nil; at += 500 {
		}
	})
	wg.Go(func() { s.ended() })
	pgtest.Eventually(t, patience, "a few bytes", func() bool { return n.spool.Durable() > base+5000 })
	_, at, err := n.Fence(epoch(2))
	closed.Store(true)
	end := n.spool.End()
	if err != nil || n.spool.Fence() != epoch(2) {
		t.Fatalf("%v, fence %s", err, n.spool.Fence())
	}
	wg.Wait()
	s.conn.Close()
	if s.acked > at.LSN {
		t.Errorf("acknowledged %s, the fence says %s", s.acked, at)
	}
	if late.Load() != 0 || n.spool.End() != end || n.spool.Durable() < at.LSN {
		t.Errorf("%d writes after the fence; the log went from %s to %s", late.Load(), end, n.spool.End())
	}
	if ref := n.refused(t, hello(lin, end)); ref.Code != shipper.RefuseStale || !strings.Contains(ref.Text, "1.2") {
		t.Errorf("got %+v", ref)
	}
	if _, held, _ := n.Serve(); !held {
		t.Error("the local PostgreSQL is still fed")
	}
	// The promise outlives the process.
	n.spool.Close()
}

// A node that fetches what the primary no longer has can still be fenced at
// once.
func TestReceiver_FenceDoesNotWaitForAFill(t *testing.T) {
	n := start(t)
	began := make(chan struct{})
	var once sync.Once
	n.fill = func(ctx context.Context, _ shipper.Hello, _ pos.LSN) error {
		once.Do(func() { close(began) })
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(3 * time.Second): // a peer that is slow, or lost
			return errors.New("the peer was too slow")
		}
	}
	h := hello(history(base), base+5000)
	h.Oldest = base + 1000
	s := n.dial(t, h)
	defer s.conn.Close()
	<-began
	t0 := time.Now()
	if _, _, err := n.Fence(epoch(2)); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(t0); d > time.Second {
		t.Errorf("the fence waited %s for the fill", d)
	}
}

func TestReceiver_FillsWhatThePrimaryNoLongerHas(t *testing.T) {
	n := start(t)
	h := hello(history(base), base+5000)
	h.Oldest = base + 1000
	if ref := n.refused(t, h); ref.Code != shipper.RefusePruned || !strings.Contains(ref.Text, "nobody has it") {
		t.Errorf("got %+v", ref)
	}
	if p := n.Snapshot().Problem; !strings.Contains(p, "needs log from") {
		t.Errorf("problem %q", p)
	}
	n.fill = func(_ context.Context, h shipper.Hello, to pos.LSN) error {
		at := n.spool.End()
		return n.spool.Append(h.Epoch, at, wal(h.Epoch, at, int(to-at)))
	}
	s := n.stream(t, h)
	if s.wel.Resume != base+1000 || n.Snapshot().Problem != "" {
		t.Errorf("resume at %s, problem %q", s.wel.Resume, n.Snapshot().Problem)
	}
	s.mustData(base+1000, 4000, 0)
	s.waitAck(base + 5000)
	n.wantLog(t, history(base), base+5000)
	s.conn.Close()
}

// A new epoch cuts what the old one had beyond its start, before anything of
// it is acknowledged.
func TestReceiver_AdoptsAndCuts(t *testing.T) {
	n := start(t)
	s := n.stream(t, hello(history(base), base))
	s.mustData(base, 1000, 0)
	s.waitAck(base + 1000)
	if _, _, err := n.Fence(epoch(2)); err != nil {
		t.Fatal(err)
	}
	lin := history(base, base+600)
	s = n.stream(t, hello(lin, base+600))
	if s.wel.Resume != base+600 {
		t.Fatalf("resume at %s", s.wel.Resume)
	}
	s.mustData(base+600, 900, 0)
	if a := s.waitAck(base + 1500); a.LineageEpoch != epoch(2) {
		t.Errorf("ack %+v", a)
	}
	n.wantLog(t, lin, base+1500)
	s.conn.Close()
}

func TestReceiver_FeedsUpToCommitted(t *testing.T) {
	n := start(t)
	if _, held, _ := n.Serve(); !held {
		t.Error("fed before a primary was heard")
	}
	h := hello(history(base), base)
	s := n.stream(t, h)
	limit, held, changed := n.Serve()
	if held || limit == 0 || limit > base {
		t.Errorf("limit %s, held %v", limit, held)
	}
	s.mustData(base, 1000, base+400)
	s.waitAck(base + 1000)
	<-changed
	if limit, _, _ = n.Serve(); limit != base+400 {
		t.Errorf("limit %s", limit)
	}
	if err := s.beat(base + 1000); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, patience, "the limit of the heartbeat", func() bool { limit, _, _ := n.Serve(); return limit == base+1000 })
	h.AtOnce, h.End = true, base+1000
	s = n.stream(t, h)
	if limit, held, _ = n.Serve(); limit != 0 || held {
		t.Errorf("at once: limit %s, held %v", limit, held)
	}
	s.conn.Close()
}

// What the local walreceiver flushed counts as durable, but only of bytes that
// are here and while nothing newer is promised.
func TestReceiver_CountsTheWalreceiversFlush(t *testing.T) {
	n := start(t)
	lin := history(base)
	s := n.stream(t, hello(lin, base))
	n.fs.Fail(faultfs.Rule{Op: faultfs.OpSync, Path: "/wal/", Times: -1, Err: syscall.EIO}) // only the flush can do it
	n.Feeding(true, base)
	fed := walserver.Feedback{Sent: base + 1000, Counted: base + 1000, Applied: base + 700, Entry: lin.Last()}
	if err := n.Fed(fed); err != nil {
		t.Fatal(err)
	}
	if d := n.Snapshot().Durable; d > base {
		t.Errorf("a flush beyond the log counts: durable %s", d)
	}
	n.fs.Heal()
	s.mustData(base, 1000, 0)
	a := s.waitAck(base + 1000)
	if a.Applied != base+700 {
		t.Errorf("ack %+v", a)
	}
	if !n.spool.Meta().Fed {
		t.Error("the spool does not know that its log was fed")
	}
	other := pos.Entry{Epoch: epoch(9), Timeline: 1, Start: base}
	if err := n.Fed(walserver.Feedback{Sent: base + 2000, Counted: base + 2000, Entry: other}); err != nil {
		t.Fatal(err)
	}
	if _, at, err := n.Fence(epoch(2)); err != nil || at.LSN != base+1000 {
		t.Errorf("fenced at %s, %v", at, err)
	}
	if err := n.Fed(walserver.Feedback{Sent: base + 3000, Counted: base + 3000, Entry: lin.Last()}); err != nil {
		t.Fatal(err)
	}
	if d := n.Snapshot().Durable; d != base+1000 {
		t.Errorf("durable %s after the fence", d)
	}
}

// A full disk stops the acknowledgements, is said to the primary and in the
// state, and is over when there is room.
func TestReceiver_FullDisk(t *testing.T) {
	n := start(t)
	lin := history(base)
	s := n.stream(t, hello(lin, base))
	s.mustData(base, 1000, 0)
	s.waitAck(base + 1000)
	n.fs.Fail(faultfs.Rule{Op: faultfs.OpWrite, Path: "/wal/", Times: -1, Err: syscall.ENOSPC})
	s.mustData(base+1000, 1000, 0)
	var ref *shipper.RefusedError
	if err := s.ended(); !errors.As(err, &ref) || ref.Code != shipper.RefuseBusy || !strings.Contains(ref.Text, "backup") {
		t.Errorf("got %v", err)
	}
	if s.acked != base+1000 {
		t.Errorf("acknowledged %s", s.acked)
	}
	if p := n.spool.Problem(); p == nil || !strings.Contains(p.Error(), "no space") {
		t.Errorf("problem %v", p)
	}
	s = n.stream(t, hello(lin, base+2000)) // the primary comes again and again
	s.mustData(base+1000, 1000, 0)
	s.ended()
	n.fs.Heal()
	s = n.stream(t, hello(lin, base+2000))
	s.mustData(s.wel.Resume, int(base+2000-s.wel.Resume), 0)
	s.waitAck(base + 2000)
	if p := n.spool.Problem(); p != nil {
		t.Errorf("the problem stands: %v", p)
	}
	n.wantLog(t, lin, base+2000)
	s.conn.Close()
}

// An fsync that failed takes back what it did not make durable; nothing of it
// is acknowledged before it has come again.
func TestReceiver_FailedSync(t *testing.T) {
	n := start(t)
	lin := history(base)
	s := n.stream(t, hello(lin, base))
	s.mustData(base, 1000, 0)
	s.waitAck(base + 1000)
	n.fs.Fail(faultfs.Rule{Op: faultfs.OpSync, Path: "/wal/", Err: syscall.EIO})
	s.mustData(base+1000, 1000, 0)
	s.ended()
	if s.acked != base+1000 {
		t.Errorf("acknowledged %s", s.acked)
	}
	s = n.stream(t, hello(lin, base+2000))
	if s.wel.Resume != base+1000 {
		t.Errorf("resume at %s", s.wel.Resume)
	}
	s.mustData(base+1000, 1000, 0)
	s.waitAck(base + 2000)
	n.wantLog(t, lin, base+2000)
	s.conn.Close()
}

func TestReceiver_SnapshotSaysWhoShips(t *testing.T) {
	n := start(t)
	var none standby.Snapshot = n.Snapshot()
	if none.From != "" || none.Received != 0 {
		t.Errorf("got %+v", none)
	}
	s := n.stream(t, hello(history(base), base+50))
	s.mustData(base, 50, base+20)
	s.waitAck(base + 50)
	n.SetRedo(base + 7)
	if err := s.beat(base + 30); err != nil {
		t.Fatal(err)
	}
	for {
		a, err := s.ack()
		if err != nil {
			t.Fatal(err)
		}
		if a.Redo == base+7 {
			break
		}
	}
	got := n.Snapshot()
	if got.From != "main" || got.Received != base+50 || got.Durable != base+50 || got.Committed != base+30 || got.SourceEnd != base+50 {
		t.Errorf("got %+v", got)
	}
	s.conn.Close()
	pgtest.Eventually(t, patience, "the end of the session", func() bool { return n.Snapshot().From == "" })
}
