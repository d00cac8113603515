// Package recover brings a database back from a full backup: it plans a
// restore, executes the plan so that it can be interrupted anywhere, and tells
// what a restored or half-restored directory is.
//
// A plan is data. MakePlan refuses what cannot work before anything is touched;
// Execute does what the plan says and, called again with the same plan, goes on
// where it was cut; Complete runs the recovery up to the plan's target.
package recover

import (
	"context"
	"errors"
	"fmt"

	"understudy/shipper/backupset"
	"understudy/shipper/location"
)

// Errors a caller acts on. After ErrRefused and ErrOccupied nothing was
// changed.
var (
	// ErrRefused is returned by MakePlan for a restore that cannot work.
	ErrRefused = errors.New("restore refused")
	// ErrOccupied is returned when the destination holds what no restore of ours
	// left there, or is in use.
	ErrOccupied = errors.New("destination is occupied")
	// ErrDamaged is returned when no location has undamaged bytes of a part of
	// the set.
	ErrDamaged = errors.New("the set is damaged")
	// ErrOtherPlan is returned by Execute for a directory that belongs to
	// another plan by now.
	ErrOtherPlan = errors.New("the directory belongs to another restore")
)

// Source is a location that holds the set.
type Source struct {
	Name     string
	Location location.Location
}

// Sources are the places to restore from, the preferred one first. A place
// that fails or whose bytes are damaged is passed over for the next.
type Sources struct {
	Root   backupset.Root
	Places []Source
}

// The steps of Execute, in order, as Options.Step and Progress name them.
const (
	StepMark      = "mark"      // the directory is marked as being restored
	StepClear     = "clear"     // pg_control and tablespace links are taken away
	StepIndex     = "index"     // the list of files is fetched
	StepFiles     = "files"     // files are written; called for each frame
	StepApply     = "apply"     // an incremental set: blocks go to the files that they change; called for each file
	StepStale     = "stale"     // what is not in the set is removed
	StepLayout    = "layout"    // directories, links, owners
	StepSettings  = "settings"  // recovery and what overrides the old host's settings
	StepSync      = "sync"      // everything is made durable
	StepControl   = "control"   // pg_control gets its name
	StepUnmarkOut = "unmarkout" // marks of tablespaces go
	StepUnmark    = "unmark"    // the mark goes: PostgreSQL can start
)

// Steps lists the steps of Execute of a full set in order. Those from StepIndex
// to StepStale come once for each set of a chain, in an incremental one with
// StepApply after StepFiles.
func Steps() []string {
	return []string{StepMark, StepClear, StepIndex, StepFiles, StepStale, StepLayout, StepSettings, StepSync, StepControl, StepUnmarkOut, StepUnmark}
}

// refused says why a restore cannot be.
func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

// readAll reads a whole small object from the first place that has it intact.
func (s Sources) readAll(ctx context.Context, key string, limit int64, check func([]byte) error) error {
	var all error
	for _, p := range s.Places {
		b, err := readObject(ctx, p.Location, key, limit)
		if err == nil {
			err = check(b)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		all = errors.Join(all, fmt.Errorf("location %s: %w", p.Name, err))
	}
	if all == nil {
		all = errors.New("no location to restore from was given")
	}
	return all
}
