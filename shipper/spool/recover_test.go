package spool_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/faultfs"
)

// TestSpool_TailCutAtEveryByte has a batch in flight whose slot is on disk and
// whose bytes are there up to each byte in turn, with zeros or garbage beyond.
func TestSpool_TailCutAtEveryByte(t *testing.T) {
	const synced, flight = 1000, 1500
	for _, fill := range []byte{0, 0xA5} {
		for x := 0; x <= flight; x++ {
			fsys := faultfs.New()
			s := begun(t, config(fsys))
			mustAppend(t, s, epoch(1), synced)
			mustSync(t, s)
			mustAppend(t, s, epoch(1), flight)
			mustSync(t, s) // this answer never left the machine
			fsys.CrashAfter(0)
			_ = s.Close() // the machine is down
			fsys.Kill()
			f, err := fsys.OpenFile("/spool/wal/000000010000000000000004", 2, 0)
			if err != nil {
				t.Fatal(err)
			}
			lost := bytes.Repeat([]byte{fill}, flight-x)
			if _, err := f.WriteAt(lost, int64(synced+x)); err != nil {
				t.Fatal(err)
			}
			s = open(t, config(fsys))
			if got := s.End(); got != base+synced && (x < flight-2 || got != base+synced+flight) {
				t.Fatalf("cut at %d: end %s", x, got)
			}
			if x == flight && s.End() != base+synced+flight {
				t.Fatalf("nothing lost, but the end is %s", s.End())
			}
			wantLog(t, s, wal(epoch(1), base, int(s.End()-base)))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSpool_VerifyTakesWholeRecords(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	mustAppend(t, s, epoch(1), 1000)
	mustSync(t, s)
	mustAppend(t, s, epoch(1), 500)
	fsys.CrashAfter(0)
	_ = s.Close() // the process is gone
	fsys.Kill()
	cfg := config(fsys)
	cfg.Verify = func(src spool.Source, from pos.LSN) (pos.LSN, error) {
		p := make([]byte, 500)
		if n, err := src.ReadWAL(p, from); n != 500 || err != nil || !bytes.Equal(p, wal(epoch(1), from, 500)) {
			t.Errorf("verify read %d, %v", n, err)
		}
		return from + 400, nil
	}
	s = open(t, cfg)
	if s.End() != base+1400 || s.Durable() != base+1400 {
		t.Fatal(s.End(), s.Durable())
	}
	fsys.CrashAfter(0)
	_ = s.Close() // the machine is down
	fsys.PowerLoss(nil)
	s = open(t, config(fsys))
	closeSpool(t, s)
	wantLog(t, s, wal(epoch(1), base, 1400))
	raw, err := fsys.ReadFile("/spool/wal/000000010000000000000004")
	if err != nil || !bytes.Equal(raw[1400:segSize], make([]byte, segSize-1400)) {
		t.Fatal("bytes beyond the end were left", err)
	}
}

func TestSpool_FailedSyncTakesBytesBack(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	mustAppend(t, s, epoch(1), 700)
	mustSync(t, s)
	mustAppend(t, s, epoch(1), 700)
	fsys.Fail(faultfs.Rule{Op: faultfs.OpSync, Err: syscall.EIO})
	if _, err := s.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if s.End() != base+700 || s.Problem() == nil {
		t.Fatal(s.End(), s.Problem())
	}
	mustAppend(t, s, epoch(1), 900)
	mustSync(t, s)
	if s.Problem() != nil {
		t.Fatal(s.Problem())
	}
	fsys.CrashAfter(0)
	_ = s.Close() // the machine is down
	fsys.PowerLoss(nil)
	s = open(t, config(fsys))
	closeSpool(t, s)
	wantLog(t, s, wal(epoch(1), base, 1600))
}

func TestSpool_FullDisk(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	closeSpool(t, s)
	mustAppend(t, s, epoch(1), 1000)
	acked := mustSync(t, s)
	fsys.SetCapacity(fsys.Used() + 4096)
	err := s.Append(epoch(1), s.End(), wal(epoch(1), s.End(), 10000))
	if !errors.Is(err, spool.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) || !errors.Is(s.Problem(), spool.ErrNoSpace) {
		t.Fatal(err, s.Problem())
	}
	if s.End() != acked {
		t.Fatal(s.End())
	}
	fsys.Heal()
	mustAppend(t, s, epoch(1), 2*segSize)
	mustSync(t, s)
	if s.Problem() != nil {
		t.Fatal(s.Problem())
	}
	wantLog(t, s, wal(epoch(1), base, 1000+2*segSize))
}

func TestOpen_RefusesDamage(t *testing.T) {
	seg := func(n byte) string { return "/spool/wal/00000001000000000000000" + string('0'+n) }
	for name, tt := range map[string]struct {
		corrupt func(*faultfs.FS) error
		want    error
	}{
		"MissingSegment": {func(f *faultfs.FS) error { return f.Remove(seg(5)) }, spool.ErrCorrupt},
		"MissingFirst":   {func(f *faultfs.FS) error { return f.Remove(seg(4)) }, spool.ErrCorrupt},
		"BothSlots":      {func(f *faultfs.FS) error { return spoil(f, seg(6), segSize+100, 600) }, spool.ErrCorrupt},
		"Meta":           {func(f *faultfs.FS) error { return spoil(f, "/spool/meta.json", 60, 1) }, spool.ErrCorrupt},
		"NoMeta":         {func(f *faultfs.FS) error { return f.Remove("/spool/meta.json") }, spool.ErrNoStore},
	} {
		t.Run(name, func(t *testing.T) {
			fsys := faultfs.New()
			s := begun(t, config(fsys))
			mustAppend(t, s, epoch(1), 2*segSize+100)
			mustSync(t, s)
			mustAppend(t, s, epoch(1), 100)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if err := tt.corrupt(fsys); err != nil {
				t.Fatal(err)
			}
			if _, err := spool.Open(config(fsys)); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestOpen_AllSegmentsGoneAfterPrune(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	mustAppend(t, s, epoch(1), 2*segSize+100)
	mustSync(t, s)
	if _, err := s.Prune(s.End()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := fsys.Remove("/spool/wal/000000010000000000000006"); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(config(fsys)); !errors.Is(err, spool.ErrCorrupt) {
		t.Fatal(err)
	}
	if err := fsys.Remove("/spool/wal"); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(config(fsys)); !errors.Is(err, spool.ErrCorrupt) {
		t.Fatal(err)
	}
}

func spoil(f *faultfs.FS, name string, off int64, n int) error {
	h, err := f.OpenFile(name, 2, 0)
	if err != nil {
		return err
	}
	_, err = h.WriteAt(bytes.Repeat([]byte{0x5A}, n), off)
	return err
}

func TestOpen_ForeignSegment(t *testing.T) {
	fsys := faultfs.New()
	s := begun(t, config(fsys))
	mustAppend(t, s, epoch(1), 100)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := config(fsys)
	cfg.Dir = "/other"
	o, err := spool.Create(cfg, "another", "group")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(o.Begin(7, segSize, base), o.Close()); err != nil {
		t.Fatal(err)
	}
	raw, err := fsys.ReadFile("/spool/wal/000000010000000000000004")
	if err != nil {
		t.Fatal(err)
	}
	f, err := fsys.OpenFile("/other/wal/000000010000000000000004", 0x42, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(raw, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := spool.Open(cfg); !errors.Is(err, spool.ErrForeign) {
		t.Fatal(err)
	}
}
