package basebackup_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"testing"

	"github.com/zeebo/blake3"

	"understudy/primary/basebackup"
	"understudy/shipper/frame"
)

// record is one record of a held-chunks frame, as README.md describes it.
func record(path string, size uint64, first uint32, chunks ...[]byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, uint16(len(path)))
	b = append(b, path...)
	b = binary.LittleEndian.AppendUint64(b, size)
	b = binary.LittleEndian.AppendUint32(b, first)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(chunks)))
	for _, c := range chunks {
		sum := blake3.Sum256(c)
		b = append(b, sum[:16]...)
	}
	return b
}

// received is what an asker gets of one file: its bytes, with those it said it
// had taken from held, and how many were named instead of sent.
type received struct {
	data []byte
	same int
}

// ask plays the asker against a served fake server. It returns the files by
// path, or the refusal.
func ask(t *testing.T, cfg basebackup.Config, held map[string][]byte, haves ...[]byte) (files map[string]received, serveErr error) {
	t.Helper()
	a, b := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); serveErr = basebackup.Serve(t.Context(), b, cfg); b.Close() }()
	defer func() { a.Close(); <-done }()
	r, w := frame.NewReader(a), frame.NewWriter(a)
	files = map[string]received{}
	wrote := make(chan struct{})
	go func() { // net.Pipe has no buffer: the list must not wait for the answer
		w.WriteJSON(frame.SeedAsk, map[string]any{"system_id": "0", "major": 0, "node": "n"})
		for _, h := range haves {
			w.Write(frame.SeedHave, h)
		}
		w.Write(frame.SeedHave)
		w.Flush()
		close(wrote)
	}()
	path := ""
	for {
		typ, p, err := r.Next()
		if err != nil {
			a.Close()
			<-done
			return files, serveErr
		}
		f := files[path]
		switch typ {
		case frame.SeedFile:
			var h struct{ Kind, Path string }
			if err := json.Unmarshal(p, &h); err != nil {
				t.Fatal(err)
			}
			if path = h.Path; h.Kind == "dir" {
				path += "/"
			}
			files[path] = received{}
			continue
		case frame.SeedChunk:
			f.data = append(f.data, p...)
		case frame.SeedSame:
			n := int(binary.LittleEndian.Uint32(p))
			f.data = append(f.data, held[path][len(f.data):len(f.data)+n]...)
			f.same += n
		case frame.SeedEnd:
			<-wrote
			w.WriteJSON(frame.SeedProgress, map[string]string{"step": "received"})
			w.Flush()
			continue
		default:
			continue
		}
		files[path] = f
	}
}

func TestServe_NamesHeldChunks(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MiB
	content = append(content, "tail"...)
	mine := bytes.Clone(content)
	mine[1<<20+5] ^= 1
	const c = 1 << 20
	chunks := [][]byte{mine[:c], mine[c : 2*c], mine[2*c : 3*c], mine[3*c:]}
	tests := map[string]struct {
		haves [][]byte
		same  int
	}{
		"Nothing":       {nil, 0},
		"OneRecord":     {[][]byte{record("base/1/5", uint64(len(mine)), 0, chunks...)}, 2*c + 4},
		"TwoFrames":     {[][]byte{record("base/1/5", uint64(len(mine)), 0, chunks[:1]...), record("base/1/5", uint64(len(mine)), 1, chunks[1:]...)}, 2*c + 4},
		"Gap":           {[][]byte{record("base/1/5", uint64(len(mine)), 1, chunks[1:]...)}, 0},
		"ShorterFile":   {[][]byte{record("base/1/5", 3*c, 0, chunks[:3]...)}, 2 * c},
		"OtherPath":     {[][]byte{record("base/1/6", uint64(len(mine)), 0, chunks...)}, 0},
		"SecondInFrame": {[][]byte{append(record("x", 1, 0, []byte("y")), record("base/1/5", uint64(len(mine)), 0, chunks...)...)}, 2*c + 4},
	}
	for _, major := range []int{14, 15} {
		for name, tt := range tests {
			t.Run(fmt.Sprint(major, name), func(t *testing.T) {
				srv := newFakeServer(t, major, content)
				files, err := ask(t, basebackup.Config{ConnString: srv.dsn()}, map[string][]byte{"base/1/5": mine}, tt.haves...)
				if err != nil {
					t.Fatal(err)
				}
				got := files["base/1/5"]
				if !bytes.Equal(got.data, content) || got.same != tt.same {
					t.Errorf("%d bytes, %d of them named, want %d and %d", len(got.data), got.same, len(content), tt.same)
				}
				if string(files["backup_manifest"].data) != "manifest" {
					t.Errorf("manifest %q", files["backup_manifest"].data)
				}
				if string(files["pg_tblspc/77/PG_x/1"].data) != "space" || string(files["PG_VERSION"].data) != "v" {
					t.Errorf("files %v", files)
				}
				if _, ok := files["pg_wal/"]; !ok {
					t.Error("no directory pg_wal")
				}
			})
		}
	}
}

func TestServe_MalformedHoldings(t *testing.T) {
	good := record("a", 1<<20, 0, []byte("x"))
	huge := record("a", 1, 0)
	binary.LittleEndian.PutUint32(huge[len(huge)-4:], 1<<31)
	for name, bad := range map[string][]byte{
		"Short": good[:1], "CutPath": good[:2], "CutHead": good[:10], "CutDigests": good[:len(good)-1],
		"EmptyPath": record("", 1, 0), "HugeCount": huge, "Twice": append(bytes.Clone(good), good...),
	} {
		t.Run(name, func(t *testing.T) {
			srv := newFakeServer(t, 15, nil)
			if _, err := ask(t, basebackup.Config{ConnString: srv.dsn()}, nil, bad); err == nil {
				t.Error("no error")
			}
		})
	}
}

func TestServe_ServerFails(t *testing.T) {
	srv := newFakeServer(t, 15, []byte("content"), true)
	if _, err := ask(t, basebackup.Config{ConnString: srv.dsn()}, nil); err == nil || errors.Is(err, basebackup.ErrRefused) {
		t.Errorf("got %v, want an error that may pass", err)
	}
}

func TestConfig_Validate(t *testing.T) {
	for name, cfg := range map[string]basebackup.Config{
		"NoServer": {}, "SlowRate": {ConnString: "x", MaxRate: 31}, "FastRate": {ConnString: "x", MaxRate: 1 << 21},
		"LabelBreak": {ConnString: "x", Label: "a\nb"},
	} {
		if cfg.Validate() == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := (basebackup.Config{ConnString: "x", MaxRate: 32, Label: "it's"}).Validate(); err != nil {
		t.Error(err)
	}
}
