package s3

import (
	"bytes"
	"io"
	"testing"

	"github.com/minio/minio-go/v7"
	"pgregory.net/rapid"
)

// lay cuts an object of size bytes into parts as an upload does that knows the
// size, or does not.
func lay(size, total int64) (parts int, largest int64, ok bool) {
	for done := int64(0); done < size; parts++ {
		n := partSize(parts+1, done, total)
		if n == 0 {
			return parts, largest, false
		}
		largest = max(largest, n)
		done += n
	}
	return parts, largest, true
}

func TestPartSize_HoldsEverySize(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.Int64Range(0, maxParts*largestPart).Draw(t, "size")
		if parts, largest, ok := lay(size, size); !ok || parts > maxParts || largest > largestPart {
			t.Fatalf("known %d: %d parts of up to %d, %v", size, parts, largest, ok)
		}
		if parts, _, ok := lay(size, -1); ok != (size <= unknownMax()) || parts > maxParts {
			t.Fatalf("unknown %d: %d parts, %v; the most is %d", size, parts, ok, unknownMax())
		}
	})
	if partSize(1, 0, maxParts*largestPart+1) != 0 {
		t.Error("too large an object is begun")
	}
}

func TestUsable_OnlyWithoutGap(t *testing.T) {
	p := func(n int, size int64) minio.ObjectPart {
		return minio.ObjectPart{PartNumber: n, Size: size, ETag: "e"}
	}
	for name, c := range map[string]struct {
		parts []minio.ObjectPart
		total int64
		want  int64
	}{
		"None":        {nil, -1, 0},
		"Two":         {[]minio.ObjectPart{p(1, 8<<20), p(2, 8<<20)}, -1, 16 << 20},
		"Gap":         {[]minio.ObjectPart{p(1, 8<<20), p(3, 8<<20)}, -1, 8 << 20},
		"FirstAbsent": {[]minio.ObjectPart{p(2, 8<<20)}, -1, 0},
		"SmallLast":   {[]minio.ObjectPart{p(1, 8<<20), p(2, 100)}, -1, 8 << 20},
		"MoreThanAll": {[]minio.ObjectPart{p(1, 8<<20), p(2, 8<<20)}, 10 << 20, 8 << 20},
		"All":         {[]minio.ObjectPart{p(1, 8<<20), p(2, 8<<20)}, 16 << 20, 16 << 20},
		"NoTag":       {[]minio.ObjectPart{{PartNumber: 1, Size: 8 << 20}}, -1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			done, list := usable(c.parts, c.total)
			if done != c.want {
				t.Errorf("got %d, want %d", done, c.want)
			}
			var sum int64
			for i := range list {
				sum += c.parts[i].Size
			}
			if sum != done {
				t.Errorf("the parts hold %d, told %d", sum, done)
			}
		})
	}
}

// A part gives back what was written, from any place on, and its memory is
// used again.
func TestPart_ReadsWhatWasWritten(t *testing.T) {
	var from blocks
	rapid.Check(t, func(t *rapid.T) {
		want := bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 1, 997).Draw(t, "pattern"), rapid.IntRange(0, 4000).Draw(t, "times"))
		p := &part{from: &from}
		for at := 0; at < len(want); {
			n := min(rapid.IntRange(1, 2<<20).Draw(t, "piece"), len(want)-at)
			p.Write(want[at : at+n])
			at += n
		}
		at := rapid.IntRange(0, len(want)).Draw(t, "at")
		r := p.reader()
		if _, err := r.Seek(int64(at), io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if r.end(); err != nil || !bytes.Equal(got, want[at:]) {
			t.Fatalf("read %d bytes of %d, %v", len(got), len(want)-at, err)
		}
		if n, err := r.Read(make([]byte, 1)); n > 0 || err == nil {
			t.Fatalf("read %d bytes after the end of the request", n)
		}
		p.free()
	})
}

// A mark never leads to a name outside of the prefix.
func FuzzParseMark(f *testing.F) {
	f.Add([]byte(`{"key":"p/a/b","id":"x"}`))
	f.Add([]byte(`{"key":"q/a/b","id":"x"}`))
	f.Add([]byte(`{"key":"p/../b","id":"x"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, ok := parseMark(b, "p/")
		if ok && (len(m.Key) < 3 || m.Key[:2] != "p/" || m.ID == "") {
			t.Errorf("%q was read as %+v", b, m)
		}
	})
}
