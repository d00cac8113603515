package tail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
)

const chunkBytes = 1 << 20

// keeper is one copy being made.
type keeper struct {
	cfg         Config
	temp, final string // where it is made, and its name once it is complete
	files       []string
}

func (k *keeper) run(ctx context.Context) (Report, error) {
	if err := k.cfg.FS.Mkdir(k.temp, 0o700); err != nil {
		return Report{}, err
	}
	for seg := k.cfg.From.SegStart(k.cfg.SegSize); seg < k.cfg.To; seg += pos.LSN(k.cfg.SegSize) {
		if err := k.copySegment(ctx, seg); err != nil {
			return Report{}, err
		}
	}
	// What was kept is decoded, not the source: a bad copy shows now.
	rep, err := k.decode(ctx)
	if err != nil {
		return Report{}, err
	}
	rep.Files = k.files
	if err := k.writeReport(rep); err != nil {
		return Report{}, err
	}
	if err := k.cfg.FS.SyncDir(k.temp); err != nil {
		return Report{}, err
	}
	if err := k.cfg.FS.Rename(k.temp, k.final); err != nil {
		return Report{}, err
	}
	rep.Path = k.final
	return rep, k.cfg.FS.SyncDir(k.cfg.Dir)
}

// copySegment keeps the segment that begins at seg, up to the end of the tail;
// the rest of the file stays a hole.
func (k *keeper) copySegment(ctx context.Context, seg pos.LSN) (err error) {
	name := pos.SegName(k.cfg.Timeline, seg, k.cfg.SegSize)
	f, err := k.cfg.FS.OpenFile(filepath.Join(k.temp, name), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(k.cfg.SegSize); err != nil {
		return err
	}
	buf := make([]byte, min(chunkBytes, k.cfg.SegSize))
	end := min(seg.SegEnd(k.cfg.SegSize), k.cfg.To)
	for at := seg; at < end; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p := buf[:min(uint64(len(buf)), end.Sub(at))]
		if err := readFull(k.cfg.Source, p, at); err != nil {
			return err
		}
		if _, err := f.WriteAt(p, int64(at-seg)); err != nil {
			return err
		}
		at += pos.LSN(len(p))
	}
	k.files = append(k.files, name)
	return f.Sync()
}

// readFull fills p from at on.
func readFull(src interface {
	ReadWAL(p []byte, at pos.LSN) (int, error)
}, p []byte, at pos.LSN) error {
	for len(p) > 0 {
		n, err := src.ReadWAL(p, at)
		p, at = p[n:], at+pos.LSN(n)
		switch {
		case len(p) == 0:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("%w: it ends at %s", ErrMissing, at)
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("read WAL at %s: %w", at, io.ErrNoProgress)
		}
	}
	return nil
}

// writeReport writes the report and makes it durable.
func (k *keeper) writeReport(rep Report) (err error) {
	b, err := json.MarshalIndent(stored{Version: reportVersion, Report: rep}, "", " ")
	if err != nil {
		return fmt.Errorf("encode the report: %w", err)
	}
	f, err := k.cfg.FS.OpenFile(filepath.Join(k.temp, reportName), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.WriteAt(append(b, '\n'), 0); err != nil {
		return err
	}
	return f.Sync()
}

// kept reads the copied segments as a log that ends at To.
type kept struct {
	cfg  Config
	dir  string
	name string
	file spool.File // the segment name, open; nil for none
}

// ReadWAL implements walfmt.Source.
func (s *kept) ReadWAL(p []byte, at pos.LSN) (int, error) {
	done := 0
	for done < len(p) {
		here := at + pos.LSN(done)
		left := min(s.cfg.To, here.SegEnd(s.cfg.SegSize)).Sub(here)
		if left == 0 || here < s.cfg.From.SegStart(s.cfg.SegSize) {
			return done, io.EOF
		}
		if err := s.open(here); err != nil {
			return done, err
		}
		part := p[done:min(uint64(len(p)), uint64(done)+left)]
		n, err := s.file.ReadAt(part, int64(here-here.SegStart(s.cfg.SegSize)))
		done += n
		if n < len(part) {
			return done, fmt.Errorf("read back the copy at %s: %w", here+pos.LSN(n), err)
		}
	}
	return done, nil
}

func (s *kept) open(at pos.LSN) error {
	name := pos.SegName(s.cfg.Timeline, at, s.cfg.SegSize)
	if s.file != nil && s.name == name {
		return nil
	}
	if err := s.close(); err != nil {
		return err
	}
	f, err := s.cfg.FS.OpenFile(filepath.Join(s.dir, name), os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	s.file, s.name = f, name
	return nil
}

func (s *kept) close() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return f.Close()
}
