package spool

import (
	"fmt"
	"slices"

	"understudy/shipper/pos"
)

// saveMeta makes m the durable and the current meta. op is held. When it
// fails nothing has changed, except that the disk may already hold m: then
// settle writes the current meta again before anything else happens.
func (s *Spool) saveMeta(m stored) error {
	m.Clean = false
	doubt, err := writeMeta(s.cfg.FS, s.cfg.Dir, m)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubt = doubt
	if err != nil {
		return err
	}
	s.meta, s.dirty = m, true
	return nil
}

// settle finishes what a failed call left undone. op is held.
func (s *Spool) settle() error {
	s.mu.Lock()
	doubt, cutting, m := s.doubt, s.cutting, s.meta.clone()
	s.mu.Unlock()
	if doubt {
		if err := s.saveMeta(m); err != nil {
			return err
		}
	}
	if cutting {
		return s.finishCut()
	}
	return nil
}

// Begin starts the first log of an empty spool: of the database systemID, with
// segments of segSize bytes, from base on, a segment boundary. Durable on
// return. ErrExists is returned when there is a log, ErrForeign when the spool
// belongs to another database.
func (s *Spool) Begin(systemID uint64, segSize int64, base pos.LSN) error {
	s.op.Lock()
	defer s.op.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if err := checkLog(segSize, base); err != nil {
		return fmt.Errorf("begin log: %w", err)
	}
	if err := s.settle(); err != nil {
		return s.note(err)
	}
	s.mu.Lock()
	m := s.meta.clone()
	s.mu.Unlock()
	if m.Base != 0 {
		return fmt.Errorf("begin log: %w: a log from %s on", ErrExists, m.Base)
	}
	if m.SystemID != 0 && m.SystemID != systemID {
		return fmt.Errorf("begin log: %w: system identifier %d, not %d", ErrForeign, m.SystemID, systemID)
	}
	m.SystemID, m.SegSize = systemID, segSize
	return s.startAt(m, base)
}

// Reset drops the whole log and starts again at base, a segment boundary: for
// a node that is seeded anew. Fence, lineage and identity stay. Durable on
// return; after an error either log may be found, never a mixture.
func (s *Spool) Reset(base pos.LSN) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.ready(); err != nil {
		return err
	}
	s.mu.Lock()
	m := s.meta.clone()
	s.mu.Unlock()
	if err := checkLog(m.SegSize, base); err != nil {
		return fmt.Errorf("reset log: %w", err)
	}
	return s.startAt(m, base)
}

// startAt makes base the start of an empty log. op is held.
func (s *Spool) startAt(m stored, base pos.LSN) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	m.Base, m.CutAt = base, base
	m.Fed = false // of a log that is no more
	m.Cuts++
	if err := s.saveMeta(m); err != nil {
		return s.note(err)
	}
	s.mu.Lock()
	s.cutting = true
	s.end, s.durable, s.crc = base, base, 0
	s.wakeLocked()
	s.mu.Unlock()
	err := s.finishCutSyncing()
	if err == nil {
		s.filler.renew()
	}
	return s.note(err)
}

// SetFed records that a local walreceiver's flush may have been acknowledged.
// Durable on return.
func (s *Spool) SetFed() error {
	s.op.Lock()
	defer s.op.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if err := s.settle(); err != nil {
		return s.note(err)
	}
	s.mu.Lock()
	m := s.meta.clone()
	s.mu.Unlock()
	if m.Fed {
		return nil
	}
	m.Fed = true
	return s.note(s.saveMeta(m))
}

// RaiseFence refuses all epochs below e from now on. It syncs everything
// received, persists the fence and returns the durable position. An equal
// epoch only syncs. ErrStaleEpoch is returned for a lower one. After another
// error the fence may or may not be durable, and nothing has been promised.
func (s *Spool) RaiseFence(e pos.Epoch) (pos.Pos, error) {
	s.op.Lock()
	defer s.op.Unlock()
	if s.isClosed() {
		return pos.Pos{}, ErrClosed
	}
	if fence := s.Fence(); e.Less(fence) {
		return pos.Pos{}, fmt.Errorf("raise fence: %w: %s, the fence is %s", ErrStaleEpoch, e, fence)
	}
	if err := s.settle(); err != nil {
		return pos.Pos{}, s.note(err)
	}
	durable, err := s.Sync()
	if err != nil {
		return pos.Pos{}, fmt.Errorf("raise fence: %w", err)
	}
	s.mu.Lock()
	m := s.meta.clone()
	s.mu.Unlock()
	if m.Fence != e {
		m.Fence = e
		if err := s.saveMeta(m); err != nil {
			return pos.Pos{}, s.note(fmt.Errorf("raise fence: %w", err))
		}
	}
	return m.Lineage.Position(durable), nil
}

// Adopt makes l the history of this log and fence its fence; durable on
// return. Where l leaves the stored lineage, or adds an entry that starts
// before the end, the log is cut there: the bytes beyond are first moved to a
// directory of their own under tail and synced.
//
// ErrStaleEpoch is returned when fence is below the present one, or l is older
// than the stored lineage, the fence is the same, and something was written of
// what l lacks or the stored one is of the fence's own epoch; ErrPruned when the cut would lie below Base;
// nothing has changed then. After another error the call may be repeated.
func (s *Spool) Adopt(l pos.Lineage, fence pos.Epoch) error {
	s.op.Lock()
	defer s.op.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	if err := s.settle(); err != nil {
		return s.note(err)
	}
	s.mu.Lock()
	m := s.meta.clone()
	s.mu.Unlock()
	if err := checkAdopt(m, l, fence, s.End()); err != nil {
		return fmt.Errorf("adopt lineage: %w", err)
	}
	if slices.Equal(m.Lineage, l) {
		if m.Fence == fence {
			return nil
		}
		m.Fence = fence
		return s.note(s.saveMeta(m))
	}
	if _, err := s.Sync(); err != nil {
		return fmt.Errorf("adopt lineage: %w", err)
	}
	s.syncing.Lock()
	defer s.syncing.Unlock()
	return s.adopt(m, l, fence)
}

// adopt replaces the lineage of m by another one. op and syncing are held,
// everything received is durable.
func (s *Spool) adopt(m stored, l pos.Lineage, fence pos.Epoch) error {
	end := s.End()
	cut := end
	if len(m.Lineage) > 0 && end > m.Base {
		fork, _ := m.Lineage.Fork(l)
		cut = min(fork, end)
	}
	if cut < m.Base {
		return fmt.Errorf("adopt lineage: %w: it leaves the stored one at %s, the log begins at %s", ErrPruned, cut, m.Base)
	}
	if cut < end {
		if err := s.moveTail(m, cut, end); err != nil {
			return s.note(diskErr("move the tail aside", err))
		}
		s.cfg.Log.Warn("log cut", "at", cut, "end", end, "epoch", l.Last().Epoch, "fence", fence)
	}
	m.Lineage, m.Fence = slices.Clone(l), fence
	if m.Base != 0 {
		m.CutAt = cut
		m.Cuts++
	}
	if err := s.saveMeta(m); err != nil {
		return s.note(fmt.Errorf("adopt lineage: %w", err))
	}
	if m.Base == 0 {
		return s.note(nil)
	}
	s.mu.Lock()
	s.cutting = true
	s.end, s.durable, s.crc = cut, cut, 0
	s.mu.Unlock()
	if err := s.finishCutSyncing(); err != nil {
		return s.note(fmt.Errorf("adopt lineage: %w", err))
	}
	return s.note(nil)
}

func checkAdopt(m stored, l pos.Lineage, fence pos.Epoch, end pos.LSN) error {
	if err := l.Validate(); err != nil {
		return err
	}
	if len(l) == 0 {
		return fmt.Errorf("%w: it is empty", pos.ErrLineage)
	}
	last, stored := l.Last().Epoch, m.Lineage.Last().Epoch
	switch {
	case fence.Less(m.Fence):
		return fmt.Errorf("%w: fence %s, the present one is %s", ErrStaleEpoch, fence, m.Fence)
	case fence.Less(last):
		return fmt.Errorf("%w: fence %s is below the lineage's own epoch %s", ErrStaleEpoch, fence, last)
	case fence == m.Fence && last.Less(stored) && (stored == fence || !unwritten(m.Lineage, l, end)):
		return fmt.Errorf("%w: the lineage ends with epoch %s, the stored one with %s", ErrStaleEpoch, last, stored)
	}
	return nil
}

// unwritten tells whether nothing lies in a log that ends at end of what its
// lineage has and l has not: epochs that came to nothing, whose node may have to
// take over an older history to go on.
func unwritten(own, l pos.Lineage, end pos.LSN) bool {
	fork, same := own.Fork(l)
	return same && len(own) <= len(l) || fork >= end
}
