package archive_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

const (
	segSize  = 1 << 20
	systemID = 7_300_000_000_000_000_001
)

var root = backupset.Root{Group: "shop", Profile: "postgres"}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// mem is a location in memory. fault is asked before every call and may make
// it fail; "commit-late" fails a commit after it took place.
type mem struct {
	mu      sync.Mutex
	objects map[string]object
	pending map[string][]byte // suspended uploads by key and token
	commits map[string]int
	removed []string
	fault   func(op, key string) error
}

type object struct {
	b  []byte
	at time.Time
}

func newMem() *mem {
	return &mem{objects: map[string]object{}, pending: map[string][]byte{}, commits: map[string]int{}}
}

func (m *mem) setFault(f func(op, key string) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = f
}

func (m *mem) fail(op, key string) error {
	m.mu.Lock()
	f := m.fault
	m.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(op, key)
}

func (m *mem) get(key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	return o.b, ok
}

func (m *mem) put(key string, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[key] = object{b, time.Now()}
}

func (m *mem) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for k := range m.objects {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

type memUpload struct {
	m     *mem
	key   string
	o     location.CreateOptions
	b     []byte
	from  int64
	ended bool
}

func (m *mem) Create(_ context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if err := location.CheckKey(key); err != nil {
		return nil, err
	}
	if err := m.fail("create", key); err != nil {
		return nil, err
	}
	u := &memUpload{m: m, key: key, o: o}
	m.mu.Lock()
	defer m.mu.Unlock()
	if o.Token != "" {
		u.b = m.pending[key+"\x00"+o.Token]
		u.from = int64(len(u.b))
		delete(m.pending, key+"\x00"+o.Token)
	}
	return u, nil
}

func (u *memUpload) Write(p []byte) (int, error) {
	if err := u.m.fail("write", u.key); err != nil {
		u.b = append(u.b, p[:len(p)/2]...)
		return len(p) / 2, err
	}
	u.b = append(u.b, p...)
	return len(p), nil
}

func (u *memUpload) Offset() int64 { return u.from }

func (u *memUpload) Commit(context.Context) (location.Info, error) {
	if u.o.Size >= 0 && u.o.Size != int64(len(u.b)) {
		return location.Info{}, fmt.Errorf("commit %s: %d bytes announced, %d written", u.key, u.o.Size, len(u.b))
	}
	if err := u.m.fail("commit", u.key); err != nil {
		return location.Info{}, err
	}
	u.ended = true
	u.m.mu.Lock()
	u.m.objects[u.key] = object{slices.Clone(u.b), time.Now()}
	u.m.commits[u.key]++
	u.m.mu.Unlock()
	if err := u.m.fail("commit-late", u.key); err != nil {
		return location.Info{}, err
	}
	return location.Info{Key: u.key, Size: int64(len(u.b)), At: time.Now()}, nil
}

func (u *memUpload) Suspend() error {
	if u.o.Token != "" && !u.ended {
		u.m.mu.Lock()
		u.m.pending[u.key+"\x00"+u.o.Token] = u.b
		u.m.mu.Unlock()
	}
	u.ended = true
	return nil
}

func (u *memUpload) Abort() error { u.ended = true; return nil }

func (m *mem) Open(_ context.Context, key string, off, n int64) (io.ReadCloser, error) {
	if err := m.fail("open", key); err != nil {
		return nil, err
	}
	b, ok := m.get(key)
	if !ok {
		return nil, fmt.Errorf("open %s: %w", key, location.ErrNotExist)
	}
	if off > int64(len(b)) || n >= 0 && off+n > int64(len(b)) {
		return nil, fmt.Errorf("open %s: beyond its end", key)
	}
	if n < 0 {
		n = int64(len(b)) - off
	}
	return io.NopCloser(bytes.NewReader(b[off : off+n])), nil
}

func (m *mem) Stat(_ context.Context, key string) (location.Info, error) {
	if err := m.fail("stat", key); err != nil {
		return location.Info{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[key]
	if !ok {
		return location.Info{}, fmt.Errorf("stat %s: %w", key, location.ErrNotExist)
	}
	return location.Info{Key: key, Size: int64(len(o.b)), At: o.at}, nil
}

func (m *mem) List(_ context.Context, prefix string, each func(location.Info) error) error {
	if err := location.CheckPrefix(prefix); err != nil {
		return err
	}
	if err := m.fail("list", prefix); err != nil {
		return err
	}
	for _, k := range m.keys() {
		if b, ok := m.get(k); ok && strings.HasPrefix(k, prefix) {
			if err := each(location.Info{Key: k, Size: int64(len(b)), At: time.Now()}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (m *mem) Remove(_ context.Context, key string) error {
	if err := m.fail("remove", key); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, key)
	m.removed = append(m.removed, key)
	return nil
}

func (m *mem) Space(context.Context) (location.Space, error) {
	return location.Space{}, location.ErrUnsupported
}
func (m *mem) Sweep(context.Context, time.Time) (int, error) { return 0, nil }
func (m *mem) Close() error                                  { return nil }

// walBytes is the log of the tests: bytes that depend on their place and on
// the branch that wrote them.
func walBytes(branch uint64, from, to pos.LSN) []byte {
	out := make([]byte, 0, to.Sub(from)+8)
	for at := from &^ 7; at < to; at += 8 {
		x := (uint64(at)>>6 + branch) * 0x9E3779B97F4A7C15 >> 40
		out = append(out, byte(x), byte(x>>8), byte(x>>16), 0, byte(at>>3), 0, 0, byte(branch))
	}
	return out[from&7:][:to.Sub(from)]
}

func segName(t pos.Timeline, at pos.LSN) string { return pos.SegName(t, at, segSize) }

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
