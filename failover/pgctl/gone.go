package pgctl

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// goneWithin is how long a killed server may take to be gone.
const goneWithin = 15 * time.Second

// WaitGone waits until the process that postmaster.pid names is gone, reaped
// included: PostgreSQL refuses to start while its number is taken, and a server
// that was killed a moment ago still holds it. A process that is no server of
// this directory is not waited for.
func (s *Server) WaitGone(ctx context.Context) error {
	deadline := time.Now().Add(goneWithin)
	for {
		pid := s.lockHolder()
		if pid == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%w: process %d, which %s names, does not end", ErrForeignServer, pid, filepath.Join(s.DataDir, "postmaster.pid"))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// lockHolder is the process in postmaster.pid while it lives in this directory
// or is a corpse; zero otherwise.
func (s *Server) lockHolder() int {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "postmaster.pid"))
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil || pid <= 0 || syscall.Kill(pid, 0) == syscall.ESRCH {
		return 0
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	if _, rest, ok := strings.Cut(string(stat), ") "); ok && strings.HasPrefix(rest, "Z") {
		return pid
	}
	if s.serves(pid) {
		return pid
	}
	return 0
}
