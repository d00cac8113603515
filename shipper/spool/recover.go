package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"understudy/shipper/pos"
)

// readSlots returns the newest valid slot of a segment file, nil when there is
// none; torn tells that a slot holds something that is not valid.
// ErrForeign is returned for a slot of another store, ErrCorrupt when both
// slots are spoilt, which no crash does.
func (s *Spool) readSlots(f File, m stored, start pos.LSN) (newest *slot, torn bool, err error) {
	var b [trailerSize]byte
	n, err := f.ReadAt(b[:], m.SegSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	clear(b[n:])
	spoilt := 0
	for i := range 2 {
		raw := b[i*slotSize : (i+1)*slotSize]
		if allZero(raw) {
			continue
		}
		sl, ok := decodeSlot(raw)
		if !ok || !sl.inside(start, m.SegSize) || sl.seq%2 != uint64(i) {
			spoilt++
			continue
		}
		if sl.owner != ownerID(m.Store, m.Group) {
			return nil, false, fmt.Errorf("%w: segment at %s", ErrForeign, start)
		}
		if newest == nil || sl.seq > newest.seq {
			newest = &sl
		}
	}
	if spoilt == 2 {
		return nil, true, fmt.Errorf("%w: both sync records of the segment at %s are damaged", ErrCorrupt, start)
	}
	return newest, spoilt > 0, nil
}

// recover rebuilds the state from the directory; called once, by Open.
func (s *Spool) recover() error {
	m := s.meta
	if err := s.scan(m); err != nil {
		return err
	}
	if m.Base == 0 {
		return nil
	}
	done, err := s.cutDone(m)
	if err != nil {
		return err
	}
	s.end, s.durable = m.CutAt, m.CutAt
	if !done {
		err := s.finishCut()
		if s.cur != nil {
			_ = s.cur.f.Close() // the cut was synced
			s.cur = nil
		}
		if err != nil {
			return err
		}
	} else if err := s.dropBelowBase(m); err != nil {
		return err
	}
	if err := s.fixNames(m); err != nil {
		return err
	}
	if err := s.findEnd(m); err != nil {
		return err
	}
	if m.Clean {
		return nil
	}
	// A process that was killed may have left entries that are not on disk.
	if err := s.cfg.FS.SyncDir(s.wal); err != nil {
		return diskErr("sync spool directory", err)
	}
	return diskErr("sync spool directory", s.cfg.FS.SyncDir(s.cfg.Dir))
}

// scan lists the segment files into segs and removes unfinished files.
func (s *Spool) scan(m stored) error {
	names, err := s.cfg.FS.ReadDir(s.wal)
	if errors.Is(err, fs.ErrNotExist) {
		if m.Base == 0 {
			return nil
		}
		return fmt.Errorf("%w: the directory %s is missing", ErrCorrupt, s.wal)
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, sparePrefix) || strings.HasSuffix(name, tempSuffix) {
			// Spares are made anew: how full one is need not be known.
			if err := s.cfg.FS.Remove(filepath.Join(s.wal, name)); err != nil {
				return err
			}
			continue
		}
		if m.SegSize == 0 {
			continue
		}
		tli, start, err := pos.ParseSegName(name, m.SegSize)
		if err != nil {
			s.cfg.Log.Warn("unknown file in the spool", "name", name)
			continue
		}
		if have, twice := s.segs[start]; twice {
			return fmt.Errorf("%w: segment at %s exists on timelines %d and %d", ErrCorrupt, start, have, tli)
		}
		s.segs[start] = tli
	}
	return nil
}

// cutDone tells whether the last recorded cut was carried out, see stored.
func (s *Spool) cutDone(m stored) (bool, error) {
	if m.CutAt < m.Base {
		return true, nil
	}
	start := m.CutAt.SegStart(m.SegSize)
	if _, ok := s.segs[start]; ok {
		return s.writtenSince(m, start)
	}
	if start != m.CutAt {
		return false, fmt.Errorf("%w: the segment at %s, where the log was cut, is missing", ErrCorrupt, m.CutAt)
	}
	for later := range s.segs {
		if later < m.CutAt {
			continue
		}
		if since, err := s.writtenSince(m, later); err != nil {
			return false, err
		} else if since {
			return false, fmt.Errorf("%w: the segment at %s is missing, but the log goes on at %s", ErrCorrupt, start, later)
		}
	}
	return false, nil
}

// writtenSince tells whether a segment has a slot of the last recorded cut.
func (s *Spool) writtenSince(m stored, start pos.LSN) (bool, error) {
	f, err := s.cfg.FS.OpenFile(filepath.Join(s.wal, pos.SegName(s.segs[start], start, m.SegSize)), os.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	defer f.Close()
	newest, _, err := s.readSlots(f, m, start)
	return newest != nil && newest.cuts == m.Cuts, err
}

// dropBelowBase finishes an interrupted Prune.
func (s *Spool) dropBelowBase(m stored) error {
	removed := false
	for start, tli := range s.segs {
		if start >= m.Base {
			continue
		}
		if err := s.cfg.FS.Remove(filepath.Join(s.wal, pos.SegName(tli, start, m.SegSize))); err != nil {
			return err
		}
		delete(s.segs, start)
		removed = true
	}
	if !removed {
		return nil
	}
	return s.cfg.FS.SyncDir(s.wal)
}

// fixNames finishes an interrupted change of a segment's timeline.
func (s *Spool) fixNames(m stored) error {
	for start, tli := range s.segs {
		want, newTLI := s.segName(&m, start)
		if tli == newTLI {
			continue
		}
		if err := s.renameSegment(pos.SegName(tli, start, m.SegSize), want); err != nil {
			return err
		}
		if err := s.cfg.FS.SyncDir(s.wal); err != nil {
			return err
		}
		s.segs[start] = newTLI
	}
	return nil
}

// findEnd checks that the log has no hole and finds its end.
func (s *Spool) findEnd(m stored) error {
	starts := make([]pos.LSN, 0, len(s.segs))
	for start := range s.segs {
		starts = append(starts, start)
	}
	slices.Sort(starts)
	s.end, s.durable = m.Base, m.Base
	for i, start := range starts {
		if start != s.end {
			return fmt.Errorf("%w: the log has no bytes from %s to %s", ErrCorrupt, s.end, start)
		}
		if err := s.recoverSegment(m, start, i == len(starts)-1); err != nil {
			return fmt.Errorf("recover segment at %s: %w", start, err)
		}
	}
	// A cut keeps all before it, and Prune the last durable byte.
	if s.end < m.CutAt || (m.CutAt < m.Base && s.end == m.Base) {
		return fmt.Errorf("%w: the log ends at %s, before bytes that were durable", ErrCorrupt, s.end)
	}
	return nil
}

// recoverSegment finds the durable end of one segment. Every segment but the
// last was synced to its end before the next began.
func (s *Spool) recoverSegment(m stored, start pos.LSN, last bool) error {
	f, err := s.cfg.FS.OpenFile(filepath.Join(s.wal, pos.SegName(s.segs[start], start, m.SegSize)), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	seg := &segment{f: f, timeline: s.segs[start], start: start, end: start + pos.LSN(m.SegSize)}
	keep := false
	defer func() {
		if !keep {
			_ = f.Close() // whatever was written was synced
		}
	}()
	newest, torn, err := s.readSlots(f, m, start)
	if err != nil {
		return err
	}
	s.end = start
	whole := true
	if newest != nil {
		seg.seq = newest.seq + 1
		s.end = newest.to
	}
	if !last {
		if s.end != seg.end {
			return fmt.Errorf("%w: it ends at %s, but the log goes on", ErrCorrupt, s.end)
		}
		return nil
	}
	if newest != nil {
		if whole, err = batchWhole(f, start, newest); err != nil {
			return err
		}
		if !whole {
			// The crash came before that batch was on disk. What came before
			// it was.
			s.end = newest.from
		}
	}
	s.durable = s.end
	if m.Clean && whole && !torn {
		seg.high, seg.written = s.end, s.end
	} else if err := s.recoverBeyond(m, seg, torn || !whole); err != nil {
		return err
	}
	if s.end < seg.end {
		s.cur, keep = seg, true
	}
	return nil
}

// batchWhole tells whether the bytes of a batch are those its slot promises.
func batchWhole(f File, start pos.LSN, sl *slot) (bool, error) {
	buf := make([]byte, min(copyBufSize, sl.to.Sub(sl.from)))
	crc := uint32(0)
	for at := sl.from; at < sl.to; {
		b := buf[:min(uint64(len(buf)), sl.to.Sub(at))]
		if n, err := f.ReadAt(b, int64(at-start)); n < len(b) {
			if errors.Is(err, io.EOF) {
				return false, nil
			}
			return false, err
		}
		crc = crc32.Update(crc, castagnoli, b)
		at += pos.LSN(len(b))
	}
	return crc == sl.dataCRC, nil
}

// recoverBeyond takes over the whole records beyond the last sync, zeroes the
// rest of the segment, so that nothing left in it can ever be taken for bytes
// of a later epoch, and syncs: after a kill even the bytes of the last batch
// may be in the page cache only. unsure forces a new slot.
func (s *Spool) recoverBeyond(m stored, seg *segment, unsure bool) error {
	size, err := seg.f.Size()
	if err != nil {
		return err
	}
	if size < m.SegSize+trailerSize {
		if err := seg.f.Truncate(m.SegSize + trailerSize); err != nil {
			return diskErr("extend segment", err)
		}
	}
	from := s.end
	s.end = s.verified(seg, from)
	crc, err := crcOf(seg, from, s.end)
	if err != nil {
		return err
	}
	found, err := zeroRange(seg.f, seg.offset(s.end), seg.offset(seg.end))
	if err != nil {
		return diskErr("clear unused bytes", err)
	}
	seg.high, seg.written = s.end, s.end
	fresh := found || unsure || s.end != from
	if fresh {
		if err := seg.writeSlot(s.slotLocked(seg, from, s.end, crc)); err != nil {
			return diskErr("write sync record", err)
		}
	}
	if err := seg.f.Sync(); err != nil {
		return diskErr("sync", err)
	}
	if fresh {
		seg.seq++
	}
	s.durable = s.end
	return nil
}

// verified is the end of the whole records found beyond the durable end.
func (s *Spool) verified(seg *segment, from pos.LSN) pos.LSN {
	if s.cfg.Verify == nil || from == seg.end {
		return from
	}
	s.end = seg.end // for the duration of the question
	to, err := s.cfg.Verify(s, from)
	s.end = from
	if err != nil {
		s.cfg.Log.Warn("bytes beyond the last sync not verified", "from", from, "error", err)
		return from
	}
	return min(max(to, from), seg.end)
}

func crcOf(seg *segment, from, to pos.LSN) (uint32, error) {
	buf := make([]byte, min(copyBufSize, to.Sub(from)))
	crc := uint32(0)
	for at := from; at < to; {
		b := buf[:min(uint64(len(buf)), to.Sub(at))]
		if n, err := seg.f.ReadAt(b, seg.offset(at)); n < len(b) {
			return 0, fmt.Errorf("read verified bytes: %w", err)
		}
		crc = crc32.Update(crc, castagnoli, b)
		at += pos.LSN(len(b))
	}
	return crc, nil
}
