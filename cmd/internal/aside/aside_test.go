package aside_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/aside"
)

var now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// write makes a file in a state directory that is some days old, and so is the
// folder that it is in.
func write(t *testing.T, state, name string, days int) {
	t.Helper()
	path := filepath.Join(state, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("evidence"), 0o600); err != nil {
		t.Fatal(err)
	}
	at := now.AddDate(0, 0, -days)
	for _, p := range []string{path, filepath.Dir(path)} {
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// node makes a state directory with something of every kind and age, and with
// what is in use.
func node(t *testing.T) string {
	t.Helper()
	state := t.TempDir()
	for name, days := range map[string]int{
		"tails/1_2_0000/report.json": 91, "tails/1_3_0000/report.json": 90, "tails/1_4_0000/report.json": 89, "tails/1_5_0000/report.json": 10,
		"tails/1_6_0000.part/seg":     200,
		"quarantine/00000002.history": 31, "quarantine/00000003.history": 30, "quarantine/00000004.history": 1,
		// Their names tell when they were put aside.
		"lost-20260101T000000.000/spool/meta": 1, "lost-20260301T000000.000/spool/meta": 400, "lost-20260502T000000.000/spool/meta": 400,
		"ledger-before-20260401T000000.000/raft.db": 1, "ledger-before-20260601T000000.000/raft.db": 400,
		"ledger/raft.db": 400, "spool/meta": 400, "jobs/x/log": 400, "audit.jsonl": 400, "known.json": 400,
	} {
		write(t, state, name, days)
	}
	return state
}

func names(state string, things []aside.Thing) (out []string) {
	for _, t := range things {
		rel, _ := filepath.Rel(state, t.Path)
		out = append(out, rel)
	}
	return out
}

func TestDue(t *testing.T) {
	state := node(t)
	found, err := aside.Find(state)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 12 {
		t.Errorf("found %v", names(state, found))
	}
	due := aside.Due(found, now)
	want := []string{"tails/1_2_0000", "tails/1_3_0000", "lost-20260101T000000.000", "lost-20260301T000000.000", "ledger-before-20260401T000000.000",
		"quarantine/00000002.history", "quarantine/00000003.history"}
	if d := cmp.Diff(want, names(state, due)); d != "" {
		t.Error(d)
	}
	words := aside.Words(due, func(n uint64) string { return strings.Repeat("x", int(n/8)) })
	if want := "2 tails of old primaries (xx), kept for 90 days; 2 stores that were given up (xx), kept for 90 days; " +
		"1 replaced ledger (x), kept for 30 days; 2 files of promotions that came to nothing (xx), kept for 30 days"; words != want {
		t.Errorf("got %q", words)
	}
	if due := aside.Due(found, now.AddDate(-1, 0, 0)); len(due) != 0 {
		t.Errorf("a clock that is behind removes %v", names(state, due))
	}
	if due := aside.Due(found, now.AddDate(10, 0, 0)); len(due) != len(found)-4 {
		t.Errorf("of every kind one stays, and it removes %v", names(state, due))
	}
}

func TestRemove_GoesOnAfterACut(t *testing.T) {
	state := node(t)
	found, err := aside.Find(state)
	if err != nil {
		t.Fatal(err)
	}
	due := aside.Due(found, now)
	write(t, state, ".going-0-1_1_0000/seg", 200) // a removal that was cut off
	if err := aside.Remove(state, due); err != nil {
		t.Fatal(err)
	}
	left, err := aside.Find(state)
	if err != nil || len(left) != len(found)-len(due) || len(aside.Due(left, now)) != 0 {
		t.Errorf("left %v, %v", names(state, left), err)
	}
	for _, name := range []string{"ledger/raft.db", "spool/meta", "jobs/x/log", "audit.jsonl", "known.json", "tails/1_6_0000.part/seg"} {
		if _, err := os.Stat(filepath.Join(state, name)); err != nil {
			t.Error(err)
		}
	}
	if going, _ := filepath.Glob(filepath.Join(state, ".going-*")); len(going) > 0 {
		t.Errorf("left %v", going)
	}
	if err := aside.Remove(state, due); err == nil {
		t.Error("what is gone was removed again")
	}
}

func TestFind_Nothing(t *testing.T) {
	if found, err := aside.Find(t.TempDir()); err != nil || len(found) != 0 {
		t.Errorf("got %v, %v", found, err)
	}
}

// Links are not followed, and what they lead to stays.
func TestFind_Links(t *testing.T) {
	state, other := t.TempDir(), t.TempDir()
	write(t, state, "tails/a/x", 100)
	if err := os.Symlink(other, filepath.Join(state, "tails", "b")); err != nil {
		t.Fatal(err)
	}
	if found, err := aside.Find(state); err != nil || len(found) != 1 {
		t.Errorf("got %v, %v", names(state, found), err)
	}
}
