package frame_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"understudy/shipper/frame"
	"understudy/shipper/pos"
)

// seedStream holds one frame of every kind.
func seedStream() []byte {
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	e := pos.Epoch{Gen: 1, Num: 7}
	err := errors.Join(
		w.WriteJSON(frame.Hello, map[string]string{"node": "backup"}),
		w.WriteData(frame.DataHead{Epoch: e, LSN: 0x1000000, Committed: 0x1000000, LineageEpoch: e, SourceEnd: 0x1000100}, bytes.Repeat([]byte("wal"), 40)),
		w.WriteAck(frame.Ack{Epoch: e, Received: 3, Durable: 2, Applied: 1, HasFeedback: true, Xmin: 1<<32 | 700}),
		w.WriteBeat(frame.Beat{Epoch: e, Seq: 1, SentAt: 5}),
		w.WriteBeatAck(frame.BeatAck{Epoch: e, Seq: 1, SentAt: 5}),
		w.Write(frame.Bye),
		w.Flush())
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// FuzzReader checks that whatever is accepted is exactly what a Writer would
// have written: the encoding of a stream is unique.
func FuzzReader(f *testing.F) {
	s := seedStream()
	f.Add(s)
	f.Add(s[:len(s)-3])
	f.Add(s[frame.HeaderSize:])
	f.Add(append(bytes.Clone(s), s...))
	f.Add(make([]byte, 64))
	f.Add([]byte{'U', 'S', frame.Version, byte(frame.Data), 0, 0, 0x10, 0})
	f.Add([]byte{'U', 'S', frame.Version, 0, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		var again bytes.Buffer
		w := frame.NewWriter(&again)
		r := frame.NewReader(bytes.NewReader(stream))
		for {
			typ, p, err := r.Next()
			if err != nil {
				if err == io.EOF && w.Buffered()+again.Len() != len(stream) {
					t.Fatalf("clean end after %d of %d bytes", again.Len(), len(stream))
				}
				break
			}
			if err := w.Write(typ, p); err != nil {
				t.Fatalf("cannot write what was read: %v", err)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(stream, again.Bytes()) {
			t.Fatal("accepted frames are not the stream's")
		}
	})
}

// FuzzDecode checks that a payload which decodes encodes to itself.
func FuzzDecode(f *testing.F) {
	r := frame.NewReader(bytes.NewReader(seedStream()))
	for {
		_, p, err := r.Next()
		if err != nil {
			break
		}
		f.Add(bytes.Clone(p))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		same := func(what string, write func(w *frame.Writer) error) {
			t.Helper()
			var b bytes.Buffer
			w := frame.NewWriter(&b)
			if err := errors.Join(write(w), w.Flush()); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if !bytes.Equal(b.Bytes()[frame.HeaderSize:], p) {
				t.Fatalf("%s does not encode to itself", what)
			}
		}
		if h, data, err := frame.DecodeData(p); err == nil && len(p) <= frame.MaxPayload {
			same("data", func(w *frame.Writer) error { return w.WriteData(h, data) })
		}
		if a, err := frame.DecodeAck(p); err == nil {
			same("ack", func(w *frame.Writer) error { return w.WriteAck(a) })
		}
		if b, err := frame.DecodeBeat(p); err == nil {
			same("beat", func(w *frame.Writer) error { return w.WriteBeat(b) })
		}
		if b, err := frame.DecodeBeatAck(p); err == nil {
			same("beat ack", func(w *frame.Writer) error { return w.WriteBeatAck(b) })
		}
	})
}
