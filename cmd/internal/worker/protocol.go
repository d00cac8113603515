// Package worker does one piece of work on backups in a process of its own: it
// takes a set, archives the log, proves, deletes, copies, or restores for a
// drill. The daemon starts it, tells it what to do on standard input, proposes
// its commands to the ledger, and ends it.
//
// A process of its own keeps what it needs (memory, processor, a library's
// crash) away from the road of a commit, and can be ended at any moment.
package worker

import (
	"time"

	"understudy/ledger/facts"
	"understudy/ledger/retention"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
)

// Task is what a worker is for.
type Task string

// The tasks. All but TaskArchive are those of a job.
const (
	TaskArchive Task = "archive" // feeds locations with the log until it is told to end
	TaskBackup  Task = "backup"
	TaskVerify  Task = "verify"
	TaskPrune   Task = "prune"
	TaskFill    Task = "fill"
	TaskDrill   Task = "drill"
)

// Spec is the first line that a worker reads: everything it has to know.
// Secrets are not in it: they are read from the node file.
type Spec struct {
	Config  string       `json:"config"` // the node file
	Task    Task         `json:"task"`
	Job     facts.JobRef `json:"job"`
	Dir     string       `json:"dir"` // the worker's own folder, for logs and scratch files
	Program string       `json:"program"`

	Group     facts.Group                     `json:"group"`
	Profile   string                          `json:"profile"`
	Lineage   pos.Lineage                     `json:"lineage"`
	Members   map[string]string               `json:"members"`   // address by node
	Locations map[string]facts.LocationPolicy `json:"locations"` // those that it may use, by name
	Policy    facts.BackupPolicy              `json:"policy"`
	Catalog   *catalog.Catalog                `json:"catalog,omitempty"`

	Backup  *Backup  `json:"backup,omitempty"`
	Archive *Archive `json:"archive,omitempty"`
	Prune   *Prune   `json:"prune,omitempty"`
	Verify  *Verify  `json:"verify,omitempty"`
	Fill    *Fill    `json:"fill,omitempty"`
	Drill   *Drill   `json:"drill,omitempty"`
	// Sweep are the locations that are cleared once the task is done.
	Sweep []Sweep `json:"sweep,omitempty"`
}

// Root is where the backups lie at every location.
func (s Spec) Root() backupset.Root { return backupset.Root{Group: s.Group.Name, Profile: s.Profile} }

// Backup is a set to be taken.
type Backup struct {
	Label      string            `json:"label"`
	Parent     string            `json:"parent,omitempty"` // to build it on; "" takes a full one
	ConnString string            `json:"conn"`
	Standby    bool              `json:"standby"`
	Locations  []string          `json:"locations"`
	Notes      map[string]string `json:"notes,omitempty"`
}

// Archive is the log to be archived.
type Archive struct {
	Store string `json:"store"` // of this node: the feeder
	Feeds []Feed `json:"feeds"`
	Update
}

// Feed is a location and from where on it needs log.
type Feed struct {
	Location string  `json:"location"`
	From     pos.LSN `json:"from"`
	// New: it had no log of this history yet. What this node drops before it was
	// stored is then no gap: the location's log begins later.
	New bool `json:"new,omitempty"`
	// Stale is log that was removed there, and that the worker before this one
	// may have brought again since: it did not know yet.
	Stale pos.Range `json:"stale,omitzero"`
}

// Update is what changes while the log is archived.
type Update struct {
	// Dir is the directory with the segments of the log: pg_wal or the spool.
	Dir       string      `json:"wal_dir"`
	Lineage   pos.Lineage `json:"wal_lineage"` // as the ledger has recorded it
	Committed pos.LSN     `json:"committed"`
	// Flush names what somebody waits for: up to there even a partial segment
	// is to be archived now.
	Flush pos.LSN `json:"flush,omitempty"`
	// Marks are new moments, each once.
	Marks []catalog.Mark `json:"marks,omitempty"`
}

// Prune is what is to be deleted.
type Prune struct {
	Plan retention.Plan `json:"plan"`
	// Failed are failed sets without any copy, to be forgotten.
	Failed []string `json:"failed,omitempty"`
	// Begun is log by location whose removal a prune began and did not end.
	Begun map[string][]facts.WALRange `json:"begun,omitempty"`
}

// Sweep is what is known of those who write to a location, for it to be cleared
// of what interrupted work has left there.
type Sweep struct {
	Location string `json:"location"`
	// Over are labels of failed sets that nobody writes any more: the job that
	// did has ended, and its process with it.
	Over []string `json:"over,omitempty"`
	// Busy is when the oldest job began that may be writing there.
	Busy time.Time `json:"busy,omitzero"`
}

// Verify is what is to be proven.
type Verify struct {
	Copies []VerifyCopy `json:"copies"`
	// WAL: also prove the log of these locations.
	WAL []string `json:"wal,omitempty"`
}

// VerifyCopy is one copy of a set.
type VerifyCopy struct {
	Label    string `json:"label"`
	Location string `json:"location"`
	Digest   string `json:"digest"` // of its set.json, as the ledger has it
}

// Fill is what a location lacks.
type Fill struct {
	To     string           `json:"to"`
	Labels []string         `json:"labels,omitempty"`
	WAL    []facts.WALRange `json:"wal,omitempty"`
	Export []byte           `json:"export"` // of the ledger
	// Removals is how often log had been removed there when this was decided.
	Removals uint64 `json:"removals"`
}

// Drill is a restore to be tried out.
type Drill struct {
	Target     string `json:"target"` // as catalog.Parse reads it; "" leaves it to chance
	ConnString string `json:"conn"`   // of this node's own server
	BinDir     string `json:"bin_dir"`
	Account    string `json:"account"`
	TimeZone   string `json:"time_zone"`
}

// Line is every further line that a worker reads. Exactly one field is set.
type Line struct {
	Answer *Answer `json:"answer,omitempty"`
	Update *Update `json:"update,omitempty"`
	// Export is what every location is to hold of the ledger.
	Export []byte `json:"export,omitempty"`
}

// Answer tells what became of a command that the worker asked to propose.
type Answer struct {
	N     int    `json:"n"`
	Error string `json:"error,omitempty"`
	// Refused: the ledger says no; repeating cannot help.
	Refused bool `json:"refused,omitempty"`
}

// Message is every line that a worker writes. Exactly one of the pointers is
// set.
type Message struct {
	// Propose is a command for the ledger; it is answered under N.
	N        int            `json:"n,omitempty"`
	Propose  *facts.Command `json:"propose,omitempty"`
	Progress *Progress      `json:"progress,omitempty"`
	Feeds    []FeedStatus   `json:"feeds,omitempty"`
	File     *File          `json:"file,omitempty"`
	Done     *Done          `json:"done,omitempty"`
}

// Progress is how far a job has come, in bytes.
type Progress struct {
	Step  string `json:"step"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0 = not known
	// Places are the bytes that each location has taken.
	Places map[string]int64 `json:"places,omitempty"`
}

// FeedStatus is how far one location is fed.
type FeedStatus struct {
	Location string       `json:"location"`
	Timeline pos.Timeline `json:"timeline"`
	Archived pos.LSN      `json:"archived"` // everything below is stored
	Whole    pos.LSN      `json:"whole"`    // below is in whole segments, and needed no more
	Backlog  int64        `json:"backlog"`  // committed bytes that are not
	Rate     int64        `json:"rate"`     // raw bytes per second lately
	Problem  string       `json:"problem,omitempty"`
	Since    time.Time    `json:"since,omitzero"` // of the problem
	Waiting  string       `json:"waiting,omitempty"`
}

// File is one object that a job has made or removed.
type File struct {
	Location string `json:"location"`
	Key      string `json:"key"`
	Bytes    int64  `json:"bytes"`
	Removed  bool   `json:"removed,omitempty"`
}

// Done is the last message of a job that ended by itself.
type Done struct {
	Result  string `json:"result,omitempty"`
	Problem string `json:"problem,omitempty"`
	Bytes   int64  `json:"bytes,omitempty"`
}
