package primary

import (
	"time"

	"understudy/shipper/pos"
)

// Window is the window for tests.
type Window struct{ w *window }

// NewWindow makes a window of size bytes, a power of two.
func NewWindow(size int, start pos.LSN) Window { return Window{newWindow(size, start)} }

// Add appends bytes.
func (w Window) Add(p []byte) pos.LSN { return w.w.add(p) }

// Read copies bytes.
func (w Window) Read(p []byte, at pos.LSN) (int, bool) { return w.w.read(p, at) }

// Bounds is what the window holds.
func (w Window) Bounds() pos.Range { return w.w.bounds() }

// Sighted notes the flush pointer.
func (w Window) Sighted(l pos.LSN, seen time.Time) { w.w.sighted(l, seen) }

// FlushedAt is when the flush pointer was first seen beyond a byte.
func (w Window) FlushedAt(l pos.LSN) time.Time { return w.w.flushedAt(l) }
