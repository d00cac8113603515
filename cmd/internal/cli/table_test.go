package cli_test

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"understudy/cmd/internal/cli"
)

// A table never gets wider than the terminal, and no cell of its last column
// is lost when there is room for one.
func TestTable_FitsAndKeeps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		width := rapid.IntRange(0, 120).Draw(t, "width")
		cells := rapid.SliceOfN(rapid.StringMatching(`[a-zé]{0,12}( [a-z]{1,30}){0,6}`), 3, 3)
		rows := rapid.SliceOfN(cells, 0, 4).Draw(t, "rows")
		text := cli.TableText([]string{"A", "B", "C"}, rows, width)
		for line := range strings.Lines(text) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); width > 0 && n > width {
				t.Fatalf("%d of %d: %q", n, width, line)
			}
		}
		if width == 0 {
			for _, r := range rows {
				if !strings.Contains(text, strings.TrimRight(r[2], " ")) {
					t.Fatalf("%q is lost in %q", r[2], text)
				}
			}
		}
	})
}

func TestLength(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 1500 * time.Millisecond: "1.5s", 72 * time.Second: "1m12s", time.Hour: "1h", 130 * time.Minute: "2h10m", 76 * time.Hour: "3d4h", 24 * time.Hour: "1d",
		-time.Second: "-", 59*time.Minute + 59*time.Second: "59m59s", 90 * time.Minute: "1h30m", 8 * time.Second: "8s",
	} {
		if got := cli.Length(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
