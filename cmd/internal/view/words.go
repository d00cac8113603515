package view

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

func names(ms []*member) []string {
	out := make([]string, 0, len(ms))
	for _, m := range ms {
		out = append(out, m.Name)
	}
	return out
}

func contains(ms []*member, m *member) bool { return slices.Contains(ms, m) }

// list joins names as a sentence does.
func list(items []string, word string) string {
	switch n := len(items); n {
	case 0:
		return "nobody"
	case 1:
		return items[0]
	default:
		return strings.Join(items[:n-1], ", ") + " " + word + " " + items[n-1]
	}
}

func count(n int) string {
	if small := []string{"none", "one", "two", "three", "four"}; n < len(small) {
		return small[n]
	}
	return strconv.Itoa(n)
}

// Size is a number of bytes for people, in units of 1024.
func Size(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v, i = v/1024, i+1
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", v, units[i])
}
