// Package audit keeps the whole chain of the group's audit on a node's disk,
// of which the ledger holds the end only, and checks such chains.
package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"understudy/ledger/facts"
)

// maxLine bounds one line of a file: an entry's texts are far shorter.
const maxLine = 64 << 10

// Head is the newest entry of a chain. The zero Head is that of an empty one.
type Head struct {
	N    uint64 `json:"n"`
	Hash string `json:"hash"`
}

// HeadOf is the head that the ledger vouches for.
func HeadOf(s facts.State) Head { return Head{s.Audit.N, s.Audit.Head} }

// Missing is a line that says which entries a node never had.
type Missing struct {
	From uint64 `json:"from"`
	To   uint64 `json:"to"` // inclusive
}

// line is one line of a file: an entry, or one of the others.
type line struct {
	entry   *facts.AuditEntry
	missing *Missing
	head    *Head
}

// note is how a line that is no entry is written.
type note struct {
	Missing *Missing `json:"missing,omitempty"`
	Head    *Head    `json:"head,omitempty"`
}

// BrokenError is returned by Check for a chain that does not hold.
type BrokenError struct {
	Line int    // of the input, from 1
	N    uint64 // of the first entry that is not proven
	Why  string
}

// Error names the line and the entry.
func (e *BrokenError) Error() string {
	return fmt.Sprintf("line %d: the audit is broken at entry %d: %s", e.Line, e.N, e.Why)
}

// Check reads a chain, one JSON object in a line as Export writes them, and
// returns a *BrokenError that names the first entry that does not follow from
// those before it. The chain must begin with entry 1 and end with head; a zero
// head accepts any end that the input itself claims. That the head is right
// has to come from somewhere else: whoever can write a whole chain can write a
// whole other one.
func Check(r io.Reader, head Head) error {
	c := checker{}
	if err := eachLine(r, c.line); err != nil {
		return err
	}
	switch {
	case c.claimed != nil && *c.claimed != c.last:
		return c.broken(c.last.N+1, "it claims to end at entry %d, %s", c.claimed.N, c.claimed.Hash)
	case head == Head{} || head == c.last:
		return nil
	case head.N > c.last.N:
		return c.broken(c.last.N+1, "it ends with entry %d, entry %d should be the last", c.last.N, head.N)
	case head.N < c.last.N:
		return c.broken(head.N+1, "entry %d should be the last", head.N)
	}
	return c.broken(head.N, "its hash is %s, not %s", c.last.Hash, head.Hash)
}

// checker goes along a chain.
type checker struct {
	n       int // lines read
	last    Head
	claimed *Head // by the last line
}

func (c *checker) broken(n uint64, format string, args ...any) error {
	return &BrokenError{Line: c.n, N: n, Why: fmt.Sprintf(format, args...)}
}

func (c *checker) line(b []byte) error {
	c.n++
	l, err := parse(b)
	next := c.last.N + 1
	switch {
	case c.claimed != nil:
		return c.broken(next, "lines follow its end")
	case err != nil:
		return c.broken(next, "%s", err)
	case l.head != nil:
		c.claimed = l.head
		return nil
	case l.missing != nil:
		return c.broken(l.missing.From, "entries %d to %d are missing here", l.missing.From, l.missing.To)
	}
	if why := follows(c.last, *l.entry); why != "" {
		return c.broken(next, "%s", why)
	}
	c.last = Head{l.entry.N, l.entry.Hash}
	return nil
}

// follows says why an entry does not come after last; "" when it does.
func follows(last Head, e facts.AuditEntry) string {
	switch {
	case e.N != last.N+1:
		return fmt.Sprintf("entry %d comes after entry %d", e.N, last.N)
	case e.Prev != last.Hash:
		return fmt.Sprintf("it follows %.16s…, the entry before is %.16s…", e.Prev, last.Hash)
	case e.Hash != e.Sum():
		return "it was changed: its contents do not have its hash"
	}
	return ""
}

// eachLine calls fn for every line, without its end. A line that is too long
// is given to fn cut, and so is refused.
func eachLine(r io.Reader, fn func([]byte) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), maxLine)
	for s.Scan() {
		if err := fn(s.Bytes()); err != nil {
			return err
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return fn(nil)
	}
	if s.Err() != nil {
		return fmt.Errorf("read audit: %w", s.Err())
	}
	return nil
}

var errLine = errors.New("it is no line of an audit")

// parse reads one line. It must be spelled exactly as it is written: two
// spellings of one entry would be two things to different readers.
func parse(b []byte) (line, error) {
	var l line
	again := any(nil)
	if bytes.HasPrefix(b, []byte(`{"n":`)) {
		e := facts.AuditEntry{}
		if json.Unmarshal(b, &e) != nil {
			return l, errLine
		}
		l.entry, again = &e, e
	} else {
		n := note{}
		if json.Unmarshal(b, &n) != nil || (n.Missing == nil) == (n.Head == nil) {
			return l, errLine
		}
		if m := n.Missing; m != nil && (m.From == 0 || m.To < m.From) {
			return l, errLine
		}
		l.missing, l.head, again = n.Missing, n.Head, n
	}
	if spelled, err := json.Marshal(again); err != nil || !bytes.Equal(spelled, b) {
		return line{}, errLine
	}
	return l, nil
}
