package backupset

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Types of File.
const (
	TypeFile   = ""
	TypeFolder = "d"
	TypeLink   = "l"
)

// Bounds of the list of files.
const (
	maxPath = 4096
	maxFile = 1 << 38 // bytes of one file
	// MaxLine bounds one line of the list: the digests of the largest file
	// take 5.6 MiB.
	MaxLine = 8 << 20
)

// SpaceName is the object of a tablespace.
func SpaceName(oid uint32) string { return strconv.FormatUint(uint64(oid), 10) + ".tar.zst" }

// ParseSpace is the tablespace whose object has the name.
func ParseSpace(name string) (oid uint32, ok bool) {
	stem, ok := strings.CutSuffix(name, ".tar.zst")
	n, err := strconv.ParseUint(stem, 10, 32)
	return uint32(n), ok && err == nil && n > 0 && SpaceName(uint32(n)) == name
}

// IsObjectName tells the names that objects of a set may have, set.json
// included.
func IsObjectName(name string) bool {
	switch name {
	case BaseName, ExtraName, FilesName, ManifestName, SetName:
		return true
	}
	_, ok := ParseSpace(name)
	return ok
}

// ChunkN is the number of chunks of a file.
func ChunkN(size int64) int64 { return (size + ChunkSize - 1) / ChunkSize }

// Digest is that of the file's chunk i.
func (f File) Digest(i int64) []byte { return f.Digests[i*DigestSize : (i+1)*DigestSize] }

// Validate tells why a line cannot be one of a list of files. A path that
// would lead out of the folder it is unpacked in is refused; where a link
// leads to is the reader's to judge.
func (f File) Validate() error {
	archive := f.Archive == BaseName || f.Archive == ExtraName
	if _, space := ParseSpace(f.Archive); !archive && !space {
		return fmt.Errorf("%w: %.60q is no archive of files", ErrDamaged, f.Archive)
	}
	if err := checkPath(f.Path); err != nil {
		return err
	}
	switch f.Type {
	case TypeFile:
		if f.Size < 0 || f.Size > maxFile || int64(len(f.Digests)) != ChunkN(f.Size)*DigestSize || f.Link != "" {
			return fmt.Errorf("%w: file %q of %d bytes has %d bytes of digests", ErrDamaged, f.Path, f.Size, len(f.Digests))
		}
	case TypeFolder, TypeLink:
		isLink := f.Type == TypeLink
		if f.Size != 0 || len(f.Digests) != 0 || isLink != (f.Link != "") || len(f.Link) > maxPath || strings.ContainsRune(f.Link, 0) {
			return fmt.Errorf("%w: %q of type %q", ErrDamaged, f.Path, f.Type)
		}
	default:
		return fmt.Errorf("%w: %q has the unknown type %.10q", ErrDamaged, f.Path, f.Type)
	}
	if f.Offset < 0 || f.Offset > maxBytes || f.Mode&^0o7777 != 0 {
		return fmt.Errorf("%w: %q at offset %d with mode %o", ErrDamaged, f.Path, f.Offset, f.Mode)
	}
	return nil
}

// checkPath accepts clean relative paths.
func checkPath(p string) error {
	if p == "" || len(p) > maxPath || strings.ContainsRune(p, 0) {
		return fmt.Errorf("%w: a path of %d bytes", ErrDamaged, len(p))
	}
	for _, e := range strings.Split(p, "/") {
		if e == "" || e == "." || e == ".." {
			return fmt.Errorf("%w: path %.200q leads elsewhere", ErrDamaged, p)
		}
	}
	return nil
}

// FileWriter writes a list of files, before compression.
type FileWriter struct {
	w *bufio.Writer
	n int
}

// NewFileWriter writes to w.
func NewFileWriter(w io.Writer) *FileWriter { return &FileWriter{w: bufio.NewWriterSize(w, 64<<10)} }

// Write adds a line. Lines of one archive stand together, in the order of the
// archive.
func (w *FileWriter) Write(f File) error {
	if err := f.Validate(); err != nil {
		return err
	}
	b, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("list %s: %w", f.Path, err)
	}
	if len(b) >= MaxLine {
		return fmt.Errorf("list %s: its line has %d bytes, more than %d", f.Path, len(b), MaxLine)
	}
	if _, err := w.w.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("list %s: %w", f.Path, err)
	}
	w.n++
	return nil
}

// N is the number of lines written.
func (w *FileWriter) N() int { return w.n }

// Flush writes what is buffered.
func (w *FileWriter) Flush() error { return w.w.Flush() }

// FileReader reads a list of files, after decompression. It holds one line.
type FileReader struct {
	r    *bufio.Reader
	n    int
	long []byte // a line that is longer than r's buffer
}

// NewFileReader reads from r.
func NewFileReader(r io.Reader) *FileReader { return &FileReader{r: bufio.NewReaderSize(r, 64<<10)} }

// Next is the next line; io.EOF after the last.
func (r *FileReader) Next() (File, error) {
	line, err := r.line()
	if err != nil {
		return File{}, err
	}
	r.n++
	var f File
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return File{}, fmt.Errorf("line %d of the list of files: %w: %w", r.n, ErrDamaged, err)
	}
	if d.InputOffset() != int64(len(line)) {
		return File{}, fmt.Errorf("line %d of the list of files: %w: more than one value", r.n, ErrDamaged)
	}
	if err := f.Validate(); err != nil {
		return File{}, fmt.Errorf("line %d of the list of files: %w", r.n, err)
	}
	return f, nil
}

// line is the next line without its end; an unfinished one is damage.
func (r *FileReader) line() ([]byte, error) {
	part, err := r.r.ReadSlice('\n')
	if err == nil {
		return part[:len(part)-1], nil
	}
	r.long = r.long[:0]
	for ; errors.Is(err, bufio.ErrBufferFull); part, err = r.r.ReadSlice('\n') {
		if r.long = append(r.long, part...); len(r.long) > MaxLine {
			return nil, fmt.Errorf("line %d of the list of files: %w: longer than %d bytes", r.n+1, ErrDamaged, MaxLine)
		}
	}
	r.long = append(r.long, part...)
	switch {
	case err == nil:
		return r.long[:len(r.long)-1], nil
	case errors.Is(err, io.EOF) && len(r.long) == 0:
		return nil, io.EOF
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("line %d of the list of files: %w: it has no end", r.n+1, ErrDamaged)
	}
	return nil, fmt.Errorf("line %d of the list of files: %w", r.n+1, err)
}
