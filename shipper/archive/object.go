// Package archive keeps the write-ahead log at backup locations: it feeds one
// location with committed log, says what lies at one, gives segments back to a
// recovery, fills one location from others, and removes what is no longer
// wanted.
//
// A stored piece of log is a zstd stream with a seal at its end; README.md has
// the byte table. "Piece" is one stored object: a whole segment, or a partial
// one that is shorter.
package archive

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"understudy/shipper/location"
)

const (
	copySize   = 256 << 10
	windowSize = 1 << 20 // of what is written; bounds the memory of a reader too
	maxWindow  = 8 << 20 // of what is read: zstd's own bound for any reader
)

// maxStored is the largest size of an object that holds a segment.
func maxStored(segSize int64) int64 { return segSize + segSize/128 + 1<<16 + maxSeal }

// Encoder writes pieces. It is for one goroutine and holds about 4 MiB.
type Encoder struct {
	zw  *zstd.Encoder
	raw *blake3.Hasher
	all *blake3.Hasher
	buf []byte
}

// NewEncoder makes an Encoder. The level is one of zstd's "fastest" and
// "default".
func NewEncoder(level zstd.EncoderLevel) (*Encoder, error) {
	zw, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(windowSize), zstd.WithEncoderLevel(level))
	if err != nil {
		return nil, fmt.Errorf("make a zstd encoder: %w", err)
	}
	return &Encoder{zw: zw, raw: blake3.New(), all: blake3.New(), buf: make([]byte, copySize)}, nil
}

// hashedWriter passes bytes on and hashes them.
type hashedWriter struct {
	w io.Writer
	h *blake3.Hasher
}

func (w hashedWriter) Write(p []byte) (int, error) {
	_, _ = w.h.Write(p) // never fails
	return w.w.Write(p)
}

// Encode writes the piece that s describes to w: s.Length bytes of log out of
// r and the seal. Raw and Stored of s are not looked at; those of the result
// are right.
func (e *Encoder) Encode(w io.Writer, r io.Reader, s Seal) (Seal, error) {
	if err := s.check(); err != nil {
		return Seal{}, fmt.Errorf("seal a piece of log: %w", err)
	}
	e.raw.Reset()
	e.all.Reset()
	out := hashedWriter{w, e.all}
	e.zw.ResetContentSize(out, s.Length)
	defer e.zw.Reset(nil)
	for left := s.Length; left > 0; {
		b := e.buf[:min(left, int64(len(e.buf)))]
		if _, err := io.ReadFull(r, b); err != nil {
			return Seal{}, fmt.Errorf("read the log: %w", err)
		}
		_, _ = e.raw.Write(b) // never fails
		if _, err := e.zw.Write(b); err != nil {
			return Seal{}, fmt.Errorf("compress the log: %w", err)
		}
		left -= int64(len(b))
	}
	if err := e.zw.Close(); err != nil {
		return Seal{}, fmt.Errorf("compress the log: %w", err)
	}
	s.Raw = sum(e.raw)
	if _, err := out.Write(s.appendHead(nil)); err != nil {
		return Seal{}, fmt.Errorf("write the seal: %w", err)
	}
	s.Stored = sum(e.all)
	if _, err := w.Write(s.Stored[:]); err != nil {
		return Seal{}, fmt.Errorf("write the seal: %w", err)
	}
	return s, nil
}

func sum(h *blake3.Hasher) (d Digest) {
	h.Sum(d[:0])
	return d
}

// sealReader passes an object on, hashes it, and keeps its last bytes.
type sealReader struct {
	r     io.Reader
	h     *blake3.Hasher
	hold  []byte // the newest up to 32 bytes, not hashed yet
	tail  []byte // the newest bytes, at least maxSeal of them
	n     int64
	limit int64
}

func newSealReader(r io.Reader, limit int64) *sealReader {
	return &sealReader{r: r, h: blake3.New(), tail: make([]byte, 0, 2*maxSeal), limit: limit}
}

func (r *sealReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.add(p[:n])
	if r.n > r.limit {
		return 0, fmt.Errorf("%w: more than %d bytes", ErrDamaged, r.limit)
	}
	return n, err
}

func (r *sealReader) add(p []byte) {
	r.n += int64(len(p))
	if keep := min(len(p), maxSeal); len(r.tail)+keep > cap(r.tail) {
		r.tail = append(r.tail[:0], r.tail[len(r.tail)-min(len(r.tail), maxSeal):]...)
	}
	r.tail = append(r.tail, p[len(p)-min(len(p), maxSeal):]...)
	const hold = len(Digest{})
	if out := len(r.hold) + len(p) - hold; out > 0 {
		first := min(out, len(r.hold))
		_, _ = r.h.Write(r.hold[:first]) // never fails
		r.hold = append(r.hold[:0], r.hold[first:]...)
		_, _ = r.h.Write(p[:out-first])
		p = p[out-first:]
	}
	r.hold = append(r.hold, p...)
}

// seal is that of the object that was read to its end, its stored bytes
// proven.
func (r *sealReader) seal() (Seal, error) {
	s, err := ParseSeal(r.tail)
	if err != nil {
		return Seal{}, err
	}
	if sum(r.h) != s.Stored {
		return Seal{}, fmt.Errorf("%w: its bytes are not those that were sealed", ErrDamaged)
	}
	return s, nil
}

// Check reads a whole object and proves that every byte is as it was sealed,
// without decompressing it. Damage wraps ErrDamaged; other errors are those of
// r.
func Check(r io.Reader) (Seal, error) {
	sr := newSealReader(r, maxStored(maxSegSize))
	if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{sr}, make([]byte, copySize)); err != nil {
		return Seal{}, err
	}
	return sr.seal()
}

// Decoder reads pieces. It is for one goroutine and holds at most about
// 18 MiB, whatever it reads. Close frees it.
type Decoder struct {
	zr  *zstd.Decoder
	in  *bufio.Reader // zstd asks for single bytes
	raw *blake3.Hasher
	buf []byte
}

// NewDecoder makes a Decoder.
func NewDecoder() (*Decoder, error) {
	zr, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return &Decoder{zr: zr, in: bufio.NewReaderSize(nil, copySize), raw: blake3.New(), buf: make([]byte, copySize)}, nil
}

// Close frees the decoder.
func (d *Decoder) Close() { d.zr.Close() }

// readErr keeps the error of the object's reader apart from those of its
// contents.
type readErr struct {
	r   io.Reader
	err error
}

func (r *readErr) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

// Decode writes the log out of the object r to w. What was written counts only
// when there is no error. Damage wraps ErrDamaged; other errors are those of r
// and w. segSize bounds what is read and written; pieces of other segments
// wrap ErrForeign.
func (d *Decoder) Decode(w io.Writer, r io.Reader, segSize int64) (Seal, error) {
	if err := checkSegSize(segSize); err != nil {
		return Seal{}, err
	}
	in := &readErr{r: r}
	sr := newSealReader(in, maxStored(segSize))
	d.raw.Reset()
	n, err := d.copy(w, sr, segSize)
	switch {
	case in.err != nil:
		return Seal{}, in.err
	case err != nil:
		return Seal{}, err
	}
	s, err := sr.seal()
	switch {
	case err != nil:
		return Seal{}, err
	case s.SegSize != segSize:
		return Seal{}, fmt.Errorf("%w: of segments of %d bytes, not %d", ErrForeign, s.SegSize, segSize)
	case s.Length != n || s.Raw != sum(d.raw):
		return Seal{}, fmt.Errorf("%w: it holds other bytes than its seal says", ErrDamaged)
	}
	return s, nil
}

// copy decompresses all of r and returns the number of bytes.
func (d *Decoder) copy(w io.Writer, r io.Reader, limit int64) (int64, error) {
	d.in.Reset(r)
	if err := d.zr.Reset(d.in); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	defer func() { // lets go of r
		_ = d.zr.Reset(nil)
		d.in.Reset(nil)
	}()
	var n int64
	for {
		m, err := d.zr.Read(d.buf)
		if n += int64(m); n > limit {
			return n, fmt.Errorf("%w: it holds more than %d bytes", ErrDamaged, limit)
		}
		_, _ = d.raw.Write(d.buf[:m]) // never fails
		if _, werr := w.Write(d.buf[:m]); werr != nil {
			return n, fmt.Errorf("write the log: %w", werr)
		}
		switch {
		case errors.Is(err, io.EOF):
			return n, nil
		case err != nil:
			return n, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
	}
}

// sealProbe is how much of an object's end is read at first: enough for a seal
// with a few marks.
const sealProbe = 4 << 10

// ReadSeal reads the seal of an object without reading all of it. The stored
// bytes before the seal are not proven.
func ReadSeal(ctx context.Context, loc location.Location, key string) (Seal, error) {
	info, err := loc.Stat(ctx, key)
	if err != nil {
		return Seal{}, err
	}
	return readSeal(ctx, loc, info)
}

func readSeal(ctx context.Context, loc location.Location, o location.Info) (Seal, error) {
	tail, err := readTail(ctx, loc, o, sealProbe)
	if err != nil {
		return Seal{}, err
	}
	if n, err := sealSize(tail); err == nil && n > len(tail) && int64(n) <= o.Size {
		if tail, err = readTail(ctx, loc, o, int64(n)); err != nil {
			return Seal{}, err
		}
	}
	s, err := ParseSeal(tail)
	if err != nil {
		return Seal{}, fmt.Errorf("%s: %w", o.Key, err)
	}
	return s, nil
}

func readTail(ctx context.Context, loc location.Location, o location.Info, n int64) ([]byte, error) {
	n = min(n, o.Size)
	if n <= 0 {
		return nil, nil
	}
	return readObject(ctx, loc, o.Key, o.Size-n, n)
}

// readObject reads n bytes of an object into memory.
func readObject(ctx context.Context, loc location.Location, key string, off, n int64) ([]byte, error) {
	r, err := loc.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	return b, nil
}

// checkObject proves a stored piece.
func checkObject(ctx context.Context, loc location.Location, key string) (Seal, error) {
	r, err := loc.Open(ctx, key, 0, -1)
	if err != nil {
		return Seal{}, err
	}
	defer r.Close()
	s, err := Check(r)
	if err != nil {
		return Seal{}, fmt.Errorf("%s: %w", key, err)
	}
	return s, nil
}
