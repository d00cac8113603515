// Package aside looks after what a node has put aside in its state directory
// instead of overwriting it, and forgets it in time.
//
// All of it is evidence, of a loss or of how a group came to be what it is, and
// none of it is used by a running group. Of every kind the newest stays for
// good.
package aside

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Kind is what something was before it was put aside.
type Kind string

// The kinds.
const (
	Tail   Kind = "tail"   // log that only an old primary had
	Store  Kind = "store"  // spool and ledger that a node gave up
	Ledger Kind = "ledger" // the ledger before the group was formed anew
	Log    Kind = "log"    // files of pg_wal of a promotion that came to nothing
)

const day = 24 * time.Hour

// rule says where the things of a kind are, and how long they stay.
type rule struct {
	kind   Kind
	folder string // that holds them; empty for the state directory
	prefix string // of their names
	keep   time.Duration
	one    string // what one is called
	many   string
}

// rules are those of all kinds. What may be the last copy of somebody's rows
// stays for longer.
func rules() []rule {
	return []rule{
		{Tail, "tails", "", 90 * day, "tail of an old primary", "tails of old primaries"},
		{Store, "", "lost-", 90 * day, "store that was given up", "stores that were given up"},
		{Ledger, "", "ledger-before-", 30 * day, "replaced ledger", "replaced ledgers"},
		{Log, "quarantine", "", 30 * day, "file of a promotion that came to nothing", "files of promotions that came to nothing"},
	}
}

// Thing is one file or directory that was put aside.
type Thing struct {
	Kind  Kind
	Path  string
	At    time.Time // when it was put aside
	Bytes int64
}

// partEnd marks what is still being put aside, and going what is being removed.
const (
	partEnd = ".part"
	going   = ".going-"
)

// nameTime is how moments are written in names.
const nameTime = "20060102T150405.000"

// Find lists what lies aside in a state directory, oldest first.
func Find(stateDir string) ([]Thing, error) {
	var out []Thing
	for _, r := range rules() {
		folder := filepath.Join(stateDir, r.folder)
		entries, err := os.ReadDir(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("look for what was put aside: %w", err)
		}
		for _, e := range entries {
			text, ours := strings.CutPrefix(e.Name(), r.prefix)
			if !ours || strings.HasSuffix(e.Name(), partEnd) || !e.IsDir() && !e.Type().IsRegular() {
				continue
			}
			t := Thing{Kind: r.kind, Path: filepath.Join(folder, e.Name())}
			if t.At, t.Bytes, err = measure(t.Path); err != nil {
				return nil, fmt.Errorf("look at what was put aside: %w", err)
			}
			if at, err := time.Parse(nameTime, text); err == nil && r.prefix != "" {
				t.At = at // its own times are those of its last use
			}
			out = append(out, t)
		}
	}
	slices.SortStableFunc(out, func(a, b Thing) int { return a.At.Compare(b.At) })
	return out, nil
}

// measure is when a file or directory was last changed, and what is in it.
func measure(path string) (at time.Time, bytes int64, err error) {
	err = filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if p == path {
			at = info.ModTime()
		}
		if info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return at, bytes, err
}

// Due are the things that have been kept for long enough. The newest of every
// kind never is. What has a time that is still to come is not, either.
func Due(things []Thing, now time.Time) (due []Thing) {
	newest := map[Kind]Thing{}
	for _, t := range things {
		if n, ok := newest[t.Kind]; !ok || t.At.After(n.At) {
			newest[t.Kind] = t
		}
	}
	for _, r := range rules() {
		for _, t := range things {
			if t.Kind == r.kind && now.Sub(t.At) >= r.keep && t.Path != newest[t.Kind].Path {
				due = append(due, t)
			}
		}
	}
	return due
}

// Words name things by kind, with their size and how long their kind is kept.
func Words(things []Thing, size func(uint64) string) string {
	var parts []string
	for _, r := range rules() {
		n, bytes := 0, int64(0)
		for _, t := range things {
			if t.Kind == r.kind {
				n, bytes = n+1, bytes+t.Bytes
			}
		}
		name := r.many
		if n == 1 {
			name = r.one
		}
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s (%s), kept for %d days", n, name, size(uint64(bytes)), r.keep/day))
		}
	}
	return strings.Join(parts, "; ")
}

// Remove removes things. One that is half removed has another name, and Clear
// removes the rest of it after a crash.
func Remove(stateDir string, things []Thing) error {
	if err := Clear(stateDir); err != nil {
		return err
	}
	for i, t := range things {
		to := filepath.Join(stateDir, fmt.Sprintf("%s%d-%s", going, i, filepath.Base(t.Path)))
		if err := os.Rename(t.Path, to); err != nil {
			return fmt.Errorf("forget what was put aside: %w", err)
		}
	}
	return Clear(stateDir)
}

// Clear ends removals that were cut off.
func Clear(stateDir string) error {
	left, err := filepath.Glob(filepath.Join(stateDir, going+"*"))
	if err != nil {
		return err
	}
	for _, p := range left {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("forget what was put aside: %w", err)
		}
	}
	return nil
}
