package locationtest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"understudy/shipper/location"
)

func testAbort(t *testing.T, s suite) {
	for _, o := range []location.CreateOptions{unknown(), {Size: 12 << 20}, {Size: -1, Token: "abc"}, {Size: 12 << 20, Token: "abd"}} {
		for _, n := range []int{0, 10, 12 << 20} {
			u, err := s.Create(t.Context(), "a/b/c", o)
			if err != nil {
				t.Fatal(err)
			}
			if u.Offset() != 0 {
				t.Errorf("an aborted upload was taken up at %d", u.Offset())
			}
			if _, err := u.Write(Bytes(1, n)); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := u.Abort(); err != nil {
					t.Fatalf("abort: %v", err)
				}
			}
			if _, err := u.Commit(t.Context()); err == nil {
				t.Error("an aborted upload was committed")
			}
			s.absent(t, "a/b/c")
		}
	}
	s.empty(t)
}

func testAbortAfterCommit(t *testing.T, s suite) {
	u, err := s.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "abc"})
	if err != nil {
		t.Fatal(err)
	}
	data := Bytes(1, 100)
	if _, err := finish(t.Context(), u, data); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(u.Abort(), u.Suspend()); err != nil {
		t.Errorf("after commit: %v", err)
	}
	s.same(t, "k", data)
}

func testSuspendWithoutToken(t *testing.T, s suite) {
	u, err := s.Create(t.Context(), "k", unknown())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(Bytes(1, 12<<20)); err != nil {
		t.Fatal(err)
	}
	if err := u.Suspend(); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

// begin writes the first n bytes of an upload and suspends it.
func (s suite) begin(t *testing.T, key, token string, data []byte, n int) {
	t.Helper()
	u, err := s.Create(t.Context(), key, location.CreateOptions{Size: int64(len(data)), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(data[u.Offset():n]); err != nil {
		t.Fatal(err)
	}
	if err := u.Suspend(); err != nil {
		t.Fatalf("suspend: %v", err)
	}
}

// resume takes an upload up again and checks how much of n bytes is there.
func (s suite) resume(t *testing.T, key, token string, data []byte, n int) location.Upload {
	t.Helper()
	u, err := s.Create(t.Context(), key, location.CreateOptions{Size: int64(len(data)), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	switch off := u.Offset(); {
	case off < 0 || off > int64(n):
		t.Fatalf("%d bytes were written, the upload goes on at %d", n, off)
	case s.f.Resume && off < int64(n)-s.f.Grain:
		t.Errorf("%d bytes were written, the upload goes on at %d", n, off)
	}
	return u
}

func testResume(t *testing.T, s suite) {
	data := Bytes(9, 24<<20+5)
	old := []byte("old")
	Put(t, s, "a/k", old, known(old))
	at := 0
	for _, n := range []int{1, 13<<20 + 3, 20 << 20} {
		if n < at {
			continue
		}
		s.begin(t, "a/k", "deadbeef01", data, n)
		s.same(t, "a/k", old)
		at = n
	}
	u := s.resume(t, "a/k", "deadbeef01", data, at)
	if _, err := finish(t.Context(), u, data); err != nil {
		t.Fatal(err)
	}
	s.same(t, "a/k", data)
	// A committed upload is not gone on with.
	again := s.fresh(t, "a/k", "deadbeef01", data)
	if err := again.Abort(); err != nil {
		t.Error(err)
	}
	s.same(t, "a/k", data)
	if err := s.Remove(t.Context(), "a/k"); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

// testResumeTwo has two uploads of one key and token at a time: they may not
// mix.
func testResumeTwo(t *testing.T, s suite) {
	data := Bytes(9, 14<<20)
	s.begin(t, "k", "tok", data, 11<<20)
	first := s.resume(t, "k", "tok", data, 11<<20)
	if _, err := first.Write(data[first.Offset() : 12<<20]); err != nil {
		t.Fatal(err)
	}
	second, err := put(t.Context(), s, "k", data, location.CreateOptions{Size: int64(len(data)), Token: "tok"})
	if err == nil && second.Size != int64(len(data)) {
		t.Errorf("the second upload stored %+v", second)
	}
	if err == nil {
		s.same(t, "k", data)
	}
	_, err1 := first.Write(data[12<<20:])
	_, err2 := first.Commit(t.Context())
	if err1 == nil && err2 == nil {
		s.same(t, "k", data)
	}
	if err := first.Abort(); err != nil {
		t.Logf("abort of the first: %v", err) // its parts may be gone
	}
	if err == nil {
		s.same(t, "k", data)
	}
}

func testOtherToken(t *testing.T, s suite) {
	data, other := Bytes(1, 12<<20), Bytes(2, 12<<20)
	s.begin(t, "k", "one", data, 11<<20)
	for _, tt := range []struct{ key, token string }{{"k", "two"}, {"k", ""}, {"j", "one"}} {
		u := s.fresh(t, tt.key, tt.token, other)
		if _, err := finish(t.Context(), u, other); err != nil {
			t.Fatal(err)
		}
		s.same(t, tt.key, other)
	}
	u := s.resume(t, "k", "one", data, 11<<20)
	if _, err := finish(t.Context(), u, data); err != nil {
		t.Fatal(err)
	}
	s.same(t, "k", data)
	for _, bad := range []string{"a/b", "..", "a.b", "ü", string(bytes.Repeat([]byte("x"), 65))} {
		if u, err := s.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: bad}); err == nil {
			t.Errorf("token %q was taken", bad)
			_ = u.Abort()
		}
	}
}

func testSweep(t *testing.T, s suite) {
	data := Bytes(1, 12<<20)
	kept := []byte("kept")
	Put(t, s, "a/kept", kept, known(kept))
	s.begin(t, "a/k", "one", data, 11<<20)
	if n, err := s.Sweep(t.Context(), time.Now().Add(-time.Hour)); err != nil || n != 0 {
		t.Errorf("swept %d young uploads, %v", n, err)
	}
	u := s.resume(t, "a/k", "one", data, 11<<20)
	if err := u.Suspend(); err != nil {
		t.Fatal(err)
	}
	n, err := s.Sweep(t.Context(), time.Now().Add(time.Hour))
	if err != nil || s.f.Resume && n != 1 {
		t.Errorf("swept %d uploads, %v", n, err)
	}
	if err := s.fresh(t, "a/k", "one", data).Abort(); err != nil {
		t.Error(err)
	}
	s.same(t, "a/kept", kept)
	if err := s.Remove(t.Context(), "a/kept"); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

// fresh begins an upload that must find nothing to go on with.
func (s suite) fresh(t *testing.T, key, token string, data []byte) location.Upload {
	t.Helper()
	u, err := s.Create(t.Context(), key, location.CreateOptions{Size: int64(len(data)), Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if u.Offset() != 0 {
		t.Errorf("%s goes on at %d; nothing should be there", key, u.Offset())
	}
	return u
}

func testCancelledBefore(t *testing.T, s suite) {
	Put(t, s, "k", []byte("x"), unknown())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func() error{
		"create": func() error {
			u, err := s.Create(ctx, "j", unknown())
			if err == nil { // nothing needs to have been asked yet
				_, err = u.Commit(ctx)
				_ = u.Abort()
			}
			return err
		},
		"open": func() error {
			_, err := read(ctx, s, "k", 0, -1)
			return err
		},
		"stat":   func() error { _, err := s.Stat(ctx, "k"); return err },
		"list":   func() error { return s.List(ctx, "", func(location.Info) error { return nil }) },
		"remove": func() error { return s.Remove(ctx, "k") },
		"sweep":  func() error { _, err := s.Sweep(ctx, time.Now()); return err },
	} {
		within(t, name, func() {
			if err := call(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v, want the context's error", name, err)
			}
		})
	}
	s.absent(t, "j")
	s.same(t, "k", []byte("x"))
}

func testCancelledUpload(t *testing.T, s suite) {
	data := Bytes(1, 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	u, err := s.Create(ctx, "k", unknown())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.Write(data); err != nil {
		t.Fatal(err)
	}
	cancel()
	within(t, "upload", func() {
		var err error
		for range 100 { // what is buffered may still be taken
			if _, err = u.Write(data); err != nil {
				break
			}
		}
		if err == nil {
			t.Error("writes go on after the end of the context")
		}
		if _, err := u.Commit(t.Context()); err == nil {
			t.Error("committed after the end of the context")
		}
		if err := u.Abort(); err != nil {
			t.Logf("abort: %v", err) // the connection may have ended with the context
		}
	})
	s.absent(t, "k")
	s.eventually(t, "the cancelled upload is gone", func() bool {
		return s.f.Leftovers == nil || len(s.f.Leftovers(t, s.Location)) == 0
	})
}

func (s suite) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after %s: %s", soon, what)
		}
	}
}

func testCancelledRead(t *testing.T, s suite) {
	data := Bytes(1, 24<<20)
	Put(t, s, "k", data, known(data))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, err := s.Open(ctx, "k", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	cancel()
	within(t, "read", func() {
		if n, err := io.Copy(io.Discard, r); err == nil {
			t.Errorf("read %d bytes to the end after the end of the context", n)
		}
		r.Close()
	})
	s.same(t, "k", data)
}

// testLarge also shows that a size beyond every buffer and part is right.
func testLarge(t *testing.T, s suite) {
	size := s.f.Large
	if size == 0 {
		size = 100 << 20
	}
	u, err := s.Create(t.Context(), "large/object", location.CreateOptions{Size: -1})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.CopyBuffer(struct{ io.Writer }{u}, io.LimitReader(stream(1), size), make([]byte, 200<<10)); err != nil || n != size {
		t.Fatalf("wrote %d, %v", n, err)
	}
	if info, err := u.Commit(t.Context()); err != nil || info.Size != size {
		t.Fatalf("commit: %+v, %v", info, err)
	}
	r, err := s.Open(t.Context(), "large/object", 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, want := make([]byte, 1<<20), make([]byte, 1<<20)
	from := stream(1)
	for at := int64(0); at < size; {
		n, err := io.ReadFull(r, got[:min(int64(len(got)), size-at)])
		_, _ = io.ReadFull(from, want[:n]) // never fails
		if err != nil || !bytes.Equal(got[:n], want[:n]) {
			t.Fatalf("bytes from %d on: %v, or they differ", at, err)
		}
		at += int64(n)
	}
	if n, err := r.Read(got); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d, %v", n, err)
	}
	tail := want[:min(int64(len(want)), size%(1<<20)+1)]
	if got, err := read(t.Context(), s, "large/object", size-int64(len(tail))/2, -1); err != nil || len(got) != len(tail)/2 {
		t.Errorf("tail: %s, %v", sketch(got), err)
	}
}

func testClose(t *testing.T, s suite) {
	Put(t, s, "k", []byte("x"), unknown())
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Stat(t.Context(), "k"); err == nil {
		t.Error("stat after close")
	}
	if r, err := s.Open(t.Context(), "k", 0, -1); err == nil {
		t.Error("open after close")
		r.Close()
	}
	if u, err := s.Create(t.Context(), "j", unknown()); err == nil {
		t.Error("create after close")
		_ = u.Abort()
	}
	if err := s.List(t.Context(), "", func(location.Info) error { return nil }); err == nil {
		t.Error("list after close")
	}
	if err := s.Remove(t.Context(), "k"); err == nil {
		t.Error("remove after close")
	}
	if err := s.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
}
