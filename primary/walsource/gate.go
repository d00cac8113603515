package walsource

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
)

var errHandedOver = errors.New("connection was handed over to the stream")

// gate is the socket below pgconn until the COPY starts. It gives out one
// message part at a time, so that no buffer above it ever holds bytes of the
// next message, and shuts behind CopyBothResponse: what follows is read from
// the bare socket and nothing of the stream is lost.
type gate struct {
	net.Conn
	hdr  [5]byte
	have int // bytes of hdr seen
	left int // bytes of the body not yet read
	shut bool
}

// Read implements net.Conn; it never crosses the end of a message.
func (g *gate) Read(p []byte) (int, error) {
	if g.shut {
		return 0, errHandedOver
	}
	if len(p) == 0 {
		return 0, nil
	}
	if g.have == len(g.hdr) {
		n, err := g.Conn.Read(p[:min(len(p), g.left)])
		g.left -= n
		g.endOfMessage()
		return n, err
	}
	n, err := g.Conn.Read(p[:min(len(p), len(g.hdr)-g.have)])
	g.have += copy(g.hdr[g.have:], p[:n])
	if g.have == len(g.hdr) {
		size := int64(binary.BigEndian.Uint32(g.hdr[1:]))
		if size < 4 || size > 1<<30 {
			return 0, fmt.Errorf("%w: message %q of %d bytes", ErrProtocol, g.hdr[0], size)
		}
		g.left = int(size) - 4
		g.endOfMessage()
	}
	return n, err
}

func (g *gate) endOfMessage() {
	if g.left > 0 {
		return
	}
	g.have = 0
	g.shut = g.hdr[0] == 'W'
}
