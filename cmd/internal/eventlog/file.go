package eventlog

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// file is the bounded file of events, one JSON object a line.
type file struct {
	path string
	f    *os.File
	size int64 // what is known to be whole lines; everything after it is torn
}

// openFile reads the older and the present file and opens the latter for
// appending after its last whole line.
func openFile(path string) ([]Event, *file, error) {
	events, _, err := readEvents(path+".1", nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	events, size, err := readEvents(path, events)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, nil, err
	}
	f := &file{path: path, size: size}
	if err := f.open(); err != nil {
		return nil, nil, err
	}
	return events, f, nil
}

// open opens the present file, makes its name durable and removes what follows
// its last whole line.
func (f *file) open() error {
	h, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		return err
	}
	err = errors.Join(h.Truncate(f.size), syncDir(filepath.Dir(f.path)))
	if err != nil {
		return errors.Join(err, h.Close())
	}
	f.f = h
	return nil
}

// append writes the events and fsyncs. After an error the file is as before:
// a part that was written is written over by the next attempt.
func (f *file) append(events []Event) error {
	if f.f == nil { // a rotation failed half-way
		if err := f.open(); err != nil {
			return err
		}
	}
	if f.size >= RotateBytes {
		if err := f.rotate(); err != nil {
			return fmt.Errorf("rotate event log: %w", err)
		}
	}
	var b bytes.Buffer
	for _, e := range events {
		line, err := encode(e)
		if err != nil {
			return err
		}
		b.Write(line)
	}
	if _, err := f.f.WriteAt(b.Bytes(), f.size); err != nil {
		return errors.Join(fmt.Errorf("write event log: %w", err), f.f.Truncate(f.size))
	}
	if err := f.f.Sync(); err != nil {
		return fmt.Errorf("sync event log: %w", err)
	}
	f.size += int64(b.Len())
	return nil
}

// rotate sets the present file aside, in place of the older one.
func (f *file) rotate() error {
	if err := os.Rename(f.path, f.path+".1"); err != nil {
		return err
	}
	err := f.f.Close()
	f.f, f.size = nil, 0
	if err != nil {
		return err
	}
	return f.open()
}

func (f *file) close() error {
	if f.f == nil {
		return nil
	}
	return errors.Join(f.f.Sync(), f.f.Close())
}

// encode is the line of an event. Data that cannot be written, or not within
// the bound, is left out: an event is never lost over its details.
func encode(e Event) ([]byte, error) {
	line, err := json.Marshal(e)
	if err != nil || len(line) >= maxLineBytes {
		e.Data = nil
		if line, err = json.Marshal(e); err != nil {
			return nil, fmt.Errorf("encode event: %w", err)
		}
	}
	return append(line, '\n'), nil
}

// readEvents appends the events of the file at path to events, keeps the
// newest RingEvents of an unbroken run of numbers, and tells how many bytes
// belong to whole lines.
func readEvents(path string, events []Event) ([]Event, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return events, 0, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 2*maxLineBytes)
	whole := int64(0)
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return events, whole, nil // what is left in line was cut off
		}
		whole += int64(len(line))
		if errors.Is(err, bufio.ErrBufferFull) { // no line of ours is that long
			continue
		}
		if err != nil {
			return events, whole, fmt.Errorf("read event log: %w", err)
		}
		var e Event
		if json.Unmarshal(line, &e) != nil || e.N == 0 {
			continue
		}
		events = keep(events, e)
	}
}

// keep appends e to a run of events. A number that does not follow begins a
// new run, since Since promises numbers without a gap.
func keep(events []Event, e Event) []Event {
	n := len(events)
	switch {
	case n > 0 && e.N <= events[n-1].N:
		return events // a line seen before
	case n > 0 && e.N != events[n-1].N+1:
		events = events[:0]
	case n >= RingEvents:
		events = events[1:]
	}
	return append(events, e)
}
