package restore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"os"
	"slices"
)

// listing is the list of what arrived, in order. It lies in a file, so that
// memory does not grow with the number of files; it is only ever read by the
// call of Seed that wrote it.
type listing struct {
	root *os.Root
	f    *os.File
	w    *bufio.Writer
	n    uint64
	buf  []byte
}

// entry is one item of a listing.
type entry struct {
	dir  bool
	path string
	size int64
	crc  uint32
}

func newListing(root *os.Root) (*listing, error) {
	f, err := root.OpenFile(listName, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("begin the list of files: %w", err)
	}
	return &listing{root: root, f: f, w: bufio.NewWriterSize(f, 64<<10)}, nil
}

func (l *listing) addDir(p string) error { return l.add(entry{dir: true, path: p}) }

func (l *listing) addFile(p string, size int64, crc uint32) error {
	return l.add(entry{path: p, size: size, crc: crc})
}

// add appends: kind, path length, size, CRC, path.
func (l *listing) add(e entry) error {
	kind := byte('F')
	if e.dir {
		kind = 'D'
	}
	b := append(l.buf[:0], kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(e.path)))
	b = binary.LittleEndian.AppendUint64(b, uint64(e.size))
	b = binary.LittleEndian.AppendUint32(b, e.crc)
	b = append(b, e.path...)
	l.buf = b
	l.n++
	if _, err := l.w.Write(b); err != nil {
		return fmt.Errorf("list a file: %w", err)
	}
	return nil
}

func (l *listing) close() error {
	if err := errors.Join(l.w.Flush(), l.f.Close()); err != nil {
		return fmt.Errorf("end the list of files: %w", err)
	}
	return nil
}

// lister reads a listing from its beginning.
type lister struct {
	f *os.File
	r *bufio.Reader
}

func (l *listing) read() (*lister, error) {
	f, err := l.root.Open(listName)
	if err != nil {
		return nil, fmt.Errorf("read the list of files: %w", err)
	}
	return &lister{f: f, r: bufio.NewReaderSize(f, 64<<10)}, nil
}

func (l *lister) close() { l.f.Close() }

// next is the next entry; io.EOF after the last.
func (l *lister) next() (entry, error) {
	var head [15]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return entry{}, err
	}
	name := make([]byte, binary.LittleEndian.Uint16(head[1:]))
	if _, err := io.ReadFull(l.r, name); err != nil {
		return entry{}, io.ErrUnexpectedEOF
	}
	return entry{
		dir:  head[0] == 'D',
		path: string(name),
		size: int64(binary.LittleEndian.Uint64(head[3:])),
		crc:  binary.LittleEndian.Uint32(head[11:]),
	}, nil
}

// nextFile is next without directories.
func (l *lister) nextFile() (entry, error) {
	for {
		e, err := l.next()
		if err != nil || !e.dir {
			return e, err
		}
	}
}

// shareSize is how many entries a share holds on average: 8 bytes each.
const shareSize = 1 << 20

// share is the hashed paths of one part of a listing. A false "has" needs two
// paths with one 64-bit hash of a random seed and keeps a stale file.
type share struct {
	seed   maphash.Seed
	of, no uint64
	hashes []uint64 // sorted
}

// eachShare calls f with one part of the listing after the other; every path
// belongs to exactly one.
func (l *listing) eachShare(f func(share) error) error {
	sh := share{seed: maphash.MakeSeed(), of: l.n/shareSize + 1}
	for sh.no = range sh.of {
		sh.hashes = sh.hashes[:0]
		r, err := l.read()
		if err != nil {
			return err
		}
		err = sh.fill(r)
		r.close()
		if err != nil {
			return err
		}
		if err := f(sh); err != nil {
			return err
		}
	}
	return nil
}

func (s *share) fill(r *lister) error {
	for {
		e, err := r.next()
		if errors.Is(err, io.EOF) {
			slices.Sort(s.hashes)
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the list of files: %w", err)
		}
		if h := maphash.String(s.seed, key(e.path, e.dir)); h%s.of == s.no {
			s.hashes = append(s.hashes, h)
		}
	}
}

// lacks tells that the path belongs to this share and is not in the listing.
func (s share) lacks(p string, dir bool) bool {
	h := maphash.String(s.seed, key(p, dir))
	if h%s.of != s.no {
		return false
	}
	_, found := slices.BinarySearch(s.hashes, h)
	return !found
}

func key(p string, dir bool) string {
	if dir {
		return p + "/"
	}
	return p
}
