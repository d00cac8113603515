package cli

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"understudy/cmd/internal/view"
)

// table is rows of columns. The last column is wrapped where the terminal ends;
// what is too wide even so is cut.
type table struct {
	head  []string
	right map[int]bool // columns that are aligned to the right
	rows  [][]string
}

// minLast is the narrowest last column that is worth wrapping.
const minLast = 12

func (t *table) add(cells ...string) {
	for i, c := range cells {
		cells[i] = printable(c)
	}
	t.rows = append(t.rows, cells)
}

// text is the table for a terminal of so many columns; 0 cuts nothing.
func (t *table) text(width int) string {
	all := append([][]string{t.head}, t.rows...)
	last := len(t.head) - 1
	widths := make([]int, len(t.head))
	for _, r := range all {
		for i, c := range r {
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	before := 0
	for _, w := range widths[:last] {
		before += w + 2
	}
	room := width - before
	var b strings.Builder
	for _, r := range all {
		var left strings.Builder
		for i, c := range r[:last] {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c))
			if t.right[i] {
				left.WriteString(pad + c + "  ")
			} else {
				left.WriteString(c + pad + "  ")
			}
		}
		tail := []string{r[last]}
		if width > 0 && room >= minLast {
			tail = wrapped(r[last], room)
		}
		if t.right[last] {
			tail[0] = strings.Repeat(" ", max(0, widths[last]-utf8.RuneCountInString(r[last]))) + tail[0]
		}
		for i, l := range tail {
			line := left.String() + l
			if i > 0 {
				line = strings.Repeat(" ", before) + l
			}
			b.WriteString(cut(strings.TrimRight(line, " "), width) + "\n")
		}
	}
	return b.String()
}

// wrapped breaks text at blanks into lines of at most width characters; a word
// that is longer is cut into pieces.
func wrapped(text string, width int) []string {
	if width <= 0 {
		return []string{text}
	}
	lines, line := []string{}, ""
	for _, word := range strings.Fields(text) {
		for line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		for utf8.RuneCountInString(word) > width {
			r := []rune(word)
			lines, word = append(lines, string(r[:width])), string(r[width:])
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// cut ends a line at the right edge of the terminal.
func cut(line string, width int) string {
	if width <= 0 || utf8.RuneCountInString(line) <= width {
		return line
	}
	return string([]rune(line)[:max(width-1, 0)]) + "…"
}

// paragraph is a text wrapped for the terminal, with an indent from the second
// line on.
func paragraph(text, indent string, width int) string {
	if width <= 0 {
		return printable(text) + "\n"
	}
	lines := wrapped(printable(text), max(width-len(indent), minLast))
	for i := range lines {
		if i > 0 {
			lines[i] = indent + lines[i]
		}
		lines[i] = cut(lines[i], width)
	}
	return strings.Join(lines, "\n") + "\n"
}

// labelWidth is the indent of what labelled writes beside its labels.
const labelWidth = 13

// fit wraps the lines of labelled for the terminal.
func fit(text string, width int) string {
	if width <= 0 {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if r := []rune(line); len(r) > width && width > labelWidth+minLast && line[0] == ' ' {
			rest := wrapped(string(r[labelWidth:]), width-labelWidth)
			line = string(r[:labelWidth]) + strings.Join(rest, "\n"+strings.Repeat(" ", labelWidth))
		} else {
			line = cut(line, width)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

// The forms of times in tables: the local zone, with its offset.
const (
	minuteLayout = "2006-01-02 15:04 -0700"
	secondLayout = "2006-01-02 15:04:05 -0700"
)

func minuteTime(t time.Time) string { return zoned(t, minuteLayout) }

func secondTime(t time.Time) string { return zoned(t, secondLayout) }

func zoned(t time.Time, layout string) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(layout)
}

// length is a duration in two units: 3d4h, 2h10m, 1m12s, 8s.
func length(d time.Duration) string {
	switch {
	case d < 0:
		return "-"
	case d < 10*time.Second && d%time.Second != 0:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	}
	d = d.Round(time.Minute)
	days, rest := d/(24*time.Hour), d%(24*time.Hour)
	h, m := rest/time.Hour, (rest%time.Hour)/time.Minute
	switch {
	case days > 0:
		return number(days, "d") + number(h, "h")
	case m > 0:
		return number(h, "h") + number(m, "m")
	}
	return number(h, "h")
}

func number(n time.Duration, unit string) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(int64(n), 10) + unit
}

// size is a number of bytes that is never negative.
func size(n int64) string { return view.Size(uint64(max(n, 0))) }
