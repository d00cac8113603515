// Package backup takes full and incremental backups: it reads one BASE_BACKUP of the local
// PostgreSQL, checks its pages, compresses it and stores it in several
// locations at once, in the format of shipper/backupset.
package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/basestream"
	"understudy/shipper/location"
	"understudy/shipper/pos"
)

var (
	// ErrNoDestination is returned when every location failed or was dropped.
	// Take again once one is usable; the error says what each said.
	ErrNoDestination = errors.New("no location is left that takes the backup")
	// ErrOtherSystem is returned when the server is not the group's database.
	ErrOtherSystem = errors.New("the server holds another database")
	// ErrTooSlow is what Result says of a location that was dropped because it
	// held up the backup.
	ErrTooSlow = errors.New("too slow for this backup")
)

// Config says what is copied where.
type Config struct {
	// ConnString leads to the local PostgreSQL, primary or standby, as a role
	// with REPLICATION that may also read the server's files
	// (pg_read_server_files), for the second look at suspect pages.
	ConnString string
	// SystemID is the system identifier the server must have; zero accepts any.
	SystemID uint64
	// Root is the folder of the database at every location.
	Root    backupset.Root
	GroupID string
	Node    string      // this node
	Program string      // version of this program
	Lineage pos.Lineage // of the group, now
	// Label names the set; empty: the time. An incremental one ends in I.
	Label string
	// Parent is the set on which an incremental backup is based; nil takes a full
	// one.
	Parent *Parent
	Notes  map[string]string
	// Dests are the locations; at least one. Their names are unique.
	Dests []Dest
	// Extra are absolute paths of more files and folders, with the wildcards
	// of path/filepath. The server's configuration files outside its data
	// directory are always taken.
	Extra []string
	// Level is the effort of compression, 1 (fastest, default) to 4.
	Level int
	// Workers compress in parallel, 1 to 8. The default is the number of CPUs,
	// at most 4. Each costs about 25 MiB.
	Workers int
	// RateBytes bounds the reading, in bytes per second; zero is no bound.
	RateBytes int64
	// Patience is how long a location may take nothing, and how long the others
	// wait in sum for one that is slower, beside the time the copy takes
	// anyway, before it is dropped from this backup. The default is two
	// minutes; smaller values prefer the speed of the backup to its copies.
	Patience time.Duration
	// SecondLook is the time between the three looks at a suspect page; the
	// default is a second.
	SecondLook time.Duration
	// Scratch is a folder for the list of files, about 25 MB for each TB of
	// database; the default is the system's.
	Scratch string
	// OnStart is called when PostgreSQL has said where the backup begins, before
	// its first byte is read: from there on the log is needed. Its error ends the
	// backup. nil is allowed.
	OnStart func(pos.LSN, pos.Timeline) error
	// OnProgress is called a few times each second, from one goroutine; nil is
	// allowed.
	OnProgress func(Progress)
	// Log receives the beginning, the end, and each location that is dropped;
	// nil discards.
	Log *slog.Logger
}

// Dest is one location that gets the set.
type Dest struct {
	Name     string
	Location location.Location
}

// Progress is how far a backup has come.
type Progress struct {
	Label    string
	Step     Step
	Done     int64 // bytes of the database read
	Estimate int64 // PostgreSQL's guess of the whole, made at the beginning
	Stored   int64 // bytes after compression
	Dests    []DestProgress
}

// Step is what a backup is doing.
type Step string

// The steps of a backup, in order.
const (
	StepStart   Step = "starting"  // PostgreSQL makes its checkpoint
	StepCopy    Step = "copying"   // the database and the files beside it
	StepRecheck Step = "checking"  // suspect pages are looked at again
	StepFinish  Step = "finishing" // the locations make the set durable
)

// DestProgress is how far a location has come.
type DestProgress struct {
	Name   string
	Stored int64 // bytes taken
	Err    error // why it was dropped
}

// Result is a backup that was taken.
type Result struct {
	Set    backupset.Set
	Digest string // of set.json, see backupset.Digest
	// Dests has every location of the configuration, in its order. Those with
	// an error hold no set; they are to be filled from one of the others.
	Dests []DestResult
}

// DestResult is what became of the set at one location.
type DestResult struct {
	Name   string
	Stored int64
	Err    error // nil: the set is complete there
}

// Take takes one backup. It returns when the set is complete, set.json
// included, in at least one location, and every other location has it or was
// dropped. The log of [Set.Start, Set.End] is not waited for: without it at a
// location, the set cannot be restored from there.
//
// An incremental one that is not possible now gives ErrNotIncremental. After an error, and at a location that was dropped, what had been stored is
// removed as far as the location answers; Orphans finds the rest later.
func Take(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.Validate(); err != nil {
		return Result{}, fmt.Errorf("take a backup: %w", err)
	}
	r := newRun(cfg.withDefaults())
	res, err := r.take(ctx)
	if err != nil {
		return res, fmt.Errorf("take backup %s: %w", r.cfg.Label, err)
	}
	return res, nil
}

// Limits of Config.
const (
	maxWorkers = 8
	maxLevel   = 4
)

var rootName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._+=@-]*$`)

// Validate checks the values that do not need a server.
func (c Config) Validate() error {
	if err := c.stream().Validate(); err != nil {
		return err
	}
	if !rootName.MatchString(c.Root.Group) || !rootName.MatchString(c.Root.Profile) {
		return fmt.Errorf("%q and %q cannot be the folder of a group and of a database", c.Root.Group, c.Root.Profile)
	}
	if c.Label != "" {
		if _, err := backupset.ParseLabel(c.Label); err != nil {
			return err
		}
	}
	if c.Label != "" && backupset.IsIncremental(c.Label) != (c.Parent != nil) {
		return fmt.Errorf("%s is no label for this kind of backup: one of an incremental set ends in I", c.Label)
	}
	if len(c.Dests) == 0 {
		return errors.New("no location to store the backup in")
	}
	names := map[string]bool{}
	for _, d := range c.Dests {
		if d.Name == "" || d.Location == nil || names[d.Name] {
			return fmt.Errorf("location %q has no name, is listed twice or is not there", d.Name)
		}
		names[d.Name] = true
	}
	for _, p := range c.Extra {
		if _, err := filepath.Match(p, ""); err != nil || !filepath.IsAbs(p) {
			return fmt.Errorf("extra path %q is not absolute or no pattern", p)
		}
	}
	switch {
	case c.Level < 0 || c.Level > maxLevel:
		return fmt.Errorf("compression level %d is outside 1 to %d", c.Level, maxLevel)
	case c.Workers < 0 || c.Workers > maxWorkers:
		return fmt.Errorf("%d workers are outside 1 to %d", c.Workers, maxWorkers)
	case c.RateBytes < 0 || c.Patience < 0 || c.SecondLook < 0:
		return errors.New("a rate or a time below zero")
	}
	return nil
}

func (c Config) withDefaults() Config {
	if c.Label == "" {
		c.Label = backupset.NewLabel(time.Now())
		if c.Parent != nil {
			c.Label = backupset.NewIncrementalLabel(time.Now())
		}
	}
	c.Level = cmp.Or(c.Level, 1)
	if c.OnStart == nil {
		c.OnStart = func(pos.LSN, pos.Timeline) error { return nil }
	}
	c.Workers = cmp.Or(c.Workers, min(runtime.NumCPU(), 4))
	c.Patience = cmp.Or(c.Patience, 2*time.Minute)
	c.SecondLook = cmp.Or(c.SecondLook, time.Second)
	c.Scratch = cmp.Or(c.Scratch, os.TempDir())
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

// stream is the part of the configuration that concerns PostgreSQL. The pages
// are checked here, by several CPUs.
func (c Config) stream() basestream.Config {
	kb := 0
	if c.RateBytes > 0 {
		kb = int(min(max(c.RateBytes>>10, basestream.MinRate), basestream.MaxRate))
	}
	return basestream.Config{ConnString: c.ConnString, Application: "understudy backup", Label: "understudy " + c.Label, RateKB: kb, Unverified: true,
		Incremental: c.Parent != nil}
}
