package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"understudy/shipper/pos"
)

// moveTail copies the bytes from..to into a new directory under tail and makes
// it durable. A file holds one segment's part; its name is the segment's name
// and the offset of its first byte in the segment, in hexadecimal. op is held.
func (s *Spool) moveTail(m stored, from, to pos.LSN) error {
	fsys, root := s.cfg.FS, filepath.Join(s.cfg.Dir, tailDirName)
	if err := fsys.Mkdir(root, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	temp := filepath.Join(root, "moving.tmp")
	if err := s.removeTree(temp); err != nil {
		return err
	}
	if err := fsys.Mkdir(temp, 0o700); err != nil {
		return err
	}
	buf := make([]byte, copyBufSize)
	for at := from; at < to; {
		start := at.SegStart(m.SegSize)
		s.mu.Lock()
		seg := pos.SegName(s.segs[start], start, m.SegSize)
		s.mu.Unlock()
		name := filepath.Join(temp, fmt.Sprintf("%s.%08X", seg, uint64(at-start)))
		end := min(to, at.SegEnd(m.SegSize))
		if err := s.copyOut(name, at, end, buf); err != nil {
			return err
		}
		at = end
	}
	if err := fsys.SyncDir(temp); err != nil {
		return err
	}
	epoch := m.Lineage.Position(to).Epoch
	return s.installTail(root, temp, epoch.String()+"-"+strings.ReplaceAll(from.String(), "/", "_"))
}

// installTail gives the copied tail its name; a tail of that name from an
// earlier cut is kept.
func (s *Spool) installTail(root, temp, name string) error {
	taken, err := s.cfg.FS.ReadDir(root)
	if err != nil {
		return err
	}
	has := make(map[string]bool, len(taken))
	for _, n := range taken {
		has[n] = true
	}
	final := name
	for i := 2; has[final]; i++ {
		final = fmt.Sprintf("%s.%d", name, i)
	}
	if err := s.cfg.FS.Rename(temp, filepath.Join(root, final)); err != nil {
		return err
	}
	if err := s.cfg.FS.SyncDir(root); err != nil {
		return err
	}
	return s.cfg.FS.SyncDir(s.cfg.Dir)
}

// copyOut writes the bytes from..to of the log into a new, synced file.
func (s *Spool) copyOut(name string, from, to pos.LSN, buf []byte) error {
	f, err := s.cfg.FS.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	for at := from; at < to && err == nil; {
		b := buf[:min(uint64(len(buf)), to.Sub(at))]
		if err = readFull(s, b, at); err == nil {
			_, err = f.WriteAt(b, int64(at-from))
		}
		at += pos.LSN(len(b))
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// removeTree deletes a directory of plain files, if it exists.
func (s *Spool) removeTree(dir string) error {
	names, err := s.cfg.FS.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := s.cfg.FS.Remove(filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return s.cfg.FS.Remove(dir)
}

func (s *Spool) finishCut() error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	return s.finishCutSyncing()
}

// finishCutSyncing carries out the cut that the meta records: every step can
// be repeated, by a later call or by recovery. op and syncing are held.
//
// First whole segments beyond the cut go, durably; then the segment that the
// cut divides is zeroed beyond it, so that no bytes of an older epoch can be
// taken for received ones, and gets a slot with the number of the cut; then
// it gets the name of its newest timeline.
func (s *Spool) finishCutSyncing() error {
	s.files.Lock()
	defer s.files.Unlock()
	s.readers.clear()
	s.mu.Lock()
	m := s.meta
	cur := s.cur
	s.mu.Unlock()
	if cur != nil && (cur.start >= m.CutAt || cur.end <= m.Base) {
		s.mu.Lock()
		s.cur = nil
		s.mu.Unlock()
		_ = cur.f.Close() // its bytes go
	}
	if err := s.dropSegments(m); err != nil {
		return diskErr("remove cut segments", err)
	}
	if m.CutAt != m.CutAt.SegStart(m.SegSize) {
		if err := s.cutSegment(m); err != nil {
			return diskErr("cut segment", err)
		}
	}
	s.mu.Lock()
	s.cutting = false
	s.mu.Unlock()
	return nil
}

// dropSegments removes the segments at or beyond the cut and those below Base.
func (s *Spool) dropSegments(m stored) error {
	s.mu.Lock()
	var doomed []pos.LSN
	for start := range s.segs {
		if start >= m.CutAt || start < m.Base {
			doomed = append(doomed, start)
		}
	}
	s.mu.Unlock()
	for _, start := range doomed {
		s.mu.Lock()
		tli := s.segs[start]
		s.mu.Unlock()
		name := filepath.Join(s.wal, pos.SegName(tli, start, m.SegSize))
		if err := s.cfg.FS.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.mu.Lock()
		delete(s.segs, start)
		s.mu.Unlock()
	}
	// Also when nothing was left to remove: an earlier attempt may have
	// removed it and failed here.
	return s.cfg.FS.SyncDir(s.wal)
}

// cutSegment makes CutAt the end of the segment that holds it.
func (s *Spool) cutSegment(m stored) error {
	seg, err := s.openCurrent(m)
	if err != nil {
		return err
	}
	want, tli := s.segName(&m, seg.start)
	if _, err := zeroRange(seg.f, seg.offset(m.CutAt), seg.offset(seg.high)); err != nil {
		return err
	}
	have := pos.SegName(seg.timeline, seg.start, m.SegSize)
	seg.timeline = tli
	defer func() { seg.timeline, _, _ = pos.ParseSegName(have, m.SegSize) }()
	s.mu.Lock()
	sl := s.slotLocked(seg, m.CutAt, m.CutAt, 0)
	s.mu.Unlock()
	if err := seg.writeSlot(sl); err != nil {
		return err
	}
	if err := seg.f.Sync(); err != nil {
		return err
	}
	seg.seq++
	seg.high, seg.written = m.CutAt, m.CutAt
	if have == want {
		return nil
	}
	if err := s.renameSegment(have, want); err != nil {
		return err
	}
	have = want
	s.mu.Lock()
	s.segs[seg.start] = tli
	s.mu.Unlock()
	// When this fails, the sync in dropSegments makes up for it.
	return s.cfg.FS.SyncDir(s.wal)
}

// renameSegment is durable after a sync of the directory.
func (s *Spool) renameSegment(have, want string) error {
	return s.cfg.FS.Rename(filepath.Join(s.wal, have), filepath.Join(s.wal, want))
}

// openCurrent is the segment that holds CutAt, opened for writing: the current
// one, or a full one that was closed.
func (s *Spool) openCurrent(m stored) (*segment, error) {
	start := m.CutAt.SegStart(m.SegSize)
	s.mu.Lock()
	cur, tli := s.cur, s.segs[start]
	s.mu.Unlock()
	if cur != nil && cur.start == start {
		return cur, nil
	}
	f, err := s.cfg.FS.OpenFile(filepath.Join(s.wal, pos.SegName(tli, start, m.SegSize)), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	seg := &segment{f: f, timeline: tli, start: start, end: start + pos.LSN(m.SegSize)}
	seg.high = seg.end
	newest, _, err := s.readSlots(f, m, start)
	if err != nil {
		_ = f.Close() // opened for a cut that did not happen
		return nil, err
	}
	if newest != nil {
		seg.seq = newest.seq + 1
	}
	s.mu.Lock()
	s.cur = seg
	s.mu.Unlock()
	return seg, nil
}
