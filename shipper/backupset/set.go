// Package backupset is the format of a backup: the names of its objects, its
// description set.json, the list of its files, and the compressed archives.
// README.md has the tables. Everything can be read with tar, zstd and
// PostgreSQL alone.
//
// The package is pure.
package backupset

import (
	"time"

	"understudy/shipper/pos"
)

// The versions of the format: a full set has Version, so that older programs
// read it, an incremental one IncrementalVersion.
const (
	Version            = 1
	IncrementalVersion = 2
)

// Names of the objects of a set, below its folder. A tablespace is
// "<oid>.tar.zst".
const (
	BaseName     = "base.tar.zst"    // the data directory
	ExtraName    = "extra.tar.zst"   // other files of the host
	FilesName    = "files.jsonl.zst" // one line per file, see File
	ManifestName = "backup_manifest" // PostgreSQL's own list, for pg_verifybackup
	SetName      = "set.json"        // written last: a set without it is none
)

// ChunkSize is the unit in which files are compared, in bytes: that of a seed.
const ChunkSize = 1 << 20

// DigestSize is the size of a chunk's digest: the first bytes of its
// BLAKE3-256, as in a seed.
const DigestSize = 16

// Set is what set.json says of a full or an incremental backup.
type Set struct {
	Version int    `json:"version"`
	Label   string `json:"label"`
	// Parent is the label of the set whose files an incremental one changes;
	// empty for a full one. ParentDigest is that of its set.json, see Digest:
	// who has proven a set has proven what it is built on.
	Parent       string `json:"parent,omitempty"`
	ParentDigest string `json:"parent_digest,omitempty"`

	Group    string `json:"group"`
	GroupID  string `json:"group_id"`
	Profile  string `json:"profile"`
	Node     string `json:"node"`         // that took it
	Standby  bool   `json:"from_standby"` // its role then
	Program  string `json:"program"`      // version of this program
	SystemID uint64 `json:"system_id,string"`
	// Server is what a server must be to open the files.
	Server Server `json:"server"`
	// Lineage is the group's history when the backup was taken.
	Lineage  pos.Lineage  `json:"lineage"`
	Timeline pos.Timeline `json:"timeline"` // of End; Start may lie on its parent
	Start    pos.LSN      `json:"start"`    // recovery needs the log from here on
	End      pos.LSN      `json:"end"`      // and is consistent when it reaches this
	Began    time.Time    `json:"began"`
	Ended    time.Time    `json:"ended"`

	Tablespaces []Tablespace `json:"tablespaces,omitempty"`
	// Databases are the names by oid, for an operator who looks for one.
	Databases map[uint32]string `json:"databases,omitempty"`
	FileN     int               `json:"files"`
	RawBytes  int64             `json:"raw_bytes"` // of the files
	Objects   []Object          `json:"objects"`   // sorted by name, without set.json
	// Damage are the pages whose checksum was wrong, also on a second look.
	Damage []Damage `json:"damage,omitempty"`
	// DamageN counts all of them, when the list was cut.
	DamageN int `json:"damaged_pages,omitempty"`
	// Warnings are what could not be taken, such as a listed path that is not
	// there. The database is whole all the same.
	Warnings []string          `json:"warnings,omitempty"`
	Notes    map[string]string `json:"notes,omitempty"`
}

// Server is what a server must be to open a backup's files.
type Server struct {
	Major          int    `json:"major"`
	Version        string `json:"version"` // as the server words it
	Architecture   string `json:"architecture"`
	CatalogVersion uint32 `json:"catalog_version"`
	ControlVersion uint32 `json:"control_version"`
	BlockSize      int    `json:"block_size"`
	SegSize        int64  `json:"seg_size"` // of WAL segments
	Checksums      bool   `json:"checksums"`
	// SegPages is the number of pages in a full segment of a relation; only an
	// incremental set has it.
	SegPages uint32 `json:"segment_pages,omitempty"`
	// Settings that a standby or a recovery needs at least as high.
	Settings map[string]string `json:"settings,omitempty"`
}

// Tablespace is a tablespace outside the data directory or in place.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"`
	InPlace  bool   `json:"in_place"`
}

// Object is one object of a set.
type Object struct {
	Name     string `json:"name"`
	Bytes    int64  `json:"bytes"`     // stored, before any encryption
	RawBytes int64  `json:"raw_bytes"` // after decompression
	BLAKE3   string `json:"blake3"`    // of the stored bytes, hex, 32 bytes
}

// File is one line of files.jsonl: a file, folder or link of a tar archive.
type File struct {
	Archive string    `json:"a"`           // object name
	Path    string    `json:"p"`           // as in the archive
	Type    string    `json:"y,omitempty"` // "" file, "d" folder, "l" link
	Link    string    `json:"l,omitempty"` // target
	Size    int64     `json:"s,omitempty"`
	Mode    uint32    `json:"m"` // permission bits
	At      time.Time `json:"t,omitzero"`
	Offset  int64     `json:"o"` // of its data in the decompressed archive
	// Digests are those of its chunks, one after the other.
	Digests []byte `json:"d,omitempty"` // base64 in JSON
}

// Damage is one corrupt page.
type Damage struct {
	Path  string `json:"path"`
	Block uint32 `json:"block"` // within the file
	Why   string `json:"why"`
}
