package spool

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"understudy/shipper/pos"
)

// Meta is what a spool promises durably besides its bytes.
type Meta struct {
	Store    string      // random id of this store, recorded in the ledger
	Group    string      // the group it serves
	SystemID uint64      // PostgreSQL's system identifier; 0 before Begin
	SegSize  int64       // bytes per WAL segment; 0 before Begin
	Fence    pos.Epoch   // no older epoch may append
	Lineage  pos.Lineage // the adopted history
	Base     pos.LSN     // first byte of the log; 0 = no log yet
	Fed      bool        // a local walreceiver's flush may have been acknowledged
	Clean    bool        // the spool was closed in order before this Open
}

// stored is Meta with what recovery needs to finish a cut.
type stored struct {
	Meta
	// Cuts counts the cuts of the log (Begin, Reset and Adopt count as one).
	// A cut is finished when the segment that holds CutAt has a slot with this
	// number, or when CutAt is the end of the log at a segment boundary.
	Cuts  uint64
	CutAt pos.LSN
}

const (
	metaName    = "meta.json"
	metaTemp    = "meta.json.tmp"
	metaVersion = 1
	maxMeta     = 4 << 20
	walDirName  = "wal"
	tailDirName = "tail"
)

type metaEnvelope struct {
	Version int             `json:"version"`
	CRC32C  uint32          `json:"crc32c"`
	Meta    json.RawMessage `json:"meta"`
}

// readMeta returns ErrNoStore when the file does not exist.
func readMeta(fsys FS, dir string) (stored, error) {
	raw, err := readSmall(fsys, filepath.Join(dir, metaName))
	if errors.Is(err, fs.ErrNotExist) {
		return stored{}, fmt.Errorf("%w: %s has no %s", ErrNoStore, dir, metaName)
	}
	if err != nil {
		return stored{}, fmt.Errorf("read spool meta: %w", err)
	}
	var env metaEnvelope
	if err := json.Unmarshal(raw, &env); err != nil {
		return stored{}, fmt.Errorf("read spool meta: %w: %w", ErrCorrupt, err)
	}
	if env.Version != metaVersion {
		return stored{}, fmt.Errorf("read spool meta: %w: format version %d, this program reads %d", ErrCorrupt, env.Version, metaVersion)
	}
	if crc32.Checksum(env.Meta, castagnoli) != env.CRC32C {
		return stored{}, fmt.Errorf("read spool meta: %w: checksum of %s does not match", ErrCorrupt, metaName)
	}
	var m stored
	if err := json.Unmarshal(env.Meta, &m); err != nil {
		return stored{}, fmt.Errorf("read spool meta: %w: %w", ErrCorrupt, err)
	}
	if err := m.check(); err != nil {
		return stored{}, fmt.Errorf("read spool meta: %w: %w", ErrCorrupt, err)
	}
	return m, nil
}

func readSmall(fsys FS, name string) ([]byte, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return nil, err
	}
	if n > maxMeta {
		return nil, fmt.Errorf("%w: %d bytes", ErrCorrupt, n)
	}
	b := make([]byte, n)
	if got, err := f.ReadAt(b, 0); int64(got) < n {
		return nil, errors.Join(io.ErrUnexpectedEOF, err)
	}
	return b, nil
}

func (m stored) check() error {
	if m.Store == "" {
		return errors.New("no store id")
	}
	if err := m.Lineage.Validate(); err != nil {
		return err
	}
	if m.Base != 0 {
		return checkLog(m.SegSize, m.Base)
	}
	return nil
}

// checkLog validates the segment size and the start of a log. PostgreSQL's
// segments have 1 MiB to 1 GiB; smaller ones are accepted down to 16 KiB.
func checkLog(segSize int64, base pos.LSN) error {
	if segSize < 16<<10 || segSize > 1<<30 || segSize&(segSize-1) != 0 {
		return fmt.Errorf("segment size %d is not a power of two between 16 KiB and 1 GiB", segSize)
	}
	if base == 0 || base != base.SegStart(segSize) {
		return fmt.Errorf("log start %s is not on a boundary of segments of %d bytes", base, segSize)
	}
	return nil
}

// writeMeta replaces the meta file durably. doubt is true when it failed so
// late that either version may be found after a crash.
func writeMeta(fsys FS, dir string, m stored) (doubt bool, err error) {
	body, err := json.Marshal(m)
	if err != nil {
		return false, fmt.Errorf("encode spool meta: %w", err)
	}
	raw, err := json.Marshal(metaEnvelope{Version: metaVersion, CRC32C: crc32.Checksum(body, castagnoli), Meta: body})
	if err != nil {
		return false, fmt.Errorf("encode spool meta: %w", err)
	}
	raw = append(bytes.TrimSpace(raw), '\n')
	temp := filepath.Join(dir, metaTemp)
	if err := writeFile(fsys, temp, raw); err != nil {
		return false, diskErr("write spool meta", err)
	}
	if err := fsys.Rename(temp, filepath.Join(dir, metaName)); err != nil {
		return true, diskErr("replace spool meta", err)
	}
	if err := fsys.SyncDir(dir); err != nil {
		return true, diskErr("sync spool directory", err)
	}
	return false, nil
}

// writeFile creates or replaces a file with b and syncs it, not its entry.
func writeFile(fsys FS, name string, b []byte) error {
	f, err := fsys.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

func (m stored) clone() stored {
	m.Lineage = slices.Clone(m.Lineage)
	return m
}

// Peek reads what the spool in dir promises without opening it; nothing is
// changed. ErrNoStore is returned when there is none.
func Peek(dir string) (Meta, error) {
	m, err := readMeta(OS(), dir)
	return m.Meta, err
}
