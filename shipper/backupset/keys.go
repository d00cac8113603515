package backupset

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"understudy/shipper/pos"
)

// Root is the folder of one database's backups at any location.
type Root struct {
	Group   string
	Profile string
}

// LedgerKey is the object that holds the export of a group's ledger.
func LedgerKey(group string) string { return group + "/ledger.json" }

// Prefix is the root itself, with a closing slash.
func (r Root) Prefix() string { return r.Group + "/" + r.Profile + "/" }

// Sets is the folder of all sets.
func (r Root) Sets() string { return r.Prefix() + "sets/" }

// SetDir is the folder of a set.
func (r Root) SetDir(label string) string { return r.Sets() + label + "/" }

// Object is an object of a set.
func (r Root) Object(label, name string) string { return r.SetDir(label) + name }

// WAL is the folder of all log.
func (r Root) WAL() string { return r.Prefix() + "wal/" }

// Timeline is the folder of one timeline's segments.
func (r Root) Timeline(t pos.Timeline) string { return fmt.Sprintf("%s%08X/", r.WAL(), uint32(t)) }

// Segment is a whole segment.
func (r Root) Segment(t pos.Timeline, at pos.LSN, segSize int64) string {
	return r.Timeline(t) + pos.SegName(t, at, segSize) + ".zst"
}

// Partial is the beginning of a segment that is still being written.
func (r Root) Partial(t pos.Timeline, at pos.LSN, segSize int64) string {
	return r.Timeline(t) + pos.SegName(t, at, segSize) + ".partial.zst"
}

// History is PostgreSQL's history file of a timeline.
func (r Root) History(t pos.Timeline) string {
	return fmt.Sprintf("%s%08X.history", r.WAL(), uint32(t))
}

// WALObject is what the key of a piece of log says.
type WALObject struct {
	Timeline pos.Timeline
	Start    pos.LSN // of the segment; zero for a history
	Partial  bool
	History  bool
}

// ParseWAL reads a key below r.WAL; false for what is not ours.
func (r Root) ParseWAL(key string, segSize int64) (WALObject, bool) {
	rest, ok := strings.CutPrefix(key, r.WAL())
	if !ok {
		return WALObject{}, false
	}
	if stem, ok := strings.CutSuffix(rest, ".history"); ok {
		t, ok := parseTimeline(stem)
		return WALObject{Timeline: t, History: true}, ok
	}
	dir, file, ok := strings.Cut(rest, "/")
	t, isTimeline := parseTimeline(dir)
	stem, isZst := strings.CutSuffix(file, ".zst")
	if !ok || !isTimeline || !isZst {
		return WALObject{}, false
	}
	stem, partial := strings.CutSuffix(stem, ".partial")
	of, start, err := pos.ParseSegName(stem, segSize)
	if err != nil || of != t {
		return WALObject{}, false
	}
	return WALObject{Timeline: t, Start: start, Partial: partial}, true
}

func parseTimeline(s string) (pos.Timeline, bool) {
	if len(s) != 8 || strings.ToUpper(s) != s {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 32)
	return pos.Timeline(n), err == nil && n > 0
}

// labelForm is the time of the beginning in UTC; the kind of the set follows.
const labelForm = "20060102-150405"

// The last letter of a label.
const (
	fullKind        = "F"
	incrementalKind = "I"
)

var label = regexp.MustCompile(`^[0-9]{8}-[0-9]{6}[FI]$`)

// NewLabel names a full set that begins at t; one per second is possible.
func NewLabel(t time.Time) string { return t.UTC().Format(labelForm) + fullKind }

// NewIncrementalLabel names an incremental set that begins at t.
func NewIncrementalLabel(t time.Time) string { return t.UTC().Format(labelForm) + incrementalKind }

// IsIncremental tells whether a label is one of an incremental set.
func IsIncremental(label string) bool { return strings.HasSuffix(label, incrementalKind) }

// FullLabel names the full set that is taken in the place of the incremental
// one of that label.
func FullLabel(label string) string {
	return strings.TrimRight(label, fullKind+incrementalKind) + fullKind
}

// ParseLabel reads the time out of a label.
func ParseLabel(s string) (time.Time, error) {
	if !label.MatchString(s) {
		return time.Time{}, fmt.Errorf("%.40q is no label of a set, such as 20260131-233000F", s)
	}
	t, err := time.Parse(labelForm, s[:len(labelForm)])
	if err != nil {
		return time.Time{}, fmt.Errorf("%.40q is no label of a set: %w", s, err)
	}
	return t, nil
}
