package verify_test

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"go.uber.org/goleak"

	"understudy/shipper/archive"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/shipper/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func root() backupset.Root { return backupset.Root{Group: "g", Profile: "postgres"} }

// mem is a location in memory. open, when set, may fail or change a read.
type mem struct {
	location.Location // the methods that nothing here calls
	mu                sync.Mutex
	objects           map[string][]byte
	open              func(key string, off int64, b []byte) ([]byte, error)
	reads             int
}

func newMem() *mem { return &mem{objects: map[string][]byte{}} }

func (m *mem) get(key string) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.objects[key]
	return b, ok
}

func (m *mem) put(key string, b []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b == nil {
		delete(m.objects, key)
		return
	}
	m.objects[key] = b
}

// Open implements location.Location.
func (m *mem) Open(_ context.Context, key string, off, n int64) (io.ReadCloser, error) {
	b, ok := m.get(key)
	switch {
	case !ok:
		return nil, location.ErrNotExist
	case off > int64(len(b)):
		return nil, fmt.Errorf("offset %d of %d bytes", off, len(b))
	}
	b = b[off:]
	short := n > int64(len(b))
	if n >= 0 && !short {
		b = b[:n]
	}
	if m.open != nil {
		m.mu.Lock()
		m.reads++
		m.mu.Unlock()
		var err error
		if b, err = m.open(key, off, b); err != nil {
			return nil, err
		}
	}
	var r io.Reader = bytes.NewReader(b)
	if short {
		r = io.MultiReader(r, failing{io.ErrUnexpectedEOF})
	}
	return io.NopCloser(r), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// Stat implements location.Location.
func (m *mem) Stat(_ context.Context, key string) (location.Info, error) {
	b, ok := m.get(key)
	if !ok {
		return location.Info{}, location.ErrNotExist
	}
	return location.Info{Key: key, Size: int64(len(b))}, nil
}

// List implements location.Location.
func (m *mem) List(_ context.Context, prefix string, each func(location.Info) error) error {
	m.mu.Lock()
	var all []location.Info
	for key, b := range m.objects {
		if strings.HasPrefix(key, prefix) {
			all = append(all, location.Info{Key: key, Size: int64(len(b))})
		}
	}
	m.mu.Unlock()
	for _, i := range all {
		if err := each(i); err != nil {
			return err
		}
	}
	return nil
}

// Create implements location.Location.
func (m *mem) Create(_ context.Context, key string, _ location.CreateOptions) (location.Upload, error) {
	return &upload{m: m, key: key}, nil
}

// Remove implements location.Location.
func (m *mem) Remove(_ context.Context, key string) error { m.put(key, nil); return nil }

type upload struct {
	bytes.Buffer
	m   *mem
	key string
}

func (u *upload) Offset() int64 { return 0 }
func (u *upload) Commit(context.Context) (location.Info, error) {
	u.m.put(u.key, u.Bytes())
	return location.Info{Key: u.key, Size: int64(u.Len())}, nil
}
func (u *upload) Suspend() error { return nil }
func (u *upload) Abort() error   { return nil }

// made is a small set that no server made: files by archive and path.
type made struct {
	set    backupset.Set
	digest string // of set.json
	files  map[string]map[string][]byte
}

const (
	systemID = 7_123_456_789_012_345_678
	segSize  = 1 << 20
	spaceOID = 16390
)

// frameBytes makes many frames of little; what is large has real ones.
const frameBytes = 2000

func body(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i+8 <= n/2; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], r.Uint64())
	}
	return b
}

// files are those of the small set.
func smallFiles() map[string]map[string][]byte {
	r := rand.New(rand.NewPCG(5, 1))
	control := body(r, 512)
	binary.NativeEndian.PutUint64(control, systemID)
	return map[string]map[string][]byte{
		backupset.BaseName: {
			"PG_VERSION": []byte("15\n"), "backup_label": []byte("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n"),
			"global/pg_control": control, "base/5/16400": body(r, 4000), "base/5/16401": nil, "base/5/16402": body(r, 1500), "pg_wal/x": []byte("x"),
			"postgresql.conf": []byte("a = 1\n"), "postgresql.auto.conf": nil, "pg_hba.conf": []byte("local all all trust\n"),
		},
		backupset.SpaceName(spaceOID): {"PG_15_202209061/5/200": body(r, 1200)},
		backupset.ExtraName:           {"etc/app.conf": []byte("shop = 1\n")},
	}
}

// store makes a set of the files at a location. change, when not nil, makes
// the lines and the manifest of a writer with a fault.
func store(t testing.TB, m *mem, files map[string]map[string][]byte, change func(*wrote)) *made {
	t.Helper()
	w := &wrote{files: files}
	objects, raw := map[string][]byte{}, map[string]int64{}
	names := slices.Sorted(maps.Keys(files))
	slices.Reverse(names) // the list's order is not that of the names
	for _, name := range names {
		b, cuts := w.tar(t, name)
		objects[name], raw[name] = frames(t, b, cuts), int64(len(b))
	}
	w.manifest()
	w.set = backupset.Set{
		Version: 1, Label: "20261120-115900F", Group: "g", Profile: "postgres", SystemID: systemID, Timeline: 1, Start: 0x2000028, End: 0x2000100,
		Began: time.Date(2026, 11, 20, 11, 59, 0, 0, time.UTC), Ended: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC),
		Server:      backupset.Server{Major: 15, BlockSize: 8192, SegSize: segSize, Architecture: "x86_64-pc-linux-gnu", CatalogVersion: 202209061},
		Tablespaces: []backupset.Tablespace{{OID: spaceOID, Location: "/nowhere/space"}},
		FileN:       len(w.lines), RawBytes: w.raw,
	}
	if change != nil {
		change(w)
	}
	var list bytes.Buffer
	fw := backupset.NewFileWriter(&list)
	for _, f := range w.lines {
		if err := fw.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	fw.Flush()
	objects[backupset.FilesName], raw[backupset.FilesName] = frames(t, list.Bytes(), nil), int64(list.Len())
	objects[backupset.ManifestName], raw[backupset.ManifestName] = []byte(w.mani), int64(len(w.mani))
	for name, b := range objects {
		sum := blake3.Sum256(b)
		w.set.Objects = append(w.set.Objects, backupset.Object{Name: name, Bytes: int64(len(b)), RawBytes: raw[name], BLAKE3: hex.EncodeToString(sum[:])})
	}
	slices.SortFunc(w.set.Objects, func(a, b backupset.Object) int { return cmp.Compare(a.Name, b.Name) })
	b, err := backupset.EncodeSet(w.set)
	if err != nil {
		t.Fatal(err)
	}
	objects[backupset.SetName] = b
	for name, b := range objects {
		m.put(root().Object(w.set.Label, name), b)
	}
	return &made{set: w.set, digest: backupset.Digest(b), files: files}
}

// wrote is what a writer of sets has written so far.
type wrote struct {
	files   map[string]map[string][]byte
	lines   []backupset.File
	entries []string // of the manifest
	mani    string
	raw     int64
	set     backupset.Set
}

func (w *wrote) tar(t testing.TB, name string) (b []byte, cuts []int) {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	paths := slices.Sorted(maps.Keys(w.files[name]))
	slices.Reverse(paths)
	made := map[string]bool{}
	for _, p := range paths {
		for i, c := range p {
			if dir := p[:i]; c == '/' && !made[dir] {
				made[dir] = true
				tw.WriteHeader(&tar.Header{Name: dir + "/", Mode: 0o700, Typeflag: tar.TypeDir, Format: tar.FormatUSTAR})
				w.lines = append(w.lines, backupset.File{Archive: name, Path: dir, Type: backupset.TypeFolder, Mode: 0o700, Offset: int64(out.Len())})
			}
		}
		body := w.files[name][p]
		tw.WriteHeader(&tar.Header{Name: p, Mode: 0o600, Size: int64(len(body)), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR})
		f := backupset.File{Archive: name, Path: p, Size: int64(len(body)), Mode: 0o600, Offset: int64(out.Len())}
		if name != backupset.ExtraName {
			w.raw += f.Size
		}
		for off := 0; off < len(body); off += backupset.ChunkSize {
			sum := blake3.Sum256(body[off:min(off+backupset.ChunkSize, len(body))])
			f.Digests = append(f.Digests, sum[:backupset.DigestSize]...)
			cuts = append(cuts, out.Len()+off)
		}
		tw.Write(body)
		cuts = append(cuts, out.Len())
		w.lines = append(w.lines, f)
		w.entry(name, p, body)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), cuts
}

func (w *wrote) entry(archive, path string, body []byte) {
	if oid, ok := backupset.ParseSpace(archive); ok {
		path = fmt.Sprintf("pg_tblspc/%d/%s", oid, path)
	} else if archive != backupset.BaseName || strings.HasPrefix(path, "pg_wal/") {
		return
	}
	sum := binary.LittleEndian.AppendUint32(nil, crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)))
	name := fmt.Sprintf(`"Path": %q`, path)
	if strings.HasSuffix(path, "16402") {
		name = fmt.Sprintf(`"Encoded-Path": "%x"`, path)
	}
	w.entries = append(w.entries, fmt.Sprintf(`{ %s, "Size": %d, "Last-Modified": "2026-11-20 11:58:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "%x" }`, name, len(body), sum))
}

func (w *wrote) manifest() {
	w.mani = "{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n" + strings.Join(w.entries, ",\n") +
		"\n],\n\"WAL-Ranges\": [\n{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }\n],\n\"Manifest-Checksum\": \"0123\"}\n"
}

// frames compresses b, cut where it may be.
func frames(t testing.TB, b []byte, cuts []int) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var f backupset.Frames
	var out []byte
	from, target := 0, frameBytes
	if len(b) > backupset.MaxFrame {
		target = backupset.FrameTarget
	}
	for _, to := range append(cuts, len(b)) {
		if to-from < target && to < len(b) || to == from {
			continue
		}
		n := len(out)
		out = e.EncodeAll(b[from:to], out)
		f.Add(to-from, len(out)-n)
		from = to
	}
	if out, err = f.AppendSeekTable(out); err != nil {
		t.Fatal(err)
	}
	return out
}

// lineage is a history with a promotion within segment 4.
func lineage() pos.Lineage {
	return pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: segSize}, {Epoch: pos.Epoch{Gen: 1, Num: 2}, Timeline: 2, Start: 4*segSize + 5000}}
}

// storeLog puts a log from segment 2 to the middle of segment 5 at a location,
// with the partial piece of the timeline that was left.
func storeLog(t testing.TB, m *mem) verify.Log {
	t.Helper()
	r := rand.New(rand.NewPCG(7, 7))
	enc, err := archive.NewEncoder(zstd.SpeedFastest)
	if err != nil {
		t.Fatal(err)
	}
	piece := func(tli pos.Timeline, at pos.LSN, n int64) {
		raw := make([]byte, n)
		copy(raw[8192:], body(r, 1500))
		page(raw, at)
		var b bytes.Buffer
		s := archive.Seal{SystemID: systemID, Timeline: tli, Start: at, Length: n, SegSize: segSize,
			Marks: []catalog.Mark{{LSN: at + 100, At: time.UnixMicro(1_700_000_000_000_000)}, {LSN: at + 200, At: time.UnixMicro(1_700_000_001_000_000), Name: "here"}}}
		if _, err := enc.Encode(&b, bytes.NewReader(raw), s); err != nil {
			t.Fatal(err)
		}
		key := root().Segment(tli, at, segSize)
		if n < segSize {
			key = root().Partial(tli, at, segSize)
		}
		m.put(key, b.Bytes())
	}
	piece(1, 2*segSize, segSize)
	piece(1, 3*segSize, segSize)
	piece(1, 4*segSize, 20_000)
	piece(2, 4*segSize, segSize)
	piece(2, 5*segSize, 30_000)
	m.put(root().History(2), archive.RenderHistory([]archive.Ancestor{{Timeline: 1, End: 4*segSize + 5000, Reason: "promotion in epoch 1.2"}}))
	c := catalog.Catalog{SystemID: systemID, SegSize: segSize,
		Timelines: map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 4*segSize + 5000}},
		Places: map[string]catalog.Place{"here": {WAL: []catalog.Span{
			{Timeline: 1, From: 2 * segSize, To: 4*segSize + 5000}, {Timeline: 2, From: 4*segSize + 5000, To: 5*segSize + 30_000}}}}}
	return verify.LogOf(c, "here", lineage())
}

// page makes the first bytes of a segment: a long page header.
func page(b []byte, at pos.LSN) {
	le := binary.LittleEndian
	le.PutUint16(b, 0xD110)
	le.PutUint16(b[2:], 2)
	le.PutUint32(b[4:], 1)
	le.PutUint64(b[8:], uint64(at))
	le.PutUint64(b[24:], systemID)
	le.PutUint32(b[32:], segSize)
	le.PutUint32(b[36:], 8192)
}

func once() location.Policy { return location.Policy{Quick: 1, Attempts: 2} }

func proveSet(t testing.TB, m *mem, s *made, deep bool) verify.Report {
	t.Helper()
	r, err := verify.Set(context.Background(), m, root(), s.set.Label, s.digest, verify.Options{Deep: deep, Workers: 2, Retry: once()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func proveLog(t testing.TB, m *mem, l verify.Log, deep bool) verify.Report {
	t.Helper()
	r, err := verify.WAL(context.Background(), m, root(), l, verify.Options{Deep: deep, Workers: 2, Retry: once()})
	if err != nil {
		t.Fatal(err)
	}
	return r
}
