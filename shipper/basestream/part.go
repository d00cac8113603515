package basestream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Part is one part of a base backup: the tar of the data directory or of a
// tablespace, or the manifest.
type Part struct {
	OID      uint32 // of the tablespace; zero: the data directory
	Manifest bool
}

// maxName bounds the message that announces a part.
const maxName = 64 << 10

// Next skips what is left of the current part and opens the following one;
// io.EOF after the last.
//
// Since version 15 all parts come in one COPY whose messages begin with a
// letter: n a new tar, d its data, p progress, m the manifest. Before, each
// part is a COPY of its own, in the order of the tablespace list with the data
// directory last.
func (s *Stream) Next() (Part, error) {
	if _, err := io.Copy(io.Discard, s); err != nil {
		return Part{}, err
	}
	if !s.modern {
		if len(s.old) == 0 {
			return Part{}, io.EOF
		}
		if err := s.copyOpen(); err != nil {
			return Part{}, err
		}
		part := s.old[0]
		s.old, s.over = s.old[1:], false
		return part, nil
	}
	if !s.opened {
		if err := s.copyOpen(); err != nil {
			return Part{}, err
		}
		s.opened = true
		if err := s.message(); err != nil && !errors.Is(err, io.EOF) {
			return Part{}, err
		}
		if s.left > 0 {
			return Part{}, fmt.Errorf("%w: data before the first archive", ErrServer)
		}
	}
	if s.announced == nil {
		if s.ended {
			return Part{}, io.EOF
		}
		return Part{}, fmt.Errorf("%w: no archive announced", ErrServer)
	}
	part := *s.announced
	s.announced, s.over = nil, false
	return part, nil
}

// Read is the data of the current part; io.EOF at its end. A large p is filled
// straight from the socket.
func (s *Stream) Read(p []byte) (int, error) {
	for s.left == 0 {
		if s.over {
			return 0, io.EOF
		}
		if err := s.message(); err != nil {
			return 0, err
		}
	}
	n, err := s.wire.r.Read(p[:min(len(p), s.left)])
	s.left -= n
	if err != nil {
		return n, fmt.Errorf("%w: %w", ErrServer, noEOF(err))
	}
	return n, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// message goes to the next message with data of the part, or learns the part's
// end.
func (s *Stream) message() error {
	n, err := s.copyData()
	if errors.Is(err, io.EOF) {
		s.over, s.ended = true, true
		return io.EOF
	}
	if err != nil {
		return err
	}
	if !s.modern {
		s.left = n
		return nil
	}
	if n == 0 {
		return fmt.Errorf("%w: empty message", ErrServer)
	}
	kind, err := s.wire.r.ReadByte()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrServer, noEOF(err))
	}
	if kind == 'd' {
		s.left = n - 1
		return nil
	}
	return s.notice(kind, n-1)
}

// notice reads a message that is no data.
func (s *Stream) notice(kind byte, n int) error {
	if n > maxName {
		return fmt.Errorf("%w: message of kind %q with %d bytes", ErrServer, kind, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(s.wire.r, body); err != nil {
		return fmt.Errorf("%w: %w", ErrServer, noEOF(err))
	}
	switch kind {
	case 'p': // the server's progress; the reader counts for itself
	case 'm':
		s.over, s.announced = true, &Part{Manifest: true}
	case 'n':
		part, err := parsePart(body)
		if err != nil {
			return err
		}
		s.over, s.announced = true, &part
	default:
		return fmt.Errorf("%w: message of unknown kind %q", ErrServer, kind)
	}
	return nil
}

// parsePart reads "<name>.tar NUL <location> NUL".
func parsePart(b []byte) (Part, error) {
	name, _, ok := bytes.Cut(b, []byte{0})
	stem, isTar := strings.CutSuffix(string(name), ".tar")
	if !ok || !isTar {
		return Part{}, fmt.Errorf("%w: archive name %q", ErrServer, name)
	}
	if stem == "base" {
		return Part{}, nil
	}
	oid, err := strconv.ParseUint(stem, 10, 32)
	if err != nil || oid == 0 {
		return Part{}, fmt.Errorf("%w: archive name %q", ErrServer, name)
	}
	return Part{OID: uint32(oid)}, nil
}
