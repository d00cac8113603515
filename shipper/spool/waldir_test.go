package spool_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

func TestWALDir_FollowsTheLineage(t *testing.T) {
	root := t.TempDir()
	real := filepath.Join(root, "real")
	link := filepath.Join(root, "pg_wal")
	if err := errors.Join(os.Mkdir(real, 0o700), os.Symlink(real, link)); err != nil {
		t.Fatal(err)
	}
	fork := base + segSize + 1000
	lin := pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: base}, {Epoch: epoch(2), Timeline: 2, Start: fork}}
	put := func(tli pos.Timeline, at pos.LSN, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(real, pos.SegName(tli, at, segSize)), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	forked := append(wal(epoch(1), base+segSize, 1000), wal(epoch(2), fork, segSize-1000)...)
	put(1, base, wal(epoch(1), base, segSize))
	put(1, base+segSize, wal(epoch(1), base+segSize, segSize))
	put(2, base+segSize, forked)
	want := append(wal(epoch(1), base, segSize), forked...)

	d := spool.Dir(link, segSize, lin)
	defer d.Close()
	got := make([]byte, 3*segSize)
	n, err := d.ReadWAL(got, base)
	if n != 2*segSize || !errors.Is(err, io.EOF) || !bytes.Equal(got[:n], want) {
		t.Fatal(n, err)
	}
	// Without the old timeline's file the new one has the bytes before the fork.
	if err := os.Remove(filepath.Join(real, pos.SegName(1, base+segSize, segSize))); err != nil {
		t.Fatal(err)
	}
	fresh := spool.Dir(link, segSize, lin)
	defer fresh.Close()
	if n, err := fresh.ReadWAL(got[:2*segSize], base); err != nil || !bytes.Equal(got[:n], want) {
		t.Fatal(n, err)
	}
}

func TestWALDir_RecycledFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, pos.SegName(1, base, segSize))
	if err := os.WriteFile(name, wal(epoch(1), base, segSize), 0o600); err != nil {
		t.Fatal(err)
	}
	d := spool.Dir(dir, segSize, pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: base}})
	defer d.Close()
	p := make([]byte, 100)
	if n, err := d.ReadWAL(p, base); n != 100 || err != nil {
		t.Fatal(n, err)
	}
	if err := os.Rename(name, filepath.Join(dir, pos.SegName(1, base+9*segSize, segSize))); err != nil {
		t.Fatal(err)
	}
	if _, err := d.ReadWAL(p, base); !errors.Is(err, spool.ErrPruned) {
		t.Fatal(err)
	}
	if _, err := d.ReadWAL(p, base); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	// A file replaced by another is read from the new one.
	if err := os.WriteFile(name, wal(epoch(2), base, segSize), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := d.ReadWAL(p, base); err != nil || !bytes.Equal(p[:n], wal(epoch(2), base, 100)) {
		t.Fatal(n, err)
	}
}
