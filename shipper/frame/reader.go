package frame

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	// readAhead is the number of bytes that a Reader takes at once when small
	// frames come in a row.
	readAhead = 64 << 10
	// maxEmptyReads is how often in a row an io.Reader may return nothing.
	maxEmptyReads = 100
)

// Reader reads and checks frames. It is not safe for concurrent use. It holds
// one buffer that grows to the largest frame seen, never above MaxPayload and
// two headers.
type Reader struct {
	src  io.Reader
	buf  []byte
	pos  int    // buf[pos:end] is read but not consumed
	end  int    //
	seq  uint64 // number of the last frame returned
	dead error  // set once the stream is known to be broken or ended
}

// NewReader returns a Reader that expects the first frame to have the number 1.
func NewReader(r io.Reader) *Reader {
	return &Reader{src: r, buf: make([]byte, readAhead)}
}

// Next returns the next frame. The payload is valid until the next call and
// may be changed by the caller.
//
// At the end of the stream it returns io.EOF between frames and ErrTruncated
// inside one; ErrMagic, ErrVersion, ErrType, ErrTooLong, ErrCRC and ErrSequence
// mean a broken stream. All of these repeat on every later call. Any other
// error is the underlying reader's; after a timeout Next may be called again
// and nothing is lost.
func (r *Reader) Next() (Type, []byte, error) {
	if r.dead != nil {
		return 0, nil, r.dead
	}
	t, payload, err := r.next()
	if err != nil && broken(err) {
		r.dead = err
	}
	return t, payload, err
}

func (r *Reader) next() (Type, []byte, error) {
	if err := r.fill(HeaderSize); err != nil {
		return 0, nil, err
	}
	n, err := checkHeader(r.buf[r.pos:r.end])
	if err != nil {
		return 0, nil, err
	}
	if err := r.fill(HeaderSize + n); err != nil {
		return 0, nil, err
	}
	h := r.buf[r.pos : r.pos+HeaderSize]
	payload := r.buf[r.pos+HeaderSize : r.pos+HeaderSize+n : r.pos+HeaderSize+n]
	crc := crc32.Update(0, castagnoli, h[:offCRC])
	crc = crc32.Update(crc, castagnoli, payload)
	if want := binary.LittleEndian.Uint32(h[offCRC:]); crc != want {
		return 0, nil, fmt.Errorf("%w: frame after number %d", ErrCRC, r.seq)
	}
	if seq := binary.LittleEndian.Uint64(h[offSequence:]); seq != r.seq+1 {
		return 0, nil, fmt.Errorf("%w: number %d after %d", ErrSequence, seq, r.seq)
	}
	t := Type(h[offType])
	if !t.Valid() {
		return 0, nil, fmt.Errorf("%w: %s", ErrType, t)
	}
	r.seq++
	r.pos += HeaderSize + n
	return t, payload, nil
}

// checkHeader returns the payload's length. Only what is needed before the CRC
// can be computed is looked at here.
func checkHeader(h []byte) (int, error) {
	if h[0] != magic0 || h[1] != magic1 {
		return 0, fmt.Errorf("%w: begins with %#02x %#02x", ErrMagic, h[0], h[1])
	}
	if h[offVersion] != Version {
		return 0, fmt.Errorf("%w: %d, this side knows %d", ErrVersion, h[offVersion], Version)
	}
	n := binary.LittleEndian.Uint32(h[offLength:])
	if n > MaxPayload {
		return 0, fmt.Errorf("%w: %d bytes, at most %d", ErrTooLong, n, MaxPayload)
	}
	return int(n), nil
}

// fill reads until need bytes are unconsumed. Of a long frame it takes no more
// than the header of its successor besides, so that no payload is moved within
// the buffer.
func (r *Reader) fill(need int) error {
	if r.end-r.pos >= need {
		return nil
	}
	r.makeRoom(need)
	limit := r.pos + max(need+HeaderSize, readAhead)
	limit = min(limit, len(r.buf))
	for empty := 0; r.end-r.pos < need; {
		n, err := r.src.Read(r.buf[r.end:limit])
		r.end += n
		if r.end-r.pos >= need {
			return nil // an error that came with the bytes comes again
		}
		switch {
		case errors.Is(err, io.EOF) && r.end == r.pos:
			return io.EOF
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && r.end != r.pos:
			return fmt.Errorf("%w after number %d", ErrTruncated, r.seq)
		case err != nil:
			return fmt.Errorf("read frame: %w", err)
		case n > 0:
			empty = 0
		default:
			if empty++; empty == maxEmptyReads {
				return fmt.Errorf("read frame: %w", io.ErrNoProgress)
			}
		}
	}
	return nil
}

// makeRoom moves the unconsumed bytes to the front when need bytes and the next
// header would not fit behind pos, and enlarges the buffer when it is too
// small. need is bounded by the check of the header's length.
func (r *Reader) makeRoom(need int) {
	if r.pos == r.end {
		r.pos, r.end = 0, 0
	}
	need += HeaderSize
	if len(r.buf)-r.pos >= need {
		return
	}
	dst := r.buf
	if len(dst) < need {
		size := len(dst)
		for size < need {
			size *= 2
		}
		dst = make([]byte, min(size, MaxPayload+2*HeaderSize))
	}
	r.end = copy(dst, r.buf[r.pos:r.end])
	r.pos, r.buf = 0, dst
}

// broken tells whether err ends the stream for good.
func broken(err error) bool {
	if err == io.EOF {
		return true
	}
	for _, e := range []error{ErrMagic, ErrVersion, ErrType, ErrCRC, ErrSequence, ErrTooLong, ErrTruncated} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
