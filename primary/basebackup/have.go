package basebackup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/blake3"
)

// digest identifies the content of one chunk.
type digest [digestSize]byte

func digestOf(chunk []byte) digest {
	sum := blake3.Sum256(chunk)
	return digest(sum[:digestSize])
}

// heldFile is what the asker has of one file.
type heldFile struct {
	size   uint64
	chunks []digest
}

// holdings is the list of chunks the asker has, by path. It never takes more
// than haveBudget bytes: what comes after that is forgotten, so it is sent.
type holdings struct {
	files map[string]heldFile
	spent int
}

// heldFileCost is the memory of a map entry without its path and digests.
const heldFileCost = 128

var errHave = errors.New("the list of held chunks is malformed")

// add reads the records of one frame; README.md has the byte table.
func (h *holdings) add(p []byte) error {
	if h.files == nil {
		h.files = make(map[string]heldFile)
	}
	for len(p) > 0 {
		if len(p) < 2 {
			return errHave
		}
		n := int(binary.LittleEndian.Uint16(p))
		if n == 0 || n > maxPathBytes || len(p) < 2+n+16 {
			return errHave
		}
		path := string(p[2 : 2+n])
		p = p[2+n:]
		size, first, count := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint32(p[8:]), binary.LittleEndian.Uint32(p[12:])
		p = p[16:]
		if uint64(count)*digestSize > uint64(len(p)) {
			return errHave
		}
		list := p[:int(count)*digestSize]
		p = p[len(list):]
		if err := h.put(path, size, first, list); err != nil {
			return err
		}
	}
	return nil
}

func (h *holdings) put(path string, size uint64, first uint32, list []byte) error {
	f, known := h.files[path]
	held := uint64(len(f.chunks))
	if known && (f.size != size || uint64(first) < held) {
		return fmt.Errorf("%w: %q is listed twice", errHave, path)
	}
	cost := len(list)
	if !known {
		cost += heldFileCost + len(path)
	}
	// An earlier piece that found no room makes a gap; what follows is dropped.
	if uint64(first) > held || h.spent+cost > haveBudget {
		return nil
	}
	h.spent += cost
	f.size = size
	f.chunks = slices.Grow(f.chunks, len(list)/digestSize)
	for i := 0; i < len(list); i += digestSize {
		f.chunks = append(f.chunks, digest(list[i:i+digestSize]))
	}
	h.files[path] = f
	return nil
}

// same tells whether the asker holds exactly this chunk at this place.
func (f heldFile) same(index int64, chunk []byte) bool {
	if index >= int64(len(f.chunks)) {
		return false
	}
	if left := f.size - min(f.size, uint64(index)*ChunkSize); min(left, ChunkSize) != uint64(len(chunk)) {
		return false
	}
	return f.chunks[index] == digestOf(chunk)
}
