package walfmt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

const start = pos.LSN(7 * segSize)

func sameRecord(a, b walfmt.Record) bool {
	return a.LSN == b.LSN && a.End == b.End && a.Prev == b.Prev && a.XID == b.XID && a.RMgr == b.RMgr &&
		a.Info == b.Info && a.Len == b.Len && bytes.Equal(a.Data, b.Data)
}

// randomLog draws a log of records small and large, with switches and void
// records, that begins at start.
func randomLog(t *rapid.T) *writer {
	w := newWriter(start)
	w.prev = start - 100
	for range rapid.IntRange(1, 25).Draw(t, "records") {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			w.switchSegment()
		case 1:
			w.void(rapid.IntRange(page, 5*page).Draw(t, "void"))
		case 2:
			w.message(rapid.IntRange(page, 6*page).Draw(t, "long"))
		case 3: // end within a header's length of the page end
			left := page - int(w.end()%page)
			w.message(max(24, left-8*rapid.IntRange(0, 4).Draw(t, "left")))
		default:
			w.message(rapid.IntRange(24, 500).Draw(t, "short"))
		}
	}
	return w
}

// switchSegment ends the segment.
func (w *writer) switchSegment() {
	w.add(0, 0, 0x40, nil)
	last := &w.records[len(w.records)-1]
	if last.End%segSize != 0 {
		last.End = last.End.SegEnd(segSize)
		w.zeros(last.End)
	}
}

// void adds a record of n bytes, cuts it off at a page and goes on there.
func (w *writer) void(n int) {
	prev, begin := w.prev, w.end()
	lost := w.message(n)
	w.records, w.prev = w.records[:len(w.records)-1], prev
	cut := lost.LSN - lost.LSN%page + page
	if lost.End <= cut { // it does not reach the next page
		w.b = w.b[:begin-w.start]
		return
	}
	w.b = w.b[:cut-w.start]
	w.overwrite = true
	body := append([]byte{255, 16}, make([]byte, 16)...)
	binary.LittleEndian.PutUint64(body[2:], uint64(lost.LSN))
	w.add(0, 0, 0xD0, body)
}

func TestReader_ReadsWhatWasWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomLog(t)
		got, end := readAll(t, w, start, params())
		if !slices.EqualFunc(w.records, got, sameRecord) {
			t.Fatal(cmp.Diff(w.records, got, cmpopts.IgnoreUnexported(walfmt.Record{})))
		}
		if end.RecordEnd != w.end() || end.LogEnd != w.end() || end.LastRecord != w.prev && len(got) > 0 {
			t.Fatalf("end %+v, want %s", end, w.end())
		}
		if e, err := walfmt.FindEnd(w, start, params()); err != nil || e != end {
			t.Fatalf("FindEnd %+v %v, Reader %+v", e, err, end)
		}
		if e, err := walfmt.ExtendValid(w, start, params()); err != nil || e != w.end() {
			t.Fatalf("ExtendValid %s %v", e, err)
		}
	})
}

// Every cut gives a prefix of the records.
func TestFindEnd_EveryCutIsAPrefix(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomLog(t)
		for range 40 {
			cut := start + pos.LSN(rapid.IntRange(0, len(w.b)).Draw(t, "cut"))
			want := walfmt.End{RecordEnd: start}
			safe := start // end of the records that are whole with their padding
			for _, r := range w.records {
				// The last byte of the record itself; padding may be missing.
				if body := lastByte(r); body >= cut {
					break
				}
				want.LastRecord, want.RecordEnd = r.LSN, r.End
				if r.End <= cut {
					safe = r.End
				}
			}
			src := w.cut(cut)
			got, err := walfmt.FindEnd(src, start, params())
			if err != nil {
				t.Fatal(err)
			}
			if got.LastRecord != want.LastRecord || got.RecordEnd != want.RecordEnd {
				t.Fatalf("cut at %s: got %+v, want %+v", cut, got, want)
			}
			if got.Aborted == 0 != (got.LogEnd == got.RecordEnd) ||
				got.LogEnd != got.RecordEnd && (got.LogEnd%page != 0 || got.LogEnd < got.RecordEnd || got.LogEnd >= cut+page) {
				t.Fatalf("cut at %s: log end of %+v", cut, got)
			}
			if e, err := walfmt.ExtendValid(src, start, params()); err != nil || e != safe {
				t.Fatalf("cut at %s: ExtendValid %s %v, want %s", cut, e, err, safe)
			}
		}
	})
}

// lastByte is the address of a record's last byte.
func lastByte(r walfmt.Record) pos.LSN {
	at := r.LSN
	for left := pos.LSN(r.Len); ; {
		n := min(left, page-at%page)
		if left -= n; left == 0 {
			return at + n - 1
		}
		at += n
		if at%segSize == 0 {
			at += 40
		} else {
			at += 24
		}
	}
}

// Whatever byte is changed, the log ends at or before the record that has it.
func TestFindEnd_FlippedByteIsNeverPassed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := randomLog(t)
		whole := w.end()
		pages := (whole + page - 1) &^ (page - 1)
		for range 40 {
			i := rapid.IntRange(0, len(w.b)-1).Draw(t, "at")
			bit := byte(1) << rapid.IntRange(0, 7).Draw(t, "bit")
			w.b[i] ^= bit
			got, err := walfmt.FindEnd(w, start, params())
			w.b[i] ^= bit
			if err != nil {
				t.Fatal(err)
			}
			if got.RecordEnd > whole || got.LogEnd > pages {
				t.Fatalf("flip at %s: %+v is beyond %s", start+pos.LSN(i), got, whole)
			}
			for _, r := range w.records {
				if at := start + pos.LSN(i); at >= r.LSN && at <= lastByte(r) && at%page >= 40 && got.RecordEnd > r.LSN {
					t.Fatalf("flip at %s: %+v passes the record [%s, %s)", at, got, r.LSN, r.End)
				}
			}
		}
	})
}

// A page that overwrites has to begin with a record that names the void one;
// PostgreSQL refuses to start on anything else.
func TestFindEnd_OverwriteNamesTheVoidRecord(t *testing.T) {
	for name, void := range map[string]pos.LSN{"Named": 0, "OtherNamed": 8} {
		w := newWriter(start)
		first := w.message(100)
		lost := w.message(2 * page)
		w.records, w.prev = w.records[:1], first.LSN
		w.b = w.b[:page]
		w.overwrite = true
		body := binary.LittleEndian.AppendUint64([]byte{255, 16}, uint64(lost.LSN+void))
		rec := w.add(0, 0, 0xD0, append(body, make([]byte, 8)...))
		want := walfmt.End{LastRecord: rec.LSN, RecordEnd: rec.End, LogEnd: rec.End}
		if void != 0 {
			want = walfmt.End{LastRecord: first.LSN, RecordEnd: first.End, LogEnd: first.End}
		}
		e := findEnd(t, w, start, params())
		if want.Reason = e.Reason; e != want {
			t.Errorf("%s: got %+v, want %+v", name, e, want)
		}
	}
}

func TestHasWholeRecord(t *testing.T) {
	w := newWriter(start)
	w.message(100)
	long := w.message(3 * page)
	short := w.message(100)
	next := long.LSN - long.LSN%page + page
	for name, tt := range map[string]struct {
		src      walfmt.Source
		from, to pos.LSN
		want     bool
		err      error
	}{
		"Whole":        {w, long.LSN, long.End, true, nil},
		"More":         {w, long.LSN, w.end(), true, nil},
		"AtPageStart":  {w, start, w.end(), true, nil},
		"Cut":          {w, long.LSN, long.End - 9, false, nil},
		"CutInHeader":  {w, short.LSN, short.LSN + 20, false, nil},
		"Empty":        {w, long.LSN, long.LSN, false, nil},
		"Zeros":        {logBytes{w.start, append(w.b[:len(w.b):len(w.b)], make([]byte, 4*page)...)}, w.end(), w.end() + page, false, nil},
		"MidRecord":    {w, next, w.end(), false, walfmt.ErrNotBoundary},
		"InPageHeader": {w, next + 8, w.end(), false, walfmt.ErrNotBoundary},
		"Unaligned":    {w, long.LSN + 1, w.end(), false, walfmt.ErrNotBoundary},
		"SourceEnds":   {w.cut(long.End - 9), long.LSN, long.End, false, walfmt.ErrShort},
		"NothingThere": {w, w.end(), w.end() + 100, false, walfmt.ErrShort},
	} {
		got, err := walfmt.HasWholeRecord(tt.src, tt.from, tt.to, params())
		if got != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestFindEnd_ForeignLog(t *testing.T) {
	for name, tt := range map[string]struct {
		corrupt func(w *writer)
		prm     walfmt.Params
		want    bool // the records are accepted
	}{
		"Same":            {nil, params(), true},
		"AnySystem":       {nil, walfmt.Params{SegSize: segSize}, true},
		"OtherSystem":     {nil, walfmt.Params{SegSize: segSize, SystemID: 1}, false},
		"OtherSegSize":    {nil, walfmt.Params{SegSize: 2 * segSize}, false},
		"Major":           {nil, walfmt.Params{SegSize: segSize, Major: 15}, true},
		"OtherMajor":      {nil, walfmt.Params{SegSize: segSize, Major: 16}, false},
		"UnknownMagic":    {func(w *writer) { w.magic = 0xD120 }, params(), false},
		"NewerMagicTold":  {func(w *writer) { w.magic = 0xD120 }, walfmt.Params{SegSize: segSize, Major: 19}, true},
		"OlderMagicTold":  {func(w *writer) { w.magic = 0xD10E }, walfmt.Params{SegSize: segSize, Major: 19}, false},
		"KnownMagicNewer": {nil, walfmt.Params{SegSize: segSize, Major: 19}, false},
	} {
		w := newWriter(start)
		if tt.corrupt != nil {
			tt.corrupt(w)
		}
		w.message(100)
		e := findEnd(t, w, start, tt.prm)
		if got := e.RecordEnd == w.end(); got != tt.want || !got && (e.RecordEnd != start || e.Reason == "") {
			t.Errorf("%s: %+v", name, e)
		}
		// The segment's first page is looked at also from the middle on.
		e = findEnd(t, w, w.records[0].LSN, tt.prm)
		if got := e.RecordEnd == w.end(); got != tt.want {
			t.Errorf("%s: from the first record: %+v", name, e)
		}
	}
}

func TestFindEnd_SecondPage(t *testing.T) {
	for name, tt := range map[string]struct {
		change  func(w *writer)
		aborted bool
	}{
		"OtherMagic":    {func(w *writer) { w.magic = 0xD113 }, true},
		"TimelineFalls": {func(w *writer) { w.tli = 0 }, true},
	} {
		w := newWriter(start)
		first := w.message(100)
		w.message(page - 500)
		tt.change(w)
		w.message(1000)
		last := w.records[2]
		e := findEnd(t, w, start, params())
		want := walfmt.End{LastRecord: w.records[1].LSN, RecordEnd: last.LSN, LogEnd: start + page, Aborted: last.LSN, Reason: e.Reason}
		if e != want {
			t.Errorf("%s: got %+v, want %+v (first %s)", name, e, want, first.LSN)
		}
	}
}

// A length of gigabytes that a page header agrees with costs no memory.
func TestReader_HugeLength(t *testing.T) {
	for _, total := range []uint32{walfmt.MaxRecordSize, walfmt.MaxRecordSize + 1, 0xFFFFFFFF} {
		w := newWriter(start)
		w.message(3 * page)
		binary.LittleEndian.PutUint32(w.b[40:], total)
		binary.LittleEndian.PutUint32(w.b[page+16:], total-(page-40))
		allocs := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			r := walfmt.NewReader(w, start, params())
			if _, err := r.Next(); err != io.EOF {
				b.Fatal(err)
			}
		}).MemBytes
		if allocs > 8<<20 {
			t.Errorf("%d bytes for a record of %d", allocs, total)
		}
		e := findEnd(t, w, start, params())
		if e.Aborted != start+40 || e.LogEnd > start+2*page {
			t.Errorf("length %d: %+v", total, e)
		}
	}
}

func TestParams_Refused(t *testing.T) {
	w := newWriter(start)
	w.message(100)
	for _, size := range []int64{0, -1, 1 << 19, 3 << 20, 1 << 31} {
		if _, err := walfmt.FindEnd(w, start, walfmt.Params{SegSize: size}); !errors.Is(err, walfmt.ErrSegmentSize) {
			t.Errorf("segment size %d: %v", size, err)
		}
	}
	for _, from := range []pos.LSN{start + 1, start + 8, start + 32, start + page + 16} {
		if _, err := walfmt.NewReader(w, from, params()).Next(); !errors.Is(err, walfmt.ErrNotBoundary) {
			t.Errorf("from %s: %v", from, err)
		}
	}
}

var errDisk = errors.New("disk")

type brokenSource struct{ logBytes }

func (b brokenSource) ReadWAL(p []byte, at pos.LSN) (int, error) {
	n, err := b.logBytes.ReadWAL(p, at)
	if err == io.EOF {
		err = errDisk
	}
	return n, err
}

func TestFindEnd_SourceErrorIsNoEnd(t *testing.T) {
	w := newWriter(start)
	w.message(100)
	src := brokenSource{w.logBytes}
	if e, err := walfmt.FindEnd(src, start, params()); !errors.Is(err, errDisk) {
		t.Errorf("FindEnd: %+v, %v", e, err)
	}
	if e, err := walfmt.ExtendValid(src, start, params()); !errors.Is(err, errDisk) {
		t.Errorf("ExtendValid: %+v, %v", e, err)
	}
	if ok, err := walfmt.HasWholeRecord(src, start, w.end()+page, params()); !errors.Is(err, errDisk) {
		t.Errorf("HasWholeRecord: %v, %v", ok, err)
	}
	r := walfmt.NewReader(src, start, params())
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, errDisk) {
			t.Errorf("Next: %v", err)
		}
	}
}

func TestParseLongHeader_Refuses(t *testing.T) {
	w := newWriter(start)
	w.message(100)
	if id, err := walfmt.ParseLongHeader(w.b[:40]); err != nil || id != (walfmt.Identity{SystemID: system, SegSize: segSize, BlockSize: page, Timeline: 1, PageAddr: start, Major: 15}) {
		t.Errorf("%+v, %v", id, err)
	}
	for name, i := range map[string]int{"Magic": 0, "LongBit": 2, "UnknownBit": 3, "Address": 9, "SegSize": 33} {
		b := append([]byte(nil), w.b...)
		b[i] ^= 2
		if id, err := walfmt.ParseLongHeader(b); !errors.Is(err, walfmt.ErrPageHeader) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	if _, err := walfmt.ParseLongHeader(w.b[:39]); !errors.Is(err, walfmt.ErrPageHeader) {
		t.Error(err)
	}
}
