package peer

import (
	"context"
	"net"
)

// RawRequest sends a request without any check and returns the failure that
// answers it.
func RawRequest(c net.Conn, name string, k byte, key string) error {
	s := newSession(context.Background(), c, defaultQuiet)
	defer s.end()
	if err := s.send(message{kind: kindHello, key: name, a: defaultQuiet.Milliseconds()}); err != nil {
		return err
	}
	if _, err := s.receive(defaultQuiet, false); err != nil {
		return err
	}
	if err := s.send(message{kind: kind(k), key: key}); err != nil {
		return err
	}
	m, err := s.receive(defaultQuiet, false)
	if err != nil || m.kind != kindFail {
		return err
	}
	return m.error()
}
