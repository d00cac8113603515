package location_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"understudy/shipper/location"
	"understudy/shipper/location/locationtest"
)

func TestThrottled_Suite(t *testing.T) {
	locationtest.Run(t, func(t *testing.T) location.Location {
		return location.Throttled(place(t), func() int64 { return 2 << 30 })
	}, locationtest.Features{Resume: true, Space: true, Large: 20 << 20})
}

// void takes and gives any number of bytes at once.
type void struct{ location.Location }

func (void) Create(context.Context, string, location.CreateOptions) (location.Upload, error) {
	return voidUpload{}, nil
}
func (void) Open(_ context.Context, _ string, _, n int64) (io.ReadCloser, error) {
	return io.NopCloser(io.LimitReader(zeros{}, n)), nil
}

type voidUpload struct{ location.Upload }

func (voidUpload) Write(b []byte) (int, error) { return len(b), nil }

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestThrottled_Rate: uploads and readers share the rate, evenly, and a change
// of it takes effect at once.
func TestThrottled_Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var rate atomic.Int64
		rate.Store(1 << 20)
		loc := location.Throttled(void{}, rate.Load)
		began := time.Now()
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				u, _ := loc.Create(t.Context(), "k", location.CreateOptions{})
				if n, err := u.Write(make([]byte, 5<<20)); n != 5<<20 || err != nil {
					t.Errorf("wrote %d, %v", n, err)
				}
			})
			wg.Go(func() {
				r, _ := loc.Open(t.Context(), "k", 0, 5<<20)
				if n, err := io.Copy(io.Discard, r); n != 5<<20 || err != nil {
					t.Errorf("read %d, %v", n, err)
				}
			})
		}
		time.Sleep(10 * time.Second)
		rate.Store(10 << 20)
		wg.Wait()
		// 10 MiB in 10 s, and the other 10 MiB in 1 s.
		if took := time.Since(began); took < 10800*time.Millisecond || took > 11300*time.Millisecond {
			t.Errorf("20 MiB took %s", took)
		}
		rate.Store(0)
		began = time.Now()
		r, _ := loc.Open(t.Context(), "k", 0, 1<<30)
		if _, err := io.Copy(io.Discard, r); err != nil || time.Since(began) > 0 {
			t.Errorf("without a bound: %v after %s", err, time.Since(began))
		}
	})
}

func TestThrottled_Smooth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		loc := location.Throttled(void{}, func() int64 { return 100 << 10 })
		r, _ := loc.Open(t.Context(), "k", 0, 1<<20)
		last, buf := time.Now(), make([]byte, 1<<20)
		for {
			_, err := r.Read(buf)
			if gap := time.Since(last); gap > 100*time.Millisecond {
				t.Errorf("nothing for %s", gap)
			}
			last = time.Now()
			if err == io.EOF {
				return
			}
		}
	})
}

func TestThrottled_ContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		u, _ := location.Throttled(void{}, func() int64 { return 1 }).Create(ctx, "k", location.CreateOptions{})
		if n, err := u.Write(make([]byte, 1<<20)); !errors.Is(err, context.DeadlineExceeded) || n > 1024 {
			t.Errorf("wrote %d, %v", n, err)
		}
	})
}

func TestObserved_Suite(t *testing.T) {
	var calls atomic.Int64
	locationtest.Run(t, func(t *testing.T) location.Location {
		return location.Observed(place(t), func(location.Call) { calls.Add(1) })
	}, locationtest.Features{Resume: true, Space: true, Large: 1 << 20})
	if calls.Load() < 100 {
		t.Errorf("%d calls were reported", calls.Load())
	}
}

func TestObserved_Calls(t *testing.T) {
	var got []location.Call
	loc := location.Observed(place(t), func(c location.Call) { got = append(got, c) })
	data := locationtest.Bytes(1, 1000)
	locationtest.Put(t, loc, "k", data, location.CreateOptions{Size: 1000})
	locationtest.Get(t, loc, "k")
	_, _ = loc.Open(t.Context(), "none", 0, -1)
	for _, end := range []func(location.Upload) error{location.Upload.Abort, location.Upload.Suspend} {
		u, err := loc.Create(t.Context(), "j", location.CreateOptions{Size: 5000})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(end(u), u.Abort()); err != nil {
			t.Fatal(err)
		}
	}
	u, err := loc.Create(t.Context(), "j", location.CreateOptions{Size: 5000})
	if err != nil {
		t.Fatal(err)
	}
	_, want := u.Commit(t.Context())
	if err := u.Abort(); err != nil {
		t.Fatal(err)
	}
	for i, tt := range []struct {
		op    location.Op
		key   string
		bytes int64
		err   error
	}{
		{location.OpPut, "k", 1000, nil}, {location.OpGet, "k", 1000, nil}, {location.OpGet, "none", 0, location.ErrNotExist},
		{location.OpPut, "j", 1000, location.ErrAborted}, {location.OpPut, "j", 1000, location.ErrSuspended}, {location.OpPut, "j", 0, want},
	} {
		if i >= len(got) {
			t.Fatalf("%d calls were reported", len(got))
		}
		if c := got[i]; c.Op != tt.op || c.Key != tt.key || c.Bytes != tt.bytes || !errors.Is(c.Err, tt.err) || c.Began.IsZero() {
			t.Errorf("call %d: %+v", i, c)
		}
	}
}
