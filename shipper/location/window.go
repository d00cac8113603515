package location

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Window is the time of day in which a location may be written to, by the
// clocks of a time zone. The zero Window is always open. It is comparable
// only through String.
type Window struct {
	from, to int // minutes since midnight; to may be day, and may be before from
	zone     *time.Location
}

// day is the number of minutes in one, by the clock on the wall.
const day = 24 * 60

// ParseWindow reads "22:00-06:00 Europe/Berlin". Without a zone the time is
// UTC; "Local" is that of the machine. The empty text is the Window that is
// always open. The end is not part of it and may be 24:00.
func ParseWindow(s string) (Window, error) {
	if s == "" {
		return Window{}, nil
	}
	w, err := parseWindow(s)
	if err != nil {
		return Window{}, fmt.Errorf("time window %q, which should be such as 22:00-06:00 Europe/Berlin: %w", s, err)
	}
	return w, nil
}

func parseWindow(s string) (Window, error) {
	span, zone, _ := strings.Cut(s, " ")
	from, to, ok := strings.Cut(span, "-")
	if !ok {
		return Window{}, errors.New("it has no beginning and end")
	}
	w := Window{zone: time.UTC}
	var err error
	if w.from, err = parseMinute(from); err != nil {
		return Window{}, err
	}
	if w.to, err = parseMinute(to); err != nil {
		return Window{}, err
	}
	if w.from == w.to || w.from == day {
		return Window{}, errors.New("it is never or always open; leave it empty for always")
	}
	if zone != "" {
		if w.zone, err = time.LoadLocation(zone); err != nil {
			return Window{}, err
		}
	}
	return w, nil
}

func parseMinute(s string) (int, error) {
	if s == "24:00" {
		return day, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		return 0, fmt.Errorf("%q is no time of day", s)
	}
	return t.Hour()*60 + t.Minute(), nil
}

// String is what ParseWindow reads.
func (w Window) String() string {
	if w.zone == nil {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d %s", w.from/60, w.from%60, w.to/60, w.to%60, w.zone)
}

// MarshalText implements encoding.TextMarshaler.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Window) UnmarshalText(b []byte) (err error) {
	*w, err = ParseWindow(string(b))
	return err
}

// Open tells whether the window is open at now and when that changes next;
// changes is zero when it never does. The clock on the wall decides: where it
// jumps over the beginning the window opens at the jump, and what it shows
// twice is open twice.
func (w Window) Open(now time.Time) (open bool, changes time.Time) {
	if w.zone == nil {
		return true, time.Time{}
	}
	open = w.openAt(now)
	// Four days, since a jump may swallow the window of one.
	for t, end := now, now.Add(4*day*time.Minute); t.Before(end); {
		_, next := t.In(w.zone).ZoneBounds()
		if next.IsZero() || next.After(end) {
			next = end
		}
		if c, ok := w.changeIn(t, next, open); ok {
			return open, c
		}
		t = next
	}
	return open, time.Time{}
}

// openAt is true while the clock on the wall is within the window.
func (w Window) openAt(t time.Time) bool {
	t = t.In(w.zone)
	m := t.Hour()*60 + t.Minute()
	if w.from < w.to {
		return w.from <= m && m < w.to
	}
	return m >= w.from || m < w.to
}

// changeIn is the first moment after from and up to to at which the window is
// no longer as it is at from. The clock on the wall does not jump in between,
// only at to.
func (w Window) changeIn(from, to time.Time, open bool) (time.Time, bool) {
	local := from.In(w.zone)
	_, offset := local.Zone()
	midnight := time.Date(local.Year(), local.Month(), local.Day(), 0, 0, 0, 0, time.UTC).Add(-time.Duration(offset) * time.Second)
	for ; midnight.Before(to); midnight = midnight.Add(day * time.Minute) {
		for _, m := range []int{min(w.from, w.to), max(w.from, w.to)} {
			t := midnight.Add(time.Duration(m) * time.Minute)
			if t.After(from) && t.Before(to) && w.openAt(t) != open {
				return t, true
			}
		}
	}
	return to, w.openAt(to) != open
}
