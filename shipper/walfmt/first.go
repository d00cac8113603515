package walfmt

import (
	"errors"
	"io"

	"understudy/shipper/pos"
)

// FirstRecord finds the first record boundary at or after the page that begins
// at page, by what the page headers say of the record that reaches into them.
// Page is on a page boundary. io.EOF is returned when the log holds none.
func FirstRecord(src Source, page pos.LSN, prm Params) (pos.LSN, error) {
	head := make([]byte, longHeaderSize)
	for at := page; ; at += PageSize {
		n, err := src.ReadWAL(head, at)
		if n < longHeaderSize {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.EOF
			}
			return 0, err
		}
		h := parsePageHeader(head)
		if err := h.check(at, prm); err != nil {
			return 0, err
		}
		first := at + pos.LSN(h.size())
		if h.info&pageContinues == 0 {
			return first, nil
		}
		rest := (pos.LSN(h.rest) + 7) &^ 7
		if first+rest < at+PageSize {
			return first + rest, nil
		}
	}
}
