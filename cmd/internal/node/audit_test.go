package node_test

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"understudy/cmd/internal/node"
	"understudy/ledger/audit"
	"understudy/ledger/facts"
)

// audits are those of a node that saw everything and of one that was away in
// between, with a text of some length in every entry.
func audits(t *testing.T, text string) (whole, holed *audit.File, head audit.Head) {
	t.Helper()
	dir := t.TempDir()
	open := func(name string) *audit.File {
		f, err := audit.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	whole, holed = open("whole"), open("holed")
	var st facts.State
	say := func(c facts.Command, to ...*audit.File) {
		c.At = backupNow
		next, out := facts.Apply(st, c)
		if out.Refused != "" {
			t.Fatal(out.Refused)
		}
		st = next
		for _, f := range to {
			if err := f.Follow(st); err != nil {
				t.Fatal(err)
			}
		}
	}
	say(facts.Command{Found: &facts.Found{Group: facts.Group{ID: "g", Name: "g", LedgerID: "l"}, Member: facts.Member{Name: "main", Store: "A", Kind: facts.KindData}}}, whole, holed)
	for i := range 700 {
		c := facts.Command{SetFreeze: &facts.SetFreeze{Frozen: i%2 == 0, Why: text}}
		switch {
		case i == 699:
			say(c, whole, holed)
		case i%100 == 99:
			say(c, whole)
		default:
			say(c)
		}
	}
	return whole, holed, audit.HeadOf(st)
}

func checkAudit(t *testing.T, f *audit.File, head audit.Head) error {
	t.Helper()
	var b bytes.Buffer
	if err := f.Export(&b); err != nil {
		t.Fatal(err)
	}
	return audit.Check(&b, head)
}

// A node that was away for long has the whole audit again, from whoever has it.
func TestFillAudit(t *testing.T) {
	nothing := func([]facts.AuditEntry) {}
	whole, holed, head := audits(t, "short")
	if checkAudit(t, holed, head) == nil {
		t.Fatal("there is no hole")
	}
	node.FillAudit(t.Context(), holed, nil, nothing)
	node.FillAudit(t.Context(), holed, []*audit.File{nil}, nothing)
	node.FillAudit(t.Context(), holed, []*audit.File{whole}, func(e []facts.AuditEntry) { e[len(e)/2].Text = "nothing happened" })
	if checkAudit(t, holed, head) == nil {
		t.Error("it is whole with what was changed on the way")
	}
	_, other, _ := audits(t, "short")
	node.FillAudit(t.Context(), holed, []*audit.File{nil, other, whole}, nothing)
	if err := checkAudit(t, holed, head); err != nil {
		t.Error(err)
	}
}

func TestHandleAudit_IsBounded(t *testing.T) {
	whole, _, _ := audits(t, strings.Repeat("long ", 300))
	b, err := node.HandleAudit(whole, `{"from":1,"to":600}`)
	if err != nil || len(b) > 128<<10 || len(b) < 32<<10 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	for _, q := range []string{`{"from":1,"to":0}`, `{"from":900,"to":1}`, `{"from":0,"to":18446744073709551615}`} {
		if b, err := node.HandleAudit(whole, q); err != nil || string(b) != "null" {
			t.Errorf("%s: %.80s, %v", q, b, err)
		}
	}
	if _, err := node.HandleAudit(whole, `nonsense`); err == nil {
		t.Error("nonsense is answered")
	}
	if _, err := node.HandleAudit(nil, `{"from":1,"to":2}`); err == nil {
		t.Error("an audit that is not open is answered from")
	}
}
