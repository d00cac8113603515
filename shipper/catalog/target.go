package catalog

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"understudy/shipper/pos"
)

// Kind is what a recovery is aimed at.
type Kind string

// The kinds of a target.
const (
	Latest    Kind = "latest"    // the end of the log that is stored without a gap
	Immediate Kind = "immediate" // the end of the set itself
	AtTime    Kind = "time"      // a moment by the primary's clock
	AtLSN     Kind = "lsn"       // a record of the log
	AtXID     Kind = "xid"       // the end of a transaction
	AtName    Kind = "name"      // a named restore point
)

// Target is what a recovery is aimed at.
type Target struct {
	Kind Kind      `json:"kind"`
	Time time.Time `json:"time,omitzero"` // in microseconds, as PostgreSQL counts
	LSN  pos.LSN   `json:"lsn,omitempty"`
	XID  uint64    `json:"xid,omitempty"`
	Name string    `json:"name,omitempty"`
	// Timeline is the history that is followed; zero is the newest one.
	Timeline pos.Timeline `json:"timeline,omitempty"`
	// Inclusive recovers what stands exactly at a time, LSN or xid, too.
	Inclusive bool `json:"inclusive"`
}

// ErrTarget is returned for text or a Target that names nothing a recovery
// could be aimed at.
var ErrTarget = errors.New("not a target of a recovery")

// stampForm is how a moment is written, and dayForm its date.
const (
	stampForm = "2006-01-02 15:04:05.999999-07:00"
	dayForm   = "2006-01-02"
)

var (
	lsnForm  = regexp.MustCompile(`^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$`)
	dateForm = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}([ T]|$)`)
	nameForm = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.:+@-]{0,62}$`)
)

// maxName is the longest name of a restore point that PostgreSQL takes.
const maxName = 63

// minXID is the lowest id of an ordinary transaction.
const minXID = 3

// Parse reads a target: "latest", "immediate", a moment such as
// "2026-11-22 10:00:00+01" or in the form of RFC 3339, an LSN, "xid:1234", or
// the name of a restore point, "name:" before it if it looks like one of the
// others. A moment without an offset is read in zone; when that is nil, it is
// refused, and so is one that zone's clocks showed twice or never. The target
// is inclusive and follows the newest timeline.
func Parse(s string, zone *time.Location) (Target, error) {
	s = strings.TrimSpace(s)
	kind, value, prefixed := strings.Cut(s, ":")
	switch {
	case s == string(Latest) || s == string(Immediate):
		return Target{Kind: Kind(s), Inclusive: true}, nil
	case prefixed && kind == string(AtXID):
		return parseXID(value)
	case prefixed && kind == string(AtName):
		return named(value)
	case prefixed && (kind == string(AtTime) || kind == string(AtLSN)):
		s = strings.TrimSpace(value)
	}
	switch {
	case kind != string(AtTime) && lsnForm.MatchString(s):
		l, err := pos.ParseLSN(s)
		t := Target{Kind: AtLSN, LSN: l, Inclusive: true}
		if err == nil {
			err = t.Validate()
		}
		return t, err
	case kind != string(AtLSN) && dateForm.MatchString(s):
		return parseTime(s, zone)
	case !prefixed && nameForm.MatchString(s):
		return named(s)
	}
	return Target{}, fmt.Errorf("%w: %.80q; give latest, immediate, a time such as 2026-11-22 10:00:00+01, an LSN, xid:N or name:NAME", ErrTarget, s)
}

func parseXID(s string) (Target, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n < minXID {
		return Target{}, fmt.Errorf("%w: %.40q is no transaction id, a whole number from %d on", ErrTarget, s, minXID)
	}
	return Target{Kind: AtXID, XID: n, Inclusive: true}, nil
}

func named(s string) (Target, error) {
	t := Target{Kind: AtName, Name: s, Inclusive: true}
	return t, t.Validate()
}

func parseTime(s string, zone *time.Location) (Target, error) {
	s = strings.Replace(s, "T", " ", 1)
	for _, clock := range []string{"15:04:05", "15:04"} {
		for _, offset := range []string{"Z07:00", "Z0700", "Z07", " Z07:00", " Z0700", " Z07"} {
			if at, err := time.Parse(dayForm+" "+clock+offset, s); err == nil {
				return atTime(at)
			}
		}
	}
	for _, form := range []string{dayForm + " 15:04:05", dayForm + " 15:04", dayForm} {
		wall, err := time.Parse(form, s)
		if err != nil {
			continue
		}
		if zone == nil {
			return Target{}, fmt.Errorf("%w: the time %q has no offset from UTC; add one, such as %s+00", ErrTarget, s, s)
		}
		at, err := inZone(wall, zone)
		if err != nil {
			return Target{}, err
		}
		return atTime(at)
	}
	return Target{}, fmt.Errorf("%w: %.60q is no time; write it as 2026-11-22 10:00:00+01", ErrTarget, s)
}

func atTime(at time.Time) (Target, error) {
	t := Target{Kind: AtTime, Time: at.UTC().Truncate(time.Microsecond), Inclusive: true}
	return t, t.Validate()
}

// inZone is the moment at which the clocks of a zone showed wall, given in UTC.
func inZone(wall time.Time, zone *time.Location) (time.Time, error) {
	var found []time.Time
	for _, probe := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		_, offset := wall.Add(probe).In(zone).Zone()
		at := wall.Add(-time.Duration(offset) * time.Second)
		_, there := at.In(zone).Zone()
		if there == offset && (len(found) == 0 || !found[0].Equal(at)) {
			found = append(found, at)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return time.Time{}, fmt.Errorf("%w: the clocks of %s never showed %s; give the offset from UTC", ErrTarget, zone, wall.Format(time.DateTime))
	}
	return time.Time{}, fmt.Errorf("%w: the clocks of %s showed %s twice; give the offset from UTC", ErrTarget, zone, wall.Format(time.DateTime))
}

// Validate accepts a target that a recovery can be aimed at.
func (t Target) Validate() error {
	switch t.Kind {
	case Latest, Immediate:
		return nil
	case AtTime:
		if y := t.Time.UTC().Year(); t.Time.IsZero() || y < 2000 || y > 9999 {
			return fmt.Errorf("%w: a time of the year %d", ErrTarget, y)
		}
	case AtLSN:
		if t.LSN == 0 {
			return fmt.Errorf("%w: the LSN 0/0 is before all log", ErrTarget)
		}
	case AtXID:
		if t.XID < minXID {
			return fmt.Errorf("%w: transaction %d", ErrTarget, t.XID)
		}
	case AtName:
		if t.Name == "" || len(t.Name) > maxName || strings.ContainsFunc(t.Name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
			return fmt.Errorf("%w: the name of a restore point has 1 to %d printable bytes, %.70q has not", ErrTarget, maxName, t.Name)
		}
	default:
		return fmt.Errorf("%w: kind %.20q", ErrTarget, t.Kind)
	}
	return nil
}

// String is the target in the form that Parse reads; it leaves out the
// timeline and Inclusive.
func (t Target) String() string {
	switch t.Kind {
	case AtTime:
		return stamp(t.Time)
	case AtLSN:
		return t.LSN.String()
	case AtXID:
		return "xid:" + strconv.FormatUint(t.XID, 10)
	case AtName:
		return "name:" + t.Name
	}
	return string(t.Kind)
}

// stamp writes a moment as PostgreSQL and Parse read it.
func stamp(t time.Time) string { return t.UTC().Format(stampForm) }
