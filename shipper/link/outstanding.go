package link

import (
	"errors"
	"fmt"
	"net"
	"syscall"
)

// Outstanding is the number of bytes that were written to c, TLS overhead
// included, and are not confirmed by the other side's kernel. It is
// errors.ErrUnsupported where that cannot be asked.
func Outstanding(c net.Conn) (int, error) {
	for {
		switch t := c.(type) {
		case *memConn:
			return t.outstanding(), nil
		case syscall.Conn:
			n, err := unsent(t)
			if err != nil {
				return 0, fmt.Errorf("ask for unconfirmed bytes: %w", err)
			}
			return n, nil
		case interface{ NetConn() net.Conn }:
			c = t.NetConn()
		default:
			return 0, fmt.Errorf("ask for unconfirmed bytes: %w", errors.ErrUnsupported)
		}
	}
}
