package walfmt

import (
	"errors"
	"fmt"
	"io"
	"math"

	"understudy/shipper/pos"
)

// noLimit reads up to the source's own end.
const noLimit = pos.LSN(math.MaxUint64)

// end is what the walker found up to now.
func (w *walker) end(why error) End {
	e := End{LastRecord: w.prev, RecordEnd: w.next, LogEnd: w.next}
	var inv *invalid
	if errors.As(why, &inv) {
		e.Reason = inv.reason
		if w.aborted != 0 {
			e.Aborted, e.LogEnd = w.aborted, w.missing
		}
	}
	return e
}

// FindEnd finds the end of the log that has a record boundary at from, such as
// a checkpoint's redo location. Bytes that are no record at from are no error:
// the log then ends there. Memory is bounded whatever the bytes say. Errors
// are ErrNotBoundary, ErrSegmentSize, and what src returned; with the last the
// End tells how far it came.
func FindEnd(src Source, from pos.LSN, prm Params) (End, error) {
	w, err := newWalker(src, from, noLimit, prm)
	if err != nil {
		return End{}, err
	}
	for err == nil {
		err = w.step()
	}
	var inv *invalid
	if errors.As(err, &inv) {
		return w.end(err), nil
	}
	return w.end(nil), err
}

// ExtendValid finds how far whole valid records, each linked to the one
// before, go on from the record boundary from. All bytes below the result can
// be read from src; without any such record the result is from. After a
// segment switch the unchecked bytes up to the segment's end belong to it.
// Errors are as of FindEnd, and the result is then not to be used.
func ExtendValid(src Source, from pos.LSN, prm Params) (pos.LSN, error) {
	w, err := newWalker(src, from, noLimit, prm)
	if err != nil {
		return 0, err
	}
	end, before := from, from
	for {
		err = w.step()
		if err != nil {
			break
		}
		end, before = w.rec.End, end
	}
	var inv *invalid
	if !errors.As(err, &inv) {
		return 0, err
	}
	if end == from {
		return from, nil
	}
	if whole, err := w.win.has(end - 1); err != nil || whole {
		return end, err
	}
	return before, nil
}

// HasWholeRecord tells whether the log in [from, to) begins with at least one
// whole valid record; from is a record boundary, to is exclusive. A segment
// switch counts when the record itself is below to. False means that src has
// the bytes and they are none. ErrNotBoundary is returned also when the page
// at from carries the rest of an earlier record, and ErrShort when src ends
// before to and before the answer.
func HasWholeRecord(src Source, from, to pos.LSN, prm Params) (bool, error) {
	w, err := newWalker(src, from, to, prm)
	if err != nil {
		return false, err
	}
	if from >= to {
		return false, nil
	}
	err = w.step()
	var inv *invalid
	switch {
	case err == nil:
		return true, nil
	case !errors.As(err, &inv):
		return false, err
	case w.midRecord:
		return false, fmt.Errorf("look for a record at %s: %w: %w", from, ErrNotBoundary, err)
	case w.win.short(w.needed):
		return false, fmt.Errorf("look for a record in [%s, %s): %w: %w", from, to, ErrShort, err)
	}
	return false, nil
}

// Reader gives the records of a log one by one.
type Reader struct {
	w   *walker
	end End
	err error // sticky
}

// NewReader reads from the record boundary from. It reads nothing yet; wrong
// arguments are reported by Next.
func NewReader(src Source, from pos.LSN, prm Params) *Reader {
	w, err := newWalker(src, from, noLimit, prm)
	if err != nil {
		return &Reader{err: err}
	}
	w.keep = true
	return &Reader{w: w, end: End{RecordEnd: from, LogEnd: from}}
}

// Next returns the next record; its Data is valid until the next call. At the
// end of the valid log it returns io.EOF, and End tells why. Other errors are
// those of FindEnd. An error stays.
func (r *Reader) Next() (Record, error) {
	if r.err != nil {
		return Record{}, r.err
	}
	err := r.w.step()
	if err == nil {
		r.end = r.w.end(nil)
		return r.w.rec, nil
	}
	r.end = r.w.end(err)
	var inv *invalid
	if errors.As(err, &inv) {
		err = io.EOF
	}
	r.err = err
	return Record{}, err
}

// End tells how far the reader came. It is the end of the log once Next has
// returned io.EOF; before, it is the end of the last record.
func (r *Reader) End() End { return r.end }
