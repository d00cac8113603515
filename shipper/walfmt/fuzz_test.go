package walfmt_test

import (
	"encoding/binary"
	"io"
	"testing"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// FuzzReader reads any bytes as a log and checks that the readers agree.
func FuzzReader(f *testing.F) {
	seed := func(fill func(w *writer)) {
		w := newWriter(start)
		fill(w)
		f.Add(w.b, uint16(0))
		f.Add(w.b, uint16(40))
		f.Add(w.b[:len(w.b)-7], uint16(0))
	}
	seed(func(w *writer) { w.message(24); w.message(30); w.message(100) })
	seed(func(w *writer) { w.message(100); w.message(2 * page); w.message(50) })
	seed(func(w *writer) { w.message(page - 40 - 8); w.message(24); w.message(60) })
	seed(func(w *writer) { w.message(60); w.void(page); w.message(60) })
	seed(func(w *writer) { w.add(0, 0, 0x40, nil) })
	seed(func(w *writer) { // commit prepared with subtransactions, and a checkpoint
		b := []byte{255, 32, 1, 2, 3, 4, 5, 6, 7, 0}
		b = binary.LittleEndian.AppendUint32(b, 1<<1|1<<4)
		b = binary.LittleEndian.AppendUint32(b, 2)
		w.add(0, 1, 0xB0, append(b, 1, 0, 0, 0, 2, 0, 0, 0, 99, 0, 0, 0))
		w.add(0, 0, 0x10, append([]byte{253, 0, 0, 252, 1, 0, 0, 0, 254, 20, 0, 0, 0}, make([]byte, 20)...))
	})
	f.Fuzz(func(t *testing.T, b []byte, skip uint16) {
		src := logBytes{start, b}
		from := start + pos.LSN(skip)
		prm := walfmt.Params{SegSize: segSize}
		walfmt.ParseLongHeader(b)
		r := walfmt.NewReader(src, from, prm)
		at, prev := from, pos.LSN(0)
		for {
			rec, err := r.Next()
			if err != nil && err != io.EOF {
				if _, other := walfmt.FindEnd(src, from, prm); other == nil {
					t.Fatalf("Reader: %v, FindEnd none", err)
				}
				return
			}
			if err == io.EOF {
				break
			}
			if rec.LSN < at || rec.End <= rec.LSN || int(rec.Len) != len(rec.Data) || prev != 0 && rec.Prev != prev || lastByte(rec) >= src.end() {
				t.Fatalf("record %+v after %s", rec, at)
			}
			at, prev = rec.End, rec.LSN
			rec.Commit()
			rec.Checkpoint()
			rec.EndOfRecovery()
			rec.OverwriteContrecord()
		}
		end := r.End()
		if end.RecordEnd != at || end.LastRecord != prev || end.LogEnd < at || end.Reason == "" {
			t.Fatalf("end %+v after the record [%s, %s)", end, prev, at)
		}
		if e, err := walfmt.FindEnd(src, from, prm); err != nil || e != end {
			t.Fatalf("FindEnd %+v %v, Reader %+v", e, err, end)
		}
		if e, err := walfmt.ExtendValid(src, from, prm); err != nil || e > at || e < from || e > from && e > src.end() {
			t.Fatalf("ExtendValid %s %v, Reader %+v", e, err, end)
		}
		if ok, _ := walfmt.HasWholeRecord(src, from, src.end(), prm); ok != (prev != 0) {
			t.Fatalf("HasWholeRecord %v, Reader %+v", ok, end)
		}
	})
}

// The log is 64 MiB in memory, so that the time is that of the checks and one
// copy.
func BenchmarkFindEnd(b *testing.B) {
	for name, size := range map[string]int{"Records100B": 100, "Records1kB": 1000, "Records30kB": 30000} {
		b.Run(name, func(b *testing.B) {
			w := newWriter(start)
			for len(w.b) < 64<<20 {
				w.message(size)
			}
			b.SetBytes(int64(len(w.b)))
			b.ReportAllocs()
			for b.Loop() {
				e, err := walfmt.FindEnd(w, start, params())
				if err != nil || e.RecordEnd != w.end() {
					b.Fatalf("%+v, %v", e, err)
				}
			}
		})
	}
}
