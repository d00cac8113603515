package verify

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"understudy/shipper/backupset"
)

// matcher compares files with PostgreSQL's manifest. Both have nearly the same
// order, so only what is out of it is remembered.
type matcher struct {
	src     *failing
	dec     *json.Decoder // nil at the end
	pending map[string]entry
	err     error // the manifest cannot be read
}

// entry is what the manifest says of a file.
type entry struct {
	Path        string `json:"Path"`
	EncodedPath string `json:"Encoded-Path"` // hex, of a name that is no UTF-8
	Size        int64  `json:"Size"`
	Algorithm   string `json:"Checksum-Algorithm"`
	Checksum    string `json:"Checksum"`
}

// maxPending bounds what is out of order: about 100 MiB.
const maxPending = 500_000

func newMatcher(r io.Reader) *matcher {
	m := &matcher{src: &failing{r: r}, pending: map[string]entry{}}
	m.dec = json.NewDecoder(m.src)
	m.begin()
	return m
}

// begin goes to the first file.
func (m *matcher) begin() {
	want := json.Token(json.Delim('{'))
	for {
		tok, err := m.dec.Token()
		switch {
		case err != nil:
			m.fail(err)
			return
		case want != nil && tok != want:
			m.fail(errors.New("it is no JSON object"))
			return
		case tok == json.Token("Files"):
			if tok, err = m.dec.Token(); err != nil || tok != json.Token(json.Delim('[')) {
				m.fail(errors.Join(errors.New("its files are no list"), err))
			}
			return
		}
		want = nil
	}
}

func (m *matcher) fail(err error) {
	switch {
	case m.src.err != nil:
		err = m.src.err
	case !wrong(err):
		err = fmt.Errorf("%w: %w", backupset.ErrDamaged, err)
	}
	m.err, m.dec = err, nil
}

// next is the next file of the manifest.
func (m *matcher) next() (entry, bool) {
	if m.dec == nil {
		return entry{}, false
	}
	if !m.dec.More() {
		if tok, err := m.dec.Token(); err != nil || tok != json.Token(json.Delim(']')) {
			m.fail(errors.Join(errors.New("its list of files does not end"), err))
		}
		m.dec = nil
		return entry{}, false
	}
	var e entry
	if err := m.dec.Decode(&e); err != nil {
		m.fail(err)
		return e, false
	}
	if e.EncodedPath != "" {
		b, err := hex.DecodeString(e.EncodedPath)
		if err != nil {
			m.fail(err)
			return e, false
		}
		e.Path = string(b)
	}
	return e, true
}

// match compares a file with its entry; what is wrong with it, or nothing.
func (m *matcher) match(path string, size int64, crc uint32) string {
	e, ok := m.pending[path]
	delete(m.pending, path)
	for !ok {
		if e, ok = m.next(); !ok {
			if m.err != nil || strings.HasPrefix(path, "pg_wal/") {
				return ""
			}
			return path + " is not in PostgreSQL's manifest"
		}
		if e.Path != path {
			m.pending[e.Path], ok = e, false
			if len(m.pending) > maxPending {
				m.fail(fmt.Errorf("more than %d of its files are in another order than in the archives", maxPending))
			}
		}
	}
	switch {
	case e.Size != size:
		return fmt.Sprintf("%s has %d bytes, PostgreSQL's manifest says %d", path, size, e.Size)
	case e.Algorithm == "CRC32C" && !sameCRC(e.Checksum, crc):
		return path + " has another checksum in PostgreSQL's manifest"
	}
	return ""
}

// sameCRC compares with the checksum in the order of bytes of the server's
// machine, which is what PostgreSQL writes.
func sameCRC(text string, crc uint32) bool {
	b, err := hex.DecodeString(text)
	return err == nil && len(b) == 4 && (binary.LittleEndian.Uint32(b) == crc || binary.BigEndian.Uint32(b) == crc)
}

// end are the files that the manifest has and no archive, the first few.
func (m *matcher) end() (out []string) {
	for {
		e, ok := m.next()
		if !ok {
			break
		}
		if m.pending[e.Path] = e; len(m.pending) > maxPending {
			break
		}
	}
	if m.err != nil {
		return nil
	}
	for _, path := range slices.Sorted(maps.Keys(m.pending)) {
		if len(out) == maxBad {
			return append(out, fmt.Sprintf("and %d more files are in none of its archives", len(m.pending)-maxBad))
		}
		out = append(out, path+" is in none of its archives")
	}
	return out
}
