package frame

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"io"
)

// writeBuffer is the size of a Writer's buffer in bytes: four TLS records.
const writeBuffer = 64 << 10

// Writer numbers and writes frames. It is not safe for concurrent use.
//
// Frames collect in a buffer of 64 KiB; the rest of a part that exceeds it goes
// to the underlying writer as it is. Nothing is certain to leave before Flush.
// The first error of the underlying writer is returned by every later call.
type Writer struct {
	buf     *bufio.Writer
	seq     uint64 // number of the last frame written
	header  [HeaderSize]byte
	scratch [scratchSize]byte // fixed parts of payloads are encoded here
}

// NewWriter returns a Writer whose first frame has the number 1.
func NewWriter(w io.Writer) *Writer {
	return &Writer{buf: bufio.NewWriterSize(w, writeBuffer)}
}

// Write appends one frame whose payload is the concatenation of parts. The
// parts are not kept. A payload above MaxPayload or an unknown type is refused
// with nothing written; the stream goes on as if the call had not been made.
func (w *Writer) Write(t Type, parts ...[]byte) error {
	if !t.Valid() {
		return fmt.Errorf("write %s frame: %w", t, ErrType)
	}
	n := 0
	for _, p := range parts {
		// Compared before the sum, which therefore cannot overflow.
		if len(p) > MaxPayload-n {
			return fmt.Errorf("write %s frame: %w: more than %d bytes", t, ErrTooLong, MaxPayload)
		}
		n += len(p)
	}
	h := w.header[:]
	h[0], h[1], h[offVersion], h[offType] = magic0, magic1, Version, byte(t)
	binary.LittleEndian.PutUint32(h[offLength:], uint32(n))
	binary.LittleEndian.PutUint64(h[offSequence:], w.seq+1)
	crc := crc32.Update(0, castagnoli, h[:offCRC])
	for _, p := range parts {
		crc = crc32.Update(crc, castagnoli, p)
	}
	binary.LittleEndian.PutUint32(h[offCRC:], crc)
	w.seq++
	if _, err := w.buf.Write(h); err != nil {
		return fmt.Errorf("write %s frame: %w", t, err)
	}
	for _, p := range parts {
		if _, err := w.buf.Write(p); err != nil {
			return fmt.Errorf("write %s frame: %w", t, err)
		}
	}
	return nil
}

// WriteJSON appends one frame whose payload is v as JSON.
func (w *Writer) WriteJSON(t Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s frame: %w", t, err)
	}
	return w.Write(t, b)
}

// WriteData appends one Data frame; p is at most MaxData bytes and must not
// change during the call.
func (w *Writer) WriteData(d DataHead, p []byte) error {
	return w.Write(Data, d.encode(&w.scratch), p)
}

// WriteAck appends one AckFrame.
func (w *Writer) WriteAck(a Ack) error { return w.Write(AckFrame, a.encode(&w.scratch)) }

// WriteBeat appends one BeatFrame.
func (w *Writer) WriteBeat(b Beat) error { return w.Write(BeatFrame, b.encode(&w.scratch)) }

// WriteBeatAck appends one BeatAckFrame.
func (w *Writer) WriteBeatAck(b BeatAck) error {
	return w.Write(BeatAckFrame, b.encode(&w.scratch))
}

// Flush hands everything buffered to the underlying writer.
func (w *Writer) Flush() error {
	if err := w.buf.Flush(); err != nil {
		return fmt.Errorf("flush frames: %w", err)
	}
	return nil
}

// Buffered is the number of bytes that wait for Flush.
func (w *Writer) Buffered() int { return w.buf.Buffered() }
