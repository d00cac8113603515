package s3

import (
	"errors"
	"io"
	"sync"
)

const (
	blockSize = 1 << 20
	// memory bounds what all uploads of a place hold together, besides one part
	// of each.
	memory = 64 << 20
)

// blocks is where parts get their memory.
type blocks struct {
	pool sync.Pool // of *[blockSize]byte
	// budget has an entry for each block of a part that is being sent.
	budget chan struct{}
}

func (b *blocks) get() *[blockSize]byte {
	if x, ok := b.pool.Get().(*[blockSize]byte); ok {
		return x
	}
	return new([blockSize]byte)
}

// part is a piece of an object in memory.
type part struct {
	from   *blocks
	blocks []*[blockSize]byte
	size   int64
}

// Write adds bytes; it never fails.
func (p *part) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		i := int(p.size % blockSize)
		if i == 0 {
			p.blocks = append(p.blocks, p.from.get())
		}
		k := copy(p.blocks[len(p.blocks)-1][i:], b)
		b = b[k:]
		p.size += int64(k)
	}
	return n, nil
}

// reader reads the part from its beginning.
func (p *part) reader() *partReader { return &partReader{part: p} }

// partReader is the body of one request. A request that failed may go on
// reading its body for a while: after end it gets no more, and the part's
// memory may be used for something else.
type partReader struct {
	mu   sync.Mutex
	part *part // nil after end
	at   int64
}

var errBodyEnded = errors.New("the request has ended")

// Read implements io.Reader.
func (r *partReader) Read(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.part == nil:
		return 0, errBodyEnded
	case r.at >= r.part.size:
		return 0, io.EOF
	}
	i := r.at % blockSize
	n := copy(b, r.part.blocks[r.at/blockSize][i:min(blockSize, i+r.part.size-r.at)])
	r.at += int64(n)
	return n, nil
}

// Seek implements io.Seeker for a place from the start, which is all that a
// library needs to send a request.
func (r *partReader) Seek(offset int64, whence int) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.part == nil {
		return 0, errBodyEnded
	}
	if whence != io.SeekStart || offset < 0 || offset > r.part.size {
		return 0, errors.New("only to a place from the start")
	}
	r.at = offset
	return offset, nil
}

// end takes the part away.
func (r *partReader) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.part = nil
}

// free gives the memory back. All readers have ended.
func (p *part) free() {
	for _, x := range p.blocks {
		p.from.pool.Put(x)
	}
	p.blocks, p.size = nil, 0
}
