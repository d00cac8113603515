package backupset_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"understudy/shipper/backupset"
)

func someFile(t *rapid.T) backupset.File {
	f := backupset.File{
		Archive: rapid.SampledFrom([]string{backupset.BaseName, backupset.ExtraName, "16400.tar.zst"}).Draw(t, "archive"),
		Path:    rapid.StringMatching(`[a-z0-9_ü"]{1,9}(/[a-z0-9._-]{3,9}){0,3}`).Draw(t, "path"),
		Type:    rapid.SampledFrom([]string{"", "d", "l"}).Draw(t, "type"),
		Mode:    rapid.Uint32Range(0, 0o7777).Draw(t, "mode"),
		Offset:  rapid.Int64Range(0, 1<<50).Draw(t, "offset"),
	}
	if rapid.Bool().Draw(t, "dated") {
		f.At = time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "at"), 0).UTC()
	}
	switch f.Type {
	case backupset.TypeFile:
		if f.Size = rapid.Int64Range(0, 9<<20).Draw(t, "size"); f.Size > 0 {
			n := int(backupset.ChunkN(f.Size)) * backupset.DigestSize
			f.Digests = rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, "digests")
		}
	case backupset.TypeLink:
		f.Link = rapid.StringMatching(`/?[a-z./]{1,20}`).Draw(t, "link")
	}
	return f
}

func TestFiles_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(rapid.Custom(someFile), 0, 8).Draw(t, "files")
		var b bytes.Buffer
		w := backupset.NewFileWriter(&b)
		for _, f := range list {
			if err := w.Write(f); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Flush(); err != nil || w.N() != len(list) {
			t.Fatalf("%d lines, %v", w.N(), err)
		}
		r := backupset.NewFileReader(&b)
		for _, want := range list {
			got, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("want, got: %s", d)
			}
		}
		if _, err := r.Next(); !errors.Is(err, io.EOF) {
			t.Fatalf("got %v at the end", err)
		}
	})
}

func TestFileReader_LongLines(t *testing.T) {
	f := backupset.File{Archive: backupset.BaseName, Path: "big", Size: 200 << 30}
	f.Digests = make([]byte, backupset.ChunkN(f.Size)*backupset.DigestSize)
	var b bytes.Buffer
	w := backupset.NewFileWriter(&b)
	for range 2 {
		if err := w.Write(f); err != nil {
			t.Fatal(err)
		}
	}
	w.Flush()
	r := backupset.NewFileReader(bytes.NewReader(b.Bytes()))
	for range 2 {
		if got, err := r.Next(); err != nil || len(got.Digests) != len(f.Digests) {
			t.Fatalf("%d bytes of digests, %v", len(got.Digests), err)
		}
	}
	if _, err := backupset.NewFileReader(strings.NewReader(strings.Repeat("x", backupset.MaxLine+1<<20))).Next(); !errors.Is(err, backupset.ErrDamaged) {
		t.Errorf("an endless line gave %v", err)
	}
	if _, err := backupset.NewFileReader(bytes.NewReader(b.Bytes()[:b.Len()/4])).Next(); !errors.Is(err, backupset.ErrDamaged) {
		t.Errorf("a line without an end gave %v", err)
	}
}

func TestFile_Validate(t *testing.T) {
	good := backupset.File{Archive: backupset.BaseName, Path: "base/5/1", Size: 1, Digests: make([]byte, 16)}
	if err := good.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(f *backupset.File){
		"Archive":       func(f *backupset.File) { f.Archive = "set.json" },
		"ArchivePath":   func(f *backupset.File) { f.Archive = "../1.tar.zst" },
		"ArchiveZero":   func(f *backupset.File) { f.Archive = "01.tar.zst" },
		"NoPath":        func(f *backupset.File) { f.Path = "" },
		"Absolute":      func(f *backupset.File) { f.Path = "/etc/passwd" },
		"Escape":        func(f *backupset.File) { f.Path = "base/../../x" },
		"Unclean":       func(f *backupset.File) { f.Path = "base//x" },
		"Dot":           func(f *backupset.File) { f.Path = "./x" },
		"TrailingSlash": func(f *backupset.File) { f.Path = "x/" },
		"NUL":           func(f *backupset.File) { f.Path = "x\x00y" },
		"Negative":      func(f *backupset.File) { f.Size = -1 },
		"Huge":          func(f *backupset.File) { f.Size = 1 << 62 },
		"FewDigests":    func(f *backupset.File) { f.Digests = f.Digests[:15] },
		"ManyDigests":   func(f *backupset.File) { f.Digests = make([]byte, 32) },
		"FolderSize":    func(f *backupset.File) { f.Type = "d" },
		"LinkNoTarget":  func(f *backupset.File) { *f = backupset.File{Archive: f.Archive, Path: f.Path, Type: "l"} },
		"FileTarget":    func(f *backupset.File) { f.Link = "x" },
		"Type":          func(f *backupset.File) { f.Type = "p" },
		"Mode":          func(f *backupset.File) { f.Mode = 1 << 20 },
		"Offset":        func(f *backupset.File) { f.Offset = -1 },
	} {
		f := good
		spoil(&f)
		if err := f.Validate(); !errors.Is(err, backupset.ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzFileReader(f *testing.F) {
	f.Add([]byte(`{"a":"base.tar.zst","p":"base/5/1","s":1,"m":384,"o":512,"d":"AAAAAAAAAAAAAAAAAAAAAA=="}` + "\n"))
	f.Add([]byte(`{"a":"1.tar.zst","p":"x","y":"l","l":"y","m":511,"t":"2026-01-01T00:00:00Z","o":0}` + "\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := backupset.NewFileReader(bytes.NewReader(b))
		for {
			file, err := r.Next()
			if err != nil {
				return
			}
			if err := backupset.NewFileWriter(io.Discard).Write(file); err != nil {
				t.Fatalf("read, but not written: %v", err)
			}
		}
	})
}
