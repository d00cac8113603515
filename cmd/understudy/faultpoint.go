//go:build faultpoints

package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// faultFile is looked for in the daemon's working directory at each step.
const faultFile = "fault"

// faultPoints: in a binary built for tests, UNDERSTUDY_FAULT says at which step of a change
// of role the daemon is interrupted, the first time it comes there: "STEP=kill"
// ends it, "STEP=hang:SECONDS" keeps it there. A file named by
// UNDERSTUDY_FAULT_ONCE is made first, and while it exists nothing happens, so
// that the next daemon gets past the step. A running daemon is interrupted by a
// file "fault" in its working directory that holds the same text; the file is
// removed when that happens.
func faultPoints() func(step string) {
	return func(name string) {
		what, ok := byFile(name)
		if !ok {
			what, ok = byEnvironment(name)
		}
		if !ok {
			return
		}
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

func byFile(name string) (what string, ok bool) {
	b, err := os.ReadFile(faultFile)
	if err != nil {
		return "", false
	}
	at, what, ok := strings.Cut(strings.TrimSpace(string(b)), "=")
	return what, ok && at == name && os.Remove(faultFile) == nil
}

func byEnvironment(name string) (what string, ok bool) {
	at, what, ok := strings.Cut(os.Getenv("UNDERSTUDY_FAULT"), "=")
	once := os.Getenv("UNDERSTUDY_FAULT_ONCE")
	if !ok || at != name || once == "" {
		return "", false
	}
	f, err := os.OpenFile(once, os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", false
	}
	f.Close()
	return what, true
}
