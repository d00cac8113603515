package backupset

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
)

// incrementalPrefix begins the name of a file that holds only some blocks of
// another one.
const incrementalPrefix = "INCREMENTAL."

// maxSegPages bounds the pages of a segment of any build of PostgreSQL, and so
// the memory that a BlockMap takes: 16 MiB.
const maxSegPages = 1 << 22

// Incremental tells whether the file at path in an incremental set holds blocks
// of another one, and which. In a full set the names mean nothing.
func Incremental(p string) (of string, ok bool) {
	dir, name := path.Split(p)
	name, ok = strings.CutPrefix(name, incrementalPrefix)
	if !ok || name == "" || dir == "" {
		return "", false
	}
	return dir + name, true
}

// BlockMapHead is how many bytes of an INCREMENTAL file tell the size of its
// block map.
const BlockMapHead = 12

// blockMapMagic is the first number of an INCREMENTAL file.
const blockMapMagic = 0xd3ae1f0d

// BlockMap says which blocks an INCREMENTAL file holds.
type BlockMap struct {
	// Keep is how many blocks of the file below stay at most; what it has beyond
	// them was cut off in between. The file that results has at least so many.
	Keep uint32
	// Blocks are the numbers of the blocks, within the segment, ascending. Their
	// bytes follow the head in this order.
	Blocks []uint32
}

// Len is the number of blocks of the file that results.
func (m BlockMap) Len() uint32 {
	if n := len(m.Blocks); n > 0 {
		return max(m.Keep, m.Blocks[n-1]+1)
	}
	return m.Keep
}

// BlocksAt is where the first block stands in an INCREMENTAL file with n of
// them: PostgreSQL fills the head up to a whole block, unless none follows.
func (s Server) BlocksAt(n int) int64 {
	head := int64(BlockMapHead) + 4*int64(n)
	if size := int64(s.BlockSize); n > 0 {
		head = (head + size - 1) / size * size
	}
	return head
}

// BlockMapSize reads the first BlockMapHead bytes of an INCREMENTAL file of that
// size, and tells how many bytes BlockMap needs.
func (s Server) BlockMapSize(head []byte, size int64) (int, error) {
	if len(head) < BlockMapHead || size < BlockMapHead {
		return 0, fmt.Errorf("%w: an incremental file of %d bytes", ErrDamaged, size)
	}
	if magic := binary.NativeEndian.Uint32(head); magic != blockMapMagic {
		return 0, fmt.Errorf("%w: an incremental file begins with %08x instead of %08x", ErrDamaged, magic, uint32(blockMapMagic))
	}
	n := binary.NativeEndian.Uint32(head[4:])
	if n > min(s.SegPages, maxSegPages) {
		return 0, fmt.Errorf("%w: an incremental file with %d blocks of a segment that has %d", ErrDamaged, n, s.SegPages)
	}
	if want := s.BlocksAt(int(n)) + int64(n)*int64(s.BlockSize); size != want {
		return 0, fmt.Errorf("%w: an incremental file with %d blocks has %d bytes instead of %d", ErrDamaged, n, size, want)
	}
	return BlockMapHead + 4*int(n), nil
}

// BlockMap reads the head of an INCREMENTAL file of that size; b has at least as
// many bytes as BlockMapSize told. Numbers are in the order of the machine that
// wrote them, as everything in a database's files.
func (s Server) BlockMap(b []byte, size int64) (BlockMap, error) {
	n, err := s.BlockMapSize(b, size)
	if err != nil {
		return BlockMap{}, err
	}
	if len(b) < n {
		return BlockMap{}, fmt.Errorf("%w: the head of an incremental file ends after %d of %d bytes", ErrDamaged, len(b), n)
	}
	// Some servers of version 17 name more than a segment has when a relation of
	// several segments was cut off in a later one: all of this one stays then.
	m := BlockMap{Keep: min(binary.NativeEndian.Uint32(b[8:]), s.SegPages), Blocks: make([]uint32, 0, (n-BlockMapHead)/4)}
	for b = b[BlockMapHead:n]; len(b) > 0; b = b[4:] {
		m.Blocks = append(m.Blocks, binary.NativeEndian.Uint32(b))
	}
	for i, block := range m.Blocks {
		if block >= s.SegPages || i > 0 && block <= m.Blocks[i-1] {
			return BlockMap{}, fmt.Errorf("%w: block %d of an incremental file, number %d, is out of order or beyond the segment", ErrDamaged, block, i)
		}
	}
	return m, nil
}

// AppendBlockMap appends the head of an INCREMENTAL file, filled up.
func (s Server) AppendBlockMap(b []byte, m BlockMap) []byte {
	at := len(b)
	for _, n := range append([]uint32{blockMapMagic, uint32(len(m.Blocks)), m.Keep}, m.Blocks...) {
		b = binary.NativeEndian.AppendUint32(b, n)
	}
	fill := s.BlocksAt(len(m.Blocks)) - int64(len(b)-at)
	return slices.Concat(b, make([]byte, fill))
}
