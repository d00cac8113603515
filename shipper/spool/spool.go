// Package spool is the durable, byte-exact log of the WAL a node received,
// together with the node's durable promises: store id, lineage and fence.
//
// A spool is one directory. Appended bytes go to the page cache; Sync makes
// them durable, and what Sync returned is never lost again, whatever the
// process or the machine does. The bytes of a cut are moved aside, not
// erased. README.md has the format and the crash cases.
//
// All methods may be called concurrently. Mutating methods wait for each
// other, except that Append and Sync run side by side: everything appended
// while one fdatasync runs goes into the next.
package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"understudy/shipper/pos"
)

// Source is a contiguous stretch of WAL, across segments.
type Source interface {
	// ReadWAL fills p with the log from at on. Where the log ends it returns
	// the bytes that there are and io.EOF.
	ReadWAL(p []byte, at pos.LSN) (int, error)
}

// Config says where a spool is and how it reaches the disk.
type Config struct {
	// Dir is the directory of the spool; its parent must exist for Create.
	Dir string
	// FS is the file system; nil means OS().
	FS FS
	// Log receives warnings; nil discards them.
	Log *slog.Logger
	// SpareSegments is the number of preallocated segment files kept ready,
	// since fdatasync is much faster on a file that needs no new blocks.
	// Zero means 3; negative keeps none. Pruned segments are kept for reuse
	// besides, up to 1 GiB.
	SpareSegments int
	// Verify tells Open up to where the bytes of src from from on, found
	// beyond the last sync, are whole valid records. Those count as received.
	// nil counts none. An error of Verify is logged and counts none.
	Verify func(src Source, from pos.LSN) (pos.LSN, error)
}

func (c Config) withDefaults() Config {
	if c.FS == nil {
		c.FS = OS()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.SpareSegments == 0 {
		c.SpareSegments = 3
	}
	return c
}

// Spool is an open spool. The zero value is not usable: Create or Open one.
//
// Locks are taken in the order op, syncing, files, mu.
type Spool struct {
	cfg Config
	wal string // directory of the segment files

	// op serialises the methods that change the log or the meta. Sync does
	// not take it.
	op sync.Mutex
	// syncing is held while a batch is captured and synced: one at a time, so
	// that at most one slot is in flight.
	syncing sync.Mutex
	// files is held shared while segment files are read, exclusively while
	// bytes below the end are removed, recycled or overwritten.
	files   sync.RWMutex
	readers readerCache // guarded by its own lock; cleared under files

	// mu guards everything below; it is never held during I/O.
	mu       sync.Mutex
	meta     stored
	end      pos.LSN // bytes below are in the files
	durable  pos.LSN // bytes below are on disk; the next batch begins here
	crc      uint32  // CRC-32C of durable..end
	cur      *segment
	segs     map[pos.LSN]pos.Timeline // every segment file, by first byte
	pins     map[pos.LSN]int          // open SegmentFiles
	dirty    bool                     // the meta on disk says Clean=false
	wasClean bool
	doubt    bool // the meta on disk may be newer than meta
	cutting  bool // meta.CutAt is recorded but not carried out
	closed   bool
	problem  error
	grown    chan struct{} // closed when end or closed changes; nil without a waiter

	appended atomic.Int64 // bytes, ever; the filler derives the rate
	filler   *filler
}

// Create makes a new, empty spool for a store of a group and opens it. The
// directory may exist. ErrExists is returned when it holds a spool or log
// files already. The new spool is durable on return.
func Create(cfg Config, store, group string) (*Spool, error) {
	cfg = cfg.withDefaults()
	if store == "" {
		return nil, errors.New("create spool: the store id is empty")
	}
	if _, err := readMeta(cfg.FS, cfg.Dir); !errors.Is(err, ErrNoStore) {
		return nil, fmt.Errorf("create spool: %w: %s holds a spool", ErrExists, cfg.Dir)
	}
	wal := filepath.Join(cfg.Dir, walDirName)
	for _, d := range []string{cfg.Dir, wal, filepath.Join(cfg.Dir, tailDirName)} {
		if err := cfg.FS.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, diskErr("create spool", err)
		}
	}
	names, err := cfg.FS.ReadDir(wal)
	if err != nil {
		return nil, fmt.Errorf("create spool: %w", err)
	}
	if len(names) > 0 {
		return nil, fmt.Errorf("create spool: %w: %s holds files of a spool that lost its %s", ErrExists, wal, metaName)
	}
	m := stored{Meta: Meta{Store: store, Group: group}}
	if _, err := writeMeta(cfg.FS, cfg.Dir, m); err != nil {
		return nil, fmt.Errorf("create spool: %w", err)
	}
	if err := cfg.FS.SyncDir(filepath.Dir(cfg.Dir)); err != nil {
		return nil, diskErr("create spool", err)
	}
	return Open(cfg)
}

// Open opens an existing spool and recovers its end. ErrNoStore is returned
// when there is none, ErrCorrupt when bytes that were acknowledged are
// missing, ErrForeign when a file belongs to another store. On return
// everything up to End is durable.
func Open(cfg Config) (*Spool, error) {
	cfg = cfg.withDefaults()
	m, err := readMeta(cfg.FS, cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s := &Spool{
		cfg:      cfg,
		wal:      filepath.Join(cfg.Dir, walDirName),
		meta:     m,
		segs:     map[pos.LSN]pos.Timeline{},
		pins:     map[pos.LSN]int{},
		dirty:    !m.Clean,
		wasClean: m.Clean,
	}
	if err := s.recover(); err != nil {
		if s.cur != nil {
			_ = s.cur.f.Close() // nothing was written that recovery does not redo
		}
		return nil, fmt.Errorf("open spool: %w", err)
	}
	s.filler = startFiller(s)
	return s, nil
}

// Close syncs everything received, records that the spool was closed in
// order, and frees its files. Later calls return ErrClosed. After an error
// the next Open recovers as after a crash.
func (s *Spool) Close() error {
	s.filler.stop()
	s.op.Lock()
	defer s.op.Unlock()
	if s.isClosed() {
		return ErrClosed
	}
	err := s.settle()
	if err == nil {
		_, err = s.Sync()
	}
	if err == nil {
		err = s.scrubEnd()
	}
	s.mu.Lock()
	m := s.meta.clone()
	s.mu.Unlock()
	if err == nil && !m.Clean {
		m.Clean = true
		_, err = writeMeta(s.cfg.FS, s.cfg.Dir, m)
	}
	s.syncing.Lock()
	defer s.syncing.Unlock()
	s.files.Lock()
	defer s.files.Unlock()
	s.readers.clear()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wakeLocked()
	if s.cur != nil {
		if cerr := s.cur.f.Close(); err == nil {
			err = cerr
		}
		s.cur = nil
	}
	if err != nil {
		return fmt.Errorf("close spool: %w", err)
	}
	return nil
}

// scrubEnd zeroes what failed appends left beyond the end, so that a clean
// spool has nothing there.
func (s *Spool) scrubEnd() error {
	s.mu.Lock()
	cur, end := s.cur, s.end
	s.mu.Unlock()
	if cur == nil || cur.high <= end {
		return nil
	}
	if _, err := zeroRange(cur.f, cur.offset(end), cur.offset(cur.high)); err != nil {
		return diskErr("clear unused bytes", err)
	}
	return diskErr("clear unused bytes", cur.f.Sync())
}

// Meta is a copy of the durable promises. Clean tells how the spool was
// closed before this Open.
func (s *Spool) Meta() Meta {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.meta.clone().Meta
	m.Clean = s.wasClean
	return m
}

// Store is the random id of this store.
func (s *Spool) Store() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.Store
}

// Fence is the lowest epoch that may append; durable.
func (s *Spool) Fence() pos.Epoch {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.Fence
}

// Lineage is the adopted history; durable.
func (s *Spool) Lineage() pos.Lineage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.clone().Lineage
}

// Base is the first byte of the log; zero without a log.
func (s *Spool) Base() pos.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta.Base
}

// End is the byte after the last one received, which may not be durable yet.
func (s *Spool) End() pos.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end
}

// Durable is the LSN up to which the log is on disk.
func (s *Spool) Durable() pos.LSN {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.durable
}

// Size is the number of bytes the segment files take up.
func (s *Spool) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int64(len(s.segs)) * (s.meta.SegSize + trailerSize)
}

// Problem is the standing write error, nil after a later success.
func (s *Spool) Problem() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

func (s *Spool) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// note keeps a write error as the standing problem, or clears it.
func (s *Spool) note(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = err
	return err
}

func (s *Spool) wakeLocked() {
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
}
