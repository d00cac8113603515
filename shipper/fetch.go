package shipper

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

// Log is a stretch of write-ahead log that can be read at any byte it holds: a
// spool, or a data directory's pg_wal. ReadWAL fills p from at; it returns a
// short count with io.EOF where the log ends.
type Log interface {
	ReadWAL(p []byte, at pos.LSN) (int, error)
}

// BulkFrame is the payload of a data frame when a peer catches up, in bytes.
const BulkFrame = 512 << 10

// FetchAsk asks for [From, To) of a lineage.
type FetchAsk struct {
	Group    string      `json:"group"`
	Ledger   string      `json:"ledger"`
	Node     string      `json:"node"`
	SystemID uint64      `json:"system_id,string"`
	SegSize  int64       `json:"segment_size"`
	Lineage  pos.Lineage `json:"lineage"`
	From     pos.LSN     `json:"from"`
	To       pos.LSN     `json:"to"`
	// CRC is over the CheckWindow bytes before From that the asker has; CRCFrom
	// equals From when it has none.
	CRCFrom pos.LSN `json:"crc_from"`
	CRC     uint32  `json:"crc"`
}

// Served describes the log behind ServeFetch.
type Served struct {
	Group, Ledger string
	SystemID      uint64
	SegSize       int64
	Lineage       pos.Lineage
	Range         pos.Range // what may be given; never past what is durable here
	Log           Log
}

// ServeFetch answers one FetchAsk on an accepted connection and returns when
// the stretch has been sent or refused. It gives what it has: the asker sees
// from the last frame where that ended.
func ServeFetch(ctx context.Context, c net.Conn, s Served) error {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	r, w := frame.NewReader(c), frame.NewWriter(c)
	var ask FetchAsk
	c.SetReadDeadline(time.Now().Add(HandshakeTimeout))
	if err := Expect(r, frame.Fetch, &ask); err != nil {
		return fmt.Errorf("read fetch: %w", err)
	}
	c.SetReadDeadline(time.Time{})
	if ref := checkFetch(ask, s); ref != nil {
		return Refuse(w, ref.Code, ref.Text)
	}
	end := min(ask.To, s.Range.To)
	if fork, _ := ask.Lineage.Fork(s.Lineage); len(ask.Lineage) != len(s.Lineage) {
		end = min(end, fork) // beyond it only one of the two has adopted what it holds
	}
	buf := make([]byte, BulkFrame)
	head := frame.DataHead{Epoch: ask.Lineage.Last().Epoch, LineageEpoch: s.Lineage.Last().Epoch, SourceEnd: s.Range.To}
	for at := ask.From; at < end; {
		n, err := s.Log.ReadWAL(buf[:min(uint64(len(buf)), end.Sub(at))], at)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				break
			}
			return Refuse(w, RefusePruned, fmt.Sprintf("read log at %s: %v", at, err))
		}
		head.LSN = at
		if err := w.WriteData(head, buf[:n]); err != nil {
			return err
		}
		at += pos.LSN(n)
	}
	if err := w.Write(frame.Bye); err != nil {
		return err
	}
	return w.Flush()
}

func checkFetch(ask FetchAsk, s Served) *Refusal {
	if ref := CheckHello(Hello{Group: ask.Group, Ledger: ask.Ledger, Node: ask.Node, SystemID: ask.SystemID, SegSize: ask.SegSize,
		Epoch: ask.Lineage.Last().Epoch, Lineage: ask.Lineage}, s.Group, s.Ledger, s.SystemID, 0, s.SegSize); ref != nil {
		return ref
	}
	if fork, same := ask.Lineage.Fork(s.Lineage); !same && fork < ask.To {
		return &Refusal{RefuseDiverged, fmt.Sprintf("the histories part at %s, before the end of the stretch asked for", fork)}
	}
	if ask.From.Sub(ask.CRCFrom) > CheckWindow || ask.CRCFrom > ask.From {
		return &Refusal{RefuseBroken, fmt.Sprintf("the comparison asked for is of [%s, %s), more than %d bytes", ask.CRCFrom, ask.From, CheckWindow)}
	}
	if ask.From < s.Range.From || ask.From > s.Range.To {
		return &Refusal{RefusePruned, fmt.Sprintf("the log here is %s, %s was asked for", s.Range, ask.From)}
	}
	from := max(ask.CRCFrom, s.Range.From)
	if ask.CRCFrom < from || ask.CRCFrom >= ask.From {
		return nil // nothing to compare that both have
	}
	crc, err := CRC(s.Log, ask.CRCFrom, ask.From)
	if err != nil {
		return &Refusal{RefusePruned, fmt.Sprintf("read log before %s: %v", ask.From, err)}
	}
	if crc != ask.CRC {
		return &Refusal{RefuseDiverged, fmt.Sprintf("the log before %s differs between the nodes", ask.From)}
	}
	return nil
}

// Fetch asks for a stretch on a connection opened with PurposeFetch and hands
// it to sink in order, on a goroutine of its own that has ended on return. It
// returns how far the sink came; that is short of ask.To when the other side
// has no more.
func Fetch(ctx context.Context, c net.Conn, ask FetchAsk, sink func(at pos.LSN, p []byte) error) (pos.LSN, error) {
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Now()) })
	defer stop()
	r, w := frame.NewReader(c), frame.NewWriter(c)
	if err := w.WriteJSON(frame.Fetch, ask); err != nil {
		return ask.From, err
	}
	if err := w.Flush(); err != nil {
		return ask.From, err
	}
	belt := NewConveyor(sink)
	at, err := receiveFetch(c, r, ask, belt)
	if berr := belt.Close(); berr != nil { // what was written counts, not what came
		return max(belt.End(), ask.From), berr
	}
	return at, err
}

// receiveFetch puts what comes on the belt; it returns how far that went.
func receiveFetch(c net.Conn, r *frame.Reader, ask FetchAsk, belt *Conveyor) (pos.LSN, error) {
	at := ask.From
	for {
		c.SetReadDeadline(time.Now().Add(30 * time.Second))
		t, p, err := r.Next()
		if err != nil {
			return at, fmt.Errorf("fetch log at %s: %w", at, err)
		}
		switch t {
		case frame.Data:
			h, b, err := frame.DecodeData(p)
			if err != nil {
				return at, err
			}
			if h.LSN != at || at+pos.LSN(len(b)) > ask.To {
				return at, fmt.Errorf("%w: bytes at %s where %s belongs", ErrUnexpected, h.LSN, at)
			}
			if err := belt.Put(at, b); err != nil {
				return at, err
			}
			at += pos.LSN(len(b))
		case frame.Bye:
			return at, nil
		case frame.Refuse:
			return at, Refused(p)
		default:
			return at, fmt.Errorf("%w: type %d in a fetch", ErrUnexpected, t)
		}
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC is the CRC-32C of [from, to) of a log; io.ErrUnexpectedEOF when the log
// does not hold all of it.
func CRC(l Log, from, to pos.LSN) (uint32, error) {
	buf := make([]byte, min(to.Sub(from), 64<<10))
	var crc uint32
	for at := from; at < to; {
		n, err := l.ReadWAL(buf[:min(uint64(len(buf)), to.Sub(at))], at)
		if n == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return 0, err
		}
		crc = crc32.Update(crc, castagnoli, buf[:n])
		at += pos.LSN(n)
	}
	return crc, nil
}
