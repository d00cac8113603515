package walfmt

import (
	"encoding/binary"
	"fmt"

	"understudy/shipper/pos"
)

// Sizes of page headers, and what record starts are aligned to, in bytes.
const (
	shortHeaderSize = 24
	longHeaderSize  = 40
	maxAlign        = 8
)

// Bits of a page header's info field.
const (
	pageContinues   = 1 << 0 // begins with the rest of a record
	pageLong        = 1 << 1 // has a long header
	pageRemovable   = 1 << 2 // backup blocks may be left out; only a hint
	pageOverwrites  = 1 << 3 // the record before was cut off and is void
	pageKnownInfo   = pageContinues | pageLong | pageRemovable | pageOverwrites
	pageAddrOffset  = 8
	pageRestOffset  = 16
	longSysIDOffset = 24
	longSegOffset   = 32
	longBlockOffset = 36
)

var le = binary.LittleEndian

// pageHeader is a parsed page header.
type pageHeader struct {
	magic uint16
	info  uint16
	tli   pos.Timeline
	addr  pos.LSN
	rest  uint32 // bytes still to come of the record that continues here

	sysID     uint64 // the rest only with pageLong
	segSize   uint32
	blockSize uint32
}

// size is the length of the header in bytes.
func (h *pageHeader) size() int {
	if h.info&pageLong != 0 {
		return longHeaderSize
	}
	return shortHeaderSize
}

// continues tells whether the page begins with the rest of a record.
func (h *pageHeader) continues() bool { return h.info&pageContinues != 0 }

// overwrites tells whether the record that reaches this page is void.
func (h *pageHeader) overwrites() bool { return h.info&pageOverwrites != 0 }

// parsePageHeader reads the header of b, which has at least longHeaderSize
// bytes.
func parsePageHeader(b []byte) pageHeader {
	h := pageHeader{
		magic: le.Uint16(b),
		info:  le.Uint16(b[2:]),
		tli:   pos.Timeline(le.Uint32(b[4:])),
		addr:  pos.LSN(le.Uint64(b[pageAddrOffset:])),
		rest:  le.Uint32(b[pageRestOffset:]),
	}
	if h.info&pageLong != 0 {
		h.sysID = le.Uint64(b[longSysIDOffset:])
		h.segSize = le.Uint32(b[longSegOffset:])
		h.blockSize = le.Uint32(b[longBlockOffset:])
	}
	return h
}

// check tells why h cannot be the header of the page at at, or nil. The magic
// and the timeline need context and are the walker's to check.
func (h *pageHeader) check(at pos.LSN, prm Params) error {
	if h.info&^pageKnownInfo != 0 {
		return invalidf("page %s has unknown info bits %#04x", at, h.info)
	}
	switch {
	case h.info&pageLong == 0:
		if at%pos.LSN(prm.SegSize) == 0 {
			return invalidf("first page %s of a segment has no long header", at)
		}
	case prm.SystemID != 0 && h.sysID != prm.SystemID:
		return invalidf("page %s is of the system %d, not %d", at, h.sysID, prm.SystemID)
	case int64(h.segSize) != prm.SegSize:
		return invalidf("page %s is of a segment of %d bytes, not %d", at, h.segSize, prm.SegSize)
	case h.blockSize != PageSize:
		return invalidf("page %s has %d bytes, not %d", at, h.blockSize, PageSize)
	}
	if h.addr != at {
		return invalidf("page %s says that it is page %s", at, h.addr)
	}
	return nil
}

// ParseLongHeader reads who a segment belongs to from its first page, of which
// the first 40 bytes are enough. The error is ErrPageHeader when the bytes do
// not begin a segment of a PostgreSQL known here.
func ParseLongHeader(page []byte) (Identity, error) {
	if len(page) < longHeaderSize {
		return Identity{}, fmt.Errorf("parse long page header: %w: %d bytes", ErrPageHeader, len(page))
	}
	h := parsePageHeader(page)
	v, ok := versionOf(h.magic, 0)
	if !ok {
		return Identity{}, fmt.Errorf("parse long page header: %w: unknown magic %04X", ErrPageHeader, h.magic)
	}
	if h.info&^pageKnownInfo != 0 || h.info&pageLong == 0 {
		return Identity{}, fmt.Errorf("parse long page header: %w: info bits %#04x", ErrPageHeader, h.info)
	}
	size := int64(h.segSize)
	if size < minSegSize || size > maxSegSize || size&(size-1) != 0 {
		return Identity{}, fmt.Errorf("parse long page header: %w: %w: %d bytes", ErrPageHeader, ErrSegmentSize, size)
	}
	if h.addr%pos.LSN(size) != 0 {
		return Identity{}, fmt.Errorf("parse long page header: %w: page address %s", ErrPageHeader, h.addr)
	}
	return Identity{
		SystemID:  h.sysID,
		SegSize:   size,
		BlockSize: int(h.blockSize),
		Timeline:  h.tli,
		PageAddr:  h.addr,
		Major:     v.major,
	}, nil
}
