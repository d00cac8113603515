package cli

import "time"

// TableText is a table for a terminal of so many columns.
func TableText(head []string, rows [][]string, width int) string {
	t := table{head: head}
	for _, r := range rows {
		t.add(r...)
	}
	return t.text(width)
}

// Length is a duration for people.
func Length(d time.Duration) string { return length(d) }
