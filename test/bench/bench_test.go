package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestOptions_Validate(t *testing.T) {
	for _, bad := range []string{"-rounds=0", "-seconds=0", "-only=commit,lga", "-clients=1,x", "-clients=", "-clients=91", "-n=0", "-segsize=3", "-segsize=2048", "-change-scale=0", "-backup-scale=0", "-backup-wal=0", "-backup-minutes=0", "-minutes=0", "-scenarios=cut,cat", "-nope", "extra"} {
		if _, _, err := parseFlags([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	o, repeat, err := parseFlags([]string{"-only", "lag,commit", "-rounds", "3", "-dir", "/x", "-clients", "2,16"})
	if err != nil || repeat != "go run ./test/bench -clients=2,16 -rounds=3" || o.seconds != 30 || o.idle != 30*time.Second {
		t.Errorf("got %+v, %q, %v", o, repeat, err)
	}
	chosen, err := o.chosen()
	if err != nil || len(chosen) != 2 || chosen[0].name != "commit" || chosen[1].name != "lag" {
		t.Errorf("got %v, %v", chosen, err)
	}
	if b := (&bench{options: o}); b.busiest() != 16 {
		t.Errorf("got %d", b.busiest())
	}
}

func TestKindOf_Titles(t *testing.T) {
	for title, want := range map[string]string{
		"postgres: understudy: walsender understudy [local] streaming 0/304B2F0":  "main: walsender",
		"postgres: walsender postgres 127.0.0.1(51020) streaming 0/3":             "main: walsender",
		"postgres: understudy: startup recovering 000000010000000000000003":       "main: startup",
		"postgres: understudy: postgres postgres 127.0.0.1(40612) UPDATE waiting": "main: client backends",
		"postgres: postgres postgres [local] idle":                                "main: client backends",
		"postgres: understudy: logical replication launcher":                      "main: other",
		"postgres: understudy: background writer":                                 "main: other",
		"postgres: walwriter":                      "main: walwriter",
		"/usr/lib/postgresql/15/bin/postgres -D x": "main: postmaster",
	} {
		if got := kindOf("main", title); got != want {
			t.Errorf("%q: got %q, want %q", title, got, want)
		}
	}
	if got := kindOf("main: daemon", "understudy run --config x"); got != "main: daemon" {
		t.Errorf("got %q", got)
	}
}

func TestJudge_Spans(t *testing.T) {
	at := time.Unix(1000, 0)
	s := func(began, took time.Duration) sample {
		return sample{at.Add(began), at.Add(began + took)}
	}
	k, err := judge([]sample{
		s(-12*time.Second, 1900*time.Millisecond),      // ended before the spans
		s(-9*time.Second, 7*time.Millisecond),          // earlier
		s(-2*time.Second, 9*time.Millisecond),          // before
		s(-5*time.Millisecond, 25*time.Millisecond),    // under way at the kill
		s(4900*time.Millisecond, 300*time.Millisecond), // began after it, ended late
		s(5*time.Second, time.Second),                  // began too late
	}, at)
	if err != nil || k.earlier != 7*time.Millisecond || k.before != 9*time.Millisecond || k.after != 300*time.Millisecond || k.rate != 0.2 {
		t.Errorf("got %+v, %v", k, err)
	}
	if _, err := judge([]sample{s(-2*time.Second, time.Millisecond)}, at); err == nil {
		t.Error("a kill after which nothing was committed is judged")
	}
}

func TestCommitTable_RatiosPerRound(t *testing.T) {
	var tps, ms [commitSides][]float64
	tps[sideGroup], tps[sideNoWitness], tps[sideNative] = []float64{50, 90}, []float64{100, 100}, []float64{100, 100}
	got := commitTable(tps, ms)
	if !strings.Contains(got, "0.70 (0.50 – 0.90)") || strings.Count(got, "\n") != 5 {
		t.Errorf("got\n%s", got)
	}
	if got := series([]float64{1, 0.456}); got != "1.00 0.46" {
		t.Errorf("got %q", got)
	}
}

// The two halves of a catch-up from spool to spool.
func TestSpools_FetchWhatWasMade(t *testing.T) {
	s, err := makeSpools(filepath.Join(t.TempDir(), "s"), 40<<20)
	if err != nil {
		t.Fatal(err)
	}
	got, err := s.run(t.Context())
	if err != nil || got.bytes != 40<<20 || got.took <= 0 || got.peak == 0 || got.peak > loadedLimit {
		t.Errorf("got %+v, %v", got, err)
	}
	names, err := os.ReadDir(s.dir)
	if err != nil || slices.ContainsFunc(names, func(e os.DirEntry) bool { return e.Name() == "take" }) {
		t.Errorf("left %v, %v", names, err)
	}
}

// The helper processes of a catch-up are this program again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], helperPrefix) {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestField_FirstOfItsName(t *testing.T) {
	if got := field("model\t: 1\nmodel name\t: CPU @ 2: x\nmodel name: y\n", "model name"); got != "CPU @ 2: x" {
		t.Errorf("got %q", got)
	}
	if got := field("", "x"); got != "unknown" {
		t.Errorf("got %q", got)
	}
}
