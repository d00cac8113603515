// Package pos holds the positions of the replication road: LSN, timeline,
// epoch, and the lineage that orders them.
//
// The package is pure. Every other package that names a place in the WAL uses
// these types, so that an LSN, a timeline and an epoch cannot be swapped by
// accident.
package pos

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// LSN is a byte address in the write-ahead log, as PostgreSQL counts it.
// Zero means "none".
type LSN uint64

// ParseLSN reads PostgreSQL's notation, two hexadecimal numbers of up to eight
// digits each around a slash: "16/B374D848".
func ParseLSN(s string) (LSN, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("parse LSN %q: no slash", s)
	}
	h, err := strconv.ParseUint(hi, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	l, err := strconv.ParseUint(lo, 16, 32)
	if err != nil {
		return 0, fmt.Errorf("parse LSN %q: %w", s, err)
	}
	return LSN(h<<32 | l), nil
}

// String is PostgreSQL's notation.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint32(l>>32), uint32(l)) }

// MarshalText writes PostgreSQL's notation.
func (l LSN) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText reads PostgreSQL's notation.
func (l *LSN) UnmarshalText(b []byte) error {
	v, err := ParseLSN(string(b))
	if err != nil {
		return err
	}
	*l = v
	return nil
}

// Sub returns l-o in bytes, or zero when o is beyond l.
func (l LSN) Sub(o LSN) uint64 {
	if o >= l {
		return 0
	}
	return uint64(l - o)
}

// SegStart is the first byte of the segment that holds l; segSize is in bytes.
func (l LSN) SegStart(segSize int64) LSN { return l - l%LSN(segSize) }

// SegEnd is the first byte after the segment that holds l.
func (l LSN) SegEnd(segSize int64) LSN { return l.SegStart(segSize) + LSN(segSize) }

// Timeline is PostgreSQL's timeline id. Zero means "none".
type Timeline uint32

// SegName is the 24-digit file name of the segment of timeline t that holds
// l, as PostgreSQL names it.
func SegName(t Timeline, l LSN, segSize int64) string {
	no := uint64(l) / uint64(segSize)
	per := uint64(0x100000000) / uint64(segSize)
	return fmt.Sprintf("%08X%08X%08X", uint32(t), uint32(no/per), uint32(no%per))
}

// ParseSegName reads a 24-digit segment file name into its timeline and first
// LSN.
func ParseSegName(name string, segSize int64) (Timeline, LSN, error) {
	if len(name) != 24 {
		return 0, 0, fmt.Errorf("parse segment name %q: not 24 digits", name)
	}
	var part [3]uint64
	for i := range part {
		v, err := strconv.ParseUint(name[8*i:8*i+8], 16, 32)
		if err != nil {
			return 0, 0, fmt.Errorf("parse segment name %q: %w", name, err)
		}
		part[i] = v
	}
	per := uint64(0x100000000) / uint64(segSize)
	if part[0] == 0 || part[2] >= per {
		return 0, 0, fmt.Errorf("parse segment name %q: out of range for segments of %d bytes", name, segSize)
	}
	return Timeline(part[0]), LSN((part[1]*per + part[2]) * uint64(segSize)), nil
}

// Epoch names one primaryship. It only grows and is given out by the ledger
// alone; every start of a PostgreSQL for writing is a new one. Gen rises only
// when a group is re-formed by force. The zero Epoch is "none" and lower than
// all others.
type Epoch struct {
	Gen uint32
	Num uint64
}

// IsZero tells whether e is "none".
func (e Epoch) IsZero() bool { return e == Epoch{} }

// Compare orders epochs by generation, then number: -1, 0 or +1.
func (e Epoch) Compare(o Epoch) int {
	if c := cmp.Compare(e.Gen, o.Gen); c != 0 {
		return c
	}
	return cmp.Compare(e.Num, o.Num)
}

// Less is Compare < 0.
func (e Epoch) Less(o Epoch) bool { return e.Compare(o) < 0 }

// Next is the following epoch of the same generation.
func (e Epoch) Next() Epoch { return Epoch{Gen: e.Gen, Num: e.Num + 1} }

// String is "generation.number".
func (e Epoch) String() string { return fmt.Sprintf("%d.%d", e.Gen, e.Num) }

// ParseEpoch reads "generation.number".
func ParseEpoch(s string) (Epoch, error) {
	g, n, ok := strings.Cut(s, ".")
	if !ok {
		return Epoch{}, fmt.Errorf("parse epoch %q: no dot", s)
	}
	gen, err := strconv.ParseUint(g, 10, 32)
	if err != nil {
		return Epoch{}, fmt.Errorf("parse epoch %q: %w", s, err)
	}
	num, err := strconv.ParseUint(n, 10, 64)
	if err != nil {
		return Epoch{}, fmt.Errorf("parse epoch %q: %w", s, err)
	}
	return Epoch{Gen: uint32(gen), Num: num}, nil
}

// MarshalText writes "generation.number".
func (e Epoch) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// UnmarshalText reads "generation.number".
func (e *Epoch) UnmarshalText(b []byte) error {
	v, err := ParseEpoch(string(b))
	if err != nil {
		return err
	}
	*e = v
	return nil
}

// Pos is a place in the history of the database: the epoch of the last
// adopted lineage entry at or below the LSN, and the LSN. Positions are
// compared in that order, so that a long tail of an old epoch never beats a
// short one of a newer epoch.
type Pos struct {
	Epoch Epoch `json:"epoch"`
	LSN   LSN   `json:"lsn"`
}

// Compare orders by epoch, then LSN: -1, 0 or +1.
func (p Pos) Compare(o Pos) int {
	if c := p.Epoch.Compare(o.Epoch); c != 0 {
		return c
	}
	return cmp.Compare(p.LSN, o.LSN)
}

// Less is Compare < 0.
func (p Pos) Less(o Pos) bool { return p.Compare(o) < 0 }

// String is "epoch@LSN".
func (p Pos) String() string { return p.Epoch.String() + "@" + p.LSN.String() }

// Entry is one step of a lineage: from Start on, the log is the one that
// Epoch wrote on Timeline.
type Entry struct {
	Epoch    Epoch    `json:"epoch"`
	Timeline Timeline `json:"timeline"`
	Start    LSN      `json:"start"`
}

// Lineage is the history of the database, oldest entry first. Epochs grow
// strictly; starts and timelines never fall. A Lineage is treated as
// immutable: methods return new slices.
type Lineage []Entry

// ErrLineage is returned by Validate for a list that is no history.
var ErrLineage = errors.New("not a lineage")

// Validate checks the order of epochs, timelines and starts.
func (l Lineage) Validate() error {
	for i, e := range l {
		if e.Epoch.IsZero() || e.Timeline == 0 {
			return fmt.Errorf("%w: entry %d has no epoch or timeline", ErrLineage, i)
		}
		if i == 0 {
			continue
		}
		p := l[i-1]
		if !p.Epoch.Less(e.Epoch) {
			return fmt.Errorf("%w: epoch %s after %s", ErrLineage, e.Epoch, p.Epoch)
		}
		if e.Start < p.Start {
			return fmt.Errorf("%w: epoch %s starts at %s, before %s", ErrLineage, e.Epoch, e.Start, p.Start)
		}
		if e.Timeline < p.Timeline {
			return fmt.Errorf("%w: timeline %d after %d", ErrLineage, e.Timeline, p.Timeline)
		}
	}
	return nil
}

// Last is the newest entry; the zero Entry when the lineage is empty.
func (l Lineage) Last() Entry {
	if len(l) == 0 {
		return Entry{}
	}
	return l[len(l)-1]
}

// With returns the lineage with e appended; an entry of the same epoch is
// replaced, and entries of that epoch or newer that stood at the end go.
func (l Lineage) With(e Entry) Lineage {
	n := len(l)
	for n > 0 && !l[n-1].Epoch.Less(e.Epoch) {
		n--
	}
	out := make(Lineage, 0, n+1)
	return append(append(out, l[:n]...), e)
}

// At is the entry in force at the byte l: the newest whose Start is at or
// below it. Bytes before the first entry belong to the first one, since a
// group takes over a database that may have a past.
func (l Lineage) At(lsn LSN) Entry {
	for i := len(l) - 1; i >= 0; i-- {
		if l[i].Start <= lsn {
			return l[i]
		}
	}
	if len(l) > 0 {
		return l[0]
	}
	return Entry{}
}

// TimelineAt is the timeline whose segment files hold the byte lsn.
func (l Lineage) TimelineAt(lsn LSN) Timeline { return l.At(lsn).Timeline }

// Position is the place of a log with this lineage that is durable up to lsn.
func (l Lineage) Position(lsn LSN) Pos { return Pos{Epoch: l.At(lsn).Epoch, LSN: lsn} }

// Fork tells how far two lineages describe the same bytes: the LSN up to which
// they agree, and same = true when neither leaves the other (one is a prefix
// of the other, or they are equal), in which case lsn is the start of the
// first entry that only one of them has, or zero when they are equal.
func (l Lineage) Fork(o Lineage) (lsn LSN, same bool) {
	for i := range min(len(l), len(o)) {
		if l[i] != o[i] {
			return min(l[i].Start, o[i].Start), false
		}
	}
	switch {
	case len(l) > len(o):
		return l[len(o)].Start, true
	case len(o) > len(l):
		return o[len(l)].Start, true
	}
	return 0, true
}

// Range is the half-open stretch of log [From, To).
type Range struct {
	From LSN `json:"from"`
	To   LSN `json:"to"`
}

// Empty tells whether the range holds no byte.
func (r Range) Empty() bool { return r.To <= r.From }

// Len is the number of bytes in the range.
func (r Range) Len() uint64 { return r.To.Sub(r.From) }

// String is "[from, to)".
func (r Range) String() string { return "[" + r.From.String() + ", " + r.To.String() + ")" }
