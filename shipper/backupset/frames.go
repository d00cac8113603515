package backupset

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// The seek table is the one of zstd's seekable format: a skippable frame at
// the end of the object, which plain zstd passes over.
const (
	seekSkippable = 0x184D2A5E
	seekMagic     = 0x8F92EAB1
	seekHead      = 8 // magic and length of the skippable frame
	seekChecksums = 1 << 7
	seekReserved  = 0x7C // must be zero

	// FooterSize is what has to be read from an object's end to learn the
	// length of its seek table.
	FooterSize = 9
	// MaxFrames bounds the table: 16 TiB in frames of 4 MiB.
	MaxFrames = 1 << 22
)

// FrameTarget is how many raw bytes a frame of an archive has, about: a frame
// ends where a file ends, or within a file at a multiple of ChunkSize, so that
// each chunk of a file lies in one frame. MaxFrame is never exceeded.
const (
	FrameTarget = 4 << 20
	MaxFrame    = 8 << 20
)

// Frames says where the frames of an object are, raw and stored. The zero
// value has none; Add appends.
type Frames struct {
	raw, stored []int64 // where each frame ends
}

// Frame is one zstd frame of an object. Stored bytes [StoredAt,
// StoredAt+Stored) decompress to raw bytes [RawAt, RawAt+Raw).
type Frame struct {
	RawAt, Raw       int64
	StoredAt, Stored int64
}

// Add appends a frame.
func (f *Frames) Add(raw, stored int) {
	f.raw = append(f.raw, f.RawBytes()+int64(raw))
	f.stored = append(f.stored, f.StoredBytes()+int64(stored))
}

// N is the number of frames.
func (f *Frames) N() int { return len(f.raw) }

// RawBytes is the size after decompression.
func (f *Frames) RawBytes() int64 { return last(f.raw) }

// StoredBytes is the size of the frames, without the table.
func (f *Frames) StoredBytes() int64 { return last(f.stored) }

func last(ends []int64) int64 {
	if len(ends) == 0 {
		return 0
	}
	return ends[len(ends)-1]
}

// At is frame i.
func (f *Frames) At(i int) Frame {
	raw, stored := last(f.raw[:i]), last(f.stored[:i])
	return Frame{RawAt: raw, Raw: f.raw[i] - raw, StoredAt: stored, Stored: f.stored[i] - stored}
}

// Find gives the frames [first, end) that hold the raw bytes [off, off+n); n
// of zero needs none. The stored bytes to read are from At(first).StoredAt on
// to the end of At(end-1). A range that is not within the object is an error.
func (f *Frames) Find(off, n int64) (first, end int, err error) {
	if off < 0 || n < 0 || off > f.RawBytes() || n > f.RawBytes()-off {
		return 0, 0, fmt.Errorf("%w: bytes %d to %d of an archive of %d", ErrDamaged, off, off+n, f.RawBytes())
	}
	if n == 0 {
		return 0, 0, nil
	}
	// The first frame that ends beyond off, and the first that ends at or
	// beyond off+n.
	first, _ = slices.BinarySearch(f.raw, off+1)
	end, _ = slices.BinarySearch(f.raw, off+n)
	return first, end + 1, nil
}

// AppendSeekTable appends the table to b. Frames carry their own checksums, so
// it holds none.
func (f *Frames) AppendSeekTable(b []byte) ([]byte, error) {
	if f.N() > MaxFrames {
		return nil, fmt.Errorf("an object of %d frames is more than %d", f.N(), MaxFrames)
	}
	b = binary.LittleEndian.AppendUint32(b, seekSkippable)
	b = binary.LittleEndian.AppendUint32(b, uint32(8*f.N()+FooterSize))
	for i := range f.N() {
		fr := f.At(i)
		b = binary.LittleEndian.AppendUint32(b, uint32(fr.Stored))
		b = binary.LittleEndian.AppendUint32(b, uint32(fr.Raw))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(f.N()))
	b = append(b, 0)
	return binary.LittleEndian.AppendUint32(b, seekMagic), nil
}

// SeekTableSize is how many bytes at the end of an object are its table, from
// the object's last FooterSize bytes.
func SeekTableSize(footer []byte) (int64, error) {
	if len(footer) != FooterSize || binary.LittleEndian.Uint32(footer[5:]) != seekMagic {
		return 0, fmt.Errorf("%w: no seek table at the end of the archive", ErrDamaged)
	}
	n, entry, err := seekFooter(footer)
	return seekHead + int64(n)*entry + FooterSize, err
}

func seekFooter(footer []byte) (n uint32, entry int64, err error) {
	n, entry = binary.LittleEndian.Uint32(footer), 8
	if footer[4]&seekChecksums != 0 {
		entry = 12
	}
	if n > MaxFrames || footer[4]&seekReserved != 0 {
		return 0, 0, fmt.Errorf("%w: a seek table of %d frames, kind %#x", ErrDamaged, n, footer[4])
	}
	return n, entry, nil
}

// DecodeSeekTable reads a table, which is the end of an object of size bytes.
// Tables with checksums are read, too; the checksums are passed over. The
// table and the size must agree: every stored byte is in a frame or in the
// table.
func DecodeSeekTable(table []byte, size int64) (*Frames, error) {
	if len(table) < seekHead+FooterSize {
		return nil, fmt.Errorf("%w: a seek table of %d bytes", ErrDamaged, len(table))
	}
	want, err := SeekTableSize(table[len(table)-FooterSize:])
	if err != nil {
		return nil, err
	}
	n, entry, err := seekFooter(table[len(table)-FooterSize:])
	if err != nil {
		return nil, err
	}
	if int64(len(table)) != want || binary.LittleEndian.Uint32(table) != seekSkippable || int64(binary.LittleEndian.Uint32(table[4:])) != want-seekHead {
		return nil, fmt.Errorf("%w: the seek table has %d bytes instead of %d, or another head", ErrDamaged, len(table), want)
	}
	f := &Frames{raw: make([]int64, 0, n), stored: make([]int64, 0, n)}
	for at := table[seekHead:]; len(at) >= int(entry)+FooterSize; at = at[entry:] {
		stored, raw := binary.LittleEndian.Uint32(at), binary.LittleEndian.Uint32(at[4:])
		if raw > MaxFrame || stored > 2*MaxFrame || stored == 0 {
			return nil, fmt.Errorf("%w: frame %d has %d bytes, %d stored", ErrDamaged, f.N(), raw, stored)
		}
		f.Add(int(raw), int(stored))
	}
	if f.StoredBytes()+want != size {
		return nil, fmt.Errorf("%w: the seek table speaks of %d bytes of an archive of %d", ErrDamaged, f.StoredBytes()+want, size)
	}
	return f, nil
}

// ReadFrames reads the table of an object of size bytes through readAt, which
// fills p with the object's bytes from off on.
func ReadFrames(size int64, readAt func(p []byte, off int64) error) (*Frames, error) {
	if size < seekHead+FooterSize {
		return nil, fmt.Errorf("%w: an archive of %d bytes has no seek table: %w", ErrDamaged, size, io.ErrUnexpectedEOF)
	}
	// Most tables fit one read.
	const guess = 64 << 10
	tail := make([]byte, min(size, guess))
	if err := readAt(tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("read the seek table: %w", err)
	}
	n, err := SeekTableSize(tail[len(tail)-FooterSize:])
	if err != nil {
		return nil, err
	}
	if n > size {
		return nil, fmt.Errorf("%w: a seek table of %d bytes in an archive of %d", ErrDamaged, n, size)
	}
	if n > int64(len(tail)) {
		tail = make([]byte, n)
		if err := readAt(tail, size-n); err != nil {
			return nil, fmt.Errorf("read the seek table: %w", err)
		}
	}
	return DecodeSeekTable(tail[int64(len(tail))-n:], size)
}
