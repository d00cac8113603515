package verify

import (
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"understudy/shipper/backupset"
)

// lines reads the list of files, one line ahead. The zero value has none.
type lines struct {
	dec     *zstd.Decoder
	in      *backupset.FileReader
	src     *failing
	cur     *backupset.File
	chunk   int64 // the next one of cur
	n       int   // lines
	err     error // what ended it, but its end
	stopped bool  // it is of no more use
	partial bool  // some of it was passed over
}

// failing remembers the error of the stream, which zstd and JSON wrap or turn
// into others.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(b []byte) (int, error) {
	n, err := f.r.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

func newLines(r io.Reader, rawBytes int64) (*lines, error) {
	src := &failing{r: r}
	dec, err := zstd.NewReader(src, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(2*backupset.MaxFrame))
	if err != nil {
		return &lines{}, fmt.Errorf("read the list of files: %w", err)
	}
	return &lines{dec: dec, src: src, in: backupset.NewFileReader(io.LimitReader(dec, rawBytes+1))}, nil
}

func (l *lines) close() {
	if l.dec != nil {
		l.dec.Close()
	}
}

// peek is the line that is next, or still has chunks.
func (l *lines) peek() (*backupset.File, bool) {
	if l.in == nil || l.err != nil || l.stopped {
		return nil, false
	}
	if l.cur == nil {
		f, err := l.in.Next()
		switch {
		case errors.Is(err, io.EOF):
			l.in = nil
			return nil, false
		case l.src.err != nil:
			l.err = l.src.err
			return nil, false
		case err != nil:
			if l.err = err; !wrong(err) {
				l.err = fmt.Errorf("%w: %w", backupset.ErrDamaged, err)
			}
			return nil, false
		}
		l.cur, l.chunk = &f, 0
		l.n++
	}
	return l.cur, true
}

// advance goes to the next chunk or line.
func (l *lines) advance() {
	if l.chunk++; l.chunk >= backupset.ChunkN(l.cur.Size) {
		l.cur = nil
	}
}

// skip passes over the lines of an archive, or what is left of them.
func (l *lines) skip(archive string) {
	l.partial = true
	for {
		f, ok := l.peek()
		if !ok || f.Archive != archive {
			return
		}
		l.cur = nil
	}
}
