package shipper_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"understudy/shipper"
	"understudy/shipper/frame"
	"understudy/shipper/link"
)

func hello() shipper.Hello {
	return shipper.Hello{Group: "g", Ledger: "l", Node: "main", Store: "A", To: "B", SystemID: systemID, Major: 15,
		SegSize: segSize, Epoch: epoch(2), Lineage: lineage(segSize, 2*segSize)}
}

func TestCheckHello(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*shipper.Hello)
		code   string
		part   string
	}{
		"right":           {func(*shipper.Hello) {}, "", ""},
		"group":           {func(h *shipper.Hello) { h.Group = "x" }, shipper.RefuseForeign, "belongs to group x"},
		"ledger":          {func(h *shipper.Hello) { h.Ledger = "x" }, shipper.RefuseForeign, "formed anew"},
		"system":          {func(h *shipper.Hello) { h.SystemID = 8 }, shipper.RefuseForeign, "system identifier 8, this node holds 77"},
		"major":           {func(h *shipper.Hello) { h.Major = 16 }, shipper.RefuseForeign, "postgresql.bin_dir"},
		"major unknown":   {func(h *shipper.Hello) { h.Major = 0 }, "", ""},
		"segments":        {func(h *shipper.Hello) { h.SegSize = 2 << 20 }, shipper.RefuseForeign, "segments of"},
		"no lineage":      {func(h *shipper.Hello) { h.Lineage = nil }, shipper.RefuseBroken, "lineage"},
		"lineage behind":  {func(h *shipper.Hello) { h.Lineage = h.Lineage[:1] }, shipper.RefuseBroken, "lineage"},
		"lineage invalid": {func(h *shipper.Hello) { h.Lineage[0].Timeline = 0 }, shipper.RefuseBroken, "lineage"},
	} {
		t.Run(name, func(t *testing.T) {
			h := hello()
			tt.change(&h)
			ref := shipper.CheckHello(h, "g", "l", systemID, 15, segSize)
			if (ref != nil) != (tt.code != "") || ref != nil && (ref.Code != tt.code || !strings.Contains(ref.Text, tt.part)) {
				t.Errorf("got %+v", ref)
			}
		})
	}
}

// A node that knows nothing yet accepts any value, but none that is impossible.
func TestCheckHello_OfANodeThatKnowsNothing(t *testing.T) {
	if ref := shipper.CheckHello(hello(), "g", "", 0, 0, 0); ref != nil {
		t.Errorf("got %+v", ref)
	}
	for _, size := range []int64{0, -1, 1000, 3 << 20, 2 << 30} {
		h := hello()
		h.SegSize = size
		if ref := shipper.CheckHello(h, "g", "", 0, 0, 0); ref == nil {
			t.Errorf("segments of %d bytes were accepted", size)
		}
	}
}

func TestExpect(t *testing.T) {
	write := func(f func(*frame.Writer) error) *frame.Reader {
		var b bytes.Buffer
		w := frame.NewWriter(&b)
		if err := errors.Join(f(w), w.Flush()); err != nil {
			t.Fatal(err)
		}
		return frame.NewReader(&b)
	}
	var wel shipper.Welcome
	r := write(func(w *frame.Writer) error {
		return w.WriteJSON(frame.Welcome, shipper.Welcome{Store: "B", Resume: 5})
	})
	if err := shipper.Expect(r, frame.Welcome, &wel); err != nil || wel.Store != "B" || wel.Resume != 5 {
		t.Errorf("got %+v, %v", wel, err)
	}
	r = write(func(w *frame.Writer) error { return w.WriteJSON(frame.Hello, hello()) })
	if err := shipper.Expect(r, frame.Welcome, &wel); !errors.Is(err, shipper.ErrUnexpected) {
		t.Errorf("another frame: %v", err)
	}
	r = write(func(w *frame.Writer) error { return w.WriteJSON(frame.Welcome, "text") })
	if err := shipper.Expect(r, frame.Welcome, &wel); err == nil {
		t.Error("another shape: no error")
	}
	var b bytes.Buffer
	sent := shipper.Refuse(frame.NewWriter(&b), shipper.RefuseDiverged, "the log differs")
	got := shipper.Expect(frame.NewReader(&b), frame.Welcome, &wel)
	for who, err := range map[string]error{"sender": sent, "receiver": got} {
		var ref *shipper.RefusedError
		if !errors.As(err, &ref) || ref.Code != shipper.RefuseDiverged || err.Error() != "the log differs" || !ref.Permanent() {
			t.Errorf("%s: %v", who, err)
		}
	}
	if err := shipper.Expect(frame.NewReader(bytes.NewReader(nil)), frame.Welcome, &wel); !errors.Is(err, io.EOF) {
		t.Errorf("nothing: %v", err)
	}
}

// Any bit of a handshake that turns over, and any cut, is noticed.
func TestExpect_FlippedOrTruncated(t *testing.T) {
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	if err := errors.Join(w.WriteJSON(frame.Hello, hello()), w.Flush()); err != nil {
		t.Fatal(err)
	}
	raw := b.Bytes()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		var h shipper.Hello
		if err := shipper.Expect(frame.NewReader(bytes.NewReader(bad)), frame.Hello, &h); err == nil {
			t.Errorf("byte %d of %d flipped: accepted", i, len(raw))
		}
		if err := shipper.Expect(frame.NewReader(bytes.NewReader(raw[:i])), frame.Hello, &h); err == nil {
			t.Errorf("cut to %d of %d bytes: accepted", i, len(raw))
		}
	}
}

func TestDial_StatesThePurpose(t *testing.T) {
	m := link.Memory()
	l, err := m.Node("b").Listen("b:1")
	if err != nil {
		t.Fatal(err)
	}
	type accepted struct {
		p   shipper.Purpose
		err error
	}
	got := make(chan accepted, 1)
	l.Handle(link.Stream, func(_ context.Context, c net.Conn, _ link.Peer) {
		p, err := shipper.Accept(c)
		got <- accepted{p, err}
	})
	served := make(chan error, 1)
	go func() { served <- l.Serve(t.Context()) }()
	defer func() { l.Close(); <-served }()
	for _, p := range []shipper.Purpose{shipper.PurposeStream, shipper.PurposeFetch, shipper.PurposeBase, 'X', 0} {
		c, err := shipper.Dial(t.Context(), m.Node("a"), "b:1", "b", p)
		if err != nil {
			t.Fatal(err)
		}
		a := <-got
		c.Close()
		known := p != 'X' && p != 0
		if (a.err == nil) != known || known && a.p != p {
			t.Errorf("purpose %q: %+v", p, a)
		}
	}
	if _, err := shipper.Dial(t.Context(), m.Node("a"), "b:1", "c", shipper.PurposeFetch); !errors.Is(err, link.ErrWrongNode) {
		t.Errorf("another node: %v", err)
	}
}

var _ shipper.Log = memLog{}
