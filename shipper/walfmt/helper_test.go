package walfmt_test

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"

	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

const (
	page    = walfmt.PageSize
	segSize = 1 << 20
	system  = 7_123_456_789_012_345_678
)

// logBytes is a Source of the log that begins at start.
type logBytes struct {
	start pos.LSN
	b     []byte
}

func (l logBytes) ReadWAL(p []byte, at pos.LSN) (int, error) {
	off := at.Sub(l.start)
	if at < l.start || off >= uint64(len(l.b)) {
		return 0, io.EOF
	}
	n := copy(p, l.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (l logBytes) end() pos.LSN { return l.start + pos.LSN(len(l.b)) }

func (l logBytes) cut(at pos.LSN) logBytes { return logBytes{l.start, l.b[:at-l.start]} }

// walDir is a Source over the files of a pg_wal directory.
type walDir struct {
	dir  string
	tli  pos.Timeline
	size int64
}

func (d walDir) ReadWAL(p []byte, at pos.LSN) (int, error) {
	done := 0
	for done < len(p) {
		here := at + pos.LSN(done)
		f, err := os.Open(filepath.Join(d.dir, pos.SegName(d.tli, here, d.size)))
		if errors.Is(err, os.ErrNotExist) {
			return done, io.EOF
		}
		if err != nil {
			return done, err
		}
		want := min(len(p)-done, int(here.SegEnd(d.size)-here))
		n, err := f.ReadAt(p[done:done+want], int64(here-here.SegStart(d.size)))
		f.Close()
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// writer makes a log as PostgreSQL does.
type writer struct {
	logBytes
	seg       int64
	magic     uint16
	tli       uint32
	prev      pos.LSN
	overwrite bool // the next page begins by overwriting
	records   []walfmt.Record
}

func newWriter(start pos.LSN) *writer {
	return &writer{logBytes: logBytes{start: start}, seg: segSize, magic: 0xD110, tli: 1}
}

func (w *writer) header(rest int) {
	at := w.end()
	info, size := uint16(0), 24
	if rest > 0 {
		info |= 1
	}
	if at%pos.LSN(w.seg) == 0 {
		info, size = info|2, 40
	}
	if w.overwrite {
		info, w.overwrite = info|8, false
	}
	h := make([]byte, size)
	binary.LittleEndian.PutUint16(h, w.magic)
	binary.LittleEndian.PutUint16(h[2:], info)
	binary.LittleEndian.PutUint32(h[4:], w.tli)
	binary.LittleEndian.PutUint64(h[8:], uint64(at))
	binary.LittleEndian.PutUint32(h[16:], uint32(rest))
	if size == 40 {
		binary.LittleEndian.PutUint64(h[24:], system)
		binary.LittleEndian.PutUint32(h[32:], uint32(w.seg))
		binary.LittleEndian.PutUint32(h[36:], page)
	}
	w.b = append(w.b, h...)
}

// record is the bytes of a record with the body, prev being its prev-link.
func record(prev pos.LSN, xid uint32, rmgr, info uint8, body []byte) []byte {
	r := make([]byte, 24, 24+len(body))
	binary.LittleEndian.PutUint32(r, uint32(24+len(body)))
	binary.LittleEndian.PutUint32(r[4:], xid)
	binary.LittleEndian.PutUint64(r[8:], uint64(prev))
	r[16], r[17] = info, rmgr
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Checksum(body, table), table, r[:20])
	binary.LittleEndian.PutUint32(r[20:], crc)
	return append(r, body...)
}

func (w *writer) add(xid uint32, rmgr, info uint8, body []byte) walfmt.Record {
	if w.end()%page == 0 {
		w.header(0)
	}
	at := w.end()
	data := record(w.prev, xid, rmgr, info, body)
	for left := data; ; {
		n := min(len(left), page-int(w.end()%page))
		w.b, left = append(w.b, left[:n]...), left[n:]
		if len(left) == 0 {
			break
		}
		w.header(len(left))
	}
	for w.end()%8 != 0 {
		w.b = append(w.b, 0)
	}
	rec := walfmt.Record{LSN: at, End: w.end(), Prev: w.prev, XID: xid, RMgr: rmgr, Info: info, Len: uint32(len(data)), Data: data}
	w.prev = at
	w.records = append(w.records, rec)
	return rec
}

// message adds a record of n bytes in all.
func (w *writer) message(n int) walfmt.Record {
	body := make([]byte, n-24)
	for i := range body {
		body[i] = byte(i*7 + n)
	}
	return w.add(0, 21, 0, body)
}

// zeros goes on with zeros up to at.
func (w *writer) zeros(at pos.LSN) {
	w.b = append(w.b, make([]byte, at-w.end())...)
}

func params() walfmt.Params { return walfmt.Params{SegSize: segSize, SystemID: system} }

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatal(...any)
}

// readAll returns the records from from on, with Data copied.
func readAll(t fataler, src walfmt.Source, from pos.LSN, prm walfmt.Params) ([]walfmt.Record, walfmt.End) {
	t.Helper()
	r := walfmt.NewReader(src, from, prm)
	var out []walfmt.Record
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return out, r.End()
		}
		if err != nil {
			t.Fatal(err)
		}
		rec.Data = slices.Clone(rec.Data)
		out = append(out, rec)
	}
}

func findEnd(t fataler, src walfmt.Source, from pos.LSN, prm walfmt.Params) walfmt.End {
	t.Helper()
	e, err := walfmt.FindEnd(src, from, prm)
	if err != nil {
		t.Fatal(err)
	}
	return e
}
