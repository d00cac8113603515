package rescue

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/shipper/walfmt"
)

// The drop directory holds log that somebody brought by hand: segment files as
// PostgreSQL names them, or stored pieces. It counts as a location of its own,
// so that a target that only it reaches is not refused.

// dropped is what lies in a drop directory.
type dropped struct {
	dir      string
	segSize  int64
	systemID uint64
	major    int
	spans    map[pos.Timeline][]catalog.Span // sorted by LSN, not joined yet
	bad      []string
}

// maxLooked bounds how many segments at the end of a stretch are searched for a
// commit.
const maxLooked = 8

// addDrop makes the drop directory a place of the catalog.
func (k *Knowledge) addDrop(ctx context.Context, dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return badSource("--drop: %w", err)
	}
	entries, err := os.ReadDir(abs)
	if err != nil {
		return badSource("--drop: %w", err)
	}
	d := &dropped{dir: abs, segSize: k.Catalog.SegSize, systemID: k.Catalog.SystemID, major: k.Catalog.Major, spans: map[pos.Timeline][]catalog.Span{}}
	loc, err := openDir(abs)
	if err != nil {
		return badSource("--drop: %w", err)
	}
	defer loc.Close()
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !e.Type().IsRegular() {
			continue
		}
		stem, piece := strings.CutSuffix(e.Name(), ".zst")
		stem, partial := strings.CutSuffix(stem, ".partial")
		t, start, perr := pos.ParseSegName(stem, d.segSize)
		switch {
		case perr != nil || partial && !piece:
			continue // not ours to judge
		case piece:
			seal, serr := archive.ReadSeal(ctx, loc, e.Name())
			perr = serr
			if serr == nil && (seal.SystemID != d.systemID || seal.Timeline != t || seal.Start != start) {
				perr = archive.ErrForeign
			}
			if perr == nil {
				d.add(t, catalog.Span{Timeline: t, From: start, To: seal.End(), Marks: seal.Marks})
			}
		default:
			if perr = d.check(e.Name(), t, start); perr == nil {
				d.add(t, catalog.Span{Timeline: t, From: start, To: start + pos.LSN(d.segSize)})
			}
		}
		if perr != nil {
			d.bad = append(d.bad, fmt.Sprintf("%s: %s is not used: %v", dropName, e.Name(), perr))
		}
	}
	k.Warnings = append(k.Warnings, d.bad[:min(len(d.bad), maxShown)]...)
	k.Catalog.Places = maps.Clone(k.Catalog.Places)
	if k.Catalog.Places == nil {
		k.Catalog.Places = map[string]catalog.Place{}
	}
	k.Drop, k.Catalog.Places[dropName] = abs, withMarks(d.place(), k.Catalog)
	return nil
}

func (d *dropped) add(t pos.Timeline, s catalog.Span) { d.spans[t] = append(d.spans[t], s) }

// check looks whether a segment file is of this database and in its place.
func (d *dropped) check(name string, t pos.Timeline, start pos.LSN) error {
	f, err := os.Open(filepath.Join(d.dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err == nil && fi.Size() != d.segSize {
		return fmt.Errorf("it has %d bytes, a segment has %d", fi.Size(), d.segSize)
	}
	page := make([]byte, walfmt.PageSize)
	if err == nil {
		_, err = f.ReadAt(page, 0)
	}
	if err != nil {
		return err
	}
	id, err := walfmt.ParseLongHeader(page)
	switch {
	case err != nil:
		return err
	case id.SystemID != d.systemID || id.PageAddr != start || id.Timeline > t:
		return fmt.Errorf("it is the segment at %s on timeline %d of the database %d", id.PageAddr, id.Timeline, id.SystemID)
	}
	return nil
}

// place joins the segments. The end of each stretch is where its records end.
func (d *dropped) place() (p catalog.Place) {
	for _, t := range slices.Sorted(maps.Keys(d.spans)) {
		var all []catalog.Span
		for _, s := range d.spans[t] { // names are sorted, and so are these
			if n := len(all); n > 0 && s.From <= all[n-1].To {
				all[n-1].To = max(all[n-1].To, s.To)
				all[n-1].Marks = append(all[n-1].Marks, s.Marks...)
				continue
			}
			all = append(all, s)
		}
		for _, s := range all {
			p.WAL = append(p.WAL, d.trim(s))
		}
	}
	return p
}

// trim ends a stretch of segment files where its records end, and adds the last
// commit.
func (d *dropped) trim(s catalog.Span) catalog.Span {
	seg := pos.LSN(d.segSize)
	src := &pathSource{dropped: d, path: func(pos.LSN) pos.Timeline { return s.Timeline }}
	defer src.close()
	prm := walfmt.Params{SegSize: d.segSize, SystemID: d.systemID, Major: d.major}
	start := (s.To - 1).SegStart(d.segSize)
	for looked := 0; looked < maxLooked && start >= s.From && src.has(start); looked++ {
		mark, end, ok := lastCommit(src, start, s.To, prm)
		if looked == 0 && end > start && end < s.To {
			s.To = end
		}
		if ok {
			s.Marks = append(s.Marks, mark)
			break
		}
		if start < seg {
			break
		}
		start -= seg
	}
	s.Marks = sortMarks(s.Marks)
	return s
}

// lastCommit reads the records from a segment's first page on and returns the
// last commit before an LSN, and where the records end.
func lastCommit(src walfmt.Source, from, to pos.LSN, prm walfmt.Params) (mark catalog.Mark, end pos.LSN, ok bool) {
	first, err := walfmt.FirstRecord(src, from, prm)
	if err != nil {
		return mark, 0, false
	}
	for r := walfmt.NewReader(src, first, prm); ; {
		rec, err := r.Next()
		if err != nil || rec.End > to {
			return mark, end, ok
		}
		end = rec.End
		if c, is := rec.Commit(); is && !c.Aborted {
			mark, ok = catalog.Mark{LSN: rec.End, At: c.Time}, true
		}
	}
}

// pathSource reads segment files, each of the timeline that a way has there.
type pathSource struct {
	*dropped
	path  func(start pos.LSN) pos.Timeline
	start pos.LSN
	f     *os.File
}

func (s *pathSource) file(start pos.LSN) string {
	return filepath.Join(s.dir, pos.SegName(s.path(start), start, s.segSize))
}

func (s *pathSource) has(start pos.LSN) bool {
	_, err := os.Stat(s.file(start))
	return err == nil
}

func (s *pathSource) close() {
	if s.f != nil {
		_ = s.f.Close() // was only read
		s.f = nil
	}
}

// ReadWAL implements walfmt.Source.
func (s *pathSource) ReadWAL(p []byte, at pos.LSN) (n int, err error) {
	for n < len(p) {
		start := (at + pos.LSN(n)).SegStart(s.segSize)
		if s.f == nil || s.start != start {
			s.close()
			f, err := os.Open(s.file(start))
			if errors.Is(err, fs.ErrNotExist) {
				return n, io.EOF
			}
			if err != nil {
				return n, err
			}
			s.f, s.start = f, start
		}
		off := int64((at + pos.LSN(n)).Sub(start))
		m, err := s.f.ReadAt(p[n:min(len(p), n+int(s.segSize-off))], off)
		n += m
		if err != nil && (m == 0 || !errors.Is(err, io.EOF)) {
			return n, err
		}
	}
	return n, nil
}

// emptyDrop removes what the restore could use of a drop directory. What else
// lies there stays.
func emptyDrop(dir string, segSize int64) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		stem := strings.TrimSuffix(strings.TrimSuffix(e.Name(), ".zst"), ".partial")
		if _, _, perr := pos.ParseSegName(stem, segSize); perr == nil && e.Type().IsRegular() {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return err
}
