package facts

import (
	"fmt"
	"time"
)

// Scheduled is a switchover that is to begin at a time. The rules of an
// ordinary one decide then whether it may.
type Scheduled struct {
	ID string    `json:"id"`
	To string    `json:"to"` // store; "" leaves the choice to the group
	At time.Time `json:"at"`
	// Until is when it is given up, if it was refused all the time since At.
	Until time.Time `json:"until"`
}

// Schedule records a switchover for a time. It replaces one that was scheduled.
type Schedule struct {
	Scheduled
}

// Unschedule withdraws the scheduled switchover of that ID; it is no error if
// it is over.
type Unschedule struct {
	ID  string `json:"id"`
	Why string `json:"why"`
}

// maxScheduleAhead bounds how far ahead a switchover can be scheduled, and how
// long it may be tried.
const maxScheduleAhead = 366 * 24 * time.Hour

func (t *tx) schedule(c *Schedule) *refusal {
	s := c.Scheduled
	if !plain(s.ID) || s.At.IsZero() || s.Until.Before(s.At) || s.Until.Sub(s.At) > maxScheduleAhead {
		return refuse(CodeBadCommand, "a scheduled switchover needs an id, a time, and a time after it until which it is tried")
	}
	to := "the best standby"
	if s.To != "" {
		m, r := t.member(s.To)
		if r != nil {
			return r
		}
		if m.Kind != KindData {
			return refuse(CodeNotData, "%s cannot be primary: it has no PostgreSQL", m.Name)
		}
		to = m.Name
	}
	t.s.Scheduled = &s
	t.event("switchover-scheduled", s.To, SeverityInfo, "a switchover to %s is scheduled for %s", to, s.At.UTC().Format(time.RFC3339))
	return nil
}

func (t *tx) unschedule(c *Unschedule) *refusal {
	if t.s.Scheduled == nil || t.s.Scheduled.ID != c.ID {
		return nil
	}
	if len(c.Why) > maxTextBytes {
		return refuse(CodeBadCommand, "the reason has at most %d bytes", maxTextBytes)
	}
	s := *t.s.Scheduled
	t.s.Scheduled = nil
	t.event("switchover-unscheduled", s.To, SeverityWarning, "the switchover scheduled for %s was given up: %s", s.At.UTC().Format(time.RFC3339), c.Why)
	return nil
}

// String is the schedule in words.
func (s Scheduled) String() string {
	return fmt.Sprintf("switchover at %s", s.At.UTC().Format(time.RFC3339))
}
