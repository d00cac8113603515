package spool

import (
	"errors"
	"fmt"
	"syscall"

	"understudy/shipper/pos"
)

var (
	// ErrNoStore is returned by Open when the directory holds no spool.
	ErrNoStore = errors.New("no spool here")
	// ErrExists is returned when the directory already holds a spool, or the
	// spool already a log.
	ErrExists = errors.New("already there")
	// ErrStaleEpoch is returned when the epoch is not the one the spool
	// accepts. Permanent for that epoch.
	ErrStaleEpoch = errors.New("stale epoch")
	// ErrGap is returned when bytes do not join the end of the log. The error
	// is a *GapError that says where to resume.
	ErrGap = errors.New("gap in the log")
	// ErrPruned is returned for bytes that are no longer kept.
	ErrPruned = errors.New("no longer kept")
	// ErrNoLog is returned before Begin.
	ErrNoLog = errors.New("no log yet")
	// ErrForeign is returned when the data belongs to another store or
	// another database system.
	ErrForeign = errors.New("belongs to another store")
	// ErrCorrupt is returned when stored bytes contradict what was recorded
	// about them, or offered bytes contradict the stored ones. Permanent.
	ErrCorrupt = errors.New("corrupt")
	// ErrNoSpace is returned when the disk or the quota is full; the cause is
	// wrapped. A later call succeeds once there is room.
	ErrNoSpace = errors.New("no space left for the spool")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("spool is closed")
)

// GapError tells where the log ends, so that the sender can resume there.
type GapError struct {
	Want pos.LSN // the next byte the spool takes
	Got  pos.LSN // the byte that was offered
}

// Error implements error.
func (e *GapError) Error() string {
	return fmt.Sprintf("%v: offered %s, the log ends at %s", ErrGap, e.Got, e.Want)
}

// Unwrap makes errors.Is(err, ErrGap) true.
func (e *GapError) Unwrap() error { return ErrGap }

// diskErr marks an error of a full disk or quota as ErrNoSpace.
func diskErr(verb string, err error) error {
	if err == nil {
		return nil
	}
	if !errors.Is(err, ErrNoSpace) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)) {
		return fmt.Errorf("%s: %w: %w", verb, ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w", verb, err)
}
