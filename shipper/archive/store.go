package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

// ErrConflict is returned when a location holds other bytes under a name than
// those that are to be stored. Nothing is overwritten: two histories of one
// database, or two databases, got under one name.
var ErrConflict = errors.New("the location holds something else under this name")

var (
	// errNotYet: the source is behind what is committed.
	errNotYet = errors.New("the source does not have this log yet")
	// errGone: the source will never have it.
	errGone = errors.New("the source no longer has this log")
)

// inMemory is the largest segment that is compressed into memory before it is
// sent. That makes its size and digest known, so that an upload which was cut
// is gone on with.
const inMemory = 16 << 20

// tool is what one worker needs; made once.
type tool struct {
	enc *Encoder
	out bytes.Buffer
	buf []byte
}

func newTool(level zstd.EncoderLevel) (*tool, error) {
	enc, err := NewEncoder(level)
	if err != nil {
		return nil, err
	}
	return &tool{enc: enc, buf: make([]byte, copySize)}, nil
}

// order is one piece for a worker.
type order struct {
	piece
	key     string
	repair  bool // what is there is damaged
	first   bool // it is not known what is there
	partial bool // a partial piece goes once this one is there
}

func (f *Feeder) key(p piece) string {
	if p.kind == whole {
		return f.cfg.Root.Segment(p.tli, p.start, f.cfg.SegSize)
	}
	return f.cfg.Root.Partial(p.tli, p.start, f.cfg.SegSize)
}

// sourceReader reads a stretch of the log in order.
type sourceReader struct {
	src      Source
	at, end  pos.LSN
	lastByte pos.LSN // of the committed log that is known to exist
}

func (r *sourceReader) Read(p []byte) (int, error) {
	if r.at >= r.end {
		return 0, io.EOF
	}
	if left := r.end.Sub(r.at); uint64(len(p)) > left {
		p = p[:left]
	}
	n, err := r.src.ReadWAL(p, r.at)
	r.at += pos.LSN(n)
	switch {
	case n > 0:
		return n, nil
	case errors.Is(err, spool.ErrPruned):
		return 0, fmt.Errorf("%w: %w", errGone, err)
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, spool.ErrNoLog):
		return 0, r.missing()
	}
	return 0, fmt.Errorf("read the log at %s: %w", r.at, err)
}

// missing tells bytes that a source has not received from those that it has
// removed: it is contiguous, so when it has later ones they are gone.
func (r *sourceReader) missing() error {
	var b [1]byte
	if n, _ := r.src.ReadWAL(b[:], r.lastByte); n == 1 && r.lastByte > r.at {
		return fmt.Errorf("%w: it has %s and not %s", errGone, r.lastByte, r.at)
	}
	return errNotYet
}

func (f *Feeder) reader(from, to pos.LSN) (io.Reader, error) {
	committed, ok := f.cfg.Committed()
	if !ok || committed < to {
		return nil, errNotYet
	}
	return &sourceReader{src: f.cfg.Source, at: from, end: to, lastByte: committed - 1}, nil
}

// store brings one piece to the location.
func (f *Feeder) store(ctx context.Context, t *tool, o order) error {
	if o.first && !o.repair {
		done, err := f.isThere(ctx, t, o)
		if err != nil || done {
			return errors.Join(err, f.dropPartial(ctx, o, err))
		}
	}
	r, err := f.reader(o.start, o.end)
	if err != nil {
		return err
	}
	seal := Seal{SystemID: f.cfg.SystemID, Timeline: o.tli, Start: o.start, Length: int64(o.end.Sub(o.start)),
		SegSize: f.cfg.SegSize, Marks: thin(f.cfg.Marks(o.start, o.end), o.start, o.end)}
	if seal.Length <= inMemory {
		err = f.storeBuffered(ctx, t, o.key, r, seal)
	} else {
		err = f.storeStream(ctx, t, o.key, r, seal)
	}
	return errors.Join(err, f.dropPartial(ctx, o, err))
}

// isThere tells whether the location has the piece already. An object that is
// the beginning of a partial piece is to be replaced.
func (f *Feeder) isThere(ctx context.Context, t *tool, o order) (bool, error) {
	there, err := ReadSeal(ctx, f.cfg.Location, o.key)
	switch {
	case errors.Is(err, location.ErrNotExist):
		return false, nil
	case errors.Is(err, ErrDamaged):
		f.cfg.Log.Error("a stored piece of log is damaged and is stored again", "key", o.key, "error", err)
		return false, nil
	case err != nil:
		return false, err
	}
	if err := f.mustBe(o.key, there, o.piece); err != nil {
		return false, err
	}
	length := int64(o.end.Sub(o.start))
	if there.Length > length {
		return true, nil // what is committed stepped back, or the old branch went on
	}
	raw, err := f.digest(t, o.start, there.End())
	if err != nil {
		return false, err
	}
	if raw != there.Raw {
		return false, fmt.Errorf("%w: %s has %s with digest %x, the log here has %x", ErrConflict, o.key, there, there.Raw[:8], raw[:8])
	}
	return there.Length == length, nil
}

// digest is that of a stretch of the source's log.
func (f *Feeder) digest(t *tool, from, to pos.LSN) (Digest, error) {
	r, err := f.reader(from, to)
	if err != nil {
		return Digest{}, err
	}
	h := blake3.New()
	if _, err := io.CopyBuffer(h, r, t.buf); err != nil {
		return Digest{}, err
	}
	return sum(h), nil
}

// dropPartial removes the partial piece of a segment that is there whole.
func (f *Feeder) dropPartial(ctx context.Context, o order, err error) error {
	if err != nil || !o.partial {
		return nil
	}
	return f.cfg.Location.Remove(ctx, f.cfg.Root.Partial(o.tli, o.start, f.cfg.SegSize))
}

func (f *Feeder) storeBuffered(ctx context.Context, t *tool, key string, r io.Reader, s Seal) error {
	t.out.Reset()
	s, err := t.enc.Encode(&t.out, r, s)
	if err != nil {
		return err
	}
	u, err := f.cfg.Location.Create(ctx, key, location.CreateOptions{Size: int64(t.out.Len()), Token: s.Stored.String()})
	if err != nil {
		return err
	}
	b, from := t.out.Bytes(), u.Offset()
	if from < 0 || from > int64(len(b)) {
		return errors.Join(fmt.Errorf("write %s: an upload of %d bytes goes on at %d", key, len(b), from), u.Abort())
	}
	if _, err := u.Write(b[from:]); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", key, err), u.Suspend())
	}
	return commit(ctx, u, key)
}

// storeStream stores a segment that is too large for memory.
func (f *Feeder) storeStream(ctx context.Context, t *tool, key string, r io.Reader, s Seal) error {
	u, err := f.cfg.Location.Create(ctx, key, location.CreateOptions{Size: -1})
	if err != nil {
		return err
	}
	if _, err := t.enc.Encode(u, r, s); err != nil {
		return errors.Join(fmt.Errorf("write %s: %w", key, err), u.Abort())
	}
	return commit(ctx, u, key)
}

func commit(ctx context.Context, u location.Upload, key string) error {
	if _, err := u.Commit(ctx); err != nil {
		return errors.Join(fmt.Errorf("commit %s: %w", key, err), u.Abort())
	}
	return nil
}
