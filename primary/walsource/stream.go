package walsource

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"understudy/shipper/pos"
)

const (
	// bufBytes holds several of the walsender's messages, so that one read
	// takes what a burst left in the socket.
	bufBytes = 512 << 10
	// maxMessage is above anything a walsender sends (128 KiB of WAL).
	maxMessage = 256 << 10
	// walHeader is the kind, start, end and time before the bytes.
	walHeader = 25
)

// Run receives until the server ends the COPY (ErrEnded), ctx ends (its
// cause), sink refuses, or the connection fails. Keepalives are answered at
// once with the newest confirmed values, and a status goes out every second,
// also while the sink blocks. Run is called once.
func (s *Source) Run(ctx context.Context, sink Sink) error {
	if !s.started.CompareAndSwap(false, true) {
		return errors.New("run WAL source: called twice")
	}
	loopCtx, cancel := context.WithCancel(ctx)
	looped := make(chan struct{})
	go func() {
		defer close(looped)
		s.out.loop(loopCtx)
	}()
	unhook := context.AfterFunc(ctx, func() { s.conn.SetReadDeadline(time.Unix(1, 0)) })
	err := s.receive(sink)
	unhook()
	if ctx.Err() != nil && !errors.Is(err, ErrEnded) {
		err = context.Cause(ctx)
	}
	cancel()
	<-looped
	s.result = err
	close(s.done)
	return err
}

func (s *Source) receive(sink Sink) error {
	buf := make([]byte, bufBytes)
	r, w := 0, 0
	for {
		if len(buf)-w < maxMessage {
			w = copy(buf, buf[r:w])
			r = 0
		}
		n, err := s.conn.Read(buf[w:])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("receive WAL: %w", err)
		}
		w += n
		seen := time.Now()
		for w-r >= 5 {
			size := int(binary.BigEndian.Uint32(buf[r+1:]))
			if size < 4 || size > maxMessage {
				return fmt.Errorf("%w: message %q of %d bytes", ErrProtocol, buf[r], size)
			}
			if w-r < 1+size {
				break
			}
			if err := s.message(sink, buf[r], buf[r+5:r+1+size], seen); err != nil {
				return err
			}
			r += 1 + size
		}
		if r == w {
			r, w = 0, 0
		}
	}
}

// message takes one message of the server.
func (s *Source) message(sink Sink, kind byte, body []byte, seen time.Time) error {
	switch kind {
	case 'd':
		return s.copyData(sink, body, seen)
	case 'c':
		return fmt.Errorf("%w: end of timeline", ErrEnded)
	case 'C':
		return fmt.Errorf("%w: shut down", ErrEnded)
	case 'E':
		var m pgproto3.ErrorResponse
		if err := m.Decode(body); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return fmt.Errorf("receive WAL: %w", pgconn.ErrorResponseToPgError(&m))
	case 'N', 'S':
		return nil
	}
	return fmt.Errorf("%w: message %q", ErrProtocol, kind)
}

func (s *Source) copyData(sink Sink, b []byte, seen time.Time) error {
	switch {
	case len(b) >= walHeader && b[0] == 'w':
		at := pos.LSN(binary.BigEndian.Uint64(b[1:]))
		if at != s.Received() {
			return fmt.Errorf("%w: WAL at %s after %s", ErrProtocol, at, s.Received())
		}
		// Before the sink has it, since a peer may acknowledge it and
		// Confirm may run before Data returns.
		s.received.Store(uint64(at) + uint64(len(b)-walHeader))
		if err := sink.Data(at, b[walHeader:], pos.LSN(binary.BigEndian.Uint64(b[9:])), seen); err != nil {
			return fmt.Errorf("take WAL at %s: %w", at, err)
		}
		return nil
	case len(b) == 18 && b[0] == 'k':
		if b[17] != 0 {
			// A server that has said all, and closed, takes no answer; what it
			// said last is still to be read, and after it the end.
			_ = s.out.repeat()
		}
		sink.ServerEnd(pos.LSN(binary.BigEndian.Uint64(b[1:])), seen)
		return nil
	}
	return fmt.Errorf("%w: %d bytes of CopyData", ErrProtocol, len(b))
}
