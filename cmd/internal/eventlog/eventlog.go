// Package eventlog keeps the numbered events of one daemon: in memory for feeds
// and in a bounded file for people.
//
// Add never waits for the disk or for a subscriber. One goroutine writes the
// file; what a power loss takes from its end is history for people, never a
// fact that the group relies on.
package eventlog

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"understudy/shipper/pos"
)

// The severities of an event.
const (
	Info    = "info"
	Warning = "warning"
	Error   = "error"
)

const (
	// RingEvents is how many of the newest events Since can return.
	RingEvents = 4096
	// RotateBytes is the size at which the file is set aside; one older file
	// is kept.
	RotateBytes = 8 << 20
	// maxTextBytes bounds the text of one event; longer text is cut.
	maxTextBytes = 4096
	// maxLineBytes bounds one line of the file; an event whose Data makes it
	// longer is kept without Data.
	maxLineBytes = 32 << 10
	// maxSubscriberBuffer bounds the buffer of one subscriber, in events.
	maxSubscriberBuffer = RingEvents
	// retryPause is how long the writer waits after a failed write.
	retryPause = time.Second
)

// ErrClosed is returned by Close when the log was closed before.
var ErrClosed = errors.New("event log is closed")

// Event is one thing that happened on this node or that it learned of.
type Event struct {
	// N numbers the events of this daemon from 1 without a gap, across
	// restarts. Set by Add.
	N uint64 `json:"n"`
	// At is when it happened; Add sets it where it is zero.
	At time.Time `json:"at"`
	// Kind is a stable id, such as "primary-opened".
	Kind string `json:"kind"`
	// Node is the node concerned.
	Node string `json:"node,omitempty"`
	// Severity is Info, Warning or Error; Add turns "" into Info.
	Severity string `json:"severity"`
	// Text is one sentence for people.
	Text string `json:"text"`
	// Epoch is the epoch concerned; zero when it concerns none.
	Epoch pos.Epoch `json:"epoch,omitzero"`
	// Data are details for programs. Nobody may change it after Add.
	Data map[string]any `json:"data,omitempty"`
}

// Log is safe for use by many goroutines.
type Log struct {
	mu   sync.Mutex
	ring []Event // oldest first, numbers without a gap, at most RingEvents
	next uint64  // number of the next event
	subs map[*subscriber]struct{}
	// written is the newest number that the file has; only the writer moves it.
	written uint64
	err     error // why the latest write failed; nil after a success
	closed  bool
	// progress is closed and replaced whenever written, err or closed change.
	progress chan struct{}

	wake chan struct{} // capacity 1: the writer has something to do
	stop chan struct{}
	done chan struct{}
	file *file // the writer's alone, once it runs
}

type subscriber struct{ ch chan Event }

// Open reads the events kept at path and continues their numbers. A line that
// a crash cut off at the end is removed; other lines that cannot be read are
// passed over. The caller must Close the log.
func Open(path string) (*Log, error) {
	events, f, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("open event log: %w", err)
	}
	l := &Log{
		ring: events, next: 1, subs: map[*subscriber]struct{}{}, progress: make(chan struct{}),
		wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), file: f,
	}
	if n := len(events); n > 0 {
		l.next = events[n-1].N + 1
	}
	l.written = l.next - 1
	go l.write()
	return l, nil
}

// Add numbers e, gives it to the subscribers and returns it as kept. It
// returns at once: the file has the event a moment later. After Close the
// event is numbered and returned, and goes nowhere else.
func (l *Log) Add(e Event) Event {
	if e.At.IsZero() {
		e.At = time.Now()
	}
	e.At = e.At.Round(0).UTC()
	if e.Severity == "" {
		e.Severity = Info
	}
	e.Text = cut(e.Text, maxTextBytes)
	e.Data = maps.Clone(e.Data)
	l.mu.Lock()
	defer l.mu.Unlock()
	e.N = l.next
	if l.closed {
		return e
	}
	l.next++
	if len(l.ring) >= RingEvents {
		l.ring = l.ring[1:]
	}
	l.ring = append(l.ring, e) // moves the window to a new array now and then
	for s := range l.subs {
		select {
		case s.ch <- e:
		default: // too slow: it sees a closed channel and can ask Since
			delete(l.subs, s)
			close(s.ch)
		}
	}
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return e
}

// Since returns up to max events with numbers above n, oldest first, and the
// number of the oldest event that is still at hand (that of the next event
// when there is none). If oldest > n+1, events between are gone. A max of 0 or
// less means all.
func (l *Log) Since(n uint64, max int) (events []Event, oldest uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest = l.next - uint64(len(l.ring))
	skip := uint64(0)
	if n+1 > oldest && n+1 != 0 {
		skip = min(n+1-oldest, uint64(len(l.ring)))
	} else if n+1 == 0 {
		skip = uint64(len(l.ring))
	}
	rest := l.ring[skip:]
	if max > 0 && len(rest) > max {
		rest = rest[:max]
	}
	return append([]Event(nil), rest...), oldest
}

// Last is the number of the newest event, 0 when there was none.
func (l *Log) Last() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.next - 1
}

// Subscribe returns a channel that receives every event added from now on.
// buffer is how many it may fall behind, at least 1; a subscriber that falls
// behind further has its channel closed, as has everyone when the log closes.
// cancel ends the subscription; it may be called more than once.
func (l *Log) Subscribe(buffer int) (events <-chan Event, cancel func()) {
	s := &subscriber{ch: make(chan Event, min(max(buffer, 1), maxSubscriberBuffer))}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		close(s.ch)
		return s.ch, func() {}
	}
	l.subs[s] = struct{}{}
	return s.ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, ok := l.subs[s]; ok {
			delete(l.subs, s)
			close(s.ch)
		}
	}
}

// Err is why the file does not have the newest events, nil when writing works.
// The log goes on in memory and keeps trying.
func (l *Log) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Flush waits until every event added before the call is fsynced in the file,
// and returns the error of the latest write if that failed.
func (l *Log) Flush() error {
	l.mu.Lock()
	want := l.next - 1
	for l.written < want && l.err == nil {
		progress := l.progress
		l.mu.Unlock()
		<-progress
		l.mu.Lock()
	}
	defer l.mu.Unlock()
	return l.err
}

// Close ends all subscriptions, writes what is left and closes the file. On
// return without error every event is durable.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.closed = true
	for s := range l.subs {
		delete(l.subs, s)
		close(s.ch)
	}
	l.mu.Unlock()
	close(l.stop)
	<-l.done
	return l.Err()
}

// write is the writer: it brings the file up to the ring until Close.
func (l *Log) write() {
	defer close(l.done)
	for {
		var retry <-chan time.Time
		if l.writeBatch() != nil {
			retry = time.After(retryPause)
		}
		select {
		case <-l.wake:
			if retry != nil { // keep the pause: a full disk does not recover by haste
				select {
				case <-retry:
				case <-l.stop:
				}
			}
		case <-retry:
		case <-l.stop:
			l.finish(errors.Join(l.writeBatch(), l.file.close()))
			return
		}
	}
}

// writeBatch appends what the file lacks, in one fsync. Events that left the
// ring before they could be written are missing from the file.
func (l *Log) writeBatch() error {
	l.mu.Lock()
	oldest := l.next - uint64(len(l.ring))
	from := max(l.written+1, oldest)
	batch := append([]Event(nil), l.ring[from-oldest:]...)
	l.mu.Unlock()
	if len(batch) == 0 {
		return nil
	}
	err := l.file.append(batch)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	if err == nil {
		l.written = batch[len(batch)-1].N
	}
	l.signal()
	return err
}

func (l *Log) finish(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	l.signal()
}

// signal wakes Flush. The caller holds mu.
func (l *Log) signal() {
	close(l.progress)
	l.progress = make(chan struct{})
}

// cut shortens s to at most n bytes, at a character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// syncDir makes the entries of a folder durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
