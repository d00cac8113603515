package peer

import (
	"bufio"
	"bytes"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"understudy/shipper/location"
)

func examples() []message {
	at := time.Unix(1700000000, 5)
	return []message{
		{kind: kindHello, key: "disk", a: 15000},
		{kind: kindCreate, key: "a/b", token: "abc", a: -1},
		{kind: kindData, data: []byte("bytes")},
		{kind: kindCommit, a: 1 << 40},
		{kind: kindSuspend}, {kind: kindAbort}, {kind: kindSpace}, {kind: kindDone}, {kind: kindAlive},
		{kind: kindOpen, key: "a/b", a: 7, b: -1},
		{kind: kindStat, key: "k"}, {kind: kindList}, {kind: kindRemove, key: "k"},
		{kind: kindSweep, a: toNanos(at)}, {kind: kindNumber, a: 3}, {kind: kindTook, a: 2},
		{kind: kindObject, infos: []location.Info{{Key: "k", Size: 9, At: at}}},
		{kind: kindRoom, a: 1, b: 2},
		{kind: kindFail, code: 2, key: "no such object"},
		{kind: kindItems, infos: []location.Info{{Key: "k", Size: 9, At: at}, {Key: "a/b", Size: -1}}},
	}
}

func stream(t testing.TB, all ...message) (b []byte) {
	t.Helper()
	for _, m := range all {
		var err error
		if b, err = m.append(b); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// read decodes a stream of frames as a session does.
func readAll(b []byte) (out []message, err error) {
	s := &session{free: make(chan []byte, 1)}
	r := bufio.NewReader(bytes.NewReader(b))
	for {
		m, err := s.next(r)
		if err != nil {
			return out, err
		}
		out = append(out, m)
	}
}

func TestMessage_RoundTrip(t *testing.T) {
	want := stream(t, examples()...)
	got, _ := readAll(want)
	if len(got) != len(examples()) {
		t.Fatalf("read %d of %d frames", len(got), len(examples()))
	}
	if again := stream(t, got...); !bytes.Equal(again, want) {
		t.Error("what was read is not what was written")
	}
	last := got[len(got)-1].infos
	if len(last) != 2 || last[0].Key != "k" || !last[0].At.Equal(time.Unix(1700000000, 5)) || !last[1].At.IsZero() {
		t.Errorf("objects are %+v", last)
	}
}

func TestMessage_Bounds(t *testing.T) {
	if _, err := (message{kind: kindData, data: make([]byte, maxPayload+1)}).append(nil); err == nil {
		t.Error("a frame beyond the bound was written")
	}
	if _, err := (message{kind: 200}).append(nil); err == nil {
		t.Error("a frame of no kind was written")
	}
	got, _ := readAll(stream(t, message{kind: kindFail, code: 1, key: strings.Repeat("long ", 1000) + "\n"}))
	if len(got) != 1 || len(got[0].key) != maxText {
		t.Errorf("a long text arrived as %d frames", len(got))
	}
	text := message{code: 1, key: "a\x1b[2Jb\n\xff"}.error().Error()
	if strings.ContainsAny(text, "\x1b\n") || !utf8.ValidString(text) {
		t.Errorf("text %q is not fit for a log", text)
	}
}

// FuzzFrames checks that what is accepted is what would be sent, and that
// lengths are checked before memory is taken.
func FuzzFrames(f *testing.F) {
	for _, m := range examples() {
		f.Add(stream(f, m))
	}
	f.Add(stream(f, examples()...))
	f.Add([]byte{3, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{37, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, _ := readAll(b)
		var again []byte
		for _, m := range got {
			var err error
			if again, err = m.append(again); err != nil {
				t.Fatalf("cannot send what was read: %v", err)
			}
		}
		if !bytes.HasPrefix(b, again) {
			t.Fatal("accepted frames are not those of the stream")
		}
	})
}
