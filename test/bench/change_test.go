package main

import (
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/pgtest"
)

// plainPair is a plain pair of small servers.
func plainPair(t *testing.T) *bare {
	t.Helper()
	tools, err := pg.FindTools(pgtest.BinDir(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, dir := t.Context(), pgtest.Dir(t)
	like, err := tools.Init(ctx, dir+"/like", pgtest.FreePort(t), false, map[string]string{"max_connections": "30", "shared_buffers": "16MB"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { like.Stop() })
	if err := like.Start(ctx); err != nil {
		t.Fatal(err)
	}
	tools.SegMiB = 32
	b, err := startBare(ctx, tools, like.Server, dir+"/b", twoPorts(t), 1)
	t.Cleanup(func() {
		if err := b.stop(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestChanges_PlainPair(t *testing.T) {
	pair := plainPair(t)
	t.Run("ThereAndBack", func(t *testing.T) { thereAndBack(t, pair) })
	t.Run("PlantedLossIsSeen", func(t *testing.T) { plantedLoss(t, pair) })
}

// The pair is changed by hand, twice, and what its clients saw is at least
// what the promotion took.
func thereAndBack(t *testing.T, b *bare) {
	for _, want := range []int{1, 0} {
		got, err := b.change(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", got)
		if b.primary != want || got.stop <= 0 || got.promote <= 0 || got.outage < got.promote/2 || got.outage > 10*time.Second {
			t.Errorf("primary %d, want %d; %+v", b.primary, want, got)
		}
	}
	if size, err := b.nodes[b.primary].Query(t.Context(), "current_setting('wal_segment_size')"); err != nil || size != "32MB" {
		t.Errorf("segments of %s, %v", size, err)
	}
}

// A part whose rows are all there has no error; one row less, of an early run,
// is one.
func plantedLoss(t *testing.T, pair *bare) {
	c := &changes{bench: &bench{began: time.Now(), group: &group.Group{Port: pair.nodes[0].Port - 1}}}
	for range 2 {
		w, err := c.writers(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer w.Stop()
	}
	if err := c.checkRun(t.Context(), c.written[0], "main"); err != nil {
		t.Error(err)
	}
	text, err := c.verify(t.Context())
	if err != nil || !strings.Contains(text, "none is missing") || !strings.Contains(text, "equal digests") {
		t.Errorf("got %q, %v", text, err)
	}
	if err := pair.nodes[0].Exec(t.Context(), "delete from acked_0 where (writer, seq) = (3, 0)"); err != nil {
		t.Fatal(err)
	}
	if text, err = c.verify(t.Context()); err == nil || !strings.Contains(err.Error(), "acked_0") || !strings.Contains(err.Error(), "[3/0]") || !strings.Contains(text, "**1 are** missing") {
		t.Errorf("got %q, %v", text, err)
	}
	if err := c.checkRun(t.Context(), c.written[0], "main"); err == nil {
		t.Error("the run's own look at its rows misses it")
	}
}

// twoPorts finds a free port whose next one is free too.
func twoPorts(t *testing.T) int {
	t.Helper()
	for range 50 {
		p := pgtest.FreePort(t)
		if l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p+1))); err == nil {
			l.Close()
			return p
		}
	}
	t.Fatal("no two free ports side by side")
	return 0
}

func oneRun(from, to string, outage time.Duration, c group.Change) changed {
	return changed{from: from, to: to, leader: "witness", outage: outage, slowest: outage, resumes: outage, command: outage, back: time.Second, change: c}
}

func TestReports_CountEveryRun(t *testing.T) {
	ms, at := time.Millisecond, time.Unix(1000, 0)
	phase := func(fenced, opened time.Duration) []group.Phase {
		return []group.Phase{{Name: "ordered"}, {Name: "fenced", After: fenced}, {Name: "opened", After: opened}}
	}
	runs := []changed{
		oneRun("main", "backup", 200*ms, group.Change{Phases: phase(10*ms, 150*ms), Return: &group.Return{Method: "follow", At: at}}),
		oneRun("backup", "main", 300*ms, group.Change{Phases: phase(30*ms, 250*ms), Return: &group.Return{Method: "rewind", At: at}}),
		oneRun("main", "backup", 1000*ms, group.Change{Phases: phase(20*ms, 900*ms), Return: &group.Return{Method: "rewind", Problem: "not yet"}}),
		oneRun("main", "backup", 400*ms, group.Change{Return: &group.Return{Method: "rewind", Problem: "x", At: at}}),
	}
	c := &changes{times: []bareTimes{{stop: 70 * ms, promote: 90 * ms, outage: 180 * ms}}}
	got := c.switchReport("Intro.", "None is missing.", runs)
	for _, want := range []string{
		"4 times", "Intro. None is missing.", "follow 1, not recorded 1, rewind 1, rewind with a problem 1",
		"| outage                                                          |    4 |    350 |  1000 |",
		"| plain PostgreSQL: fast stop after a checkpoint                  |    1 |     70 |    70 |",
		"| opened                            |    3 |    250 |   900 |",
		"ordered 0, fenced 10, opened 150",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if strings.Index(got, "| fenced") > strings.Index(got, "| opened") {
		t.Errorf("phases are not in order\n%s", got)
	}
	f := &failovers{changes: c, leaderOn: true, runs: runs[:1], unarranged: 2}
	if got := f.report(); !strings.Contains(got, "**Ledger leader on the primary, lost with it**") || !strings.Contains(got, "In 2 of 3 runs this could not be arranged") ||
		!strings.Contains(got, "main → backup |       witness |") {
		t.Errorf("got\n%s", got)
	}
	if got := (&failovers{changes: c}).report(); !strings.Contains(got, "Nothing was measured") {
		t.Errorf("got\n%s", got)
	}
	if c.switchReport("", "", nil) != "" {
		t.Error("a part without a run has a report")
	}
}

func TestAreNone_ALossIsSeen(t *testing.T) {
	if areNone(0) != "none is" || areNone(3) != "**3 are**" {
		t.Errorf("got %q, %q", areNone(0), areNone(3))
	}
}
