package restore_test

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/primary/basebackup"
	"understudy/shipper/frame"
	"understudy/standby/restore"
	"understudy/test/pgtest"
)

// snapshot lists every path below dir.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var all []string
	err := filepath.Walk(dir, func(p string, fi os.FileInfo, err error) error {
		if err == nil {
			all = append(all, p+" "+fi.ModTime().String())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

func refuses(t *testing.T, o *origin) {
	tests := []struct {
		name  string
		setup func(t *testing.T, to *restore.Config, from *basebackup.Config)
		want  error
		text  string
	}{
		{"OtherSystem", func(_ *testing.T, to *restore.Config, _ *basebackup.Config) { to.SystemID++ }, restore.ErrRefused, "system identifier"},
		{"OtherMajor", func(_ *testing.T, to *restore.Config, _ *basebackup.Config) { to.Major-- }, restore.ErrRefused, "PostgreSQL"},
		{"SenderOfOtherSystem", func(_ *testing.T, to *restore.Config, from *basebackup.Config) { from.SystemID++; to.SystemID++ }, restore.ErrRefused, "the group's database"},
		{"ForeignDirectory", func(t *testing.T, to *restore.Config, _ *basebackup.Config) {
			writeFile(t, filepath.Join(to.DataDir, "precious"))
		}, restore.ErrForeignDir, "precious"},
		{"UnmarkedCluster", func(t *testing.T, to *restore.Config, _ *basebackup.Config) {
			writeFile(t, filepath.Join(to.DataDir, "PG_VERSION"))
			writeFile(t, filepath.Join(to.DataDir, "global", "pg_control"))
		}, restore.ErrForeignDir, "cluster"},
		{"TablespaceOfTheSender", func(_ *testing.T, to *restore.Config, _ *basebackup.Config) { to.TablespaceMap = nil }, restore.ErrTablespace, "uses itself"},
		{"TablespaceNotEmpty", func(t *testing.T, to *restore.Config, _ *basebackup.Config) {
			d := filepath.Dir(to.DataDir)
			writeFile(t, filepath.Join(d, "ts", "precious"))
			to.TablespaceMap = func(uint32, string) (string, error) { return filepath.Join(d, "ts"), nil }
		}, restore.ErrTablespace, "not empty"},
		{"TablespaceInsideData", func(_ *testing.T, to *restore.Config, _ *basebackup.Config) {
			d := to.DataDir
			to.TablespaceMap = func(uint32, string) (string, error) { return filepath.Join(d, "ts"), nil }
		}, restore.ErrTablespace, "overlaps"},
		{"ServerUnreachable", func(_ *testing.T, _ *restore.Config, from *basebackup.Config) {
			from.ConnString = "host=/nonexistent user=postgres"
		}, nil, "cannot read its PostgreSQL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			to, from := o.target(t), o.sender()
			tt.setup(t, &to, &from)
			before := snapshot(t, filepath.Dir(to.DataDir))
			_, err, serr := run(t, from, to, 0)
			if err == nil || serr == nil || tt.want != nil && !errors.Is(err, tt.want) {
				t.Fatalf("Seed: %v; Serve: %v", err, serr)
			}
			if tt.text != "precious" && !strings.Contains(err.Error(), tt.text) {
				t.Errorf("%q does not say %q", err, tt.text)
			}
			if after := snapshot(t, filepath.Dir(to.DataDir)); after != before {
				t.Errorf("the directory changed:\n%s\nwas\n%s", after, before)
			}
		})
	}
}

func writeFile(t *testing.T, p string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// hostile plays a sender that was given any list of frames.
func hostile(c net.Conn, frames func(w *frame.Writer)) {
	defer c.Close()
	r, w := frame.NewReader(c), frame.NewWriter(c)
	if _, _, err := r.Next(); err != nil {
		return
	}
	w.WriteJSON(frame.SeedAsk, map[string]any{"system_id": "7", "major": 15})
	w.Flush()
	if _, _, err := r.Next(); err != nil {
		return
	}
	w.WriteJSON(frame.SeedPlan, map[string]any{"system_id": "7", "major": 15, "start_lsn": "0/100", "timeline": 1})
	frames(w)
	w.Flush()
	for {
		if typ, _, err := r.Next(); err != nil || typ == frame.Refuse {
			return
		}
	}
}

func TestSeed_HostileSender(t *testing.T) {
	file := func(kind, path string, size int64) func(w *frame.Writer) {
		return func(w *frame.Writer) {
			w.WriteJSON(frame.SeedFile, map[string]any{"kind": kind, "path": path, "size": size, "mode": 0o4777})
		}
	}
	tests := map[string]func(w *frame.Writer){
		"Absolute":       file("file", "/etc/passwd", 1),
		"DotDot":         file("file", "../escape", 1),
		"DotDotInside":   file("file", "base/../../escape", 1),
		"Dot":            file("dir", ".", 0),
		"Empty":          file("file", "", 1),
		"Mark":           file("file", restore.MarkName, 1),
		"PostmasterPid":  file("file", "postmaster.pid", 1),
		"LongPath":       file("file", strings.Repeat("a/", 600)+"a", 1),
		"LongName":       file("file", strings.Repeat("a", 300), 1),
		"Nul":            file("file", "a\x00b", 1),
		"NegativeSize":   file("file", "a", -1),
		"HugeSize":       file("file", "a", 1<<50),
		"Link":           file("symlink", "a", 1),
		"WAL":            file("file", "pg_wal/000000010000000000000001", 1),
		"OtherManifest":  file("manifest", "a", -1),
		"ChunkOutside":   func(w *frame.Writer) { w.Write(frame.SeedChunk, []byte("x")) },
		"SameOutside":    func(w *frame.Writer) { w.Write(frame.SeedSame, []byte{1, 0, 0, 0}) },
		"ChunkTooLong":   func(w *frame.Writer) { file("file", "a", 1)(w); w.Write(frame.SeedChunk, []byte("xy")) },
		"FileTooShort":   func(w *frame.Writer) { file("file", "a", 2)(w); file("file", "b", 0)(w) },
		"SameNotHeld":    func(w *frame.Writer) { file("file", "a", 9)(w); w.Write(frame.SeedSame, []byte{9, 0, 0, 0}) },
		"UnexpectedType": func(w *frame.Writer) { w.WriteJSON(frame.Hello, 1) },
		"EmptyBase": func(w *frame.Writer) {
			w.WriteJSON(frame.SeedEnd, map[string]any{"start_lsn": "0/100", "end_lsn": "0/200", "timeline": 1})
		},
	}
	for name, frames := range tests {
		t.Run(name, func(t *testing.T) {
			a, b := net.Pipe()
			done := make(chan struct{})
			go func() { defer close(done); hostile(b, frames) }()
			dir := filepath.Join(t.TempDir(), "outer", "data")
			_, err := restore.Seed(t.Context(), a, restore.Config{DataDir: dir, SystemID: 7, Major: 15, Step: func(s string) error {
				if s == restore.StepVerify {
					t.Error("reached verify")
				}
				// A hostile peer that reads no more must not hold the test.
				a.SetDeadline(time.Now().Add(5 * time.Second))
				return nil
			}})
			a.Close()
			<-done
			if !errors.Is(err, restore.ErrProtocol) {
				t.Errorf("got %v, want ErrProtocol", err)
			}
			if names, _ := os.ReadDir(filepath.Dir(dir)); len(names) != 1 {
				t.Errorf("something was written beside the data directory: %v", names)
			}
		})
	}
}

// damaged shortens a file after its checksum was taken.
func damaged(t *testing.T, o *origin) {
	cfg := o.target(t)
	cfg.Step = func(s string) error {
		if s != restore.StepVerify {
			return nil
		}
		return os.Truncate(filepath.Join(cfg.DataDir, "base/1/PG_VERSION"), 1)
	}
	if _, err, _ := run(t, o.sender(), cfg, 0); !errors.Is(err, restore.ErrBase) {
		t.Fatalf("got %v, want ErrBase", err)
	}
	cfg.Step = nil
	res, err, serr := run(t, o.sender(), cfg, 0)
	if err != nil || serr != nil || res.SameBytes == 0 {
		t.Fatalf("%+v, Seed: %v; Serve: %v", res, err, serr)
	}
	o.check(t, cfg.DataDir)
}

func TestSeed_SenderKilledGoesOn(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 4)
	cfg := o.target(t)
	files := 0
	cfg.Step = func(s string) error {
		if s == restore.StepFiles {
			if files++; files == 200 {
				o.Crash()
			}
		}
		return nil
	}
	from := o.sender()
	from.MaxRate = 8192 // so that the server is not done before it is killed
	if _, err, serr := run(t, from, cfg, 0); err == nil || serr == nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	cfg.Step = nil
	o.Start(t)
	res, err, serr := run(t, o.sender(), cfg, 0)
	if err != nil || serr != nil || res.SameBytes == 0 {
		t.Fatalf("%+v, Seed: %v; Serve: %v", res, err, serr)
	}
	o.check(t, cfg.DataDir)
}

func TestClaim_OldClusterIsSentOnlyWhatDiffers(t *testing.T) {
	t.Parallel()
	o := newOrigin(t, 4)
	cfg := o.target(t)
	if _, err, serr := run(t, o.sender(), cfg, 0); err != nil || serr != nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	// pg_wal moves out of the data directory; the link must survive.
	wal := filepath.Join(filepath.Dir(cfg.DataDir), "wal")
	if err := os.Rename(filepath.Join(cfg.DataDir, "pg_wal"), wal); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(wal, filepath.Join(cfg.DataDir, "pg_wal")); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(wal, "000000010000000000000001"))
	pid := filepath.Join(cfg.DataDir, "postmaster.pid")
	os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
	if err := restore.Claim(cfg.DataDir); !errors.Is(err, restore.ErrRunning) {
		t.Fatalf("Claim of a running cluster: %v", err)
	}
	os.Remove(pid)
	if err := restore.Claim(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	o.Exec(t, "update b set f = 'new' where i = 1; checkpoint")
	res, err, serr := run(t, o.sender(), cfg, 0)
	if err != nil || serr != nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	if res.SameBytes < res.Bytes*3/4 {
		t.Errorf("only %d of %d bytes were not sent", res.SameBytes, res.Bytes)
	}
	o.check(t, cfg.DataDir)
	names, _ := os.ReadDir(wal)
	names = slices.DeleteFunc(names, func(e os.DirEntry) bool { return e.Name() == "summaries" }) // since version 17
	if len(names) != 1 || names[0].Name() != "archive_status" {
		t.Errorf("pg_wal holds %v", names)
	}
	o.startStandby(t, cfg.DataDir)
}

func wipe(t *testing.T, o *origin) {
	cfg := o.target(t)
	if _, err, _ := run(t, o.sender(), cfg, 3<<20); err == nil {
		t.Fatal("the cut had no effect")
	}
	if err := restore.Wipe(cfg.DataDir); err != nil {
		t.Fatal(err)
	}
	if state, err := restore.Inspect(cfg.DataDir); state != restore.Empty || err != nil {
		t.Fatalf("after Wipe: %v, %v", state, err)
	}
	if _, err, serr := run(t, o.sender(), cfg, 0); err != nil || serr != nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	if err := restore.Wipe(cfg.DataDir); !errors.Is(err, restore.ErrForeignDir) {
		t.Fatalf("Wipe of a cluster: %v", err)
	}
	plan, err := restore.PlanWipe(cfg.DataDir, true)
	if err != nil || len(plan.Paths) < 10 {
		t.Fatalf("%v, %v", plan.Paths, err)
	}
	if err := plan.Execute(t.Context()); err != nil {
		t.Fatal(err)
	}
	if state, err := restore.Inspect(cfg.DataDir); state != restore.Empty || err != nil {
		t.Fatalf("after Execute: %v, %v", state, err)
	}
	foreign := filepath.Join(t.TempDir(), "d")
	writeFile(t, filepath.Join(foreign, "precious"))
	if err := restore.WipeCluster(foreign); !errors.Is(err, restore.ErrForeignDir) {
		t.Errorf("WipeCluster of a foreign directory: %v", err)
	}
}

// link has a link out of a half directory; the
// next seed must replace it, not write through it.
func link(t *testing.T, o *origin) {
	cfg := o.target(t)
	if _, err, _ := run(t, o.sender(), cfg, 3<<20); err == nil {
		t.Fatal("the cut had no effect")
	}
	outside := pgtest.Dir(t)
	for _, name := range []string{"base", "PG_VERSION"} {
		os.RemoveAll(filepath.Join(cfg.DataDir, name))
		if err := os.Symlink(outside, filepath.Join(cfg.DataDir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err, serr := run(t, o.sender(), cfg, 0); err != nil || serr != nil {
		t.Fatalf("Seed: %v; Serve: %v", err, serr)
	}
	if names, _ := os.ReadDir(outside); len(names) != 0 {
		t.Errorf("written through a link: %v", names)
	}
	o.check(t, cfg.DataDir)
}

// TestWire_SameOnBothSides keeps the two halves of the protocol, which may not
// import each other, in step.
func TestWire_SameOnBothSides(t *testing.T) {
	b, err := json.Marshal(basebackup.Plan{SystemID: 1, Major: 15, StartLSN: 2, Timeline: 3, EstimateBytes: 4,
		Tablespaces: []basebackup.Tablespace{{OID: 5, Location: "/x", Device: 6, Inode: 7}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"system_id":"1","major":15,"start_lsn":"0/2","timeline":3,"estimate_bytes":4,"tablespaces":[{"oid":5,"location":"/x","in_place":false,"device":"6","inode":"7"}]}`
	if string(b) != want {
		t.Errorf("got %s, want %s", b, want)
	}
}
