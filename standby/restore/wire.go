package restore

import "understudy/shipper/pos"

// The messages below are described in the README of package basebackup, the
// other end of the line.

// chunkSize is the unit in which files are compared and sent, in bytes.
const chunkSize = 1 << 20

// digestSize is how much of a chunk's BLAKE3 digest travels.
const digestSize = 16

// Bounds on what is sent and accepted.
const (
	haveBudget       = 24 << 20 // what the sender keeps of the list of held chunks
	heldFileCost     = 128      // what it counts for a file besides path and digests
	maxPathBytes     = 1024
	maxNameBytes     = 255
	maxFileBytes     = 1 << 44
	maxManifestBytes = 1 << 34
	maxTablespaces   = 10000
)

type ask struct {
	SystemID uint64 `json:"system_id,string"`
	Major    int    `json:"major"`
	Node     string `json:"node,omitempty"`
	Host     string `json:"host,omitempty"`
}

type refusal struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// codeServer is the one refusal that may pass by itself.
const codeServer = "server"

// codeReceiver marks a refusal by the receiving side.
const codeReceiver = "receiver"

type plan struct {
	SystemID      uint64       `json:"system_id,string"`
	Major         int          `json:"major"`
	StartLSN      pos.LSN      `json:"start_lsn"`
	Timeline      pos.Timeline `json:"timeline"`
	EstimateBytes uint64       `json:"estimate_bytes"`
	Tablespaces   []tablespace `json:"tablespaces,omitempty"`
}

type tablespace struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"`
	InPlace  bool   `json:"in_place"`
	Device   uint64 `json:"device,string"`
	Inode    uint64 `json:"inode,string"`
}

const (
	kindFile     = "file"
	kindDir      = "dir"
	kindManifest = "manifest"
)

type fileHeader struct {
	Kind string `json:"kind"`
	Path string `json:"path"`
	Size int64  `json:"size"`
	Mode uint32 `json:"mode"`
}

type end struct {
	StartLSN      pos.LSN      `json:"start_lsn"`
	EndLSN        pos.LSN      `json:"end_lsn"`
	Timeline      pos.Timeline `json:"timeline"`
	FileN         uint64       `json:"file_n"`
	ManifestBytes int64        `json:"manifest_bytes"`
}

type progress struct {
	Step      string `json:"step"`
	DoneBytes uint64 `json:"done_bytes"`
}

const stepReceived = "received"
