package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"

	"understudy/shipper/pos"
)

const (
	slotSize    = 512
	trailerSize = 2 * slotSize
	slotVersion = 1
)

var (
	slotMagic  = [8]byte{'U', 'S', 'P', 'L', 'S', 'L', 'O', 'T'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// slot is the record of one sync batch in a segment file's trailer. README.md
// has the byte table.
type slot struct {
	timeline pos.Timeline
	owner    uint64 // ownerID of the store
	segment  uint64 // number of the segment: its first byte / its size
	segSize  int64
	seq      uint64 // counts the batches of this file; slot seq mod 2 holds it
	from, to pos.LSN
	cuts     uint64 // number of the cut after which this was written
	dataCRC  uint32 // CRC-32C of the bytes from..to
}

// ownerID is the identity that ties a segment file to its store.
func ownerID(store, group string) uint64 {
	h := sha256.New()
	h.Write([]byte(store))
	h.Write([]byte{0})
	h.Write([]byte(group))
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

func (s slot) encode(b *[slotSize]byte) {
	*b = [slotSize]byte{}
	le := binary.LittleEndian
	copy(b[0:], slotMagic[:])
	le.PutUint32(b[8:], slotVersion)
	le.PutUint32(b[12:], uint32(s.timeline))
	le.PutUint64(b[16:], s.owner)
	le.PutUint64(b[24:], s.segment)
	le.PutUint64(b[32:], uint64(s.segSize))
	le.PutUint64(b[40:], s.seq)
	le.PutUint64(b[48:], uint64(s.from))
	le.PutUint64(b[56:], uint64(s.to))
	le.PutUint64(b[64:], s.cuts)
	le.PutUint32(b[72:], s.dataCRC)
	le.PutUint32(b[slotSize-4:], crc32.Checksum(b[:slotSize-4], castagnoli))
}

// decodeSlot reads one slot. ok is false for anything that no encode wrote:
// zeros, a torn write, another version.
func decodeSlot(b []byte) (s slot, ok bool) {
	le := binary.LittleEndian
	if len(b) != slotSize || [8]byte(b[:8]) != slotMagic || le.Uint32(b[8:]) != slotVersion {
		return slot{}, false
	}
	if le.Uint32(b[slotSize-4:]) != crc32.Checksum(b[:slotSize-4], castagnoli) {
		return slot{}, false
	}
	return slot{
		timeline: pos.Timeline(le.Uint32(b[12:])),
		owner:    le.Uint64(b[16:]),
		segment:  le.Uint64(b[24:]),
		segSize:  int64(le.Uint64(b[32:])),
		seq:      le.Uint64(b[40:]),
		from:     pos.LSN(le.Uint64(b[48:])),
		to:       pos.LSN(le.Uint64(b[56:])),
		cuts:     le.Uint64(b[64:]),
		dataCRC:  le.Uint32(b[72:]),
	}, true
}

// inside tells whether the batch lies within the segment it claims.
func (s slot) inside(start pos.LSN, segSize int64) bool {
	return s.segSize == segSize && s.segment == uint64(start)/uint64(segSize) &&
		start <= s.from && s.from <= s.to && s.to <= start+pos.LSN(segSize)
}

func allZero(b []byte) bool {
	for len(b) >= 8 {
		if binary.NativeEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
