// Package proc reads what Linux counts per process: processor time, context
// switches and memory.
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 on every Linux.
const tick = time.Second / 100

// ErrStat is returned for text that is not a line of /proc/PID/stat.
var ErrStat = errors.New("not a process's stat line")

// Usage is what a process has used since it began.
type Usage struct {
	PID, PPID int
	Title     string // command line as ps shows it, arguments parted by spaces
	User, Sys time.Duration
	// Switches counts the context switches of all its threads, waits and
	// preemptions together.
	Switches uint64
}

// CPU is user and system time together.
func (u Usage) CPU() time.Duration { return u.User + u.Sys }

// parseStat reads a line of /proc/PID/stat. The command in parentheses may
// itself hold spaces and parentheses.
func parseStat(line string) (Usage, error) {
	open, end := strings.IndexByte(line, '('), strings.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return Usage{}, ErrStat
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line[:open]))
	rest := strings.Fields(line[end+1:])
	if err != nil || len(rest) < 13 {
		return Usage{}, ErrStat
	}
	ppid, err1 := strconv.Atoi(rest[1])
	user, err2 := strconv.ParseInt(rest[11], 10, 64)
	sys, err3 := strconv.ParseInt(rest[12], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return Usage{}, fmt.Errorf("%w: %w", ErrStat, err)
	}
	return Usage{PID: pid, PPID: ppid, Title: line[open+1 : end], User: time.Duration(user) * tick, Sys: time.Duration(sys) * tick}, nil
}

// Read is the usage of one process.
func Read(pid int) (Usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	b, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Usage{}, err
	}
	u, err := parseStat(string(b))
	if err != nil {
		return Usage{}, err
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(b) > 0 {
		u.Title = strings.TrimSpace(string(bytes.ReplaceAll(bytes.TrimRight(b, "\x00"), []byte{0}, []byte{' '})))
	}
	threads, _ := filepath.Glob(filepath.Join(dir, "task", "*", "status"))
	for _, t := range threads {
		b, err := os.ReadFile(t)
		if err != nil {
			continue // the thread ended meanwhile
		}
		u.Switches += field(b, "voluntary_ctxt_switches") + field(b, "nonvoluntary_ctxt_switches")
	}
	return u, nil
}

// Tree is the usage of the processes in roots and of all their descendants, by
// process id.
func Tree(roots ...int) (map[int]Usage, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue // ended meanwhile
		}
		if u, err := parseStat(string(b)); err == nil {
			children[u.PPID] = append(children[u.PPID], u.PID)
		}
	}
	out := map[int]Usage{}
	for todo := append([]int(nil), roots...); len(todo) > 0; todo = todo[1:] {
		pid := todo[0]
		if _, seen := out[pid]; seen {
			continue
		}
		u, err := Read(pid)
		if err != nil {
			continue
		}
		out[pid] = u
		todo = append(todo, children[pid]...)
	}
	return out, nil
}

// Machine is the processor time of all processors together.
type Machine struct{ Busy, Idle, Wait time.Duration }

// ReadMachine reads the first line of /proc/stat. Busy counts everything but
// idling and waiting for a disk, time taken by the hypervisor included.
func ReadMachine() (Machine, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return Machine{}, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return Machine{}, errors.New("/proc/stat does not begin with the sum of the processors")
	}
	var m Machine
	for i, s := range f[1:9] { // guest time, further on, is in user time already
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return Machine{}, fmt.Errorf("read /proc/stat: %w", err)
		}
		switch d := time.Duration(n) * tick; i {
		case 3:
			m.Idle += d
		case 4:
			m.Wait += d
		default:
			m.Busy += d
		}
	}
	return m, nil
}

// Memory is a process's resident memory in bytes.
type Memory struct{ Now, Peak uint64 }

// ReadMemory reads VmRSS and VmHWM.
func ReadMemory(pid int) (Memory, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return Memory{}, err
	}
	m := Memory{Now: field(b, "VmRSS") << 10, Peak: field(b, "VmHWM") << 10}
	if m.Peak == 0 {
		return Memory{}, fmt.Errorf("process %d has no memory of its own", pid)
	}
	return m, nil
}

// ResetPeak makes the peak start anew from what is resident now.
func ResetPeak(pid int) error {
	return os.WriteFile(filepath.Join("/proc", strconv.Itoa(pid), "clear_refs"), []byte("5"), 0)
}

// field is the number after "name:" in a status file, zero without one.
func field(status []byte, name string) uint64 {
	for line := range bytes.Lines(status) {
		k, v, ok := bytes.Cut(line, []byte(":"))
		if f := bytes.Fields(v); ok && string(k) == name && len(f) > 0 {
			n, _ := strconv.ParseUint(string(f[0]), 10, 64)
			return n
		}
	}
	return 0
}
