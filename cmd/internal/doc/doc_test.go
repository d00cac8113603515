package doc_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"understudy/cmd/internal/doc"
	"understudy/shipper/pos"
)

var update = flag.Bool("update", false, "write the golden files")

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func full() doc.History {
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	return doc.History{Order: "o2", Changes: []doc.Change{{
		ID: "1.7", Epoch: pos.Epoch{Gen: 1, Num: 7}, Kind: doc.KindForced, From: "main", To: "backup", Cause: "ordered", Plan: "1.6-2", Timeline: 3, Start: 0x3000148,
		Phases:    []doc.Phase{{Name: doc.PhaseOrdered, At: at(0)}, {Name: doc.PhaseOpened, Node: "backup", Text: "on timeline 3", At: at(210), AfterNS: 210e6}},
		Durations: []doc.Duration{{Part: doc.PartElect, Milliseconds: 30.5}, {Part: doc.PartCopy, In: doc.PartElect, Approximate: true}},
		Opened:    true, Failed: "no", Statement: "All is lost.",
		Proof: &doc.Proof{Heard: 1, Bound: 2, Promoted: 3, Lost: &pos.Range{From: 3, To: 4}, MayLost: &pos.Range{From: 4, To: 5}, Provisional: true, Missing: []string{"main"},
			Sentence: "s", Unlogged: "u", Closed: "c", Transactions: []doc.LostTransaction{{XID: 7, End: 4, Time: at(-5), Tables: []string{"orders"}}}},
		Return: &doc.Return{Node: "main", Method: doc.MethodRewind, Why: "w", At: at(900), Bytes: 8192, Tail: "/tail", TailTransactions: 1, Problem: "p",
			Transactions: []doc.LostTransaction{{XID: 8, End: 5, Time: at(-4)}}},
	}}}
}

// The documents are read by programs of others: their names and forms are kept.
func TestHistory_DocumentGolden(t *testing.T) {
	got, err := json.MarshalIndent(full(), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	path := filepath.Join("testdata", "history.json")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %s", path, cmp.Diff(string(want), string(got)))
	}
	var back doc.History
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(full(), back); d != "" {
		t.Error(d)
	}
}

func TestDocuments_NamesAreSnakeCase(t *testing.T) {
	name := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(ty reflect.Type) {
		for ty.Kind() == reflect.Slice || ty.Kind() == reflect.Pointer {
			ty = ty.Elem()
		}
		if seen[ty] || ty.Kind() != reflect.Struct || !strings.HasSuffix(ty.PkgPath(), "internal/doc") {
			return
		}
		seen[ty] = true
		for f := range ty.Fields() {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !name.MatchString(tag) {
				t.Errorf("%s.%s: %q", ty, f.Name, tag)
			}
			walk(f.Type)
		}
	}
	for _, v := range []any{doc.History{}, doc.Outcome{}, doc.Explanation{}, doc.Plans{}, doc.Pause{}, doc.Incidents{}} {
		walk(reflect.TypeOf(v))
	}
	if len(seen) != 18 {
		t.Errorf("%d documents", len(seen))
	}
}

func TestChange_OutageAndTook(t *testing.T) {
	phases := func(opened bool, names ...string) doc.Change {
		c := doc.Change{Opened: opened}
		for i, n := range names {
			c.Phases = append(c.Phases, doc.Phase{Name: n, AfterNS: int64(i) * 100})
		}
		return c
	}
	skewed := phases(true, doc.PhaseFrozen, doc.PhaseOpened)
	skewed.Phases[1].AfterNS = -5
	for name, tt := range map[string]struct {
		c            doc.Change
		outage, took time.Duration // -1: not known
	}{
		"Switchover":     {phases(true, doc.PhaseOrdered, doc.PhaseFrozen, doc.PhaseStopped, doc.PhaseOpened, doc.PhaseReturned), 200, 300},
		"StoppedOnly":    {phases(true, doc.PhaseStopped, doc.PhaseEpoch, doc.PhaseOpened), 200, 200},
		"NobodyStopped":  {phases(true, doc.PhaseEpoch, doc.PhaseOpened), -1, 100},
		"TriedAgain":     {phases(true, doc.PhaseFrozen, doc.PhaseEpoch, doc.PhaseStopped, doc.PhaseEpoch, doc.PhaseOpened), 400, 400},
		"Lost":           {phases(true, doc.PhaseLost, doc.PhaseEpoch, doc.PhaseStopped, doc.PhaseOpened), 300, 300},
		"NotOpen":        {phases(false, doc.PhaseFrozen, doc.PhaseEpoch), -1, -1},
		"OpenUnrecorded": {phases(true, doc.PhaseFrozen), -1, -1},
		"NotSaidOpen":    {phases(false, doc.PhaseFrozen, doc.PhaseOpened), -1, -1},
		"Skewed":         {skewed, 0, 0},
		"Nothing":        {doc.Change{}, -1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			for what, f := range map[string]func() (time.Duration, bool){"outage": tt.c.Outage, "took": tt.c.Took} {
				want := map[string]time.Duration{"outage": tt.outage, "took": tt.took}[what]
				got, ok := f()
				if !ok {
					got = -1
				}
				if got != want {
					t.Errorf("%s: got %d, want %d", what, got, want)
				}
			}
		})
	}
}

func TestDurations(t *testing.T) {
	at := func(steps ...any) []doc.Phase {
		var out []doc.Phase
		for i := 0; i < len(steps); i += 2 {
			out = append(out, doc.Phase{Name: steps[i].(string), AfterNS: int64(steps[i+1].(int)) * 1e5})
		}
		return out
	}
	for name, tt := range map[string]struct {
		phases []doc.Phase
		want   string
	}{
		"Failover": {at("lost", 0, "epoch", 10204, "fenced", 10250, "copied", 10300, "assigned", 10400, "replayed", 10500, "promoting", 10510, "promoted", 10800, "opened", 11000, "returned", 91000),
			"detect 1020.4, fence 4.6, elect 15, copy 5 in elect, catch-up 10, promote 30, open 20, re-seed 8000"},
		"Switchover": {at("ordered", 0, "frozen", 20, "stopped", 1020, "epoch", 1030, "fenced", 1050, "assigned", 1070, "replayed", 1080, "promoted", 1100, "opened", 1200),
			"freeze 2, stop 100, fence 2, elect 2, catch-up 1, promote 2, open 10"},
		"Restart":    {at("epoch", 0, "fenced", 30, "assigned", 60, "opened", 90), "fence 3, elect 3"},
		"TriedAgain": {at("epoch", 0, "fenced", 30, "epoch", 100, "fenced", 110, "assigned", 111), "fence 1, elect 0.1"},
		"Skewed":     {at("lost", 50, "epoch", 0, "fenced", 30), "detect ~0, fence 3"},
		"CopyLong":   {at("fenced", 0, "copied", 90, "assigned", 50), "elect 5, copy ~5 in elect"},
		"Unfinished": {at("ordered", 0), ""},
		"Nothing":    {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, d := range doc.Durations(tt.phases) {
				text := fmt.Sprintf("%s %v", d.Part, d.Milliseconds)
				if d.Approximate {
					text = fmt.Sprintf("%s ~%v", d.Part, d.Milliseconds)
				}
				if d.In != "" {
					text += " in " + d.In
				}
				got = append(got, text)
			}
			if d := cmp.Diff(tt.want, strings.Join(got, ", ")); d != "" {
				t.Error(d)
			}
		})
	}
	if b, err := json.Marshal(doc.Durations(nil)); err != nil || string(b) != "[]" {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestChange_PhaseIsTheLast(t *testing.T) {
	c := doc.Change{Phases: []doc.Phase{{Name: doc.PhaseEpoch, AfterNS: 1}, {Name: doc.PhaseFenced}, {Name: doc.PhaseEpoch, AfterNS: 2}}}
	if p, ok := c.Phase(doc.PhaseEpoch); !ok || p.AfterNS != 2 {
		t.Errorf("got %v, %v", p, ok)
	}
	if p, ok := c.Phase(doc.PhaseOpened); ok {
		t.Errorf("got %v", p)
	}
}

// Only a proof without any doubt may be told in five words.
func TestChange_Lossless(t *testing.T) {
	for name, tt := range map[string]struct {
		edit func(*doc.Change)
		want bool
	}{
		"Proven":      {func(*doc.Change) {}, true},
		"NoProof":     {func(c *doc.Change) { c.Proof = nil }, false},
		"Lost":        {func(c *doc.Change) { c.Proof.Lost = &pos.Range{From: 1, To: 2} }, false},
		"MayLost":     {func(c *doc.Change) { c.Proof.MayLost = &pos.Range{From: 1, To: 2} }, false},
		"Provisional": {func(c *doc.Change) { c.Proof.Provisional = true }, false},
		"Missing":     {func(c *doc.Change) { c.Proof.Missing = []string{"witness"} }, false},
		"Failover":    {func(c *doc.Change) { c.Kind = doc.KindFailover }, false},
		"Forced":      {func(c *doc.Change) { c.Kind = doc.KindForced }, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := doc.Change{Kind: doc.KindSwitchover, Proof: &doc.Proof{Sentence: "s"}}
			tt.edit(&c)
			if got := c.Lossless(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
}
