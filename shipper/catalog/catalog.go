// Package catalog says which backups of one database exist where, and what can
// be reached with them. The ledger keeps a Catalog; the same type is made from
// the listing of one location when nothing else is left.
//
// The package is pure.
package catalog

import (
	"time"

	"understudy/shipper/pos"
)

// Catalog is everything known about the backups of one database.
type Catalog struct {
	Group    string `json:"group"`
	Profile  string `json:"profile"` // the database among those of the group
	SystemID uint64 `json:"system_id,string"`
	Major    int    `json:"major"`    // of PostgreSQL
	SegSize  int64  `json:"seg_size"` // bytes of one WAL segment
	// Timelines are the histories of the database, by id: all that were ever
	// promoted, also those that were left.
	Timelines map[pos.Timeline]Timeline `json:"timelines"`
	Sets      map[string]Set            `json:"sets"`   // by label
	Places    map[string]Place          `json:"places"` // by location
}

// Timeline is where a history left its parent. The first has Parent zero.
type Timeline struct {
	Parent pos.Timeline `json:"parent,omitempty"`
	Fork   pos.LSN      `json:"fork,omitempty"` // first byte that is not the parent's
	// At is when it was promoted, zero when unknown.
	At time.Time `json:"at,omitzero"`
}

// SetState is how far a set has come.
type SetState string

// The states of a set.
const (
	SetRunning  SetState = "running"  // is being taken
	SetComplete SetState = "complete" // every object of it is in at least one location
	SetFailed   SetState = "failed"   // will never be complete
)

// Set is one backup.
type Set struct {
	Label string `json:"label"`
	// Parent is the set that an incremental one is built on: it cannot be restored
	// without that. Empty for a full one.
	Parent string   `json:"parent,omitempty"`
	State  SetState `json:"state"`
	// Timeline is the one of End. A backup from a standby may have begun on its
	// parent, and Start is then before the fork.
	Timeline pos.Timeline `json:"timeline"`
	Start    pos.LSN      `json:"start"` // redo: recovery needs the WAL from here
	End      pos.LSN      `json:"end"`   // recovery must reach this LSN to be consistent
	Began    time.Time    `json:"began"`
	// Ended is when the copy of the files ended: the first moment that can be
	// restored with this set.
	Ended    time.Time `json:"ended"`
	Node     string    `json:"node"`    // that took it
	Bytes    int64     `json:"bytes"`   // as stored
	RawBytes int64     `json:"raw"`     // of the database
	Digest   string    `json:"digest"`  // of set.json, hex
	Problem  string    `json:"problem"` // why it failed
	// Damaged: pages of the database were corrupt while it was read.
	Damaged bool `json:"damaged,omitempty"`
	// Pinned sets are kept until they are unpinned; Gold ones for ever, too, by
	// the policy's choice.
	Pinned bool              `json:"pinned,omitempty"`
	Gold   bool              `json:"gold,omitempty"`
	Notes  map[string]string `json:"notes,omitempty"` // the operator's
	Copies map[string]Copy   `json:"copies"`          // by location
}

// CopyState is how far a set's copy at one location has come.
type CopyState string

// The states of a copy.
const (
	CopyWriting  CopyState = "writing"
	CopyComplete CopyState = "complete" // every object of the set is there
	CopyDamaged  CopyState = "damaged"  // was complete; a check found otherwise
	CopyRemoving CopyState = "removing" // is being deleted, or partly was
)

// Copy is a set at one location. Complete says nothing of the WAL that it
// needs: Place.WAL does.
type Copy struct {
	State    CopyState `json:"state"`
	At       time.Time `json:"at"`                // since when in this state
	Verified time.Time `json:"verified,omitzero"` // when its contents were last proven
	Problem  string    `json:"problem,omitempty"` // of a damaged one
}

// Place is what one location holds of the WAL.
type Place struct {
	// WAL is sorted by timeline and LSN; spans do not touch or overlap.
	WAL []Span `json:"wal,omitempty"`
	// Gaps are stretches that are known to be missing, and why.
	Gaps []Gap `json:"gaps,omitempty"`
}

// Span is a stretch of one timeline's log that is stored without a gap. From
// is a segment boundary, except that the log of a timeline may begin within
// the segment of its fork; To is where it ends, in a segment that is not full
// when the last piece is a partial one.
type Span struct {
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"`
	To       pos.LSN      `json:"to"`
	// Marks are moments of this stretch, sorted: commits and restore points
	// that were seen when it was stored, thinned out. Sparse is no fault.
	Marks []Mark `json:"marks,omitempty"`
}

// Mark says that a commit or restore point of that time ends at LSN.
type Mark struct {
	LSN pos.LSN   `json:"lsn"`
	At  time.Time `json:"at"` // by the primary's clock
	// Name is that of a restore point.
	Name string `json:"name,omitempty"`
}

// Gap is a stretch of log that a location lacks.
type Gap struct {
	Timeline pos.Timeline `json:"timeline"`
	From     pos.LSN      `json:"from"`
	To       pos.LSN      `json:"to"`
	Cause    string       `json:"cause"`
	Since    time.Time    `json:"since"`
}
