// Package hook runs the programs that the operator of a node has named for the
// moments in which the node changes its role: one at a time, in order, with a
// limit in time, as an account of the operator's choice.
package hook

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"understudy/shipper/pos"
)

// Name is a moment at which a hook runs, spelled as its key in the node file
// and as UNDERSTUDY_EVENT.
type Name string

const (
	// BeforeSwitchover runs on the primary before it stops for a planned
	// switchover. Its failure, of whatever kind, is a veto.
	BeforeSwitchover Name = "before_switchover"
	// BeforePromotion runs on the node that becomes primary, before its
	// PostgreSQL is promoted. It has no veto: nobody else may be left.
	BeforePromotion Name = "before_promotion"
	// AfterPromotion runs on the new primary, after clients were let in. It also
	// runs on one that stays primary although BeforeSwitchover was begun, which
	// so is undone: a hook that was killed cannot do it itself.
	AfterPromotion Name = "after_promotion"
	// AfterDemotion runs on a node that was primary, after its PostgreSQL was
	// stopped.
	AfterDemotion Name = "after_demotion"
	// AfterStandby runs on a node that follows again after it was primary.
	AfterStandby Name = "after_standby"
)

// Names are all hooks, in the order of a switchover.
func Names() []Name {
	return []Name{BeforeSwitchover, AfterDemotion, BeforePromotion, AfterPromotion, AfterStandby}
}

// Event is what a hook is told. Zero values are unknown.
type Event struct {
	Hook     Name
	Epoch    pos.Epoch    // of the change
	Timeline pos.Timeline // that the primary of Epoch writes
	From     string       // node that was primary
	To       string       // node that becomes or is primary
	Cause    string       // why, one sentence for people
	// PrimaryHost and PrimaryPort are where clients find the primary. They are
	// left out of the environment while unknown.
	PrimaryHost string
	PrimaryPort int
}

// path lets a hook find ip and systemctl, which stand in sbin.
const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// maxVariable bounds a value in a hook's environment, in bytes.
const maxVariable = 1024

// environ is the whole environment of a hook: nothing of the daemon's own.
// Every variable but the address of the primary is always there, empty when it
// is unknown, so that scripts may run under `set -u`.
func (e Event) environ(group, node string) []string {
	epoch, tli := "", ""
	if !e.Epoch.IsZero() {
		epoch = e.Epoch.String()
	}
	if e.Timeline != 0 {
		tli = strconv.FormatUint(uint64(e.Timeline), 10)
	}
	env := []string{path, "LC_ALL=C"}
	add := func(name, value string) {
		env = append(env, "UNDERSTUDY_"+name+"="+plain(value, maxVariable))
	}
	add("EVENT", string(e.Hook))
	add("GROUP", group)
	add("NODE", node)
	add("EPOCH", epoch)
	add("TIMELINE", tli)
	add("FROM", e.From)
	add("TO", e.To)
	add("CAUSE", e.Cause)
	if e.PrimaryHost != "" {
		add("PRIMARY_HOST", e.PrimaryHost)
	}
	if e.PrimaryPort != 0 {
		add("PRIMARY_PORT", strconv.Itoa(e.PrimaryPort))
	}
	return env
}

// plain makes text fit for one line of at most limit bytes: no control
// characters, valid UTF-8.
func plain(s string, limit int) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsControl(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	s = strings.TrimSpace(s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return s
}

// Result is how a hook ended.
type Result struct {
	// Ran is false when the node has no such hook, or it was not started.
	Ran bool
	// Status is the exit status, -1 when a signal ended it.
	Status int
	Took   time.Duration
	// First is the first line of output that is not blank, at most 300 bytes.
	First string
	// Output is what was kept of standard output and standard error together:
	// the beginning and the end, at most 8 KiB, with a line in between that says
	// how much is missing.
	Output string
}

// Error tells that a hook failed. Its text is one sentence that names the hook
// and its file and ends with the first line of its output, if there was any.
type Error struct {
	Hook   Name
	File   string
	Text   string // what happened, such as "it ended with status 1"
	Reason string // first line of output; may be empty
	Err    error  // what is behind it; may be nil
}

// Error is the sentence.
func (e *Error) Error() string {
	s := fmt.Sprintf("hook %s (%s): %s", e.Hook, e.File, e.Text)
	if e.Reason != "" {
		s += ": " + e.Reason
	}
	return s
}

// Unwrap gives ErrClosed, ErrDropped, the context's or the system's error.
func (e *Error) Unwrap() error { return e.Err }
