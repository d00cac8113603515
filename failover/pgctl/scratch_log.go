package pgctl

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"understudy/shipper/pos"
)

// recoveryLog reads what a recovering server says, in the C locale and without
// a prefix.
type recoveryLog struct {
	log *slog.Logger

	mu      sync.Mutex
	partial []byte
	at      pos.LSN // replayed
	end     pos.LSN // last record
	time    time.Time
	stop    string
	tli     pos.Timeline
	open    bool  // for writing
	halted  bool  // ended at the target, as it was told
	err     error // the first that ends a recovery
	wake    chan struct{}
}

// Write takes the server's log; it never fails.
func (r *recoveryLog) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := p; len(rest) > 0; {
		i := bytes.IndexByte(rest, '\n')
		part := rest
		if i >= 0 {
			part = rest[:i]
		}
		r.partial = append(r.partial, part[:max(0, min(len(part), maxToolLine-len(r.partial)))]...)
		if i < 0 {
			break
		}
		r.line(string(r.partial))
		r.partial, rest = r.partial[:0], rest[i+1:]
	}
	return len(p), nil
}

// finish reads a last line without an end.
func (r *recoveryLog) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.partial) > 0 {
		r.line(string(r.partial))
		r.partial = nil
	}
}

// line takes one line.
func (r *recoveryLog) line(line string) {
	level, text, ok := strings.Cut(line, ":  ")
	if !ok {
		return
	}
	switch level {
	case "LOG":
		r.said(text)
	case "FATAL", "PANIC":
		// A client that came too early is told so by the same means.
		if r.err == nil && !strings.HasPrefix(text, "the database system is ") {
			r.err = classify(text)
		}
	case "DETAIL":
		if r.err != nil && len(text) < 500 && !strings.Contains(r.err.Error(), text) {
			r.err = fmt.Errorf("%w (%s)", r.err, text)
		}
	}
	if r.wake != nil && (r.open || r.err != nil) {
		close(r.wake)
		r.wake = nil
	}
}

func (r *recoveryLog) said(text string) {
	switch {
	case strings.HasPrefix(text, "redo starts at "):
		r.at = max(r.at, lsnAfter(text, "redo starts at "))
	case strings.HasPrefix(text, "redo in progress"):
		r.at = max(r.at, lsnAfter(text, "current LSN: "))
	case strings.HasPrefix(text, "redo done at "):
		r.end = lsnAfter(text, "redo done at ")
		r.at = max(r.at, r.end)
	case strings.HasPrefix(text, "recovery stopping "):
		r.stop = text
		r.log.Info("recovery stops", "why", text)
	case strings.HasPrefix(text, "last completed transaction was at log time "):
		r.time = logTime(strings.TrimPrefix(text, "last completed transaction was at log time "))
	case strings.HasPrefix(text, "selected new timeline ID: "):
		n, _ := strconv.ParseUint(strings.TrimPrefix(text, "selected new timeline ID: "), 10, 32)
		r.tli = pos.Timeline(n)
	case strings.HasPrefix(text, "shutdown at recovery target"):
		r.halted = true
	case text == "database system is ready to accept connections":
		r.open = true
	}
}

func lsnAfter(text, mark string) pos.LSN {
	_, rest, _ := strings.Cut(text, mark)
	word, _, _ := strings.Cut(rest, " ")
	l, err := pos.ParseLSN(strings.TrimRight(word, ",;"))
	if err != nil {
		return 0
	}
	return l
}

// logTime reads a time as the server logs it in UTC; zero when it is another.
func logTime(s string) time.Time {
	for _, form := range []string{"2006-01-02 15:04:05.999999-07", "2006-01-02 15:04:05.999999-07:00", "2006-01-02 15:04:05.999999 MST"} {
		if t, err := time.Parse(form, strings.TrimSpace(s)); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}

// classify says what the end of a recovery means.
func classify(text string) error {
	has := func(phrases ...string) bool {
		for _, p := range phrases {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("recovery ended before configured recovery target was reached"):
		return fmt.Errorf("%w: %s", ErrTargetMissed, text)
	case has("requested recovery stop point is before consistent recovery point"):
		return fmt.Errorf("%w: %s", ErrTargetMissed, text)
	case has("WAL ends before", "could not locate required checkpoint", "could not locate a valid checkpoint", "could not restore file",
		"could not find redo location", "recovery target timeline", "requested timeline"):
		return fmt.Errorf("%w: %s", ErrLogMissing, text)
	}
	return fmt.Errorf("the server ended: %s", text)
}

// verdict tells whether recovery has ended, and how. A message that ends one
// process of a server that is open ends no recovery.
func (r *recoveryLog) verdict() (open bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open {
		return true, nil
	}
	return false, r.err
}

// news is closed when there may be a verdict.
func (r *recoveryLog) news() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wake == nil {
		r.wake = make(chan struct{})
		if r.open || r.err != nil {
			close(r.wake)
			ch := r.wake
			r.wake = nil
			return ch
		}
	}
	return r.wake
}

// ended says what it means that the server has ended.
func (r *recoveryLog) ended(exit error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.halted, r.open:
		return nil
	case r.err != nil:
		return r.err
	case exit != nil:
		return fmt.Errorf("the server ended: %w", exit)
	}
	return errors.New("the server was stopped during recovery")
}

// stopped tells that the server ended at its target as it was told.
func (r *recoveryLog) stopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.halted
}

func (r *recoveryLog) replayed() pos.LSN {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

func (r *recoveryLog) outcome() Recovered {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Recovered{LSN: max(r.at, r.end), Time: r.time, Timeline: r.tli, Stop: r.stop}
}
