// Package tail keeps what an old primary wrote beyond the fork: the divergent
// tail of its log, byte for byte, and what the transactions in it had done,
// before a rewind or a seed overwrites it.
//
// A kept tail is a directory of whole segment files, named as PostgreSQL names
// them and readable by stock pg_waldump, and a report. It appears under its
// name in one step, complete and durable, or not at all.
package tail

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/shipper/walfmt"
)

// Errors a caller acts on. With each of them nothing new stands under Dir.
var (
	// ErrNoSpace is returned when the disk or the quota is full; the cause is
	// wrapped. A later call succeeds once there is room.
	ErrNoSpace = errors.New("no space left for the divergent tail")
	// ErrTooLarge is returned when the tail is longer than Config.MaxBytes.
	// Permanent for that tail and bound.
	ErrTooLarge = errors.New("the divergent tail is larger than allowed")
	// ErrMissing is returned when the source ends before the tail does.
	ErrMissing = errors.New("the log does not hold the whole divergent tail")
)

// Config says what to keep and where.
type Config struct {
	// Source is the old primary's log, such as spool.Dir of its pg_wal. Its
	// PostgreSQL is stopped, so that the log does not move.
	Source walfmt.Source
	// From is the fork and To the end of the old primary's log, End.LogEnd of
	// walfmt.FindEnd.
	From, To pos.LSN
	SegSize  int64  // bytes in a segment
	SystemID uint64 // system identifier; 0 accepts any
	Major    int    // PostgreSQL's major version; 0 finds out
	// Timeline and Epoch are those the tail was written on.
	Timeline pos.Timeline
	Epoch    pos.Epoch
	// Dir holds the kept tails, one directory each; it is made when missing,
	// its parent is not.
	Dir string
	// Resolve names a relation for people; nil, or false, leaves the numbers.
	Resolve func(db, relfilenode uint32) (name string, ok bool)
	// MaxBytes bounds To-From; zero means 16 GiB.
	MaxBytes int64
	// FS is the file system of Dir; nil means the operating system's.
	FS spool.FS
}

const (
	defaultMaxBytes = 16 << 30
	reportName      = "report.json"
	partSuffix      = ".part" // of a directory that is not complete
	maxSameName     = 1000    // tails of one epoch and fork
)

func (c Config) check() (Config, error) {
	if c.FS == nil {
		c.FS = spool.OS()
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = defaultMaxBytes
	}
	switch {
	case c.Source == nil || c.Dir == "":
		return c, errors.New("no source or no directory is set")
	case c.SegSize < 1<<20 || c.SegSize&(c.SegSize-1) != 0:
		return c, fmt.Errorf("%w: %d bytes", walfmt.ErrSegmentSize, c.SegSize)
	case c.Timeline == 0 || c.Epoch.IsZero():
		return c, errors.New("no timeline or no epoch is set")
	case c.To < c.From:
		return c, fmt.Errorf("the log ends at %s, before the fork at %s", c.To, c.From)
	case c.To.Sub(c.From) > uint64(c.MaxBytes):
		return c, fmt.Errorf("%w: %d bytes, %d are allowed", ErrTooLarge, c.To.Sub(c.From), c.MaxBytes)
	}
	c.Dir = filepath.Clean(c.Dir)
	return c, nil
}

func (c Config) params() walfmt.Params {
	return walfmt.Params{SegSize: c.SegSize, SystemID: c.SystemID, Major: c.Major}
}

// Keep copies the tail [From, To) under Dir and tells what was in it. The first
// segment is kept from its start on. On return without an error everything is
// durable. A tail of the same range that is already there is left as it is and
// its report returned; the same fork with another end gets a directory of its
// own, and the older one stays. An empty tail gives an empty report and writes
// nothing. Bytes that are no records are kept like all others; see
// Report.Decoded. After an error or a crash Keep is called again and begins
// anew. Only one Keep may run on a Dir.
func Keep(ctx context.Context, cfg Config) (Report, error) {
	rep, err := keep(ctx, cfg)
	if err == nil {
		return rep, nil
	}
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		err = fmt.Errorf("%w: %w", ErrNoSpace, err)
	}
	return Report{}, fmt.Errorf("keep the divergent tail of epoch %s from %s to %s: %w", cfg.Epoch, cfg.From, cfg.To, err)
}

func keep(ctx context.Context, cfg Config) (Report, error) {
	cfg, err := cfg.check()
	if err != nil {
		return Report{}, err
	}
	if cfg.From == cfg.To {
		return cfg.emptyReport(), nil
	}
	if err := makeDir(cfg.FS, cfg.Dir); err != nil {
		return Report{}, err
	}
	name, found, err := cfg.place()
	if err != nil {
		return Report{}, err
	}
	if found != nil {
		// A crash may have come between its rename and this.
		return *found, cfg.FS.SyncDir(cfg.Dir)
	}
	k := &keeper{cfg: cfg, final: filepath.Join(cfg.Dir, name)}
	k.temp = k.final + partSuffix
	rep, err := k.run(ctx)
	if err != nil {
		_ = removeTree(cfg.FS, k.temp) // the next Keep does it, if this fails
		return Report{}, err
	}
	return rep, nil
}

// emptyReport is the report of the tail before anything of it is known.
func (c Config) emptyReport() Report {
	return Report{Epoch: c.Epoch, SystemID: c.SystemID, Timeline: c.Timeline, From: c.From, To: c.To,
		Bytes: int64(c.To.Sub(c.From)), Decoded: c.From}
}

// place removes what an interrupted Keep left and finds the tail, if it is
// kept already, or a free name for it.
func (c Config) place() (name string, found *Report, err error) {
	names, err := c.FS.ReadDir(c.Dir)
	if err != nil {
		return "", nil, err
	}
	for _, n := range names {
		if strings.HasSuffix(n, partSuffix) {
			if err := removeTree(c.FS, filepath.Join(c.Dir, n)); err != nil {
				return "", nil, fmt.Errorf("remove an unfinished copy: %w", err)
			}
		}
	}
	base := c.Epoch.String() + "-" + strings.ReplaceAll(c.From.String(), "/", "_")
	name = base
	for n := 2; slices.Contains(names, name); n++ {
		if n > maxSameName {
			return "", nil, fmt.Errorf("%d tails stand in %s under the name %s; move some away", maxSameName, c.Dir, base)
		}
		rep, err := readReport(c.FS, filepath.Join(c.Dir, name))
		// One that cannot be read only takes up its name: its segments may
		// still be good.
		if err == nil && rep.sameRange(c) {
			return name, &rep, nil
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
	return name, nil, nil
}

// makeDir makes dir durably, if it is missing.
func makeDir(fsys spool.FS, dir string) error {
	if err := fsys.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return fsys.SyncDir(filepath.Dir(dir))
}

// removeTree removes a directory of files; one that is missing is no error.
func removeTree(fsys spool.FS, dir string) error {
	names, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := fsys.Remove(filepath.Join(dir, n)); err != nil {
			return err
		}
	}
	return fsys.Remove(dir)
}
