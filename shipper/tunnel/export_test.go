package tunnel

import "io"

// Splice is the copying of one connection, AllowStalls what a connection of
// the link needs for it.
var (
	Splice      = splice
	AllowStalls = allowStalls
)

// The bounds that tests wait for.
const (
	StallTime   = stallTime
	StartupTime = startupTime
	LingerTime  = lingerTime
	MaxStartup  = maxStartup
)

// Startup reads a client's first message and returns its bytes, and those that
// the server gets for it.
func Startup(c io.ReadWriter, user, database string) (raw, forward []byte, err error) {
	s, err := readStartup(c)
	if err != nil {
		return nil, nil, err
	}
	forward, err = s.forward(user, database)
	return s.raw, forward, err
}
