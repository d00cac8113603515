package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"understudy/shipper/pos"
)

// segment is the file that is being written.
type segment struct {
	f          File
	timeline   pos.Timeline // the one in its name
	start, end pos.LSN
	seq        uint64  // number of the next batch; advanced only by success, so that a retry never touches the last good slot
	high       pos.LSN // bytes at and beyond were never written by this store in this life
	written    pos.LSN // write-back was started up to here
}

func (g *segment) offset(l pos.LSN) int64 { return int64(l - g.start) }

func (g *segment) writeSlot(sl slot) error {
	var b [slotSize]byte
	sl.encode(&b)
	_, err := g.f.WriteAt(b[:], g.offset(g.end)+int64(sl.seq%2)*slotSize)
	return err
}

// startWriteBack lets the device begin with what a bulk append left behind, so
// that the sync at the end of the segment is short.
func (g *segment) startWriteBack(to, durable pos.LSN) {
	g.written = max(g.written, durable, g.start)
	if to.Sub(g.written) < writeBackStep {
		return
	}
	if w, ok := g.f.(writeBacker); ok {
		w.writeBack(g.offset(g.written), int64(to-g.written))
	}
	g.written = to
}

// segName is the path of the segment that begins at start: like PostgreSQL's,
// it carries the newest timeline in force within the segment.
func (s *Spool) segName(m *stored, start pos.LSN) (string, pos.Timeline) {
	tli := m.Lineage.TimelineAt(start.SegEnd(m.SegSize) - 1)
	return pos.SegName(tli, start, m.SegSize), tli
}

// segmentAt is the segment to write the byte at, opened or made as needed.
// op is held.
func (s *Spool) segmentAt(at pos.LSN) (*segment, error) {
	s.mu.Lock()
	cur, m := s.cur, s.meta
	s.mu.Unlock()
	if cur != nil && cur.start <= at && at < cur.end {
		return cur, nil
	}
	if cur != nil {
		// The last seal failed after its sync: finish it.
		if err := s.seal(cur); err != nil {
			return nil, err
		}
	}
	start := at.SegStart(m.SegSize)
	name, tli := s.segName(&m, start)
	if tli == 0 {
		return nil, fmt.Errorf("begin segment: %w: no lineage adopted yet", ErrStaleEpoch)
	}
	// Known before it exists, so that a cut also removes what a failure leaves.
	s.mu.Lock()
	s.segs[start] = tli
	s.mu.Unlock()
	f, err := s.makeSegment(name, m.SegSize)
	if err != nil {
		return nil, diskErr("begin segment", err)
	}
	seg := &segment{f: f, timeline: tli, start: start, end: start + pos.LSN(m.SegSize), high: start, written: start}
	s.mu.Lock()
	s.cur = seg
	s.mu.Unlock()
	s.filler.wake()
	return seg, nil
}

// makeSegment opens a new file of the full size under name, from a spare when
// there is one, and makes its entry durable. Nothing durable can stand under
// the name: the log ends before it.
func (s *Spool) makeSegment(name string, segSize int64) (File, error) {
	path := filepath.Join(s.wal, name)
	if err := s.cfg.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	flag := os.O_RDWR
	if !s.filler.take(path) {
		flag |= os.O_CREATE | os.O_EXCL
	}
	f, err := s.cfg.FS.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	if flag&os.O_CREATE != 0 {
		err = f.Truncate(segSize + trailerSize)
	}
	if err == nil {
		err = s.cfg.FS.SyncDir(s.wal)
	}
	if err != nil {
		_ = f.Close() // the file is made anew by the next attempt
		return nil, err
	}
	return f, nil
}

// zeroRange zeroes what is not zero in from..to of f and tells whether there
// was anything.
func zeroRange(f File, from, to int64) (found bool, err error) {
	buf := make([]byte, copyBufSize)
	zero := make([]byte, copyBufSize)
	for from < to {
		b := buf[:min(int64(len(buf)), to-from)]
		n, err := f.ReadAt(b, from)
		if err != nil && !errors.Is(err, io.EOF) {
			return found, err
		}
		if n == 0 {
			return found, nil
		}
		if !allZero(b[:n]) {
			found = true
			if _, err := f.WriteAt(zero[:n], from); err != nil {
				return found, err
			}
		}
		from += int64(n)
	}
	return found, nil
}
