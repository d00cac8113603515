package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"understudy/shipper/pos"
)

// Prune drops the whole segments that end at or below floor, except the one
// that holds the last durable byte. freed is the number of bytes the log
// shrank by; some files are kept as spares. Base has moved, durably, before
// the first file goes. After an error the files left over go with the next
// Prune or Open.
func (s *Spool) Prune(floor pos.LSN) (freed int64, err error) {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.ready(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	m, durable := s.meta.clone(), s.durable
	s.mu.Unlock()
	base := m.Base
	if durable > base {
		base = max(base, min(floor, durable-1).SegStart(m.SegSize))
	}
	if base > m.Base {
		m.Base = base
		if err := s.saveMeta(m); err != nil {
			return 0, s.note(fmt.Errorf("prune: %w", err))
		}
	}
	freed, err = s.dropPruned(m)
	if err != nil {
		return freed, fmt.Errorf("prune: %w", err)
	}
	return freed, nil
}

func (s *Spool) dropPruned(m stored) (freed int64, err error) {
	s.files.Lock()
	defer s.files.Unlock()
	s.mu.Lock()
	doomed := map[pos.LSN]pos.Timeline{}
	for start, tli := range s.segs {
		if start < m.Base {
			doomed[start] = tli
		}
	}
	s.mu.Unlock()
	if len(doomed) == 0 {
		return 0, nil
	}
	s.readers.clear()
	for start, tli := range doomed {
		if err := s.dropFile(pos.SegName(tli, start, m.SegSize), start); err != nil {
			return freed, err
		}
		freed += m.SegSize + trailerSize
	}
	return freed, s.cfg.FS.SyncDir(s.wal)
}

// dropFile removes a segment file or makes it a spare. A file that a
// SegmentFile reads is never overwritten. files is held exclusively.
func (s *Spool) dropFile(name string, start pos.LSN) error {
	path := filepath.Join(s.wal, name)
	s.mu.Lock()
	pinned := s.pins[start] > 0
	s.mu.Unlock()
	if pinned || !s.filler.recycle(path) {
		if err := s.cfg.FS.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	s.mu.Lock()
	delete(s.segs, start)
	s.mu.Unlock()
	return nil
}
