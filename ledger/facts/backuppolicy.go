package facts

import (
	"time"
)

// LocationKind is what a location is.
type LocationKind string

// The kinds of locations.
const (
	LocationLocal LocationKind = "local" // a directory of one node
	LocationSFTP  LocationKind = "sftp"
	LocationS3    LocationKind = "s3"
)

// Tier is when a location gets the sets.
type Tier string

// The tiers.
const (
	TierDisk Tier = "disk" // while they are taken
	TierCold Tier = "cold" // afterwards, as archives with the log up to the next set
)

// LocationPolicy is one place for backups. Secrets are not in it: Secret and
// Identity name entries of the node file.
type LocationPolicy struct {
	Kind LocationKind `json:"kind"`
	// Node is the node whose directory a local location is; for the others the
	// only node that may use it, "" = any.
	Node string `json:"node,omitempty"`
	// Path is the directory, on the node or on the SFTP server.
	Path    string `json:"path,omitempty"`
	Address string `json:"address,omitempty"`  // sftp: host or host:port
	User    string `json:"user,omitempty"`     // sftp
	HostKey string `json:"host_key,omitempty"` // sftp: SHA256:… or "type base64"
	Bucket  string `json:"bucket,omitempty"`   // s3
	// Endpoint is host, host:port or a URL of the S3 server; "" = Amazon's.
	Endpoint string `json:"endpoint,omitempty"`
	Region   string `json:"region,omitempty"`
	Prefix   string `json:"prefix,omitempty"` // s3: of all keys
	Secret   string `json:"secret,omitempty"` // sftp, s3: name in the node file
	// Disabled locations are not written to and not pruned; a restore may
	// still read them.
	Disabled bool `json:"disabled,omitempty"`
	// Order prefers a location for reading: the lowest first, then by name.
	Order int  `json:"order,omitempty"`
	Tier  Tier `json:"tier"`
	// ThrottleBytes bounds what is written there, per second; 0 = not.
	ThrottleBytes int64 `json:"throttle_bytes,omitempty"`
	// Window is the time of day in which it may be written to, "22:00-06:00" in
	// the backups' time zone; "" = always.
	Window string `json:"window,omitempty"`
	// EncryptTo are age recipients, separated by blanks; "" = not encrypted.
	// Identity names the secret that decrypts, needed to restore from it.
	EncryptTo string `json:"encrypt_to,omitempty"`
	Identity  string `json:"identity,omitempty"`
	// Retention is what is kept there.
	Retention Retention `json:"retention"`
}

// Retention is what a location keeps: what any of the rules keeps. Zero turns a
// rule off; with all of them off everything is kept.
type Retention struct {
	Keep   int `json:"keep,omitempty"`        // the newest complete sets
	Days   int `json:"keep_days,omitempty"`   // every moment of the last days
	Cycles int `json:"keep_cycles,omitempty"` // the newest sets, with all the log between them
	// The newest set of each of the last days, weeks, months and years.
	Daily   int `json:"daily,omitempty"`
	Weekly  int `json:"weekly,omitempty"`
	Monthly int `json:"monthly,omitempty"`
	Yearly  int `json:"yearly,omitempty"`
	// GoldEvery makes a set gold, kept for ever, when the last one is so old.
	GoldEvery time.Duration `json:"gold_every_ns,omitempty"`
	// FailedDays is how long failed and partial sets are kept.
	FailedDays int `json:"failed_days,omitempty"`
}

// DefaultLocation is a location of which nothing was said yet.
func DefaultLocation() LocationPolicy {
	return LocationPolicy{Tier: TierDisk, Retention: Retention{Days: 10, FailedDays: 90}}
}

// Source is which node takes the backups.
type Source string

// The sources.
const (
	SourceStandby Source = "standby" // while one is healthy, else the primary
	SourcePrimary Source = "primary"
)

// Level is how hard sets are compressed.
type Level string

// The levels, of Zstandard.
const (
	LevelFastest Level = "fastest"
	LevelDefault Level = "default"
	LevelBetter  Level = "better"
	LevelBest    Level = "best"
)

// ScheduleOff is the schedule of what is never due.
const ScheduleOff = "off"

// BackupPolicy is when and how backups are taken, proven and deleted.
// Schedules are "off", "daily 02:30", "weekly sun 02:30", "monthly 1 02:30" or
// five fields of cron.
type BackupPolicy struct {
	Schedule string `json:"schedule"`
	// TimeZone is a name such as Europe/Berlin. Whether the hosts know it is not
	// the ledger's to say: their lists differ.
	TimeZone string `json:"time_zone"`
	From     Source `json:"from"`
	Level    Level  `json:"level"`
	// Extra are files and folders that go into every set besides the database:
	// absolute, shell patterns, separated by blanks.
	Extra string `json:"extra,omitempty"`
	// Incremental: what the schedule asks for between two full backups is built on
	// the newest set, where the server can do that. FullEvery is the time between
	// full ones; 0 = DefaultFullEvery.
	Incremental bool          `json:"incremental,omitempty"`
	FullEvery   time.Duration `json:"full_every_ns,omitempty"`
	// TimeLimit cancels jobs that run longer; 0 = none.
	TimeLimit time.Duration `json:"time_limit_ns,omitempty"`
	// MarkerEvery is the longest time without a moment to restore to; 0 = off.
	MarkerEvery time.Duration `json:"marker_every_ns,omitempty"`
	// RetryCount is how often a failed job is repeated at once, at
	// RetryInterval; after that it is an incident, and goes on at that interval.
	RetryCount    int           `json:"retry_count"`
	RetryInterval time.Duration `json:"retry_interval_ns"`
	// VerifyEvery is within what time every stored byte is proven again; 0 = off.
	VerifyEvery   time.Duration `json:"verify_every_ns,omitempty"`
	DrillSchedule string        `json:"drill_schedule"`
	// PruneAt is the time of day of the clean-up, or "off".
	PruneAt string `json:"prune_at"`
	// RateBytes bounds the reading of the database per second; 0 = not.
	RateBytes int64 `json:"rate_bytes,omitempty"`
}

// DefaultFullEvery is the time between full backups in a policy that does not
// say it.
const DefaultFullEvery = 7 * 24 * time.Hour

// DefaultBackup is the policy of backups of a group that was given none.
func DefaultBackup() BackupPolicy {
	return BackupPolicy{
		Schedule: "daily 02:30", TimeZone: "UTC", From: SourceStandby, Level: LevelDefault,
		TimeLimit: 24 * time.Hour, MarkerEvery: 15 * time.Minute, RetryCount: 10, RetryInterval: 30 * time.Minute,
		FullEvery: DefaultFullEvery, VerifyEvery: 7 * 24 * time.Hour, DrillSchedule: ScheduleOff, PruneAt: "04:00",
	}
}

// Backups is the policy of backups in force. That of a ledger older than them
// is the default.
func (p Policy) Backups() BackupPolicy {
	if p.Backup == (BackupPolicy{}) {
		return DefaultBackup()
	}
	b := p.Backup
	if b.FullEvery == 0 { // of a ledger older than the key
		b.FullEvery = DefaultFullEvery
	}
	return b
}

// WithLocation is the policy with another entry for a location.
func (p Policy) WithLocation(name string, l LocationPolicy) Policy {
	p.Locations = with(p.Locations, name, l)
	return p
}

// WithoutLocation is the policy without a location.
func (p Policy) WithoutLocation(name string) Policy {
	if p.Locations = without(p.Locations, name); len(p.Locations) == 0 {
		p.Locations = nil
	}
	return p
}
