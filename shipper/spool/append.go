package spool

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"understudy/shipper/pos"
)

const (
	writeBackStep = 1 << 20  // unsynced bytes after which write-back is started early
	overlapSize   = 64 << 10 // bytes compared before foreign bytes are joined on
	copyBufSize   = 256 << 10
)

// Append adds received bytes of epoch e that begin at at. They are in the page
// cache on return, not durable: Sync makes them so. When a segment fills up it
// is synced before the next begins.
//
// ErrStaleEpoch is returned unless e is both the fence and the epoch of the
// last lineage entry, a *GapError when at is beyond the end, ErrCorrupt when
// bytes before the end differ from the stored ones. After an error End tells
// how much was taken.
func (s *Spool) Append(e pos.Epoch, at pos.LSN, p []byte) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.ready(); err != nil {
		return err
	}
	s.mu.Lock()
	fence, last := s.meta.Fence, s.meta.Lineage.Last().Epoch
	s.mu.Unlock()
	if e != fence || e != last {
		return fmt.Errorf("append: %w: %s, the fence is %s and the adopted epoch %s", ErrStaleEpoch, e, fence, last)
	}
	p, at, err := s.skipOverlap(at, p)
	if err != nil {
		return fmt.Errorf("append: %w", err)
	}
	return s.append(at, p)
}

// ready checks that there is a log to change, finishes what an earlier
// failure left undone, and makes the meta say that the log is in use.
func (s *Spool) ready() error {
	if s.isClosed() {
		return ErrClosed
	}
	if err := s.settle(); err != nil {
		return s.note(err)
	}
	s.mu.Lock()
	m, dirty := s.meta, s.dirty
	s.mu.Unlock()
	if m.Base == 0 {
		return ErrNoLog
	}
	if dirty {
		return nil
	}
	if err := s.saveMeta(m.clone()); err != nil {
		return s.note(err)
	}
	return nil
}

// skipOverlap drops from p what the log already holds, after comparing it.
func (s *Spool) skipOverlap(at pos.LSN, p []byte) ([]byte, pos.LSN, error) {
	end := s.End()
	if at > end {
		return nil, 0, &GapError{Want: end, Got: at}
	}
	have := end.Sub(at)
	if have == 0 {
		return p, at, nil
	}
	n := min(have, uint64(len(p)))
	if err := s.compare(at, p[:n]); err != nil {
		return nil, 0, err
	}
	return p[n:], at + pos.LSN(n), nil
}

// compare returns ErrCorrupt when the log at at is not p.
func (s *Spool) compare(at pos.LSN, p []byte) error {
	buf := make([]byte, min(len(p), copyBufSize))
	for len(p) > 0 {
		b := buf[:min(len(buf), len(p))]
		if n, err := s.ReadWAL(b, at); n < len(b) {
			return fmt.Errorf("read overlap at %s: %w", at, err)
		}
		if !bytes.Equal(b, p[:len(b)]) {
			return fmt.Errorf("%w: the bytes offered from %s on differ from the stored ones", ErrCorrupt, at)
		}
		p, at = p[len(b):], at+pos.LSN(len(b))
	}
	return nil
}

// append writes p at the end of the log, segment by segment. op is held.
func (s *Spool) append(at pos.LSN, p []byte) error {
	for len(p) > 0 {
		seg, err := s.segmentAt(at)
		if err != nil {
			return s.note(err)
		}
		part := p[:min(uint64(len(p)), seg.end.Sub(at))]
		n, err := seg.f.WriteAt(part, seg.offset(at))
		seg.high = max(seg.high, at+pos.LSN(n))
		if err != nil {
			return s.note(diskErr("append", err))
		}
		if err := s.advance(at, part); err != nil {
			return err
		}
		p, at = p[len(part):], at+pos.LSN(len(part))
		if at == seg.end {
			if err := s.seal(seg); err != nil {
				return err
			}
			continue
		}
		seg.startWriteBack(at, s.Durable())
	}
	return nil
}

// advance counts part, written at at, as received. A sync that failed
// meanwhile has moved the end back, and part with it.
func (s *Spool) advance(at pos.LSN, part []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.end != at {
		return fmt.Errorf("append: %w", &GapError{Want: s.end, Got: at})
	}
	s.end += pos.LSN(len(part))
	s.crc = crc32.Update(s.crc, castagnoli, part)
	s.appended.Add(int64(len(part)))
	s.wakeLocked()
	return nil
}

// seal syncs a full segment and closes it.
func (s *Spool) seal(seg *segment) error {
	s.syncing.Lock()
	defer s.syncing.Unlock()
	if _, err := s.syncTo(seg.end); err != nil {
		return err
	}
	s.mu.Lock()
	s.cur = nil
	s.mu.Unlock()
	s.filler.wake()
	if err := seg.f.Close(); err != nil {
		return fmt.Errorf("close segment: %w", err)
	}
	return nil
}

// Sync makes everything received at the time of the call durable and returns
// the LSN up to which the log is. Concurrent callers share one fdatasync.
//
// After an error the kernel may have dropped the pages, so the bytes that were
// not durable no longer count as received: End goes back to Durable and the
// sender resumes there.
func (s *Spool) Sync() (pos.LSN, error) {
	target := s.End()
	s.syncing.Lock()
	defer s.syncing.Unlock()
	return s.syncTo(target)
}

// syncTo syncs one batch unless target is durable already. syncing is held.
func (s *Spool) syncTo(target pos.LSN) (pos.LSN, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0, ErrClosed
	}
	if s.durable >= target {
		defer s.mu.Unlock()
		return s.durable, nil
	}
	if s.end == s.durable { // a failed sync took the bytes back
		defer s.mu.Unlock()
		return s.durable, fmt.Errorf("sync: %w", errors.Join(s.problem, &GapError{Want: s.end, Got: target}))
	}
	seg, from, to, crc := s.cur, s.durable, s.end, s.crc
	s.crc = 0
	sl := s.slotLocked(seg, from, to, crc)
	s.mu.Unlock()

	err := seg.writeSlot(sl)
	if err == nil {
		err = seg.f.Sync()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = nil
	if err != nil {
		s.end, s.crc = from, 0
		s.problem = diskErr("sync", err)
		return from, s.problem
	}
	seg.seq++
	s.durable = to
	return to, nil
}

func (s *Spool) slotLocked(seg *segment, from, to pos.LSN, crc uint32) slot {
	return slot{
		timeline: seg.timeline,
		owner:    ownerID(s.meta.Store, s.meta.Group),
		segment:  uint64(seg.start) / uint64(s.meta.SegSize),
		segSize:  s.meta.SegSize,
		seq:      seg.seq,
		from:     from,
		to:       to,
		cuts:     s.meta.Cuts,
		dataCRC:  crc,
	}
}

// Extend appends the bytes of src from the end of the log to upto, which the
// caller has verified to be whole records of the same timeline and lineage
// entry. It first compares up to 64 KiB before the end byte for byte and
// returns ErrCorrupt where they differ. upto may not lie beyond the lineage
// entry in force at the end of the log. Not durable on return: Sync.
func (s *Spool) Extend(src interface {
	ReadWAL(p []byte, at pos.LSN) (int, error)
}, upto pos.LSN) error {
	s.op.Lock()
	defer s.op.Unlock()
	if err := s.ready(); err != nil {
		return err
	}
	s.mu.Lock()
	lin, base, at := s.meta.Lineage, s.meta.Base, s.end
	s.mu.Unlock()
	if upto <= at {
		return nil
	}
	if err := sameEntry(lin, at, upto); err != nil {
		return fmt.Errorf("extend: %w", err)
	}
	buf := make([]byte, copyBufSize)
	overlap := buf[:min(overlapSize, at.Sub(base))]
	first := at - pos.LSN(len(overlap))
	if err := readFull(src, overlap, first); err != nil {
		return fmt.Errorf("extend: read overlap: %w", err)
	}
	if err := s.compare(first, overlap); err != nil {
		return fmt.Errorf("extend: %w", err)
	}
	for at < upto {
		b := buf[:min(uint64(len(buf)), upto.Sub(at))]
		if err := readFull(src, b, at); err != nil {
			return fmt.Errorf("extend: %w", err)
		}
		if err := s.append(at, b); err != nil {
			return err
		}
		at += pos.LSN(len(b))
	}
	return nil
}

// sameEntry checks that the bytes from..upto belong to one lineage entry.
func sameEntry(lin pos.Lineage, from, upto pos.LSN) error {
	if len(lin) == 0 {
		return fmt.Errorf("%w: no lineage adopted yet", ErrStaleEpoch)
	}
	for _, e := range lin[1:] {
		if from < e.Start && e.Start < upto {
			return fmt.Errorf("%w: %s is beyond the lineage entry in force at %s, which ends at %s", ErrStaleEpoch, upto, from, e.Start)
		}
	}
	return nil
}

// readFull fills p or returns an error.
func readFull(src Source, p []byte, at pos.LSN) error {
	for len(p) > 0 {
		n, err := src.ReadWAL(p, at)
		if n < 0 || n > len(p) {
			return fmt.Errorf("read WAL at %s: the source counts %d of %d bytes", at, n, len(p))
		}
		p, at = p[n:], at+pos.LSN(n)
		if len(p) == 0 {
			return nil
		}
		if err == nil && n == 0 {
			err = io.ErrNoProgress
		}
		if err != nil {
			return fmt.Errorf("read WAL at %s: %w", at, err)
		}
	}
	return nil
}
