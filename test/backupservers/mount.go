package backupservers

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"understudy/test/pgtest"
)

// MountSmall puts an empty file system of size bytes over dir, which the
// servers' account owns. Tests of full disks are skipped where that is not
// allowed. The returned function makes it read-only.
func MountSmall(t testing.TB, dir string, size int64) (readOnly func()) {
	t.Helper()
	c := pgtest.Credential(t)
	if c == nil {
		t.Skip("mounting a small disk needs root")
	}
	o := fmt.Sprintf("size=%d,mode=0700,uid=%d,gid=%d", size, c.Uid, c.Gid)
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, o); err != nil {
		t.Skipf("mounting a small disk is not allowed here: %v", os.NewSyscallError("mount", err))
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return func() {
		t.Helper()
		if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
			t.Fatalf("remount read-only: %v", err)
		}
	}
}
