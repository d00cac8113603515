package location

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"
)

const (
	copyPiece = 256 << 10
	// copyAhead is how many pieces are read while others are written: a copy
	// takes as long as the slower of the two sides, not as both.
	copyAhead = 8
)

// CopyOptions say what is known of an object that is copied.
type CopyOptions struct {
	// Digest is the BLAKE3-256 that the object must have, in hex; "" when it is
	// not known. A copy with a Digest is gone on with after an interruption.
	Digest string
	// Size is the number of bytes that it must have; -1 when not known.
	Size int64
	// Moved, when set, hears how many bytes are at the new place, now and then.
	Moved func(int64)
}

// Copied is the outcome of a Copy.
type Copied struct {
	Info    Info
	BLAKE3  string // of the bytes, in hex
	Resumed int64  // bytes that an earlier attempt had stored
}

// Copy copies one object from one location to another, under the same key.
// The object appears at its new place only when the bytes that were read have
// the digest and size demanded; else the error wraps ErrDamaged. A copy that is
// interrupted in another way is suspended.
//
// The bytes that an earlier attempt stored were not seen by this one: it reads
// the source from its beginning and, since the source may have read
// differently then, reads the copy back after storing it. A copy that is found
// wrong then is removed.
func Copy(ctx context.Context, from, to Location, key string, o CopyOptions) (Copied, error) {
	if len(o.Digest) != 0 && len(o.Digest) != 64 {
		return Copied{}, fmt.Errorf("copy %s: %.70q is no digest", key, o.Digest)
	}
	if o.Size < 0 {
		info, err := from.Stat(ctx, key)
		if err != nil {
			return Copied{}, fmt.Errorf("copy %s: %w", key, err)
		}
		o.Size = info.Size
	}
	c := copier{from: from, to: to, key: key, CopyOptions: o}
	out, err := c.copy(ctx)
	if err != nil {
		return Copied{}, fmt.Errorf("copy %s: %w", key, err)
	}
	return out, nil
}

type copier struct {
	from, to Location
	key      string
	CopyOptions
}

func (c *copier) copy(ctx context.Context) (Copied, error) {
	u, err := c.to.Create(ctx, c.key, CreateOptions{Size: c.Size, Token: c.Digest})
	if err != nil {
		return Copied{}, fmt.Errorf("write: %w", err)
	}
	out := Copied{Resumed: u.Offset()}
	out.BLAKE3, err = c.move(ctx, u)
	if err == nil {
		out.Info, err = u.Commit(ctx)
	}
	if err != nil {
		return Copied{}, c.giveUp(u, err)
	}
	if out.Resumed > 0 {
		err = c.readBack(ctx, out.BLAKE3)
	}
	return out, err
}

// giveUp keeps what was stored unless it is wrong.
func (c *copier) giveUp(u Upload, err error) error {
	if errors.Is(err, ErrDamaged) || errors.Is(err, ErrNotExist) {
		return errors.Join(err, u.Abort())
	}
	return errors.Join(err, u.Suspend())
}

// move reads all of the source and writes what the upload lacks.
func (c *copier) move(ctx context.Context, u Upload) (digest string, err error) {
	at, skip := int64(0), u.Offset()
	digest, err = c.digest(ctx, c.from, func(b []byte) error {
		if at+int64(len(b)) > c.Size {
			return fmt.Errorf("%w: it has more than %d bytes", ErrDamaged, c.Size)
		}
		if at+int64(len(b)) > skip {
			if _, err := u.Write(b[max(skip-at, 0):]); err != nil {
				return fmt.Errorf("write: %w", err)
			}
		}
		at += int64(len(b))
		if c.Moved != nil {
			c.Moved(max(at, skip))
		}
		return nil
	})
	switch {
	case err != nil:
		return "", err
	case at != c.Size:
		return "", fmt.Errorf("%w: it has %d bytes, not %d", ErrDamaged, at, c.Size)
	case c.Digest != "" && digest != c.Digest:
		return "", fmt.Errorf("%w: its digest is %s, not %s", ErrDamaged, digest, c.Digest)
	}
	return digest, nil
}

// readBack compares what is stored now.
func (c *copier) readBack(ctx context.Context, want string) error {
	got, err := c.digest(ctx, c.to, func([]byte) error { return nil })
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if got == want {
		return nil
	}
	err = fmt.Errorf("%w: an interrupted copy was completed and read back with digest %s, not %s", ErrDamaged, got, want)
	return errors.Join(err, c.to.Remove(ctx, c.key))
}

// digest reads the object at loc and hands its bytes on, one piece at a time.
// Reading goes on meanwhile.
func (c *copier) digest(ctx context.Context, loc Location, each func([]byte) error) (string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := loc.Open(ctx, c.key, 0, -1)
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	full, free := make(chan []byte, copyAhead), make(chan []byte, copyAhead)
	for range copyAhead {
		free <- make([]byte, copyPiece)
	}
	var rerr error // set before full is closed
	go func() {
		defer close(full)
		rerr = errors.Join(fill(ctx, r, free, full), r.Close())
	}()
	// The reader is waited for in any case: it is closed when that ends.
	defer func() {
		cancel()
		for range full {
		}
	}()
	h := blake3.New()
	for b := range full {
		_, _ = h.Write(b) // never fails
		if err := each(b); err != nil {
			return "", err
		}
		free <- b[:cap(b)]
	}
	if rerr != nil {
		return "", fmt.Errorf("read: %w", rerr)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fill reads r to its end.
func fill(ctx context.Context, r io.Reader, free <-chan []byte, full chan<- []byte) error {
	for {
		var b []byte
		select {
		case b = <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		n, err := readPiece(r, b)
		if n > 0 {
			full <- b[:n]
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// readPiece fills b as far as r goes. Unlike io.ReadFull it leaves the errors
// as they are: only io.EOF is a proper end.
func readPiece(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}
