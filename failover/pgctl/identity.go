package pgctl

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
)

// Build is what server binaries were built for.
type Build struct {
	Major          int
	Version        string
	Architecture   string // of the processor
	BlockSize      int
	CatalogVersion uint32 // zero when it cannot be told
}

// Build asks the binaries, as the account: the server refuses root. They need
// no data directory for it.
func (in Install) Build(ctx context.Context, a Account) (Build, error) {
	b := Build{Major: in.Major, Version: in.Version, Architecture: runtime.GOARCH}
	s := &Server{Install: in, Account: a}
	out, err := s.tool(ctx, "postgres", "-C", "block_size", "-c", "config_file=/dev/null", "-D", "/")
	if err != nil {
		return Build{}, err
	}
	if b.BlockSize, err = strconv.Atoi(strings.TrimSpace(out)); err != nil {
		return Build{}, fmt.Errorf("ask for the block size: %w", err)
	}
	b.CatalogVersion, err = in.catalogVersion()
	return b, err
}

// maxBinary bounds what is searched of the server's binary.
const maxBinary = 256 << 20

// catalogVersion finds the name of the directory that a tablespace gets, which
// holds the catalog version and stands in the binary.
func (in Install) catalogVersion() (uint32, error) {
	f, err := os.Open(filepath.Join(in.BinDir, "postgres"))
	if err != nil {
		return 0, fmt.Errorf("look for the catalog version: %w", err)
	}
	defer f.Close()
	name := regexp.MustCompile(fmt.Sprintf(`PG_%d_([0-9]{9})\x00`, in.Major))
	const overlap = 32
	buf := make([]byte, 1<<20+overlap)
	for off := int64(0); off < maxBinary; off += int64(len(buf) - overlap) {
		n, err := f.ReadAt(buf, off)
		if m := name.FindSubmatch(buf[:n]); m != nil {
			v, err := strconv.ParseUint(string(m[1]), 10, 32)
			return uint32(v), err
		}
		if err != nil {
			break // the end
		}
	}
	return 0, nil
}

// Bounds of where pg_control's checksum may lie: behind what every version has,
// and within what is written in one sector.
const (
	minControl = 200
	maxControl = 512
)

// ErrControl is returned for bytes that are no pg_control.
var ErrControl = errors.New("not a valid pg_control")

// WithSystemID returns the content of a pg_control with another system
// identifier. The identifier stands first in every version; the checksum is
// found as the one place whose value is that of all bytes before it.
func WithSystemID(control []byte, id uint64) ([]byte, error) {
	if id == 0 {
		return nil, fmt.Errorf("%w: zero is no system identifier", ErrControl)
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	for at := minControl; at+4 <= min(len(control), maxControl); at += 4 {
		if crc32.Checksum(control[:at], table) != binary.NativeEndian.Uint32(control[at:]) {
			continue
		}
		out := append([]byte(nil), control...)
		binary.NativeEndian.PutUint64(out, id)
		binary.NativeEndian.PutUint32(out[at:], crc32.Checksum(out[:at], table))
		return out, nil
	}
	return nil, fmt.Errorf("%w: its checksum does not match", ErrControl)
}

// Renew makes of a cleanly stopped database another one: it gets the system
// identifier id, and empty log with it. A call that was interrupted is repeated
// with the same id.
func (s *Scratch) Renew(ctx context.Context, id uint64) error {
	if s.Running() {
		return errors.New("change the system identifier: the server runs")
	}
	srv := s.server()
	c, err := srv.Control(ctx)
	if err != nil {
		return fmt.Errorf("change the system identifier: %w", err)
	}
	if !c.CleanShutdown() {
		return fmt.Errorf("change the system identifier: the database was not shut down cleanly (%s)", c.State)
	}
	if c.SystemID != id {
		old, err := os.ReadFile(filepath.Join(s.DataDir, "global", "pg_control"))
		if err != nil {
			return fmt.Errorf("change the system identifier: %w", err)
		}
		b, err := WithSystemID(old, id)
		if err != nil {
			return fmt.Errorf("change the system identifier: %w", err)
		}
		if err := srv.owned("global/pg_control", string(b)); err != nil {
			return fmt.Errorf("change the system identifier: %w", err)
		}
	}
	// The log names the identifier, too; the tool writes a new one behind it.
	if _, err := srv.tool(ctx, "pg_resetwal", "-D", s.DataDir); err != nil {
		return fmt.Errorf("change the system identifier: %w", err)
	}
	return nil
}
