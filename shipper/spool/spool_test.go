package spool_test

import (
	"bytes"
	"context"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOpen_NoStore(t *testing.T) {
	if _, err := spool.Open(config(faultfs.New())); !errors.Is(err, spool.ErrNoStore) {
		t.Fatal(err)
	}
}

func TestCreate_RefusesAnExistingStore(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	closeSpool(t, s)
	if _, err := spool.Create(config(fsys), "other", "group"); !errors.Is(err, spool.ErrExists) {
		t.Fatal(err)
	}
}

func TestSpool_OnRealDisk(t *testing.T) {
	cfg := spool.Config{Dir: filepath.Join(t.TempDir(), "s")}
	s := begun(t, cfg)
	mustAppend(t, s, epoch(1), 3*segSize+100)
	mustSync(t, s)
	if err := s.SetFed(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); !errors.Is(err, spool.ErrClosed) {
		t.Fatal(err)
	}
	s = open(t, cfg)
	closeSpool(t, s)
	wantLog(t, s, wal(epoch(1), base, 3*segSize+100))
	m := s.Meta()
	if !m.Fed || !m.Clean || m.Store != "store" || m.Group != "group" || m.SystemID != 7 || m.Base != base {
		t.Fatalf("%+v", m)
	}
}

func TestSpool_AppendRefuses(t *testing.T) {
	s := begun(t, config(faultfs.New()))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 1000)
	var gap *spool.GapError
	if err := s.Append(epoch(1), base+1001, []byte{1}); !errors.Is(err, spool.ErrGap) || !errors.As(err, &gap) || gap.Want != base+1000 {
		t.Errorf("gap: %v", err)
	}
	for _, e := range []pos.Epoch{{}, epoch(2), {Gen: 2, Num: 1}} {
		if err := s.Append(e, s.End(), []byte{1}); !errors.Is(err, spool.ErrStaleEpoch) {
			t.Errorf("epoch %s: %v", e, err)
		}
	}
	if err := s.Append(epoch(1), base+900, wal(epoch(2), base+900, 200)); !errors.Is(err, spool.ErrCorrupt) {
		t.Errorf("other bytes: %v", err)
	}
	if err := s.Append(epoch(1), base+900, wal(epoch(1), base+900, 200)); err != nil || s.End() != base+1100 {
		t.Errorf("overlap: %v, end %s", err, s.End())
	}
	if err := s.Begin(7, segSize, base); !errors.Is(err, spool.ErrExists) {
		t.Errorf("begin twice: %v", err)
	}
}

func TestSpool_FenceStopsTheOldEpoch(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	mustAppend(t, s, epoch(1), 100)
	p, err := s.RaiseFence(epoch(2))
	if err != nil || p != (pos.Pos{Epoch: epoch(1), LSN: base + 100}) {
		t.Fatal(p, err)
	}
	if err := s.Append(epoch(1), s.End(), []byte{1}); !errors.Is(err, spool.ErrStaleEpoch) {
		t.Fatal(err)
	}
	if _, err := s.RaiseFence(epoch(1)); !errors.Is(err, spool.ErrStaleEpoch) {
		t.Fatal(err)
	}
	fsys.CrashAfter(0)
	_ = s.Close() // the machine is down
	fsys.PowerLoss(nil)
	s = open(t, config(fsys))
	closeSpool(t, s)
	if s.Fence() != epoch(2) || s.End() != base+100 {
		t.Fatal(s.Fence(), s.End())
	}
}

func TestSpool_AdoptMovesTheTail(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 2*segSize+500)
	cut := base + segSize + 300
	lin := s.Lineage().With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: cut})
	if err := s.Adopt(lin, epoch(2)); err != nil {
		t.Fatal(err)
	}
	if s.End() != cut || s.Durable() != cut {
		t.Fatal(s.End(), s.Durable())
	}
	const dir = "/spool/tail/1.1-0_1412C" // the slash of an LSN becomes an underscore
	var moved []byte
	for _, f := range []string{"000000010000000000000005.0000012C", "000000010000000000000006.00000000"} {
		b, err := fsys.ReadFile(dir + "/" + f)
		if err != nil {
			t.Fatalf("%v\n%s", err, fsys)
		}
		moved = append(moved, b...)
	}
	if !bytes.Equal(moved, wal(epoch(1), cut, int(base+2*segSize+500-cut))) {
		t.Fatal("the tail is not what was cut")
	}
	if _, _, err := s.Segment("000000010000000000000005"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("old timeline: %v", err)
	}
	mustAppend(t, s, epoch(2), segSize)
	mustSync(t, s)
	f, complete, err := s.Segment("000000020000000000000005")
	if err != nil || !complete || f.Size() != segSize {
		t.Fatal(complete, err)
	}
	defer f.Close()
	got := make([]byte, segSize)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := append(wal(epoch(1), base+segSize, 300), wal(epoch(2), cut, segSize-300)...)
	if !bytes.Equal(got, want) {
		t.Error("the segment of the fork is not the old bytes followed by the new")
	}
}

func TestSpool_AdoptRefuses(t *testing.T) {
	s := begun(t, config(faultfs.New()))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 3*segSize)
	mustSync(t, s)
	if _, err := s.Prune(base + 2*segSize); err != nil {
		t.Fatal(err)
	}
	l2 := s.Lineage().With(pos.Entry{Epoch: epoch(2), Timeline: 1, Start: base + 3*segSize})
	if err := s.Adopt(l2, epoch(2)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		l     pos.Lineage
		fence pos.Epoch
		want  error
	}{
		"LowerFence":   {l2, epoch(1), spool.ErrStaleEpoch},
		"OlderLineage": {l2[:1], epoch(2), spool.ErrStaleEpoch},
		"BelowBase":    {l2[:1].With(pos.Entry{Epoch: epoch(3), Timeline: 1, Start: base + segSize}), epoch(3), spool.ErrPruned},
		"Empty":        {nil, epoch(3), pos.ErrLineage},
		"FenceBehind":  {l2.With(pos.Entry{Epoch: epoch(4), Timeline: 1, Start: base + 3*segSize}), epoch(3), spool.ErrStaleEpoch},
	} {
		before := s.Meta()
		if err := s.Adopt(tt.l, tt.fence); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v", name, err)
		}
		if after := s.Meta(); after.Fence != before.Fence || len(after.Lineage) != len(before.Lineage) || s.End() != base+3*segSize {
			t.Errorf("%s: changed %+v", name, after)
		}
	}
}

// An epoch that came to nothing leaves an entry without a byte. Its node may
// have to take over the older history of another one to go on.
func TestSpool_AdoptOverUnwritten(t *testing.T) {
	s := begun(t, config(faultfs.New()))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), segSize)
	mustSync(t, s)
	l1 := s.Lineage()
	end := s.End()
	if err := s.Adopt(l1.With(pos.Entry{Epoch: epoch(3), Timeline: 1, Start: end}), epoch(3)); err != nil {
		t.Fatal(err)
	}
	l2 := l1.With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: end})
	if err := s.Adopt(l2, epoch(3)); !errors.Is(err, spool.ErrStaleEpoch) {
		t.Errorf("under the epoch's own fence: %v", err)
	}
	if _, err := s.RaiseFence(epoch(4)); err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(l2, epoch(4)); err != nil {
		t.Fatal(err)
	}
	if got := s.Lineage().Last().Epoch; got != epoch(2) || s.End() != end {
		t.Errorf("the history ends with %s at %s", got, s.End())
	}
	l4 := l2.With(pos.Entry{Epoch: epoch(4), Timeline: 2, Start: end})
	if err := s.Adopt(l4, epoch(4)); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, epoch(4), segSize)
	if _, err := s.RaiseFence(epoch(5)); err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(l2, epoch(5)); !errors.Is(err, spool.ErrStaleEpoch) {
		t.Errorf("over what was written: %v", err)
	}
}

func TestSpool_PruneAndReset(t *testing.T) {
	fsys := faultfs.New()
	cfg := config(fsys)
	cfg.SpareSegments = 2
	s := begun(t, cfg)
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 5*segSize)
	mustSync(t, s)
	pinned, _, err := s.Segment("000000010000000000000005")
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	freed, err := s.Prune(base + 100*segSize)
	if err != nil || freed != 4*(segSize+1024) || s.Base() != base+4*segSize || s.Size() != segSize+1024 {
		t.Fatal(freed, err, s.Base(), s.Size())
	}
	if _, err := s.ReadWAL(make([]byte, 1), base); !errors.Is(err, spool.ErrPruned) {
		t.Fatal(err)
	}
	mustAppend(t, s, epoch(1), 3*segSize) // into recycled files
	mustSync(t, s)
	wantLog(t, s, wal(epoch(1), base+4*segSize, 4*segSize))
	p := make([]byte, segSize)
	if _, err := pinned.ReadAt(p, 0); err != nil || !bytes.Equal(p, wal(epoch(1), base+segSize, segSize)) {
		t.Fatal("an open segment changed", err)
	}
	if err := s.Reset(base + 40*segSize); err != nil {
		t.Fatal(err)
	}
	if s.Base() != base+40*segSize || s.End() != s.Base() || s.Lineage().Last().Epoch != epoch(1) {
		t.Fatal(s.Base(), s.End())
	}
	mustAppend(t, s, epoch(1), 10)
}

func TestSpool_TailCRC(t *testing.T) {
	s := begun(t, config(faultfs.New()))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 5*segSize)
	table := crc32.MakeTable(crc32.Castagnoli)
	crc, from, err := s.TailCRC(base+4*segSize+10, 64<<10)
	if want := crc32.Checksum(wal(epoch(1), base+10, 64<<10), table); err != nil || from != base+10 || crc != want {
		t.Error(crc, from, err)
	}
	crc, from, err = s.TailCRC(base+10, 64<<10)
	if want := crc32.Checksum(wal(epoch(1), base, 10), table); err != nil || from != base || crc != want {
		t.Error(crc, from, err)
	}
	if _, _, err := s.TailCRC(s.End()+1, 1); !errors.Is(err, spool.ErrGap) {
		t.Error(err)
	}
	if _, _, err := s.TailCRC(base-1, 1); !errors.Is(err, spool.ErrPruned) {
		t.Error(err)
	}
}

func TestSpool_WaitSeesAppendAndClose(t *testing.T) {
	s := begun(t, config(faultfs.New()))
	got := make(chan pos.LSN)
	errs := make(chan error)
	go func() {
		l, err := s.Wait(t.Context(), base)
		got <- l
		_ = err // base+5 says it all
		_, err = s.Wait(t.Context(), base+5)
		errs <- err
	}()
	mustAppend(t, s, epoch(1), 5)
	if l := <-got; l != base+5 {
		t.Fatal(l)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := s.Wait(ctx, base+5); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-errs; !errors.Is(err, spool.ErrClosed) {
		t.Fatal(err)
	}
}

type memSource struct {
	from pos.LSN
	b    []byte
}

func (m memSource) ReadWAL(p []byte, at pos.LSN) (int, error) {
	if at < m.from || at >= m.from+pos.LSN(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[at-m.from:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestSpool_Extend(t *testing.T) {
	s := begun(t, config(faultfs.New()))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 2000)
	if err := s.Extend(memSource{base, wal(epoch(2), base, 9000)}, base+9000); !errors.Is(err, spool.ErrCorrupt) || s.End() != base+2000 {
		t.Errorf("foreign bytes: %v", err)
	}
	if err := s.Extend(memSource{base, wal(epoch(1), base, 9000)}, base+9001); !errors.Is(err, io.EOF) {
		t.Errorf("short source: %v", err)
	}
	if err := s.Extend(memSource{base, wal(epoch(1), base, 3*segSize)}, base+3*segSize); err != nil {
		t.Fatal(err)
	}
	wantLog(t, s, wal(epoch(1), base, 3*segSize))
	ahead := s.Lineage().With(pos.Entry{Epoch: epoch(2), Timeline: 2, Start: base + 3*segSize + 50})
	if err := s.Adopt(ahead, epoch(2)); err != nil {
		t.Fatal(err)
	}
	if err := s.Extend(memSource{base, wal(epoch(1), base, 4*segSize)}, base+4*segSize); !errors.Is(err, spool.ErrStaleEpoch) {
		t.Errorf("beyond the entry: %v", err)
	}
}

// TestSpool_SparesAreUsed waits for zero-filled spares, crashes, and checks that
// neither they nor their use disturb recovery.
func TestSpool_SparesAreUsed(t *testing.T) {
	fsys := faultfs.New()
	cfg := config(fsys)
	cfg.SpareSegments = 3
	s := begun(t, cfg)
	count := func() int {
		names, err := fsys.ReadDir("/spool/wal")
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, name := range names {
			if strings.HasPrefix(name, "spare-") && !strings.HasSuffix(name, ".tmp") {
				n++
			}
		}
		return n
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); count() < 3; <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("no spares:\n%s", fsys)
		}
	}
	mustAppend(t, s, epoch(1), 2*segSize+10)
	mustSync(t, s)
	if n := count(); n > 1 {
		t.Errorf("%d spares left of 3 after 3 segments", n)
	}
	fsys.CrashAfter(0)
	_ = s.Close() // the machine is down
	fsys.PowerLoss(nil)
	s = open(t, cfg)
	closeSpool(t, s)
	wantLog(t, s, wal(epoch(1), base, 2*segSize+10))
}

// TestSpool_SparesNeverFailAFullDisk has no room for spares, but for the log.
func TestSpool_SparesNeverFailAFullDisk(t *testing.T) {
	fsys := faultfs.New()
	fsys.Fail(faultfs.Rule{Op: faultfs.OpWrite, Path: "spare-", Times: -1, Err: syscall.ENOSPC})
	cfg := config(fsys)
	cfg.SpareSegments = 2
	s := begun(t, cfg)
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 3*segSize)
	mustSync(t, s)
	if _, err := s.Prune(s.End()); err != nil || s.Problem() != nil {
		t.Fatal(err, s.Problem())
	}
	wantLog(t, s, wal(epoch(1), base+2*segSize, segSize))
}

// TestSpool_ConcurrentSyncs appends while many callers sync and one reads.
func TestSpool_ConcurrentSyncs(t *testing.T) {
	s := begun(t, spool.Config{Dir: filepath.Join(t.TempDir(), "s")})
	closeSpool(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				end := s.End()
				if l, err := s.Sync(); err != nil || l < end {
					t.Errorf("synced %s of %s: %v", l, end, err)
					return
				}
			}
		})
	}
	wg.Go(func() {
		buf := make([]byte, 3000)
		for at := base; ; {
			end, err := s.Wait(ctx, at)
			if err != nil {
				return
			}
			n, err := s.ReadWAL(buf[:min(3000, end.Sub(at))], at)
			if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(buf[:n], wal(epoch(1), at, n)) {
				t.Errorf("read at %s: %d %v", at, n, err)
				return
			}
			at += pos.LSN(n)
		}
	})
	for range 200 {
		mustAppend(t, s, epoch(1), 777)
	}
	cancel()
	wg.Wait()
}
