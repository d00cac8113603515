package standby_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/link"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/standby"
	"understudy/test/faultfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	segSize  = 1 << 20
	base     = pos.LSN(4 * segSize)
	systemID = 77
	patience = 10 * time.Second
)

// fataler is what testing.T and rapid.T share.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// history is a lineage with epochs 1.1, 1.2 and so on that begin at starts.
func history(starts ...pos.LSN) pos.Lineage {
	var l pos.Lineage
	for i, s := range starts {
		l = append(l, pos.Entry{Epoch: epoch(uint64(i + 1)), Timeline: 1, Start: s})
	}
	return l
}

// wal is what epoch e writes from at on.
func wal(e pos.Epoch, at pos.LSN, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		x := (uint64(at) + uint64(i)) * 0x9E3779B97F4A7C15
		p[i] = byte(x>>40) ^ byte(e.Num*37)
	}
	return p
}

// node is a receiver on an in-memory network, with its spool on an in-memory
// file system.
type node struct {
	*standby.Receiver
	fs    *faultfs.FS
	spool *spool.Spool
	net   *link.MemNetwork
	fill  func(context.Context, shipper.Hello, pos.LSN) error
	wrap  func(net.Conn) net.Conn // what Handle is given
	close func()
}

func newNode(t fataler) *node {
	t.Helper()
	n := &node{fs: faultfs.New(), net: link.Memory()}
	var err error
	n.spool, err = spool.Create(spool.Config{Dir: "/spool", FS: n.fs, SpareSegments: -1}, "B", "g")
	if err != nil {
		t.Fatalf("create spool: %v", err)
	}
	n.Receiver = standby.New(standby.Config{
		Node: "backup", Store: "B", Spool: n.spool, Log: slog.New(slog.DiscardHandler),
		Identity: func() standby.Identity {
			return standby.Identity{Group: "g", Ledger: "l", SystemID: systemID, Major: 15, SegSize: segSize}
		},
		OnSession: func(shipper.Hello, bool, error) {},
		Fill: func(ctx context.Context, h shipper.Hello, to pos.LSN) error {
			if n.fill == nil {
				return errors.New("nobody has it")
			}
			return n.fill(ctx, h, to)
		},
	})
	l, err := n.net.Node("backup").Listen("b:1")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	l.Handle(link.Stream, func(ctx context.Context, c net.Conn, _ link.Peer) {
		if _, err := shipper.Accept(c); err != nil {
			return
		}
		if n.wrap != nil {
			c = n.wrap(c)
		}
		_ = n.Handle(ctx, c)
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = l.Serve(ctx) }()
	n.close = func() {
		cancel()
		<-done
		n.spool.Close()
	}
	return n
}

func start(t *testing.T) *node {
	t.Helper()
	n := newNode(t)
	t.Cleanup(n.close)
	return n
}

func hello(lin pos.Lineage, end pos.LSN) shipper.Hello {
	return shipper.Hello{Group: "g", Ledger: "l", Node: "main", Store: "A", To: "B", SystemID: systemID, Major: 15,
		SegSize: segSize, Epoch: lin.Last().Epoch, Lineage: lin, Voters: 3, Oldest: base, End: end, Base: base}
}

// sender is the primary's end of a stream, spoken by hand.
type sender struct {
	t     fataler
	conn  net.Conn
	w     *frame.Writer
	r     *frame.Reader
	epoch pos.Epoch
	wel   shipper.Welcome
	acked pos.LSN
	beats uint64
}

// dial opens a connection and says hello.
func (n *node) dial(t fataler, h shipper.Hello) *sender {
	t.Helper()
	c, err := shipper.Dial(context.Background(), n.net.Node("main"), "b:1", "backup", shipper.PurposeStream)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	c.SetDeadline(time.Now().Add(patience))
	s := &sender{t: t, conn: c, w: frame.NewWriter(c), r: frame.NewReader(c), epoch: h.Epoch}
	if err := errors.Join(s.w.WriteJSON(frame.Hello, h), s.w.Flush()); err != nil {
		t.Fatalf("hello: %v", err)
	}
	return s
}

// stream is dial and a welcome.
func (n *node) stream(t fataler, h shipper.Hello) *sender {
	t.Helper()
	s := n.dial(t, h)
	if err := shipper.Expect(s.r, frame.Welcome, &s.wel); err != nil {
		t.Fatalf("welcome: %v", err)
	}
	return s
}

// refused is dial and a refusal.
func (n *node) refused(t *testing.T, h shipper.Hello) *shipper.RefusedError {
	t.Helper()
	s := n.dial(t, h)
	defer s.conn.Close()
	var ref *shipper.RefusedError
	if err := shipper.Expect(s.r, frame.Welcome, &s.wel); !errors.As(err, &ref) {
		t.Fatalf("got %v, want a refusal", err)
	}
	return ref
}

// data sends n bytes of the log from at on.
func (s *sender) data(at pos.LSN, n int, committed pos.LSN) error {
	h := frame.DataHead{Epoch: s.epoch, LineageEpoch: s.epoch, LSN: at, Committed: committed, SourceEnd: at + pos.LSN(n)}
	return errors.Join(s.w.WriteData(h, wal(s.epoch, at, n)), s.w.Flush())
}

func (s *sender) mustData(at pos.LSN, n int, committed pos.LSN) {
	s.t.Helper()
	if err := s.data(at, n, committed); err != nil {
		s.t.Fatalf("send: %v", err)
	}
}

func (s *sender) beat(committed pos.LSN) error {
	s.beats++
	return errors.Join(s.w.WriteBeat(frame.Beat{Epoch: s.epoch, Seq: s.beats, Committed: committed}), s.w.Flush())
}

// ack is the next acknowledgement; beat answers are passed over.
func (s *sender) ack() (frame.Ack, error) {
	for {
		t, p, err := s.r.Next()
		if err != nil {
			return frame.Ack{}, err
		}
		switch t {
		case frame.AckFrame:
			a, err := frame.DecodeAck(p)
			if err == nil && a.Durable < s.acked {
				err = fmt.Errorf("the durable position fell from %s to %s", s.acked, a.Durable)
			}
			s.acked = max(s.acked, a.Durable)
			return a, err
		case frame.BeatAckFrame:
		case frame.Refuse:
			return frame.Ack{}, shipper.Refused(p)
		default:
			return frame.Ack{}, fmt.Errorf("frame of type %d", t)
		}
	}
}

// waitAck reads until lsn is durable over there.
func (s *sender) waitAck(lsn pos.LSN) frame.Ack {
	s.t.Helper()
	for {
		a, err := s.ack()
		if err != nil {
			s.t.Fatalf("wait for the acknowledgement of %s (have %s): %v", lsn, s.acked, err)
		}
		if a.Durable >= lsn {
			return a
		}
	}
}

// ended waits for the end of the stream.
func (s *sender) ended() error {
	for {
		if _, err := s.ack(); err != nil {
			return err
		}
	}
}

// wantLog checks that the spool holds exactly the log up to end.
func (n *node) wantLog(t fataler, lin pos.Lineage, end pos.LSN) {
	t.Helper()
	if got := n.spool.End(); got != end {
		t.Fatalf("the spool ends at %s, want %s", got, end)
	}
	got := make([]byte, end-base)
	if m, err := n.spool.ReadWAL(got, base); m < len(got) {
		t.Fatalf("read %d of %d: %v", m, len(got), err)
	}
	for at := base; at < end; {
		next := end
		for _, e := range lin {
			if e.Start > at {
				next = min(next, e.Start)
			}
		}
		if !bytes.Equal(got[at-base:next-base], wal(lin.At(at).Epoch, at, int(next-at))) {
			t.Fatalf("the bytes between %s and %s are not those of epoch %s", at, next, lin.At(at).Epoch)
		}
		at = next
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// watched counts what is written after a moment that the test chooses.
type watched struct {
	net.Conn
	closed *atomic.Bool // from now on nothing may be written
	late   *atomic.Int64
}

func (w watched) Write(p []byte) (int, error) {
	n, err := w.Conn.Write(p)
	if w.closed.Load() && err == nil {
		w.late.Add(1)
	}
	return n, err
}
