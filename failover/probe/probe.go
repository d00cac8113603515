// Package probe is the daemon's own look at its disk and at its PostgreSQL. It
// finds what no connection shows: a disk that is full, read-only or hangs, and
// a server that is stopped or no longer gets its log onto the disk.
package probe

import "time"

// Kind is the stable key of what a probe found.
type Kind string

// What makes a node fail. A higher one is told first: it is the likelier cause.
const (
	DiskHung     Kind = "disk-hung"     // a look or a write that was begun does not end
	DiskReadOnly Kind = "disk-readonly" // nothing can be written
	DiskError    Kind = "disk-error"    // the disk answers with an error, or the directory is gone
	DiskFull     Kind = "disk-full"     // less is left than PostgreSQL needs
	ServerFrozen Kind = "server-frozen" // the postmaster is stopped: SIGSTOP, a debugger, a freezer of its group
	ServerHung   Kind = "server-hung"   // no answer, or no commit
	ServerError  Kind = "server-error"  // the server says that its storage, or itself, is broken
)

// What is only told.
const (
	Connections Kind = "connections" // every connection is in use, the reserved ones too
	DiskOdd     Kind = "disk-odd"    // the probe file is something else, so nothing is known of writing
	ServerOdd   Kind = "server-odd"  // it answers, but with an error that says nothing about its health
)

// Finding is what one look found.
type Finding struct {
	Kind  Kind
	Where string // the directory; empty for the server
	Text  string // one sentence, the same as long as nothing changes
	// For is how long something that lasts has been seen to last: set for
	// DiskHung, ServerFrozen and ServerHung.
	For time.Duration
}

// Health is a judgement on a node. A snapshot is never changed.
type Health struct {
	Failing string        // one sentence for people; empty when well
	Kind    Kind          // empty when well
	For     time.Duration // how long it has been so, as far as it was observed
	// Warnings are what is no failure, or not yet, or not the first one.
	Warnings map[Kind]string
}

// Limits are how long something must be seen before a node counts as failing.
// Each of them prefers a late failover to one over a hiccup.
type Limits struct {
	Stall  time.Duration // DiskHung, ServerHung
	Frozen time.Duration // ServerFrozen
	Rounds int           // consecutive rounds for everything else
	Tell   time.Duration // from here on what lasts is a warning
}

// FrozenAfter is how long a postmaster must be seen stopped. Debuggers and
// checkpointing tools stop a process for less.
const FrozenAfter = time.Second

// tellAfter is how long a delay is nothing to talk about. A busy machine makes
// pauses of some hundred milliseconds.
const tellAfter = time.Second

// LimitsFor are the limits for a policy's stall time.
func LimitsFor(stall time.Duration) Limits {
	return Limits{Stall: stall, Frozen: FrozenAfter, Rounds: 2, Tell: tellAfter}
}

// Mode is what the PostgreSQL of this node is meant to be doing.
type Mode int

// The modes. The zero Mode is Down.
const (
	Down    Mode = iota // no server, or one that starts or ends: it is not probed
	Replica             // follows another node: asked, but nothing is written
	Primary             // takes writes: a round commits a few bytes
)
