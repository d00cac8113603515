package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/pos"
	"understudy/test/bench/internal/ours"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/pgbackrest"
	"understudy/test/bench/internal/stats"
	"understudy/test/pgtest"
)

// turns are a side's turns of so many seconds.
func turns(seconds ...float64) (out []turn) {
	for _, s := range seconds {
		out = append(out, turn{took: time.Duration(s * float64(time.Second)), busy: time.Second, bytes: 1e9})
	}
	return out
}

func TestContest_ComparesRoundsOfBoth(t *testing.T) {
	c := contest{sides: []string{"ours", "theirs", "a third"}, turns: [][]turn{turns(1, 2, 3), turns(2, 2, 2), turns(4, 0, 0)}}
	if got := c.ratios(0, 1, seconds); !slices.Equal(got, []float64{0.5, 1, 1.5}) {
		t.Errorf("got %v", got)
	}
	if got := c.ratios(2, 1, seconds); !slices.Equal(got, []float64{2}) {
		t.Errorf("a side that took part once: got %v", got)
	}
	if got := c.summary(2, seconds); got != (stats.Summary{Median: 4, Min: 4, Max: 4, N: 1}) {
		t.Errorf("got %+v", got)
	}
	table := c.table("work", 1, column{"MB/s", 0, func(t turn) float64 { return bytesOf(t) / 1e6 / seconds(t) }})
	for _, want := range []string{"| work ", "2.00 (1.00 – 3.00)", "1.00 (0.50 – 1.50)", "250 (250 – 250)", "round by round: 0.50 1.00 1.50."} {
		if !strings.Contains(table, want) {
			t.Errorf("no %q in\n%s", want, table)
		}
	}
}

func TestMeasure_RoundsAndTime(t *testing.T) {
	for name, tt := range map[string]struct {
		rounds int
		left   time.Duration
		want   int
	}{
		"AllFit":          {5, time.Hour, 5},
		"LeastAreMade":    {5, -time.Hour, backupLeast},
		"FewAreAskedFor":  {2, -time.Hour, 2},
		"TimeIsUsedUpNow": {9, 0, backupLeast},
	} {
		t.Run(name, func(t *testing.T) {
			var order []string
			s := &backups{bench: &bench{options: options{rounds: tt.rounds}, began: time.Now()}, since: time.Now(), settled: func() {}}
			s.ends = s.since.Add(tt.left)
			one := func(name string, every int) side {
				return side{name: name, every: every, reads: func() []string { return nil }, prepare: nothing,
					run:  func(context.Context) error { order = append(order, name); return nil },
					took: func() time.Duration { return time.Second }, size: func() (int64, error) { return 7, nil }}
			}
			got, err := s.measure(t.Context(), 1, one("a", 0), one("b", 1), one("c", 3))
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []int{tt.want, tt.want, (tt.want + 2) / 3} {
				if n := got.summary(i, bytesOf); n.N != want || n.Median != 7 {
					t.Errorf("side %d: %+v, want %d rounds", i, n, want)
				}
			}
			if !slices.Equal(order[:5], []string{"a", "b", "c", "b", "a"}) {
				t.Errorf("order %v", order)
			}
		})
	}
}

func TestMeasure_ErrorNamesTheSide(t *testing.T) {
	boom := errors.New("boom")
	s := &backups{bench: &bench{options: options{rounds: 3}, began: time.Now()}, settled: func() {}}
	_, err := s.measure(t.Context(), 1, side{name: "theirs", prepare: nothing, reads: func() []string { return []string{"/nowhere/at/all"} }, run: func(context.Context) error { return boom }})
	if !errors.Is(err, boom) || !strings.Contains(err.Error(), "theirs") {
		t.Errorf("got %v", err)
	}
}

// results are such that every bar is just reached.
func results() backupResults {
	pair := func(a, b float64) contest {
		return contest{sides: []string{"ours", "pgBackRest", "other"}, turns: [][]turn{turns(a), turns(b), turns(b)}}
	}
	return backupResults{full: pair(9, 10), restore: pair(6, 10), delta: pair(1, 1), archive: pair(2, 2), recovery: pair(1.1, 1), verify: pair(1, 1)}
}

func TestBackups_Bars(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*backupResults, *backups)
		missed string // what the one missed bar begins with
	}{
		"Reached":    {func(*backupResults, *backups) {}, ""},
		"Full":       {func(r *backupResults, _ *backups) { r.full.turns[0] = turns(9.1) }, "full backup, time"},
		"Size":       {func(r *backupResults, _ *backups) { r.full.turns[0][0].bytes = 1.06e9 }, "full backup, stored"},
		"Restore":    {func(r *backupResults, _ *backups) { r.restore.turns[0] = turns(6.1) }, "restore, "},
		"Delta":      {func(r *backupResults, _ *backups) { r.delta.turns[0] = turns(1.1) }, "restore over"},
		"Archive":    {func(r *backupResults, _ *backups) { r.archive.turns[0] = turns(2.1) }, "archiving"},
		"Recovery":   {func(r *backupResults, _ *backups) { r.recovery.turns[0] = turns(1.2) }, "recovery"},
		"Set":        {func(r *backupResults, _ *backups) { r.verify.turns[proveSet] = turns(1.1) }, "verification of a set"},
		"Log":        {func(r *backupResults, _ *backups) { r.verify.turns[proveLog] = turns(1.1) }, "verification of the log"},
		"NotAllRead": {func(r *backupResults, _ *backups) { r.delta.turns[1] = turns(0) }, "restore over"},
		"Memory":     {func(_ *backupResults, s *backups) { s.peaks["x"] = backupMemory + 1 }, "memory"},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := results(), &backups{bench: &bench{options: options{rounds: 1}}, peaks: map[string]uint64{"ours: backup": backupMemory}, rest: &pgbackrest.Tool{Version: "pgBackRest 9"}}
			tt.change(&r, s)
			missed := ""
			for _, w := range s.bars(r) {
				if !w.ok {
					missed += w.what + "\n"
				}
			}
			if strings.Count(missed, "\n") > 1 || !strings.HasPrefix(missed, tt.missed) || missed != "" && tt.missed == "" {
				t.Errorf("missed:\n%s", missed)
			}
			text := s.report(r)
			if got := strings.Contains(text, "**miss**"); got != (tt.missed != "") {
				t.Errorf("the report:\n%s", text)
			}
		})
	}
}

func TestWarm_ReadsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "a"), make([]byte, 3<<20), 0o600), os.Symlink("nowhere", filepath.Join(dir, "b"))); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(warm(dir, filepath.Join(dir, "gone")), syncDir(dir), syncDir("")); err != nil {
		t.Error(err)
	}
}

// Everything of ours that is measured, in small: a real server is backed up,
// restored twice, its log archived, served and proven, each in a process of its
// own, whose memory is bounded; and a server replays the log.
func TestBackups_OurSide(t *testing.T) {
	tools, err := pg.FindTools(pgtest.BinDir(t))
	if err != nil {
		t.Fatal(err)
	}
	home, port := pgtest.Dir(t), pgtest.FreePort(t)
	b := &bench{options: options{backupScale: 1, backupWAL: 2, segMiB: 1, port: port - backupPort}, tools: tools, began: time.Now(), binary: must(os.Executable())(t)}
	tools.SegMiB = b.segMiB
	s := &backups{bench: b, home: filepath.Join(home, "b"), since: time.Now(), peaks: map[string]uint64{}}
	t.Cleanup(func() {
		if err := s.main.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := s.prepareServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.to.Sub(s.from) < 2<<20 || s.dbBytes < 40<<20 {
		t.Errorf("recorded %s to %s of a database of %d bytes", s.from, s.to, s.dbBytes)
	}
	if err := errors.Join(s.emptyPlace(), s.fresh(s.oursDir())); err != nil {
		t.Fatal(err)
	}
	run := func(k ours.Kind) ours.Outcome {
		t.Helper()
		out, err := s.ours(t.Context(), s.task(k))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	s.label = run(ours.Backup).Label
	fetched := run(ours.Restore).Bytes
	if again := run(ours.Delta).Bytes; fetched < s.dbBytes/2 || again > fetched/10 {
		t.Errorf("%d bytes were fetched to restore %d, and %d for the unchanged", fetched, s.dbBytes, again)
	}
	run(ours.Archive)
	for k, dir := range map[ours.Kind]string{ours.Set: s.ourSet(), ours.Deep: s.ourSet(), ours.WAL: s.ourLog()} {
		if got, want := run(k).Bytes, must(pgbackrest.Size(dir))(t); got != want {
			t.Errorf("%s: %d of %d bytes were proven", k, got, want)
		}
	}
	servesLog(t, s)
	replays(t, s)
	for name, peak := range s.peaks {
		if peak == 0 || peak > backupMemory {
			t.Errorf("%s took %s MiB", name, mib(peak))
		}
	}
	if len(s.peaks) != 8 {
		t.Errorf("memory of %v", s.peaks)
	}
}

// servesLog asks the process that a restore_command asks.
func servesLog(t *testing.T, s *backups) {
	t.Helper()
	p, err := s.startOurs(t.Context(), s.task(ours.Serve))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.ready(); err != nil {
		t.Fatal(err)
	}
	name := pos.SegName(1, s.from, s.segSize())
	dest := filepath.Join(t.TempDir(), name)
	if err := archive.RequestFile(t.Context(), s.task(ours.Serve).Socket, name, dest); err != nil {
		t.Error(err)
	}
	out, err := p.stop()
	if err != nil || out.Given != s.segSize() {
		t.Errorf("got %+v, %v", out, err)
	}
	if got, want := must(os.ReadFile(dest))(t), must(os.ReadFile(filepath.Join(s.walDir(), name)))(t); !slices.Equal(got, want) {
		t.Error("another segment was served")
	}
}

// replays has a server replay the log out of its pg_wal, twice.
func replays(t *testing.T, s *backups) {
	t.Helper()
	r := &replay{backups: s, server: s.tools.At(s.at("redo"), pgtest.FreePort(t))}
	for range 2 {
		if err := errors.Join(r.fromPgWAL(t.Context()), r.run(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	if r.took <= 0 || r.last == "" || r.server.PID() != 0 {
		t.Errorf("took %s up to %q", r.took, r.last)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
