package rescue_test

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/rescue"
	"understudy/ledger/facts"
	"understudy/shipper/catalog"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

const hostKey = "SHA256:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg"

func TestParseFrom_Addresses(t *testing.T) {
	for text, want := range map[string]facts.LocationPolicy{
		"sftp://b@vault:2222/srv/b?host_key=" + strings.ReplaceAll(hostKey, "+", "%2B"): {
			Kind: facts.LocationSFTP, Address: "vault:2222", User: "b", Path: "/srv/b", HostKey: hostKey, Secret: rescue.FromSecret},
		"sftp://b@vault/b?secret=key&host_key=" + strings.ReplaceAll(hostKey, "+", "%2B"): {
			Kind: facts.LocationSFTP, Address: "vault", User: "b", Path: "/b", HostKey: hostKey, Secret: "key"},
		"s3://bucket/a/b?endpoint=minio:9000&region=eu": {
			Kind: facts.LocationS3, Bucket: "bucket", Prefix: "a/b", Endpoint: "minio:9000", Region: "eu", Secret: rescue.FromSecret},
	} {
		got, ok, err := rescue.ParseFrom(text)
		want.Tier, want.Retention = got.Tier, got.Retention
		if diff := cmp.Diff(want, got); diff != "" || !ok || err != nil {
			t.Errorf("%s: %v %v\n%s", text, ok, err, diff)
		}
	}
	for text, why := range map[string]string{
		"sftp://b:password@vault/b?host_key=x": "no password", "sftp://vault/b": "user", "sftp://b@vault/b": "host_key",
		"s3://": "bucket", "s3://b?colour=red": "says nothing", "sftp://%zz": "no address",
	} {
		if _, ok, err := rescue.ParseFrom(text); !ok || !errors.Is(err, rescue.ErrSource) || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v %v", text, ok, err)
		}
	}
	for _, text := range []string{"/mnt/disk", "disk", "http://x/y", "", "sftp:/x"} {
		if _, ok, err := rescue.ParseFrom(text); ok || err != nil {
			t.Errorf("%s: %v %v", text, ok, err)
		}
	}
}

func FuzzParseFrom(f *testing.F) {
	for _, s := range []string{"sftp://b@vault:2222/srv?host_key=" + hostKey, "s3://bucket/p?endpoint=e", "s3://b?secret=%00", "sftp://[::1]:22/x", "/dir"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, ok, err := rescue.ParseFrom(s)
		switch {
		case !ok && err != nil:
			t.Fatalf("%q is a directory and an error: %v", s, err)
		case err != nil && !errors.Is(err, rescue.ErrSource):
			t.Fatalf("%q: %v", s, err)
		case ok && err == nil && p.Kind != facts.LocationSFTP && p.Kind != facts.LocationS3:
			t.Fatalf("%q: %+v", s, p)
		}
	})
}

func TestParseStop_WhatServersSay(t *testing.T) {
	for text, want := range map[string]struct {
		before bool
		xid    uint32
		lsn    pos.LSN
		ok     bool
	}{
		"recovery stopping before commit of transaction 727, time 2026-11-22 10:10:12.239095+00": {true, 727, 0, true},
		"recovery stopping after commit of transaction 4294968023, time 2026-11-22 10:10:12+00":  {false, 727, 0, true},
		"recovery stopping before abort of transaction 9, time x":                                {true, 9, 0, true},
		`recovery stopping after WAL location (LSN) "1/A0000028"`:                                {false, 0, 0x1A0000028, true},
		`recovery stopping at restore point "second", time x`:                                    {},
		"recovery stopping after reaching consistency":                                           {},
		"": {},
	} {
		before, xid, lsn, ok := rescue.ParseStop(text)
		if before != want.before || xid != want.xid || lsn != want.lsn || ok != want.ok {
			t.Errorf("%s: %v %d %s %v", text, before, xid, lsn, ok)
		}
	}
}

// What a ledger knew is kept where the locations do not contradict it.
func TestJoin_LedgerAndListing(t *testing.T) {
	at := func(s int) time.Time { return time.Date(2026, 1, 1, 0, 0, s, 0, time.UTC) }
	set := func(digest string, copies ...string) catalog.Set {
		s := catalog.Set{Label: "s", State: catalog.SetComplete, Digest: digest, Timeline: 1, Copies: map[string]catalog.Copy{}}
		for _, c := range copies {
			name, state, _ := strings.Cut(c, "=")
			s.Copies[name] = catalog.Copy{State: catalog.CopyState(state)}
		}
		return s
	}
	pinned := set("d", "disk=damaged", "gone=complete")
	pinned.Pinned = true
	known := catalog.Catalog{Group: "g", SystemID: 7, Timelines: map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 500}},
		Sets: map[string]catalog.Set{"s": pinned, "lost": set("l", "disk=complete")},
		Places: map[string]catalog.Place{"gone": {WAL: []catalog.Span{{Timeline: 1, From: 0, To: 900, Marks: []catalog.Mark{
			{LSN: 150, At: at(2)}, {LSN: 800, At: at(9)}}}}}}}
	disk := catalog.Catalog{Group: "g", SystemID: 7, Major: 15, SegSize: 100, Timelines: map[pos.Timeline]catalog.Timeline{2: {}, 3: {Parent: 2, Fork: 700}},
		Sets:   map[string]catalog.Set{"s": set("d", "disk=complete")},
		Places: map[string]catalog.Place{"disk": {WAL: []catalog.Span{{Timeline: 1, From: 100, To: 300, Marks: []catalog.Mark{{LSN: 200, At: at(3)}}}}}}}
	nas := catalog.Catalog{Group: "g", SystemID: 7, Sets: map[string]catalog.Set{"s": set("d", "nas=complete"), "new": set("n", "nas=complete")},
		Places: map[string]catalog.Place{"nas": {}}}
	other := catalog.Catalog{Group: "g", SystemID: 8, Sets: map[string]catalog.Set{"x": set("x", "usb=complete")}, Places: map[string]catalog.Place{"usb": {}}}

	got, warnings := rescue.Join(known, disk, nas, other)
	if len(warnings) != 1 || !strings.Contains(warnings[0], "usb") {
		t.Errorf("warnings %q", warnings)
	}
	want := set("d", "disk=damaged", "nas=complete")
	want.Pinned = true
	if diff := cmp.Diff(map[string]catalog.Set{"s": want, "new": set("n", "nas=complete")}, got.Sets); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[pos.Timeline]catalog.Timeline{1: {}, 2: {Parent: 1, Fork: 500}, 3: {Parent: 2, Fork: 700}}, got.Timelines); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]catalog.Mark{{LSN: 150, At: at(2)}, {LSN: 200, At: at(3)}}, got.Places["disk"].WAL[0].Marks); diff != "" {
		t.Error(diff)
	}
	if len(got.Places) != 2 || got.Major != 15 {
		t.Errorf("%+v", got)
	}
	again, _ := rescue.Join(known, disk, nas, other)
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("the arguments were changed: %s", diff)
	}
}

// A directory for reading keeps the rules of a location, and stays within
// itself.
func TestOpenDir_Reads(t *testing.T) {
	ctx := context.Background()
	outer := t.TempDir()
	dir := filepath.Join(outer, "disk")
	for name, text := range map[string]string{"disk/g/a": "0123456789", "disk/.tmp/upload": "x", "secret": "no"} {
		path := filepath.Join(outer, filepath.FromSlash(name))
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../secret", filepath.Join(dir, "g/link")); err != nil {
		t.Fatal(err)
	}
	l, err := rescue.OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	read := func(key string, off, n int64) (string, error) {
		r, err := l.Open(ctx, key, off, n)
		if err != nil {
			return "", err
		}
		defer r.Close()
		b, err := io.ReadAll(r)
		return string(b), err
	}
	for _, row := range []struct {
		off, n int64
		want   string
		err    error
	}{{0, -1, "0123456789", nil}, {3, 4, "3456", nil}, {10, -1, "", nil}, {8, 5, "89", io.ErrUnexpectedEOF}, {11, -1, "", location.ErrUnreachable}} {
		if got, err := read("g/a", row.off, row.n); got != row.want || !errors.Is(err, row.err) {
			t.Errorf("from %d, %d: %q %v", row.off, row.n, got, err)
		}
	}
	for key, want := range map[string]error{"g/none": location.ErrNotExist, "g": location.ErrNotExist, "../secret": location.ErrKey, "g/link": location.ErrUnreachable} {
		if _, err := read(key, 0, -1); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", key, err, want)
		}
	}
	var keys []string
	if err := l.List(ctx, "", func(i location.Info) error { keys = append(keys, i.Key); return nil }); err != nil || strings.Join(keys, " ") != "g/a" {
		t.Errorf("list: %s %v", keys, err)
	}
	if err := l.List(ctx, "none/", func(location.Info) error { return errors.New("called") }); err != nil {
		t.Errorf("list of nothing: %v", err)
	}
	if _, err := l.Create(ctx, "g/b", location.CreateOptions{}); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("create: %v", err)
	}
}

func TestOverlap_Paths(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "self")); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		a, b string
		want bool
	}{{"/a", "/a", true}, {"/a/b", "/a", true}, {"/a", "/a/b/", true}, {"/a", "/ab", false}, {"/a/b", "/a/c", false},
		{filepath.Join(dir, "self", "x"), filepath.Join(dir, "x"), true}} {
		if got := rescue.Overlap(row.a, row.b); got != row.want {
			t.Errorf("%s and %s: %v", row.a, row.b, got)
		}
	}
}

// PostgreSQL replaces %p and %f, a shell takes the rest apart.
func TestRestoreCommand_Quotes(t *testing.T) {
	got := rescue.RestoreCommand("/it's/100%/data", "/opt/b in/understudy")
	want := `mv '/it'\''s/100%%/.data.restore/hand'/%f "%p" 2>/dev/null || exec '/opt/b in/understudy' restore-get --socket '/it'\''s/100%%/.data.restore/get.sock' "%f" "%p"`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if long := rescue.RestoreCommand("/"+strings.Repeat("x", 120)+"/data", "/u"); !strings.Contains(long, os.TempDir()) {
		t.Errorf("a socket with a path that is too long: %s", long)
	}
}

// A tablespace that was made after the set lies where the original has it.
func TestNewerSpaces(t *testing.T) {
	dir, place := t.TempDir(), t.TempDir()
	none, err := rescue.NewerSpaces(dir, 7, nil)
	if err != nil || len(none) > 0 {
		t.Errorf("an empty directory: %v, %v", none, err)
	}
	for _, d := range []string{"global", "pg_tblspc", "pg_tblspc/16500"} { // one in place is within
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	control := binary.LittleEndian.AppendUint64(nil, 7)
	if err := os.WriteFile(filepath.Join(dir, "global", "pg_control"), control, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, oid := range []string{"16400", "16401"} {
		if err := os.Symlink(place, filepath.Join(dir, "pg_tblspc", oid)); err != nil {
			t.Fatal(err)
		}
	}
	for name, tt := range map[string]struct {
		system uint64
		known  []uint32
		want   int
	}{"Newer": {7, []uint32{16400}, 1}, "Known": {7, []uint32{16400, 16401}, 0}, "None": {7, nil, 2}, "OtherDatabase": {8, nil, 0}} {
		got, err := rescue.NewerSpaces(dir, tt.system, tt.known)
		if err != nil || len(got) != tt.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
