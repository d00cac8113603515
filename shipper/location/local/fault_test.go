package local_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"understudy/shipper/location"
	"understudy/shipper/location/local"
	"understudy/shipper/location/locationtest"
)

func unknown() location.CreateOptions { return location.CreateOptions{Size: -1} }

// TestNew_ForgottenMount: nothing is written to a directory that is not the
// one that Init made, and all is well as soon as it is there.
func TestNew_ForgottenMount(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "disk")
	loc := local.New(dir)
	defer loc.Close()
	refused := func(why string) {
		t.Helper()
		_, err := loc.Create(t.Context(), "k", unknown())
		if !errors.Is(err, location.ErrUnreachable) {
			t.Errorf("%s: %v", why, err)
		}
		if _, err := loc.Stat(t.Context(), "k"); !errors.Is(err, location.ErrUnreachable) || errors.Is(err, location.ErrNotExist) {
			t.Errorf("%s: stat: %v", why, err)
		}
	}
	refused("no directory")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	refused("no marker")
	if entries, _ := os.ReadDir(dir); len(entries) > 0 {
		t.Errorf("something was written: %v", entries)
	}
	for range 2 {
		if err := local.Init(dir); err != nil {
			t.Fatal(err)
		}
	}
	locationtest.Put(t, loc, "k", []byte("x"), unknown())
	// The file system goes away and an empty folder is in its place.
	if err := errors.Join(os.Rename(dir, dir+".away"), os.Mkdir(dir, 0o700)); err != nil {
		t.Fatal(err)
	}
	refused("unmounted")
	if err := errors.Join(os.Remove(dir), os.Rename(dir+".away", dir)); err != nil {
		t.Fatal(err)
	}
	if got := locationtest.Get(t, loc, "k"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
	if err := local.Init(filepath.Join(parent, "missing", "disk")); err == nil {
		t.Error("a location below a missing folder was made")
	}
}

// TestLocation_Links: nothing outside is read, written or listed through a
// link, and no special file is opened.
func TestLocation_Links(t *testing.T) {
	loc, dir := place(t)
	outside := t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o600),
		os.Symlink(outside, filepath.Join(dir, "out")),
		os.Symlink(filepath.Join(outside, "secret"), filepath.Join(dir, "link")),
		os.Symlink("../"+filepath.Base(outside), filepath.Join(dir, "up")),
		unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600),
		os.Mkdir(filepath.Join(dir, "folder"), 0o700),
	); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"out/secret", "link", "up/secret", "fifo", "folder", "out"} {
		if r, err := loc.Open(t.Context(), key, 0, -1); err == nil {
			b, _ := io.ReadAll(r)
			r.Close()
			t.Errorf("open %s: %q", key, b)
		}
		if i, err := loc.Stat(t.Context(), key); err == nil {
			t.Errorf("stat %s: %+v", key, i)
		}
	}
	for _, key := range []string{"out/new", "up/new", "out/deep/new"} {
		if u, err := loc.Create(t.Context(), key, unknown()); err == nil {
			if _, err := u.Commit(t.Context()); err == nil {
				t.Errorf("stored %s", key)
			}
			if err := u.Abort(); err != nil {
				t.Error(err)
			}
		}
		_ = loc.Remove(t.Context(), "out/secret")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
		t.Errorf("outside there are %v, %v", entries, err)
	}
	if err := loc.List(t.Context(), "", func(i location.Info) error {
		t.Errorf("listed %+v", i)
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// mount mounts at a new directory until the test ends.
func mount(t *testing.T, source, kind string, flags uintptr, data string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := t.TempDir()
	if err := unix.Mount(source, dir, kind, flags, data); err != nil {
		t.Skipf("this machine does not let us mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestLocation_FullDisk(t *testing.T) {
	dir := mount(t, "tmpfs", "tmpfs", 0, "size=8m")
	loc := at(t, dir)
	data := locationtest.Bytes(1, 20<<20)
	old := []byte("old")
	locationtest.Put(t, loc, "a/k", old, unknown())
	if _, err := loc.Create(t.Context(), "a/k", location.CreateOptions{Size: int64(len(data))}); !errors.Is(err, location.ErrNoSpace) {
		t.Errorf("a size beyond the disk: %v", err)
	}
	u, err := loc.Create(t.Context(), "a/k", location.CreateOptions{Size: -1, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = u.Write(data); err == nil {
		_, err = u.Commit(t.Context())
	}
	if !errors.Is(err, location.ErrNoSpace) {
		t.Fatalf("more than the disk holds: %v", err)
	}
	if _, err := u.Commit(t.Context()); !errors.Is(err, location.ErrNoSpace) {
		t.Errorf("committed all the same: %v", err)
	}
	if err := u.Abort(); err != nil {
		t.Error(err)
	}
	if got := leftovers(t, dir); len(got) > 0 {
		t.Errorf("there is left: %q", got)
	}
	if got := locationtest.Get(t, loc, "a/k"); !bytes.Equal(got, old) {
		t.Errorf("the object has %d bytes", len(got))
	}
	// As soon as there is room it works again.
	locationtest.Put(t, loc, "a/k", data[:6<<20], location.CreateOptions{Size: 6 << 20})
	if sp, err := loc.Space(t.Context()); err != nil || sp.Total != 8<<20 || sp.Free > 2<<20 {
		t.Errorf("space: %+v, %v", sp, err)
	}
}

// TestLocation_FullThenRoom: an upload that met a full disk goes on where it
// was when there is room.
func TestLocation_FullThenRoom(t *testing.T) {
	loc := at(t, mount(t, "tmpfs", "tmpfs", 0, "size=12m"))
	data := locationtest.Bytes(1, 10<<20)
	locationtest.Put(t, loc, "ballast", data[:6<<20], unknown())
	u, err := loc.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err = u.Write(data); !errors.Is(err, location.ErrNoSpace) {
		t.Fatalf("more than the disk holds: %v", err)
	}
	if err := errors.Join(u.Suspend(), loc.Remove(t.Context(), "ballast")); err != nil {
		t.Fatal(err)
	}
	u, err = loc.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	if u.Offset() < 4<<20 {
		t.Errorf("goes on at %d", u.Offset())
	}
	if _, err := u.Write(data[u.Offset():]); err != nil {
		t.Fatal(err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := locationtest.Get(t, loc, "k"); !bytes.Equal(got, data) {
		t.Error("the object differs")
	}
}

func TestLocation_ReadOnly(t *testing.T) {
	_, dir := place(t)
	locationtest.Put(t, at(t, dir), "k", []byte("x"), unknown())
	ro := mount(t, dir, "", unix.MS_BIND, "")
	if err := unix.Mount("", ro, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	loc := local.New(ro)
	defer loc.Close()
	if got := locationtest.Get(t, loc, "k"); string(got) != "x" {
		t.Errorf("read %q", got)
	}
	if _, err := loc.Create(t.Context(), "j", unknown()); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("create: %v", err)
	}
	if err := loc.Remove(t.Context(), "k"); !errors.Is(err, location.ErrReadOnly) {
		t.Errorf("remove: %v", err)
	}
}

// TestUpload_PowerLoss: of what a machine held when it stopped, only what had
// been synced is gone on with, whatever the size of the file.
func TestUpload_PowerLoss(t *testing.T) {
	for name, tt := range map[string]struct {
		size, wrote, want int // in MiB
		suspend           bool
		spoil             func(t *testing.T, note string)
	}{
		"Running":    {100, 90, 64, false, func(*testing.T, string) {}},
		"Young":      {10, 5, 0, false, func(*testing.T, string) {}},
		"Suspended":  {10, 5, 5, true, func(*testing.T, string) {}},
		"NoteLost":   {10, 5, 0, true, func(t *testing.T, note string) { check(t, os.Remove(note)) }},
		"NoteEmpty":  {10, 5, 0, true, func(t *testing.T, note string) { check(t, os.Truncate(note, 0)) }},
		"NoteHalf":   {10, 5, 0, true, func(t *testing.T, note string) { check(t, os.Truncate(note, 30)) }},
		"NoteBeyond": {10, 5, 0, true, func(t *testing.T, note string) { rewrite(t, note, 99<<40) }},
	} {
		t.Run(name, func(t *testing.T) {
			loc, dir := place(t)
			data := locationtest.Bytes(1, tt.size<<20)
			o := location.CreateOptions{Size: int64(len(data)), Token: "t"}
			u, err := loc.Create(t.Context(), "k", o)
			check(t, err)
			_, err = u.Write(data[:tt.wrote<<20])
			check(t, err)
			if tt.suspend {
				check(t, u.Suspend())
			}
			notes, err := filepath.Glob(filepath.Join(dir, ".tmp", "*.note"))
			if err != nil || len(notes) != 1 {
				t.Fatalf("notes: %v, %v", notes, err)
			}
			tt.spoil(t, notes[0])
			// As after a restart: another file, without the lock, which has zeros
			// where nothing was synced.
			part := strings.TrimSuffix(notes[0], ".note") + ".part"
			after := make([]byte, tt.wrote<<20)
			copy(after, data[:tt.want<<20])
			check(t, errors.Join(os.Remove(part), os.WriteFile(part, after, 0o600)))
			u, err = loc.Create(t.Context(), "k", o)
			check(t, err)
			if u.Offset() != int64(tt.want)<<20 {
				t.Errorf("goes on at %d, want %d MiB", u.Offset(), tt.want)
			}
			_, err = u.Write(data[u.Offset():])
			check(t, err)
			_, err = u.Commit(t.Context())
			check(t, err)
			if got := locationtest.Get(t, loc, "k"); !bytes.Equal(got, data) {
				t.Error("the object differs")
			}
		})
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func rewrite(t *testing.T, note string, n int64) {
	t.Helper()
	check(t, os.WriteFile(note, fmt.Appendf(nil, "stored %019d %019d\n", n, n), 0o600))
}

// TestSweep_LeavesRunningUploads, also those of another handle.
func TestSweep_LeavesRunningUploads(t *testing.T) {
	loc, dir := place(t)
	other := at(t, dir)
	data := locationtest.Bytes(1, 2<<20)
	u, err := loc.Create(t.Context(), "k", location.CreateOptions{Size: -1, Token: "t"})
	check(t, err)
	_, err = u.Write(data)
	check(t, err)
	if n, err := other.Sweep(t.Context(), time.Now().Add(time.Hour)); n != 0 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if _, err := u.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := locationtest.Get(t, other, "k"); !bytes.Equal(got, data) {
		t.Error("the object differs")
	}
}

// killEnv names the directory for the process that TestLocation_Killed kills.
const killEnv = "LOCAL_TEST_KILL"

// TestLocation_Killed ends a writing process at any moment: a key has one whole
// object, and after a sweep nothing else is there.
func TestLocation_Killed(t *testing.T) {
	if dir := os.Getenv(killEnv); dir != "" {
		writeForEver(dir)
	}
	loc, dir := place(t)
	for round := range 12 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLocation_Killed$")
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		check(t, err)
		check(t, cmd.Start())
		// Its first object is there; the rest is chance.
		_, err = bufio.NewReader(out).ReadByte()
		check(t, err)
		time.Sleep(time.Duration(round*7) * time.Millisecond) // no condition: any moment will do
		check(t, cmd.Process.Kill())
		_ = cmd.Wait()
		err = loc.List(t.Context(), "", func(i location.Info) error {
			b := locationtest.Get(t, loc, i.Key)
			if len(b) == 0 || !bytes.Equal(b, pattern(b[0])) {
				t.Errorf("%s has %d bytes that nobody wrote", i.Key, len(b))
			}
			return nil
		})
		check(t, err)
	}
	if _, err := loc.Sweep(t.Context(), time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	for _, l := range leftovers(t, dir) {
		if !strings.HasSuffix(l, "/") { // a folder whose object had not come
			t.Errorf("there is left: %s", l)
		}
	}
}

func pattern(v byte) []byte { return bytes.Repeat([]byte{v}, 300<<10+int(v)*1000) }

// writeForEver replaces, adds, suspends and removes until it is killed.
func writeForEver(dir string) {
	loc, ctx := local.New(dir), context.Background()
	for v := byte(1); ; v++ {
		key, o := fmt.Sprintf("d%d/k", v%3), location.CreateOptions{Size: -1}
		if v%2 == 0 {
			o.Token = fmt.Sprint("t", v)
		}
		u, err := loc.Create(ctx, key, o)
		if err != nil {
			panic(err)
		}
		if _, err = u.Write(pattern(v)[u.Offset():]); err == nil {
			if v%5 == 0 {
				err = u.Suspend()
			} else {
				_, err = u.Commit(ctx)
			}
		}
		if err == nil && v%7 == 0 {
			err = loc.Remove(ctx, key)
		}
		if err != nil {
			panic(err)
		}
		fmt.Print(".")
	}
}
