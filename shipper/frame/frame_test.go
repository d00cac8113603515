package frame_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"understudy/shipper/frame"
)

// message is a frame with a payload of its own.
type message struct {
	t frame.Type
	p []byte
}

// readAll returns the frames before the first error, and that error.
func readAll(r io.Reader) ([]message, error) {
	fr := frame.NewReader(r)
	var out []message
	for {
		t, p, err := fr.Next()
		if err != nil {
			return out, err
		}
		out = append(out, message{t, bytes.Clone(p)})
	}
}

func encode(t *testing.T, msgs []message) []byte {
	t.Helper()
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	for _, m := range msgs {
		if err := w.Write(m.t, m.p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func sample() []message {
	return []message{
		{frame.Hello, []byte(`{"node":"main"}`)},
		{frame.Floor, nil},
		{frame.Data, bytes.Repeat([]byte{7}, frame.DataHeadSize+30)},
		{frame.Bye, []byte{}},
		{frame.SeedChunk, []byte("x")},
	}
}

// isPrefix tells whether got are the first messages of all.
func isPrefix(got, all []message) bool {
	if len(got) > len(all) {
		return false
	}
	for i, m := range got {
		if m.t != all[i].t || !bytes.Equal(m.p, all[i].p) {
			return false
		}
	}
	return true
}

func TestReader_RoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		sizes := rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(60<<10, 70<<10), rapid.Just(frame.MaxPayload))
		var want []message
		var b bytes.Buffer
		w := frame.NewWriter(&b)
		for range rapid.IntRange(0, 6).Draw(rt, "n") {
			m := message{frame.Type(rapid.IntRange(int(frame.Hello), int(frame.Bye)).Draw(rt, "type")), make([]byte, sizes.Draw(rt, "size"))}
			for i := range m.p {
				m.p[i] = byte(i * 31)
			}
			cut := rapid.IntRange(0, len(m.p)).Draw(rt, "cut")
			if err := w.Write(m.t, m.p[:cut], m.p[cut:]); err != nil {
				rt.Fatal(err)
			}
			want = append(want, m)
		}
		if err := w.Flush(); err != nil {
			rt.Fatal(err)
		}
		got, err := readAll(&b)
		if err != io.EOF || len(got) != len(want) || !isPrefix(got, want) {
			rt.Fatalf("%d frames of %d, %v", len(got), len(want), err)
		}
	})
}

func TestReader_ByteByByte(t *testing.T) {
	got, err := readAll(iotest.OneByteReader(bytes.NewReader(encode(t, sample()))))
	if err != io.EOF || len(got) != len(sample()) || !isPrefix(got, sample()) {
		t.Errorf("%d frames, %v", len(got), err)
	}
	got, err = readAll(iotest.DataErrReader(bytes.NewReader(encode(t, sample()))))
	if err != io.EOF || len(got) != len(sample()) {
		t.Errorf("EOF with data: %d frames, %v", len(got), err)
	}
}

func TestReader_EveryBitFlipIsDetected(t *testing.T) {
	stream := encode(t, sample())
	for i := range len(stream) * 8 {
		bad := bytes.Clone(stream)
		bad[i/8] ^= 1 << (i % 8)
		got, err := readAll(bytes.NewReader(bad))
		if err == io.EOF || !isPrefix(got, sample()) || len(got) == len(sample()) {
			t.Fatalf("bit %d of byte %d: %d frames, %v", i%8, i/8, len(got), err)
		}
	}
}

func TestReader_EveryTruncationIsDetected(t *testing.T) {
	stream := encode(t, sample())
	ends := map[int]bool{0: true}
	n := 0
	for _, m := range sample() {
		n += frame.HeaderSize + len(m.p)
		ends[n] = true
	}
	for i := range stream {
		got, err := readAll(bytes.NewReader(stream[:i]))
		if !isPrefix(got, sample()) {
			t.Fatalf("cut at %d: wrong frames", i)
		}
		want := frame.ErrTruncated
		if ends[i] {
			want = io.EOF
		}
		if !errors.Is(err, want) {
			t.Errorf("cut at %d: %v, want %v", i, err, want)
		}
	}
}

func TestReader_BrokenStreams(t *testing.T) {
	one := []message{{frame.BeatFrame, []byte("0123456789")}}
	first := encode(t, one)
	two := encode(t, append(one, one...))
	second := two[len(first):]
	tests := map[string]struct {
		stream []byte
		want   error
	}{
		"Zeros":         {make([]byte, 100), frame.ErrMagic},
		"OtherProtocol": {[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), frame.ErrMagic},
		"NewerVersion":  {patch(first, 2, 2), frame.ErrVersion},
		"HugeLength":    {patch(first, 7, 0xff), frame.ErrTooLong},
		"OtherType":     {patch(first, 3, byte(frame.Data)), frame.ErrCRC},
		"TypeZero":      {retype(first, 0), frame.ErrType},
		"UnknownType":   {retype(first, byte(frame.Bye)+1), frame.ErrType},
		"LostFrame":     {second, frame.ErrSequence},
		"RepeatedFrame": {append(bytes.Clone(first), first...), frame.ErrSequence},
		"InHeader":      {first[:10], frame.ErrTruncated},
		"InPayload":     {first[:len(first)-1], frame.ErrTruncated},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := frame.NewReader(bytes.NewReader(tt.stream))
			var err error
			for err == nil {
				_, _, err = r.Next()
			}
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if _, _, again := r.Next(); again != err {
				t.Errorf("second call: %v", again)
			}
		})
	}
}

func patch(b []byte, i int, v byte) []byte {
	b = bytes.Clone(b)
	b[i] = v
	return b
}

func TestReader_PendingCountsWhatWasReadAhead(t *testing.T) {
	stream := encode(t, sample())
	r := frame.NewReader(bytes.NewReader(stream))
	left := len(stream)
	for _, m := range sample() {
		if _, _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		left -= frame.HeaderSize + len(m.p)
		if r.Pending() != left {
			t.Errorf("%d pending after %s, want %d", r.Pending(), m.t, left)
		}
	}
}

// retype gives a frame another type and the checksum that goes with it.
func retype(b []byte, typ byte) []byte {
	b = patch(b, 3, typ)
	table := crc32.MakeTable(crc32.Castagnoli)
	crc := crc32.Update(crc32.Checksum(b[:16], table), table, b[frame.HeaderSize:])
	binary.LittleEndian.PutUint32(b[16:], crc)
	return b
}

func TestReader_TimeoutLosesNothing(t *testing.T) {
	stream := encode(t, sample())
	r := frame.NewReader(&stutter{b: stream})
	var got []message
	for {
		typ, p, err := r.Next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			if err != io.EOF || len(got) != len(sample()) || !isPrefix(got, sample()) {
				t.Fatalf("%d frames, %v", len(got), err)
			}
			return
		}
		got = append(got, message{typ, bytes.Clone(p)})
	}
}

// stutter times out before each of its pieces.
type stutter struct {
	b    []byte
	beat bool
}

func (s *stutter) Read(p []byte) (int, error) {
	if s.beat = !s.beat; s.beat {
		return 0, os.ErrDeadlineExceeded
	}
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), 7)], s.b)
	s.b = s.b[n:]
	return n, nil
}

func TestWriter_RefusesWithoutWriting(t *testing.T) {
	var b bytes.Buffer
	w := frame.NewWriter(&b)
	if err := w.Write(0); !errors.Is(err, frame.ErrType) {
		t.Errorf("type zero: %v", err)
	}
	if err := w.Write(frame.Bye+1, nil); !errors.Is(err, frame.ErrType) {
		t.Errorf("type beyond the last: %v", err)
	}
	if err := w.Write(frame.Data, make([]byte, frame.MaxPayload), []byte{1}); !errors.Is(err, frame.ErrTooLong) {
		t.Errorf("too long: %v", err)
	}
	if err := w.WriteData(frame.DataHead{}, make([]byte, frame.MaxData+1)); !errors.Is(err, frame.ErrTooLong) {
		t.Errorf("too much data: %v", err)
	}
	if w.Buffered() != 0 {
		t.Errorf("%d bytes buffered", w.Buffered())
	}
	if err := w.WriteJSON(frame.Hello, map[string]int{"a": 1}); err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	got, err := readAll(&b)
	if err != io.EOF || len(got) != 1 || string(got[0].p) != `{"a":1}` {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWriter_ErrorIsReturned(t *testing.T) {
	pr, pw := io.Pipe()
	pr.CloseWithError(os.ErrClosed)
	w := frame.NewWriter(pw)
	if err := w.Write(frame.Bye); err != nil {
		t.Fatalf("buffered write: %v", err)
	}
	if err := w.Flush(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("flush: %v", err)
	}
	if err := w.Write(frame.Bye); !errors.Is(err, os.ErrClosed) {
		t.Errorf("write after the error: %v", err)
	}
}

func TestType_Names(t *testing.T) {
	seen := map[string]bool{}
	for typ := frame.Hello; typ <= frame.Bye; typ++ {
		if s := typ.String(); s == "" || seen[s] || !typ.Valid() {
			t.Errorf("type %d is called %q", typ, s)
		} else {
			seen[s] = true
		}
	}
	if frame.Type(0).Valid() || (frame.Bye + 1).Valid() || frame.Type(0).String() != "type 0" {
		t.Error("invalid types")
	}
}

func TestWriter_DoesNotAllocate(t *testing.T) {
	w := frame.NewWriter(io.Discard)
	data := make([]byte, 128<<10)
	n := testing.AllocsPerRun(100, func() {
		err := errors.Join(w.WriteData(frame.DataHead{LSN: 1}, data), w.WriteAck(frame.Ack{}), w.WriteBeat(frame.Beat{}), w.WriteBeatAck(frame.BeatAck{}), w.Flush())
		if err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
