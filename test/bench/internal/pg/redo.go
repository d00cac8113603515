package pg

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"time"
)

// redoDone is what PostgreSQL logs at the end of its redo.
var redoDone = regexp.MustCompile(`LOG:  redo done at ([0-9A-F]+/[0-9A-F]+)`)

// Redo starts a server that has log to replay, and returns when it has replayed
// all of it: how long that took since the start of the server's process, and
// the position of the last record. The server goes on; Kill ends it.
func (c *Cluster) Redo(ctx context.Context, patience time.Duration) (took time.Duration, last string, err error) {
	log := filepath.Join(c.dir, "log")
	if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, "", err
	}
	began := time.Now()
	if err := c.Launch(); err != nil {
		return 0, "", err
	}
	err = Until(ctx, patience, "the server at "+c.Address()+" has replayed its log", func() (bool, error) {
		b, err := os.ReadFile(log)
		if err != nil {
			return false, err
		}
		if m := redoDone.FindSubmatch(b); m != nil {
			took, last = time.Since(began), string(m[1])
			return true, nil
		}
		select {
		case <-c.exited:
			return false, fmt.Errorf("server ended during its recovery: %s", tail(string(b)))
		default:
			return false, nil
		}
	})
	return took, last, err
}

// Kill ends the server without a checkpoint; nothing happens when it does not
// run.
func (c *Cluster) Kill() error {
	if c == nil || c.cmd == nil {
		return nil
	}
	cmd := c.cmd
	c.cmd = nil
	if err := cmd.Process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-c.exited
	return nil
}
