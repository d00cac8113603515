package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// maxStartup is PostgreSQL's own limit of a startup message.
const maxStartup = 10_000

// The codes that stand where a startup message has its version.
const (
	codeCancel = 80877102
	codeSSL    = 80877103
	codeGSS    = 80877104
)

var errCancel = errors.New("cancel requests are not passed on")

// refusal is an error with the SQLSTATE under which the client learns of it.
type refusal struct{ code, text string }

// Error implements error.
func (r *refusal) Error() string { return r.text }

// startup is a client's first message.
type startup struct {
	raw    []byte // the whole packet, its length included
	minor  uint32 // of the protocol version, 3.minor
	params map[string]string
}

// readStartup reads up to and with the startup message and not a byte more.
// Encryption requests are answered no: the link encrypts. The caller sets the
// deadlines.
func readStartup(c io.ReadWriter) (*startup, error) {
	for range 3 {
		raw, err := readPacket(c)
		if err != nil {
			return nil, err
		}
		switch code := binary.BigEndian.Uint32(raw[4:]); {
		case code == codeCancel:
			return nil, errCancel
		case code == codeSSL || code == codeGSS:
			if len(raw) != 8 {
				return nil, &refusal{"08P01", fmt.Sprintf("encryption request of %d bytes", len(raw))}
			}
			if _, err := c.Write([]byte{'N'}); err != nil {
				return nil, fmt.Errorf("answer encryption request: %w", err)
			}
		case code>>16 != 3:
			return nil, &refusal{"0A000", fmt.Sprintf("unsupported frontend protocol %d.%d", code>>16, code&0xffff)}
		default:
			return parseStartup(raw)
		}
	}
	return nil, &refusal{"08P01", "too many encryption requests"}
}

func readPacket(r io.Reader) ([]byte, error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("read startup message: %w", err)
	}
	size := binary.BigEndian.Uint32(head[:])
	if size < 8 || size > maxStartup {
		return nil, &refusal{"08P01", fmt.Sprintf("startup message claims %d bytes, 8 to %d are possible", size, maxStartup)}
	}
	raw := make([]byte, size)
	copy(raw, head[:])
	if _, err := io.ReadFull(r, raw[8:]); err != nil {
		return nil, fmt.Errorf("read startup message: %w", err)
	}
	return raw, nil
}

// parseStartup takes the parameters, NUL-terminated names and values in turn
// with an empty name as the end. A name may come once: two readers might
// choose differently between two.
func parseStartup(raw []byte) (*startup, error) {
	s := &startup{raw: raw, minor: binary.BigEndian.Uint32(raw[4:]) & 0xffff, params: map[string]string{}}
	rest := string(raw[8:])
	for {
		name, after, ok := strings.Cut(rest, "\x00")
		if !ok {
			return nil, &refusal{"08P01", "startup message has no end"}
		}
		if name == "" {
			if after != "" {
				return nil, &refusal{"08P01", fmt.Sprintf("startup message has %d bytes after its end", len(after))}
			}
			return s, nil
		}
		value, after, ok := strings.Cut(after, "\x00")
		if !ok {
			return nil, &refusal{"08P01", "startup message has a parameter without a value"}
		}
		if _, twice := s.params[name]; twice {
			return nil, &refusal{"08P01", fmt.Sprintf("startup message names parameter %q twice", name)}
		}
		s.params[name], rest = value, after
	}
}

// forward is the startup message that the server gets: our user and database,
// whatever the client asked for, and of its wishes only the harmless ones.
func (s *startup) forward(user, database string) ([]byte, error) {
	if _, asked := s.params["replication"]; asked {
		return nil, &refusal{"0A000", "replication connections are not passed on"}
	}
	params := map[string]string{"user": user, "database": database}
	for _, k := range []string{"application_name", "client_encoding"} {
		if v, ok := s.params[k]; ok {
			params[k] = v
		}
	}
	b, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: params}).Encode(nil)
	if err != nil {
		return nil, fmt.Errorf("write startup message: %w", err)
	}
	if len(b) > maxStartup { // our names may be longer than the client's
		return nil, &refusal{"08P01", fmt.Sprintf("startup message would have %d bytes, %d are possible", len(b), maxStartup)}
	}
	return b, nil
}

// negotiation tells a client that asked for more than protocol 3.0 that it
// gets 3.0; nil when it asked for no more.
func (s *startup) negotiation() ([]byte, error) {
	var unknown []string
	for k := range s.params {
		if strings.HasPrefix(k, "_pq_.") {
			unknown = append(unknown, k)
		}
	}
	if s.minor == 0 && len(unknown) == 0 {
		return nil, nil
	}
	// The newest version as a whole, as PostgreSQL sends it.
	m := pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: pgproto3.ProtocolVersion30, UnrecognizedOptions: unknown}
	return m.Encode(nil)
}

// lastWords tells a client that has sent its startup message why the
// connection ends, if it still listens.
func lastWords(ctx context.Context, c net.Conn, why error) {
	no := &refusal{"08006", why.Error()}
	if ctx.Err() != nil {
		no = &refusal{"57P01", "terminating connection because the node ends its tunnel"}
	} else {
		errors.As(why, &no)
	}
	text := strings.ReplaceAll(strings.ToValidUTF8(no.text, "?"), "\x00", "?")
	m := pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: no.code, Message: text}
	b, err := m.Encode(nil)
	if err != nil {
		return // only a text beyond a gigabyte does not encode
	}
	c.SetWriteDeadline(time.Now().Add(wordsTime))
	_, _ = c.Write(b) // best effort: the connection is closed next
}
