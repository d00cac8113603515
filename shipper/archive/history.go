package archive

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"understudy/shipper/pos"
)

// Ancestor is one line of a timeline's history file.
type Ancestor struct {
	Timeline pos.Timeline
	End      pos.LSN // the next timeline begins here
	Reason   string  // for people; one line
}

const (
	maxHistory     = 1 << 20
	maxHistoryLine = 1023 // PostgreSQL's buffer; it would take the rest for another line
)

// ParseHistory reads a history file as PostgreSQL does: blank lines and
// comments count for nothing, ids and positions only grow. The file of a used
// up id is empty and names nobody.
func ParseHistory(b []byte) ([]Ancestor, error) {
	if len(b) > maxHistory || bytes.IndexByte(b, 0) >= 0 {
		return nil, fmt.Errorf("parse history: %d bytes, or a zero byte among them, are no history", len(b))
	}
	var out []Ancestor
	n := 0
	for text := range strings.Lines(string(b)) {
		n++
		if len(text) > maxHistoryLine {
			return nil, fmt.Errorf("parse history, line %d: too long", n)
		}
		if text = strings.TrimSpace(text); text == "" || text[0] == '#' {
			continue
		}
		a, err := parseAncestor(text)
		if err == nil && len(out) > 0 && (a.Timeline <= out[len(out)-1].Timeline || a.End < out[len(out)-1].End) {
			err = fmt.Errorf("timeline %d to %s after %d to %s", a.Timeline, a.End, out[len(out)-1].Timeline, out[len(out)-1].End)
		}
		if err != nil {
			return nil, fmt.Errorf("parse history, line %d: %w", n, err)
		}
		out = append(out, a)
	}
	return out, nil
}

func parseAncestor(text string) (Ancestor, error) {
	f := strings.Fields(text)
	t, err := strconv.ParseUint(f[0], 10, 32)
	if err != nil || t == 0 || len(f) < 2 {
		return Ancestor{}, fmt.Errorf("no timeline id and position in %.80q", text)
	}
	end, err := pos.ParseLSN(f[1])
	if err != nil {
		return Ancestor{}, fmt.Errorf("no position in %.80q: %w", text, err)
	}
	return Ancestor{Timeline: pos.Timeline(t), End: end, Reason: strings.Join(f[2:], " ")}, nil
}

// RenderHistory is the history file of a timeline with these ancestors, oldest
// first.
func RenderHistory(lines []Ancestor) []byte {
	var b bytes.Buffer
	for _, l := range lines {
		fmt.Fprintf(&b, "%d\t%s\t%s\n", l.Timeline, l.End, l.Reason)
	}
	return b.Bytes()
}

// ancestors are the lines of the history of timeline t in a lineage.
func ancestors(lin pos.Lineage, t pos.Timeline) []Ancestor {
	path := PathOf(lin)
	out := path.ancestors(t)
	for i := range out {
		for _, e := range slices.Backward(lin) {
			if e.Timeline == path[i+1].Timeline { // the first entry of the timeline is its promotion
				out[i].Reason = "promotion in epoch " + e.Epoch.String()
			}
		}
	}
	return out
}

// sameAncestors compares what PostgreSQL goes by; reasons are for people.
func sameAncestors(a, b []Ancestor) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Timeline != b[i].Timeline || a[i].End != b[i].End {
			return false
		}
	}
	return true
}
