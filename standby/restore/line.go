package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"understudy/shipper/frame"
)

// next reads one frame; a refusal is an error.
func (s *seeding) next() (frame.Type, []byte, error) {
	s.conn.SetReadDeadline(time.Now().Add(idleTimeout))
	if s.ctx.Err() != nil { // after the deadline, which ctx's end would have set
		return 0, nil, s.ctx.Err()
	}
	t, p, err := s.in.Next()
	if err != nil {
		return 0, nil, fmt.Errorf("read from the sending node: %w", err)
	}
	if t == frame.Refuse {
		return 0, nil, readRefusal(p)
	}
	return t, p, nil
}

// expect reads one frame of a type into v, past progress.
func (s *seeding) expect(want frame.Type, v any) error {
	for {
		t, p, err := s.next()
		if err != nil {
			return err
		}
		if t == frame.SeedProgress {
			continue
		}
		if t != want {
			return fmt.Errorf("%w: frame type %v where %v belongs", ErrProtocol, t, want)
		}
		if err := frame.DecodeJSON(t, p, v); err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		return nil
	}
}

func (s *seeding) write(t frame.Type, p []byte) error {
	s.conn.SetWriteDeadline(time.Now().Add(idleTimeout))
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if err := s.out.Write(t, p); err != nil {
		return fmt.Errorf("write to the sending node: %w", err)
	}
	return nil
}

func (s *seeding) flush() error {
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write to the sending node: %w", err)
	}
	return nil
}

func (s *seeding) writeJSON(t frame.Type, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %v frame: %w", t, err)
	}
	if err := s.write(t, b); err != nil {
		return err
	}
	return s.flush()
}

// tellWhy tells the sender why the seed ends here, as well as it can, and
// gives it a moment to read that before the connection goes.
func (s *seeding) tellWhy(cause error) {
	if errors.Is(cause, ErrRefused) || s.writeJSON(frame.Refuse, refusal{Code: codeReceiver, Text: cause.Error()}) != nil {
		return
	}
	s.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	for s.ctx.Err() == nil {
		if _, _, err := s.in.Next(); err != nil {
			return
		}
	}
}

func readRefusal(p []byte) error {
	var r refusal
	if err := json.Unmarshal(p, &r); err != nil || r.Text == "" {
		return ErrRefused
	}
	if len(r.Text) > 1024 {
		r.Text = r.Text[:1024]
	}
	if r.Code == codeServer {
		return fmt.Errorf("the sending node cannot seed now: %s", r.Text)
	}
	return fmt.Errorf("%w: %s", ErrRefused, r.Text)
}
