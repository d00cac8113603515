// Package faultfs is a file system in memory that fails on demand and that can
// lose what was not synced, sector by sector, as a disk does when the power
// goes. It implements spool.FS.
//
// The model is stricter than most file systems: data and sizes are durable
// only after File.Sync, directory entries only after SyncDir of their
// directory, and entries survive a power loss in the order in which they were
// made.
package faultfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"syscall"

	"understudy/shipper/spool"
)

// SectorSize is the unit in which a power loss keeps or drops written bytes.
const SectorSize = 512

// ErrDown is returned by every call after a crash until PowerLoss or Kill
// brought the machine back, and for ever by files opened before.
var ErrDown = errors.New("faultfs: the machine is down")

// Op labels a call, for Rule and Calls.
type Op string

// The calls that can be made to fail.
const (
	OpOpen    Op = "open"
	OpWrite   Op = "write"
	OpSync    Op = "sync"
	OpTrunc   Op = "truncate"
	OpRename  Op = "rename"
	OpRemove  Op = "remove"
	OpMkdir   Op = "mkdir"
	OpReadDir Op = "readdir"
	OpSyncDir Op = "syncdir"
	OpRead    Op = "read"
)

// Rule makes matching calls fail.
type Rule struct {
	Op    Op     // which call; empty matches all
	Path  string // substring of the path; empty matches all
	Nth   int    // the first matching call that fails, counted from 1; 0 means 1
	Times int    // how many fail; 0 means one, negative all from then on
	Err   error  // what they return
	Short int    // bytes an OpWrite writes all the same
}

type rule struct {
	Rule
	seen int
}

// FS is the file system. The zero value is not usable: New makes one.
type FS struct {
	mu       sync.Mutex
	life     int
	down     bool
	crashIn  int // mutating calls left before the machine goes down; 0 = never
	mutated  int
	rules    []*rule
	capacity int64 // bytes of sectors; 0 = unlimited
	used     int64
	names    map[string]*node // what programs see
	disk     map[string]*node // what survives
	pending  []entryOp
}

type node struct {
	dir      bool
	cache    []byte
	disk     []byte
	dirty    map[int]bool // sectors written since the last good sync
	resized  bool
	occupied map[int]bool // sectors that take up room
}

type entryOp struct {
	dir string
	do  func(names map[string]*node)
}

var _ spool.FS = (*FS)(nil)

// New is an empty file system with a durable root directory.
func New() *FS {
	root := &node{dir: true}
	return &FS{
		names: map[string]*node{"/": root},
		disk:  map[string]*node{"/": root},
	}
}

// Fail adds a rule.
func (f *FS) Fail(r Rule) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules = append(f.rules, &rule{Rule: r})
}

// Heal removes all rules and the capacity limit.
func (f *FS) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules, f.capacity = nil, 0
}

// SetCapacity makes writes to new sectors fail with ENOSPC once n bytes of
// sectors are taken.
func (f *FS) SetCapacity(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.capacity = n
}

// Used is the number of bytes of sectors taken.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// Mutations counts the calls so far that change something or sync it.
func (f *FS) Mutations() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mutated
}

// CrashAfter lets n more mutating calls through and takes the machine down at
// the next one. Zero takes it down now, a negative n never.
func (f *FS) CrashAfter(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.crashIn = n + 1
	if n == 0 {
		f.crashIn, f.down = 0, true
	}
	if n < 0 {
		f.crashIn = 0
	}
}

// Kill ends the process but not the machine: open files are gone, everything
// written stays. Rules stay.
func (f *FS) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	f.down, f.crashIn = false, 0
}

// PowerLoss drops what was not synced. keep is asked for every unsynced sector
// whether it reached the disk; unsynced entry changes survive in order until
// keep says no once. A nil keep loses everything that may be lost.
func (f *FS) PowerLoss(keep func() bool) {
	if keep == nil {
		keep = func() bool { return false }
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	f.down, f.crashIn = false, 0
	for _, op := range f.pending {
		if !keep() {
			break
		}
		op.do(f.disk)
	}
	f.pending = nil
	f.names = make(map[string]*node, len(f.disk))
	f.used = 0
	for _, name := range sortedNames(f.disk) {
		n := f.disk[name]
		f.names[name] = n
		n.lose(keep)
		f.used += int64(len(n.occupied)) * SectorSize
	}
}

// lose makes the disk's view the cached one, sector by sector as keep says.
func (n *node) lose(keep func() bool) {
	if n.dir {
		return
	}
	size := len(n.disk)
	if n.resized && keep() {
		size = len(n.cache)
	}
	after := make([]byte, size)
	copy(after, n.disk)
	sectors := make([]int, 0, len(n.dirty))
	for s := range n.dirty {
		sectors = append(sectors, s)
	}
	sort.Ints(sectors)
	for _, s := range sectors {
		lo, hi := s*SectorSize, min((s+1)*SectorSize, len(n.cache), size)
		if lo < hi && keep() {
			copy(after[lo:hi], n.cache[lo:hi])
		}
	}
	n.disk = after
	n.cache = append([]byte(nil), after...)
	n.dirty, n.resized = map[int]bool{}, false
}

func sortedNames(m map[string]*node) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// call counts a call and tells how it fails; f.mu is held.
func (f *FS) call(op Op, path string) (short int, err error) {
	if f.down {
		return 0, ErrDown
	}
	switch op {
	case OpOpen, OpRead, OpReadDir:
	default:
		f.mutated++
		if f.crashIn > 0 {
			if f.crashIn--; f.crashIn == 0 {
				f.down = true
				return 0, ErrDown
			}
		}
	}
	for _, r := range f.rules {
		if (r.Op != "" && r.Op != op) || !strings.Contains(path, r.Path) {
			continue
		}
		r.seen++
		first := max(r.Nth, 1)
		times := r.Times
		if times == 0 {
			times = 1
		}
		if r.seen >= first && (times < 0 || r.seen < first+times) {
			return r.Short, &fs.PathError{Op: string(op), Path: path, Err: r.Err}
		}
	}
	return 0, nil
}

func pathErr(op Op, path string, err error) error {
	return &fs.PathError{Op: string(op), Path: path, Err: err}
}

// entry applies a change of dir's entries now and, after SyncDir, for good.
func (f *FS) entry(dir string, do func(map[string]*node)) {
	do(f.names)
	f.pending = append(f.pending, entryOp{dir, do})
}

// OpenFile implements spool.FS.
func (f *FS) OpenFile(name string, flag int, _ fs.FileMode) (spool.File, error) {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.call(OpOpen, name); err != nil {
		return nil, err
	}
	n, ok := f.names[name]
	switch {
	case ok && n.dir:
		return nil, pathErr(OpOpen, name, syscall.EISDIR)
	case ok && flag&os.O_EXCL != 0:
		return nil, pathErr(OpOpen, name, fs.ErrExist)
	case !ok && flag&os.O_CREATE == 0:
		return nil, pathErr(OpOpen, name, fs.ErrNotExist)
	case !ok:
		dir := filepath.Dir(name)
		if d, ok := f.names[dir]; !ok || !d.dir {
			return nil, pathErr(OpOpen, name, fs.ErrNotExist)
		}
		n = &node{dirty: map[int]bool{}, occupied: map[int]bool{}}
		made := n
		f.entry(dir, func(m map[string]*node) { m[name] = made })
	}
	h := &file{fs: f, n: n, name: name, life: f.life, write: flag&(os.O_RDWR|os.O_WRONLY) != 0}
	if flag&os.O_TRUNC != 0 {
		h.resize(0)
	}
	return h, nil
}

// Rename implements spool.FS, within one directory.
func (f *FS) Rename(oldName, newName string) error {
	oldName, newName = filepath.Clean(oldName), filepath.Clean(newName)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.call(OpRename, newName); err != nil {
		return err
	}
	dir := filepath.Dir(newName)
	if filepath.Dir(oldName) != dir {
		return pathErr(OpRename, newName, syscall.EXDEV)
	}
	if _, ok := f.names[oldName]; !ok {
		return pathErr(OpRename, oldName, fs.ErrNotExist)
	}
	f.entry(dir, func(m map[string]*node) {
		for name, n := range m {
			if rest, ok := strings.CutPrefix(name, oldName); ok && (rest == "" || rest[0] == '/') {
				delete(m, name)
				m[newName+rest] = n
			}
		}
	})
	return nil
}

// Remove implements spool.FS.
func (f *FS) Remove(name string) error {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.call(OpRemove, name); err != nil {
		return err
	}
	n, ok := f.names[name]
	if !ok {
		return pathErr(OpRemove, name, fs.ErrNotExist)
	}
	if n.dir && len(f.list(name)) > 0 {
		return pathErr(OpRemove, name, syscall.ENOTEMPTY)
	}
	f.used -= int64(len(n.occupied)) * SectorSize
	f.entry(filepath.Dir(name), func(m map[string]*node) { delete(m, name) })
	return nil
}

// Mkdir implements spool.FS.
func (f *FS) Mkdir(name string, _ fs.FileMode) error {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.call(OpMkdir, name); err != nil {
		return err
	}
	if _, ok := f.names[name]; ok {
		return pathErr(OpMkdir, name, fs.ErrExist)
	}
	if d, ok := f.names[filepath.Dir(name)]; !ok || !d.dir {
		return pathErr(OpMkdir, name, fs.ErrNotExist)
	}
	made := &node{dir: true}
	f.entry(filepath.Dir(name), func(m map[string]*node) { m[name] = made })
	return nil
}

func (f *FS) list(dir string) []string {
	var out []string
	for name := range f.names {
		if name != dir && filepath.Dir(name) == dir {
			out = append(out, filepath.Base(name))
		}
	}
	sort.Strings(out)
	return out
}

// ReadDir implements spool.FS.
func (f *FS) ReadDir(name string) ([]string, error) {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.call(OpReadDir, name); err != nil {
		return nil, err
	}
	if n, ok := f.names[name]; !ok || !n.dir {
		return nil, pathErr(OpReadDir, name, fs.ErrNotExist)
	}
	return f.list(name), nil
}

// SyncDir implements spool.FS.
func (f *FS) SyncDir(name string) error {
	name = filepath.Clean(name)
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.call(OpSyncDir, name); err != nil {
		return err
	}
	if n, ok := f.names[name]; !ok || !n.dir {
		return pathErr(OpSyncDir, name, fs.ErrNotExist)
	}
	rest := f.pending[:0:0]
	for _, op := range f.pending {
		if op.dir == name {
			op.do(f.disk)
		} else {
			rest = append(rest, op)
		}
	}
	f.pending = rest
	return nil
}

// String lists the files with their sizes, for failure messages.
func (f *FS) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for _, name := range sortedNames(f.names) {
		fmt.Fprintf(&b, "%s %d\n", name, len(f.names[name].cache))
	}
	return b.String()
}

// ReadFile is the content of a file as programs see it.
func (f *FS) ReadFile(name string) ([]byte, error) {
	h, err := f.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	n, err := h.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if _, err := h.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, h.Close()
}
