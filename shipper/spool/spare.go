package spool

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	sparePrefix    = "spare-"
	tempSuffix     = ".tmp"
	maxFilled      = 64 << 20               // larger segments are only recycled, never zero-filled
	fillChunk      = 512 << 10              // bytes written and synced at a time, so that no commit waits long behind them
	fillPause      = 5 * time.Millisecond   // between two chunks
	fillInterval   = 250 * time.Millisecond // over which the append rate is measured
	fillQuietBytes = 16 << 20               // appended per interval above which filling waits: a catch-up
	maxRecycled    = 1 << 30                // bytes of pruned segments kept for reuse
	fillBackoff    = 30 * time.Second       // after a failure, most likely a full disk
)

// filler keeps spare segment files ready: full size, every block written, no
// slot. It is best effort; without a spare a new file is made. A spare gets
// its name only when it is complete on disk. Open removes all spares: bytes
// of the log's own past in them must not outlive a Reset.
type filler struct {
	s      *Spool
	want   int // zero-filled ones
	kick   chan struct{}
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // held while files are made or taken, except zero-filling
	spares []string
	next   int
	life   int // counts renewals; what was begun in another life is discarded
}

func startFiller(s *Spool) *filler {
	ctx, cancel := context.WithCancel(context.Background())
	f := &filler{
		s:      s,
		want:   max(0, s.cfg.SpareSegments),
		kick:   make(chan struct{}, 1),
		cancel: cancel,
		done:   make(chan struct{}),
	}
	go f.run(ctx)
	f.wake()
	return f
}

func (f *filler) stop() {
	f.cancel()
	<-f.done
}

// wake tells that a spare may be missing.
func (f *filler) wake() {
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *filler) run(ctx context.Context) {
	defer close(f.done)
	timer := time.NewTimer(fillInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		}
		for f.missing() {
			before := f.s.appended.Load()
			timer.Reset(fillInterval)
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			if f.s.appended.Load()-before > fillQuietBytes {
				continue
			}
			if err := f.fill(ctx); err != nil && ctx.Err() == nil {
				f.s.cfg.Log.Debug("no spare segment made", "error", err)
				timer.Reset(fillBackoff)
				select {
				case <-ctx.Done():
					return
				case <-timer.C:
				}
			}
		}
	}
}

// segSize is the size of a spare; zero when none may be made.
func (f *filler) segSize() int64 {
	f.s.mu.Lock()
	defer f.s.mu.Unlock()
	if f.s.meta.Base == 0 || f.s.meta.SegSize > maxFilled {
		return 0
	}
	return f.s.meta.SegSize
}

func (f *filler) missing() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.spares) < f.want && f.segSize() != 0
}

// fill makes one zeroed spare.
func (f *filler) fill(ctx context.Context) error {
	f.mu.Lock()
	name, life := f.nextName(), f.life
	f.mu.Unlock()
	size := f.segSize() + trailerSize
	temp := name + tempSuffix
	err := f.writeZeros(ctx, temp, size)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil && (life != f.life || len(f.spares) >= f.want) {
		err = context.Canceled
	}
	if err == nil {
		err = f.s.cfg.FS.Rename(temp, name)
	}
	if err != nil {
		_ = f.s.cfg.FS.Remove(temp) // Open removes it if this does not
		return fmt.Errorf("fill spare segment: %w", err)
	}
	f.spares = append(f.spares, name)
	return nil
}

func (f *filler) writeZeros(ctx context.Context, name string, size int64) error {
	file, err := f.s.cfg.FS.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	zero := make([]byte, min(fillChunk, size))
	for off := int64(0); off < size && err == nil; {
		var n int
		n, err = file.WriteAt(zero[:min(int64(len(zero)), size-off)], off)
		off += int64(n)
		if err == nil {
			err = file.Sync()
		}
		if err == nil && off < size {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-time.After(fillPause):
			}
		}
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}

// nextName is the path of a new spare; mu is held.
func (f *filler) nextName() string {
	f.next++
	return filepath.Join(f.s.wal, fmt.Sprintf("%s%d", sparePrefix, f.next))
}

// take gives a spare the name path and tells whether there was one.
func (f *filler) take(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := len(f.spares); n > 0; n = len(f.spares) {
		spare := f.spares[n-1]
		f.spares = f.spares[:n-1]
		if f.s.cfg.FS.Rename(spare, path) == nil {
			return true
		}
	}
	return false
}

// recycle makes the segment file at path a spare, without its slots, and
// tells whether it did; if not, the file may be gone.
func (f *filler) recycle(path string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.room() {
		return false
	}
	name := f.nextName()
	temp := name + tempSuffix
	if f.s.cfg.FS.Rename(path, temp) != nil {
		return false
	}
	if f.clearSlots(temp) != nil || f.s.cfg.FS.Rename(temp, name) != nil {
		_ = f.s.cfg.FS.Remove(temp) // Open removes it if this does not
		return true
	}
	f.spares = append(f.spares, name)
	return true
}

// room tells whether one more pruned segment is worth keeping: overwriting it
// costs neither new blocks nor new pages. mu is held.
func (f *filler) room() bool {
	f.s.mu.Lock()
	segSize := f.s.meta.SegSize
	f.s.mu.Unlock()
	return f.want > 0 && int64(len(f.spares)) < max(int64(f.want), maxRecycled/max(segSize, 1))
}

func (f *filler) clearSlots(path string) error {
	f.s.mu.Lock()
	segSize := f.s.meta.SegSize
	f.s.mu.Unlock()
	file, err := f.s.cfg.FS.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(make([]byte, trailerSize), segSize)
	if err == nil {
		err = file.Sync()
	}
	if cerr := file.Close(); err == nil {
		err = cerr
	}
	return err
}

// renew drops all spares, whose bytes may be of a log that is no more, and
// makes a first one, so that the first segment is preallocated too. op is
// held.
func (f *filler) renew() {
	f.mu.Lock()
	for _, name := range f.spares {
		if err := f.s.cfg.FS.Remove(name); err != nil {
			f.s.cfg.Log.Debug("spare segment not removed", "error", err)
		}
	}
	f.spares = nil
	f.life++
	f.mu.Unlock()
	if f.missing() {
		if err := f.fill(context.Background()); err != nil {
			f.s.cfg.Log.Debug("no spare segment made", "error", err)
		}
	}
	f.wake()
}
