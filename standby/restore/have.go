package restore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/zeebo/blake3"

	"understudy/shipper/frame"
)

// haveFrame is about how many bytes of records go into one frame.
const haveFrame = 64 << 10

// holder lists the chunks that are here for the sender.
type holder struct {
	s     *seeding
	buf   []byte // records of the frame being filled
	chunk []byte
	spent int // what the sender keeps of the list so far
}

var errBudget = errors.New("the list of held chunks is full")

// sendHoldings tells the sender which chunks are here, in frames that an empty
// one ends. Past the sender's bound nothing more is read or listed.
func (s *seeding) sendHoldings() error {
	if s.dirty && !s.mark.Wiping {
		h := &holder{s: s, chunk: make([]byte, chunkSize)}
		if err := h.all(); err != nil && !errors.Is(err, errBudget) {
			return err
		}
		if err := h.flush(); err != nil {
			return err
		}
	}
	if err := s.write(frame.SeedHave, nil); err != nil {
		return err
	}
	return s.flush()
}

func (h *holder) all() error {
	if err := h.walk(h.s.cfg.DataDir, "", func(p string) bool {
		return p == "pg_wal" || p == MarkName || p == listName || p == MarkTemp || p == controlPath || p == controlAside || p == "backup_manifest"
	}); err != nil {
		return err
	}
	for _, t := range h.s.mark.Tablespaces {
		prefix := spacePrefix(t.OID)
		if err := h.walk(t.Dir, prefix, func(p string) bool {
			return p != prefix && !strings.HasPrefix(p, prefix+"/PG_")
		}); err != nil {
			return err
		}
	}
	return nil
}

// walk lists the regular files below dir, which is prefix in the base.
func (h *holder) walk(dir, prefix string, skip func(p string) bool) error {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list what is here: %w", err)
	}
	defer root.Close()
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("list what is here: %w", err)
		}
		if cerr := h.s.ctx.Err(); cerr != nil {
			return cerr
		}
		p := path.Join(prefix, name)
		if name != "." && skip(p) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || len(p) > maxPathBytes {
			return nil
		}
		return h.file(root, name, filepath.ToSlash(p))
	})
}

// file lists one file, in pieces that fit a frame.
func (h *holder) file(root *os.Root, name, p string) error {
	f, err := root.Open(name)
	if err != nil {
		return fmt.Errorf("list what is here: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fmt.Errorf("list what is here: %w", err)
	}
	if fi.Size() == 0 || fi.Size() > maxFileBytes {
		return nil
	}
	if h.spent += heldFileCost + len(p); h.spent > haveBudget {
		return errBudget
	}
	countAt, first := h.open(p, fi.Size(), 0), uint32(0)
	for index := uint32(0); ; index++ {
		n, err := io.ReadFull(f, h.chunk)
		if n == 0 {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read %s: %w", p, err)
		}
		if h.spent += digestSize; h.spent > haveBudget {
			return errBudget
		}
		if len(h.buf) >= haveFrame {
			if err := h.flush(); err != nil {
				return err
			}
			first = index
			countAt = h.open(p, fi.Size(), first)
		}
		sum := blake3.Sum256(h.chunk[:n])
		h.buf = append(h.buf, sum[:digestSize]...)
		binary.LittleEndian.PutUint32(h.buf[countAt:], index-first+1)
		if n < chunkSize {
			return nil
		}
	}
}

// open begins a record and returns where its count stands.
func (h *holder) open(p string, size int64, first uint32) int {
	h.buf = binary.LittleEndian.AppendUint16(h.buf, uint16(len(p)))
	h.buf = append(h.buf, p...)
	h.buf = binary.LittleEndian.AppendUint64(h.buf, uint64(size))
	h.buf = binary.LittleEndian.AppendUint32(h.buf, first)
	h.buf = binary.LittleEndian.AppendUint32(h.buf, 0)
	return len(h.buf) - 4
}

func (h *holder) flush() error {
	if len(h.buf) == 0 {
		return nil
	}
	err := h.s.write(frame.SeedHave, h.buf)
	h.buf = h.buf[:0]
	if err != nil {
		return err
	}
	return h.s.flush()
}
