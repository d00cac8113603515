package walfmt

import (
	"errors"
	"fmt"
	"io"

	"understudy/shipper/pos"
)

// Sizes of the blocks read from a Source, in bytes. The first one is small,
// since many questions are answered by the first page.
const (
	firstBlock = 8 * PageSize
	laterBlock = 128 * PageSize
)

// window holds the stretch of the log that is being looked at, in one buffer
// that is reused.
type window struct {
	src   Source
	limit pos.LSN // bytes from here on are treated as absent
	buf   []byte  // whole pages
	base  pos.LSN // address of buf[0], a page start
	n     int     // bytes of buf that came from src; zero up to the page end
	ended bool    // src had no byte at base+n
	full  bool    // base+n is the limit, not the source's own end
}

// page returns the page at at, filled up with zeros, and how many of its bytes
// the log has. The slice is valid until the next call.
func (w *window) page(at pos.LSN) ([]byte, int, error) {
	if w.n == 0 || at < w.base || at >= w.base+pos.LSN(w.n) || !w.ended && at+PageSize > w.base+pos.LSN(w.n) {
		if err := w.fill(at); err != nil {
			return nil, 0, err
		}
	}
	off := int(at - w.base)
	return w.buf[off : off+PageSize], min(PageSize, w.n-off), nil
}

// fill reads a block that begins at at.
func (w *window) fill(at pos.LSN) error {
	switch len(w.buf) {
	case 0:
		w.buf = make([]byte, firstBlock)
	case firstBlock:
		if at == w.base+pos.LSN(w.n) {
			w.buf = make([]byte, laterBlock)
		}
	}
	want := len(w.buf)
	if left := w.limit.Sub(at); uint64(want) > left {
		want = int(left)
	}
	w.base, w.n, w.ended = at, 0, want < len(w.buf)
	w.full = w.ended
	for w.n < want {
		n, err := w.src.ReadWAL(w.buf[w.n:want], at+pos.LSN(w.n))
		if n < 0 || n > want-w.n {
			return fmt.Errorf("read WAL at %s: the source counts %d of %d bytes", at, n, want-w.n)
		}
		w.n += n
		if errors.Is(err, io.EOF) {
			if w.n < want {
				w.ended, w.full = true, false
			}
			break
		}
		if err != nil {
			return fmt.Errorf("read WAL at %s: %w", at+pos.LSN(w.n), err)
		}
		if n == 0 {
			return fmt.Errorf("read WAL at %s: %w", at+pos.LSN(w.n), io.ErrNoProgress)
		}
	}
	pad := (w.n + PageSize) / PageSize * PageSize
	clear(w.buf[w.n:min(pad, len(w.buf))])
	return nil
}

// has tells whether the log has the byte at at.
func (w *window) has(at pos.LSN) (bool, error) {
	_, avail, err := w.page(at - at%PageSize)
	return err == nil && int(at%PageSize) < avail, err
}

// short tells whether src is known to end below need.
func (w *window) short(need pos.LSN) bool {
	return w.ended && !w.full && w.base+pos.LSN(w.n) < need
}
