package pagesum_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/pagesum"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

// plain is the checksum as PostgreSQL's description has it, word by word.
func plain(page []byte, block uint32) uint16 {
	page = bytes.Clone(page)
	page[8], page[9] = 0, 0
	sums := pagesum.Offsets()
	round := func(j int, word uint32) {
		x := sums[j] ^ word
		sums[j] = x*16777619 ^ x>>17
	}
	for i := 0; i < len(page); i += 4 {
		round(i/4%32, binary.LittleEndian.Uint32(page[i:]))
	}
	for i := range 64 {
		round(i%32, 0)
	}
	sum := block
	for _, s := range sums {
		sum ^= s
	}
	return uint16(sum%65535 + 1)
}

func TestChecksum_EqualsPlain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := 1 << rapid.IntRange(10, 15).Draw(t, "bits")
		page := make([]byte, size)
		seed := rapid.Uint64().Draw(t, "seed")
		for i := range page {
			seed = seed*6364136223846793005 + 1442695040888963407
			page[i] = byte(seed >> 56)
		}
		copy(page[rapid.IntRange(0, size-1).Draw(t, "at"):], rapid.SliceOfN(rapid.Byte(), 0, 64).Draw(t, "part"))
		block := rapid.Uint32().Draw(t, "block")
		before := bytes.Clone(page)
		got, want := pagesum.Checksum(page, block), plain(page, block)
		if got != want || pagesum.ChecksumGeneric(page, block) != want {
			t.Fatalf("checksum %#x, without assembly %#x, want %#x", got, pagesum.ChecksumGeneric(page, block), want)
		}
		if !bytes.Equal(page, before) {
			t.Fatal("the page was changed")
		}
	})
}

func TestCheck_Verdicts(t *testing.T) {
	sealed := func() []byte {
		p := bytes.Repeat([]byte{7}, 8192)
		binary.LittleEndian.PutUint32(p, 0)
		binary.LittleEndian.PutUint32(p[4:], 0x1000)
		binary.LittleEndian.PutUint16(p[8:], pagesum.Checksum(p, 3))
		return p
	}
	tests := map[string]struct {
		corrupt func(p []byte)
		block   uint32
		start   uint64
		want    pagesum.Verdict
	}{
		"Good":             {func([]byte) {}, 3, 0x2000, pagesum.Good},
		"GoodAndNewer":     {func([]byte) {}, 3, 0x1000, pagesum.Good},
		"OtherBlock":       {func([]byte) {}, 4, 0x2000, pagesum.Bad},
		"LastByte":         {func(p []byte) { p[8191] ^= 1 }, 3, 0x2000, pagesum.Bad},
		"ChecksumItself":   {func(p []byte) { p[9] ^= 1 }, 3, 0x2000, pagesum.Bad},
		"NewerAndTorn":     {func(p []byte) { p[8191] ^= 1 }, 3, 0x1000, pagesum.Newer},
		"Zeros":            {func(p []byte) { clear(p) }, 3, 0x2000, pagesum.New},
		"AlmostZeros":      {func(p []byte) { clear(p); p[5000] = 1 }, 3, 0x2000, pagesum.Bad},
		"NoUpperNoZeros":   {func(p []byte) { p[14], p[15] = 0, 0 }, 3, 0x2000, pagesum.Bad},
		"ZeroHeadOldBytes": {func(p []byte) { clear(p[:24]) }, 3, 0x2000, pagesum.Bad},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := sealed()
			tt.corrupt(p)
			if got := pagesum.Check(p, tt.block, pos.LSN(tt.start)); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestFirstBlock(t *testing.T) {
	for path, want := range map[string]int64{
		"base/5/16384": 0, "base/5/16384.1": 131072, "base/5/16384_fsm": 0, "base/5/16384_vm.12": 12 * 131072, "base/5/16384_init": 0,
		"global/1262": 0, "global/1262_vm": 0, "pg_tblspc/16400/PG_15_202209061/5/16401.2": 262144,
		"global/pg_control": -1, "global/pg_filenode.map": -1, "base/5/pg_filenode.map": -1, "base/5/PG_VERSION": -1, "base/5/pg_internal.init": -1,
		"base/5/t3_16384": -1, "base/5/16384_x": -1, "base/5/16384.0": -1, "base/5/16384.": -1, "base/5/16384.1.2": -1, "base/5/16384_fsm_vm": -1,
		"base/16384": -1, "pg_wal/16384": -1, "pg_xact/0000": -1, "16384": -1, "": -1, "/": -1, "base/5/": -1, "base//16384": -1,
		"pg_tblspc/16400/16401": -1, "pg_tblspc/16400/PG_15/16401": -1, "base/5/+5": -1, "base/5/05": -1, "base/5/16384.32768": -1, "base/5/16384.32767": 32767 * 131072,
	} {
		got, ok := pagesum.FirstBlock(path, 131072)
		if ok != (want >= 0) || ok && int64(got) != want {
			t.Errorf("%s: %d, %v, want %d", path, got, ok, want)
		}
	}
}

func TestCheck_AgreesWithServer(t *testing.T) {
	c := pgtest.New(t, "--data-checksums")
	c.Exec(t, "create table x as select i, repeat(md5(i::text), 5) from generate_series(1, 20000) i; create index on x(i)")
	c.Exec(t, "vacuum x")
	c.Exec(t, "checkpoint")
	c.Stop(syscall.SIGINT)
	pages := 0
	err := filepath.WalkDir(c.Data, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, _ := filepath.Rel(c.Data, path)
		first, ok := pagesum.FirstBlock(rel, 131072)
		if !ok {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if len(b)%8192 != 0 {
			return fmt.Errorf("%s has %d bytes", rel, len(b))
		}
		for i := 0; i < len(b); i += 8192 {
			pages++
			if v := pagesum.Check(b[i:i+8192], first+uint32(i/8192), 1<<60); v != pagesum.Good && v != pagesum.New {
				t.Errorf("%s block %d: %v", rel, i/8192, v)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pages < 2000 {
		t.Errorf("only %d pages were seen", pages)
	}
}

func BenchmarkChecksum(b *testing.B) {
	page := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 1024)
	b.SetBytes(8192)
	for b.Loop() {
		pagesum.Checksum(page, 1)
	}
}
