package basebackup

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// archive is one part of a base backup: the tar of the data directory or of a
// tablespace, or the manifest.
type archive struct {
	oid      uint32 // zero: the data directory
	manifest bool
}

// archives splits a base backup into its parts. Since version 15 all parts
// come in one COPY whose messages begin with a letter: n a new tar, d its
// data, p progress, m the manifest. Before, each part is a COPY of its own, in
// the order of the tablespace list with the data directory last.
type archives struct {
	src    *source
	modern bool
	old    []archive // parts still to come, before version 15

	opened    bool
	announced *archive // announced by the message that ended the last part
	data      []byte   // unread data of the current part
	over      bool     // the current part has no more data
	ended     bool     // the whole stream has
}

func newArchives(src *source, plan Plan) *archives {
	a := &archives{src: src, modern: src.id.Major >= 15, over: true}
	for _, t := range plan.Tablespaces {
		a.old = append(a.old, archive{oid: t.OID})
	}
	a.old = append(a.old, archive{}, archive{manifest: true})
	return a
}

// next skips what is left of the current part and opens the following one;
// io.EOF after the last.
func (a *archives) next() (archive, error) {
	if _, err := io.Copy(io.Discard, a); err != nil {
		return archive{}, err
	}
	if !a.modern {
		if len(a.old) == 0 {
			return archive{}, io.EOF
		}
		if err := a.src.copyOpen(); err != nil {
			return archive{}, err
		}
		part := a.old[0]
		a.old, a.over = a.old[1:], false
		return part, nil
	}
	if !a.opened {
		if err := a.src.copyOpen(); err != nil {
			return archive{}, err
		}
		a.opened = true
		if err := a.message(); err != nil && err != io.EOF {
			return archive{}, err
		}
		if len(a.data) > 0 {
			return archive{}, fmt.Errorf("%w: data before the first archive", errSource)
		}
	}
	if a.announced == nil {
		if a.ended {
			return archive{}, io.EOF
		}
		return archive{}, fmt.Errorf("%w: no archive announced", errSource)
	}
	part := *a.announced
	a.announced, a.over = nil, false
	return part, nil
}

// Read is the data of the current part.
func (a *archives) Read(p []byte) (int, error) {
	for len(a.data) == 0 {
		if a.over {
			return 0, io.EOF
		}
		if err := a.message(); err != nil {
			return 0, err
		}
	}
	n := copy(p, a.data)
	a.data = a.data[n:]
	return n, nil
}

// message reads one message into data, or learns the end of the part.
func (a *archives) message() error {
	b, err := a.src.copyData()
	if errors.Is(err, io.EOF) {
		a.over, a.ended = true, true
		return io.EOF
	}
	if err != nil {
		return err
	}
	if !a.modern {
		a.data = b
		return nil
	}
	if len(b) == 0 {
		return fmt.Errorf("%w: empty message", errSource)
	}
	switch b[0] {
	case 'd':
		a.data = b[1:]
	case 'p': // the server's progress; the sender counts for itself
	case 'm':
		a.over, a.announced = true, &archive{manifest: true}
	case 'n':
		part, err := parseArchive(b[1:])
		if err != nil {
			return err
		}
		a.over, a.announced = true, &part
	default:
		return fmt.Errorf("%w: message of unknown kind %q", errSource, b[0])
	}
	return nil
}

// parseArchive reads "<name>.tar NUL <location> NUL".
func parseArchive(b []byte) (archive, error) {
	name, _, ok := bytes.Cut(b, []byte{0})
	stem, isTar := strings.CutSuffix(string(name), ".tar")
	if !ok || !isTar {
		return archive{}, fmt.Errorf("%w: archive name %q", errSource, name)
	}
	if stem == "base" {
		return archive{}, nil
	}
	oid, err := strconv.ParseUint(stem, 10, 32)
	if err != nil || oid == 0 {
		return archive{}, fmt.Errorf("%w: archive name %q", errSource, name)
	}
	return archive{oid: uint32(oid)}, nil
}
