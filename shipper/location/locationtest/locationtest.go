// Package locationtest is the suite that every location.Location passes.
package locationtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"understudy/shipper/location"
)

// Features say what a kind of location can do beyond what all can.
type Features struct {
	// Resume: an upload with a Token is gone on with.
	Resume bool
	// Grain is how many bytes may have to be written again then: what is
	// stored of a suspended upload is at most so much less than what was
	// written. 0 means all bytes are stored.
	Grain int64
	// Space tells numbers.
	Space bool
	// Large is the size of the large object in bytes; 0 means 100 MiB.
	Large int64
	// Leftovers lists what lies at the place besides objects, such as
	// temporary files. nil: only the interface is asked.
	Leftovers func(t *testing.T, loc location.Location) []string
}

// soon is how long a call may take that has to end at once. A machine under
// load is slow; a call that hangs is not mistaken for that.
const soon = 5 * time.Second

// Run checks a kind of location. open gives a new and empty place on every
// call, and closes it at the end of the test.
func Run(t *testing.T, open func(t *testing.T) location.Location, f Features) {
	for _, tt := range []struct {
		name string
		test func(t *testing.T, s suite)
	}{
		{"Absent", testAbsent},
		{"RoundTrip", testRoundTrip},
		{"WrongSize", testWrongSize},
		{"UnseenBeforeCommit", testUnseen},
		{"ReplaceIsAtomic", testReplace},
		{"ConcurrentPuts", testConcurrent},
		{"Ranges", testRanges},
		{"List", testList},
		{"ListStops", testListStops},
		{"RemoveTwice", testRemove},
		{"AbortLeavesNothing", testAbort},
		{"AbortAfterCommit", testAbortAfterCommit},
		{"SuspendWithoutToken", testSuspendWithoutToken},
		{"Resume", testResume},
		{"ResumeOfTwo", testResumeTwo},
		{"OtherToken", testOtherToken},
		{"Sweep", testSweep},
		{"CancelledBefore", testCancelledBefore},
		{"CancelledUpload", testCancelledUpload},
		{"CancelledRead", testCancelledRead},
		{"BadKeys", testBadKeys},
		{"Space", testSpace},
		{"Large", testLarge},
		{"Close", testClose},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(t, suite{open(t), f}) })
	}
}

type suite struct {
	location.Location
	f Features
}

// Bytes are n bytes that belong to seed and cannot be compressed.
func Bytes(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = io.ReadFull(stream(seed), b) // never fails
	return b
}

func stream(seed uint64) *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 0xa5})
}

// Put stores an object.
func Put(t *testing.T, loc location.Location, key string, data []byte, o location.CreateOptions) location.Info {
	t.Helper()
	info, err := put(t.Context(), loc, key, data, o)
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	if info.Key != key || info.Size != int64(len(data)) {
		t.Fatalf("put %s: stored %+v, want %d bytes", key, info, len(data))
	}
	return info
}

func put(ctx context.Context, loc location.Location, key string, data []byte, o location.CreateOptions) (location.Info, error) {
	u, err := loc.Create(ctx, key, o)
	if err != nil {
		return location.Info{}, err
	}
	info, err := finish(ctx, u, data)
	if err != nil {
		err = errors.Join(err, u.Abort())
	}
	return info, err
}

// finish writes from the upload's offset on, in pieces of many sizes.
func finish(ctx context.Context, u location.Upload, data []byte) (location.Info, error) {
	rest := data[min(u.Offset(), int64(len(data))):]
	for n := 1; len(rest) > 0; n = n*3 + 1 {
		k, err := u.Write(rest[:min(n, len(rest))])
		if err != nil {
			return location.Info{}, err
		}
		rest = rest[k:]
	}
	return u.Commit(ctx)
}

// Get reads a whole object.
func Get(t *testing.T, loc location.Location, key string) []byte {
	t.Helper()
	b, err := read(t.Context(), loc, key, 0, -1)
	if err != nil {
		t.Fatalf("get %s: %v", key, err)
	}
	return b
}

func read(ctx context.Context, loc location.Location, key string, off, n int64) ([]byte, error) {
	r, err := loc.Open(ctx, key, off, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}

func (s suite) same(t *testing.T, key string, want []byte) {
	t.Helper()
	if got := Get(t, s, key); !bytes.Equal(got, want) {
		t.Fatalf("%s has %s, want %s", key, sketch(got), sketch(want))
	}
	info, err := s.Stat(t.Context(), key)
	if err != nil || info.Size != int64(len(want)) || info.Key != key {
		t.Fatalf("stat %s: %+v, %v; want %d bytes", key, info, err, len(want))
	}
	if d := time.Since(info.At).Abs(); d > time.Hour {
		t.Errorf("%s was stored at %s", key, info.At)
	}
}

// sketch says enough of bytes to tell what went wrong.
func sketch(b []byte) string { return fmt.Sprintf("%d bytes %.8x", len(b), b) }

func (s suite) absent(t *testing.T, key string) {
	t.Helper()
	if info, err := s.Stat(t.Context(), key); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("stat %s: %+v, %v; want ErrNotExist", key, info, err)
	}
	if r, err := s.Open(t.Context(), key, 0, -1); !errors.Is(err, location.ErrNotExist) {
		t.Errorf("open %s: %v; want ErrNotExist", key, err)
		if err == nil {
			r.Close()
		}
	}
}

// keys lists what is below prefix, with sizes.
func (s suite) keys(t *testing.T, prefix string) map[string]int64 {
	t.Helper()
	got := make(map[string]int64)
	err := s.List(t.Context(), prefix, func(i location.Info) error {
		if _, twice := got[i.Key]; twice {
			t.Errorf("%s is listed twice", i.Key)
		}
		got[i.Key] = i.Size
		return nil
	})
	if err != nil {
		t.Fatalf("list %q: %v", prefix, err)
	}
	return got
}

// empty checks that nothing at all is at the place.
func (s suite) empty(t *testing.T) {
	t.Helper()
	if got := s.keys(t, ""); len(got) > 0 {
		t.Errorf("there are objects: %v", slices.Collect(maps.Keys(got)))
	}
	if s.f.Leftovers != nil {
		if got := s.f.Leftovers(t, s.Location); len(got) > 0 {
			t.Errorf("there is left: %q", got)
		}
	}
}

// within fails when f takes longer than soon.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(soon):
		t.Fatalf("%s has not ended after %s", what, soon)
	}
}

func known(b []byte) location.CreateOptions { return location.CreateOptions{Size: int64(len(b))} }

func unknown() location.CreateOptions { return location.CreateOptions{Size: -1} }
