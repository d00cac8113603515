package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/pos"
)

// QuietBackups is the policy of backups that nothing but a test sets going: only
// what the group does because it must is left to it.
const QuietBackups = `backup.schedule: "off"
backup.prune_at: "off"
backup.drill_schedule: "off"
backup.verify_every: 0s
backup.marker_every: 0s
backup.retry_interval: 1s
`

// Place is a local location of a group: a directory of one node.
type Place struct {
	Name string
	Dir  string
	Node *Node

	g    *Group
	size int64 // of its own file system
}

// The states and kinds of the ledger that tests name.
const (
	Complete = "complete" // a set, a copy
	Done     = "done"     // a job
	Failed   = "failed"
	Lost     = "lost"
	Running  = "running"
)

// Set is the part of a backup that tests look at.
type Set struct {
	Label      string       `json:"label"`
	State      string       `json:"state"`
	Kind       string       `json:"kind"`  // "full" or "incremental"
	Chain      []string     `json:"chain"` // of an incremental one, the full one first
	Timeline   pos.Timeline `json:"timeline"`
	Start      pos.LSN      `json:"start"`
	End        pos.LSN      `json:"end"`
	Began      time.Time    `json:"began"`
	Ended      time.Time    `json:"ended"`
	Node       string       `json:"node"`
	Digest     string       `json:"digest"`
	Problem    string       `json:"problem"`
	Damaged    bool         `json:"damaged"`
	Copies     []Copy       `json:"copies"`
	Restorable bool         `json:"restorable"`
	Job        string       `json:"job"`
}

// Copy is a set at one location.
type Copy struct {
	Location   string    `json:"location"`
	State      string    `json:"state"`
	Verified   time.Time `json:"verified"`
	Problem    string    `json:"problem"`
	Restorable bool      `json:"restorable"`
}

// At is the copy at a location, the zero Copy when there is none.
func (s Set) At(location string) Copy {
	for _, c := range s.Copies {
		if c.Location == location {
			return c
		}
	}
	return Copy{}
}

// Sets is the answer about all backups.
type Sets struct {
	Frozen string `json:"frozen"`
	Sets   []Set  `json:"sets"` // newest first
}

// Job is one piece of work on backups.
type Job struct {
	ID        string    `json:"id"`
	Kind      string    `json:"kind"`
	State     string    `json:"state"`
	Node      string    `json:"node"`
	Label     string    `json:"label"`
	Locations []string  `json:"locations"`
	Why       string    `json:"why"`
	Began     time.Time `json:"began"`
	Result    string    `json:"result"`
	Problem   string    `json:"problem"`
}

// Location is how a place stands.
type Location struct {
	Name     string       `json:"name"`
	State    string       `json:"state"`
	Feeder   string       `json:"feeder"`
	Timeline pos.Timeline `json:"timeline"`
	Archived pos.LSN      `json:"archived"`
	Problem  string       `json:"problem"`
	SetN     int          `json:"sets"`
	Newest   string       `json:"newest"`
	Gaps     []Gap        `json:"gaps"`
}

// Gap is log that a location lacks.
type Gap struct {
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"`
	To       pos.LSN      `json:"to"`
	Cause    string       `json:"cause"`
}

// ApplyPolicy applies lines of a policy file.
func (n *Node) ApplyPolicy(t testing.TB, lines string) {
	t.Helper()
	file := filepath.Join(n.group.Dir, "policy-"+strconv.FormatInt(time.Now().UnixNano(), 36)+".yaml")
	if err := os.WriteFile(file, []byte(lines), 0o644); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, code := n.Run(t, "policy", "apply", file)
		if code == 0 {
			return
		}
		// What was applied on another node just before is not seen here yet.
		if !strings.Contains(out, "changed meanwhile") || time.Now().After(deadline) {
			t.Fatalf("%s: understudy policy apply ended with %d\n%s\n%s", n.Name, code, out, lines)
		}
	}
}

// AddPlace makes a local location of a node, as an operator does: the policy
// first, then the directory. Lines are further keys of it, such as "keep: 1".
func (g *Group) AddPlace(t testing.TB, n *Node, name string, lines ...string) *Place {
	t.Helper()
	return g.newPlace(t, n, name).add(t, lines...)
}

// AddSmallPlace is AddPlace on a file system of its own, in memory, with room
// for so many bytes. It needs root.
func (g *Group) AddSmallPlace(t testing.TB, n *Node, name string, size int64, lines ...string) *Place {
	t.Helper()
	p := g.newPlace(t, n, name)
	p.size = size
	unmountStale()
	if err := os.Mkdir(p.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount(mountName+strconv.Itoa(os.Getpid()), p.Dir, "tmpfs", 0, fmt.Sprintf("mode=700,size=%d", size)); err != nil {
		t.Fatalf("mount a file system on %s: %v", p.Dir, err)
	}
	// Before the group's directory is removed: what was added last is cleaned up
	// first.
	t.Cleanup(func() { syscall.Unmount(p.Dir, syscall.MNT_DETACH) })
	return p.add(t, lines...)
}

func (g *Group) newPlace(t testing.TB, n *Node, name string) *Place {
	t.Helper()
	p := &Place{Name: name, Dir: filepath.Join(g.Dir, "places", name, "at"), Node: n, g: g}
	if err := os.MkdirAll(filepath.Dir(p.Dir), 0o755); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *Place) add(t testing.TB, lines ...string) *Place {
	t.Helper()
	n, name := p.Node, p.Name
	p.Set(t, append([]string{"kind: local", "node: " + n.Name, "path: " + p.Dir}, lines...)...)
	n.MustRun(t, "locations", "init", name, "--yes")
	return p
}

// Set sets keys of the location in the policy.
func (p *Place) Set(t testing.TB, lines ...string) {
	t.Helper()
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&b, "location.%s.%s\n", p.Name, l)
	}
	p.Node.ApplyPolicy(t, b.String())
}

// Away takes the directory away, as when its disk is not there.
func (p *Place) Away(t testing.TB) {
	t.Helper()
	if err := os.Rename(filepath.Dir(p.Dir), filepath.Dir(p.Dir)+".away"); err != nil {
		t.Fatal(err)
	}
}

// Back ends Away.
func (p *Place) Back(t testing.TB) {
	t.Helper()
	if err := os.Rename(filepath.Dir(p.Dir)+".away", filepath.Dir(p.Dir)); err != nil {
		t.Fatal(err)
	}
}

// ReadOnly makes the file system of a small place read-only, or ends that.
func (p *Place) ReadOnly(t testing.TB, is bool) {
	t.Helper()
	flags := uintptr(syscall.MS_REMOUNT)
	if is {
		flags |= syscall.MS_RDONLY
	}
	p.remount(t, flags, p.size)
}

// Full leaves no room on the file system of a small place, or ends that.
func (p *Place) Full(t testing.TB, is bool) {
	t.Helper()
	size := p.size
	if is {
		var s syscall.Statfs_t
		if err := syscall.Statfs(p.Dir, &s); err != nil {
			t.Fatal(err)
		}
		size = int64(s.Blocks-s.Bfree) * s.Bsize
	}
	p.remount(t, syscall.MS_REMOUNT, size)
}

func (p *Place) remount(t testing.TB, flags uintptr, size int64) {
	t.Helper()
	// A file that is open for writing keeps it from becoming read-only, and one
	// that grows from becoming small.
	var err error
	for range 200 {
		if err = syscall.Mount("", p.Dir, "", flags, fmt.Sprintf("size=%d", size)); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("remount %s: %v", p.Dir, err)
}

// Folder is where the database's backups lie.
func (p *Place) Folder() string { return filepath.Join(p.Dir, "test", "postgres") }

// SetDir is the folder of a set.
func (p *Place) SetDir(label string) string { return filepath.Join(p.Folder(), "sets", label) }

// Files are all objects at the location with their contents' sizes, by path, and
// unfinished ones below ".tmp".
func (p *Place) Files(t testing.TB) map[string]int64 {
	t.Helper()
	out := map[string]int64{}
	err := filepath.WalkDir(p.Dir, func(path string, d os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) && path != p.Dir {
			return nil // it went while we look
		}
		if err != nil || d.IsDir() {
			return err
		}
		if info, err := d.Info(); err == nil {
			rel, _ := filepath.Rel(p.Dir, path)
			out[rel] = info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Age makes everything at the location look as old as d, for what is only swept
// when nobody can be at work on it any more.
func (p *Place) Age(t testing.TB, d time.Duration) {
	t.Helper()
	then := time.Now().Add(-d)
	for name := range p.Files(t) {
		if err := os.Chtimes(filepath.Join(p.Dir, name), then, then); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// Flip flips a bit of the byte of a file that lies at a fraction of its length.
func Flip(t testing.TB, file string, where float64) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	at := int64(float64(info.Size()) * where)
	if _, err := f.ReadAt(b[:], at); err != nil {
		t.Fatalf("%s at %d: %v", file, at, err)
	}
	b[0] ^= 0x10
	if _, err := f.WriteAt(b[:], at); err != nil {
		t.Fatal(err)
	}
}

// ask is Get with a bound.
func (n *Node) ask(path string, v any) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return n.Get(ctx, path, v)
}

// Sets is what this node knows of the backups.
func (n *Node) Sets() (s Sets, err error) { return s, n.ask("/api/v1/sets", &s) }

// Jobs are those that this node knows of, running ones first, newest first.
func (n *Node) Jobs() ([]Job, error) {
	var j struct{ Jobs []Job }
	err := n.ask("/api/v1/jobs", &j)
	return j.Jobs, err
}

// Locations are the places as this node sees them.
func (n *Node) Locations() ([]Location, error) {
	var l struct{ Locations []Location }
	err := n.ask("/api/v1/locations", &l)
	return l.Locations, err
}

// Location waits for an answer about a place.
func (p *Place) Location(t testing.TB) Location {
	t.Helper()
	return p.Wait(t, 10*time.Second, "an answer", func(Location) bool { return true })
}

// Wait waits until the place stands so, by the word of any node that answers.
func (p *Place) Wait(t testing.TB, d time.Duration, what string, cond func(Location) bool) Location {
	t.Helper()
	var last Location
	var err error
	deadline := time.Now().Add(d)
	for {
		for _, n := range p.g.Nodes() {
			var list []Location
			if list, err = n.Locations(); err != nil {
				continue
			}
			if i := slices.IndexFunc(list, func(l Location) bool { return l.Name == p.Name }); i >= 0 {
				if last = list[i]; cond(last) {
					return last
				}
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still not: %s: %s; it is %+v, %v", d, p.Name, what, last, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// WaitLog waits until the place has all log that the primary has now.
func (p *Place) WaitLog(t testing.TB) Location {
	t.Helper()
	primary := p.g.Primary(t)
	end, err := pos.ParseLSN(primary.Query(t, "select pg_current_wal_flush_lsn()"))
	if err != nil {
		t.Fatal(err)
	}
	timeline := p.g.WaitStatus(t, 10*time.Second, "an open primary", func(s Status) bool { return s.Group.Phase == "opened" }).Group.Timeline
	// A partial segment is only stored when it is waited for, or after a while.
	primary.Exec(t, "select pg_logical_emit_message(true, 'test', ''), pg_switch_wal()")
	return p.Wait(t, 40*time.Second, fmt.Sprintf("the log up to %s on timeline %d", end, timeline), func(l Location) bool {
		return l.Timeline == timeline && l.Archived >= end
	})
}

// WaitAt waits until a set can be restored from each of the places alone: a
// backup is done once one has it with its log.
func (g *Group) WaitAt(t testing.TB, label string, places ...*Place) Set {
	t.Helper()
	return g.WaitSet(t, 40*time.Second, label+" at all places", func(s Set) bool {
		for _, p := range places {
			if !s.At(p.Name).Restorable {
				return false
			}
		}
		return s.Label == label
	})
}

// WaitSet waits until a set satisfies cond, by the word of any node.
func (g *Group) WaitSet(t testing.TB, d time.Duration, what string, cond func(Set) bool) Set {
	t.Helper()
	var last Sets
	var err error
	deadline := time.Now().Add(d)
	for {
		for _, n := range g.Nodes() {
			var s Sets
			if s, err = n.Sets(); err != nil {
				continue
			}
			last = s
			if i := slices.IndexFunc(last.Sets, cond); i >= 0 {
				return last.Sets[i]
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %s still no set: %s; there are %+v, %v", d, what, last, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TakeBackup takes a full backup by a command on a node and returns the set.
func (n *Node) TakeBackup(t testing.TB, args ...string) Set {
	t.Helper()
	r, err := n.tryBackup(t, args...)
	for deadline := time.Now().Add(15 * time.Second); err != nil; r, err = n.tryBackup(t, args...) {
		// Labels are of one second, what begins by itself comes between, and a
		// daemon that was just killed may still be given the job.
		again := strings.Contains(err.Error(), "already") || strings.Contains(err.Error(), "was lost: ")
		if !again || time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	return n.group.WaitSet(t, 10*time.Second, r.Jobs[0].Label+" complete", func(s Set) bool { return s.Label == r.Jobs[0].Label && s.State == Complete })
}

type began struct{ Jobs []Job }

func (n *Node) tryBackup(t testing.TB, args ...string) (b began, err error) {
	t.Helper()
	out, complaints, code := n.run(t, append([]string{"backup", "--json"}, args...)...)
	err = json.Unmarshal([]byte(out), &b)
	if err != nil || code != 0 || len(b.Jobs) != 1 {
		return b, fmt.Errorf("%s: understudy backup ended with %d: %v\n%s%s", n.Name, code, err, out, complaints)
	}
	return b, nil
}

// WaitNoJobs waits until no job runs.
func (g *Group) WaitNoJobs(t testing.TB, d time.Duration) []Job {
	t.Helper()
	var last []Job
	Eventually(t, d, "the end of all jobs", func() bool {
		for _, n := range g.Nodes() {
			jobs, err := n.Jobs()
			if err == nil {
				last = jobs
				return !slices.ContainsFunc(jobs, func(j Job) bool { return j.State == Running })
			}
		}
		return false
	})
	return last
}
