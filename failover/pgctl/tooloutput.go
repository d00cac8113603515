package pgctl

import (
	"bytes"
	"strings"
)

// maxToolLine bounds a line of a tool's output, and keptLines how many of them
// an error may cite; the phrases that lead to decisions are looked for in all.
const (
	maxToolLine = 4 << 10
	keptLines   = 5
)

// toolOutput takes what a tool prints, line by line. Its writer is used by one
// goroutine, its other methods after the tool has ended.
type toolOutput struct {
	log     func(line string)
	partial []byte
	kept    []string
	phrases map[string]bool
}

// notable are the phrases of pg_rewind, and of a server that recovers, that
// tell how far it came or that nothing but a new base helps; their messages are
// in the C locale.
var notable = map[string]bool{ // true: hopeless
	"no rewind required":                    false,
	"rewinding from last common checkpoint": false,
	"could not find previous WAL record":    true,
	"could not read WAL record":             true,
	"could not find common ancestor":        true,
	"from different systems":                true,
	"not compatible with this version":      true,
	"data checksums or \"wal_log_hints":     true,
	"invalid data in history file":          true,
	"syntax error in history file":          true,
	"invalid control file":                  true,
	"unexpected control file":               true,
	"could not locate a valid checkpoint":   true,
	"could not locate required checkpoint":  true,
	"WAL ends before":                       true,
}

// Write never fails. A carriage return ends a line: progress is shown so.
func (o *toolOutput) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		i := bytes.IndexAny(rest, "\r\n")
		if i < 0 {
			o.add(rest)
			break
		}
		o.add(rest[:i])
		o.flush()
		rest = rest[i+1:]
	}
	return len(p), nil
}

func (o *toolOutput) add(b []byte) {
	o.partial = append(o.partial, b[:min(len(b), maxToolLine-len(o.partial))]...)
}

func (o *toolOutput) flush() {
	line := strings.TrimSpace(string(o.partial))
	o.partial = o.partial[:0]
	if line == "" {
		return
	}
	for phrase := range notable {
		if strings.Contains(line, phrase) {
			if o.phrases == nil {
				o.phrases = make(map[string]bool)
			}
			o.phrases[phrase] = true
		}
	}
	o.kept = append(o.kept, line)
	o.kept = o.kept[max(0, len(o.kept)-keptLines):]
	if o.log != nil {
		o.log(line)
	}
}

func (o *toolOutput) saw(phrase string) bool { return o.phrases[phrase] }

func (o *toolOutput) hopeless() bool {
	for phrase := range o.phrases {
		if notable[phrase] {
			return true
		}
	}
	return false
}

// last is the end of the output, for an error.
func (o *toolOutput) last() string { return strings.Join(o.kept, "; ") }
