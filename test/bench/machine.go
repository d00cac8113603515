package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"understudy/test/bench/internal/stats"
)

// machine is one line about what was measured where.
func (b *bench) machine(ctx context.Context) (string, error) {
	version, err := b.tools.Run(ctx, "postgres", "--version")
	if err != nil {
		return "", err
	}
	_, version, _ = strings.Cut(strings.TrimSpace(version), "(PostgreSQL) ")
	sync, err := syncTime(b.dir)
	if err != nil {
		return "", err
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return "", err
	}
	version, _, _ = strings.Cut(version, " ")
	return fmt.Sprintf("Measured on %s: %d processors (%s), %d GiB memory, %s, Linux %s, fdatasync of an 8 KiB overwrite %s µs, PostgreSQL %s, %s, %s; load average before the start %s.",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), field(readText("/proc/cpuinfo"), "model name"), memoryGiB(), fsName(b.dir),
		kernelSeries(unix.ByteSliceToString(uts.Release[:])), sync.Format(0), version, runtime.Version(), b.measured(ctx), b.load), nil
}

// kernelSeries is a kernel release without what its packager appended.
func kernelSeries(release string) string {
	numbers, _, _ := strings.Cut(release, "-")
	return numbers
}

// loadAverage is the machine's load of the last minute.
func loadAverage() string {
	load, _, _ := strings.Cut(readText("/proc/loadavg"), " ")
	return load
}

func readText(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// field is the value of the first "name : value" line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == name {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

func memoryGiB() int {
	kib, _ := strconv.Atoi(strings.TrimSuffix(field(readText("/proc/meminfo"), "MemTotal"), " kB"))
	return (kib + 512<<10) >> 20
}

// fsName is the file system type of dir.
func fsName(dir string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return "unknown file system"
	}
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlayfs", 0x2fc12fc1: "zfs",
	}
	if n := names[int64(st.Type)]; n != "" {
		return n
	}
	return fmt.Sprintf("file system %#x", st.Type)
}

// measured says which understudy it was.
func (b *bench) measured(ctx context.Context) string {
	if b.program != "" {
		return "a binary built elsewhere"
	}
	return "commit " + commitID(ctx)
}

// commitID is the source's commit, with a plus when files were changed since.
func commitID(ctx context.Context) string {
	id, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	changed, err := exec.CommandContext(ctx, "git", "status", "--porcelain", "--untracked-files=all", "--", "*.go", "go.mod").Output()
	mark := ""
	if err != nil || len(changed) > 0 {
		mark = "+"
	}
	return string(bytes.TrimSpace(id)) + mark
}

// syncTime is how long fdatasync takes after 8 KiB were overwritten, in
// microseconds: what every commit pays at least once.
func syncTime(dir string) (stats.Summary, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return stats.Summary{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := bytes.Repeat([]byte{1}, 8<<10)
	const blocks, runs = 128, 200
	if _, err := f.Write(bytes.Repeat(block, blocks)); err != nil {
		return stats.Summary{}, err
	}
	if err := f.Sync(); err != nil {
		return stats.Summary{}, err
	}
	took := make([]float64, 0, runs)
	for i := range runs {
		if _, err := f.WriteAt(block, int64(i%blocks)*int64(len(block))); err != nil {
			return stats.Summary{}, err
		}
		began := time.Now()
		if err := unix.Fdatasync(int(f.Fd())); err != nil {
			return stats.Summary{}, fmt.Errorf("fdatasync: %w", err)
		}
		took = append(took, float64(time.Since(began).Microseconds()))
	}
	return stats.Summarize(took), nil
}
