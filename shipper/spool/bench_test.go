package spool_test

import (
	"os"
	"path/filepath"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

const benchSeg = 16 << 20

func benchSpool(b *testing.B, segSize int64) *spool.Spool {
	b.Helper()
	s, err := spool.Create(spool.Config{Dir: filepath.Join(b.TempDir(), "s")}, "store", "group")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = s.Close() })
	start := pos.LSN(segSize)
	if err := s.Begin(1, segSize, start); err != nil {
		b.Fatal(err)
	}
	if err := s.Adopt(pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: start}}, epoch(1)); err != nil {
		b.Fatal(err)
	}
	return s
}

func BenchmarkSpool_SmallSync(b *testing.B) {
	s := benchSpool(b, benchSeg)
	p := make([]byte, 200)
	mustAppend(b, s, epoch(1), 200)
	mustSync(b, s)
	for b.Loop() {
		if err := s.Append(epoch(1), s.End(), p); err != nil {
			b.Fatal(err)
		}
		if _, err := s.Sync(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkBare_SmallSync is the least that a durable log can cost: write and
// fdatasync on a preallocated file.
func BenchmarkBare_SmallSync(b *testing.B) {
	f, err := spool.OS().OpenFile(filepath.Join(b.TempDir(), "bare"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, benchSeg), 0); err != nil {
		b.Fatal(err)
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	p := make([]byte, 200)
	at := int64(0)
	for b.Loop() {
		if _, err := f.WriteAt(p, at%(benchSeg-200)); err != nil {
			b.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			b.Fatal(err)
		}
		at += 200
	}
}

// BenchmarkSpool_BulkAppend appends without asking for durability; the syncs
// at segment ends are included.
func BenchmarkSpool_BulkAppend(b *testing.B) {
	for _, bb := range []struct {
		name string
		seg  int64
	}{{"Segments16MiB", 16 << 20}, {"Segments1GiB", 1 << 30}} {
		b.Run(bb.name, func(b *testing.B) {
			s := benchSpool(b, bb.seg)
			p := make([]byte, 256<<10)
			b.SetBytes(int64(len(p)))
			for b.Loop() {
				if err := s.Append(epoch(1), s.End(), p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
