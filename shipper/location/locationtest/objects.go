package locationtest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"

	"understudy/shipper/location"
)

func testAbsent(t *testing.T, s suite) {
	s.empty(t)
	s.absent(t, "nothing")
	s.absent(t, "a/b/c/nothing")
	Put(t, s, "a/b", []byte("x"), unknown())
	s.absent(t, "a")
	s.absent(t, "a/c")
	if got := s.keys(t, "none/"); len(got) > 0 {
		t.Errorf("a folder that is not there has %v", got)
	}
}

func testRoundTrip(t *testing.T, s suite) {
	for _, n := range []int{0, 1, 4095, 64 << 10, 64<<10 + 1, 1 << 20, 3<<20 + 17} {
		data := Bytes(uint64(n), n)
		Put(t, s, fmt.Sprintf("known/%d", n), data, known(data))
		s.same(t, fmt.Sprintf("known/%d", n), data)
		Put(t, s, fmt.Sprintf("unknown/%d", n), data, unknown())
		s.same(t, fmt.Sprintf("unknown/%d", n), data)
	}
	long := strings.Repeat("e", 120)
	deep := strings.Join([]string{long, long, long, "x"}, "/")
	Put(t, s, deep, []byte("deep"), unknown())
	s.same(t, deep, []byte("deep"))
	special := "A_9.+=@-/_.tar.zst"
	Put(t, s, special, []byte("special"), unknown())
	s.same(t, special, []byte("special"))
}

func testWrongSize(t *testing.T, s suite) {
	old := []byte("old")
	Put(t, s, "k", old, known(old))
	for _, tt := range []struct {
		name      string
		size, got int
	}{{"Short", 100, 99}, {"Long", 100, 101}, {"None", 1, 0}, {"Empty", 0, 1}, {"LargeShort", 8 << 20, 8<<20 - 1}} {
		data := Bytes(1, tt.got)
		info, err := put(t.Context(), s, "k", data, location.CreateOptions{Size: int64(tt.size)})
		if err == nil {
			t.Errorf("%s: stored as %+v", tt.name, info)
		}
		s.same(t, "k", old)
	}
	if s.f.Leftovers != nil {
		if got := s.f.Leftovers(t, s.Location); len(got) > 0 {
			t.Errorf("there is left: %q", got)
		}
	}
}

func testUnseen(t *testing.T, s suite) {
	for _, n := range []int{10, 12 << 20} {
		data := Bytes(7, n)
		u, err := s.Create(t.Context(), "a/b/c", unknown())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := u.Write(data); err != nil {
			t.Fatal(err)
		}
		s.absent(t, "a/b/c")
		if got := s.keys(t, ""); len(got) > 0 {
			t.Errorf("an unfinished upload is listed: %v", got)
		}
		if _, err := u.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.same(t, "a/b/c", data)
		if err := s.Remove(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
	}
}

// testReplace reads while objects of one byte value each replace one another:
// every read is of one value.
func testReplace(t *testing.T, s suite) {
	const size, rounds = 300 << 10, 20
	whole := func(v byte) []byte { return bytes.Repeat([]byte{v}, size+int(v)) }
	Put(t, s, "k", whole(1), unknown())
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for last := byte(1); ; {
				select {
				case <-stop:
					return
				default:
				}
				got, err := read(t.Context(), s, "k", 0, -1)
				if err != nil || len(got) == 0 || !bytes.Equal(got, whole(got[0])) {
					t.Errorf("read %s, %v while it is replaced", sketch(got), err)
					return
				}
				if got[0] < last {
					t.Errorf("read %d after %d", got[0], last)
				}
				last = got[0]
			}
		})
	}
	for v := byte(2); v < rounds; v++ {
		Put(t, s, "k", whole(v), known(whole(v)))
	}
	close(stop)
	wg.Wait()
	s.same(t, "k", whole(rounds-1))
}

func testConcurrent(t *testing.T, s suite) {
	const n = 4
	var all [n][]byte
	var wg sync.WaitGroup
	for i := range n {
		all[i] = Bytes(uint64(i), 1<<20+i)
		wg.Go(func() {
			// Also with one token: whoever comes second has an upload of its own.
			o := location.CreateOptions{Size: int64(len(all[i]))}
			if i > 1 {
				o.Token = fmt.Sprint("t", i)
			}
			if _, err := put(t.Context(), s, "one/key", all[i], o); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
			own := fmt.Sprintf("own/%d", i)
			if _, err := put(t.Context(), s, own, all[i], unknown()); err != nil {
				t.Errorf("put %s: %v", own, err)
			}
		})
	}
	wg.Wait()
	got := Get(t, s, "one/key")
	if i := len(got) - 1<<20; i < 0 || i >= n || !bytes.Equal(got, all[i]) {
		t.Errorf("one/key has %s, none of what was put", sketch(got))
	}
	for i := range n {
		s.same(t, fmt.Sprintf("own/%d", i), all[i])
	}
	if got := s.keys(t, ""); len(got) != n+1 {
		t.Errorf("listed %v", got)
	}
}

func testRanges(t *testing.T, s suite) {
	const size = 300<<10 + 7
	data := Bytes(3, size)
	Put(t, s, "k", data, known(data))
	Put(t, s, "empty", nil, unknown())
	for _, tt := range []struct{ off, n int64 }{
		{0, -1}, {0, 0}, {0, 1}, {0, size}, {1, -1}, {1, 1}, {1, size - 1}, {size - 1, 1}, {size - 1, -1}, {size, 0}, {size, -1},
		{65535, 2}, {65536, 65536}, {65537, 131072}, {131071, 100000}, {size - 65536, 65536},
	} {
		want := data[tt.off:]
		if tt.n >= 0 {
			want = want[:tt.n]
		}
		if got, err := read(t.Context(), s, "k", tt.off, tt.n); err != nil || !bytes.Equal(got, want) {
			t.Errorf("range %d+%d: %s, %v", tt.off, tt.n, sketch(got), err)
		}
	}
	if got, err := read(t.Context(), s, "empty", 0, -1); err != nil || len(got) > 0 {
		t.Errorf("empty: %s, %v", sketch(got), err)
	}
	for _, tt := range []struct{ off, n int64 }{{0, size + 1}, {size - 1, 2}, {size, 1}, {size + 1, 0}, {size + 1, -1}, {size + 1, 1}, {-1, 1}, {1 << 50, -1}} {
		got, err := read(t.Context(), s, "k", tt.off, tt.n)
		if err == nil || errors.Is(err, io.EOF) {
			t.Errorf("range %d+%d beyond the end: %s, %v", tt.off, tt.n, sketch(got), err)
		}
	}
	s.abandon(t, "k", data)
}

// abandon leaves readers before their end; nothing is wrong with the place
// afterwards.
func (s suite) abandon(t *testing.T, key string, data []byte) {
	t.Helper()
	for range 40 {
		r, err := s.Open(t.Context(), key, 5, -1)
		if err != nil {
			t.Fatal(err)
		}
		var b [10]byte
		if _, err := io.ReadFull(r, b[:]); err != nil || !bytes.Equal(b[:], data[5:15]) {
			t.Fatalf("read %x, %v", b, err)
		}
		if err := r.Close(); err != nil {
			t.Fatalf("close a reader before its end: %v", err)
		}
	}
	s.same(t, key, data)
}

func testList(t *testing.T, s suite) {
	all := map[string]int64{"top": 1, "a/one": 2, "a/two": 3, "a/b/c/d/e": 4, "ab/x": 5, "a.b": 6, "wal/00000001/000000010000000000000001.zst": 7}
	for k, n := range all {
		Put(t, s, k, Bytes(1, int(n)), unknown())
	}
	begun, err := s.Create(t.Context(), "a/begun", location.CreateOptions{Size: -1, Token: "tok"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := begun.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"", "a/", "a/b/", "a/b/c/d/", "ab/", "wal/", "wal/00000001/", "top/", "none/", "a/one/"} {
		want := maps.Clone(all)
		maps.DeleteFunc(want, func(k string, _ int64) bool { return !strings.HasPrefix(k, prefix) })
		if got := s.keys(t, prefix); !maps.Equal(got, want) {
			t.Errorf("list %q: %v, want %v", prefix, got, want)
		}
	}
	if err := begun.Abort(); err != nil {
		t.Error(err)
	}
	// Removing what is listed, while it is listed, is how a place is emptied.
	err = s.List(t.Context(), "", func(i location.Info) error { return s.Remove(t.Context(), i.Key) })
	if err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

func testListStops(t *testing.T, s suite) {
	for i := range 30 {
		Put(t, s, fmt.Sprintf("a%d/x", i), nil, unknown())
	}
	stop := errors.New("enough")
	n := 0
	err := s.List(t.Context(), "", func(location.Info) error {
		if n++; n == 3 {
			return stop
		}
		return nil
	})
	if err != stop || n != 3 { // as it is, not wrapped
		t.Errorf("list ended with %v after %d", err, n)
	}
	if got := s.keys(t, ""); len(got) != 30 {
		t.Errorf("%d objects are listed afterwards", len(got))
	}
}

func testRemove(t *testing.T, s suite) {
	Put(t, s, "a/b/c", []byte("x"), unknown())
	Put(t, s, "a/d", []byte("y"), unknown())
	for range 2 {
		if err := s.Remove(t.Context(), "a/b/c"); err != nil {
			t.Fatal(err)
		}
		s.absent(t, "a/b/c")
		s.same(t, "a/d", []byte("y"))
	}
	if err := s.Remove(t.Context(), "a"); err != nil {
		t.Errorf("remove the key of a folder: %v", err)
	}
	s.same(t, "a/d", []byte("y"))
	if err := s.Remove(t.Context(), "a/d"); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
	// The names of folders that are gone are free.
	Put(t, s, "a/b", []byte("z"), unknown())
	s.same(t, "a/b", []byte("z"))
}

func testBadKeys(t *testing.T, s suite) {
	for _, key := range []string{"", "/", "/a", "a/", "a//b", "..", "../a", "a/../b", ".", "./a", "a/.hidden", ".tmp/x", "a b", "ü", "a\x00b", "a\\b",
		strings.Repeat("x", 129), strings.Repeat("x/", 300) + "x"} {
		if u, err := s.Create(t.Context(), key, unknown()); !errors.Is(err, location.ErrKey) {
			t.Errorf("create %q: %v", key, err)
			if err == nil {
				_ = u.Abort()
			}
		}
		if r, err := s.Open(t.Context(), key, 0, -1); !errors.Is(err, location.ErrKey) {
			t.Errorf("open %q: %v", key, err)
			if err == nil {
				r.Close()
			}
		}
		if _, err := s.Stat(t.Context(), key); !errors.Is(err, location.ErrKey) {
			t.Errorf("stat %q: %v", key, err)
		}
		if err := s.Remove(t.Context(), key); !errors.Is(err, location.ErrKey) {
			t.Errorf("remove %q: %v", key, err)
		}
	}
	for _, prefix := range []string{"a", "/", "../", "a//", ".tmp/"} {
		err := s.List(t.Context(), prefix, func(location.Info) error { return nil })
		if !errors.Is(err, location.ErrKey) {
			t.Errorf("list %q: %v", prefix, err)
		}
	}
	s.empty(t)
}

func testSpace(t *testing.T, s suite) {
	sp, err := s.Space(t.Context())
	switch {
	case !s.f.Space && !errors.Is(err, location.ErrUnsupported):
		t.Errorf("space: %+v, %v; want ErrUnsupported", sp, err)
	case s.f.Space && (err != nil || sp.Total <= 0 || sp.Free < 0 || sp.Free > sp.Total):
		t.Errorf("space: %+v, %v", sp, err)
	}
}
