package worker

import (
	"cmp"
	"io"
	"slices"
	"sync"

	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// moments finds the commits that a stretch of log ends with, and keeps those
// that were found lately. All feeders of a worker share one.
type moments struct {
	src      *source
	segSize  int64
	systemID uint64
	major    int

	mu    sync.Mutex
	found []catalog.Mark // sorted by LSN
	done  []pos.Range    // stretches that were looked at
}

const (
	// maxMoments and maxStretches bound what is kept.
	maxMoments   = 4096
	maxStretches = 256
	// pageSize is that of the log.
	pageSize = 8192
)

// windows are how far before the end of a stretch a commit is looked for, one
// after the other.
func windows() []pos.LSN { return []pos.LSN{64 << 10, 1 << 20, 1 << 40} }

// of implements archive.Config.Marks: the last commit of a stretch, and what
// the daemon said of it. A log that cannot be read has none: marks are a help,
// and no condition.
func (m *moments) of(from, to pos.LSN) []catalog.Mark {
	m.mu.Lock()
	looked := slices.Contains(m.done, pos.Range{From: from, To: to})
	m.mu.Unlock()
	if !looked {
		for _, back := range windows() {
			lo := max(from, to-min(to, back))
			mark, ok := m.last(lo, to)
			if ok {
				m.add([]catalog.Mark{mark})
			}
			if ok || lo == from {
				break
			}
		}
		m.mu.Lock()
		if m.done = append(m.done, pos.Range{From: from, To: to}); len(m.done) > maxStretches {
			m.done = slices.Delete(m.done, 0, maxStretches/2)
		}
		m.mu.Unlock()
	}
	return m.between(from, to)
}

// last finds the last commit whose record lies in [from, to).
func (m *moments) last(from, to pos.LSN) (catalog.Mark, bool) {
	prm := walfmt.Params{SegSize: m.segSize, SystemID: m.systemID, Major: m.major}
	src := upTo{m.src, to}
	page := (from + pageSize - 1) / pageSize * pageSize
	first, err := walfmt.FirstRecord(src, page, prm)
	if err != nil {
		return catalog.Mark{}, false
	}
	var mark catalog.Mark
	for r := walfmt.NewReader(src, first, prm); ; {
		rec, err := r.Next()
		if err != nil {
			return mark, mark.LSN != 0
		}
		if c, ok := rec.Commit(); ok && !c.Aborted && rec.End <= to {
			mark = catalog.Mark{LSN: rec.End, At: c.Time}
		}
	}
}

// add keeps marks in order.
func (m *moments) add(marks []catalog.Mark) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, k := range marks {
		i, there := slices.BinarySearchFunc(m.found, k, func(a, b catalog.Mark) int { return cmp.Compare(a.LSN, b.LSN) })
		if there && m.found[i].Name == k.Name {
			continue
		}
		m.found = slices.Insert(m.found, i, k)
	}
	if len(m.found) > maxMoments {
		m.found = slices.Delete(m.found, 0, maxMoments/2)
	}
}

// between are the marks that end in (from, to].
func (m *moments) between(from, to pos.LSN) []catalog.Mark {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []catalog.Mark
	for _, k := range m.found {
		if k.LSN > from && k.LSN <= to {
			out = append(out, k)
		}
	}
	return out
}

// upTo is a log that ends early.
type upTo struct {
	src *source
	end pos.LSN
}

// ReadWAL implements walfmt.Source.
func (u upTo) ReadWAL(p []byte, at pos.LSN) (int, error) {
	left := u.end.Sub(at)
	if uint64(len(p)) <= left {
		return u.src.ReadWAL(p, at)
	}
	if left == 0 {
		return 0, io.EOF
	}
	n, err := u.src.ReadWAL(p[:left], at)
	if err == nil {
		err = io.EOF
	}
	return n, err
}
