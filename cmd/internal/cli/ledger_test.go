package cli_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
	"understudy/ledger/audit"
	"understudy/ledger/facts"
	"understudy/shipper/pos"
)

// chain is an exported audit of n entries, and the state that it is of.
func chain(t *testing.T, n int) (string, facts.State) {
	t.Helper()
	var b strings.Builder
	st := facts.State{Group: facts.Group{ID: "g", Name: "shop", LedgerID: "l", SegSize: 16 << 20}, Policy: facts.DefaultPolicy()}
	for i := range n {
		e := facts.AuditEntry{N: uint64(i + 1), At: start.Add(time.Duration(i) * time.Second), Kind: "policy", Text: fmt.Sprintf("entry %d", i+1), Epoch: pos.Epoch{Gen: 1, Num: 1}, Prev: st.Audit.Head}
		e.Hash = e.Sum()
		line, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(append(line, '\n'))
		st.Audit = facts.Audit{N: e.N, Head: e.Hash, Newest: append(st.Audit.Newest, e)}
	}
	head, err := json.Marshal(map[string]audit.Head{"head": audit.HeadOf(st)})
	if err != nil {
		t.Fatal(err)
	}
	return b.String() + string(head) + "\n", st
}

func TestLedgerCheck(t *testing.T) {
	text, st := chain(t, 9)
	exported, err := facts.Export(st)
	if err != nil {
		t.Fatal(err)
	}
	holds := doc.AuditCheck{Node: "main", OK: true, Entries: 12, Head: "h", Asked: 9, AskedHash: st.Audit.Head}
	other, older, away := holds, holds, holds
	other.AskedHash, older.AskedHash, older.Entries, away.AskedHash = strings.Repeat("0", 64), "", 8, ""
	v := stock()
	v.docs["/api/v1/audit"] = doc.AuditCheck{Node: "main", OK: true, Entries: 12, Head: "abcd"}
	config := v.begin(t)
	dir := t.TempDir()
	for name, tt := range map[string]struct {
		text  string
		here  doc.AuditCheck
		args  string
		code  int
		words string
	}{
		"Holds":     {text, holds, "", cli.ExitOK, "The audit holds: 9 entries, the newest has the hash " + st.Audit.Head + "."},
		"Alone":     {text, other, "--alone", cli.ExitOK, "The audit holds: 9 entries"},
		"Ledger":    {string(exported), holds, "", cli.ExitOK, "The audit holds: 9 entries"},
		"Flipped":   {strings.Replace(string(exported), "shop", "shoq", 1), holds, "", cli.ExitFailure, "damaged export"},
		"Changed":   {strings.Replace(text, "entry 4", "entry 5", 1), holds, "", cli.ExitFailure, "broken at entry 4"},
		"CutOff":    {text[:strings.LastIndex(text, `{"head"`)], holds, "", cli.ExitFailure, "it was cut off"},
		"OtherOne":  {text, other, "", cli.ExitFailure, "its entry 9 is not the one that this group has"},
		"FromAhead": {text, older, "", cli.ExitFailure, "it ends with entry 9, and the newest of this group is 8"},
		"NoCopy":    {text, away, "", cli.ExitFailure, "ask another node"},
	} {
		t.Run(name, func(t *testing.T) {
			v.mu.Lock()
			v.docs["/api/v1/audit?n=9"] = tt.here
			v.mu.Unlock()
			file := filepath.Join(dir, name)
			if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			var out buffer
			err := run(t.Context(), &out, append([]string{"ledger", "check", file, "--config", config}, strings.Fields(tt.args)...)...)
			if got := out.String() + fmt.Sprint(err); cli.Code(err) != tt.code || !strings.Contains(got, tt.words) {
				t.Errorf("%d: %s", cli.Code(err), got)
			}
		})
	}
	var out buffer
	if err := run(t.Context(), &out, "ledger", "check", "--config", config); err != nil || out.String() != "The audit holds: 12 entries, the newest has the hash abcd.\n" {
		t.Errorf("got %v, %s", err, out.String())
	}
	v.mu.Lock()
	v.docs["/api/v1/audit"] = doc.AuditCheck{Problem: "line 3: it was changed", BrokenAt: 3}
	v.mu.Unlock()
	if err := run(t.Context(), io.Discard, "ledger", "check", "--config", config); cli.Code(err) != cli.ExitFailure || !strings.Contains(err.Error(), "line 3: it was changed") {
		t.Errorf("got %v", err)
	}
}

func TestLedgerExport(t *testing.T) {
	text, st := chain(t, 3)
	exported, err := facts.Export(st)
	if err != nil {
		t.Fatal(err)
	}
	v := stock()
	v.docs["/api/v1/ledger"], v.docs["/api/v1/audit/export"] = exported, []byte(text)
	config := v.begin(t)
	var out buffer
	if err := run(t.Context(), &out, "ledger", "export", "--config", config); err != nil || out.String() != string(exported) {
		t.Errorf("got %v, %s", err, out.String())
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "audit")
	if err := os.WriteFile(file, []byte("older"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), io.Discard, "ledger", "export", "--audit", file, "--config", config); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != text {
		t.Errorf("got %s, %v", b, err)
	}
	v.mu.Lock()
	delete(v.docs, "/api/v1/ledger")
	v.mu.Unlock()
	if err := run(t.Context(), io.Discard, "ledger", "export", file, "--config", config); err == nil {
		t.Error("exported nothing")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != text {
		t.Errorf("a failed export left %s, %v", b, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}
