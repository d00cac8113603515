package location_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/zeebo/blake3"

	"understudy/shipper/location"
	"understudy/shipper/location/locationtest"
)

func digest(b []byte) string {
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// faulty reads its objects otherwise than they are: a flipped bit, or a stop.
type faulty struct {
	location.Location
	flip int64 // this byte reads wrong; -1 for none
	stop int64 // reading fails here; -1 for never
}

var errStop = errors.New("the cable was pulled")

func (f *faulty) Open(ctx context.Context, key string, off, n int64) (io.ReadCloser, error) {
	r, err := f.Location.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	return &faultyReader{r, f, off}, nil
}

type faultyReader struct {
	io.ReadCloser
	f  *faulty
	at int64
}

func (r *faultyReader) Read(b []byte) (int, error) {
	if left := r.f.stop - r.at; r.f.stop >= 0 && int64(len(b)) > left {
		if b = b[:max(left, 0)]; len(b) == 0 {
			return 0, errStop
		}
	}
	n, err := r.ReadCloser.Read(b)
	if i := r.f.flip - r.at; i >= 0 && i < int64(n) {
		b[i] ^= 4
	}
	r.at += int64(n)
	return n, err
}

func TestCopy(t *testing.T) {
	for _, n := range []int{0, 1, 256 << 10, 5<<20 + 3} {
		from, to := place(t), place(t)
		data := locationtest.Bytes(uint64(n), n)
		locationtest.Put(t, from, "a/k", data, location.CreateOptions{Size: -1})
		for _, o := range []location.CopyOptions{{Size: -1}, {Size: int64(n), Digest: digest(data)}} {
			moved := int64(0)
			o.Moved = func(n int64) { moved = n }
			got, err := location.Copy(t.Context(), from, to, "a/k", o)
			if err != nil || got.BLAKE3 != digest(data) || got.Info.Size != int64(n) || got.Resumed != 0 || moved != int64(n) {
				t.Fatalf("%d bytes: %+v, %v, moved %d", n, got, err, moved)
			}
			if got := locationtest.Get(t, to, "a/k"); !bytes.Equal(got, data) {
				t.Fatalf("%d bytes: the copy has %d", n, len(got))
			}
		}
	}
}

// TestCopy_Damaged: no copy appears, and the object that was there stays.
func TestCopy_Damaged(t *testing.T) {
	data := locationtest.Bytes(1, 3<<20)
	old := []byte("old")
	for name, tt := range map[string]struct {
		flip int64
		o    location.CopyOptions
	}{
		"FirstByte": {0, location.CopyOptions{Size: -1, Digest: digest(data)}},
		"LastByte":  {3<<20 - 1, location.CopyOptions{Size: 3 << 20, Digest: digest(data)}},
		"TooShort":  {-1, location.CopyOptions{Size: 3<<20 + 1}},
		"TooLong":   {-1, location.CopyOptions{Size: 3<<20 - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := place(t), place(t)
			locationtest.Put(t, from, "k", data, location.CreateOptions{Size: -1})
			locationtest.Put(t, to, "k", old, location.CreateOptions{Size: -1})
			_, err := location.Copy(t.Context(), &faulty{from, tt.flip, -1}, to, "k", tt.o)
			if !errors.Is(err, location.ErrDamaged) {
				t.Errorf("copied: %v", err)
			}
			if got := locationtest.Get(t, to, "k"); !bytes.Equal(got, old) {
				t.Errorf("there are %d bytes now", len(got))
			}
		})
	}
	from, to := place(t), place(t)
	if _, err := location.Copy(t.Context(), from, to, "k", location.CopyOptions{Size: -1}); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("nothing to copy: %v", err)
	}
	if _, err := location.Copy(t.Context(), from, to, "k", location.CopyOptions{Size: 5, Digest: strings.Repeat("0", 64)}); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("nothing to copy: %v", err)
	}
}

func TestCopy_Resumed(t *testing.T) {
	from, to := place(t), place(t)
	data := locationtest.Bytes(1, 8<<20)
	locationtest.Put(t, from, "k", data, location.CreateOptions{Size: -1})
	o := location.CopyOptions{Size: -1, Digest: digest(data)}
	if _, err := location.Copy(t.Context(), &faulty{from, -1, 5 << 20}, to, "k", o); !errors.Is(err, errStop) {
		t.Fatalf("copied: %v", err)
	}
	got, err := location.Copy(t.Context(), from, to, "k", o)
	if err != nil || got.Resumed != 5<<20 {
		t.Fatalf("%+v, %v", got, err)
	}
	if got := locationtest.Get(t, to, "k"); !bytes.Equal(got, data) {
		t.Error("the copy differs")
	}
}

// TestCopy_ResumedAfterDamage: the first attempt read a wrong byte and was
// interrupted before it could know, the second reads the right ones.
func TestCopy_ResumedAfterDamage(t *testing.T) {
	from, to := place(t), place(t)
	data := locationtest.Bytes(1, 8<<20)
	locationtest.Put(t, from, "k", data, location.CreateOptions{Size: -1})
	o := location.CopyOptions{Size: -1, Digest: digest(data)}
	if _, err := location.Copy(t.Context(), &faulty{from, 1000, 5 << 20}, to, "k", o); !errors.Is(err, errStop) {
		t.Fatalf("copied: %v", err)
	}
	if _, err := location.Copy(t.Context(), from, to, "k", o); !errors.Is(err, location.ErrDamaged) {
		t.Fatalf("a wrong copy was completed: %v", err)
	}
	if _, err := to.Stat(t.Context(), "k"); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if got, err := location.Copy(t.Context(), from, to, "k", o); err != nil || got.Resumed != 0 {
		t.Fatalf("the next attempt: %+v, %v", got, err)
	}
}
