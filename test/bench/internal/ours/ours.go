// Package ours does the library's work on backups as a process of its own, in
// the way a worker or a restore of the program does it, and says what that
// process needed.
package ours

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
	"time"

	"understudy/shipper/backupset"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/test/bench/internal/proc"
)

// Kind is what a process does.
type Kind string

// The kinds of work.
const (
	Backup  Kind = "backup"  // take a full set
	Restore Kind = "restore" // of a set into an empty directory
	Delta   Kind = "delta"   // of a set over what is in a directory
	Archive Kind = "archive" // store log
	Serve   Kind = "serve"   // give a recovery its log, until the context ends
	Set     Kind = "set"     // prove every stored byte of a set
	Deep    Kind = "deep"    // prove a set down to its files
	WAL     Kind = "wal"     // prove every stored byte of the log
)

// Task is the work of one process. Which fields count depends on the kind.
type Task struct {
	Kind     Kind    `json:"kind"`
	Place    string  `json:"place"`     // directory of the location; see Init
	Label    string  `json:"label"`     // of the set; a backup chooses it
	DSN      string  `json:"dsn"`       // of the server to back up
	DataDir  string  `json:"data_dir"`  // to restore to
	SystemID uint64  `json:"system_id"` // of the database
	WALDir   string  `json:"wal_dir"`   // with the segments to archive
	From     pos.LSN `json:"from"`      // of the log, the start of a segment
	To       pos.LSN `json:"to"`        // and its end, the end of one
	SegSize  int64   `json:"seg_size"`  // of the log
	Socket   string  `json:"socket"`    // to serve log on
	Hand     string  `json:"hand"`      // from which log is taken
	Scratch  string  `json:"scratch"`   // a directory for what is needed meanwhile
	Workers  int     `json:"workers"`   // zero is the library's default
	Profile  string  `json:"profile"`   // file for a CPU profile; empty for none
	Ready    func()  `json:"-"`         // called by Serve when it can be asked
}

// Outcome is what a process did, and what it took.
type Outcome struct {
	Label string        `json:"label,omitempty"`
	Bytes int64         `json:"bytes,omitempty"` // proven, as stored
	Given int64         `json:"given,omitempty"` // bytes of log that were served
	Peak  uint64        `json:"peak"`            // highest resident memory
	CPU   time.Duration `json:"cpu"`             // user and system time
}

// workerMemory is what a worker keeps the Go runtime's memory below; a restore
// from the command line has no such bound.
const workerMemory = 180 << 20

// Root is where the database's backups lie at every location.
func Root() backupset.Root { return backupset.Root{Group: "bench", Profile: "postgres"} }

// Init makes a directory a location.
func Init(dir string) error { return local.Init(dir) }

// Run does the work. It is called once in a process.
func Run(ctx context.Context, t Task) (out Outcome, err error) {
	if t.Kind != Restore && t.Kind != Delta && t.Kind != Serve {
		debug.SetMemoryLimit(workerMemory)
	}
	if t.Profile != "" {
		stop, perr := profile(t.Profile)
		if perr != nil {
			return out, perr
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	loc := local.New(t.Place)
	defer loc.Close()
	w := work{t: t, loc: loc}
	do := map[Kind]func(context.Context) (Outcome, error){
		Backup: w.backup, Restore: w.restore, Delta: w.restore, Archive: w.archive, Serve: w.serve, Set: w.set, Deep: w.set, WAL: w.log,
	}[t.Kind]
	if do == nil {
		return out, fmt.Errorf("no such work: %q", t.Kind)
	}
	if out, err = do(ctx); err != nil {
		return out, fmt.Errorf("%s: %w", t.Kind, err)
	}
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return out, fmt.Errorf("ask for the processor time: %w", err)
	}
	out.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	m, err := proc.ReadMemory(os.Getpid())
	out.Peak = m.Peak
	return out, err
}

// profile writes where the processor time goes until stop is called.
func profile(path string) (stop func() error, err error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() error { pprof.StopCPUProfile(); return f.Close() }, nil
}
