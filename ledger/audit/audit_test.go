package audit_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/ledger/audit"
	"understudy/ledger/facts"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// group is a founded one; each note adds one entry to its audit.
func group(t testing.TB) facts.State {
	t.Helper()
	return apply(t, facts.State{}, facts.Command{Found: &facts.Found{
		Group:  facts.Group{ID: "g", Name: "shop", LedgerID: "l"},
		Member: facts.Member{Name: "main", Store: "A", Kind: facts.KindData},
	}})
}

func apply(t testing.TB, s facts.State, c facts.Command) facts.State {
	t.Helper()
	c.At = t0
	s, out := facts.Apply(s, c)
	if out.Refused != "" {
		t.Fatal(out.Refused)
	}
	return s
}

// note adds n entries.
func note(t testing.TB, s facts.State, n int, why string) facts.State {
	t.Helper()
	for range n {
		frozen := s.Backups.Frozen == nil
		s = apply(t, s, facts.Command{SetFreeze: &facts.SetFreeze{Frozen: frozen, Why: why}})
	}
	return s
}

func open(t testing.TB, path string) *audit.File {
	t.Helper()
	f, err := audit.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func follow(t testing.TB, f *audit.File, s facts.State) {
	t.Helper()
	if err := f.Follow(s); err != nil {
		t.Fatal(err)
	}
}

// check is Check of what the file exports.
func check(t testing.TB, f *audit.File, head audit.Head) error {
	t.Helper()
	var b bytes.Buffer
	if err := f.Export(&b); err != nil {
		t.Fatal(err)
	}
	return audit.Check(&b, head)
}

// broken wants a BrokenError at an entry.
func broken(t testing.TB, err error, n uint64, text string) {
	t.Helper()
	var b *audit.BrokenError
	if !errors.As(err, &b) || b.N != n || !strings.Contains(b.Why, text) {
		t.Errorf("got %v, want entry %d: %s", err, n, text)
	}
}

func TestFile_FollowsAndSurvivesARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f := open(t, path)
	s := group(t)
	early := s
	for range 5 {
		follow(t, f, s)
		follow(t, f, s) // again is nothing new
		s = note(t, s, 3, "more")
	}
	follow(t, f, s)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	follow(t, f, early) // the ledger reads its own past again
	s = note(t, s, 1, "after the restart")
	follow(t, f, s)
	if err := check(t, f, audit.HeadOf(s)); err != nil || f.Head() != audit.HeadOf(s) || f.Problem() != "" {
		t.Errorf("%v, %+v, %s", err, f.Head(), f.Problem())
	}
	if err := check(t, f, audit.Head{}); err != nil {
		t.Error(err)
	}
	broken(t, check(t, f, audit.HeadOf(note(t, s, 1, "x"))), s.Audit.N+1, "should be the last")
	broken(t, check(t, f, audit.HeadOf(early)), early.Audit.N+1, "should be the last")
	broken(t, check(t, f, audit.Head{N: s.Audit.N, Hash: "00"}), s.Audit.N, "its hash is")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
}

// A crash may leave any beginning of what was being appended, and zeros.
func TestFile_RecoversATornTail(t *testing.T) {
	s := group(t)
	half := note(t, s, 4, "before")
	whole := note(t, half, 3, "after")
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f := open(t, path)
	follow(t, f, half)
	kept := size(t, path)
	follow(t, f, whole)
	full, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := kept; cut <= len(full); cut += 7 {
		for _, zeros := range []int{0, 100, 70_000} {
			torn := append(bytes.Clone(full[:cut]), make([]byte, zeros)...)
			p := filepath.Join(t.TempDir(), "audit.jsonl")
			if err := os.WriteFile(p, torn, 0o600); err != nil {
				t.Fatal(err)
			}
			f := open(t, p)
			if f.Problem() != "" || f.Head().N < half.Audit.N {
				t.Fatalf("cut at %d with %d zeros: %s, %+v", cut, zeros, f.Problem(), f.Head())
			}
			follow(t, f, whole)
			if err := check(t, f, audit.HeadOf(whole)); err != nil {
				t.Fatalf("cut at %d with %d zeros: %v", cut, zeros, err)
			}
			_ = f.Close()
		}
	}
}

func size(t testing.TB, path string) int {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Size())
}

func TestFile_NamesWhatItNeverHad(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	s := group(t)
	follow(t, f, s)
	away := note(t, s, facts.MaxAuditEntries+10, "meanwhile")
	follow(t, f, away)
	first := s.Audit.N + 1
	broken(t, check(t, f, audit.HeadOf(away)), first, fmt.Sprintf("entries %d to %d are missing", first, away.Audit.N-facts.MaxAuditEntries))
	follow(t, f, note(t, away, 2, "on"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// A new node begins in the middle.
	g := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	follow(t, g, away)
	broken(t, check(t, g, audit.HeadOf(away)), 1, "are missing")
	if g.Head() != audit.HeadOf(away) {
		t.Errorf("%+v", g.Head())
	}
}

func TestFile_ReopensAfterMissingEntries(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	s := note(t, group(t), facts.MaxAuditEntries+10, "x")
	f := open(t, path)
	follow(t, f, s)
	_ = f.Close()
	f = open(t, path)
	follow(t, f, note(t, s, 1, "y"))
	if f.Problem() != "" || f.Head().N != s.Audit.N+1 {
		t.Errorf("%s %+v", f.Problem(), f.Head())
	}
}

// A ledger that was formed anew from an older state has another chain from
// there on.
func TestFile_SetsAsideWhatLeftTheGroup(t *testing.T) {
	for name, shared := range map[string]int{"Recent": 5, "LongAgo": 3 * facts.MaxAuditEntries} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "audit.jsonl")
			f := open(t, path)
			s := group(t)
			for range shared {
				s = note(t, s, 1, "together")
				follow(t, f, s)
			}
			mine, theirs := note(t, s, 4, "mine"), note(t, s, 6, "theirs")
			follow(t, f, mine)
			follow(t, f, theirs)
			if err := check(t, f, audit.HeadOf(theirs)); err != nil || f.Problem() == "" {
				t.Errorf("%v, %q", err, f.Problem())
			}
			aside, err := os.ReadFile(path + ".left-1")
			if err != nil || bytes.Count(aside, []byte("mine")) < 4 || bytes.Contains(aside, []byte("together")) {
				t.Errorf("%v: %s", err, aside)
			}
			_ = f.Close()
			if f = open(t, path); f.Problem() != "" || f.Head() != audit.HeadOf(theirs) {
				t.Errorf("%s %+v", f.Problem(), f.Head())
			}
		})
	}
}

func TestFile_SetsABrokenFileAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	f := open(t, path)
	s := note(t, group(t), 9, "all")
	follow(t, f, s)
	_ = f.Close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f = open(t, path)
	if f.Problem() == "" || f.Head() != (audit.Head{}) {
		t.Errorf("%q %+v", f.Problem(), f.Head())
	}
	follow(t, f, s)
	if err := check(t, f, audit.HeadOf(s)); err != nil {
		t.Error(err)
	}
	if aside, err := os.ReadFile(path + ".broken-1"); err != nil || !bytes.Equal(aside, b) {
		t.Errorf("the evidence is gone: %v", err)
	}
}

func TestOpen_RefusesADevice(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("this system has no /dev/full")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "audit.jsonl")
	if err := os.Symlink("/dev/full", path); err != nil {
		t.Fatal(err)
	}
	if f, err := audit.Open(path); err == nil {
		t.Errorf("opened a device: %+v", f.Head())
	}
}

// Whatever is changed in a chain is found, and the entry is named.
func TestCheck_FindsEveryChange(t *testing.T) {
	f := open(t, filepath.Join(t.TempDir(), "audit.jsonl"))
	s := note(t, group(t), 3, "why")
	follow(t, f, s)
	var good bytes.Buffer
	if err := f.Export(&good); err != nil {
		t.Fatal(err)
	}
	head := audit.HeadOf(s)
	for i := range good.Len() {
		for _, bit := range []byte{1, 0x20, 0x80} {
			b := bytes.Clone(good.Bytes())
			b[i] ^= bit
			if err := audit.Check(bytes.NewReader(b), head); err == nil {
				t.Fatalf("byte %d ^ %#x: %q was taken for %q", i, bit, b, good.Bytes())
			}
		}
	}
	lines := strings.SplitAfter(good.String(), "\n")
	for name, tt := range map[string]struct {
		text string
		n    uint64
		why  string
	}{
		"Missing":  {lines[0] + lines[2] + lines[3] + lines[4], 2, "entry 3 comes after entry 1"},
		"Swapped":  {lines[0] + lines[2] + lines[1] + lines[3] + lines[4], 2, "entry 3 comes after"},
		"Doubled":  {lines[0] + lines[0] + lines[1], 2, "entry 1 comes after"},
		"NotFirst": {lines[1] + lines[2] + lines[3] + lines[4], 1, "entry 2 comes after entry 0"},
		"Cut":      {lines[0] + lines[1] + lines[2], 4, "it ends with entry 3"},
		"Longer":   {good.String() + lines[3], 5, "lines follow"},
		"BlankIn":  {strings.Replace(good.String(), `"kind":`, `"kind": `, 1), 1, "no line of an audit"},
		"Twice":    {strings.Replace(good.String(), `"text":`, `"text":"x","text":`, 1), 1, "no line of an audit"},
		"Empty":    {"", 1, "it ends with entry 0"},
		"TooLong":  {lines[0] + strings.Repeat("x", 1<<20), 2, "no line of an audit"},
	} {
		t.Run(name, func(t *testing.T) { broken(t, audit.Check(strings.NewReader(tt.text), head), tt.n, tt.why) })
	}
	// Forged: an entry was changed and its hash computed anew.
	forged := s.Audit.Newest[1]
	forged.Text = "nothing happened"
	forged.Hash = forged.Sum()
	text := lines[0] + fmt.Sprintf(`{"n":%d,"at":"2026-03-01T12:00:00Z","kind":%q,"text":%q,"epoch":"0.0","prev":%q,"hash":%q}`+"\n", forged.N, forged.Kind, forged.Text, forged.Prev, forged.Hash) + lines[2]
	broken(t, audit.Check(strings.NewReader(text), head), 3, "it follows")
}

func FuzzCheck(f *testing.F) {
	s := note(f, group(f), 3, "why")
	file, err := audit.Open(filepath.Join(f.TempDir(), "audit.jsonl"))
	if err != nil {
		f.Fatal(err)
	}
	if err := file.Follow(s); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if err := file.Export(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	for _, text := range []string{"", "{}\n", `{"missing":{"from":1,"to":2}}` + "\n", `{"head":{"n":0,"hash":""}}` + "\n", `{"n":1}`, "null", `{"n":`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		err := audit.Check(bytes.NewReader(data), audit.HeadOf(s))
		if err == nil && !bytes.HasPrefix(b.Bytes(), bytes.TrimSuffix(data, []byte("\n"))) {
			t.Fatalf("another chain with the same head: %q", data)
		}
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		g, err := audit.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer g.Close()
		if err := g.Follow(s); err != nil {
			t.Fatal(err)
		}
	})
}
