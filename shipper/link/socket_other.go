//go:build !linux

package link

import (
	"errors"
	"syscall"
	"time"
)

// setUserTimeout does nothing: elsewhere than on Linux keepalive alone finds a
// silent peer.
func setUserTimeout(syscall.Conn, time.Duration) error { return nil }

func unsent(syscall.Conn) (int, error) { return 0, errors.ErrUnsupported }
