package primary_test

import (
	"bytes"
	"testing"
	"time"

	"pgregory.net/rapid"

	"understudy/primary"
	"understudy/shipper/pos"
)

func TestWindow_IsTheEndOfWhatWasAdded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 64
		start := pos.LSN(rapid.Uint64Range(1, 1<<40).Draw(t, "start"))
		w := primary.NewWindow(size, start)
		var log []byte
		for range rapid.IntRange(1, 30).Draw(t, "adds") {
			p := rapid.SliceOfN(rapid.Byte(), 0, 3*size).Draw(t, "bytes")
			log = append(log, p...)
			if end := w.Add(p); end != start+pos.LSN(len(log)) {
				t.Fatalf("end %s after %d bytes from %s", end, len(log), start)
			}
			b := w.Bounds()
			if want := start + pos.LSN(max(0, len(log)-size)); b.From != want || b.To != start+pos.LSN(len(log)) {
				t.Fatalf("bounds %s with %d bytes from %s", b, len(log), start)
			}
			at := start + pos.LSN(rapid.IntRange(0, len(log)).Draw(t, "at"))
			buf := make([]byte, rapid.IntRange(1, 2*size).Draw(t, "want"))
			n, ok := w.Read(buf, at)
			if inside := at >= b.From && at < b.To; ok != inside {
				t.Fatalf("read at %s of %s: %v", at, b, ok)
			}
			if ok && !bytes.Equal(buf[:n], log[at-start:][:n]) {
				t.Fatalf("wrong bytes at %s", at)
			}
			if ok && n != min(len(buf), int(b.To-at)) {
				t.Fatalf("read %d bytes at %s of %s", n, at, b)
			}
		}
	})
}

func TestWindow_FlushedAtIsTheFirstSightBeyond(t *testing.T) {
	t0 := time.Now()
	w := primary.NewWindow(64, 100)
	if !w.FlushedAt(100).IsZero() {
		t.Error("flushed before anything was seen")
	}
	for i := range 10 {
		w.Sighted(pos.LSN(200+100*i), t0.Add(time.Duration(i)*time.Second))
	}
	for i := range 10 {
		if got := w.FlushedAt(pos.LSN(199 + 100*i)); !got.Equal(t0.Add(time.Duration(i) * time.Second)) {
			t.Errorf("byte %d: %s after the start", 199+100*i, got.Sub(t0))
		}
	}
	if !w.FlushedAt(1100).IsZero() {
		t.Error("a byte beyond the flush pointer counts as flushed")
	}
	w.Sighted(500, t0.Add(time.Hour)) // a pointer that falls is no news
	if !w.FlushedAt(1100).IsZero() {
		t.Error("an older pointer moved the newest one")
	}
}

// The age of a byte is never told younger than it is: not by the grain of the
// sightings, and not because a peer has been behind for long.
func TestWindow_AgesAreNotUnderstated(t *testing.T) {
	t0 := time.Now()
	w := primary.NewWindow(64, 1)
	for i := range 60_000 { // a minute of load
		w.Sighted(pos.LSN(10+10*i), t0.Add(time.Duration(i)*time.Millisecond))
	}
	for _, i := range []int{0, 30_000, 59_000, 59_999} {
		truth := t0.Add(time.Duration(i) * time.Millisecond)
		if got := w.FlushedAt(pos.LSN(9 + 10*i)); got.IsZero() || got.After(truth) {
			t.Errorf("the byte flushed %s after the start is told %s younger", truth.Sub(t0), got.Sub(truth))
		}
	}
}
