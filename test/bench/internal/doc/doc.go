// Package doc writes Markdown: tables, and sections of a document that are
// kept between markers so that a program can renew them.
package doc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// ErrMarkers is returned when a document has only one of a section's two
// markers, or has them in the wrong order.
var ErrMarkers = errors.New("unpaired section markers")

// Table is a Markdown table. Its first column is aligned left, the others
// right.
type Table struct {
	Head []string
	Rows [][]string
}

// String is the table with padded columns and a newline at its end.
func (t Table) String() string {
	width := make([]int, len(t.Head))
	for _, row := range append([][]string{t.Head}, t.Rows...) {
		for i, c := range row[:min(len(row), len(width))] {
			width[i] = max(width[i], utf8.RuneCountInString(c), 3)
		}
	}
	var b strings.Builder
	line := func(row []string) {
		for i, w := range width {
			c := ""
			if i < len(row) {
				c = row[i]
			}
			pad := strings.Repeat(" ", w-utf8.RuneCountInString(c))
			if i == 0 {
				fmt.Fprintf(&b, "| %s%s ", c, pad)
			} else {
				fmt.Fprintf(&b, "| %s%s ", pad, c)
			}
		}
		b.WriteString("|\n")
	}
	line(t.Head)
	for i, w := range width {
		if i == 0 {
			b.WriteString("|" + strings.Repeat("-", w+2))
		} else {
			b.WriteString("|" + strings.Repeat("-", w+1) + ":")
		}
	}
	b.WriteString("|\n")
	for _, r := range t.Rows {
		line(r)
	}
	return b.String()
}

func markers(name string) (begin, end string) {
	return fmt.Sprintf("<!-- bench:%s -->", name), fmt.Sprintf("<!-- /bench:%s -->", name)
}

// Replace puts body between the markers of section name in text, and appends
// the section when text has no such markers. All other text stays as it is.
func Replace(text, name, body string) (string, error) {
	begin, end := markers(name)
	section := begin + "\n" + strings.TrimSpace(body) + "\n" + end
	from, to := strings.Index(text, begin), strings.Index(text, end)
	switch {
	case from < 0 && to < 0:
		if text = strings.TrimRight(text, "\n"); text != "" {
			text += "\n\n"
		}
		return text + section + "\n", nil
	case from < 0 || to < from:
		return "", fmt.Errorf("section %s: %w", name, ErrMarkers)
	}
	return text[:from] + section + text[to+len(end):], nil
}

// Write replaces one section of the file at path, which is made when missing.
// The file is replaced as a whole, so that a reader never sees half of it.
func Write(path, name, body string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		old = []byte("# Benchmarks\n")
	} else if err != nil {
		return err
	}
	text, err := Replace(string(old), name, body)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(text)
	if err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
