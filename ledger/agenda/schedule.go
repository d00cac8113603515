package agenda

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is a sequence of moments by the clocks of a time zone. The zero
// Schedule has none.
//
// A time that the clocks skip when they are put forward happens when they are;
// one that they show twice happens the first time only. A schedule whose hours
// are "*" runs on through both.
type Schedule struct {
	text string
	spec *cron.SpecSchedule // of the clock's face, as if that were UTC
	zone *time.Location
	// every: all hours match, and the face of the clock does not matter.
	every bool
}

// ErrSchedule is returned for text that is no schedule.
var ErrSchedule = errors.New("not a schedule")

var (
	fieldForm = regexp.MustCompile(`^[0-9A-Za-z*/,?-]{1,100}$`)
	clockForm = regexp.MustCompile(`^([01][0-9]|2[0-3]):([0-5][0-9])$`)
	dayForm   = regexp.MustCompile(`^([1-9]|1[0-9]|2[0-8])$`)
)

// ParseSchedule reads "daily 02:30", "weekly sun 02:30", "monthly 1 02:30" or
// the five fields of cron; "" and "never" are the zero Schedule. Times are
// those of zone; nil is UTC.
func ParseSchedule(text string, zone *time.Location) (Schedule, error) {
	text = strings.Join(strings.Fields(text), " ")
	if zone == nil {
		zone = time.UTC
	}
	if text == "" || text == "never" {
		return Schedule{}, nil
	}
	fields, err := cronFields(strings.Fields(text))
	if err != nil {
		return Schedule{}, fmt.Errorf("%w: %.60q: %w", ErrSchedule, text, err)
	}
	parsed, err := cron.NewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).Parse(strings.Join(fields, " "))
	if err != nil {
		return Schedule{}, fmt.Errorf("%w: %.60q: %w", ErrSchedule, text, err)
	}
	spec, ok := parsed.(*cron.SpecSchedule)
	if !ok {
		return Schedule{}, fmt.Errorf("%w: %.60q", ErrSchedule, text)
	}
	spec.Location = time.UTC
	if spec.Next(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)).IsZero() {
		return Schedule{}, fmt.Errorf("%w: %.60q never happens", ErrSchedule, text)
	}
	return Schedule{text: text, spec: spec, zone: zone, every: strings.HasPrefix(fields[1], "*") && !strings.Contains(fields[1], "/")}, nil
}

// cronFields turns words into the fields of cron and lets only fields pass.
func cronFields(words []string) ([]string, error) {
	switch {
	case words[0] == "daily" && len(words) == 2:
		return onDays(words[1], "*", "*")
	case words[0] == "weekly" && len(words) == 3:
		if len(words[1]) != 3 || !strings.Contains("sun mon tue wed thu fri sat", words[1]) {
			return nil, errors.New("the day of a week is one of sun, mon, tue, wed, thu, fri, sat")
		}
		return onDays(words[2], "*", words[1])
	case words[0] == "monthly" && len(words) == 3:
		if !dayForm.MatchString(words[1]) {
			return nil, errors.New("the day of a month is 1 to 28, which every month has")
		}
		return onDays(words[2], words[1], "*")
	case len(words) != 5:
		return nil, errors.New(`write "daily 02:30", "weekly sun 02:30", "monthly 1 02:30" or five fields of cron`)
	}
	for _, w := range words {
		if !fieldForm.MatchString(w) {
			return nil, fmt.Errorf("%.20q is no field of cron", w)
		}
	}
	return words, nil
}

func onDays(clock, dom, dow string) ([]string, error) {
	m := clockForm.FindStringSubmatch(clock)
	if m == nil {
		return nil, fmt.Errorf("%.20q is no time of a day such as 02:30", clock)
	}
	return []string{m[2], m[1], dom, "*", dow}, nil
}

// IsZero tells whether there is no moment at all.
func (s Schedule) IsZero() bool { return s.spec == nil }

// String is the text that was parsed.
func (s Schedule) String() string {
	if s.IsZero() {
		return "never"
	}
	return s.text
}

// Next is the first moment after t; zero when there is none.
func (s Schedule) Next(t time.Time) time.Time {
	if s.IsZero() {
		return time.Time{}
	}
	if s.every {
		spec := *s.spec
		spec.Location = s.zone
		return spec.Next(t).UTC()
	}
	for at := face(t.In(s.zone)); ; {
		at = s.spec.Next(at)
		if at.IsZero() {
			return time.Time{}
		}
		if real := moment(at, s.zone); real.After(t) {
			return real.UTC()
		}
	}
}

// Due is the newest moment up to now, and whether it is after last. What was
// missed several times is due once.
func (s Schedule) Due(last, now time.Time) (time.Time, bool) {
	at := s.before(now)
	return at, !at.IsZero() && at.After(last)
}

// maxPause is more than the time between two moments of any schedule.
const maxPause = 9 * 366 * 24 * time.Hour

// before is the newest moment up to now.
func (s Schedule) before(now time.Time) time.Time {
	if s.IsZero() {
		return time.Time{}
	}
	for back := time.Hour; back <= 2*maxPause; back *= 2 {
		if at := s.Next(now.Add(-back)); !at.IsZero() && !at.After(now) {
			return s.last(at, now)
		}
	}
	return time.Time{}
}

// last is the newest moment up to now; at is one of them.
func (s Schedule) last(at, now time.Time) time.Time {
	for lo, hi := at, now; hi.Sub(lo) > time.Second; {
		mid := lo.Add(hi.Sub(lo) / 2)
		if next := s.Next(mid); next.IsZero() || next.After(now) {
			hi = mid
		} else {
			lo, at = next, next
		}
	}
	return at
}

// face is what the clocks show, as if they showed UTC.
func face(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// moment is when the clocks of a zone first show a face, or are put past it.
func moment(at time.Time, zone *time.Location) time.Time {
	t := time.Date(at.Year(), at.Month(), at.Day(), at.Hour(), at.Minute(), at.Second(), 0, zone)
	begin, end := t.ZoneBounds()
	switch shown := face(t); {
	case shown.Before(at): // before the clocks were put forward
		return end
	case shown.After(at):
		return begin
	}
	if begin.IsZero() {
		return t
	}
	_, offset := begin.Add(-time.Second).Zone()
	if first := at.Add(-time.Duration(offset) * time.Second); first.Before(begin) {
		return first.In(zone)
	}
	return t
}
