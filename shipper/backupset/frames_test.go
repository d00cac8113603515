package backupset_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/backupset"
)

func draw(t *rapid.T) *backupset.Frames {
	f := &backupset.Frames{}
	for range rapid.IntRange(0, 20).Draw(t, "n") {
		f.Add(rapid.IntRange(0, 1000).Draw(t, "raw"), rapid.IntRange(1, 500).Draw(t, "stored"))
	}
	return f
}

func TestFrames_FindEqualsLooking(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := draw(t)
		total := f.RawBytes()
		off := rapid.Int64Range(0, total).Draw(t, "off")
		n := rapid.Int64Range(0, total-off).Draw(t, "len")
		first, end, err := f.Find(off, n)
		if err != nil {
			t.Fatal(err)
		}
		// A frame is needed when it holds a byte of the range; those that are
		// given lie side by side and hold all of it.
		wantFirst, wantEnd := 0, 0
		for i := range f.N() {
			fr := f.At(i)
			if fr.RawAt < off+n && fr.RawAt+fr.Raw > off && n > 0 {
				if wantEnd == 0 {
					wantFirst = i
				}
				wantEnd = i + 1
			}
		}
		if first != wantFirst || end != wantEnd {
			t.Fatalf("frames %d to %d, want %d to %d", first, end, wantFirst, wantEnd)
		}
		for _, r := range [][2]int64{{-1, 1}, {0, total + 1}, {total, 1}, {0, -1}, {1 << 62, 1 << 62}} {
			if _, _, err := f.Find(r[0], r[1]); !errors.Is(err, backupset.ErrDamaged) {
				t.Fatalf("range %v: %v", r, err)
			}
		}
	})
}

func TestSeekTable_RoundTripAndFlips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := draw(t)
		table, err := f.AppendSeekTable(nil)
		if err != nil {
			t.Fatal(err)
		}
		size := f.StoredBytes() + int64(len(table))
		object := append(make([]byte, f.StoredBytes()), table...)
		got, err := backupset.ReadFrames(size, func(p []byte, off int64) error { copy(p, object[off:]); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if got.N() != f.N() || got.RawBytes() != f.RawBytes() || got.StoredBytes() != f.StoredBytes() {
			t.Fatalf("%d frames of %d and %d bytes, want %d of %d and %d", got.N(), got.RawBytes(), got.StoredBytes(), f.N(), f.RawBytes(), f.StoredBytes())
		}
		for i := range f.N() {
			if f.At(i) != got.At(i) {
				t.Fatalf("frame %d is %+v, want %+v", i, got.At(i), f.At(i))
			}
		}
		// The size of the object proves all but the raw sizes and exchanges.
		if _, err := backupset.DecodeSeekTable(table, size+1); !errors.Is(err, backupset.ErrDamaged) {
			t.Fatalf("another size: %v", err)
		}
		if _, err := backupset.DecodeSeekTable(table[1:], size); !errors.Is(err, backupset.ErrDamaged) {
			t.Fatalf("a table cut short: %v", err)
		}
	})
}

func TestReadFrames_LongTableAndNone(t *testing.T) {
	f := &backupset.Frames{}
	for range 20_000 {
		f.Add(10, 5)
	}
	object, err := f.AppendSeekTable(make([]byte, f.StoredBytes()))
	if err != nil {
		t.Fatal(err)
	}
	at := func(p []byte, off int64) error { _, err := bytes.NewReader(object).ReadAt(p, off); return err }
	if got, err := backupset.ReadFrames(int64(len(object)), at); err != nil || got.N() != 20_000 {
		t.Errorf("%v", err)
	}
	if _, err := backupset.ReadFrames(3, at); !errors.Is(err, backupset.ErrDamaged) {
		t.Errorf("an object of three bytes: %v", err)
	}
	if _, err := backupset.ReadFrames(int64(len(object)), func([]byte, int64) error { return io.ErrUnexpectedEOF }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a failing read: %v", err)
	}
}

// The example of the format's description: one frame, with a checksum.
func TestDecodeSeekTable_WithChecksums(t *testing.T) {
	table := []byte{0x5E, 0x2A, 0x4D, 0x18, 21, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 1, 2, 3, 4, 1, 0, 0, 0, 0x80, 0xB1, 0xEA, 0x92, 0x8F}
	f, err := backupset.DecodeSeekTable(table, int64(7+len(table)))
	if err != nil || f.N() != 1 || f.RawBytes() != 9 || f.StoredBytes() != 7 {
		t.Errorf("%+v, %v", f, err)
	}
}

func FuzzDecodeSeekTable(f *testing.F) {
	var fr backupset.Frames
	fr.Add(10, 5)
	fr.Add(1<<20, 7)
	table, err := fr.AppendSeekTable(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(table, int64(12+len(table)))
	f.Add([]byte{0x5E, 0x2A, 0x4D, 0x18, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F}, int64(17))
	f.Fuzz(func(t *testing.T, table []byte, size int64) {
		fr, err := backupset.DecodeSeekTable(table, size)
		if err != nil {
			return
		}
		if fr.StoredBytes() > size || fr.N() > len(table) {
			t.Fatalf("%d frames of %d bytes in %d", fr.N(), fr.StoredBytes(), size)
		}
		if n := fr.RawBytes(); n > 0 {
			if first, end, err := fr.Find(n-1, 1); err != nil || end <= first || end > fr.N() {
				t.Fatalf("the last byte is in frames %d to %d: %v", first, end, err)
			}
		}
	})
}
