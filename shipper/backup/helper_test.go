package backup_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"
	"go.uber.org/goleak"

	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func root() backupset.Root { return backupset.Root{Group: "shop", Profile: "postgres"} }

// place is a location on the disk.
func place(t testing.TB) (*local.Location, string) {
	t.Helper()
	dir := pgtest.Dir(t)
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	return local.New(dir), dir
}

func config(c interface{ DSN() string }, dests ...backup.Dest) backup.Config {
	return backup.Config{
		ConnString: c.DSN(), Root: root(), GroupID: "g1", Node: "main", Program: "test", Dests: dests, Workers: 2,
		Lineage:    pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1}},
		SecondLook: 20 * time.Millisecond,
	}
}

func take(t testing.TB, cfg backup.Config) backup.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	res, err := backup.Take(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// listed are the keys at a location.
func listed(t testing.TB, loc location.Location) []string {
	t.Helper()
	var out []string
	if err := loc.List(context.Background(), "", func(i location.Info) error { out = append(out, i.Key); return nil }); err != nil {
		t.Fatal(err)
	}
	return out
}

// files reads the list of files of a set.
func files(t testing.TB, loc location.Location, label string) map[string]backupset.File {
	t.Helper()
	r, err := loc.Open(t.Context(), root().Object(label, backupset.FilesName), 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	z, err := zstd.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	out := map[string]backupset.File{}
	for lines := backupset.NewFileReader(z); ; {
		f, err := lines.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[f.Archive+":"+f.Path] = f
	}
}

// shell runs a command line as the database account.
func shell(t testing.TB, line string) string {
	t.Helper()
	cmd := exec.Command("sh", "-ec", line)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: pgtest.Credential(t)}
	cmd.Dir = "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// fullyRestore unpacks a set with tar and zstd alone, starts PostgreSQL on the
// log in wal, and returns it.
func fullyRestore(t *testing.T, from *pgtest.Cluster, set string, spaces map[uint32]string, wal string) *pgtest.Cluster {
	t.Helper()
	c := pgtest.Init(t)
	if err := os.RemoveAll(c.Data); err != nil {
		t.Fatal(err)
	}
	shell(t, fmt.Sprintf("mkdir -m 700 %[1]s && zstd -dc %[2]s/base.tar.zst | tar -x -C %[1]s && cp %[2]s/backup_manifest %[1]s", c.Data, set))
	for oid, at := range spaces {
		link := fmt.Sprintf("%s/pg_tblspc/%d", c.Data, oid)
		if at != "" {
			shell(t, fmt.Sprintf("mkdir -p -m 700 %s && ln -sfn %s %s", at, at, link))
		}
		shell(t, fmt.Sprintf("zstd -dc %s/%d.tar.zst | tar -x -C %s/", set, oid, link))
	}
	shell(t, fmt.Sprintf("%s/pg_verifybackup -n %s", c.Bin, c.Data))
	shell(t, fmt.Sprintf("touch %s/recovery.signal", c.Data))
	c.AppendConf(t, fmt.Sprintf("restore_command = 'cp %s/%%f %%p'\narchive_mode = off\nrecovery_target_action = promote", wal))
	return c
}

// faulty lets a test fail or hold up a location at any call.
type faulty struct {
	location.Location
	mu   sync.Mutex
	n    int
	call func(ctx context.Context, n int, what string) error
}

func (f *faulty) step(ctx context.Context, what string) error {
	f.mu.Lock()
	n := f.n
	f.n++
	f.mu.Unlock()
	return f.call(ctx, n, what)
}

func (f *faulty) Create(ctx context.Context, key string, o location.CreateOptions) (location.Upload, error) {
	if err := f.step(ctx, "create "+key); err != nil {
		return nil, err
	}
	up, err := f.Location.Create(ctx, key, o)
	if err != nil {
		return nil, err
	}
	return &faultyUpload{up, ctx, f}, nil
}

func (f *faulty) Stat(ctx context.Context, key string) (location.Info, error) {
	if err := f.step(ctx, "stat"); err != nil {
		return location.Info{}, err
	}
	return f.Location.Stat(ctx, key)
}

type faultyUpload struct {
	location.Upload
	ctx context.Context
	f   *faulty
}

func (u *faultyUpload) Write(p []byte) (int, error) {
	if err := u.f.step(u.ctx, "write"); err != nil {
		return 0, err
	}
	return u.Upload.Write(p)
}

func (u *faultyUpload) Commit(ctx context.Context) (location.Info, error) {
	if err := u.f.step(ctx, "commit"); err != nil {
		return location.Info{}, err
	}
	return u.Upload.Commit(ctx)
}

// hasTools fails the test, with what to do, when zstd is not there.
func hasTools(t *testing.T) {
	t.Helper()
	for _, tool := range []string{"zstd", "tar"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is not installed: apt-get install %s", tool, tool)
		}
	}
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func contains(t testing.TB, list []string, part string) {
	t.Helper()
	if !strings.Contains(strings.Join(list, "\n"), part) {
		t.Errorf("%q is not in %q", part, list)
	}
}

// checkChunks reads each chunk of each file by way of the seek table.
func checkChunks(t *testing.T, loc location.Location, dir string, set backupset.Set) {
	t.Helper()
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	defer dec.Close()
	all := files(t, loc, set.Label)
	if len(all) != set.FileN {
		t.Errorf("%d lines, set.json says %d", len(all), set.FileN)
	}
	inOrder := slices.SortedFunc(maps.Values(all), func(a, b backupset.File) int { return cmp.Compare(a.Offset, b.Offset) })
	var total int64
	for _, archive := range set.Archives() {
		stored := read(t, filepath.Join(dir, archive))
		frames, err := backupset.ReadFrames(int64(len(stored)), func(p []byte, off int64) error { copy(p, stored[off:]); return nil })
		if err != nil {
			t.Fatal(err)
		}
		if o, _ := set.Object(archive); frames.RawBytes() != o.RawBytes {
			t.Errorf("%s: %d raw bytes, set.json says %d", archive, frames.RawBytes(), o.RawBytes)
		}
		at, raw := -1, []byte(nil)
		for _, f := range inOrder {
			if f.Archive != archive {
				continue
			}
			if archive != backupset.ExtraName {
				total += f.Size
			}
			for i := range backupset.ChunkN(f.Size) {
				off, n := f.Offset+i*backupset.ChunkSize, min(f.Size-i*backupset.ChunkSize, backupset.ChunkSize)
				first, end, err := frames.Find(off, n)
				if err != nil || end != first+1 {
					t.Fatalf("%s chunk %d is in frames %d to %d: %v", f.Path, i, first, end, err)
				}
				fr := frames.At(first)
				if first != at {
					if raw, err = dec.DecodeAll(stored[fr.StoredAt:fr.StoredAt+fr.Stored], nil); err != nil {
						t.Fatal(err)
					}
					at = first
				}
				sum := blake3.Sum256(raw[off-fr.RawAt : off-fr.RawAt+n])
				if !bytes.Equal(sum[:backupset.DigestSize], f.Digest(i)) {
					t.Errorf("%s chunk %d has another digest", f.Path, i)
				}
			}
		}
	}
	if total != set.RawBytes {
		t.Errorf("files have %d bytes, set.json says %d", total, set.RawBytes)
	}
}

// shell0 runs a command as the test's own account.
func shell0(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
