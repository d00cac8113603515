package spool_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/faultfs"
)

const (
	segSize = 16 << 10
	base    = pos.LSN(4 * segSize)
)

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// wal is the byte that epoch e would write at each LSN from at on.
func wal(e pos.Epoch, at pos.LSN, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		x := (uint64(at) + uint64(i)) * 0x9E3779B97F4A7C15
		x ^= x >> 29
		p[i] = byte(x*0xBF58476D1CE4E5B9>>33) ^ byte(e.Num*37)
	}
	return p
}

func config(fsys spool.FS) spool.Config {
	return spool.Config{Dir: "/spool", FS: fsys, SpareSegments: -1}
}

// begun is a spool with a log and lineage of epoch 1.
func begun(t fataler, cfg spool.Config) *spool.Spool {
	t.Helper()
	s, err := spool.Create(cfg, "store", "group")
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if err := s.Begin(7, segSize, base); err != nil {
		t.Fatalf("begin: %v", err)
	}
	if err := s.Adopt(pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: base}}, epoch(1)); err != nil {
		t.Fatalf("adopt: %v", err)
	}
	return s
}

func open(t fataler, cfg spool.Config) *spool.Spool {
	t.Helper()
	s, err := spool.Open(cfg)
	if err != nil {
		t.Fatalf("open: %v\n%v", err, cfg.FS)
	}
	return s
}

func mustAppend(t fataler, s *spool.Spool, e pos.Epoch, n int) {
	t.Helper()
	at := s.End()
	if err := s.Append(e, at, wal(e, at, n)); err != nil {
		t.Fatalf("append %d at %s: %v", n, at, err)
	}
}

func mustSync(t fataler, s *spool.Spool) pos.LSN {
	t.Helper()
	l, err := s.Sync()
	if err != nil {
		t.Fatalf("sync: %v", err)
	}
	return l
}

func content(t fataler, s *spool.Spool) []byte {
	t.Helper()
	p := make([]byte, s.End()-s.Base())
	n, err := s.ReadWAL(p, s.Base())
	if n != len(p) || (err != nil && !errors.Is(err, io.EOF)) {
		t.Fatalf("read %d of %d: %v", n, len(p), err)
	}
	return p
}

// wantLog checks that the log is exactly want, from the base on.
func wantLog(t fataler, s *spool.Spool, want []byte) {
	t.Helper()
	got := content(t, s)
	if len(got) != len(want) {
		t.Fatalf("log has %d bytes, want %d", len(got), len(want))
	}
	if i := firstDiff(got, want); i >= 0 {
		t.Fatalf("log differs at %s", s.Base()+pos.LSN(i))
	}
}

func firstDiff(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func closeSpool(t *testing.T, s *spool.Spool) {
	t.Helper()
	t.Cleanup(func() { _ = s.Close() })
}

var _ spool.FS = (*faultfs.FS)(nil)
