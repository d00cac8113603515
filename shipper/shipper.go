// Package shipper holds what both ends of the data road say to each other:
// how a connection is opened for a purpose, the handshake of a stream, and
// the fetching of a finished stretch of log from any node that has it.
//
// The bytes themselves travel in frames (package frame) over mutual TLS
// (package link). The package knows nothing of promotion; what it needs of the
// control plane are two facts, epoch and durable position.
package shipper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"understudy/shipper/frame"
	"understudy/shipper/link"
	"understudy/shipper/pos"
)

// Purpose is the first byte on a connection of the stream protocol: what the
// dialer wants of it. Zero is invalid.
type Purpose byte

// The purposes.
const (
	PurposeStream Purpose = 'S' // a primary ships its log
	PurposeFetch  Purpose = 'F' // a node asks for a stretch of log
	PurposeBase   Purpose = 'B' // an empty standby asks for a base
	PurposeTunnel Purpose = 'T' // a tool of a returning node asks for the server
)

// HandshakeTimeout bounds every step before the first data frame.
const HandshakeTimeout = 5 * time.Second

// CheckWindow is how many bytes before the resume point both sides compare on
// every connect.
const CheckWindow = 64 << 10

// Dial opens a connection to a node for a purpose.
func Dial(ctx context.Context, n link.Network, addr, node string, p Purpose) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, HandshakeTimeout)
	defer cancel()
	c, _, err := n.Dial(ctx, addr, link.Stream, node)
	if err != nil {
		return nil, err
	}
	c.SetWriteDeadline(time.Now().Add(HandshakeTimeout))
	if _, err := c.Write([]byte{byte(p)}); err != nil {
		c.Close()
		return nil, fmt.Errorf("state the purpose: %w", err)
	}
	c.SetWriteDeadline(time.Time{})
	return c, nil
}

// Accept reads the purpose of an accepted connection.
func Accept(c net.Conn) (Purpose, error) {
	var b [1]byte
	c.SetReadDeadline(time.Now().Add(HandshakeTimeout))
	if _, err := io.ReadFull(c, b[:]); err != nil {
		return 0, fmt.Errorf("read the purpose of a connection: %w", err)
	}
	c.SetReadDeadline(time.Time{})
	switch p := Purpose(b[0]); p {
	case PurposeStream, PurposeFetch, PurposeBase, PurposeTunnel:
		return p, nil
	default:
		return 0, fmt.Errorf("unknown purpose %d of a connection", b[0])
	}
}

// Hello opens a stream: who ships, in which epoch, and what it can serve.
type Hello struct {
	Group    string      `json:"group"`  // group id
	Ledger   string      `json:"ledger"` // ledger id
	Node     string      `json:"node"`
	Store    string      `json:"store"`
	To       string      `json:"to"` // the store that is meant
	SystemID uint64      `json:"system_id,string"`
	Major    int         `json:"major"`
	SegSize  int64       `json:"segment_size"`
	Epoch    pos.Epoch   `json:"epoch"`
	Lineage  pos.Lineage `json:"lineage"`
	Voters   uint64      `json:"voters"`  // version of the voter set
	AtOnce   bool        `json:"at_once"` // the peer may feed its PostgreSQL before commit
	Oldest   pos.LSN     `json:"oldest"`  // first byte the sender can serve
	End      pos.LSN     `json:"end"`
	// Committed is the highest LSN the sender knows to be on a majority.
	Committed pos.LSN `json:"committed"`
	// Base is where a peer without any log shall begin: a segment boundary.
	Base pos.LSN `json:"base"`
}

// Welcome answers a Hello: where to go on, and a CRC over the bytes before it.
type Welcome struct {
	Store   string  `json:"store"`
	Resume  pos.LSN `json:"resume"`
	CRCFrom pos.LSN `json:"crc_from"` // first byte under the CRC
	CRC     uint32  `json:"crc"`      // CRC-32C of [CRCFrom, Resume)
}

// Refusal is the one sentence with which either side ends a connection.
type Refusal struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// The codes of refusals. RefuseDiverged and RefuseForeign are for people: no
// retry helps. RefusePruned names bytes that are gone where they were asked.
const (
	RefuseStale    = "stale-epoch"
	RefuseForeign  = "foreign"
	RefuseDiverged = "diverged"
	RefusePruned   = "pruned"
	RefuseBusy     = "busy"
	RefuseStore    = "other-store"
	RefuseBroken   = "broken"
)

// RefusedError is returned when the other side refused.
type RefusedError struct{ Refusal }

// Error is the other side's sentence.
func (e *RefusedError) Error() string { return e.Text }

// Permanent tells whether trying again without a change cannot help.
func (e *RefusedError) Permanent() bool {
	return e.Code == RefuseForeign || e.Code == RefuseDiverged || e.Code == RefuseStore
}

// ErrUnexpected is returned when a peer sends a frame that has no place here.
var ErrUnexpected = errors.New("unexpected frame")

// Expect reads the next frame, which must be of type want, into v. A Refuse
// frame becomes a RefusedError.
func Expect(r *frame.Reader, want frame.Type, v any) error {
	t, p, err := r.Next()
	if err != nil {
		return err
	}
	switch t {
	case want:
		if err := json.Unmarshal(p, v); err != nil {
			return fmt.Errorf("decode %v frame: %w", want, err)
		}
		return nil
	case frame.Refuse:
		return Refused(p)
	}
	return fmt.Errorf("%w: type %d where %d belongs", ErrUnexpected, t, want)
}

// Refused decodes the payload of a Refuse frame into a RefusedError.
func Refused(p []byte) error {
	var ref Refusal
	if err := json.Unmarshal(p, &ref); err != nil {
		return fmt.Errorf("decode refusal: %w", err)
	}
	return &RefusedError{ref}
}

// Refuse sends a refusal and returns it as an error for the caller to report.
func Refuse(w *frame.Writer, code, text string) error {
	err := &RefusedError{Refusal{Code: code, Text: text}}
	if werr := w.WriteJSON(frame.Refuse, err.Refusal); werr != nil {
		return errors.Join(err, werr)
	}
	return errors.Join(err, w.Flush())
}

// CheckHello compares what both sides must agree on before any byte moves and
// says in one sentence what is wrong.
func CheckHello(h Hello, group, ledger string, systemID uint64, major int, segSize int64) *Refusal {
	switch {
	case h.Group != group:
		return &Refusal{RefuseForeign, fmt.Sprintf("%s belongs to group %s, this node to %s", h.Node, h.Group, group)}
	case ledger != "" && h.Ledger != ledger:
		return &Refusal{RefuseForeign, fmt.Sprintf("%s has ledger %s, this node %s: the group was formed anew without this node", h.Node, h.Ledger, ledger)}
	case systemID != 0 && h.SystemID != systemID:
		return &Refusal{RefuseForeign, fmt.Sprintf("%s ships system identifier %d, this node holds %d: they are different databases", h.Node, h.SystemID, systemID)}
	case major != 0 && h.Major != 0 && h.Major != major:
		return &Refusal{RefuseForeign, fmt.Sprintf("%s runs PostgreSQL %d, this node has %d (postgresql.bin_dir): physical replication needs the same major version", h.Node, h.Major, major)}
	case segSize != 0 && h.SegSize != segSize:
		return &Refusal{RefuseForeign, fmt.Sprintf("%s has segments of %d bytes, this node of %d", h.Node, h.SegSize, segSize)}
	case h.SegSize < 1<<20 || h.SegSize > 1<<30 || h.SegSize&(h.SegSize-1) != 0:
		return &Refusal{RefuseForeign, fmt.Sprintf("%s claims segments of %d bytes, which PostgreSQL cannot have", h.Node, h.SegSize)}
	}
	if err := h.Lineage.Validate(); err != nil || len(h.Lineage) == 0 || h.Lineage.Last().Epoch != h.Epoch {
		return &Refusal{RefuseBroken, fmt.Sprintf("%s ships in epoch %s with a lineage that does not end there", h.Node, h.Epoch)}
	}
	return nil
}
