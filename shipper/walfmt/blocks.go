package walfmt

import (
	"errors"
	"fmt"
)

// ErrBody is returned for a record whose checksum is right but whose body is
// none that PostgreSQL's reader accepts.
var ErrBody = errors.New("not the body of a WAL record")

// Bits of a block reference's fork byte, and of its page image's info byte.
const (
	blockForkMask = 0x0F
	blockHasImage = 0x10
	blockHasData  = 0x20
	blockSameRel  = 0x80

	imageHasHole = 0x01
)

const maxBlockID = 32

// RelFile names the main file of a relation as the log does. A relation gets
// another Relfilenode when it is truncated or rewritten.
type RelFile struct {
	Tablespace  uint32
	Database    uint32 // 0 for relations that all databases share
	Relfilenode uint32
}

// Forks of a relation, as BlockRef.Fork counts them.
const (
	ForkMain = iota
	ForkFSM  // free space map
	ForkVM   // visibility map
	ForkInit // of an unlogged relation
)

// BlockRef is a block that a record refers to.
type BlockRef struct {
	ID uint8 // number of the reference in its record, at most 32
	RelFile
	Fork  uint8  // ForkMain and so on
	Block uint32 // number of the block in that fork
	Image bool   // the record carries the whole page
}

// Blocks are the blocks that the record refers to, in the record's order, by
// the checks of PostgreSQL's own decoder. The error is ErrBody.
func (r Record) Blocks() ([]BlockRef, error) {
	b, err := r.decode(nil)
	return b.blocks, err
}

// TopXID is the top transaction of the subtransaction that wrote the record, or
// 0. PostgreSQL notes it only with wal_level = logical, and only in the first
// record of each subtransaction.
func (r Record) TopXID() uint32 {
	var room [4]BlockRef
	b, err := r.decode(room[:0])
	if err != nil {
		return 0
	}
	return b.top
}

// body is a decoded record.
type body struct {
	blocks []BlockRef
	main   []byte // the record's own data
	top    uint32 // top transaction, if noted
}

// parts reads the headers of a record's parts one after the other.
type parts struct {
	b     []byte // what is left
	short bool   // more was asked for than there was
}

func (p *parts) take(n int) []byte {
	if len(p.b) < n {
		p.b, p.short = nil, true
		return make([]byte, n)
	}
	out := p.b[:n]
	p.b = p.b[n:]
	return out
}

func (p *parts) u8() uint8   { return p.take(1)[0] }
func (p *parts) u16() uint16 { return le.Uint16(p.take(2)) }
func (p *parts) u32() uint32 { return le.Uint32(p.take(4)) }

func (r Record) badBody(format string, args ...any) error {
	return fmt.Errorf("decode the record at %s: %w: %s", r.LSN, ErrBody, fmt.Sprintf(format, args...))
}

// decode reads the record; block references are appended to room.
func (r Record) decode(room []BlockRef) (body, error) {
	out := body{blocks: room}
	if len(r.Data) < recordHeaderSize {
		return body{}, r.badBody("%d bytes", len(r.Data))
	}
	p := parts{b: r.Data[recordHeaderSize:]}
	// data is how many bytes the headers read so far say will follow all
	// headers; main is the last part's share.
	var data, main uint64
	for last := false; !last && uint64(len(p.b)) > data; {
		switch id := p.u8(); {
		case id == partDataShort:
			main, last = uint64(p.u8()), true
		case id == partDataLong:
			main, last = uint64(p.u32()), true
		case id == partOrigin:
			p.take(2)
		case id == partTopXID:
			out.top = p.u32()
		case id <= maxBlockID:
			ref, n, err := r.block(&p, id, out.blocks)
			if err != nil {
				return body{}, err
			}
			out.blocks = append(out.blocks, ref)
			data += uint64(n)
		default:
			return body{}, r.badBody("part %d", id)
		}
		if p.short {
			return body{}, r.badBody("a part's header is cut off")
		}
	}
	if uint64(len(p.b)) != data+main {
		return body{}, r.badBody("%d bytes of data where the headers say %d", len(p.b), data+main)
	}
	out.main = p.b[data:]
	return out, nil
}

// block reads a block reference; n is how many bytes of data it has behind the
// headers.
func (r Record) block(p *parts, id uint8, before []BlockRef) (ref BlockRef, n int, err error) {
	if len(before) > 0 && id <= before[len(before)-1].ID {
		return ref, 0, r.badBody("block %d after %d", id, before[len(before)-1].ID)
	}
	flags := p.u8()
	n = int(p.u16())
	if (flags&blockHasData != 0) != (n != 0) && !p.short {
		return ref, 0, r.badBody("block %d has %d bytes, its flags are %#02x", id, n, flags)
	}
	ref = BlockRef{ID: id, Fork: flags & blockForkMask, Image: flags&blockHasImage != 0}
	if ref.Image {
		size, err := r.image(p, id)
		if err != nil {
			return ref, 0, err
		}
		n += size
	}
	switch {
	case flags&blockSameRel == 0:
		ref.RelFile = RelFile{p.u32(), p.u32(), p.u32()}
	case len(before) == 0:
		return ref, 0, r.badBody("block %d is of the same relation as no block", id)
	default:
		ref.RelFile = before[len(before)-1].RelFile
	}
	ref.Block = p.u32()
	return ref, n, nil
}

// image reads the header of a page image and returns the image's size in bytes.
func (r Record) image(p *parts, id uint8) (int, error) {
	size, offset, info := int(p.u16()), int(p.u16()), p.u8()
	compressed, hole := info&versionOfMajor(r.major).compressed != 0, info&imageHasHole != 0
	length := PageSize - size
	if compressed {
		length = 0
		if hole {
			length = int(p.u16())
		}
	}
	if p.short {
		return 0, r.badBody("the header of the image of block %d is cut off", id)
	}
	if hole && (offset == 0 || length == 0 || size == PageSize) ||
		!hole && (offset != 0 || length != 0) ||
		compressed && size == PageSize || !compressed && size > PageSize {
		return 0, r.badBody("the image of block %d has %d bytes, a hole of %d at %d, flags %#02x", id, size, length, offset, info)
	}
	return size, nil
}
