package walfmt

import (
	"fmt"
	"hash/crc32"

	"understudy/shipper/pos"
)

// The record header: total length, transaction, start of the record before,
// info, resource manager, two bytes of padding, checksum.
const (
	recordHeaderSize = 24
	xidOffset        = 4
	prevOffset       = 8
	infoOffset       = 16
	rmgrOffset       = 17
	crcOffset        = 20
)

// Resource managers.
const (
	rmgrXLog      = 0
	rmgrXact      = 1
	rmgrMinCustom = 128
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// invalid is why the bytes at some place are no record: the log ends there.
type invalid struct{ reason string }

func (e *invalid) Error() string { return e.reason }

func invalidf(format string, args ...any) error {
	return &invalid{reason: fmt.Sprintf(format, args...)}
}

// walker goes from record to record, in the order and with the checks of
// PostgreSQL's own reader.
type walker struct {
	win  window
	prm  Params
	keep bool // copy each record to data

	next    pos.LSN // where the next record may begin
	prev    pos.LSN // start of the last record; 0 before the first
	started bool    // the segment of next was looked at

	ver  version // of the pages; zero before the first
	page loadedPage
	// The last page looked at, and its timeline, which never falls.
	lastPage pos.LSN
	lastTLI  pos.Timeline

	rec    Record                 // the last record
	data   []byte                 // its bytes, with keep
	header [recordHeaderSize]byte // its header, if it crosses pages

	needed  pos.LSN // end of the bytes that the last step asked for
	aborted pos.LSN // start of the record that was cut off across pages
	missing pos.LSN // page that should have continued it

	void      pos.LSN // start of a record found overwritten in this step; 0 if none
	midRecord bool    // the page to start at carries the rest of a record
}

// loadedPage is the page that was checked last.
type loadedPage struct {
	pageHeader
	at    pos.LSN
	data  []byte // PageSize bytes, zeros after avail; nil before the first page
	avail int
}

func newWalker(src Source, from, limit pos.LSN, prm Params) (*walker, error) {
	if err := prm.check(from); err != nil {
		return nil, err
	}
	return &walker{win: window{src: src, limit: limit}, prm: prm, next: from}, nil
}

// step reads the next record into rec. The error is *invalid at the end of the
// log, else the source's; after an error the walker is not used again.
func (w *walker) step() error {
	if !w.started {
		if err := w.checkSegment(); err != nil {
			return err
		}
		w.started = true
	}
	w.void = 0
	for at := w.next; ; {
		again, err := w.read(at)
		if err != nil {
			return err
		}
		if again == 0 {
			return nil
		}
		at, w.void = again, w.rec.LSN
	}
}

// checkSegment looks at the first page of the segment to start in, which says
// whose log it is. A log that begins later in the segment is taken as it is.
func (w *walker) checkSegment() error {
	first := w.next.SegStart(w.prm.SegSize)
	if first == w.next-w.next%PageSize {
		return nil
	}
	if _, avail, err := w.win.page(first); err != nil || avail == 0 {
		return err
	}
	return w.load(first)
}

// load makes the page at at the current one, checked.
func (w *walker) load(at pos.LSN) error {
	w.needed = max(w.needed, at+shortHeaderSize)
	if w.page.data != nil && w.page.at == at {
		return nil
	}
	w.page.data = nil
	data, avail, err := w.win.page(at)
	if err != nil {
		return err
	}
	if avail == 0 {
		return invalidf("the log has no page %s", at)
	}
	h := parsePageHeader(data)
	ver, ok := versionOf(h.magic, w.prm.Major)
	if !ok || w.ver.magic != 0 && w.ver.magic != ver.magic {
		return invalidf("page %s has the magic %04X", at, h.magic)
	}
	if err := h.check(at, w.prm); err != nil {
		return err
	}
	if at > w.lastPage && h.tli < w.lastTLI {
		return invalidf("page %s is of timeline %d after %d", at, h.tli, w.lastTLI)
	}
	w.ver, w.lastPage, w.lastTLI = ver, at, h.tli
	w.page = loadedPage{pageHeader: h, at: at, data: data, avail: avail}
	return nil
}

// read reads the record at at. again is not 0 when the record turns out to be
// void, overwritten from the page again on: reading goes on there.
func (w *walker) read(at pos.LSN) (again pos.LSN, err error) {
	if err := w.load(at - at%PageSize); err != nil {
		return 0, err
	}
	off, head := int(at%PageSize), w.page.size()
	if off == 0 {
		at, off = at+pos.LSN(head), head
	} else if off < head {
		return 0, invalidf("record at %s is inside a page header", at)
	}
	if off == head && w.page.continues() {
		w.midRecord = w.page.at == w.next-w.next%PageSize
		return 0, invalidf("page %s continues an earlier record", w.page.at)
	}
	b := w.page.data[off:]
	w.needed = max(w.needed, at+pos.LSN(min(len(b), recordHeaderSize)))
	total := le.Uint32(b)
	w.rec = Record{LSN: at, Len: total, major: w.ver.major}
	if len(b) >= recordHeaderSize {
		if err := w.checkHeader(b); err != nil {
			return 0, err
		}
	} else if total < recordHeaderSize {
		return 0, invalidf("record at %s has the length %d", at, total)
	}
	if uint64(total) > uint64(len(b)) {
		again, err = w.assemble(b)
		if err != nil {
			w.aborted = at
			return 0, err
		}
		if again != 0 {
			return again, nil
		}
		return 0, w.accept(nil)
	}
	w.needed = max(w.needed, at+pos.LSN(total))
	if off+int(total) > w.page.avail {
		return 0, invalidf("record at %s is cut off", at)
	}
	b = b[:total]
	crc := crc32.Update(0, castagnoli, b[recordHeaderSize:])
	if err := w.checkCRC(crc, b); err != nil {
		return 0, err
	}
	if w.keep {
		w.data = append(w.data[:0], b...)
	}
	w.rec.End = at + alignUp(total)
	return 0, w.accept(b)
}

// assemble reads a record that goes on after the current page; first is what
// this page has of it. again is as in read.
func (w *walker) assemble(first []byte) (again pos.LSN, err error) {
	total := int64(w.rec.Len)
	header := w.header[:]
	n := copy(header, first)
	crc := crc32.Update(0, castagnoli, first[n:])
	got := int64(len(first))
	if w.keep {
		w.data = append(w.data[:0], first...)
	}
	for at := w.page.at; got < total; {
		at += PageSize
		w.missing = at
		if err := w.load(at); err != nil {
			return 0, err
		}
		if w.page.overwrites() {
			return at, nil
		}
		part, err := w.continuation(total - got)
		if err != nil {
			return 0, err
		}
		got += int64(len(part))
		if w.keep {
			w.data = append(w.data, part...)
		}
		if n < recordHeaderSize {
			m := copy(header[n:], part)
			n, part = n+m, part[m:]
			if n == recordHeaderSize {
				err = w.checkHeader(header)
			} else {
				// Only a record that ends inside its own header gets here.
				err = invalidf("record at %s has the length %d", w.rec.LSN, total)
			}
			if err != nil {
				return 0, err
			}
		}
		if total > MaxRecordSize {
			return 0, invalidf("record at %s has the length %d", w.rec.LSN, total)
		}
		crc = crc32.Update(crc, castagnoli, part)
	}
	if err := w.checkCRC(crc, header); err != nil {
		return 0, err
	}
	w.rec.End = w.page.at + pos.LSN(w.page.size()) + alignUp(w.page.rest)
	return 0, nil
}

// continuation is what the current page has of a record that should go on here
// with left more bytes.
func (w *walker) continuation(left int64) ([]byte, error) {
	p := &w.page
	if !p.continues() {
		return nil, invalidf("page %s does not continue the record at %s", p.at, w.rec.LSN)
	}
	if int64(p.rest) != left {
		return nil, invalidf("page %s continues with %d bytes, not the %d of the record at %s", p.at, p.rest, left, w.rec.LSN)
	}
	part := p.data[p.size():]
	part = part[:min(int64(len(part)), left)]
	w.needed = max(w.needed, p.at+pos.LSN(p.size()+len(part)))
	if int64(len(part)) == left && p.size()+len(part) > p.avail {
		return nil, invalidf("record at %s is cut off", w.rec.LSN)
	}
	return part, nil
}

// checkHeader checks the header b of the record that begins at rec.LSN.
func (w *walker) checkHeader(b []byte) error {
	r := &w.rec
	r.XID = le.Uint32(b[xidOffset:])
	r.Prev = pos.LSN(le.Uint64(b[prevOffset:]))
	r.Info, r.RMgr = b[infoOffset], b[rmgrOffset]
	if r.Len < recordHeaderSize {
		return invalidf("record at %s has the length %d", r.LSN, r.Len)
	}
	if r.RMgr > w.ver.lastRMgr && (r.RMgr < rmgrMinCustom || !w.ver.customRMgr) {
		return invalidf("record at %s has the resource manager %d", r.LSN, r.RMgr)
	}
	if w.prev == 0 && r.Prev >= r.LSN || w.prev != 0 && r.Prev != w.prev {
		return invalidf("record at %s says that the one before is at %s", r.LSN, r.Prev)
	}
	return nil
}

// checkCRC ends the checksum crc of a record's body with its header and
// compares.
func (w *walker) checkCRC(crc uint32, header []byte) error {
	if crc32.Update(crc, castagnoli, header[:crcOffset]) != le.Uint32(header[crcOffset:]) {
		return invalidf("record at %s has a wrong checksum", w.rec.LSN)
	}
	return nil
}

// accept takes rec as the last record; whole is its bytes if they are on one
// page. The first record after a void one has to name that one: PostgreSQL
// writes it so and refuses to start otherwise.
func (w *walker) accept(whole []byte) error {
	r := &w.rec
	if w.void != 0 {
		r.Data = whole
		if void, ok := r.OverwriteContrecord(); !ok || void != w.void {
			return invalidf("record at %s does not say that it overwrites the one at %s", r.LSN, w.void)
		}
	}
	if r.RMgr == rmgrXLog && r.Info&infoKind == xlogSwitch && r.End%pos.LSN(w.prm.SegSize) != 0 {
		r.End = r.End.SegEnd(w.prm.SegSize)
	}
	r.Data = w.data
	w.prev, w.next = r.LSN, r.End
	return nil
}

func alignUp(n uint32) pos.LSN { return (pos.LSN(n) + maxAlign - 1) &^ (maxAlign - 1) }
