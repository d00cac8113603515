package cluster

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Disk is a file system that a node has for itself.
type Disk string

// The disks of a node whose group was made WithDisks.
const (
	StateDisk Disk = "state" // the daemon's state: log, ledger, marks
	DataDisk  Disk = "data"  // the database with its own log
)

// diskSize is far above what a test writes.
const diskSize = "4g"

// mountName is the source by which our file systems are known; the process id
// follows.
const mountName = "understudy-test-"

// WithDisks gives every node file systems of its own, in memory, which Fill can
// make full. It needs root.
func WithDisks() Option { return func(o *options) { o.disks = true } }

// mount makes the node's disks. Those of test processes that were killed are
// taken away first.
func (n *Node) mount(t testing.TB) {
	t.Helper()
	unmountStale()
	for _, d := range []Disk{StateDisk, DataDisk} {
		dir := n.disk(d)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mount(mountName+strconv.Itoa(os.Getpid()), dir, "tmpfs", 0, "mode=755,size="+diskSize); err != nil {
			t.Fatalf("mount a file system on %s: %v", dir, err)
		}
	}
}

func (n *Node) disk(d Disk) string { return filepath.Join(n.Dir, string(d)) }

// Fill leaves no free block on a disk of the node: whatever grows a file fails
// with the error of a full disk until Free. Blocks that files give back are not
// free either.
func (n *Node) Fill(t testing.TB, d Disk) {
	t.Helper()
	// What is used grows while we look.
	var err error
	for range 50 {
		var s syscall.Statfs_t
		if err = syscall.Statfs(n.disk(d), &s); err != nil {
			break
		}
		used := (s.Blocks - s.Bfree) * uint64(s.Bsize)
		if err = n.resize(d, strconv.FormatUint(used, 10)); err == nil {
			return
		}
	}
	t.Fatalf("fill the disk %s of %s: %v", d, n.Name, err)
}

// Free ends Fill.
func (n *Node) Free(t testing.TB, d Disk) {
	t.Helper()
	if err := n.resize(d, diskSize); err != nil {
		t.Fatalf("free the disk %s of %s: %v", d, n.Name, err)
	}
}

func (n *Node) resize(d Disk, size string) error {
	return syscall.Mount("", n.disk(d), "", syscall.MS_REMOUNT, "size="+size)
}

// unmount takes the group's disks away. What still uses them keeps them until
// it ends.
func (g *Group) unmount() {
	for _, n := range g.Nodes() {
		if n == nil || !n.disks {
			continue
		}
		for _, d := range []Disk{StateDisk, DataDisk} {
			syscall.Unmount(n.disk(d), syscall.MNT_DETACH)
		}
	}
}

// unmountStale takes away what test processes mounted that have ended without
// it.
func unmountStale() {
	b, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[0], mountName) {
			continue
		}
		pid, _ := strconv.Atoi(strings.TrimPrefix(f[0], mountName))
		if pid > 0 && !alive(pid) {
			syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
