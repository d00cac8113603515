package script_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/test/script"
)

var update = flag.Bool("update", false, "write what the rules decide now into the scripts")

// Every script ends as it says it does.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 25 {
		t.Fatalf("%d scripts: %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := script.Play(string(want))
			if err != nil {
				t.Fatal(err)
			}
			if got == string(want) {
				return
			}
			if *update {
				if err := os.WriteFile(f, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			t.Errorf("%s ends in another way; to take it as right: go test ./test/script -update\n%s", f, difference(string(want), got))
		})
	}
}

// difference shows the lines in which two texts differ.
func difference(want, got string) string {
	a, b := strings.Split(want, "\n"), strings.Split(got, "\n")
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	return "- " + strings.Join(a, "\n- ") + "\n+ " + strings.Join(b, "\n+ ")
}

// A line that is not understood is an error, never passed over.
func TestPlay_Refuses(t *testing.T) {
	for _, bad := range []string{
		"decide", "group", "group a b c\nfly", "group a b c\nsilent a", "group a b c\nsilent a soon", "group a b c\nsilent d 1s",
		"group a b c\npolicy speed=9", "group a b c\npolicy a.color=red", "group a b c\nreport a durable=far", "group a b c\nwait",
		"group a b c\nopens b", "group a b c\norder switchover a", "group a b c\nrefuses a 2", "group a b c\nschedule b 1s",
	} {
		if out, err := script.Play(bad); err == nil {
			t.Errorf("%q is played:\n%s", bad, out)
		}
	}
}
