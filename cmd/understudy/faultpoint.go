//go:build faultpoints

package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// In a binary built for tests, UNDERSTUDY_FAULT says at which step of a change
// of role the daemon is interrupted, the first time it comes there: "STEP=kill"
// ends it, "STEP=hang:SECONDS" stops its process as SIGSTOP would. A file named
// by UNDERSTUDY_FAULT_ONCE is made first, and while it exists nothing happens,
// so that the next daemon gets past the step.
func init() {
	step = func(name string) {
		at, what, ok := strings.Cut(os.Getenv("UNDERSTUDY_FAULT"), "=")
		once := os.Getenv("UNDERSTUDY_FAULT_ONCE")
		if !ok || at != name || once == "" {
			return
		}
		f, err := os.OpenFile(once, os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return
		}
		f.Close()
		if what == "kill" {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		if s, ok := strings.CutPrefix(what, "hang:"); ok {
			if d, err := strconv.ParseFloat(s, 64); err == nil {
				time.Sleep(time.Duration(d * float64(time.Second)))
			}
		}
	}
}
