package walfmt_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// commitBody is a COMMIT PREPARED of transaction 4711 with every optional part;
// statsItem is the size of a dropped-statistics item, 0 for none.
func commitBody(at time.Time, statsItem int) []byte {
	has := uint32(1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4 | 1<<7)
	if statsItem > 0 {
		has |= 1 << 8
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(at.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).Microseconds()))
	b = binary.LittleEndian.AppendUint32(b, has)
	list := func(n, item int) {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
		b = append(b, make([]byte, n*item)...)
	}
	b = append(b, make([]byte, 8)...) // database, tablespace
	list(3, 4)                        // subtransactions
	list(2, 12)                       // relations
	if statsItem > 0 {
		list(2, statsItem)
	}
	list(1, 16) // invalidations
	b = binary.LittleEndian.AppendUint32(b, 4711)
	return append([]byte{254, byte(len(b) + 2), 0, 0, 0}, append(b, "x\x00"...)...)
}

func TestRecord_CommitOfEveryVersion(t *testing.T) {
	at := time.Date(2031, 5, 6, 7, 8, 9, 123456000, time.UTC)
	for _, tt := range []struct {
		magic     uint16
		major     int
		statsItem int
	}{{0xD10D, 0, 0}, {0xD110, 0, 12}, {0xD113, 16, 12}, {0xD116, 0, 12}, {0xD118, 18, 16}, {0xD119, 19, 16}} {
		w := newWriter(start)
		w.magic = tt.magic
		w.add(0, 1, 0xB0, commitBody(at, tt.statsItem))
		w.add(0, 1, 0xB0, commitBody(at, tt.statsItem)[:60]) // too short
		got, _ := readAll(t, w, start, walfmt.Params{SegSize: segSize, Major: tt.major})
		if len(got) != 2 {
			t.Fatalf("magic %04X: %d records", tt.magic, len(got))
		}
		want := walfmt.Commit{XID: 4711, Time: at, Prepared: true}
		if c, ok := got[0].Commit(); !ok || c != want {
			t.Errorf("magic %04X: %+v, %v", tt.magic, c, ok)
		}
		if c, ok := got[1].Commit(); ok {
			t.Errorf("magic %04X: a broken record gives %+v", tt.magic, c)
		}
	}
}

func TestRecord_ResourceManagers(t *testing.T) {
	for _, tt := range []struct {
		magic uint16
		major int
		rmgr  uint8
		want  int
	}{
		{0xD10D, 0, 21, 1}, {0xD10D, 0, 22, 0}, {0xD10D, 0, 200, 0},
		{0xD110, 0, 22, 0}, {0xD110, 0, 127, 0}, {0xD110, 0, 128, 1}, {0xD118, 0, 22, 0},
		{0xD120, 19, 22, 1}, {0xD120, 19, 200, 1},
	} {
		w := newWriter(start)
		w.magic = tt.magic
		w.add(0, tt.rmgr, 0, nil)
		if got, end := readAll(t, w, start, walfmt.Params{SegSize: segSize, Major: tt.major}); len(got) != tt.want {
			t.Errorf("magic %04X, resource manager %d: %d records, %+v", tt.magic, tt.rmgr, len(got), end)
		}
	}
}

func TestRecord_EndOfRecoveryOfPromotion(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "100MB")
	c.Exec(t, "select pg_logical_emit_message(true, 'p', 'm')")
	from := redo(t, c)
	c.Stop(syscall.SIGINT)
	old := findEnd(t, source(c), from, realParams(t, c))
	signal := filepath.Join(c.Data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	c.Start(t)
	if got := c.Query(t, "select pg_promote()"); got != "t" {
		t.Fatalf("pg_promote: %s", got)
	}
	c.Exec(t, "create table a (i int)")
	c.Crash()

	src := walDir{filepath.Join(c.Data, "pg_wal"), 2, segSize}
	got, end := readAll(t, src, old.LastRecord, realParams(t, c))
	if len(got) < 3 || got[0].End != old.RecordEnd {
		t.Fatalf("%d records after %+v, end %+v", len(got), old, end)
	}
	if cp, ok := got[0].Checkpoint(); !ok || !cp.Shutdown || cp.Timeline != 1 || cp.Redo != got[0].LSN {
		t.Errorf("shutdown checkpoint: %+v, %v", cp, ok)
	}
	e, ok := got[1].EndOfRecovery()
	if !ok || e.Timeline != 2 || e.PrevTimeline != 1 || e.Time.Before(before.Add(-time.Second)) || e.Time.After(time.Now().Add(time.Second)) {
		t.Errorf("end of recovery: %+v, %v", e, ok)
	}
	if _, ok := got[2].EndOfRecovery(); ok {
		t.Error("a second end of recovery")
	}
	// On the old timeline nothing follows.
	if e := findEnd(t, source(c), old.LastRecord, realParams(t, c)); e.RecordEnd != old.RecordEnd {
		t.Errorf("old timeline ends at %+v, want %s", e, pos.LSN(old.RecordEnd))
	}
}
