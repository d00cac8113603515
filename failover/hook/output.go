package hook

import (
	"fmt"
	"io"
	"strings"
)

const (
	headBytes = 2 << 10 // kept of the beginning
	tailBytes = 6 << 10 // kept of the end
	// maxFirst bounds the line that becomes the reason in messages.
	maxFirst = 300
)

// output keeps the beginning and the end of what a program prints.
type output struct {
	head []byte
	tail []byte // the newest bytes after head, up to twice tailBytes
	n    int64  // all bytes
}

// readFrom reads to the end, also when nothing more is kept: a program must
// not hang on a full pipe.
func (o *output) readFrom(r io.Reader) {
	buf := make([]byte, 4<<10)
	for {
		n, err := r.Read(buf)
		o.add(buf[:n])
		if err != nil {
			return
		}
	}
}

func (o *output) add(b []byte) {
	o.n += int64(len(b))
	k := min(len(b), headBytes-len(o.head))
	o.head = append(o.head, b[:k]...)
	o.tail = append(o.tail, b[k:]...)
	if len(o.tail) > 2*tailBytes {
		o.tail = append(o.tail[:0], o.tail[len(o.tail)-tailBytes:]...)
	}
}

// String is what was kept, with a line for what was not.
func (o *output) String() string {
	tail := o.tail[max(0, len(o.tail)-tailBytes):]
	missing := o.n - int64(len(o.head)+len(tail))
	s := string(o.head)
	if missing > 0 {
		s += fmt.Sprintf("\n[%d bytes left out]\n", missing)
	}
	return strings.ToValidUTF8(s+string(tail), "?")
}

// first is the first line with something on it.
func (o *output) first() string {
	for line := range strings.Lines(string(o.head)) {
		if line = plain(line, maxFirst); line != "" {
			return line
		}
	}
	return ""
}
