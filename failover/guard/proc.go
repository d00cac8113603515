package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// stat is the part of /proc/PID/stat that the guard needs.
type stat struct {
	parent int
	state  byte
	tick   uint64 // start time in clock ticks since boot
}

func readStat(pid int, buf []byte) (stat, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	defer f.Close()
	n, err := f.Read(buf)
	if err != nil {
		return stat{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	return parseStat(buf[:n])
}

var errStat = errors.New("unexpected form of /proc/PID/stat")

// parseStat reads "pid (name) state ppid …"; the name may hold anything, so
// the fields are counted from its last parenthesis.
func parseStat(b []byte) (stat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return stat{}, errStat
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 20 {
		return stat{}, errStat
	}
	parent, err := strconv.Atoi(string(f[1]))
	if err != nil {
		return stat{}, errStat
	}
	tick, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return stat{}, errStat
	}
	return stat{parent: parent, state: f[0][0], tick: tick}, nil
}

// descendants lists the living processes below root, children before
// grandchildren. PostgreSQL's processes are sessions of their own, so neither
// a group nor a session names them all; parenthood does, since the guard is
// the reaper of whatever loses its parent.
func descendants(root int) ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	children := make(map[int][]int)
	buf := make([]byte, 1024)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		s, err := readStat(pid, buf)
		if err != nil || s.state == 'Z' || s.state == 'X' {
			continue // ended meanwhile
		}
		children[s.parent] = append(children[s.parent], pid)
	}
	var out []int
	for queue := []int{root}; len(queue) > 0; queue = queue[1:] {
		out = append(out, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return out, nil
}

// killDescendants sends SIGKILL to everything below root and tells how many
// processes that were.
func killDescendants(root int) (int, error) {
	pids, err := descendants(root)
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL) // one that is gone is what we want
	}
	return len(pids), err
}

// processTick is the start time of a living process, zero when there is none.
func processTick(pid int) uint64 {
	s, err := readStat(pid, make([]byte, 1024))
	if err != nil || s.state == 'Z' || s.state == 'X' {
		return 0
	}
	return s.tick
}
