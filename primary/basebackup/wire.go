package basebackup

import "understudy/shipper/pos"

// ChunkSize is the unit in which files are compared and sent, in bytes.
const ChunkSize = 1 << 20

// digestSize is how much of a chunk's BLAKE3 digest travels.
const digestSize = 16

// Bounds on what the asker may make the sender hold or read.
const (
	haveBudget    = 24 << 20 // bytes of memory for the list of chunks held
	maxHaveFrames = 1 << 20
	maxPathBytes  = 1024
)

// ask introduces a side: the asker sends it first, the sender answers with
// its own.
type ask struct {
	SystemID uint64 `json:"system_id,string"` // zero in an ask: any
	Major    int    `json:"major"`            // zero in an ask: any
	Node     string `json:"node,omitempty"`
	Host     string `json:"host,omitempty"` // boot id of the operating system
}

// refusal is the text that ends a seed in either direction.
type refusal struct {
	Code string `json:"code"`
	Text string `json:"text"`
}

// Codes of a refusal. Only codeServer may pass by itself.
const (
	codeSystem = "system_id"
	codeMajor  = "major"
	codeServer = "server"
)

// Kinds of entry in a file frame.
const (
	kindFile     = "file"
	kindDir      = "dir"
	kindManifest = "manifest" // chunks follow until another frame type
)

// fileHeader opens a file; the frames of its chunks follow.
type fileHeader struct {
	Kind string `json:"kind"`
	Path string `json:"path"` // relative, as backup_manifest names it
	Size int64  `json:"size"` // bytes; -1 for the manifest
	Mode uint32 `json:"mode"` // permission bits
}

// end closes the stream.
type end struct {
	StartLSN      pos.LSN      `json:"start_lsn"`
	EndLSN        pos.LSN      `json:"end_lsn"`
	Timeline      pos.Timeline `json:"timeline"`
	FileN         uint64       `json:"file_n"`
	ManifestBytes int64        `json:"manifest_bytes"`
}

// progress keeps the line alive and tells where a side is.
type progress struct {
	Step      string `json:"step"`
	DoneBytes uint64 `json:"done_bytes"`
}

// stepReceived is the asker's word that it read the end frame.
const stepReceived = "received"
