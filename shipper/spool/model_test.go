package spool_test

import (
	"errors"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"pgregory.net/rapid"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/faultfs"
)

// model is the dumb version of a spool: the bytes in a slice.
type model struct {
	fs   *faultfs.FS
	s    *spool.Spool
	cfg  spool.Config
	base pos.LSN
	log  []byte // everything offered in order, from base on; the spool holds a prefix,
	// and after a failed sync a longer one may be found on disk
	acked pos.LSN
	lin   pos.Lineage
	fence pos.Epoch
	tails int // directories under tail that must exist
}

func (m *model) end() pos.LSN { return m.base + pos.LSN(len(m.log)) }

// reopen opens the spool after a crash and checks every promise. A call that
// the crash interrupted may have happened or not: maybe describes its effect.
func (m *model) reopen(t *rapid.T, maybe func(s *spool.Spool)) {
	m.s = open(t, m.cfg)
	if maybe != nil {
		maybe(m.s)
	}
	m.check(t)
	m.acked = m.s.End()
	m.log = m.log[:m.acked-m.base]
}

// down takes the machine down and ends the spool's goroutine.
func (m *model) down() {
	m.fs.CrashAfter(0)
	_ = m.s.Close()
}

func (m *model) check(t *rapid.T) {
	if got := m.s.Base(); got != m.base {
		t.Fatalf("base %s, want %s", got, m.base)
	}
	if got := m.s.Fence(); got != m.fence {
		t.Fatalf("fence %s, want %s", got, m.fence)
	}
	if got := m.s.Lineage(); !slices.Equal(got, m.lin) {
		t.Fatalf("lineage %v, want %v", got, m.lin)
	}
	end := m.s.End()
	if end < m.acked || end > m.end() {
		t.Fatalf("end %s, acked %s, offered %s", end, m.acked, m.end())
	}
	wantLog(t, m.s, m.log[:end-m.base])
	if m.fs != nil {
		m.countTails(t)
	}
}

func (m *model) countTails(t *rapid.T) {
	names, err := m.fs.ReadDir("/spool/tail")
	if err != nil {
		t.Fatalf("tails: %v", err)
	}
	n := 0
	for _, name := range names {
		if path.Ext(name) != ".tmp" {
			n++
		}
	}
	if n < m.tails {
		t.Fatalf("%d tails, want at least %d", n, m.tails)
	}
}

func (m *model) append(t *rapid.T) error {
	n := rapid.OneOf(rapid.IntRange(1, 300), rapid.IntRange(1, 3*segSize)).Draw(t, "n")
	at := m.s.End()
	p := wal(m.lin.Last().Epoch, at, n)
	if more := int(at-m.base) + n - len(m.log); more > 0 {
		m.log = append(m.log, p[n-more:]...)
	}
	return m.s.Append(m.fence, at, p)
}

func (m *model) sync() error {
	l, err := m.s.Sync()
	if err == nil {
		m.acked = max(m.acked, l)
	}
	return err
}

// adopt tries a new epoch that starts somewhere in or beyond the log. It
// returns what the spool looks like if that happened.
func (m *model) adopt(t *rapid.T) (func(), error) {
	last := m.lin.Last()
	lo := max(m.base, last.Start)
	start := lo + pos.LSN(rapid.Uint64Range(0, max(m.end(), lo).Sub(lo)+100).Draw(t, "start"))
	if rapid.Bool().Draw(t, "at_end") {
		start = max(lo, m.s.End())
	}
	next := pos.Entry{Epoch: m.fence.Next(), Timeline: last.Timeline + pos.Timeline(rapid.IntRange(0, 1).Draw(t, "tli")), Start: start}
	lin := m.lin.With(next)
	cut := min(start, m.s.End())
	tail := m.s.End() > cut
	did := func() {
		m.lin, m.fence = lin, next.Epoch
		m.log = m.log[:min(cut.Sub(m.base), uint64(len(m.log)))]
		m.acked = min(m.acked, cut)
		if tail {
			m.tails++
		}
	}
	return did, m.s.Adopt(lin, next.Epoch)
}

func (m *model) prune(t *rapid.T) (func(*spool.Spool), error) {
	floor := m.base + pos.LSN(rapid.Uint64Range(0, 6*segSize).Draw(t, "floor"))
	_, err := m.s.Prune(floor)
	return m.rebase, err
}

// rebase follows the base of the spool.
func (m *model) rebase(s *spool.Spool) {
	if b := s.Base(); b > m.base && b.Sub(m.base) <= uint64(len(m.log)) {
		m.log = m.log[b-m.base:]
		m.base = b
	}
}

// step makes one call. maybe is its effect, should it have been interrupted.
func (m *model) step(t *rapid.T) (maybe func(*spool.Spool), err error) {
	switch rapid.SampledFrom([]string{"append", "append", "append", "sync", "sync", "adopt", "fence", "prune"}).Draw(t, "op") {
	case "append":
		if m.fence != m.lin.Last().Epoch {
			return nil, m.sync()
		}
		return nil, m.append(t)
	case "sync":
		return nil, m.sync()
	case "adopt":
		did, err := m.adopt(t)
		if err == nil {
			did()
			return nil, nil
		}
		return func(s *spool.Spool) {
			if s.Fence() != m.fence {
				did()
			}
		}, err
	case "fence":
		next := m.fence.Next()
		p, err := m.s.RaiseFence(next)
		if err == nil {
			m.fence, m.acked = next, max(m.acked, p.LSN)
		}
		return func(s *spool.Spool) { m.fence = s.Fence() }, err
	default:
		maybe, err := m.prune(t)
		if err == nil {
			maybe(m.s)
		}
		return maybe, err
	}
}

func newModel(t *rapid.T) *model {
	m := &model{
		fs:    faultfs.New(),
		base:  base,
		acked: base,
		fence: epoch(1),
		lin:   pos.Lineage{{Epoch: epoch(1), Timeline: 1, Start: base}},
	}
	m.cfg = config(m.fs)
	m.cfg.SpareSegments = rapid.SampledFrom([]int{-1, 2}).Draw(t, "spares")
	m.s = begun(t, m.cfg)
	return m
}

func TestSpool_MatchesModelUnderCrashes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer func() { _ = m.s.Close() }()
		keep := func() bool { return rapid.Bool().Draw(t, "keep") }
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"plain", "plain", "plain", "crash", "loss", "kill", "restart"}).Draw(t, "kind") {
			case "plain":
				if _, err := m.step(t); err != nil {
					t.Fatalf("step: %v", err)
				}
				m.check(t)
			case "crash":
				m.fs.CrashAfter(rapid.IntRange(1, 12).Draw(t, "after"))
				maybe, err := m.step(t)
				m.down()
				m.fs.PowerLoss(keep)
				if err == nil {
					maybe = nil
				}
				m.reopen(t, maybe)
			case "loss":
				m.down()
				m.fs.PowerLoss(keep)
				m.reopen(t, nil)
			case "kill":
				m.down()
				m.fs.Kill()
				m.reopen(t, nil)
			case "restart":
				m.acked = m.s.End()
				if err := m.s.Close(); err != nil {
					t.Fatalf("close: %v", err)
				}
				m.fs.PowerLoss(nil)
				m.reopen(t, nil)
				if !m.s.Meta().Clean {
					t.Fatalf("not clean after Close")
				}
			}
		}
	})
}

// TestSpool_MatchesModelUnderErrors injects single errors and goes on with the
// same spool, then loses power.
func TestSpool_MatchesModelUnderErrors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newModel(t)
		defer func() { _ = m.s.Close() }()
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			ops := []faultfs.Op{faultfs.OpWrite, faultfs.OpSync, faultfs.OpOpen, faultfs.OpRename, faultfs.OpSyncDir, faultfs.OpRemove}
			m.fs.Fail(faultfs.Rule{
				Op:    rapid.SampledFrom(ops).Draw(t, "fail"),
				Nth:   rapid.IntRange(1, 5).Draw(t, "nth"),
				Err:   rapid.SampledFrom([]error{syscall.EIO, syscall.ENOSPC}).Draw(t, "err"),
				Short: rapid.IntRange(0, 600).Draw(t, "short"),
			})
			maybe, err := m.step(t)
			m.fs.Heal()
			if err != nil && maybe != nil {
				maybe(m.s)
			}
			m.check(t)
		}
		m.down()
		m.fs.PowerLoss(func() bool { return rapid.Bool().Draw(t, "keep") })
		m.reopen(t, func(s *spool.Spool) {
			// The last interrupted change of the meta may have reached the
			// disk; the crash test above checks those.
			if s.Fence() != m.fence || s.Base() != m.base {
				t.Skip("interrupted change found")
			}
		})
	})
}

// TestSpool_CrashAtEveryCall runs one history that uses everything and loses
// power at each call that changes something, keeping nothing or everything.
func TestSpool_CrashAtEveryCall(t *testing.T) {
	for _, keep := range []bool{false, true} {
		for n := 1; ; n++ {
			fsys := faultfs.New()
			s := begun(t, config(fsys))
			fsys.CrashAfter(n)
			acked := base
			done := history(t, s, &acked)
			fsys.CrashAfter(0)
			_ = s.Close() // ends its goroutine; it cannot write any more
			fsys.PowerLoss(func() bool { return keep })
			s = open(t, config(fsys))
			if s.End() < acked {
				t.Fatalf("crash at %d: end %s, acked %s", n, s.End(), acked)
			}
			at := s.Base()
			lin := s.Lineage()
			for i, b := range content(t, s) {
				l := at + pos.LSN(i)
				if want := wal(lin.At(l).Epoch, l, 1)[0]; b != want {
					t.Fatalf("crash at %d: byte at %s is not of epoch %s", n, l, lin.At(l).Epoch)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if done {
				break
			}
		}
	}
}

// history stops at the first error; it returns true when there was none.
// acked is what must survive.
func history(t *testing.T, s *spool.Spool, acked *pos.LSN) bool {
	e1, e2 := epoch(1), epoch(2)
	cut := base + segSize + 700
	lin := s.Lineage().With(pos.Entry{Epoch: e2, Timeline: 2, Start: cut})
	steps := []func() error{
		func() error { return s.Append(e1, base, wal(e1, base, 500)) },
		func() error { l, err := s.Sync(); *acked = max(*acked, l); return err },
		func() error { return s.Append(e1, s.End(), wal(e1, s.End(), 2*segSize)) },
		func() error { *acked = min(*acked, cut); return s.Adopt(lin, e2) },
		func() error { return s.Append(e2, s.End(), wal(e2, s.End(), 900)) },
		func() error { l, err := s.Sync(); *acked = max(*acked, l); return err },
		func() error { _, err := s.Prune(cut); return err },
		func() error { _, err := s.RaiseFence(epoch(3)); return err },
		s.Close,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			if !errors.Is(err, faultfs.ErrDown) && !strings.Contains(err.Error(), "down") {
				t.Fatal(err)
			}
			return false
		}
	}
	return true
}
