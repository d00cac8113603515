package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"understudy/shipper/frame"
)

// reportEvery is how many bytes pass between two progress reports.
const reportEvery = 16 << 20

// receive runs the seed up to the last frame.
func (s *seeding) receive() error {
	if err := s.introduce(); err != nil {
		return err
	}
	if err := s.step(StepHave); err != nil {
		return err
	}
	if err := s.sendHoldings(); err != nil {
		return err
	}
	if err := s.readPlan(); err != nil {
		return err
	}
	places, err := s.choosePlaces()
	if err != nil {
		return err
	}
	if err := s.step(StepMark); err != nil {
		return err
	}
	if err := s.markAll(places); err != nil {
		return err
	}
	if err := s.tree.open(places); err != nil {
		return err
	}
	if err := s.step(StepClear); err != nil {
		return err
	}
	if err := s.clear(); err != nil {
		return fmt.Errorf("clear the data directory: %w", err)
	}
	if s.list, err = newListing(s.tree.root); err != nil {
		return err
	}
	if err := s.files(); err != nil {
		return errors.Join(err, s.list.close())
	}
	return s.list.close()
}

// introduce asks for the seed and compares the two databases.
func (s *seeding) introduce() error {
	if err := s.step(StepAsk); err != nil {
		return err
	}
	host := hostID()
	if err := s.writeJSON(frame.SeedAsk, ask{SystemID: s.cfg.SystemID, Major: s.cfg.Major, Node: s.cfg.Node, Host: host}); err != nil {
		return err
	}
	var a ask
	if err := s.expect(frame.SeedAsk, &a); err != nil {
		return err
	}
	s.sameHost = host != "" && a.Host == host
	return s.compare(a.SystemID, a.Major)
}

func (s *seeding) compare(systemID uint64, major int) error {
	if systemID == 0 || s.cfg.SystemID != 0 && systemID != s.cfg.SystemID {
		return fmt.Errorf("%w: its system identifier is %d, expected is %d", ErrMismatch, systemID, s.cfg.SystemID)
	}
	if major == 0 || s.cfg.Major != 0 && major != s.cfg.Major {
		return fmt.Errorf("%w: it is of PostgreSQL %d, this node has PostgreSQL %d", ErrMismatch, major, s.cfg.Major)
	}
	return nil
}

func (s *seeding) readPlan() error {
	if err := s.expect(frame.SeedPlan, &s.plan); err != nil {
		return err
	}
	if s.plan.StartLSN == 0 || s.plan.Timeline == 0 {
		return fmt.Errorf("%w: the plan has no position", ErrProtocol)
	}
	return s.compare(s.plan.SystemID, s.plan.Major)
}

// clear takes away what would let PostgreSQL start, and every tablespace link,
// so that no path of the base leads through an old one.
func (s *seeding) clear() error {
	for _, name := range []string{controlPath, controlAside} {
		if err := s.tree.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	links, err := fs.ReadDir(s.tree.root.FS(), "pg_tblspc")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, l := range links {
		if l.Type()&fs.ModeSymlink != 0 {
			if err := s.tree.root.Remove(path.Join("pg_tblspc", l.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// incoming is the file whose chunks arrive; nil between files.
type incoming struct {
	head fileHeader
	f    *os.File
	off  int64
	crc  uint32
	sent bool // some chunk was not here
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// files stores what arrives until the end frame.
func (s *seeding) files() (err error) {
	var cur *incoming
	defer func() {
		if cur != nil {
			err = errors.Join(err, cur.f.Close())
		}
	}()
	kept := make([]byte, chunkSize)
	for {
		t, p, err := s.next()
		if err != nil {
			return err
		}
		switch t {
		case frame.SeedProgress:
			continue
		case frame.SeedChunk:
			err = s.chunk(cur, p)
		case frame.SeedSame:
			err = s.keep(cur, p, kept)
		case frame.SeedFile, frame.SeedEnd:
			done := cur
			cur = nil
			if err = s.complete(done); err != nil {
				return err
			}
			if t == frame.SeedEnd {
				return s.ended(p)
			}
			cur, err = s.begin(p)
		default:
			err = fmt.Errorf("%w: frame type %v among the files", ErrProtocol, t)
		}
		if err != nil {
			return err
		}
	}
}

// begin opens what a file frame announces; nil for a directory.
func (s *seeding) begin(p []byte) (*incoming, error) {
	if err := s.step(StepFiles); err != nil {
		return nil, err
	}
	var h fileHeader
	if err := frame.DecodeJSON(frame.SeedFile, p, &h); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if err := checkPath(h.Path); err != nil {
		return nil, err
	}
	switch {
	case h.Kind == kindDir:
		if h.Path == "global" {
			s.group = h.Mode&0o040 != 0
		}
		if err := s.tree.mkdir(h.Path, dirMode(h.Mode)); err != nil {
			return nil, fmt.Errorf("make directory %s: %w", h.Path, err)
		}
		root, name := s.tree.locate(h.Path)
		if err := s.tree.chown(root, name); err != nil {
			return nil, fmt.Errorf("make directory %s: %w", h.Path, err)
		}
		return nil, s.list.addDir(h.Path)
	case h.Kind == kindFile && (h.Size < 0 || h.Size > maxFileBytes || within(h.Path, "pg_wal") || h.Path == "backup_manifest"),
		h.Kind == kindManifest && h.Path != "backup_manifest",
		h.Kind != kindFile && h.Kind != kindManifest:
		return nil, fmt.Errorf("%w: %s %q of %d bytes", ErrProtocol, h.Kind, h.Path, h.Size)
	}
	if h.Kind == kindManifest {
		h.Size = maxManifestBytes
	}
	f, err := s.tree.create(h.Path)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", h.Path, err)
	}
	return &incoming{head: h, f: f}, nil
}

func (s *seeding) chunk(cur *incoming, p []byte) error {
	if err := checkChunk(cur, len(p)); err != nil {
		return err
	}
	if _, err := cur.f.WriteAt(p, cur.off); err != nil {
		return fmt.Errorf("write %s: %w", cur.head.Path, err)
	}
	cur.sent = true
	return s.advance(cur, p)
}

// keep reads again what is here, for its checksum.
func (s *seeding) keep(cur *incoming, p, buf []byte) error {
	if len(p) != 4 {
		return fmt.Errorf("%w: a held chunk's frame has %d bytes", ErrProtocol, len(p))
	}
	n := binary.LittleEndian.Uint32(p)
	if n > chunkSize {
		return fmt.Errorf("%w: a chunk of %d bytes", ErrProtocol, n)
	}
	if err := checkChunk(cur, int(n)); err != nil {
		return err
	}
	if _, err := cur.f.ReadAt(buf[:n], cur.off); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %s is not held as far as the sender says", ErrProtocol, cur.head.Path)
		}
		return fmt.Errorf("read %s: %w", cur.head.Path, err)
	}
	s.same += uint64(n)
	return s.advance(cur, buf[:n])
}

func checkChunk(cur *incoming, n int) error {
	if cur == nil {
		return fmt.Errorf("%w: a chunk outside a file", ErrProtocol)
	}
	if n == 0 || n > chunkSize || cur.off%chunkSize != 0 || int64(n) > cur.head.Size-cur.off {
		return fmt.Errorf("%w: a chunk of %d bytes at %d of %s", ErrProtocol, n, cur.off, cur.head.Path)
	}
	return nil
}

func (s *seeding) advance(cur *incoming, p []byte) error {
	cur.crc = crc32.Update(cur.crc, castagnoli, p)
	cur.off += int64(len(p))
	s.done += uint64(len(p))
	if s.done-s.shown >= reportEvery {
		s.report(StepFiles)
		return s.writeJSON(frame.SeedProgress, progress{Step: StepFiles, DoneBytes: s.done})
	}
	return nil
}

// complete cuts the file to its size, gives it mode and owner, and lists it.
func (s *seeding) complete(cur *incoming) error {
	if cur == nil {
		return nil
	}
	err := s.settle(cur)
	if err = errors.Join(err, cur.f.Close()); err != nil {
		return fmt.Errorf("complete %s: %w", cur.head.Path, err)
	}
	if cur.head.Kind == kindManifest {
		s.manifestBytes = cur.off
		return nil
	}
	s.fileN++
	return s.list.addFile(cur.head.Path, cur.head.Size, cur.crc)
}

func (s *seeding) settle(cur *incoming) error {
	if cur.head.Kind == kindFile && cur.off != cur.head.Size {
		return fmt.Errorf("%w: %d bytes of %d", ErrProtocol, cur.off, cur.head.Size)
	}
	if err := cur.f.Truncate(cur.off); err != nil {
		return err
	}
	if err := cur.f.Chmod(fileMode(cur.head.Mode)); err != nil {
		return err
	}
	if o := s.cfg.Owner; o != nil {
		if err := cur.f.Chown(o.UID, o.GID); err != nil {
			return err
		}
	}
	if cur.sent {
		// Only a hint to start writing, so that the sync at the end is
		// short; file systems without it answer with an error.
		_ = unix.SyncFileRange(int(cur.f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	return nil
}

// ended reads the end frame and tells the sender that it may go.
func (s *seeding) ended(p []byte) error {
	if err := frame.DecodeJSON(frame.SeedEnd, p, &s.end); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	if s.end.StartLSN != s.plan.StartLSN || s.end.EndLSN < s.end.StartLSN || s.end.Timeline == 0 {
		return fmt.Errorf("%w: the base ends at %s on timeline %d but began at %s", ErrProtocol, s.end.EndLSN, s.end.Timeline, s.plan.StartLSN)
	}
	if s.end.FileN != s.fileN || s.end.ManifestBytes != s.manifestBytes || s.manifestBytes == 0 {
		return fmt.Errorf("%w: %d files and %d bytes of manifest arrived, %d and %d were sent", ErrProtocol, s.fileN, s.manifestBytes, s.end.FileN, s.end.ManifestBytes)
	}
	// The base is here; that the sender does not hear so costs only a line
	// in its log.
	_ = s.writeJSON(frame.SeedProgress, progress{Step: stepReceived, DoneBytes: s.done})
	return nil
}
