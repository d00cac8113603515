package probe_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"understudy/failover/probe"
	"understudy/test/pgtest"
)

// mounted is a small filesystem of its own, made by mount with these
// arguments before the directory; the test is skipped where that is impossible.
func mounted(t *testing.T, args ...string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a filesystem")
	}
	dir, err := os.MkdirTemp("", "us")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", append(args, dir)...).CombinedOutput(); err != nil {
		os.Remove(dir)
		t.Skipf("this machine mounts no %s: %s", strings.Join(args, " "), out)
	}
	t.Cleanup(func() {
		pgtest.Eventually(t, 10*time.Second, "filesystem can be unmounted", func() bool { return unix.Unmount(dir, 0) == nil })
		os.Remove(dir)
	})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// ext4 is a filesystem of its own on a loop device.
func ext4(t *testing.T, size int64) string {
	t.Helper()
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		t.Skip("no mkfs.ext4 (package e2fsprogs)")
	}
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(mkfs, "-q", image).CombinedOutput(); err != nil {
		t.Fatalf("mkfs: %v: %s", err, out)
	}
	return mounted(t, "-o", "loop", image)
}

// freeze makes every write to the filesystem of dir hang until thaw.
func freeze(t *testing.T, dir string) (thaw func()) {
	t.Helper()
	const fiFreeze, fiThaw = 0xc0045877, 0xc0045878
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetInt(int(f.Fd()), fiFreeze, 0); err != nil {
		f.Close()
		t.Skipf("this filesystem cannot be frozen: %v", err)
	}
	thaw = func() {
		if f != nil {
			unix.IoctlSetInt(int(f.Fd()), fiThaw, 0)
			f.Close()
		}
		f = nil
	}
	t.Cleanup(thaw)
	return thaw
}

// fill leaves nothing on the filesystem of dir, as an account without
// privileges sees it; empty makes room again.
func fill(t *testing.T, dir string) (empty func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<18)
	for {
		if _, err := f.Write(block); err != nil {
			return func() { os.Remove(path) }
		}
	}
}

func kinds(fs []probe.Finding) string {
	var out []string
	for _, f := range fs {
		out = append(out, string(f.Kind))
	}
	return strings.Join(out, " ")
}

func check(d *probe.Disk) string { return kinds(d.Check(context.Background())) }

func TestDisk_Well(t *testing.T) {
	d := &probe.Disk{Dirs: []string{t.TempDir()}, MinFree: 1 << 20}
	if cred := pgtest.Credential(t); cred != nil {
		d.UID, d.GID = cred.Uid, cred.Gid
	}
	for range 3 {
		if got := check(d); got != "" {
			t.Fatal(got)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(d.Dirs[0], probe.FileName), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != 4096 || st.Mode&0o7777 != 0o600 || d.UID != 0 && st.Uid != d.UID {
		t.Errorf("size %d, mode %o, owner %d", st.Size, st.Mode, st.Uid)
	}
}

func TestDisk_Full(t *testing.T) {
	dir := mounted(t, "-t", "tmpfs", "-o", "size=24m", "understudy")
	d := &probe.Disk{Dirs: []string{dir}}
	if got := check(d); got != "" {
		t.Fatalf("with 24 MiB: %s", got)
	}
	empty := fill(t, dir)
	if got := check(d); got != "disk-full" {
		t.Errorf("filled: %q", got)
	}
	empty()
	if got := check(d); got != "" {
		t.Errorf("emptied: %s", got)
	}
}

func TestDisk_FullBeforeTheFileExists(t *testing.T) {
	dir := mounted(t, "-t", "tmpfs", "-o", "size=4m", "understudy")
	fill(t, dir)
	for _, f := range (&probe.Disk{Dirs: []string{dir}}).Check(context.Background()) {
		if f.Kind != probe.DiskFull {
			t.Errorf("got %+v", f)
		}
	}
}

func TestDisk_OutOfInodes(t *testing.T) {
	dir := mounted(t, "-t", "tmpfs", "-o", "size=24m,nr_inodes=4", "understudy")
	d := &probe.Disk{Dirs: []string{dir}}
	check(d)
	for _, name := range []string{"a", "b", "c", "d"} {
		os.WriteFile(filepath.Join(dir, name), nil, 0o600)
	}
	if got := check(d); got != "disk-full" {
		t.Errorf("got %q", got)
	}
}

func TestDisk_ReadOnly(t *testing.T) {
	dir := mounted(t, "-t", "tmpfs", "-o", "size=24m", "understudy")
	d := &probe.Disk{Dirs: []string{dir}}
	if got := check(d); got != "" {
		t.Fatal(got)
	}
	remount := func(how string) {
		if out, err := exec.Command("mount", "-o", "remount,"+how, dir).CombinedOutput(); err != nil {
			t.Fatalf("remount: %v: %s", err, out)
		}
	}
	remount("ro")
	if seen := probe.Note(nil, d.Check(context.Background()), 0); len(seen) != 1 || seen[0].Kind != probe.DiskReadOnly {
		t.Errorf("read-only: %+v", seen)
	}
	remount("rw")
	if got := check(d); got != "" {
		t.Errorf("writable again: %s", got)
	}
}

func TestDisk_Hung(t *testing.T) {
	dir := ext4(t, 32<<20)
	d := &probe.Disk{Dirs: []string{dir}, MinFree: 1 << 20}
	if got := check(d); got != "" {
		t.Fatal(got)
	}
	thaw := freeze(t, dir)
	before := threads(t)
	for range 2 {
		if got := check(d); got != "disk-hung" {
			t.Errorf("frozen: %q", got)
		}
	}
	for range 20 {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		d.Check(ctx)
		cancel()
	}
	hung := d.Hung()
	if len(hung) != 1 || hung[0].For < 2*time.Second || !strings.Contains(hung[0].Text, dir) {
		t.Errorf("got %+v", hung)
	}
	if n := threads(t) - before; n > 8 {
		t.Errorf("%d threads for one disk", n)
	}
	thaw()
	pgtest.Eventually(t, 5*time.Second, "the disk is well", func() bool { return check(d) == "" })
}

// threads is the number of this process's threads: each call that hangs holds
// one.
func threads(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestDisk_OneFileForEachFilesystem(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	if got := check(&probe.Disk{Dirs: []string{b, a}, MinFree: 1}); got != "" {
		t.Fatal(got)
	}
	_, errA := os.Stat(filepath.Join(a, probe.FileName))
	_, errB := os.Stat(filepath.Join(b, probe.FileName))
	if errA == nil || errB != nil {
		t.Errorf("in the second directory: %v, in the first: %v", errA, errB)
	}
}

func TestDisk_Missing(t *testing.T) {
	d := &probe.Disk{Dirs: []string{filepath.Join(t.TempDir(), "gone")}}
	if got := check(d); got != "disk-error" {
		t.Errorf("got %q", got)
	}
	if got := kinds(d.CheckIdle()); got != "" {
		t.Errorf("while no server runs: %q", got)
	}
}

func TestDisk_IdleMakesNoFile(t *testing.T) {
	d := &probe.Disk{Data: t.TempDir(), MinFree: 1}
	if got := kinds(d.CheckIdle()); got != "" {
		t.Error(got)
	}
	if list, _ := os.ReadDir(d.Data); len(list) != 0 {
		t.Errorf("made %v", list)
	}
}

func TestDisk_SeesWhereLogAndTablespacesAre(t *testing.T) {
	data, wal, space := t.TempDir(), filepath.Join(t.TempDir(), "w"), filepath.Join(t.TempDir(), "t")
	if err := os.Mkdir(filepath.Join(data, "pg_tblspc"), 0o700); err != nil {
		t.Fatal(err)
	}
	for to, link := range map[string]string{wal: "pg_wal", space: "pg_tblspc/16384"} {
		if err := os.Symlink(to, filepath.Join(data, link)); err != nil {
			t.Fatal(err)
		}
	}
	d := &probe.Disk{Data: data, MinFree: 1}
	got := d.Check(context.Background())
	if len(got) != 2 || got[0].Where != wal || got[1].Where != space {
		t.Errorf("got %+v", got)
	}
	for _, dir := range []string{wal, space} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if got := check(d); got != "" {
		t.Error(got)
	}
}

// The daemon may be root, and the directory another account's.
func TestDisk_WritesIntoNoPlantedFile(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	for _, c := range []struct {
		name  string
		plant func(path string) error
	}{
		{"SymbolicLink", func(p string) error { return os.Symlink(victim, p) }},
		{"HardLink", func(p string) error { return os.Link(victim, p) }},
		{"FIFO", func(p string) error { return syscall.Mkfifo(p, 0o600) }},
		{"Directory", func(p string) error { return os.Mkdir(p, 0o700) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if err := c.plant(filepath.Join(dir, probe.FileName)); err != nil {
				t.Fatal(err)
			}
			got := (&probe.Disk{Dirs: []string{dir}, MinFree: 1}).Check(context.Background())
			if len(got) != 1 || got[0].Kind != probe.DiskOdd {
				t.Errorf("got %+v", got)
			}
			if b, _ := os.ReadFile(victim); string(b) != "precious" {
				t.Errorf("victim holds %.20q", b)
			}
		})
	}
}
