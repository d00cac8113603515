package pgctl

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"understudy/shipper/pos"
)

// HistoryLine is one ancestor in a timeline's history.
type HistoryLine struct {
	Timeline pos.Timeline
	End      pos.LSN // the next timeline begins here
	Reason   string  // for people; one line
}

const (
	maxHistoryBytes = 1 << 20
	maxHistoryLine  = 1023 // PostgreSQL's buffer; it would take the rest for another line
	maxReason       = 900
	blanks          = " \t\n\v\f\r"
)

// ParseHistory reads a timeline's history file as PostgreSQL does: blank lines
// and comments count for nothing, ids only grow, what follows a position is the
// reason. The file of a burned id is empty and gives no lines. Stricter than
// PostgreSQL is that signs, id 0 and overflow are refused.
func ParseHistory(b []byte) ([]HistoryLine, error) {
	if len(b) > maxHistoryBytes {
		return nil, fmt.Errorf("parse history: %d bytes are too many", len(b))
	}
	if bytes.IndexByte(b, 0) >= 0 {
		return nil, errors.New("parse history: it holds a zero byte")
	}
	var out []HistoryLine
	n := 0
	for text := range strings.Lines(string(b)) {
		n++
		if len(text) > maxHistoryLine {
			return nil, fmt.Errorf("parse history, line %d: too long", n)
		}
		text = strings.Trim(text, blanks)
		if text == "" || text[0] == '#' {
			continue
		}
		l, err := parseHistoryLine(text)
		if err != nil {
			return nil, fmt.Errorf("parse history, line %d: %w", n, err)
		}
		if len(out) > 0 && l.Timeline <= out[len(out)-1].Timeline {
			return nil, fmt.Errorf("parse history, line %d: timeline %d after %d", n, l.Timeline, out[len(out)-1].Timeline)
		}
		out = append(out, l)
	}
	return out, nil
}

func parseHistoryLine(text string) (HistoryLine, error) {
	id, rest := span(text, "0123456789")
	tli, err := strconv.ParseUint(id, 10, 32)
	if err != nil || tli == 0 {
		return HistoryLine{}, fmt.Errorf("no timeline id in %q", text)
	}
	const hex = "0123456789abcdefABCDEF"
	high, rest := span(strings.TrimLeft(rest, blanks), hex)
	rest, slash := strings.CutPrefix(rest, "/")
	low, rest := span(rest, hex)
	hi, err1 := strconv.ParseUint(high, 16, 32)
	lo, err2 := strconv.ParseUint(low, 16, 32)
	if err1 != nil || err2 != nil || !slash {
		return HistoryLine{}, fmt.Errorf("no position in %q", text)
	}
	return HistoryLine{Timeline: pos.Timeline(tli), End: pos.LSN(hi<<32 | lo), Reason: reason(rest)}, nil
}

// span cuts text after its leading bytes out of set.
func span(text, set string) (head, rest string) {
	rest = strings.TrimLeft(text, set)
	return text[:len(text)-len(rest)], rest
}

// reason makes text fit for one line.
func reason(text string) string {
	text = strings.Trim(strings.NewReplacer("\n", " ", "\r", " ", "\x00", " ").Replace(text), blanks)
	return strings.TrimRight(text[:min(len(text), maxReason)], blanks)
}

// RenderHistory is the history file of a timeline with these ancestors, oldest
// first.
func RenderHistory(lines []HistoryLine) []byte {
	var b bytes.Buffer
	for _, l := range lines {
		fmt.Fprintf(&b, "%d\t%s\t%s\n", l.Timeline, l.End, reason(l.Reason))
	}
	return b.Bytes()
}

// maxBurned bounds how many ids are skipped at once.
const maxBurned = 1024

// ErrTimelineTaken is returned by BurnTimelines when the wanted id, or one that
// would have to be burned for it, cannot be had here.
var ErrTimelineTaken = errors.New("timeline id cannot be had")

func (s *Server) walDir() string { return filepath.Join(s.DataDir, "pg_wal") }

func (s *Server) historyFile(t pos.Timeline) string {
	return filepath.Join(s.walDir(), fmt.Sprintf("%08X.history", uint32(t)))
}

// BurnTimelines makes the next promotion of a server on timeline current take
// the id wanted: PostgreSQL takes the first one without a history file, so the
// ids between get empty files, durably. They must be empty: one that names a
// parent would become a real ancestor. Call it when replay is complete; undo it
// with UnburnTimelines if the promotion did not happen.
func (s *Server) BurnTimelines(current, wanted pos.Timeline) error {
	if err := burnable(current, wanted); err != nil {
		return err
	}
	changed := wanted > current+1 // or made by an attempt that did not get to the end
	switch fi, err := os.Lstat(s.historyFile(wanted)); {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return fmt.Errorf("look for the history of timeline %d: %w", wanted, err)
	case fi.Size() > 0 || !fi.Mode().IsRegular():
		return fmt.Errorf("%w: timeline %d has a history in %s", ErrTimelineTaken, wanted, s.walDir())
	default: // left by an attempt at a higher id
		if err := os.Remove(s.historyFile(wanted)); err != nil {
			return fmt.Errorf("free timeline %d: %w", wanted, err)
		}
		changed = true
	}
	for t := current + 1; t < wanted; t++ {
		if err := s.burn(t); err != nil {
			return fmt.Errorf("burn timeline %d: %w", t, err)
		}
	}
	if !changed {
		return nil
	}
	return syncDir(s.walDir())
}

func burnable(current, wanted pos.Timeline) error {
	switch {
	case current == 0 || wanted <= current:
		return fmt.Errorf("%w: timeline %d does not come after %d", ErrTimelineTaken, wanted, current)
	case wanted-current-1 > maxBurned:
		return fmt.Errorf("%w: from timeline %d to %d, %d ids would be burned and %d are possible", ErrTimelineTaken, current, wanted, wanted-current-1, maxBurned)
	}
	return nil
}

// burn puts an empty history down unless there is one; what it holds does not
// matter to the choice of an id. It appears with its owner, since a standby
// looks for new histories all the time and ends over one that it may not read.
func (s *Server) burn(t pos.Timeline) error {
	f, err := os.CreateTemp(s.walDir(), ".understudy-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	var own error
	if s.Switch {
		own = f.Chown(int(s.UID), int(s.GID))
	}
	if err := errors.Join(own, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), s.historyFile(t)); err != nil && !errors.Is(err, os.ErrExist) { // unlike a rename, never over one
		return err
	}
	return nil
}

// UnburnTimelines removes, durably, what BurnTimelines made: the histories
// between the two ids that are empty.
func (s *Server) UnburnTimelines(current, wanted pos.Timeline) error {
	if err := burnable(current, wanted); err != nil {
		return err
	}
	changed := false
	for t := current + 1; t < wanted; t++ {
		fi, err := os.Lstat(s.historyFile(t))
		if errors.Is(err, os.ErrNotExist) || err == nil && (fi.Size() > 0 || !fi.Mode().IsRegular()) {
			continue
		}
		if err == nil {
			err = os.Remove(s.historyFile(t))
		}
		if err != nil {
			return fmt.Errorf("free timeline %d: %w", t, err)
		}
		changed = true
	}
	if !changed {
		return nil
	}
	return syncDir(s.walDir())
}
