package doc_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"understudy/test/bench/internal/doc"
)

func TestTable_AlignsByRunes(t *testing.T) {
	got := doc.Table{Head: []string{"side", "tps"}, Rows: [][]string{{"group", "1 – 2"}, {"native"}}}.String()
	want := "| side   |   tps |\n|--------|------:|\n| group  | 1 – 2 |\n| native |       |\n"
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestReplace_Cases(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"Empty", "", "<!-- bench:a -->\nnew\n<!-- /bench:a -->\n"},
		{"Appended", "# T\n", "# T\n\n<!-- bench:a -->\nnew\n<!-- /bench:a -->\n"},
		{"Between", "x\n<!-- bench:a -->\nold\nolder\n<!-- /bench:a -->\ny\n", "x\n<!-- bench:a -->\nnew\n<!-- /bench:a -->\ny\n"},
		{"OthersStay", "<!-- bench:ab -->\nk\n<!-- /bench:ab -->\n", "<!-- bench:ab -->\nk\n<!-- /bench:ab -->\n\n<!-- bench:a -->\nnew\n<!-- /bench:a -->\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := doc.Replace(c.in, "a", "\nnew\n")
			if err != nil || got != c.want {
				t.Errorf("got %q, %v, want %q", got, err, c.want)
			}
		})
	}
	for _, bad := range []string{"<!-- bench:a -->", "<!-- /bench:a -->", "<!-- /bench:a --> <!-- bench:a -->"} {
		if _, err := doc.Replace(bad, "a", "new"); !errors.Is(err, doc.ErrMarkers) {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

func TestReplace_TwiceIsOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOf(rapid.SampledFrom([]rune("ab\n#<>"))).Draw(t, "text")
		body := rapid.StringOf(rapid.SampledFrom([]rune("xy\n|"))).Draw(t, "body")
		once, err := doc.Replace(text, "n", body)
		if err != nil {
			t.Fatal(err)
		}
		twice, err := doc.Replace(once, "n", body)
		if err != nil || once != twice {
			t.Fatalf("once %q, twice %q, %v", once, twice, err)
		}
	})
}

func TestWrite_MakesAndRenews(t *testing.T) {
	path := filepath.Join(t.TempDir(), "B.md")
	for _, body := range []string{"first", "second"} {
		if err := doc.Write(path, "a", body); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || strings.Contains(string(b), "first") || !strings.HasPrefix(string(b), "# Benchmarks\n\n<!-- bench:a -->\nsecond\n") {
		t.Errorf("got %q, %v", b, err)
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
