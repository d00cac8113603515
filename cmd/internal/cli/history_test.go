package cli_test

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/doc"
	"understudy/shipper/pos"
)

func TestHistory(t *testing.T) {
	g := &group{play: []*doc.History{{Changes: histories()}}}
	config := g.begin(t)
	var out buffer
	if err := run(t.Context(), &out, "history", "--config", config); err != nil {
		t.Fatal(err)
	}
	golden(t, "history.txt", out.String())
	if bytes.ContainsRune([]byte(out.String()), '\x1b') {
		t.Error("an escape sequence reached the terminal")
	}
	out = buffer{}
	var got doc.History
	if err := run(t.Context(), &out, "history", "--json", "2", "--config", config); err != nil || json.Unmarshal([]byte(out.String()), &got) != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	if d := cmp.Diff(histories()[len(histories())-2:], got.Changes); d != "" {
		t.Error(d)
	}
	out = buffer{}
	if err := run(t.Context(), &out, "history", "--tail", "--config", config); err != nil {
		t.Fatal(err)
	}
	golden(t, "history-tail.txt", out.String())
	g.play = []*doc.History{{}}
	out = buffer{}
	if err := run(t.Context(), &out, "history", "--config", config); err != nil || out.String() != "No change of primary is recorded.\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}

// histories has a change of every kind.
func histories() []doc.Change {
	founding := change(1, "main", doc.PhaseEpoch, doc.PhaseOpened)
	founding.Kind, founding.From, founding.Cause = doc.KindFounding, "", "the group was founded"
	restart := proven(change(2, "main", doc.PhaseEpoch, doc.PhaseFenced, doc.PhaseAssigned, doc.PhaseOpened))
	restart.Kind, restart.Cause, restart.Plan = doc.KindRestart, "PostgreSQL of main ended", "1.1-17"
	switchover := proven(change(3, "backup", append(slices.Clone(allPhases), doc.PhaseReturned)...))
	switchover.Phases[9].AfterNS, switchover.Phases[10].AfterNS = 274_400_000, 61e9
	switchover.Return = &doc.Return{Node: "main", Method: doc.MethodFollow, Why: "it stopped cleanly before the fork", At: start.Add(2 * time.Second)}
	failed := change(4, "", doc.PhaseEpoch, doc.PhaseFenced)
	failed.Kind, failed.From, failed.Failed = doc.KindFailover, "backup", "epoch 1.5 began before it was opened: main was lost"
	failover := change(5, "main", doc.PhaseLost, doc.PhaseEpoch, doc.PhaseFenced, doc.PhaseCopied, doc.PhaseAssigned, doc.PhasePromoted, doc.PhaseOpened)
	failover.Kind, failover.From, failover.Cause, failover.Plan = doc.KindFailover, "backup", "backup was silent for 1.2 s\x1b[31m", "1.4-3"
	failover.Phases[6].AfterNS = 1_204e6
	failover.Proof = &doc.Proof{Provisional: true, Missing: []string{"backup"}, Unlogged: "Unlogged tables are empty; sequences may skip values.",
		Sentence: "Nothing acknowledged was lost: a majority vouches for everything up to 0/3000148. The old primary's own record is awaited."}
	failover.Return = &doc.Return{Node: "backup", Method: doc.MethodRewind, Problem: "pg_rewind cannot reach main; it is tried again."}
	forced := change(6, "backup", doc.PhaseOrdered, doc.PhaseEpoch, doc.PhaseFenced, doc.PhaseAssigned, doc.PhaseOpened)
	forced.Kind, forced.Statement = doc.KindForced, statement
	forced.Phases[4].AfterNS = 75e9
	forced.Proof = &doc.Proof{Lost: &pos.Range{From: 0x3000148, To: 0x3000200}, Sentence: "Acknowledged commits were lost: everything from 0/3000148 to 0/3000200.",
		Closed: "main had acknowledged up to 0/3000200."}
	for i := range 12 {
		forced.Proof.Transactions = append(forced.Proof.Transactions, doc.LostTransaction{XID: uint32(800 + i), End: pos.LSN(0x3000150 + 8*i), Time: start.Add(-time.Second)})
	}
	forced.Proof.Transactions[0].Tables = []string{"orders", "it\u009bems"}
	forced.Return = &doc.Return{Node: "main", Method: doc.MethodDelta, Why: "pg_rewind was not possible", At: start.Add(time.Hour), Bytes: 5 << 20, Tail: "/var/lib/understudy/tails/1.5-0_3000148", TailTransactions: 1}
	forced.Return.TailTransactions = 3
	forced.Return.Transactions = []doc.LostTransaction{{XID: 799, End: 0x3000149, Time: start, Tables: []string{"ite\u009bms"}}, {XID: 800, End: 0x3000150, Time: start.Add(time.Second)}}
	going := change(7, "main", doc.PhaseOrdered, doc.PhaseFrozen)
	going.From = "backup"
	failover.Phases[3].AfterNS = 200e6 // another host's clock
	all := []doc.Change{founding, restart, switchover, failed, failover, forced, going}
	for i := range all {
		all[i].Durations = doc.Durations(all[i].Phases)
	}
	return all
}

func TestExplain(t *testing.T) {
	e := doc.Explanation{
		ID: "1.4-3", At: start, Node: "witness", Rule: "primary-silent", RuleMeaning: "a majority does not hear the primary", Why: "backup was not heard for 1.2 s by witness and main.",
		Evidence: []doc.Evidence{
			{Node: "main", Kind: doc.EvidenceInferred, Text: "hears nothing of backup\x1b[2J", AgeNS: 41e6},
			{Kind: doc.EvidenceLedger, Text: "backup is primary in epoch 1.4", AgeNS: 0},
		},
		Rejected: []doc.Rejected{{What: "rule primary-down", Why: "backup did not say that its PostgreSQL is down"}, {What: "candidate witness", Why: "it has no PostgreSQL"}},
		Actions: []string{"begin epoch 1.5 without a primary", "hand ledger leadership to main",
			`begin-epoch {"kind":"begin-epoch","at":"0001-01-01T00:00:00Z","begin_epoch":{"expect":9,"cause":"main is \u009blost","change":"failover","decision":"","force":true,"x":false,"y":null,"of":["a","b"],"lost":"2026-03-01T12:00:00Z"}}`,
			`half {"kind":`, `two {} {}`},
		Observation: json.RawMessage(`{"now":1}`),
	}
	g := &group{explain: map[string]doc.Explanation{"": e, "a&b=c": {ID: "a&b=c", Rule: "idle"}},
		plans: doc.Plans{Plans: []doc.PlanLine{{ID: "1.4-2", At: start, Rule: "idle", Why: "nothing to do"}, {ID: "1.4-3", At: start.Add(time.Second), Rule: "primary-silent", Why: e.Why}}}}
	config := g.begin(t)
	for name, args := range map[string][]string{"explain.txt": nil, "explain-bare.txt": {"a&b=c"}, "explain-list.txt": {"--list"}} {
		var out buffer
		if err := run(t.Context(), &out, append([]string{"explain", "--config", config}, args...)...); err != nil {
			t.Fatal(err)
		}
		golden(t, name, out.String())
	}
	var out buffer
	if err := run(t.Context(), &out, "explain", "--json", "--config", config); err != nil || !strings.Contains(out.String(), `"now": 1`) {
		t.Errorf("got %s, %v", out.String(), err)
	}
	out = buffer{}
	var plans doc.Plans
	if err := run(t.Context(), &out, "explain", "--list", "--json", "--config", config); err != nil || json.Unmarshal([]byte(out.String()), &plans) != nil || len(plans.Plans) != 2 {
		t.Errorf("got %s, %v", out.String(), err)
	}
	if err := run(t.Context(), io.Discard, "explain", "1.9", "--config", config); cli.Code(err) != cli.ExitUsage || !strings.Contains(err.Error(), "No decision 1.9") {
		t.Errorf("got %d %v", cli.Code(err), err)
	}
	g.plans = doc.Plans{}
	out = buffer{}
	if err := run(t.Context(), &out, "explain", "--list", "--config", config); err != nil || out.String() != "No decision is stored.\n" {
		t.Errorf("got %q, %v", out.String(), err)
	}
}
