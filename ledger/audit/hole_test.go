package audit_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"understudy/ledger/audit"
	"understudy/ledger/facts"
)

// away makes the audits of two nodes, of which one was away twice: it lacks
// what the ledger had forgotten when it came back.
func away(t testing.TB) (whole, holed *audit.File, s facts.State, path string) {
	t.Helper()
	dir := t.TempDir()
	path = filepath.Join(dir, "holed.jsonl")
	whole, holed = open(t, filepath.Join(dir, "whole.jsonl")), open(t, path)
	s = group(t)
	follow(t, whole, s)
	follow(t, holed, s)
	for range 2 {
		for range 4 { // the other one sees everything
			s = note(t, s, 100, "while it was away")
			follow(t, whole, s)
		}
		follow(t, holed, s)
	}
	return whole, holed, s, path
}

func holes(t testing.TB, f *audit.File) []audit.Hole {
	t.Helper()
	h, err := f.Holes()
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func last(t testing.TB, f *audit.File, from, to uint64) []facts.AuditEntry {
	t.Helper()
	e, err := f.Last(from, to)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestFile_FillsItsHoles(t *testing.T) {
	whole, holed, s, path := away(t)
	if n := len(holes(t, holed)); n != 2 || len(holes(t, whole)) != 0 {
		t.Fatalf("%d holes", n)
	}
	// A part of a hole at a time, the later hole first.
	for fills := 0; len(holes(t, holed)) > 0; fills++ {
		if fills > 40 {
			t.Fatal("it never ends")
		}
		h := holes(t, holed)
		hole := h[len(h)-1]
		from := max(hole.From, hole.To-min(hole.To-1, 70)+1)
		if err := holed.Fill(last(t, whole, from, hole.To)); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(t, holed, audit.HeadOf(s)); err != nil {
		t.Error(err)
	}
	// It goes on as if nothing had been, also after a restart.
	for range 2 {
		s = note(t, s, 3, "more")
		follow(t, holed, s)
		if err := check(t, holed, audit.HeadOf(s)); err != nil || holed.Problem() != "" {
			t.Errorf("%v, %s", err, holed.Problem())
		}
		if err := holed.Close(); err != nil {
			t.Fatal(err)
		}
		holed = open(t, path)
	}
	a, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	follow(t, whole, s)
	b, err := os.ReadFile(filepath.Join(filepath.Dir(path), "whole.jsonl"))
	if err != nil || !slices.Equal(a, b) {
		t.Errorf("the files of both nodes differ, %v", err)
	}
}

// Only what joins the chain on both sides gets into the file, whoever gives it.
func TestFile_FillRefusesWhatIsNotProven(t *testing.T) {
	whole, holed, _, path := away(t)
	h := holes(t, holed)[0]
	right := last(t, whole, h.From, h.To)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(right)) != h.To-h.From+1 {
		t.Fatalf("%d entries for %+v", len(right), h)
	}
	other := forged(right)
	for name, entries := range map[string][]facts.AuditEntry{
		"Changed":      with(right, 5, func(e *facts.AuditEntry) { e.Text = "nothing happened" }),
		"LastChanged":  with(right, len(right)-1, func(e *facts.AuditEntry) { e.Text = "nothing happened" }),
		"FirstChanged": with(right, 0, func(e *facts.AuditEntry) { e.Node = "other" }),
		"OtherChain":   other,
		"OtherBegin":   slices.Concat(other[:10], right[10:]),
		"OneMissing":   slices.Delete(slices.Clone(right), 7, 8),
		"Beginning":    right[:20],
		"TooMuch":      last(t, whole, h.From-1, h.To),
		"Unsorted":     with(right, 3, func(e *facts.AuditEntry) { e.N++ }),
	} {
		t.Run(name, func(t *testing.T) {
			if err := holed.Fill(entries); !errors.Is(err, audit.ErrOtherChain) {
				t.Errorf("got %v", err)
			}
			if after, err := os.ReadFile(path); err != nil || !slices.Equal(after, before) {
				t.Errorf("the file was changed, %v", err)
			}
		})
	}
	if err := holed.Fill(right[3:]); err != nil {
		t.Error(err)
	}
	if err := holed.Fill(right[:3]); err != nil || len(holes(t, holed)) != 1 {
		t.Errorf("%v, %+v", err, holes(t, holed))
	}
}

func with(entries []facts.AuditEntry, i int, change func(*facts.AuditEntry)) []facts.AuditEntry {
	out := slices.Clone(entries)
	change(&out[i])
	return out
}

// forged is a chain of the same numbers that tells something else, with all its
// own hashes right.
func forged(entries []facts.AuditEntry) []facts.AuditEntry {
	out := slices.Clone(entries)
	for i := range out {
		out[i].Text = "nothing happened"
		if i > 0 {
			out[i].Prev = out[i-1].Hash
		}
		out[i].Hash = out[i].Sum()
	}
	return out
}

// A crash in the middle leaves the old file or the new one.
func TestFile_FillCutOff(t *testing.T) {
	whole, holed, s, path := away(t)
	if err := holed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".filled", []byte(`{"n":1,"at`), 0o600); err != nil {
		t.Fatal(err)
	}
	holed = open(t, path)
	for _, h := range holes(t, holed) {
		if err := holed.Fill(last(t, whole, h.From, h.To)); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(t, holed, audit.HeadOf(s)); err != nil {
		t.Error(err)
	}
}

func TestFile_Last(t *testing.T) {
	whole, holed, s, _ := away(t)
	h := holes(t, holed)[0]
	for name, tt := range map[string]struct {
		f           *audit.File
		from, to    uint64
		first, want uint64 // number of the first, and how many
	}{
		"All":         {whole, 1, s.Audit.N, s.Audit.N - min(s.Audit.N, audit.MaxEntries) + 1, min(s.Audit.N, audit.MaxEntries)},
		"Some":        {whole, 5, 9, 5, 5},
		"Bounded":     {whole, 1, audit.MaxEntries + 100, 101, audit.MaxEntries},
		"AfterAHole":  {holed, 1, h.To + 5, h.To + 1, 5},
		"InAHole":     {holed, 1, h.To - 1, 0, 0},
		"BeforeAHole": {holed, 1, h.From - 1, 1, h.From - 1},
		"NotYet":      {whole, 5, s.Audit.N + 1, 0, 0},
	} {
		got := last(t, tt.f, tt.from, tt.to)
		if uint64(len(got)) != tt.want || tt.want > 0 && (got[0].N != tt.first || got[len(got)-1].N != tt.to) {
			t.Errorf("%s: %d entries, the first %+v", name, len(got), got[:min(1, len(got))])
		}
	}
}
