package tail_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/shipper/pos"
	"understudy/standby/tail"
	"understudy/test/faultfs"
)

// onFaults is cfg on a file system that fails, with the log in memory.
func onFaults(t *testing.T, cfg tail.Config) (tail.Config, *faultfs.FS, tail.Report) {
	t.Helper()
	disk := faultfs.New()
	cfg.Source, cfg.Dir, cfg.FS = inMemory(t, cfg), "/tails", disk
	want, err := tail.Keep(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, disk, want
}

// keepsTheSame keeps the tail on the disk as it is now, and once more after a
// power loss, which must leave all of it.
func keepsTheSame(t *testing.T, cfg tail.Config, disk *faultfs.FS, want tail.Report, when string) {
	t.Helper()
	cfg.FS = disk
	got, err := tail.Keep(context.Background(), cfg)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("%s: %v\n%s\n%s", when, err, diff, disk)
	}
	disk.PowerLoss(nil)
	// Only what is complete stands under its name, and nothing else does.
	names, err := disk.ReadDir(cfg.Dir)
	if err != nil || len(names) != 1 {
		t.Fatalf("%s: %v, %v\n%s", when, names, err, disk)
	}
	from := cfg.Source
	cfg.Source = memory{} // it is not read again
	got, err = tail.Keep(context.Background(), cfg)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Fatalf("%s, after a power loss: %v\n%s\n%s", when, err, diff, disk)
	}
	sameBytes(t, cfg.From.SegStart(segSize), from.(memory), disk, got, when)
}

// sameBytes compares the segments on the disk with the log.
func sameBytes(t *testing.T, at pos.LSN, log memory, disk *faultfs.FS, rep tail.Report, when string) {
	t.Helper()
	for _, name := range rep.Files {
		f, err := disk.OpenFile(filepath.Join(rep.Path, name), os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(when, err)
		}
		got, want := make([]byte, segSize), make([]byte, segSize)
		n, err := f.ReadAt(got, 0)
		log.ReadWAL(want, at) // zeros where the log ends
		if n != segSize || !bytes.Equal(got, want) {
			t.Fatalf("%s: %d bytes of %s are kept, %v, and not the log's", when, n, name, err)
		}
		f.Close()
		at += segSize
	}
}

func crashAtEveryStep(t *testing.T, cfg tail.Config) {
	cfg, disk, want := onFaults(t, cfg)
	steps := disk.Mutations()
	if steps < 10 {
		t.Fatalf("only %d steps", steps)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range steps {
		for how, crash := range map[string]func(*faultfs.FS){
			"Kill":          (*faultfs.FS).Kill,
			"PowerLoss":     func(f *faultfs.FS) { f.PowerLoss(nil) },
			"PartPowerLoss": func(f *faultfs.FS) { f.PowerLoss(func() bool { return rng.IntN(3) > 0 }) },
			"AllReached":    func(f *faultfs.FS) { f.PowerLoss(func() bool { return true }) },
		} {
			disk := faultfs.New()
			cfg.FS = disk
			disk.CrashAfter(n)
			if _, err := tail.Keep(context.Background(), cfg); !errors.Is(err, faultfs.ErrDown) {
				t.Fatalf("crash in step %d: %v", n, err)
			}
			crash(disk)
			keepsTheSame(t, cfg, disk, want, how)
		}
	}
}

func faultAtEveryCall(t *testing.T, cfg tail.Config) {
	cfg, _, want := onFaults(t, cfg)
	broken := errors.New("input/output error")
	for _, op := range []faultfs.Op{faultfs.OpOpen, faultfs.OpRead, faultfs.OpWrite, faultfs.OpSync, faultfs.OpTrunc,
		faultfs.OpRename, faultfs.OpMkdir, faultfs.OpReadDir, faultfs.OpSyncDir} {
		failed := 0
		for nth := 1; ; nth++ {
			disk := faultfs.New()
			cfg.FS = disk
			disk.Fail(faultfs.Rule{Op: op, Nth: nth, Err: broken})
			_, err := tail.Keep(context.Background(), cfg)
			if err == nil {
				break
			}
			if failed++; !errors.Is(err, broken) {
				t.Fatalf("%s %d: %v", op, nth, err)
			}
			disk.Heal()
			if names, _ := disk.ReadDir(cfg.Dir); len(names) > 0 && (op != faultfs.OpSyncDir || strings.HasSuffix(names[0], ".part")) {
				t.Errorf("%s %d left %v", op, nth, names)
			}
			keepsTheSame(t, cfg, disk, want, string(op))
		}
		if failed == 0 {
			t.Errorf("no %s failed", op)
		}
	}
}

func noSpace(t *testing.T, cfg tail.Config) {
	cfg, disk, want := onFaults(t, cfg)
	full := disk.Used()
	for _, room := range []int64{faultfs.SectorSize, full / 2, full - faultfs.SectorSize} {
		disk := faultfs.New()
		cfg.FS = disk
		disk.SetCapacity(room)
		if _, err := tail.Keep(context.Background(), cfg); !errors.Is(err, tail.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with room for %d of %d bytes: %v", room, full, err)
		}
		if names, err := disk.ReadDir(cfg.Dir); len(names) > 0 || disk.Used() > 0 {
			t.Errorf("with room for %d of %d bytes it left %v, %v", room, full, names, err)
		}
		disk.Heal()
		keepsTheSame(t, cfg, disk, want, "after no space")
	}
}
