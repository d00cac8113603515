package recover

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// maxWindow bounds the memory that a stream of a location can make a decoder
// take.
const maxWindow = 16 << 20

// readObject reads a whole object that must not be larger than limit.
func readObject(ctx context.Context, l location.Location, key string, limit int64) ([]byte, error) {
	r, err := l.Open(ctx, key, 0, -1)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", key, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is larger than %d bytes", backupset.ErrDamaged, key, limit)
	}
	return b, nil
}

// proven passes through the bytes of an object and knows at the end whether
// they are those of the set.
type proven struct {
	r    io.Reader
	want backupset.Object
	n    int64
	h    *blake3.Hasher
}

var _ hash.Hash = (*blake3.Hasher)(nil)

func newProven(r io.Reader, want backupset.Object) *proven {
	return &proven{r: io.LimitReader(r, want.Bytes+1), want: want, h: blake3.New()}
}

// Read implements io.Reader.
func (p *proven) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	p.n += int64(n)
	p.h.Write(b[:n])
	return n, err
}

// verify reads what is left and compares.
func (p *proven) verify() error {
	if _, err := io.Copy(io.Discard, p); err != nil {
		return err
	}
	if p.n != p.want.Bytes || hex.EncodeToString(p.h.Sum(nil)) != p.want.BLAKE3 {
		return fmt.Errorf("%w: %s has not the bytes that were written", backupset.ErrDamaged, p.want.Name)
	}
	return nil
}

// eachFile calls f for every line of a list of files of rawBytes, which r gives
// compressed.
func eachFile(r io.Reader, rawBytes int64, f func(backupset.File) error) error {
	dec, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fmt.Errorf("read the list of files: %w", err)
	}
	defer dec.Close()
	files := backupset.NewFileReader(io.LimitReader(dec, rawBytes+1))
	for {
		line, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(line); err != nil {
			return err
		}
	}
}
