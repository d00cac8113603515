package restore

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// manifestFile is one entry of backup_manifest.
type manifestFile struct {
	Path        string `json:"Path"`
	EncodedPath string `json:"Encoded-Path"` // hex, when the path is no UTF-8
	Size        int64  `json:"Size"`
	Algorithm   string `json:"Checksum-Algorithm"`
	Checksum    string `json:"Checksum"`
}

// verify compares what arrived with the manifest, entry by entry: PostgreSQL
// writes the manifest in the order in which it sends the files. The checksums
// were computed from the bytes as they were written or, for held chunks, read.
func (s *seeding) verify() error {
	if err := s.verifyIdentity(); err != nil {
		return err
	}
	f, err := s.tree.root.Open("backup_manifest")
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBase, err)
	}
	defer f.Close()
	if err := verifyManifestSum(f); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	arrived, err := s.list.read()
	if err != nil {
		return err
	}
	defer arrived.close()
	need := map[string]bool{"PG_VERSION": true, "backup_label": true, controlPath: true}
	err = eachManifestFile(f, func(m manifestFile) error {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		e, err := arrived.nextFile()
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %s is in the manifest but did not arrive", ErrBase, m.Path)
		}
		if err != nil {
			return fmt.Errorf("read the list of files: %w", err)
		}
		delete(need, e.path)
		return s.verifyFile(m, e)
	})
	if err != nil {
		return err
	}
	if e, err := arrived.nextFile(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: %s is not in the manifest", ErrBase, e.path)
	}
	for p := range need {
		return fmt.Errorf("%w: it has no %s", ErrBase, p)
	}
	return nil
}

// verifyFile compares one entry, what arrived and what the directory says.
func (s *seeding) verifyFile(m manifestFile, e entry) error {
	if m.EncodedPath != "" {
		raw, err := hex.DecodeString(m.EncodedPath)
		if err != nil {
			return fmt.Errorf("%w: manifest path %.200q", ErrBase, m.EncodedPath)
		}
		m.Path = string(raw)
	}
	if m.Path != e.path || m.Size != e.size {
		return fmt.Errorf("%w: %s of %d bytes arrived where the manifest has %s of %d", ErrBase, e.path, e.size, m.Path, m.Size)
	}
	sum, err := hex.DecodeString(m.Checksum)
	if err != nil || m.Algorithm != "CRC32C" || len(sum) != 4 {
		return fmt.Errorf("%w: %s has a %s checksum in the manifest, CRC32C was asked for", ErrBase, m.Path, m.Algorithm)
	}
	// PostgreSQL writes the sum as it lies in memory.
	if binary.NativeEndian.Uint32(sum) != e.crc {
		return fmt.Errorf("%w: the checksum of %s does not match the manifest", ErrBase, m.Path)
	}
	root, name := s.tree.locate(e.path)
	fi, err := root.Lstat(name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrBase, err)
	}
	if !fi.Mode().IsRegular() || fi.Size() != e.size {
		return fmt.Errorf("%w: %s has %d bytes on disk instead of %d", ErrBase, e.path, fi.Size(), e.size)
	}
	return nil
}

// verifyIdentity looks into pg_control and PG_VERSION, as the plan is only
// the sender's word.
func (s *seeding) verifyIdentity() error {
	root, name := s.tree.locate(controlPath)
	control, err := readSmall(root, name)
	if err != nil || len(control) < 8 {
		return fmt.Errorf("%w: %s is missing or short", ErrBase, controlPath)
	}
	if id := binary.NativeEndian.Uint64(control); id != s.plan.SystemID {
		return fmt.Errorf("%w: %s has system identifier %d instead of %d", ErrBase, controlPath, id, s.plan.SystemID)
	}
	version, err := readSmall(s.tree.root, "PG_VERSION")
	if err != nil {
		return fmt.Errorf("%w: PG_VERSION is missing", ErrBase)
	}
	if v := strings.TrimSpace(string(version)); v != fmt.Sprint(s.plan.Major) {
		return fmt.Errorf("%w: PG_VERSION says %.20q instead of %d", ErrBase, v, s.plan.Major)
	}
	return nil
}

func readSmall(root *os.Root, name string) ([]byte, error) {
	f, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// eachManifestFile calls f for every entry, holding one at a time.
func eachManifestFile(r io.Reader, f func(manifestFile) error) error {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	bad := func(err error) error { return fmt.Errorf("%w: read the manifest: %w", ErrBase, err) }
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return bad(fmt.Errorf("no object (%v)", err))
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return bad(err)
		}
		if name != "Files" {
			var skipped json.RawMessage
			if err := dec.Decode(&skipped); err != nil {
				return bad(err)
			}
			continue
		}
		if t, err := dec.Token(); err != nil || t != json.Delim('[') {
			return bad(fmt.Errorf("no list of files (%v)", err))
		}
		for dec.More() {
			var m manifestFile
			if err := dec.Decode(&m); err != nil {
				return bad(err)
			}
			if err := f(m); err != nil {
				return err
			}
		}
		if _, err := dec.Token(); err != nil {
			return bad(err)
		}
	}
	return nil
}

// verifyManifestSum checks the manifest's own SHA-256, which stands in its
// last line and covers all lines before.
func verifyManifestSum(f *os.File) error {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	tail := make([]byte, min(size, 512))
	if _, err := f.ReadAt(tail, size-int64(len(tail))); err != nil {
		return err
	}
	line := bytes.LastIndexByte(bytes.TrimSuffix(tail, []byte("\n")), '\n') + 1
	_, rest, ok := strings.Cut(string(tail[line:]), `"Manifest-Checksum": "`)
	want, _, closed := strings.Cut(rest, `"`)
	if line == 0 || !ok || !closed {
		return fmt.Errorf("%w: the manifest has no checksum", ErrBase)
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size-int64(len(tail)-line))); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != want {
		return fmt.Errorf("%w: the manifest's own checksum does not match", ErrBase)
	}
	return nil
}
