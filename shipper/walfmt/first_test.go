package walfmt_test

import (
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// firstAt is what FirstRecord must answer: the first record that begins at or
// after the page, or the end of the log when the last one ends there.
func firstAt(w *writer, from pos.LSN) (pos.LSN, bool) {
	for _, r := range w.records {
		if r.LSN >= from {
			return r.LSN, true
		}
	}
	return 0, false
}

func TestFirstRecord_AfterEveryPage(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWriter(segSize)
		for range rapid.IntRange(1, 40).Draw(t, "records") {
			w.message(rapid.SampledFrom([]int{24, 26, 80, 8000, 8128, 8152, 8168, page, 3 * page, 40_000}).Draw(t, "size"))
		}
		w.zeros((w.end() + page) &^ (page - 1))
		for at := w.start; at+page <= w.end(); at += page {
			want, ok := firstAt(w, at)
			if !ok {
				break
			}
			got, err := walfmt.FirstRecord(w, at, params())
			if err != nil || got != want {
				t.Fatalf("from %s: %s, %v, want %s", at, got, err, want)
			}
		}
	})
}

func TestFirstRecord_IsWhereReadingCanBegin(t *testing.T) {
	w := newWriter(segSize)
	for range 20 {
		w.message(5000)
	}
	last := w.records[len(w.records)-1]
	for at := w.start; at < last.LSN-2*page; at += page {
		first, err := walfmt.FirstRecord(w, at, params())
		if err != nil {
			t.Fatal(err)
		}
		if end := findEnd(t, w, first, params()); end.LastRecord != last.LSN {
			t.Fatalf("from %s: the last record is %s, want %s", first, end.LastRecord, last.LSN)
		}
	}
}

func TestFirstRecord_ContinuationAcrossManyPages(t *testing.T) {
	w := newWriter(segSize)
	w.message(100)
	w.message(10 * page)
	after := w.message(100)
	got, err := walfmt.FirstRecord(w, w.start+page, params())
	if err != nil || got != after.LSN {
		t.Errorf("got %s, %v, want %s", got, err, after.LSN)
	}
}

func TestFirstRecord_LogEndsInsideARecord(t *testing.T) {
	w := newWriter(segSize)
	w.message(100)
	w.message(10 * page)
	cut := w.cut(w.start + 4*page + 10)
	if _, err := walfmt.FirstRecord(cut, w.start+page, params()); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want io.EOF", err)
	}
	if _, err := walfmt.FirstRecord(logBytes{start: segSize}, segSize, params()); !errors.Is(err, io.EOF) {
		t.Errorf("of an empty log: got %v, want io.EOF", err)
	}
}

func TestFirstRecord_RefusesForeignPages(t *testing.T) {
	w := newWriter(segSize)
	w.message(20_000)
	w.message(100)
	for name, prm := range map[string]walfmt.Params{
		"OtherSystem":      {SegSize: segSize, SystemID: system + 1},
		"OtherSegmentSize": {SegSize: 2 * segSize, SystemID: system},
	} {
		if at, err := walfmt.FirstRecord(w, w.start, prm); err == nil {
			t.Errorf("%s: got %s without an error", name, at)
		}
	}
	w.b[page+8] ^= 1 // the second page claims another address
	if at, err := walfmt.FirstRecord(w, w.start+page, params()); err == nil {
		t.Errorf("wrong page address: got %s without an error", at)
	}
}
