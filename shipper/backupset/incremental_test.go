package backupset_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/backupset"
)

// incremental is a description of an incremental set.
func incremental() backupset.Set {
	s := example()
	s.Version, s.Label, s.Parent, s.ParentDigest = backupset.IncrementalVersion, "20260201-233000I", s.Label, strings.Repeat("ab", 32)
	s.Server.SegPages = 131072
	return s
}

func TestSet_IncrementalRoundTrip(t *testing.T) {
	b, err := backupset.EncodeSet(incremental())
	if err != nil {
		t.Fatal(err)
	}
	got, err := backupset.DecodeSet(b)
	if err != nil || got.Parent != "20260131-233000F" || got.ParentDigest != strings.Repeat("ab", 32) || got.Server.SegPages != 131072 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSet_ValidateIncremental(t *testing.T) {
	for name, spoil := range map[string]func(s *backupset.Set){
		"NoParent":       func(s *backupset.Set) { s.Parent = "" },
		"OwnParent":      func(s *backupset.Set) { s.Parent = s.Label },
		"BadParent":      func(s *backupset.Set) { s.Parent = "../20260131-233000F" },
		"NoDigest":       func(s *backupset.Set) { s.ParentDigest = "" },
		"OldVersion":     func(s *backupset.Set) { s.Version = 1 },
		"NoSegPages":     func(s *backupset.Set) { s.Server.SegPages = 0 },
		"ManySegPages":   func(s *backupset.Set) { s.Server.SegPages = 1 << 30 },
		"FullWithParent": func(s *backupset.Set) { s.Label = "20260201-233000F" },
	} {
		s := incremental()
		spoil(&s)
		if s.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestLabel_Kinds(t *testing.T) {
	if l := backupset.FullLabel("20260228-225959I"); l != "20260228-225959F" {
		t.Error(l)
	}
	for l, want := range map[string]bool{"20260228-225959I": true, "20260228-225959F": false} {
		if _, err := backupset.ParseLabel(l); err != nil || backupset.IsIncremental(l) != want {
			t.Errorf("%s: %v, %v", l, !want, err)
		}
	}
}

func TestIncremental_Names(t *testing.T) {
	for p, want := range map[string]string{
		"base/5/INCREMENTAL.16384": "base/5/16384", "PG_17_202406281/5/INCREMENTAL.16384.1": "PG_17_202406281/5/16384.1",
		"base/5/16384": "", "INCREMENTAL.x": "", "base/5/INCREMENTAL.": "", "base/INCREMENTAL.5/1": "",
	} {
		if of, ok := backupset.Incremental(p); of != want || ok != (want != "") {
			t.Errorf("%s: %q, %v", p, of, ok)
		}
	}
}

func server() backupset.Server { return backupset.Server{BlockSize: 8192, SegPages: 131072} }

// headOf is the head of an incremental file, and the file's size.
func headOf(s backupset.Server, m backupset.BlockMap) ([]byte, int64) {
	b := s.AppendBlockMap(nil, m)
	return b, int64(len(b)) + int64(len(m.Blocks))*int64(s.BlockSize)
}

func TestServer_BlockMapRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := backupset.Server{BlockSize: 1 << rapid.IntRange(10, 15).Draw(t, "block"), SegPages: uint32(rapid.IntRange(1, 1<<17).Draw(t, "pages"))}
		m := backupset.BlockMap{Keep: rapid.Uint32Max(s.SegPages).Draw(t, "keep")}
		m.Blocks = rapid.SliceOfNDistinct(rapid.Uint32Max(s.SegPages-1), 0, min(3000, int(s.SegPages)), rapid.ID).Draw(t, "blocks")
		slices.Sort(m.Blocks)
		b, size := headOf(s, m)
		n, err := s.BlockMapSize(b[:backupset.BlockMapHead], size)
		if err != nil || n > len(b) {
			t.Fatalf("%d, %v", n, err)
		}
		got, err := s.BlockMap(b[:n], size)
		if err != nil || got.Keep != m.Keep || !slices.Equal(got.Blocks, m.Blocks) || int64(len(b)) != s.BlocksAt(len(m.Blocks)) {
			t.Fatalf("%+v, %v", got, err)
		}
		if want := slices.Max(append([]uint32{m.Keep}, next(m.Blocks)...)); got.Len() != want {
			t.Fatalf("%d blocks in the end, want %d", got.Len(), want)
		}
	})
}

func next(blocks []uint32) (out []uint32) {
	for _, b := range blocks {
		out = append(out, b+1)
	}
	return out
}

func TestServer_BlockMapRefuses(t *testing.T) {
	s := server()
	good, size := headOf(s, backupset.BlockMap{Keep: 9, Blocks: []uint32{3, 7}})
	for name, tt := range map[string]struct {
		change func(b []byte)
		size   int64
	}{
		"Magic":      {func(b []byte) { b[0]++ }, size},
		"Size":       {func([]byte) {}, size + 1},
		"Count":      {func(b []byte) { b[4]++ }, size},
		"ManyBlocks": {func(b []byte) { b[7] = 0xff }, size},
		"Order":      {func(b []byte) { b[12], b[16] = b[16], b[12] }, size},
		"Twice":      {func(b []byte) { b[12] = b[16] }, size},
		"Beyond":     {func(b []byte) { b[19] = 1 }, size},
		"Short":      {func([]byte) {}, 3},
	} {
		b := slices.Clone(good)
		tt.change(b)
		if _, err := s.BlockMap(b, tt.size); !errors.Is(err, backupset.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := s.BlockMap(good[:14], size); !errors.Is(err, backupset.ErrDamaged) {
		t.Errorf("half a head: %v", err)
	}
	// A relation of many segments that was cut off in a later one.
	long, size := headOf(s, backupset.BlockMap{Keep: 400_000})
	if m, err := s.BlockMap(long, size); err != nil || m.Len() != s.SegPages {
		t.Errorf("%d, %v", m.Len(), err)
	}
}

func FuzzServer_BlockMap(f *testing.F) {
	s := server()
	for _, m := range []backupset.BlockMap{{}, {Keep: 5}, {Keep: 9, Blocks: []uint32{3, 7}}, {Blocks: []uint32{131071}}} {
		b, size := headOf(s, m)
		f.Add(b, size)
	}
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		m, err := s.BlockMap(b, size)
		if err != nil {
			return
		}
		again, n := headOf(s, m)
		if n != size || !slices.Equal(again[backupset.BlockMapHead:backupset.BlockMapHead+4*len(m.Blocks)], b[backupset.BlockMapHead:backupset.BlockMapHead+4*len(m.Blocks)]) {
			t.Fatalf("%+v of %d bytes is written with %d", m, size, n)
		}
		if m.Len() > s.SegPages {
			t.Fatalf("%d blocks in the end", m.Len())
		}
	})
}
