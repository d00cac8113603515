package cluster

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root: run this as root")
	}
	n := &Node{Name: Main, Dir: t.TempDir(), disks: true}
	n.mount(t)
	t.Cleanup((&Group{Main: n, Backup: n, Witness: n}).unmount)
	file := filepath.Join(n.StateDir(), "file")
	grow := func() error { return os.WriteFile(file, make([]byte, 1<<20), 0o600) }
	if err := grow(); err != nil {
		t.Fatal(err)
	}
	n.Fill(t, StateDisk)
	if err := os.WriteFile(file+"2", []byte("x"), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a full disk takes a file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(n.Dir, "data", "file"), []byte("x"), 0o600); err != nil {
		t.Errorf("the other disk: %v", err)
	}
	n.Free(t, StateDisk)
	if err := grow(); err != nil {
		t.Errorf("after Free: %v", err)
	}
}

func TestUnmountStale(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root: run this as root")
	}
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	for pid, left := range map[int]bool{dead.Process.Pid: false, os.Getpid(): true} {
		dir := t.TempDir()
		if err := syscall.Mount(mountName+strconv.Itoa(pid), dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
		unmountStale()
		mounts, err := os.ReadFile("/proc/self/mounts")
		if err != nil || strings.Contains(string(mounts), " "+dir+" ") != left {
			t.Errorf("the mount of process %d is there: %t, want %t", pid, !left, left)
		}
	}
}

func TestTitles(t *testing.T) {
	for title, want := range map[string]Kind{
		"postgres: understudy: checkpointer":                                              Checkpointer,
		"postgres: checkpointer":                                                          Checkpointer,
		"postgres: understudy: background writer":                                         "",
		"postgres: understudy: startup recovering 000000020000000000000003":               Startup,
		"postgres: understudy: walreceiver streaming 0/3012500":                           Walreceiver,
		"postgres: understudy: walsender understudy [local] streaming 0/3":                Walsender,
		"postgres: understudy: understudy postgres [local] idle":                          "",
		"postgres: understudy: postgres postgres 10.77.3.1(39654) idle":                   Backend,
		"postgres: understudy: postgres postgres 10.77.3.1(39654) INSERT waiting for 0/3": Backend,
	} {
		var got Kind
		for k, re := range titles {
			if re.MatchString(title) {
				got = k
			}
		}
		if got != want {
			t.Errorf("%q is %q, want %q", title, got, want)
		}
	}
}

// TestBelow: what is below no process is not ours; else a fault would hit the
// machine.
func TestBelow(t *testing.T) {
	n := &Node{Name: Main, Dir: t.TempDir(), group: &Group{}}
	for _, k := range []Kind{Daemon, Guard, Postmaster, Backend, Walsender, Walreceiver, Startup, Checkpointer, Host} {
		if got := n.Processes(k); len(got) > 0 {
			t.Errorf("a node that does not run has %s %v", k, got)
		}
	}
	if got := append(below(0), below(1)...); len(got) > 0 {
		t.Errorf("below no process: %v", got)
	}
}
