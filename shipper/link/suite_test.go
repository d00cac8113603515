package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/link"
)

// TestNetwork is the contract of Network and Listener for every implementation.
func TestNetwork(t *testing.T) {
	suite := map[string]func(*testing.T, world){
		"RightGroupWorks":          rightGroupWorks,
		"ForeignGroupIsRefused":    foreignGroupIsRefused,
		"WrongNodeIsRefused":       wrongNodeIsRefused,
		"UnknownProtocolIsRefused": unknownProtocolIsRefused,
		"HandlerMayComeLater":      handlerMayComeLater,
		"NobodyListens":            nobodyListens,
		"AddressInUse":             addressInUse,
		"ContextEndsDial":          contextEndsDial,
		"SilentListener":           silentListener,
		"CloseEndsHandlers":        closeEndsHandlers,
		"ContextEndsServe":         contextEndsServe,
		"HandlerReturnCloses":      handlerReturnCloses,
		"TooManyAreRefused":        tooManyAreRefused,
		"Deadlines":                deadlines,
		"BulkBothWays":             bulkBothWays,
		"AcceptAdapter":            acceptAdapter,
		"AcceptAdapterCloses":      acceptAdapterCloses,
	}
	for network, build := range worlds() {
		t.Run(network, func(t *testing.T) {
			for name, f := range suite {
				t.Run(name, func(t *testing.T) { f(t, build()) })
			}
		})
	}
}

func rightGroupWorks(t *testing.T, w world) {
	peers := make(chan link.Peer, 1)
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{
		link.Stream:  func(ctx context.Context, c net.Conn, p link.Peer) { peers <- p; echo(ctx, c, p) },
		link.Control: func(context.Context, net.Conn, link.Peer) { t.Error("wrong handler") },
	})
	c, peer := dial(t, w(t, "g1", "backup"), l, link.Stream, "main")
	if err := ping(c, "hello"); err != nil {
		t.Fatal(err)
	}
	if peer.Node != "main" || peer.Group != "g1" || peer.Addr != l.Addr().String() {
		t.Errorf("dialled %+v", peer)
	}
	if p := receive(t, peers); p.Node != "backup" || p.Group != "g1" || p.Addr == "" {
		t.Errorf("handler's peer %+v", p)
	}
	if _, peer := dial(t, w(t, "g1", "backup"), l, link.Stream, ""); peer.Node != "main" {
		t.Errorf("any node: %+v", peer)
	}
	if n, err := link.Outstanding(c); err != nil || n < 0 {
		t.Errorf("Outstanding: %d, %v", n, err)
	}
}

func foreignGroupIsRefused(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	_, _, err := w(t, "g2", "backup").Dial(t.Context(), l.Addr().String(), link.Stream, "main")
	if !errors.Is(err, link.ErrForeignGroup) {
		t.Errorf("got %v", err)
	}
}

func wrongNodeIsRefused(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	_, _, err := w(t, "g1", "backup").Dial(t.Context(), l.Addr().String(), link.Stream, "witness")
	if !errors.Is(err, link.ErrWrongNode) {
		t.Errorf("got %v", err)
	}
}

func unknownProtocolIsRefused(t *testing.T, w world) {
	for name, handlers := range map[string]map[link.Protocol]link.Handler{
		"Other": {link.Stream: echo}, "None": nil,
	} {
		l := listen(t, w(t, "g1", "main"), handlers)
		_, _, err := w(t, "g1", "backup").Dial(t.Context(), l.Addr().String(), link.Ledger, "main")
		if !errors.Is(err, link.ErrProtocol) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func handlerMayComeLater(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), nil)
	n := w(t, "g1", "backup")
	if _, _, err := n.Dial(t.Context(), l.Addr().String(), link.Stream, ""); !errors.Is(err, link.ErrProtocol) {
		t.Fatalf("before: %v", err)
	}
	l.Handle(link.Stream, echo)
	c, _ := dial(t, n, l, link.Stream, "main")
	if err := ping(c, "x"); err != nil {
		t.Error(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("second handler was taken")
		}
	}()
	l.Handle(link.Stream, echo)
}

func nobodyListens(t *testing.T, w world) {
	l, err := w(t, "g1", "main").Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if err := l.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	receive(t, l.Done())
	_, _, err = w(t, "g1", "backup").Dial(t.Context(), l.Addr().String(), link.Stream, "main")
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

func addressInUse(t *testing.T, w world) {
	n := w(t, "g1", "main")
	l := listen(t, n, nil)
	if _, err := n.Listen(l.Addr().String()); !errors.Is(err, link.ErrAddrInUse) {
		t.Errorf("got %v", err)
	}
}

func contextEndsDial(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := w(t, "g1", "backup").Dial(ctx, l.Addr().String(), link.Stream, "main"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// silentListener has a listener that takes connections and does not answer.
func silentListener(t *testing.T, w world) {
	l, err := w(t, "g1", "main").Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := w(t, "g1", "backup").Dial(ctx, l.Addr().String(), link.Stream, "main"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func closeEndsHandlers(t *testing.T, w world) {
	n := w(t, "g1", "main")
	l, err := n.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	started, ended := make(chan struct{}), make(chan error, 1)
	l.Handle(link.Stream, func(ctx context.Context, c net.Conn, _ link.Peer) {
		close(started)
		_, err := c.Read(make([]byte, 1)) // blocks until the connection is closed
		<-ctx.Done()
		ended <- err
	})
	served := make(chan error, 1)
	go func() { served <- l.Serve(t.Context()) }()
	c, _ := dial(t, w(t, "g1", "backup"), l, link.Stream, "main")
	receive(t, started)
	l.Close()
	if err := receive(t, served); err != nil {
		t.Errorf("Serve: %v", err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("read without error")
		}
	default:
		t.Error("Serve returned before its handler")
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("the dialling side reads on")
	}
}

func contextEndsServe(t *testing.T, w world) {
	l, err := w(t, "g1", "main").Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- l.Serve(ctx) }()
	cancel()
	if err := receive(t, served); err != nil {
		t.Errorf("Serve: %v", err)
	}
	receive(t, l.Done())
}

func handlerReturnCloses(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{
		link.Stream: func(_ context.Context, c net.Conn, _ link.Peer) { _, _ = c.Write([]byte("bye")) },
	})
	c, _ := dial(t, w(t, "g1", "backup"), l, link.Stream, "main")
	if b, err := io.ReadAll(c); err != nil || string(b) != "bye" {
		t.Errorf("%q, %v", b, err)
	}
}

func tooManyAreRefused(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{
		link.Stream: func(ctx context.Context, _ net.Conn, _ link.Peer) { <-ctx.Done() },
	})
	n := w(t, "g1", "backup")
	for range link.MaxOpen {
		dial(t, n, l, link.Stream, "main")
	}
	if _, _, err := n.Dial(t.Context(), l.Addr().String(), link.Stream, "main"); !errors.Is(err, link.ErrBusy) {
		t.Errorf("got %v", err)
	}
}

func deadlines(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{
		link.Stream: func(ctx context.Context, _ net.Conn, _ link.Peer) { <-ctx.Done() },
	})
	c, _ := dial(t, w(t, "g1", "backup"), l, link.Stream, "main")
	if err := c.SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var ne net.Error
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("read: %v", err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	// Nobody reads, so the buffers on the way fill.
	var err error
	for block := make([]byte, 1<<20); err == nil; {
		_, err = c.Write(block)
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write: %v", err)
	}
}

func bulkBothWays(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), map[link.Protocol]link.Handler{link.Stream: echo})
	c, _ := dial(t, w(t, "g1", "backup"), l, link.Stream, "main")
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	wrote := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		wrote <- err
	}()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read: %v", err)
	}
	if err := receive(t, wrote); err != nil {
		t.Errorf("write: %v", err)
	}
}

func acceptAdapter(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), nil)
	a := link.Accept(l, link.Ledger)
	if a.Addr().String() != l.Addr().String() {
		t.Errorf("Addr %s", a.Addr())
	}
	c, _ := dial(t, w(t, "g1", "backup"), l, link.Ledger, "main")
	s, err := a.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := link.PeerOf(s); !ok || p.Node != "backup" {
		t.Errorf("PeerOf: %+v %v", p, ok)
	}
	done := make(chan struct{})
	go func() { defer close(done); echo(t.Context(), s, link.Peer{}) }()
	if err := ping(c, "raft"); err != nil {
		t.Error(err)
	}
	if n, err := link.Outstanding(s); err != nil || n < 0 {
		t.Errorf("Outstanding: %d, %v", n, err)
	}
	a.Close()
	if _, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: %v", err)
	}
	if err := ping(c, "goes on"); err != nil {
		t.Errorf("accepted connection after Close: %v", err)
	}
	s.Close()
	receive(t, done)
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("read after the other side closed")
	}
}

func acceptAdapterCloses(t *testing.T, w world) {
	l := listen(t, w(t, "g1", "main"), nil)
	a := link.Accept(l, link.Ledger)
	waiting, _ := dial(t, w(t, "g1", "backup"), l, link.Ledger, "main")
	a.Close()
	if _, err := waiting.Read(make([]byte, 1)); err == nil {
		t.Error("a waiting connection survived Close")
	}
	later, _ := dial(t, w(t, "g1", "backup"), l, link.Ledger, "main")
	if _, err := later.Read(make([]byte, 1)); err == nil {
		t.Error("a later connection survived Close")
	}

	other := link.Accept(l, link.Admin)
	accepted := make(chan error, 1)
	go func() {
		_, err := other.Accept()
		accepted <- err
	}()
	l.Close()
	if err := receive(t, accepted); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after the listener's Close: %v", err)
	}
}
