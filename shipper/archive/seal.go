package archive

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"
	"unicode/utf8"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

var (
	// ErrDamaged is returned for an object whose bytes are not those that were
	// sealed.
	ErrDamaged = errors.New("damaged")
	// ErrForeign is returned for an object that is whole and is not the piece of
	// log that was expected under its name.
	ErrForeign = errors.New("another piece of log")
	// ErrSegmentSize is returned for a segment size that no PostgreSQL has.
	ErrSegmentSize = errors.New("WAL segment size is not a power of two between 1 MiB and 1 GiB")
)

// Bounds of the format.
const (
	sealVersion = 1
	sealFrame   = 0x184D2A57 // a skippable frame of zstd; the seek table's is another
	maxMarks    = 256
	maxMarkName = 63 // PostgreSQL's bound on the name of a restore point

	sealFixed = 88 // bytes before the marks
	sealEnd   = 40 // bytes after them
	markFixed = 17
	maxSeal   = sealFixed + maxMarks*(markFixed+maxMarkName) + sealEnd

	minSegSize = 1 << 20
	maxSegSize = 1 << 30
)

var (
	le         = binary.LittleEndian
	sealMagic  = [8]byte{'U', 'S', 'W', 'A', 'L', 'S', 'E', 'G'}
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Digest is a BLAKE3-256.
type Digest [32]byte

// String is in hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Seal is what the end of a stored piece of log says of it.
type Seal struct {
	SystemID uint64
	Timeline pos.Timeline // whose segment it is
	Start    pos.LSN      // of the segment
	Length   int64        // bytes of log; SegSize unless it is a partial one
	SegSize  int64
	Raw      Digest // of the log's bytes
	// Marks are moments of this piece, sorted, at most 256.
	Marks []catalog.Mark
	// Stored is the digest of all stored bytes before itself. Set by encoding
	// and decoding.
	Stored Digest
}

// End is the byte after the last one of the piece.
func (s Seal) End() pos.LSN { return s.Start + pos.LSN(s.Length) }

// Whole tells whether the piece is a whole segment.
func (s Seal) Whole() bool { return s.Length == s.SegSize }

// String names the piece for people.
func (s Seal) String() string {
	return fmt.Sprintf("%d bytes from %s on timeline %d of system %d", s.Length, s.Start, s.Timeline, s.SystemID)
}

// same tells whether two seals are of the same bytes in the same place.
func (s Seal) same(o Seal) bool {
	return s.SystemID == o.SystemID && s.Timeline == o.Timeline && s.Start == o.Start && s.Length == o.Length && s.SegSize == o.SegSize && s.Raw == o.Raw
}

func checkSegSize(n int64) error {
	if n < minSegSize || n > maxSegSize || n&(n-1) != 0 {
		return fmt.Errorf("%w: %d bytes", ErrSegmentSize, n)
	}
	return nil
}

func (s Seal) check() error {
	if err := checkSegSize(s.SegSize); err != nil {
		return err
	}
	if s.Timeline == 0 || s.Start%pos.LSN(s.SegSize) != 0 || s.Length < 1 || s.Length > s.SegSize || s.End() < s.Start {
		return fmt.Errorf("%s in segments of %d is no piece of log", s, s.SegSize)
	}
	if len(s.Marks) > maxMarks {
		return fmt.Errorf("%d marks, %d are possible", len(s.Marks), maxMarks)
	}
	last := s.Start
	for _, m := range s.Marks {
		if m.LSN < last || m.LSN <= s.Start || m.LSN > s.End() || len(m.Name) > maxMarkName || m.At.IsZero() {
			return fmt.Errorf("the mark at %s does not fit in", m.LSN)
		}
		last = m.LSN
	}
	return nil
}

// appendHead adds the seal up to where the digest of all stored bytes goes.
func (s Seal) appendHead(b []byte) []byte {
	size := sealFixed + sealEnd
	for _, m := range s.Marks {
		size += markFixed + len(m.Name)
	}
	from := len(b)
	b = le.AppendUint32(b, sealFrame)
	b = le.AppendUint32(b, uint32(size-8))
	b = append(b, sealMagic[:]...)
	b = le.AppendUint16(b, sealVersion)
	b = le.AppendUint16(b, uint16(len(s.Marks)))
	b = le.AppendUint32(b, uint32(s.Timeline))
	b = le.AppendUint64(b, s.SystemID)
	b = le.AppendUint64(b, uint64(s.Start))
	b = le.AppendUint64(b, uint64(s.Length))
	b = le.AppendUint64(b, uint64(s.SegSize))
	b = append(b, s.Raw[:]...)
	for _, m := range s.Marks {
		b = le.AppendUint64(b, uint64(m.LSN))
		b = le.AppendUint64(b, uint64(m.At.UnixMicro()))
		b = append(b, byte(len(m.Name)))
		b = append(b, m.Name...)
	}
	b = le.AppendUint32(b, uint32(size))
	return le.AppendUint32(b, crc32.Checksum(b[from:], castagnoli))
}

// sealSize is the number of bytes that the seal takes, read from the object's
// last bytes.
func sealSize(tail []byte) (int, error) {
	if len(tail) < sealFixed+sealEnd {
		return 0, fmt.Errorf("%w: too short for a seal", ErrDamaged)
	}
	n := le.Uint32(tail[len(tail)-sealEnd:])
	if n < sealFixed+sealEnd || n > maxSeal {
		return 0, fmt.Errorf("%w: no seal at its end", ErrDamaged)
	}
	return int(n), nil
}

// ParseSeal reads the seal at the end of tail, the last bytes of an object.
// Damage within the seal is found; that of other bytes is what Check and
// Decode find. The error wraps ErrDamaged.
func ParseSeal(tail []byte) (Seal, error) {
	n, err := sealSize(tail)
	if err != nil {
		return Seal{}, err
	}
	if n > len(tail) {
		return Seal{}, fmt.Errorf("%w: its seal is cut off", ErrDamaged)
	}
	b := tail[len(tail)-n:]
	sum := le.Uint32(b[n-36:])
	switch {
	case crc32.Checksum(b[:n-36], castagnoli) != sum, le.Uint32(b) != sealFrame, le.Uint32(b[4:]) != uint32(n-8), [8]byte(b[8:16]) != sealMagic:
		return Seal{}, fmt.Errorf("%w: no valid seal", ErrDamaged)
	case le.Uint16(b[16:]) != sealVersion:
		return Seal{}, fmt.Errorf("format version %d is not known here: update this program", le.Uint16(b[16:]))
	}
	s := Seal{
		Timeline: pos.Timeline(le.Uint32(b[20:])),
		SystemID: le.Uint64(b[24:]),
		Start:    pos.LSN(le.Uint64(b[32:])),
		Length:   int64(le.Uint64(b[40:])),
		SegSize:  int64(le.Uint64(b[48:])),
		Raw:      Digest(b[56:88]),
		Stored:   Digest(b[n-32:]),
	}
	if s.Marks, err = parseMarks(b[sealFixed:n-sealEnd], int(le.Uint16(b[18:]))); err == nil {
		err = s.check()
	}
	if err != nil {
		return Seal{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return s, nil
}

func parseMarks(b []byte, n int) ([]catalog.Mark, error) {
	var out []catalog.Mark
	for range n {
		if len(b) < markFixed || len(b) < markFixed+int(b[16]) {
			return nil, errors.New("its marks are cut off")
		}
		size := markFixed + int(b[16])
		out = append(out, catalog.Mark{
			LSN:  pos.LSN(le.Uint64(b)),
			At:   time.UnixMicro(int64(le.Uint64(b[8:]))).UTC(),
			Name: string(b[markFixed:size]),
		})
		b = b[size:]
	}
	if len(b) > 0 {
		return nil, errors.New("bytes after its marks")
	}
	return out, nil
}

// thin makes marks fit into a seal: those of the stretch, sorted, restore
// points before commits when there are too many, long names cut.
func thin(marks []catalog.Mark, from, to pos.LSN) []catalog.Mark {
	var named, plain []catalog.Mark
	for _, m := range marks {
		m.At = m.At.UTC().Truncate(time.Microsecond)
		switch {
		case m.LSN <= from || m.LSN > to || m.At.IsZero():
		case m.Name == "":
			plain = append(plain, m)
		default:
			for len(m.Name) > maxMarkName {
				_, n := utf8.DecodeLastRuneInString(m.Name)
				m.Name = m.Name[:len(m.Name)-n]
			}
			named = append(named, m)
		}
	}
	byLSN := func(a, b catalog.Mark) int { return int(min(a.LSN.Sub(b.LSN), 1)) - int(min(b.LSN.Sub(a.LSN), 1)) }
	slices.SortStableFunc(plain, byLSN)
	slices.SortStableFunc(named, byLSN)
	out := named[:min(len(named), maxMarks)]
	if room := maxMarks - len(out); len(plain) > room {
		for i := range room { // spread evenly, the last one always kept
			plain[i] = plain[(i+1)*len(plain)/room-1]
		}
		plain = plain[:room]
	}
	out = append(out, plain...)
	slices.SortStableFunc(out, byLSN)
	return out
}
