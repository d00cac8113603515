// Package guard is the postmaster's parent: a tiny process of the same binary
// that holds a lease on behalf of the daemon and ends PostgreSQL, with every
// process it made, when the lease runs out.
//
// The daemon renews the lease only while it has contact with a majority, so
// one mechanism covers a primary that is cut off and a daemon that is killed or
// frozen. DESIGN.md tells how the pieces hold each other.
package guard

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"understudy/shipper/pos"
)

// Limits of the conversation between daemon and guard.
const (
	maxSocketPath = 107              // bytes of sun_path, without its final zero
	maxLaunch     = 1 << 20          // bytes of the launch order
	maxLine       = 16 << 10         // bytes of one message
	maxExtend     = 10 * time.Minute // of an announced restart, from now
	answerTimeout = 500 * time.Millisecond
	killGrace     = 300 * time.Millisecond // from SIGQUIT to SIGKILL
	exitLinger    = 2 * time.Second        // for the daemon to read how the server ended
)

// ErrNoGuard is returned by Connect when nothing listens on the socket: no
// guard runs, and so none of the servers it would have kept.
var ErrNoGuard = errors.New("no guard is running")

// ErrGuardRuns is returned by Start when a guard already answers on the
// socket: adopt that one with Connect.
var ErrGuardRuns = errors.New("a guard is already running")

// ErrDead is returned by a Client whose guard does not answer any more.
var ErrDead = errors.New("the guard does not answer")

// ErrEnded is returned by a Client for an order about a server that has ended.
var ErrEnded = errors.New("the server has ended")

// Tag tells what was started, so that a daemon that adopts a running server
// knows it. The guard keeps it and does not look at it.
type Tag struct {
	Epoch    pos.Epoch    `json:"epoch"`    // in force when the server was started or promoted
	Role     string       `json:"role"`     // the agent's own word
	Timeline pos.Timeline `json:"timeline"` // at the start or promotion
	Start    pos.LSN      `json:"start"`    // where the epoch began
	Store    string       `json:"store"`    // store id of the node that started it
}

// Launch is an order to start one postmaster under a new guard.
type Launch struct {
	Socket  string   `json:"socket"` // unix socket the guard listens on, at most 107 bytes
	Argv    []string `json:"argv"`   // postmaster, the absolute path of the binary first
	Env     []string `json:"env"`    // nil means the environment of the daemon
	Dir     string   `json:"dir"`    // working directory of the postmaster; empty means "/"
	UID     uint32   `json:"uid"`
	GID     uint32   `json:"gid"`
	SetUser bool     `json:"set_user"` // run the postmaster as UID and GID, with Groups
	Groups  []uint32 `json:"groups"`
	LogFile string   `json:"log_file"` // the server's output is appended; guard.log lies beside it
	Tag     Tag      `json:"tag"`
	// Lease is how long a primary may run after its last majority contact; a
	// standby needs one too, for the day it is promoted.
	Lease time.Duration `json:"lease_ns"`
	// Orphan is how long a primary may run after its daemon's socket closed;
	// zero means 700 ms.
	Orphan time.Duration `json:"orphan_ns"`
	// Primary puts the server under the lease from its start on. A standby has
	// none: it goes on when its daemon dies.
	Primary bool `json:"primary"`
	// Permit is a file that is removed when the last process of the server is
	// gone; empty for none.
	Permit string `json:"permit"`
}

// StopMode is one of PostgreSQL's ways to stop.
type StopMode string

// The stop modes. Immediate leaves a crash recovery to the next start and is
// completed by SIGKILL when the server does not obey within 300 ms.
const (
	Smart     StopMode = "smart"     // waits for clients to leave
	Fast      StopMode = "fast"      // ends clients, writes a checkpoint; waits for the receiver
	Immediate StopMode = "immediate" // ends everything at once
)

// Boottime is the clock of all lease times: time since boot, suspended time
// included, equal in every process of this host.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("read CLOCK_BOOTTIME: " + err.Error()) // every Linux since 2.6.39 has it
	}
	return time.Duration(ts.Nano())
}

func (l Launch) validate() error {
	switch {
	case l.Socket == "" || len(l.Socket) > maxSocketPath:
		return fmt.Errorf("guard socket %q: a unix socket path needs 1 to %d bytes; choose a shorter run directory", l.Socket, maxSocketPath)
	case len(l.Argv) == 0:
		return errors.New("launch without a command line")
	case l.LogFile == "":
		return errors.New("launch without a server log file")
	case l.Lease <= 0:
		return errors.New("launch without a lease")
	case l.Orphan < 0:
		return errors.New("launch with a negative orphan time")
	}
	return nil
}
