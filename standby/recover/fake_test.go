package recover_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/standby/recover"
)

const fakeSystem = 7_123_456_789_012_345_678

// fake is a set of files that no server made.
type fake struct {
	set     backupset.Set
	files   map[string][]byte // by path in the data directory
	spaceOf uint32            // a tablespace, for paths below pg_tblspc/<oid>
}

var fakeEnded = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// fakeFiles are those of a small database; seed makes their bytes.
func fakeFiles(seed uint64) map[string][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	body := func(n int) []byte {
		b := make([]byte, n)
		for i := 0; i+8 <= n/2; i += 8 {
			binary.LittleEndian.PutUint64(b[i:], r.Uint64())
		}
		return b
	}
	control := body(8192)
	binary.NativeEndian.PutUint64(control, fakeSystem)
	files := map[string][]byte{
		"PG_VERSION": []byte("15\n"), "backup_label": []byte("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n"),
		"global/pg_control": control, "global/1262": body(8192), "base/5/PG_VERSION": []byte("15\n"),
		"base/5/16400": body(9<<20 + 8192), "base/5/16400.1": body(1 << 20), "base/5/16401": nil, "base/5/16402": body(3<<20 - 8192),
		"postgresql.conf":                       []byte("shared_buffers = 1GB\n# understudy begin: managed, do not edit\ninclude '/nowhere/x.conf'\n# understudy end\ninclude 'gone.conf'\n"),
		"postgresql.auto.conf":                  []byte("work_mem = '8MB'\nprimary_conninfo = 'host=old'\n"),
		"pg_hba.conf":                           []byte("local all all trust\n"),
		"pg_tblspc/16390/PG_15_202209061/5/200": body(2<<20 + 8192),
	}
	for i := range 40 {
		files[fmt.Sprintf("base/5/%d", 1000+i)] = body(8192 * (1 + i%5))
	}
	return files
}

// newFake stores a set of these files at the places.
func newFake(t testing.TB, files map[string][]byte, places ...location.Location) *fake {
	t.Helper()
	return storeFake(t, files, func(*backupset.Set) {}, places...)
}

// storeFake is newFake with a description that was changed.
func storeFake(t testing.TB, files map[string][]byte, change func(*backupset.Set), places ...location.Location) *fake {
	t.Helper()
	f := &fake{files: files, spaceOf: 16390}
	dir := t.TempDir()
	byTar := map[string]map[string][]byte{backupset.BaseName: {}}
	prefix := fmt.Sprintf("pg_tblspc/%d/", f.spaceOf)
	for p, b := range files {
		name, in := backupset.BaseName, p
		if rest, ok := strings.CutPrefix(p, prefix); ok {
			name, in = backupset.SpaceName(f.spaceOf), rest
		}
		if byTar[name] == nil {
			byTar[name] = map[string][]byte{}
		}
		byTar[name][in] = b
	}
	tars := map[string]string{}
	for name, files := range byTar {
		tars[name] = filepath.Join(dir, name)
		link := ""
		if name == backupset.BaseName && len(byTar) > 1 {
			link = strings.TrimSuffix(prefix, "/")
		}
		writeTar(t, tars[name], files, link)
	}
	manifest := filepath.Join(dir, "manifest")
	if err := os.WriteFile(manifest, []byte(`{"End-LSN": "0/2000100"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.set = backupset.Set{
		Version: 1, Label: backupset.NewLabel(fakeEnded.Add(-time.Minute)), Group: "g", Profile: "postgres", SystemID: fakeSystem, Timeline: 1,
		Began: fakeEnded.Add(-time.Minute), Ended: fakeEnded,
		Server: backupset.Server{Major: 15, BlockSize: 8192, SegSize: 16 << 20, CatalogVersion: 202209061, Architecture: "x86_64-pc-linux-gnu", Settings: map[string]string{"max_connections": "250", "port": "1"}},
	}
	if len(byTar) > 1 {
		f.set.Tablespaces = []backupset.Tablespace{{OID: f.spaceOf, Location: "/nowhere/space"}}
	}
	change(&f.set)
	writeSet(t, &f.set, tars, manifest, places)
	return f
}

func writeTar(t testing.TB, name string, files map[string][]byte, link string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, body []byte) {
		h.ModTime, h.Format = fakeEnded.Add(-48*time.Hour), tar.FormatUSTAR
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		w.Write(body)
	}
	paths := make([]string, 0, len(files))
	for p := range files {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	made := map[string]bool{".": true}
	for _, p := range paths {
		var dirs []string
		for d := path.Dir(p); !made[d]; d = path.Dir(d) {
			made[d] = true
			dirs = append(dirs, d)
		}
		slices.Reverse(dirs)
		for _, d := range dirs {
			add(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o700}, nil)
		}
		add(tar.Header{Typeflag: tar.TypeReg, Name: p, Mode: 0o600, Size: int64(len(files[p]))}, files[p])
	}
	if link != "" {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: link, Linkname: "/nowhere/space", Mode: 0o777}, nil)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// request is one for an empty directory.
func (f *fake) request(t testing.TB) recover.Request {
	d := t.TempDir()
	r := recover.Request{
		Mode: recover.Fresh, DataDir: filepath.Join(d, "data"), Label: f.set.Label,
		Aim:   recover.Aim{Target: catalog.Target{Kind: catalog.AtLSN, LSN: 0x2000200, Inclusive: true}},
		Local: recover.Local{Major: 15, BlockSize: 8192, CatalogVersion: 202209061, Architecture: "amd64"}, RestoreCommand: "get %f '%p'", Now: time.Now(),
	}
	if len(f.set.Tablespaces) > 0 {
		r.Tablespaces = map[uint32]string{f.spaceOf: filepath.Join(d, "space")}
	}
	return r
}

// check compares a restored directory with the set: every file, nothing else.
func (f *fake) check(t testing.TB, p recover.Plan) {
	t.Helper()
	want := map[string][]byte{}
	for name, b := range f.files {
		want[name] = b
	}
	got := readTree(t, p.DataDir)
	for _, s := range p.Spaces {
		for name, b := range readTree(t, s.Dir) {
			got[fmt.Sprintf("pg_tblspc/%d/%s", s.OID, name)] = b
		}
		if to, err := os.Readlink(filepath.Join(p.DataDir, "pg_tblspc", fmt.Sprint(s.OID))); err != nil || to != s.Dir {
			t.Errorf("link of tablespace %d: %s, %v", s.OID, to, err)
		}
	}
	for _, ours := range []string{"understudy.restore", "recovery.signal", "backup_manifest"} {
		if _, ok := got[ours]; !ok {
			t.Errorf("no %s", ours)
		}
		delete(got, ours)
	}
	for _, mended := range []string{"postgresql.conf", "postgresql.auto.conf"} {
		delete(got, mended)
		delete(want, mended)
	}
	for name, b := range want {
		if g, ok := got[name]; !ok || !bytes.Equal(g, b) {
			t.Errorf("%s: there %v, %d bytes, want %d", name, ok, len(g), len(b))
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%s is too much", name)
	}
	for _, dir := range []string{"pg_wal/archive_status", "pg_replslot"} {
		if fi, err := os.Stat(filepath.Join(p.DataDir, dir)); err != nil || !fi.IsDir() {
			t.Errorf("no %s", dir)
		}
	}
}

// readTree reads all regular files below dir.
func readTree(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(p)
		rel, _ := filepath.Rel(dir, p)
		out[rel] = b
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// startable tells whether PostgreSQL could be started on a directory.
func startable(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "global/pg_control"))
	return err == nil
}

func execute(p recover.Plan, s recover.Sources, o recover.Options) (recover.Result, error) {
	return recover.Execute(context.Background(), p, s, o)
}
