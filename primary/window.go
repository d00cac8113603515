package primary

import (
	"slices"
	"sync"
	"time"

	"understudy/shipper/pos"
)

// window keeps the newest bytes of the log in memory, so that live sessions
// do not read them back from pg_wal, and remembers when PostgreSQL's flush
// pointer was first seen at which LSN.
type window struct {
	mu    sync.Mutex
	buf   []byte // ring; len is a power of two
	from  pos.LSN
	end   pos.LSN
	marks []mark // flush sightings, oldest first, finer the newer
}

type mark struct {
	lsn  pos.LSN
	seen time.Time
}

// markEvery is the finest grain of flush sightings that are kept.
const markEvery = 5 * time.Millisecond

// maxMarks bounds the memory for sightings.
const maxMarks = 256

func newWindow(size int, start pos.LSN) *window {
	return &window{buf: make([]byte, size), from: start, end: start}
}

// add appends bytes at the window's end.
func (w *window) add(p []byte) pos.LSN {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(p) > len(w.buf) {
		skip := len(p) - len(w.buf)
		w.end += pos.LSN(skip)
		p = p[skip:]
	}
	at := int(uint64(w.end) & uint64(len(w.buf)-1))
	n := copy(w.buf[at:], p)
	copy(w.buf, p[n:])
	w.end += pos.LSN(len(p))
	if held := w.end.Sub(w.from); held > uint64(len(w.buf)) {
		w.from = w.end - pos.LSN(len(w.buf))
	}
	return w.end
}

// read copies bytes from at on; ok is false when they are no longer, or not
// yet, in the window.
func (w *window) read(p []byte, at pos.LSN) (n int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at < w.from || at >= w.end {
		return 0, false
	}
	p = p[:min(uint64(len(p)), w.end.Sub(at))]
	i := int(uint64(at) & uint64(len(w.buf)-1))
	n = copy(p, w.buf[i:])
	n += copy(p[n:], w.buf)
	return n, true
}

func (w *window) bounds() pos.Range {
	w.mu.Lock()
	defer w.mu.Unlock()
	return pos.Range{From: w.from, To: w.end}
}

// sighted notes that the flush pointer was seen at lsn.
func (w *window) sighted(lsn pos.LSN, seen time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := len(w.marks)
	if n > 0 && lsn <= w.marks[n-1].lsn {
		return
	}
	if n > 1 && seen.Sub(w.marks[n-2].seen) < markEvery {
		w.marks[n-1].lsn = lsn // keeps the earlier time: ages are never understated
		return
	}
	if n >= maxMarks {
		w.thin()
	}
	w.marks = append(w.marks, mark{lsn, seen})
}

// thin halves the older half of the marks. A merged mark has the earlier time
// of the two, so that an age may be told too high, by as much as the marks
// there lie apart, but never too low.
func (w *window) thin() {
	half := len(w.marks) / 2
	kept := w.marks[:0]
	for i := 0; i < half; i += 2 {
		m := w.marks[i]
		if i+1 < half {
			m.lsn = w.marks[i+1].lsn
		}
		kept = append(kept, m)
	}
	w.marks = append(kept, w.marks[half:]...)
}

// flushedAt is when the flush pointer was first seen beyond lsn; zero when it
// has not been.
func (w *window) flushedAt(lsn pos.LSN) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	i, _ := slices.BinarySearchFunc(w.marks, lsn, func(m mark, l pos.LSN) int {
		if m.lsn <= l {
			return -1
		}
		return 1
	})
	if i == len(w.marks) {
		return time.Time{}
	}
	return w.marks[i].seen
}
