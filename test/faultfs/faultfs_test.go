package faultfs_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"understudy/shipper/spool"
	"understudy/test/faultfs"
)

func create(t *testing.T, f *faultfs.FS, name string, content []byte) spool.File {
	t.Helper()
	h, err := f.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(content, 0); err != nil {
		t.Fatal(err)
	}
	return h
}

func TestFS_PowerLossDropsUnsynced(t *testing.T) {
	f := faultfs.New()
	old := bytes.Repeat([]byte{1}, 2*faultfs.SectorSize)
	h := create(t, f, "/a", old)
	if err := errors.Join(h.Sync(), f.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	if _, err := h.WriteAt(bytes.Repeat([]byte{2}, 2*faultfs.SectorSize), 0); err != nil {
		t.Fatal(err)
	}
	create(t, f, "/b", old)
	calls := 0
	f.PowerLoss(func() bool { calls++; return calls == 2 }) // not the entry, then the first sector
	got, err := f.ReadFile("/a")
	want := append(bytes.Repeat([]byte{2}, faultfs.SectorSize), old[faultfs.SectorSize:]...)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("not torn at the sector: %v", err)
	}
	if _, err := f.ReadFile("/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unsynced entry survived: %v", err)
	}
	if _, err := h.WriteAt(old, 0); !errors.Is(err, faultfs.ErrDown) {
		t.Errorf("file of the earlier life: %v", err)
	}
}

func TestFS_FailedSyncLosesForGood(t *testing.T) {
	f := faultfs.New()
	h := create(t, f, "/a", []byte("old"))
	if err := errors.Join(h.Sync(), f.SyncDir("/")); err != nil {
		t.Fatal(err)
	}
	f.Fail(faultfs.Rule{Op: faultfs.OpSync, Err: syscall.EIO})
	if _, err := h.WriteAt([]byte("new"), 0); err != nil {
		t.Fatal(err)
	}
	if err := h.Sync(); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if err := h.Sync(); err != nil {
		t.Fatal(err)
	}
	f.PowerLoss(func() bool { return true })
	if got, err := f.ReadFile("/a"); err != nil || string(got) != "old" {
		t.Errorf("%q %v", got, err)
	}
}

func TestFS_CapacityAndRules(t *testing.T) {
	f := faultfs.New()
	f.SetCapacity(2 * faultfs.SectorSize)
	h := create(t, f, "/a", make([]byte, faultfs.SectorSize))
	if n, err := h.WriteAt(make([]byte, 2*faultfs.SectorSize), faultfs.SectorSize); n != faultfs.SectorSize || !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%d %v", n, err)
	}
	if err := f.Remove("/a"); err != nil || f.Used() != 0 {
		t.Errorf("%v, %d used", err, f.Used())
	}
	f.Heal()
	f.Fail(faultfs.Rule{Op: faultfs.OpWrite, Path: "b", Nth: 2, Err: syscall.EIO, Short: 1})
	h = create(t, f, "/b", []byte("x"))
	if n, err := h.WriteAt([]byte("yz"), 0); n != 1 || !errors.Is(err, syscall.EIO) {
		t.Errorf("%d %v", n, err)
	}
	f.CrashAfter(1)
	if err := h.Sync(); err != nil {
		t.Error(err)
	}
	if err := h.Sync(); !errors.Is(err, faultfs.ErrDown) {
		t.Error(err)
	}
}
