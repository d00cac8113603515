package basestream

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// readBuffer is the size of the buffer between PostgreSQL and the copy.
// Messages have 32 KiB.
const readBuffer = 256 << 10

// headSize is the type and length of a message; maxMessage is PostgreSQL's own
// bound.
const (
	headSize   = 5
	maxMessage = 1 << 30
)

// wire is the buffer between the socket and the driver. The driver reads
// through it and never gets bytes beyond the message it is at, so that between
// messages the buffer holds everything unread, and the data of a COPY can be
// taken from it without passing through the driver's own.
type wire struct {
	r    *bufio.Reader
	left int // bytes of the driver's current message that it did not read
}

func newWire(r io.Reader) *wire { return &wire{r: bufio.NewReaderSize(r, readBuffer)} }

// Read serves the driver.
func (w *wire) Read(p []byte) (int, error) {
	if w.left == 0 {
		_, n, err := w.head()
		if err != nil {
			return 0, err
		}
		w.left = headSize + n
	}
	n, err := w.r.Read(p[:min(len(p), w.left)])
	w.left -= n
	return n, err
}

// head is the type of the next message and the length of its body; nothing is
// consumed.
func (w *wire) head() (kind byte, n int, err error) {
	h, err := w.r.Peek(headSize)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return 0, 0, err
	}
	size := binary.BigEndian.Uint32(h[1:])
	if size < 4 || size > maxMessage {
		return 0, 0, fmt.Errorf("a message of %d bytes", size)
	}
	return h[0], int(size) - 4, nil
}

// table reads one result of the simple protocol.
func (s *Stream) table() ([][][]byte, error) {
	var rows [][][]byte
	for {
		msg, err := s.receive()
		if err != nil {
			return nil, err
		}
		switch m := msg.(type) {
		case *pgproto3.DataRow:
			row := make([][]byte, len(m.Values))
			for i, v := range m.Values {
				row[i] = append([]byte(nil), v...)
			}
			rows = append(rows, row)
		case *pgproto3.CommandComplete:
			return rows, nil
		case *pgproto3.RowDescription, *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return nil, fmt.Errorf("%w: unexpected message %T", ErrServer, msg)
		}
	}
}

// receive is the next message; an error message of the server is an error.
func (s *Stream) receive() (pgproto3.BackendMessage, error) {
	msg, err := s.conn.ReceiveMessage(context.Background())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrServer, err)
	}
	if e, ok := msg.(*pgproto3.ErrorResponse); ok {
		return nil, fmt.Errorf("%w: %w", ErrServer, pgconn.ErrorResponseToPgError(e))
	}
	return msg, nil
}

// copyOpen waits for the start of a COPY.
func (s *Stream) copyOpen() error {
	for {
		msg, err := s.receive()
		if err != nil {
			return err
		}
		switch msg.(type) {
		case *pgproto3.CopyOutResponse:
			return nil
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return fmt.Errorf("%w: unexpected message %T", ErrServer, msg)
		}
	}
}

// copyData goes to the next piece of a COPY, whose body of n bytes then stands
// in the buffer; io.EOF after the last.
func (s *Stream) copyData() (n int, err error) {
	for {
		kind, n, err := s.wire.head()
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrServer, err)
		}
		if kind == 'd' {
			s.wire.r.Discard(headSize)
			return n, nil
		}
		msg, err := s.receive()
		if err != nil {
			return 0, err
		}
		switch msg.(type) {
		case *pgproto3.CopyDone:
			return 0, io.EOF
		case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		default:
			return 0, fmt.Errorf("%w: unexpected message %T", ErrServer, msg)
		}
	}
}
