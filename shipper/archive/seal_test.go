package archive_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"understudy/shipper/archive"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

func seal(at pos.LSN, n int64, marks ...catalog.Mark) archive.Seal {
	return archive.Seal{SystemID: systemID, Timeline: 3, Start: at, Length: n, SegSize: segSize, Marks: marks}
}

func encode(t testing.TB, s archive.Seal, raw []byte) []byte {
	t.Helper()
	e := must(archive.NewEncoder(zstd.SpeedFastest))(t)
	var b bytes.Buffer
	if _, err := e.Encode(&b, bytes.NewReader(raw), s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var someMarks = []catalog.Mark{
	{LSN: 3*segSize + 8, At: time.Date(2026, 1, 2, 3, 4, 5, 678000, time.UTC)},
	{LSN: 3*segSize + 900, At: time.Date(2026, 1, 2, 3, 4, 6, 0, time.UTC), Name: "before-upgrade"},
}

func TestEncoder_RoundTrip(t *testing.T) {
	d := must(archive.NewDecoder())(t)
	defer d.Close()
	for _, n := range []int64{1, 7, 8192, 300_000, segSize - 1, segSize} {
		want := seal(3*segSize, n)
		if n > 900 {
			want.Marks = someMarks
		}
		raw := walBytes(1, want.Start, want.End())
		obj := encode(t, want, raw)
		var out bytes.Buffer
		got, err := d.Decode(&out, iotestReader{bytes.NewReader(obj)}, segSize)
		if err != nil || !bytes.Equal(out.Bytes(), raw) {
			t.Fatalf("%d bytes: %v, equal %v", n, err, bytes.Equal(out.Bytes(), raw))
		}
		checked, err := archive.Check(bytes.NewReader(obj))
		if err != nil || !cmp.Equal(checked, got) {
			t.Errorf("%d bytes: Check gave %v, %v", n, checked, err)
		}
		parsed, err := archive.ParseSeal(obj[max(0, len(obj)-4096):])
		if err != nil || !cmp.Equal(parsed, got) {
			t.Errorf("%d bytes: ParseSeal gave %v, %v", n, parsed, err)
		}
		want.Raw, want.Stored = got.Raw, got.Stored
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%d bytes: %s", n, diff)
		}
		if whole := n == segSize; got.Whole() != whole {
			t.Errorf("%d bytes: whole is %v", n, got.Whole())
		}
	}
}

// iotestReader gives odd amounts, so that pieces fall across the reader's
// seams.
type iotestReader struct{ r io.Reader }

func (r iotestReader) Read(p []byte) (int, error) { return r.r.Read(p[:min(len(p), 1237)]) }

// Every flipped byte of an object is found by both ways of reading it, and no
// truncation or addition passes.
func TestCheck_EveryFlippedByte(t *testing.T) {
	s := seal(3*segSize, 3000, someMarks...)
	obj := encode(t, s, walBytes(1, s.Start, s.End()))
	d := must(archive.NewDecoder())(t)
	defer d.Close()
	look := func(what string, b []byte) {
		if _, err := archive.Check(bytes.NewReader(b)); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: Check: %v", what, err)
		}
		if _, err := d.Decode(io.Discard, bytes.NewReader(b), segSize); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: Decode: %v", what, err)
		}
	}
	for i := range obj {
		for _, bit := range []byte{1, 0x80} {
			b := bytes.Clone(obj)
			b[i] ^= bit
			look(fmt.Sprintf("byte %d of %d", i, len(obj)), b)
		}
	}
	for _, n := range []int{0, 1, 31, 40, 127, len(obj) / 2, len(obj) - 1} {
		look(fmt.Sprintf("cut to %d", n), obj[:n])
	}
	look("a byte more", append(bytes.Clone(obj), 0))
	look("twice", append(bytes.Clone(obj), obj...))
}

func TestDecode_Refuses(t *testing.T) {
	d := must(archive.NewDecoder())(t)
	defer d.Close()
	s := seal(3*segSize, segSize)
	obj := encode(t, s, walBytes(1, s.Start, s.End()))
	if _, err := d.Decode(io.Discard, bytes.NewReader(obj), 2*segSize); !errors.Is(err, archive.ErrForeign) {
		t.Errorf("another segment size: %v", err)
	}
	if _, err := d.Decode(io.Discard, bytes.NewReader(obj), 12345); !errors.Is(err, archive.ErrSegmentSize) {
		t.Errorf("an impossible segment size: %v", err)
	}
	broken := errors.New("the line is dead")
	if _, err := d.Decode(io.Discard, io.MultiReader(bytes.NewReader(obj[:len(obj)/2]), failing{broken}), segSize); !errors.Is(err, broken) || errors.Is(err, archive.ErrDamaged) {
		t.Errorf("a dead line is no damage: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// A hostile object does not take memory: neither a bomb of zeros, nor a frame
// that wants a giant window, nor an endless stream.
func TestDecode_Bomb(t *testing.T) {
	var bomb bytes.Buffer
	zw := must(zstd.NewWriter(&bomb, zstd.WithEncoderConcurrency(1)))(t)
	zeros := make([]byte, 1<<20)
	for range 512 {
		zw.Write(zeros)
	}
	zw.Close()
	wide := []byte{0x28, 0xB5, 0x2F, 0xFD, 0x00, 0xF8, 0x01, 0x00, 0x00} // a window of terabytes
	d := must(archive.NewDecoder())(t)
	defer d.Close()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for name, r := range map[string]io.Reader{"Zeros": &bomb, "Window": bytes.NewReader(wide), "Endless": &endless{}} {
		if _, err := d.Decode(io.Discard, r, segSize); !errors.Is(err, archive.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 40<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
}

// endless is skippable frames: nothing comes out of them.
type endless struct{ n int }

func (e *endless) Read(p []byte) (int, error) {
	frame := []byte{0x50, 0x2A, 0x4D, 0x18, 0, 0, 0, 0}
	for i := range p {
		p[i] = frame[e.n%8]
		e.n++
	}
	return len(p), nil
}

func TestEncoder_Refuses(t *testing.T) {
	e := must(archive.NewEncoder(zstd.SpeedFastest))(t)
	at := time.Now()
	bad := map[string]func(*archive.Seal){
		"NoTimeline":  func(s *archive.Seal) { s.Timeline = 0 },
		"OddStart":    func(s *archive.Seal) { s.Start++ },
		"Empty":       func(s *archive.Seal) { s.Length = 0 },
		"TooLong":     func(s *archive.Seal) { s.Length = segSize + 1 },
		"SegmentSize": func(s *archive.Seal) { s.SegSize = 3 << 20 },
		"MarkBefore":  func(s *archive.Seal) { s.Marks = []catalog.Mark{{LSN: s.Start, At: at}} },
		"MarkAfter":   func(s *archive.Seal) { s.Marks = []catalog.Mark{{LSN: s.End() + 1, At: at}} },
		"NameTooLong": func(s *archive.Seal) {
			s.Marks = []catalog.Mark{{LSN: s.End(), At: at, Name: strings.Repeat("n", 64)}}
		},
		"TooMany": func(s *archive.Seal) {
			for range 257 {
				s.Marks = append(s.Marks, catalog.Mark{LSN: s.End(), At: at})
			}
		},
	}
	for name, change := range bad {
		s := seal(3*segSize, 100)
		change(&s)
		if _, err := e.Encode(io.Discard, strings.NewReader(strings.Repeat("x", 2*segSize)), s); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := e.Encode(io.Discard, strings.NewReader("short"), seal(3*segSize, 100)); err == nil {
		t.Error("a log that ends early: taken")
	}
}

// Stock zstd reads a piece.
func TestEncoder_StockZstd(t *testing.T) {
	bin, err := exec.LookPath("zstd")
	if err != nil {
		t.Fatal("no zstd found: install the package zstd")
	}
	s := seal(3*segSize, segSize-5000, someMarks...)
	raw := walBytes(1, s.Start, s.End())
	cmd := exec.CommandContext(context.Background(), bin, "-d", "-c")
	cmd.Stdin = bytes.NewReader(encode(t, s, raw))
	got, err := cmd.Output()
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("zstd: %v, %d bytes of %d", err, len(got), len(raw))
	}
}

func FuzzDecode(f *testing.F) {
	s := seal(3*segSize, 700)
	s.Marks = someMarks[:1]
	obj := encode(f, s, walBytes(1, s.Start, s.End()))
	f.Add(obj)
	f.Add(obj[len(obj)-200:])
	f.Add([]byte{})
	d := must(archive.NewDecoder())(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := archive.ParseSeal(b); err == nil && (len(s.Marks) > 256 || s.Length < 1 || s.Length > s.SegSize) {
			t.Errorf("impossible seal %v", s)
		}
		checked, cerr := archive.Check(bytes.NewReader(b))
		var out bytes.Buffer
		got, err := d.Decode(&out, bytes.NewReader(b), segSize)
		if err != nil {
			return
		}
		if cerr != nil || !cmp.Equal(checked, got) || int64(out.Len()) != got.Length {
			t.Errorf("decoded %v with %d bytes, checked %v %v", got, out.Len(), checked, cerr)
		}
	})
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte("1\t0/3000000\tno recovery target specified\n\n2\t0/5000028\tat restore point \"x\"\n"))
	f.Add([]byte("# burned\n"))
	f.Add([]byte("2 0/1 x\n1 0/2 y\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		lines, err := archive.ParseHistory(b)
		if err != nil {
			return
		}
		again, err := archive.ParseHistory(archive.RenderHistory(lines))
		if err != nil || !cmp.Equal(lines, again) {
			t.Errorf("%v, %v after rendering, %v", lines, again, err)
		}
	})
}
