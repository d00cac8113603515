package location

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"filippo.io/age"
)

const (
	// readPlain is how many bytes a reader decrypts at once.
	readPlain = 4 * sealedChunk
	// cacheFrom is the size of objects that are large enough to be read in
	// many ranges. Smaller ones may also be replaced by others of their size
	// within the resolution of a place's clock, which must not be mixed up.
	cacheFrom = 32 << 20
	// maxHeads bounds the memory of heads, to about 70 KiB each.
	maxHeads = 16
)

// attempts bounds how often a range is begun that does not decrypt.
const attempts = 3

// Open implements Location. A whole object is one request. A range costs one
// request for the object's size and one for the range; the first one of an
// object two more, for its header and for its last chunk, which proves the
// size. An object that is replaced between these requests does not decrypt, so
// that a range is begun again a few times before it counts as damaged.
func (e *encrypted) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if len(e.with) == 0 {
		return nil, fmt.Errorf("read %s: %w: no identity to decrypt with is configured", key, ErrRefused)
	}
	if off == 0 && n < 0 {
		return e.openWhole(ctx, key)
	}
	for try := 1; ; try++ {
		r, err := e.openRange(ctx, key, off, n)
		torn := errors.Is(err, ErrDamaged) || errors.Is(err, io.ErrUnexpectedEOF)
		if !torn || try == attempts {
			return r, err
		}
	}
}

// openWhole decrypts one stream of bytes.
func (e *encrypted) openWhole(ctx context.Context, key string) (io.ReadCloser, error) {
	src := &sealedSource{ctx: ctx}
	var err error
	if src.r, err = e.loc.Open(ctx, key+encryptedSuffix, 0, -1); err != nil {
		return nil, err
	}
	plain, err := age.Decrypt(src, e.with...)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read %s: %w", key, src.explain(err)), src.close())
	}
	return &wholeReader{src: src, plain: plain, key: key}, nil
}

type wholeReader struct {
	src   *sealedSource
	plain io.Reader
	key   string
}

// Read implements io.Reader.
func (r *wholeReader) Read(b []byte) (int, error) {
	n, err := r.plain.Read(b)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read %s: %w", r.key, r.src.explain(err))
	}
	return n, err
}

// Close implements io.Closer.
func (r *wholeReader) Close() error { return r.src.close() }

// Read passes on the stream and keeps its error.
func (s *sealedSource) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF && s.err == nil {
		s.err = err
	}
	return n, err
}

// openRange also decrypts the first bytes.
func (e *encrypted) openRange(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	info, err := e.loc.Stat(ctx, key+encryptedSuffix)
	if err != nil {
		return nil, err
	}
	src := &sealedSource{ctx: ctx, loc: e.loc, key: info.Key, size: info.Size, limit: -1}
	if err := e.heads.load(src, info); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	plain, size, err := age.DecryptReaderAt(src, info.Size, e.with...)
	if err != nil {
		e.heads.drop(info.Key)
		return nil, fmt.Errorf("read %s: %w", key, src.explain(err))
	}
	if off < 0 || off > size {
		return nil, fmt.Errorf("read %s: offset %d is outside of its %d bytes", key, off, size)
	}
	r := &encryptedReader{src: src, plain: plain, key: key, at: off, end: size, heads: e.heads}
	if n > size-off {
		r.short = true
	} else if n >= 0 {
		r.end = off + n
	}
	src.stream(size, r.end)
	if r.at < r.end {
		if err := r.fill(); err != nil {
			return nil, errors.Join(err, src.close())
		}
	}
	return r, nil
}

// encryptedReader decrypts a range.
type encryptedReader struct {
	src     *sealedSource
	plain   io.ReaderAt
	key     string
	at, end int64 // of the plaintext, behind what is in buf
	short   bool  // more was demanded than there is
	store   []byte
	buf     []byte // decrypted, not yet read
	heads   *heads
}

// Read implements io.Reader.
func (r *encryptedReader) Read(b []byte) (int, error) {
	if len(r.buf) == 0 {
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(b, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}

func (r *encryptedReader) fill() error {
	switch {
	case r.src.ctx.Err() != nil:
		return context.Cause(r.src.ctx)
	case r.at == r.end && r.short:
		return fmt.Errorf("read %s: it ends too early: %w", r.key, io.ErrUnexpectedEOF)
	case r.at == r.end:
		return io.EOF
	}
	if r.store == nil {
		r.store = make([]byte, min(readPlain, r.end-r.at))
	}
	// Up to a border between chunks, so that none is decrypted twice.
	n := min(int64(len(r.store)), r.end-r.at)
	if border := (r.at + n) / sealedChunk * sealedChunk; border > r.at && r.at+n < r.end {
		n = border - r.at
	}
	k, err := r.plain.ReadAt(r.store[:n], r.at)
	if int64(k) == n {
		err = nil // io.EOF may come with the last bytes
	}
	if err != nil {
		r.heads.drop(r.src.key)
		return fmt.Errorf("read %s: %w", r.key, r.src.explain(err))
	}
	r.at += n
	r.buf = r.store[:n]
	return nil
}

// Close implements io.Closer.
func (r *encryptedReader) Close() error { return r.src.close() }

// sealedSource reads an encrypted object at any offset: from what is known of
// its two ends, from a stream that goes on where the last read ended, or by a
// request of its own.
type sealedSource struct {
	ctx  context.Context
	loc  Location
	key  string
	size int64

	ends  [2]piece64
	limit int64 // where a stream ends; -1 as long as none may be opened
	r     io.ReadCloser
	at    int64 // of r
	err   error // the first of loc
}

// piece64 are bytes of an object from an offset on.
type piece64 struct {
	off int64
	b   []byte
}

func (p piece64) read(b []byte, off int64) bool {
	if off < p.off || off+int64(len(b)) > p.off+int64(len(p.b)) {
		return false
	}
	copy(b, p.b[off-p.off:])
	return true
}

// stream lets the source read ahead up to the chunk that holds the byte before
// end, of size bytes of plaintext.
func (s *sealedSource) stream(size, end int64) {
	head := s.size - (sealedSize(size) - sealedHead) // others may write other headers
	chunks := (end + sealedChunk - 1) / sealedChunk
	s.limit = min(head+chunks*(sealedChunk+sealedTag), s.size)
	if last := s.ends[1]; len(last.b) > 0 {
		s.limit = min(s.limit, max(last.off, head))
	}
}

// ReadAt implements io.ReaderAt.
func (s *sealedSource) ReadAt(b []byte, off int64) (int, error) {
	for _, p := range s.ends {
		if p.read(b, off) {
			return len(b), nil
		}
	}
	if off >= s.size {
		return 0, io.EOF
	}
	if rest := s.size - off; int64(len(b)) > rest {
		n, err := s.ReadAt(b[:rest], off)
		if err == nil {
			err = io.EOF
		}
		return n, err
	}
	n, err := s.fetch(b, off)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}

func (s *sealedSource) fetch(b []byte, off int64) (int, error) {
	if off+int64(len(b)) > s.limit {
		r, err := s.loc.Open(s.ctx, s.key, off, int64(len(b)))
		if err != nil {
			return 0, err
		}
		n, err := io.ReadFull(r, b)
		return n, errors.Join(err, r.Close())
	}
	if s.r == nil || s.at != off {
		if err := s.close(); err != nil {
			return 0, err
		}
		r, err := s.loc.Open(s.ctx, s.key, off, s.limit-off)
		if err != nil {
			return 0, err
		}
		s.r, s.at = r, off
	}
	n, err := io.ReadFull(s.r, b)
	s.at += int64(n)
	return n, err
}

func (s *sealedSource) close() error {
	if s.r == nil {
		return nil
	}
	r := s.r
	s.r = nil
	return r.Close()
}

// explain tells what an error of age means: bytes that could not be read, a
// wrong key, or altered bytes.
func (s *sealedSource) explain(err error) error {
	var no *age.NoIdentityMatchError
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case s.err != nil:
		return s.err
	case errors.As(err, &no):
		return fmt.Errorf("%w: it is encrypted for others: %w", ErrRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

// heads keeps both ends of objects that are read in many ranges.
type heads struct {
	mu  sync.Mutex
	all map[string]head
}

type head struct {
	size int64
	at   time.Time
	used time.Time
	ends [2]piece64
}

func newHeads() *heads { return &heads{all: make(map[string]head)} }

// load gives src both ends of its object.
func (h *heads) load(src *sealedSource, info Info) error {
	h.mu.Lock()
	known, ok := h.all[info.Key]
	if ok && known.size == info.Size && known.at.Equal(info.At) {
		known.used = time.Now()
		h.all[info.Key] = known
		h.mu.Unlock()
		src.ends = known.ends
		return nil
	}
	h.mu.Unlock()
	for i, p := range endsOf(info.Size) {
		if _, err := src.ReadAt(p.b, p.off); err != nil {
			return err
		}
		src.ends[i] = p
	}
	if info.Size >= cacheFrom {
		h.keep(info, src.ends)
	}
	return nil
}

// endsOf are the places of the header and the last chunk. A small object is
// read whole.
func endsOf(size int64) [2]piece64 {
	plain, ok := plainSize(size)
	if size <= sealedHead+sealedChunk+sealedTag {
		return [2]piece64{{0, make([]byte, max(size, 0))}, {}}
	}
	head := piece64{0, make([]byte, sealedHead)}
	if !ok {
		return [2]piece64{head, {}}
	}
	last := sealedHead + (plain-1)/sealedChunk*(sealedChunk+sealedTag)
	return [2]piece64{head, {last, make([]byte, size-last)}}
}

func (h *heads) keep(info Info, ends [2]piece64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.all) >= maxHeads {
		oldest := ""
		for k, v := range h.all {
			if oldest == "" || v.used.Before(h.all[oldest].used) {
				oldest = k
			}
		}
		delete(h.all, oldest)
	}
	h.all[info.Key] = head{size: info.Size, at: info.At, used: time.Now(), ends: ends}
}

func (h *heads) drop(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, key)
}
