package probe

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Process is what the kernel says about a process.
type Process struct {
	State    byte   // R, S, D, T, t, Z, …; zero when there is no such process
	Switches uint64 // how often it was taken off a CPU: unchanged while it does not run
}

// Gone tells that the process does not exist or has ended.
func (p Process) Gone() bool { return p.State == 0 || p.State == 'Z' || p.State == 'X' }

// ReadProcess asks the kernel about a process. A process that does not exist
// is no error: see Gone.
func ReadProcess(pid int) (Process, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if errors.Is(err, os.ErrNotExist) {
		return Process{}, nil
	}
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parseStatus(string(b))
}

var errStatus = errors.New("unexpected form of /proc/PID/status")

// parseStatus reads lines "Name:\tvalue". The kernel escapes a line end in a
// process's name, so no name can look like another line.
func parseStatus(text string) (Process, error) {
	var p Process
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			if value == "" {
				return Process{}, errStatus
			}
			p.State = value[0]
		case "voluntary_ctxt_switches", "nonvoluntary_ctxt_switches":
			n, err := strconv.ParseUint(value, 10, 64)
			if err != nil {
				return Process{}, errStatus
			}
			p.Switches += n
		}
	}
	if p.State == 0 {
		return Process{}, errStatus
	}
	return p, nil
}

// Stillness remembers how long one process has been standing still. The zero
// value has seen nothing.
type Stillness struct {
	pid   int
	last  Process
	since time.Duration
}

// Next is the memory after another look, and what there is to say about it. A
// process that ran between two looks, as one under a debugger does, starts
// anew. A stopped one is ServerFrozen; one that waits for the disk all the time
// is ServerHung.
func (s Stillness) Next(pid int, p Process, now time.Duration) (Stillness, []Finding) {
	if s.pid != pid || s.last != p {
		s = Stillness{pid: pid, last: p, since: now}
	}
	f := Finding{For: now - s.since}
	switch p.State {
	case 'T', 't':
		f.Kind, f.Text = ServerFrozen, fmt.Sprintf("PostgreSQL is stopped: its first process %d was frozen by a signal or a debugger", pid)
	case 'D':
		f.Kind, f.Text = ServerHung, fmt.Sprintf("PostgreSQL hangs: its first process %d waits for a disk", pid)
	default:
		return s, nil
	}
	return s, []Finding{f}
}
