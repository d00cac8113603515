package probe_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"understudy/failover/probe"
)

const stall = 5 * time.Second

func TestJudge(t *testing.T) {
	full := probe.Finding{Kind: probe.DiskFull, Where: "/d", Text: "full"}
	lasts := func(k probe.Kind, d time.Duration) probe.Observations {
		return probe.Observations{Lasting: []probe.Finding{{Kind: k, Text: "lasts", For: d}}}
	}
	rows := func(n int, fs ...probe.Finding) (o probe.Observations) {
		for _, f := range fs {
			o.Rounds = append(o.Rounds, probe.Seen{Finding: f, Since: 6 * time.Second, Rounds: n})
		}
		return o
	}
	for _, c := range []struct {
		name string
		in   probe.Observations
		want probe.Health
	}{
		{"Nothing", probe.Observations{}, probe.Health{}},
		{"FullOnce", rows(1, full), probe.Health{Warnings: map[probe.Kind]string{probe.DiskFull: "full"}}},
		{"FullTwice", rows(2, full), probe.Health{Failing: "full", Kind: probe.DiskFull, For: 4 * time.Second}},
		{"ConnectionsForEver", rows(1000, probe.Finding{Kind: probe.Connections, Text: "used up"}), probe.Health{Warnings: map[probe.Kind]string{probe.Connections: "used up"}}},
		{"OddForEver", rows(1000, probe.Finding{Kind: probe.ServerOdd, Text: "odd"}), probe.Health{Warnings: map[probe.Kind]string{probe.ServerOdd: "odd"}}},
		{"ShortHang", lasts(probe.DiskHung, 999*time.Millisecond), probe.Health{}},
		{"LongerHang", lasts(probe.DiskHung, time.Second), probe.Health{Warnings: map[probe.Kind]string{probe.DiskHung: "lasts"}}},
		{"Hang", lasts(probe.ServerHung, stall), probe.Health{Failing: "lasts", Kind: probe.ServerHung, For: stall}},
		{"FrozenShortly", lasts(probe.ServerFrozen, 900*time.Millisecond), probe.Health{}},
		{"Frozen", lasts(probe.ServerFrozen, time.Second), probe.Health{Failing: "lasts", Kind: probe.ServerFrozen, For: time.Second}},
		{"CauseFirst", rows(2, probe.Finding{Kind: probe.ServerError, Text: "io"}, full),
			probe.Health{Failing: "full", Kind: probe.DiskFull, For: 4 * time.Second, Warnings: map[probe.Kind]string{probe.ServerError: "io"}}},
		{"TwoDisks", rows(1, full, probe.Finding{Kind: probe.DiskFull, Where: "/e", Text: "full too"}), probe.Health{Warnings: map[probe.Kind]string{probe.DiskFull: "full; full too"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d := cmp.Diff(c.want, probe.Judge(c.in, 10*time.Second, probe.LimitsFor(stall))); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestNote_OnlyUnbrokenRows(t *testing.T) {
	a, b := probe.Finding{Kind: probe.DiskFull, Where: "/a"}, probe.Finding{Kind: probe.DiskFull, Where: "/b"}
	var seen []probe.Seen
	for i, round := range [][]probe.Finding{{a}, {a, a, b}, {b}, {a, b}} {
		seen = probe.Note(seen, round, time.Duration(i))
	}
	want := []probe.Seen{{Finding: a, Since: 3, Rounds: 1}, {Finding: b, Since: 1, Rounds: 3}}
	if d := cmp.Diff(want, seen); d != "" {
		t.Error(d)
	}
}

// world is a random history together with what a plain reading of it says.
type world struct {
	obs   probe.Observations
	now   time.Duration
	fails bool // something in it must fail the node
}

func drawWorld(t *rapid.T) world {
	kinds := []probe.Kind{probe.DiskReadOnly, probe.DiskError, probe.DiskFull, probe.ServerError, probe.Connections, probe.ServerOdd}
	var w world
	var history []map[probe.Finding]bool
	var seen []probe.Seen
	for range rapid.IntRange(0, 6).Draw(t, "rounds") {
		w.now += time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond
		set := map[probe.Finding]bool{}
		var round []probe.Finding
		for range rapid.IntRange(0, 3).Draw(t, "findings") {
			f := probe.Finding{Kind: rapid.SampledFrom(kinds).Draw(t, "kind"), Where: rapid.SampledFrom([]string{"/a", "/b"}).Draw(t, "where")}
			f.Text = string(f.Kind) + f.Where
			set[f] = true
			round = append(round, f)
		}
		history = append(history, set)
		seen = probe.Note(seen, round, w.now)
	}
	w.obs.Rounds = seen
	if n := len(history); n >= 2 {
		for f := range history[n-1] {
			if history[n-2][f] && f.Kind != probe.Connections && f.Kind != probe.ServerOdd {
				w.fails = true
			}
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "lasting") {
		f := probe.Finding{Kind: rapid.SampledFrom([]probe.Kind{probe.DiskHung, probe.ServerHung, probe.ServerFrozen}).Draw(t, "lasting kind"),
			For: time.Duration(rapid.IntRange(0, 8000).Draw(t, "for")) * time.Millisecond}
		f.Text = string(f.Kind)
		w.obs.Lasting = append(w.obs.Lasting, f)
		w.fails = w.fails || f.For >= stall || f.Kind == probe.ServerFrozen && f.For >= time.Second
	}
	return w
}

func TestJudge_Property(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		h := probe.Judge(w.obs, w.now, probe.LimitsFor(stall))
		if (h.Failing != "") != w.fails || (h.Kind != "") != w.fails {
			t.Fatalf("fails %t, got %+v", w.fails, h)
		}
		if h.For < 0 || h.Failing == "" && h.For != 0 {
			t.Fatalf("for %s", h.For)
		}
		turned := probe.Observations{Rounds: reversed(w.obs.Rounds), Lasting: reversed(w.obs.Lasting)}
		if d := cmp.Diff(h, probe.Judge(turned, w.now, probe.LimitsFor(stall))); d != "" {
			t.Fatalf("the order matters: %s", d)
		}
		patient := probe.Judge(w.obs, w.now, probe.LimitsFor(2*stall))
		if patient.Failing != "" && h.Failing == "" {
			t.Fatal("more patience made it fail")
		}
		for _, s := range w.obs.Rounds {
			if h.Failing != s.Text && h.Warnings[s.Kind] == "" {
				t.Fatalf("%s is told nowhere: %+v", s.Text, h)
			}
		}
	})
}

func reversed[T any](in []T) (out []T) {
	for i := range in {
		out = append(out, in[len(in)-1-i])
	}
	return out
}
