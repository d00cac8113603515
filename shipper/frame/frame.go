// Package frame is the stream codec between daemons: numbered, CRC-checked
// frames, each a fixed header and a payload of bounded size.
//
// The package is pure: it reads and writes whatever it is given, starts
// nothing and looks at no clock. README.md is the byte table.
package frame

import (
	"errors"
	"hash/crc32"
	"strconv"
)

const (
	// Version is the only format version that this package reads and writes.
	Version = 1
	// HeaderSize is the number of bytes before each payload.
	HeaderSize = 20
	// MaxPayload is the largest payload in bytes: a mebibyte of data, its head
	// and room to spare.
	MaxPayload = 1<<20 + 4096
	// MaxData is the most bytes of WAL that one Data frame carries.
	MaxData = MaxPayload - DataHeadSize
)

// Offsets of the header's fields.
const (
	offVersion  = 2
	offType     = 3
	offLength   = 4
	offSequence = 8
	offCRC      = 16
)

const (
	magic0 = 'U'
	magic1 = 'S'
)

// castagnoli is read-only after its construction; crc32 recognises it and uses
// the processor's instruction.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Type tells what a payload is. Zero is invalid, so that a run of zero bytes
// is never a frame.
type Type uint8

// The frame types. Three of them end in Frame because the plain name is the
// struct that the payload decodes to.
const (
	Hello        Type = iota + 1 // JSON: what the dialling side has and wants
	Welcome                      // JSON: where the session begins
	Refuse                       // JSON: why there is no session
	Data                         // DataHead and WAL bytes
	AckFrame                     // Ack
	BeatFrame                    // Beat
	BeatAckFrame                 // BeatAck
	Floor                        // caller-defined: the retention floor
	Fetch                        // JSON: a request for older WAL
	SeedAsk                      // JSON: a node without data asks for a copy
	SeedHave                     // JSON: what the asking node already holds
	SeedPlan                     // JSON: what will be sent
	SeedFile                     // JSON: the file that the next chunks belong to
	SeedChunk                    // raw bytes of the current file
	SeedSame                     // JSON: a stretch that the asking node already holds
	SeedEnd                      // JSON: the copy is complete
	SeedProgress                 // JSON: how far the asking node has stored it durably
	Bye                          // the sender ends the stream on purpose
	endOfTypes
)

var typeNames = [...]string{
	Hello: "hello", Welcome: "welcome", Refuse: "refuse", Data: "data",
	AckFrame: "ack", BeatFrame: "beat", BeatAckFrame: "beat ack",
	Floor: "floor", Fetch: "fetch", SeedAsk: "seed ask", SeedHave: "seed have",
	SeedPlan: "seed plan", SeedFile: "seed file", SeedChunk: "seed chunk",
	SeedSame: "seed same", SeedEnd: "seed end", SeedProgress: "seed progress",
	Bye: "bye",
}

// Valid tells whether t is a type of this version.
func (t Type) Valid() bool { return t > 0 && t < endOfTypes }

// String is the type's name, or its number when it has none.
func (t Type) String() string {
	if t.Valid() {
		return typeNames[t]
	}
	return "type " + strconv.Itoa(int(t))
}

// The errors of a stream. Each is permanent: the stream cannot be read on, the
// connection has to be closed and the session negotiated anew.
var (
	// ErrMagic is returned when a frame does not begin with the magic bytes.
	ErrMagic = errors.New("not a frame")
	// ErrVersion is returned when the frame is of a version not known here.
	ErrVersion = errors.New("unknown frame version")
	// ErrType is returned when the type is zero or not of this version.
	ErrType = errors.New("unknown frame type")
	// ErrCRC is returned when header or payload changed on the way.
	ErrCRC = errors.New("frame checksum mismatch")
	// ErrSequence is returned when a frame was lost, repeated or reordered.
	ErrSequence = errors.New("frame out of sequence")
	// ErrTooLong is returned when a payload exceeds MaxPayload.
	ErrTooLong = errors.New("frame too long")
	// ErrTruncated is returned when the stream ends inside a frame. A stream
	// that ends between frames is io.EOF; whether that end was meant is told by
	// a Bye before it.
	ErrTruncated = errors.New("stream ends inside a frame")
	// ErrPayload is returned by the decoders when a payload is not of the form
	// its type calls for.
	ErrPayload = errors.New("malformed payload")
)
