package recover_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"
	"pgregory.net/rapid"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/pos"
	"understudy/standby/recover"
)

const extraLabel = "20261122-100000F"

// host is a tar archive of other files, as a backup writes them.
func host(t testing.TB, entries ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		body := "of " + h.Name
		h.ModTime = time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(body))
		}
		if h.Mode == 0 {
			h.Mode = 0o640
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// putExtra stores a set that has these other files.
func putExtra(t testing.TB, archive []byte, places ...location.Location) {
	t.Helper()
	packed := encode(t, archive)
	var list bytes.Buffer
	w := backupset.NewFileWriter(&list)
	for _, f := range []backupset.File{{Archive: backupset.BaseName, Path: "PG_VERSION", Mode: 0o600},
		{Archive: backupset.ExtraName, Path: "etc/app.conf", Mode: 0o640}} {
		if err := w.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	objects := map[string][]byte{backupset.BaseName: encode(t, []byte("x")), backupset.FilesName: encode(t, list.Bytes()), backupset.ManifestName: []byte("{}")}
	raw := map[string]int{backupset.BaseName: 1, backupset.FilesName: list.Len(), backupset.ManifestName: 2}
	if archive != nil {
		objects[backupset.ExtraName], raw[backupset.ExtraName] = packed, len(archive)
	}
	began := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	set := backupset.Set{Version: 1, Label: extraLabel, Group: "g", GroupID: "id", Profile: "postgres", Node: "main", SystemID: 7,
		Server:  backupset.Server{Major: 15, Version: "15.1", Architecture: "amd64", CatalogVersion: 1, ControlVersion: 1300, BlockSize: 8192, SegSize: 16 << 20},
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 0x1000000}}, Timeline: 1, Start: 0x2000028, End: 0x2000100,
		Began: began, Ended: began.Add(time.Minute), FileN: 2}
	for _, name := range []string{backupset.ManifestName, backupset.BaseName, backupset.ExtraName, backupset.FilesName} {
		if b, ok := objects[name]; ok {
			sum := blake3.Sum256(b)
			set.Objects = append(set.Objects, backupset.Object{Name: name, Bytes: int64(len(b)), RawBytes: int64(raw[name]), BLAKE3: hex.EncodeToString(sum[:])})
		}
	}
	b, err := backupset.EncodeSet(set)
	if err != nil {
		t.Fatal(err)
	}
	objects[backupset.SetName] = b
	for _, l := range places {
		for name, b := range objects {
			put(t, l, root().Object(extraLabel, name), b)
		}
	}
}

// below lists what is in a directory: contents of files, targets of links.
func below(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		what := fi.Mode().String()
		switch {
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what += " " + string(b)
		case fi.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(p)
			if err != nil {
				return err
			}
			what = "-> " + to
		}
		rel, err := filepath.Rel(dir, p)
		out[rel] = what
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSources_UnpackExtra(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o750} }
	link := func(name, to string) tar.Header {
		return tar.Header{Name: name, Linkname: to, Typeflag: tar.TypeSymlink, Mode: 0o777}
	}
	for name, tt := range map[string]struct {
		entries []tar.Header
		want    map[string]string // nil: refused
		left    []string
	}{
		"FilesFoldersLinks": {
			[]tar.Header{dir("etc/app/"), {Name: "etc/app/a.conf"}, {Name: "etc/app/key", Mode: 0o600}, link("etc/app/b.conf", "a.conf"), link("etc/c.conf", "../etc/app/a.conf")},
			map[string]string{"etc": "drwx------", "etc/app": "drwxr-x---", "etc/app/a.conf": "-rw-r----- of etc/app/a.conf", "etc/app/key": "-rw------- of etc/app/key",
				"etc/app/b.conf": "-> a.conf", "etc/c.conf": "-> ../etc/app/a.conf"}, nil},
		"NoRightsBeyondOrdinaryOnes": {[]tar.Header{{Name: "bin", Mode: 0o6755}}, map[string]string{"bin": "-rwxr-xr-x of bin"}, nil},
		"LinksThatLeadOut": {
			[]tar.Header{dir("p/q/"), link("p/abs", "/etc/passwd"), link("p/up", "../../x"), link("p/q/l", ".."), link("m", "p/q/l/../.."), link("p/in", "../p")},
			map[string]string{"p": "drwx------", "p/q": "drwxr-x---", "p/q/l": "-> ..", "p/in": "-> ../p"},
			[]string{"p/abs -> /etc/passwd", "p/up -> ../../x", "m -> p/q/l/../.."}},
		"NothingIsWrittenThroughALink": {[]tar.Header{link("p", "/tmp"), {Name: "p/file"}},
			map[string]string{"p": "drwx------", "p/file": "-rw-r----- of p/file"}, []string{"p -> /tmp"}},
		"LinkInTheWay": {[]tar.Header{dir("q"), link("p", "q"), {Name: "p/file"}}, nil, nil},
		"PathUpwards":  {[]tar.Header{{Name: "../file"}}, nil, nil},
		"AbsolutePath": {[]tar.Header{{Name: "/file"}}, nil, nil},
		"PathWithin":   {[]tar.Header{{Name: "a/../../file"}}, nil, nil},
		"Twice":        {[]tar.Header{{Name: "a"}, {Name: "a"}}, nil, nil},
		"Device":       {[]tar.Header{{Name: "null", Typeflag: tar.TypeChar}}, nil, nil},
		"HardLink":     {[]tar.Header{{Name: "h", Linkname: "/etc/passwd", Typeflag: tar.TypeLink}}, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			place, _ := newPlace(t)
			putExtra(t, host(t, tt.entries...), place)
			parent := t.TempDir()
			to := filepath.Join(parent, "host")
			got, err := sources(place).UnpackExtra(context.Background(), extraLabel, "", to)
			if tt.want == nil {
				if err == nil {
					t.Errorf("unpacked: %+v", below(t, to))
				}
				if left := below(t, parent); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tt.want, below(t, to)); d != "" {
				t.Error(d)
			}
			if d := cmp.Diff(tt.left, got.LeftOut); d != "" || got.Dir != to {
				t.Errorf("%+v: %s", got, d)
			}
			if fi, err := os.Stat(filepath.Join(to, "etc/app/a.conf")); err == nil && !fi.ModTime().Equal(time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC)) {
				t.Errorf("changed at %s", fi.ModTime())
			}
		})
	}
}

// TestSources_UnpackExtraFromWhatIsSound: a damaged copy leaves nothing, and the
// next location's is taken.
func TestSources_UnpackExtraFromWhatIsSound(t *testing.T) {
	a, dirA := newPlace(t)
	b, _ := newPlace(t)
	putExtra(t, host(t, tar.Header{Name: "etc/app.conf"}, tar.Header{Name: "etc/more.conf"}), a, b)
	for _, object := range []string{backupset.ExtraName, backupset.FilesName} {
		path := filepath.Join(dirA, root().Object(extraLabel, object))
		body, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		body[len(body)/2] ^= 1
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parent := t.TempDir()
	to := filepath.Join(parent, "host")
	// What an interrupted call left.
	if err := os.MkdirAll(filepath.Join(parent, ".host.unpacking", "etc"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := sources(a).UnpackExtra(context.Background(), extraLabel, "", to); !errors.Is(err, recover.ErrDamaged) || len(below(t, parent)) > 0 {
		t.Errorf("got %+v, %v, %v", got, err, below(t, parent))
	}
	if err := os.Mkdir(to, 0o700); err != nil { // an empty one is fine
		t.Fatal(err)
	}
	got, err := sources(a, b).UnpackExtra(context.Background(), extraLabel, "", to)
	if err != nil || got.FileN != 2 || got.Bytes != int64(len("of etc/app.conf")+len("of etc/more.conf")) {
		t.Fatalf("got %+v, %v", got, err)
	}
	if _, err := sources(b).UnpackExtra(context.Background(), extraLabel, "", to); !errors.Is(err, recover.ErrRefused) {
		t.Errorf("over what is there: %v", err)
	}
	var paths []string
	if err := sources(a, b).Files(context.Background(), extraLabel, "", func(f backupset.File) error {
		paths = append(paths, f.Archive+" "+f.Path)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(paths, ","); got != backupset.BaseName+" PG_VERSION,"+backupset.ExtraName+" etc/app.conf" {
		t.Errorf("the list is %s", got)
	}
}

func TestSources_UnpackExtraRefused(t *testing.T) {
	place, _ := newPlace(t)
	putExtra(t, nil, place)
	for name, tt := range map[string]struct {
		dir  string
		want error
	}{
		"NoOtherFiles": {filepath.Join(t.TempDir(), "x"), recover.ErrNoExtra},
		"Relative":     {"x", recover.ErrRefused},
		"Root":         {"/", recover.ErrRefused},
		"AFile":        {"/etc/passwd", recover.ErrRefused},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := sources(place).UnpackExtra(context.Background(), extraLabel, "", tt.dir); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// TestLeadsOut_NeverFollowedOut: whatever links are made beside each other, none
// of them ends outside of the directory.
func TestLeadsOut_NeverFollowedOut(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		top, err := os.MkdirTemp("", "links")
		if err != nil {
			rt.Fatal(err)
		}
		defer os.RemoveAll(top)
		dir := filepath.Join(top, "in", "dir")
		if err := os.MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o700); err != nil {
			rt.Fatal(err)
		}
		var made []string
		part := rapid.SampledFrom([]string{"..", ".", "", "a", "b", "c", "x", "y", "z"})
		for i := range rapid.IntRange(1, 8).Draw(rt, "links") {
			name := rapid.SampledFrom([]string{"", "a/", "a/b/", "a/b/c/"}).Draw(rt, "in") + []string{"x", "y", "z", "w"}[i%4]
			target := strings.Join(rapid.SliceOfN(part, 1, 6).Draw(rt, "target"), "/")
			if recover.LeadsOut(name, target) {
				continue
			}
			if err := os.Symlink(target, filepath.Join(dir, name)); err == nil {
				made = append(made, name+" -> "+target)
			}
		}
		for _, l := range made {
			name, _, _ := strings.Cut(l, " ")
			to, err := filepath.EvalSymlinks(filepath.Join(dir, name))
			if err == nil && to != dir && !strings.HasPrefix(to, dir+"/") {
				rt.Fatalf("%s ends at %s; made were %q", l, to, made)
			}
		}
	})
}
