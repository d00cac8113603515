// Package walfmt knows PostgreSQL's write-ahead log: page headers, records
// and their checksums, where a log validly ends, and the few records that
// matter to replication (commits, checkpoints, ends of recovery).
//
// It follows PostgreSQL's own reader check by check, so that its answer to
// "where does this log end" is the place where PostgreSQL's crash recovery
// goes on. The package is pure: bytes come in through a Source, and nothing
// here touches a disk, a clock or a goroutine. README.md has the byte tables.
//
// Terms: a page is PageSize bytes and begins with a page header; a record may
// cross pages, each later one then begins with a continuation; a record
// boundary is the place where one record ends and the next one may begin.
package walfmt

import (
	"errors"
	"fmt"

	"understudy/shipper/pos"
)

// PageSize is the size of a WAL page in bytes. PostgreSQL can be compiled
// with another one; such a log is refused, never misread.
const PageSize = 8192

// MaxRecordSize is the largest record, in bytes, that PostgreSQL can read
// back, and the bound of Record.Data.
const MaxRecordSize = 1<<30 - 1

// Limits of a segment's size in bytes, as PostgreSQL sets them.
const (
	minSegSize = 1 << 20
	maxSegSize = 1 << 30
)

var (
	// ErrNotBoundary is returned when the place to start at cannot be where a
	// record begins: not a multiple of eight, or inside a page header. Only
	// HasWholeRecord returns it also for a page start that carries the rest of
	// an earlier record.
	ErrNotBoundary = errors.New("not a WAL record boundary")
	// ErrSegmentSize is returned for a segment size that no PostgreSQL has.
	ErrSegmentSize = errors.New("WAL segment size is not a power of two between 1 MiB and 1 GiB")
	// ErrShort is returned when the log ends before the question is answered.
	ErrShort = errors.New("log ends too early")
	// ErrPageHeader is returned by ParseLongHeader for bytes that do not begin
	// a segment of a known PostgreSQL.
	ErrPageHeader = errors.New("not the first page of a WAL segment")
)

// Source is a contiguous stretch of WAL, across segments.
type Source interface {
	// ReadWAL fills p with the log from at on. Where the log ends it returns
	// the bytes that there are and io.EOF. Any other error stops the reader.
	ReadWAL(p []byte, at pos.LSN) (int, error)
}

// Params tell which log is expected.
type Params struct {
	SegSize  int64  // bytes in a segment; required
	SystemID uint64 // system identifier in long page headers; 0 accepts any
	// Major is PostgreSQL's major version. 0 accepts the first known version
	// met and from then on only that one. A version newer than the newest
	// known one accepts unknown page magics above the known ones, which
	// trusts that the layout did not change.
	Major int
}

func (p Params) check(from pos.LSN) error {
	if p.SegSize < minSegSize || p.SegSize > maxSegSize || p.SegSize&(p.SegSize-1) != 0 {
		return fmt.Errorf("%w: %d bytes", ErrSegmentSize, p.SegSize)
	}
	head := pos.LSN(shortHeaderSize)
	if from%pos.LSN(p.SegSize) < PageSize {
		head = longHeaderSize
	}
	if off := from % PageSize; from%maxAlign != 0 || off != 0 && off < head {
		return fmt.Errorf("read WAL from %s: %w", from, ErrNotBoundary)
	}
	return nil
}

// End tells where a log ends and why.
type End struct {
	LastRecord pos.LSN // start of the last whole valid record; 0 if there is none
	// RecordEnd is the end of the last whole valid record, rounded up to eight
	// bytes as PostgreSQL counts it (and up to the segment's end after a
	// segment switch); the place where reading began if there is none. The
	// rounding may pass the last byte that the Source has.
	RecordEnd pos.LSN
	// LogEnd is where PostgreSQL's crash recovery writes its next byte. It is
	// RecordEnd, or, when a record that crosses a page is cut off, the start
	// of the page whose continuation is missing: PostgreSQL then marks that
	// page as overwriting. A promotion does not do so: it forks at RecordEnd.
	// A page that the Source has in part counts as if
	// filled up, as it is in a segment file, so LogEnd may pass the Source's
	// last byte by less than a page.
	LogEnd  pos.LSN
	Aborted pos.LSN // start of that cut-off record; 0 if none
	Reason  string  // why the log goes no further, for people
}

// Identity is what the first page of a segment says about its series.
type Identity struct {
	SystemID  uint64       // of the cluster, made by initdb
	SegSize   int64        // bytes in a segment
	BlockSize int          // bytes in a page; readers here accept PageSize only
	Timeline  pos.Timeline // of the page
	PageAddr  pos.LSN      // of the page's first byte
	Major     int          // PostgreSQL's major version
}

// Record is one whole, checked WAL record.
type Record struct {
	LSN  pos.LSN // first byte of the record, after any page header
	End  pos.LSN // where the next record may begin; see End.RecordEnd
	Prev pos.LSN // start of the record before
	XID  uint32  // transaction, 0 for none
	RMgr uint8   // resource manager that wrote it
	Info uint8   // its kind, for that resource manager
	Len  uint32  // bytes of the record, header included, page headers not
	Data []byte  // the Len bytes; valid until the next call of Reader.Next

	major int
}
