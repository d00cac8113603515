// Package pagesum checks the pages of PostgreSQL's data files: the checksum
// that a cluster with data checksums keeps in each page, and which files have
// pages at all.
//
// The package is pure.
package pagesum

import (
	"encoding/binary"
	"math/bits"

	"understudy/shipper/pos"
)

// Offsets in the head of a page.
const (
	offChecksum = 8
	offUpper    = 14
)

// MinPage and MaxPage are the smallest and largest page PostgreSQL can be
// built with; a page is a power of two.
const (
	MinPage = 1 << 10
	MaxPage = 32 << 10
)

// Verdict is what a look at a page says.
type Verdict uint8

// Verdicts; the zero value is none.
const (
	// Good: the checksum is right.
	Good Verdict = iota + 1
	// New: all zeros, as a file is extended.
	New
	// Newer: the checksum is wrong and the page was changed after the backup's
	// start, so that it may have been read while it was written. The log has
	// the whole page: a restore replaces it.
	Newer
	// Bad: the checksum is wrong, and nothing that happened since the start
	// explains it by itself. A page that is being written may look so for a
	// moment: its head may be older than its end.
	Bad
)

// String is the word for a verdict.
func (v Verdict) String() string {
	switch v {
	case Good:
		return "good"
	case New:
		return "new"
	case Newer:
		return "newer"
	case Bad:
		return "bad"
	}
	return "no verdict"
}

// Check looks at a page that was read from block of its relation's fork, by a
// backup that began at start. The page is not changed.
func Check(page []byte, block uint32, start pos.LSN) Verdict {
	if binary.LittleEndian.Uint16(page[offUpper:]) == 0 && zeros(page) {
		return New
	}
	if Checksum(page, block) == Stored(page) {
		return Good
	}
	if LSN(page) >= start {
		return Newer
	}
	return Bad
}

// Stored is the checksum that the page has in its head.
func Stored(page []byte) uint16 { return binary.LittleEndian.Uint16(page[offChecksum:]) }

// LSN is the end of the last record that changed the page.
func LSN(page []byte) pos.LSN {
	return pos.LSN(binary.LittleEndian.Uint32(page))<<32 | pos.LSN(binary.LittleEndian.Uint32(page[4:]))
}

func zeros(page []byte) bool {
	for ; len(page) >= 8; page = page[8:] {
		if binary.LittleEndian.Uint64(page) != 0 {
			return false
		}
	}
	return true
}

// laneN FNV-1a sums run side by side over the 32-bit words of a page.
const (
	laneN    = 32
	rowSize  = 4 * laneN
	fnvPrime = 16777619
)

// offsets are what the lanes begin with.
func offsets() [laneN]uint32 {
	return [laneN]uint32{
		0x5B1F36E9, 0xB8525960, 0x02AB50AA, 0x1DE66D2A,
		0x79FF467A, 0x9BB9F8A3, 0x217E7CD2, 0x83E13D2C,
		0xF8D4474F, 0xE39EB970, 0x42C6AE16, 0x993216FA,
		0x7B093B5D, 0x98DAFF3C, 0xF718902A, 0x0B1C9CDB,
		0xE58F764B, 0x187636BC, 0x5D7B3BB1, 0xE73DE7DE,
		0x92BEC979, 0xCCA6C0B2, 0x304A0979, 0x85AA43D4,
		0x783125BB, 0x6CA8EAA2, 0xE407EAC6, 0x4B5CFC3E,
		0x9FBF8C76, 0x15CA20BE, 0xF2CA9FD3, 0x959BD756,
	}
}

// Checksum is what the head of the page should hold. The length of page is a
// power of two from MinPage to MaxPage.
func Checksum(page []byte, block uint32) uint16 {
	sums := begin(page)
	mix(&sums, page[rowSize:])
	return finish(&sums, block)
}

// begin feeds the first row, in which the checksum itself counts as zero.
func begin(page []byte) [laneN]uint32 {
	sums := offsets()
	var first [rowSize]byte
	copy(first[:], page)
	first[offChecksum], first[offChecksum+1] = 0, 0
	mixGeneric(&sums, first[:])
	return sums
}

func finish(sums *[laneN]uint32, block uint32) uint16 {
	var sum uint32
	for _, s := range sums {
		sum ^= step(step(s, 0), 0)
	}
	// Zero is never a checksum, so that a page without one is seen.
	return uint16((sum^block)%65535 + 1)
}

// step is one round of a lane. It differs from FNV-1a by the shift, which
// lets the high bits of the data have a part.
func step(sum, word uint32) uint32 {
	x := sum ^ word
	return x*fnvPrime ^ x>>17
}

// mixGeneric feeds whole rows to the lanes.
func mixGeneric(sums *[laneN]uint32, rows []byte) {
	for ; len(rows) >= rowSize; rows = rows[rowSize:] {
		row := (*[rowSize]byte)(rows)
		for i := range sums {
			sums[i] = step(sums[i], binary.LittleEndian.Uint32(row[4*i:]))
		}
	}
}

// IsPageSize tells the sizes that a page can have.
func IsPageSize(n int) bool { return n >= MinPage && n <= MaxPage && bits.OnesCount(uint(n)) == 1 }
