package primary

import (
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
	marks [256]mark // ring of flush sightings, oldest overwritten
	nMark int
}

type mark struct {
	lsn  pos.LSN
	seen time.Time
}

// markEvery is the finest grain of flush sightings that are kept.
const markEvery = 5 * time.Millisecond

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
	if w.nMark > 0 {
		last := &w.marks[(w.nMark-1)%len(w.marks)]
		if lsn <= last.lsn {
			return
		}
		if w.nMark > 1 {
			prev := w.marks[(w.nMark-2)%len(w.marks)]
			if seen.Sub(prev.seen) < markEvery {
				last.lsn = lsn // keeps the earlier time: ages are never understated
				return
			}
		}
	}
	w.marks[w.nMark%len(w.marks)] = mark{lsn, seen}
	w.nMark++
}

// flushedAt is when the flush pointer was first seen beyond lsn; zero when it
// has not been.
func (w *window) flushedAt(lsn pos.LSN) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	var at time.Time
	for i := w.nMark - 1; i >= 0 && i >= w.nMark-len(w.marks); i-- {
		m := w.marks[i%len(w.marks)]
		if m.lsn <= lsn {
			break
		}
		at = m.seen
	}
	return at
}
