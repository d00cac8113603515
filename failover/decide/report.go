// Package decide chooses what the group does next: Decide takes an
// observation and a policy and returns a plan, by an ordered table of rules
// with stable ids. It is pure; the controller in package failover carries the
// plan out as compare-and-set commands on the ledger.
package decide

import (
	"time"

	"understudy/shipper/pos"
)

// Role is what a node is doing now, by its own account.
type Role string

// The roles a node reports. A node that is none of these reports RoleNone.
const (
	RoleNone    Role = "none"    // data node whose PostgreSQL has no assignment yet
	RolePrimary Role = "primary" // its PostgreSQL is, or is being, opened for writing
	RoleStandby Role = "standby"
	RoleSeeding Role = "seeding" // standby that is receiving its base
	RoleWitness Role = "witness"
)

// ServerState is the state of a node's PostgreSQL as its own daemon sees it.
type ServerState string

// The states of a PostgreSQL server.
const (
	ServerAbsent   ServerState = "absent"   // witness, or an empty data directory
	ServerStopped  ServerState = "stopped"  // a data directory without a running server
	ServerStarting ServerState = "starting" // postmaster runs, does not answer yet
	ServerLocked   ServerState = "locked"   // runs as primary, ordinary clients locked out
	ServerOpen     ServerState = "open"     // runs as primary, clients are let in
	ServerReplica  ServerState = "replica"  // runs as standby
	ServerFailed   ServerState = "failed"   // cannot be started; Problem says why
)

// Server is what a daemon says of its own PostgreSQL.
type Server struct {
	State        ServerState  `json:"state"`
	Problem      string       `json:"problem,omitempty"`
	SystemID     uint64       `json:"system_id,string,omitempty"`
	Major        int          `json:"major,omitempty"`
	Timeline     pos.Timeline `json:"timeline,omitempty"`
	StartedEpoch pos.Epoch    `json:"started_epoch"` // epoch in force when it was started for writing
	// EndedFor is for how long that end has been known.
	EndedFor time.Duration `json:"ended_for_ns,omitempty"`
	// Failing is why this server, or the disk below it, cannot serve, found by
	// the daemon's own probes; "" when it can. FailingFor is since how long.
	Failing    string        `json:"failing,omitempty"`
	FailingFor time.Duration `json:"failing_for_ns,omitempty"`
	// Ended is the newest epoch this node was the primary of whose server is
	// known to have ended, first hand: it will not write in that epoch again.
	Ended pos.Epoch `json:"ended"`
	// Written is where the log of a server that is or was open for writing ended
	// when it was last looked at.
	Written   pos.LSN `json:"written,omitzero"`
	Redo      pos.LSN `json:"redo"`      // where a restart of it would begin to replay
	Streaming bool    `json:"streaming"` // standby: its walreceiver is connected to the daemon
	PID       int     `json:"pid,omitempty"`
}

// Link is one end of a connection of the data plane.
type Link struct {
	Peer    string        `json:"peer"`
	State   string        `json:"state"` // "streaming", "catching up", "connecting", "refused"
	Since   time.Time     `json:"since"`
	RTT     time.Duration `json:"rtt_ns"`
	Sent    pos.LSN       `json:"sent"`
	Acked   pos.LSN       `json:"acked"`
	Applied pos.LSN       `json:"applied"`
	// Delay is the age, by the primary's clock, of the oldest flushed byte
	// that this peer has not acknowledged; zero when it has all.
	Delay    time.Duration `json:"delay_ns"`
	BytesSec uint64        `json:"bytes_per_second"`
	Problem  string        `json:"problem,omitempty"`
}

// Seed is the progress of a base being received.
type Seed struct {
	Step       string    `json:"step"` // "waiting", "checkpoint", "copying", "finishing"
	DoneBytes  uint64    `json:"done_bytes"`
	TotalBytes uint64    `json:"total_bytes"`
	SameBytes  uint64    `json:"same_bytes"` // found here from an earlier try and not sent again
	Attempt    int       `json:"attempt"`
	Since      time.Time `json:"since"`
	Problem    string    `json:"problem,omitempty"` // why the latest attempt ended
}

// Spool is the state of a node's log of received WAL.
type Spool struct {
	From    pos.LSN `json:"from"`
	End     pos.LSN `json:"end"`
	Bytes   uint64  `json:"bytes"`
	Problem string  `json:"problem,omitempty"` // for example "no space left on device"
}

// Hears is how well one node hears another, at the time of its report.
type Hears struct {
	Node  string `json:"node"`
	Store string `json:"store"`
	// Never: no report of it has come since this daemon began.
	Never bool `json:"never,omitempty"`
	// Ago is how long ago the newest report came, or, with Never, since when
	// this daemon has listened.
	Ago time.Duration `json:"ago_ns"`
	// Gone: the connection on which its reports came has ended, and nothing was
	// heard since.
	Gone bool `json:"gone,omitempty"`
	// Refusals counts how often in a row its host has refused a connection
	// since, and RefusedFor is the time between the first and the last of them.
	Refusals   int           `json:"refusals,omitempty"`
	RefusedFor time.Duration `json:"refused_for_ns,omitempty"`
	// Clock is Report.Clock of the newest report.
	Clock time.Duration `json:"clock_ns,omitempty"`
}

// Stream is what a node last received of the primary's log.
type Stream struct {
	Epoch pos.Epoch `json:"epoch"`
	// Moved is how long ago the committed LSN last moved here.
	Moved time.Duration `json:"moved_ns"`
	// Flushed is when the primary's PostgreSQL had flushed the newest log that
	// came here, by the primary's Report.Clock.
	Flushed time.Duration `json:"flushed_ns"`
}

// Report is what one node says of itself, every 100 ms and after every change,
// to every other node. It is an observation only: what counts for elections is
// reported to the ledger by command.
type Report struct {
	Node   string    `json:"node"`
	Store  string    `json:"store"`
	Kind   string    `json:"kind"` // "data" or "witness"
	Boot   string    `json:"boot"` // one run of the daemon
	Seq    uint64    `json:"seq"`
	SentAt time.Time `json:"sent_at"` // sender's clock
	// Clock is the sender's clock, as its log frames carry it.
	Clock   time.Duration `json:"clock_ns,omitempty"`
	Version string        `json:"version"`
	PID     int           `json:"pid"`
	Address string        `json:"address"` // between nodes, host:port
	HTTP    string        `json:"http"`

	// Ledger and Generation tell apart the halves of a group that was formed
	// anew by force.
	Ledger     string `json:"ledger,omitempty"`
	Generation uint32 `json:"generation,omitempty"`

	Role      Role         `json:"role"`
	Epoch     pos.Epoch    `json:"epoch"` // newest adopted lineage entry
	Fence     pos.Epoch    `json:"fence"`
	Timeline  pos.Timeline `json:"timeline"`
	Received  pos.LSN      `json:"received"`
	Durable   pos.LSN      `json:"durable"`
	Applied   pos.LSN      `json:"applied"`
	Committed pos.LSN      `json:"committed"` // highest this node has heard of

	// VotersVersion is the version of the WAL voter set the primary counts by.
	VotersVersion uint64 `json:"voters_version"`
	// MajorityContact is when a majority last answered this primary, by its
	// own clock; zero on other nodes.
	MajorityContact time.Time `json:"majority_contact"`

	Server Server `json:"server"`
	// Hears is what this node hears of the other members, in order of name.
	Hears []Hears `json:"hears,omitempty"`
	// Stream is what this node last received of the primary's log; nil on the
	// primary, and before there was any.
	Stream *Stream `json:"stream,omitempty"`
	Links  []Link  `json:"links"`
	Seed   *Seed   `json:"seed,omitempty"`
	Spool  Spool   `json:"spool"`
	// Problems are this node's standing incidents: key to sentence.
	Problems map[string]string `json:"problems,omitempty"`
	// Work is what this node does for the group's backups, Feeds how far it has
	// brought the log to locations. Nothing of the primaryship is decided by
	// them.
	Work  []Work `json:"work,omitempty"`
	Feeds []Feed `json:"feeds,omitempty"`
}

// Work is how far a job has come, in bytes.
type Work struct {
	Job   string `json:"job"`
	Step  string `json:"step"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0 = not known
}

// Feed is how far the log is at one location of backups.
type Feed struct {
	Location string       `json:"location"`
	Timeline pos.Timeline `json:"timeline"`
	Archived pos.LSN      `json:"archived"`
	Backlog  int64        `json:"backlog"` // committed bytes that are not there
	Rate     int64        `json:"rate"`    // bytes of log per second lately
	Problem  string       `json:"problem,omitempty"`
	Since    time.Time    `json:"since,omitzero"` // of the problem
	Waiting  string       `json:"waiting,omitempty"`
}

// Heard is a report with the time at which this node received it, by its own
// monotonic clock.
type Heard struct {
	Report Report
	At     time.Time
	// Gone: the connection on which it came has ended since. The node's process
	// has, or the way to it.
	Gone bool `json:",omitempty"`
}
