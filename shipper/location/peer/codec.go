package peer

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"understudy/shipper/location"
)

// kind is the kind of a frame.
type kind byte

// The kinds; README.md says what they mean.
const (
	kindHello   kind = 1
	kindCreate  kind = 2
	kindData    kind = 3
	kindCommit  kind = 4
	kindSuspend kind = 5
	kindAbort   kind = 6
	kindOpen    kind = 7
	kindStat    kind = 8
	kindList    kind = 9
	kindRemove  kind = 10
	kindSpace   kind = 11
	kindSweep   kind = 12

	kindDone   kind = 32
	kindNumber kind = 33
	kindObject kind = 34
	kindRoom   kind = 35
	kindFail   kind = 36
	kindItems  kind = 37
	kindTook   kind = 38
	kindAlive  kind = 39
)

const (
	version    = 1
	magic      = "UPLC\x01" // with the version
	headerSize = 4
	maxPayload = 256 << 10
	maxText    = 1 << 10
)

// errProtocol is returned when a peer sends what README.md does not allow.
var errProtocol = errors.New("the other node breaks the protocol")

// message is a frame's content; which fields count depends on the kind.
type message struct {
	kind  kind
	key   string // also prefix, name and the text of a failure
	token string
	a, b  int64
	code  byte
	infos []location.Info
	data  []byte
}

// layout lists the fields of a kind in their order: m the magic, k key,
// t token, a and b numbers, c code, i infos, d data; the last two are the rest
// of the payload and not empty.
func layout(k kind) (fields string, ok bool) {
	switch k {
	case kindHello:
		return "mka", true
	case kindCreate:
		return "kta", true
	case kindOpen:
		return "kab", true
	case kindStat, kindList, kindRemove:
		return "k", true
	case kindCommit, kindSweep, kindNumber, kindTook:
		return "a", true
	case kindRoom:
		return "ab", true
	case kindFail:
		return "ck", true
	case kindObject, kindItems:
		return "i", true
	case kindData:
		return "d", true
	case kindSuspend, kindAbort, kindSpace, kindDone, kindAlive:
		return "", true
	}
	return "", false
}

// append encodes m as a frame.
func (m message) append(b []byte) ([]byte, error) {
	start := len(b)
	b = append(b, byte(m.kind), 0, 0, 0)
	fields, ok := layout(m.kind)
	if !ok {
		return nil, fmt.Errorf("no frame of kind %d", m.kind)
	}
	for _, f := range fields {
		switch f {
		case 'm':
			b = append(b, magic...)
		case 'k':
			b = appendText(b, m.key)
		case 't':
			b = appendText(b, m.token)
		case 'a':
			b = binary.LittleEndian.AppendUint64(b, uint64(m.a))
		case 'b':
			b = binary.LittleEndian.AppendUint64(b, uint64(m.b))
		case 'c':
			b = append(b, m.code)
		case 'i':
			for _, i := range m.infos {
				b = appendInfo(b, i)
			}
		case 'd':
			b = append(b, m.data...)
		}
	}
	n := len(b) - start - headerSize
	if n > maxPayload {
		return nil, fmt.Errorf("a frame of %d bytes is too large", n)
	}
	b[start+1], b[start+2], b[start+3] = byte(n), byte(n>>8), byte(n>>16)
	return b, nil
}

// appendText cuts what is too long, which only the text of a failure can be.
func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), maxText)]
	b = binary.LittleEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

func appendInfo(b []byte, i location.Info) []byte {
	b = appendText(b, i.Key)
	b = binary.LittleEndian.AppendUint64(b, uint64(i.Size))
	return binary.LittleEndian.AppendUint64(b, uint64(toNanos(i.At)))
}

// infoSize bounds what appendInfo adds.
func infoSize(i location.Info) int { return 2 + len(i.Key) + 16 }

// noTime is the number of a time that is not known.
const noTime = math.MinInt64

func toNanos(t time.Time) int64 {
	if t.IsZero() {
		return noTime
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == noTime {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// header reads kind and length of a frame.
func header(b [headerSize]byte) (k kind, n int, err error) {
	k, n = kind(b[0]), int(b[1])|int(b[2])<<8|int(b[3])<<16
	if _, ok := layout(k); !ok {
		return 0, 0, fmt.Errorf("%w: a frame of kind %d", errProtocol, k)
	}
	if n > maxPayload {
		return 0, 0, fmt.Errorf("%w: a frame of %d bytes", errProtocol, n)
	}
	return k, n, nil
}

// decode reads a payload. Data is not copied.
func decode(k kind, payload []byte) (message, error) {
	m := message{kind: k}
	fields, ok := layout(k)
	d := decoder{b: payload, bad: !ok}
	for _, f := range fields {
		switch f {
		case 'm':
			d.bad = d.bad || string(d.take(len(magic))) != magic
		case 'k':
			m.key = d.text()
		case 't':
			m.token = d.text()
		case 'a':
			m.a = d.number()
		case 'b':
			m.b = d.number()
		case 'c':
			m.code = d.byte()
		case 'i':
			m.infos = d.infos(k == kindObject)
		case 'd':
			m.data = d.take(max(len(d.b), 1))
		}
	}
	if d.bad || len(d.b) > 0 || k == kindTook && m.a < 1 {
		return message{}, fmt.Errorf("%w: a frame of kind %d with %d bytes makes no sense", errProtocol, k, len(payload))
	}
	return m, nil
}

// decoder takes values off the front of b; bad is set when there is none.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n > len(d.b) {
		d.bad = true
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) number() int64 {
	if b := d.take(8); b != nil {
		return int64(binary.LittleEndian.Uint64(b))
	}
	return 0
}

func (d *decoder) text() string {
	b := d.take(2)
	if b == nil {
		return ""
	}
	n := int(binary.LittleEndian.Uint16(b))
	if n > maxText {
		d.bad = true
	}
	return string(d.take(n))
}

func (d *decoder) infos(one bool) (out []location.Info) {
	for first := true; first || len(d.b) > 0 && !one && !d.bad; first = false {
		out = append(out, location.Info{Key: d.text(), Size: d.number(), At: fromNanos(d.number())})
	}
	return out
}

// codes pairs the errors that keep their meaning with their codes.
func codes() []struct {
	code byte
	err  error
} {
	return []struct {
		code byte
		err  error
	}{
		{2, location.ErrNotExist}, {3, location.ErrNoSpace}, {4, location.ErrReadOnly}, {5, location.ErrRefused},
		{6, location.ErrUnreachable}, {7, location.ErrDamaged}, {8, location.ErrKey}, {9, location.ErrUnsupported}, {10, location.ErrClosed},
	}
}

// failure is the frame that tells of err.
func failure(err error) message {
	m := message{kind: kindFail, code: 1, key: location.Cause(err, "")}
	for _, c := range codes() {
		if errors.Is(err, c.err) {
			m.code = c.code
			break
		}
	}
	return m
}

// remoteError is what a Fail said. It is the error with its code.
type remoteError struct {
	text string
	mean error // nil when the code has none
}

// Error implements error.
func (e *remoteError) Error() string { return "the other node: " + e.text }

// Unwrap makes errors.Is work as at the other node.
func (e *remoteError) Unwrap() error { return e.mean }

// error is what the frame says; the text is made fit for a log.
func (m message) error() error {
	e := &remoteError{text: strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(m.key, "?"))}
	for _, c := range codes() {
		if c.code == m.code {
			e.mean = c.err
		}
	}
	return e
}
