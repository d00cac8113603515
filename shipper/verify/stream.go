package verify

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

var (
	// errFrame is a frame that cannot be decompressed to what it should be.
	errFrame = errors.New("a frame cannot be decompressed")
	// errSize is an object whose size changed while it was read.
	errSize = errors.New("it has another size")
)

// stream reads an object in order, several pieces ahead. Each piece is a read
// of its own: it can be repeated, and nothing is left open while the reader
// of the stream is slow. It is for one goroutine; close it.
type stream struct {
	p      *prover
	ctx    context.Context
	cancel context.CancelFunc
	key    string
	size   int64
	ahead  int

	next  int64 // where the first piece that is not asked for begins
	queue []*piece
	cur   *piece // given out by the last chunk
	rest  []byte // of cur, for Read
	free  [][]byte
	h     *blake3.Hasher // of everything that was given out; nil for none
}

// piece is a range on its way; err counts after done.
type piece struct {
	buf  []byte
	err  error
	done chan struct{}
}

func (p *prover) stream(ctx context.Context, key string, size int64, hashed bool) *stream {
	s := &stream{p: p, key: key, size: size, ahead: p.o.Workers}
	s.ctx, s.cancel = context.WithCancel(ctx)
	if hashed {
		s.h = blake3.New()
	}
	return s
}

// chunk is the next piece, valid until the next call; io.EOF at the end.
func (s *stream) chunk() ([]byte, error) {
	if s.cur != nil {
		s.free = append(s.free, s.cur.buf[:cap(s.cur.buf)])
		s.cur = nil
	}
	for len(s.queue) < s.ahead && s.next < s.size {
		s.ask()
	}
	if len(s.queue) == 0 {
		return nil, io.EOF
	}
	s.cur = s.queue[0]
	s.queue = append(s.queue[:0], s.queue[1:]...)
	<-s.cur.done
	if s.cur.err != nil {
		return nil, s.cur.err
	}
	if s.h != nil {
		_, _ = s.h.Write(s.cur.buf) // never fails
	}
	return s.cur.buf, nil
}

func (s *stream) ask() {
	off, n := s.next, min(pieceSize, s.size-s.next)
	s.next += n
	var b []byte
	if k := len(s.free); k > 0 {
		b, s.free = s.free[k-1], s.free[:k-1]
	} else {
		b = make([]byte, min(pieceSize, s.size))
	}
	x := &piece{buf: b[:n], done: make(chan struct{})}
	s.queue = append(s.queue, x)
	go func() {
		defer close(x.done)
		x.err = s.p.readAt(s.ctx, s.key, x.buf, off, s.size)
	}()
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	for len(s.rest) == 0 {
		var err error
		if s.rest, err = s.chunk(); err != nil {
			return 0, err
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// sum is the digest of all that was given out.
func (s *stream) sum() string { return hex.EncodeToString(s.h.Sum(nil)) }

func (s *stream) close() {
	s.cancel()
	for _, x := range s.queue {
		<-x.done
	}
}

// readAt fills b with an object's bytes from off on. An object that has not
// size bytes any more is errSize.
func (p *prover) readAt(ctx context.Context, key string, b []byte, off, size int64) error {
	return p.retry(ctx, func(ctx context.Context) error {
		r, err := p.loc.Open(ctx, key, off, int64(len(b)))
		if err == nil {
			_, err = io.ReadFull(r, b)
			err = errors.Join(err, r.Close())
		}
		if err == nil || wrong(err) || errors.Is(err, location.ErrNotExist) {
			return err
		}
		if i, serr := p.loc.Stat(ctx, key); serr == nil && i.Size != size {
			return fmt.Errorf("%w: %d bytes instead of %d", errSize, i.Size, size)
		}
		return fmt.Errorf("read %s from byte %d on: %w", key, off, err)
	})
}

// object proves the stored bytes of an object. ok tells that they are those
// that were written.
func (p *prover) object(ctx context.Context, key string, want backupset.Object) (ok bool, err error) {
	sum, err := p.digest(ctx, key, want)
	if err == nil && sum == want.BLAKE3 {
		p.proven(want.Bytes, 0)
		return true, nil
	}
	return false, p.doubt(ctx, key, want, err)
}

func (p *prover) digest(ctx context.Context, key string, want backupset.Object) (string, error) {
	s := p.stream(ctx, key, want.Bytes, true)
	defer s.close()
	for {
		b, err := s.chunk()
		p.passed(key, int64(len(b)))
		switch {
		case errors.Is(err, io.EOF):
			return s.sum(), nil
		case err != nil:
			return "", err
		}
	}
}

// doubt looks once more at an object whose first reading went wrong, with err
// or by its digest, and notes what it is.
func (p *prover) doubt(ctx context.Context, key string, want backupset.Object, err error) error {
	switch {
	case err == nil || wrong(err):
	case errors.Is(err, location.ErrNotExist):
		p.find(Finding{Object: key, Kind: Missing, What: "is missing", At: -1})
		return nil
	case p.lost(ctx, key, err):
		return err
	default:
		return nil
	}
	at, where, err := p.locate(ctx, key, want)
	switch {
	case err == nil && at == sound && p.o.Deep: // its files were not compared
		if err := fmt.Errorf("read %s: one reading gave wrong bytes, the next the right ones", key); p.lost(ctx, key, err) {
			return err
		}
	case err == nil && at == sound:
		p.proven(want.Bytes, 0)
	case err == nil:
		p.find(Finding{Object: key, Kind: Damaged, What: "is damaged " + where, At: at})
	case errors.Is(err, errSize):
		p.find(Finding{Object: key, Kind: Short, What: "changed while it was read: " + err.Error(), At: -1})
	case wrong(err):
		p.find(Finding{Object: key, Kind: Damaged, What: "is damaged: " + err.Error(), At: -1})
	case errors.Is(err, location.ErrNotExist):
		p.find(Finding{Object: key, Kind: Missing, What: "is missing", At: -1})
	case p.lost(ctx, key, err):
		return err
	}
	return nil
}

// sound is what locate says of an object that is whole.
const sound = -2

// locate reads an object frame by frame to tell from where on it is damaged.
func (p *prover) locate(ctx context.Context, key string, want backupset.Object) (at int64, where string, err error) {
	frames, ferr := p.frames(ctx, key, want)
	if ferr != nil && !wrong(ferr) {
		return 0, "", ferr
	}
	dec, err := newFrameDecoder()
	if err != nil {
		return 0, "", err
	}
	defer dec.Close()
	s := p.stream(ctx, key, want.Bytes, true)
	defer s.close()
	at = -1
	if ferr == nil && want.Name != backupset.ManifestName {
		var stored, raw []byte
		for i := range frames.N() {
			fr := frames.At(i)
			stored = grow(stored, int(fr.Stored))
			if _, err := io.ReadFull(s, stored); err != nil {
				return 0, "", err
			}
			if raw, err = decodeFrame(dec, raw, stored, fr); err != nil && at < 0 {
				at = fr.StoredAt
			}
		}
	}
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{s}); err != nil {
		return 0, "", err
	}
	switch {
	case s.sum() == want.BLAKE3:
		return sound, "", nil
	case at >= 0:
		return at, fmt.Sprintf("from about byte %d on", at), nil
	case want.Name == backupset.ManifestName:
		return -1, "somewhere in its bytes", nil
	case ferr != nil:
		return -1, "in the seek table at its end", nil
	}
	return frames.StoredBytes(), fmt.Sprintf("in the seek table from byte %d on", frames.StoredBytes()), nil
}

// frames reads an object's seek table.
func (p *prover) frames(ctx context.Context, key string, o backupset.Object) (*backupset.Frames, error) {
	f, err := backupset.ReadFrames(o.Bytes, func(b []byte, off int64) error { return p.readAt(ctx, key, b, off, o.Bytes) })
	if err != nil {
		return nil, err
	}
	if f.RawBytes() != o.RawBytes {
		return f, fmt.Errorf("%w: the seek table speaks of %d bytes, the set of %d", backupset.ErrDamaged, f.RawBytes(), o.RawBytes)
	}
	return f, nil
}

func newFrameDecoder() (*zstd.Decoder, error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(backupset.MaxFrame), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make a zstd decoder: %w", err)
	}
	return d, nil
}

// decodeFrame decompresses one frame into raw, which is made larger when it
// must be.
func decodeFrame(d *zstd.Decoder, raw, stored []byte, fr backupset.Frame) ([]byte, error) {
	raw = grow(raw, int(fr.Raw))
	out, err := d.DecodeAll(stored, raw[:0])
	if err != nil {
		return raw, fmt.Errorf("%w: %w", errFrame, err)
	}
	if int64(len(out)) != fr.Raw {
		return raw, fmt.Errorf("%w: it has %d bytes, the seek table says %d", errFrame, len(out), fr.Raw)
	}
	return out, nil
}

// grow gives b the length n, without its contents.
func grow(b []byte, n int) []byte {
	if cap(b) < n {
		return make([]byte, n)
	}
	return b[:n]
}
