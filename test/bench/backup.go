package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"understudy/shipper/pos"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/pgbackrest"
	"understudy/test/bench/internal/proc"
	"understudy/test/bench/internal/stats"
)

const (
	backupWorkers = 2 // processes or workers of either side
	// backupLeast is how many rounds are measured however long they take.
	backupLeast   = 3
	backupMemory  = 256 << 20
	backupRandom  = "bench_random"
	backupRandomN = 1980 // bytes of a row: four fill a page, and none is stored apart
)

// backups is the state of the part: one server, its recorded log, and what both
// sides made of them.
type backups struct {
	*bench
	home  string // everything of this part; the database account's
	self  string // this program, where that account can run it
	get   string // the understudy binary, likewise
	main  *pg.Cluster
	rest  *pgbackrest.Tool
	since time.Time
	ends  time.Time // when the measuring is to be over
	// settled waits before a turn until nobody pays for what others left in the
	// page cache.
	settled func()

	systemID uint64
	from, to pos.LSN // the recorded log
	dbBytes  int64
	label    string // of our newest set
	peaks    map[string]uint64
	profiles []string // tables of the hottest functions
}

// needBackup says whether pgBackRest is here.
func needBackup() error { _, err := pgbackrest.Find(); return err }

// backup compares full backups, restores, and the archive of the log with
// pgBackRest and with what PostgreSQL brings.
func backup(ctx context.Context, b *bench) (text string, err error) {
	s := &backups{bench: b, home: filepath.Join(b.dir, "b"), since: time.Now(), settled: unix.Sync, peaks: map[string]uint64{}}
	s.ends = s.since.Add(time.Duration(b.backupMinutes * float64(time.Minute)))
	defer func() { err = errors.Join(err, s.main.Stop()) }()
	if err := s.prepare(ctx); err != nil {
		return "", fmt.Errorf("prepare: %w", err)
	}
	var r backupResults
	for _, step := range []struct {
		name string
		do   func(context.Context) (contest, error)
		into *contest
	}{
		{"full backups", s.fulls, &r.full},
		{"restores", s.restores, &r.restore},
		{"restores over unchanged data", s.deltas, &r.delta},
		{"archiving", s.archives, &r.archive},
		{"recovery", s.recoveries, &r.recovery},
		{"verification", s.verifications, &r.verify},
	} {
		b.say("%s", step.name)
		if *step.into, err = step.do(ctx); err != nil {
			return "", fmt.Errorf("%s: %w", step.name, err)
		}
	}
	if b.perf {
		if err := s.profile(ctx); err != nil {
			return "", fmt.Errorf("profile: %w", err)
		}
	}
	text = s.report(r)
	for name, peak := range s.peaks {
		if peak > backupMemory {
			return text, fmt.Errorf("the process of %s took %s MiB of memory, more than %d", name, mib(peak), backupMemory>>20)
		}
	}
	return text, nil
}

// prepare makes both sides ready.
func (s *backups) prepare(ctx context.Context) (err error) {
	if err := s.prepareServer(ctx); err != nil {
		return err
	}
	s.rest, err = pgbackrest.New(ctx, s.tools, s.at("rest"), s.main, backupWorkers)
	return err
}

// prepareServer makes the server, records its log, and then gives it its full
// size.
func (s *backups) prepareServer(ctx context.Context) (err error) {
	if err := s.tools.MakeDir(s.home); err != nil {
		return err
	}
	if err := s.programs(); err != nil {
		return err
	}
	s.say("a server with pgbench's tables of scale %d", s.backupScale)
	s.main, err = s.tools.Init(ctx, filepath.Join(s.home, "main"), s.port+backupPort, true, map[string]string{
		"wal_level": "replica", "autovacuum": "off", "synchronous_commit": "off", "shared_buffers": "512MB", "checkpoint_timeout": "1h",
		"wal_keep_size": fmt.Sprintf("%dMB", s.backupWAL*2+4096), "max_wal_senders": "5",
	})
	if err != nil {
		return err
	}
	if err := s.main.Start(ctx); err != nil {
		return err
	}
	if err := s.tools.FillBench(ctx, s.main.Server, s.backupScale); err != nil {
		return err
	}
	id, err := s.main.Query(ctx, "select system_identifier from pg_control_system()")
	if err == nil {
		s.systemID, err = strconv.ParseUint(id, 10, 64)
	}
	if err != nil {
		return err
	}
	if err := s.record(ctx); err != nil {
		return fmt.Errorf("record log: %w", err)
	}
	if err := s.grow(ctx); err != nil {
		return fmt.Errorf("write random bytes: %w", err)
	}
	return nil
}

// at is a path in the part's directory.
func (s *backups) at(names ...string) string {
	return filepath.Join(append([]string{s.home}, names...)...)
}

// programs copies this program and understudy to where the database account
// can run them.
func (s *backups) programs() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.self, s.get = s.at("bench"), s.at("understudy")
	return errors.Join(copyFile(self, s.self, 0o755), copyFile(s.binary, s.get, 0o755))
}

func copyFile(from, to string, mode fs.FileMode) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// side is one of those that take turns in a round.
type side struct {
	name string
	// every is in which rounds it takes part: each, when zero or one, or the
	// first of so many.
	every int
	// prepare is not measured. What is read afterwards is in reads, which is in
	// the page cache when run begins; what is written, below writes, is on the
	// disk when the time ends. Empty writes are not waited for.
	prepare func(context.Context) error
	reads   func() []string
	run     func(context.Context) error
	writes  string
	// took is the time of a run that knows better than the clock; nil takes that.
	took func() time.Duration
	// size is what the run stored or proved, in bytes; nil for none.
	size func() (int64, error)
	// then is what follows, not a part of the run and timed apart; nil for nothing.
	then func() error
}

// turn is one measured run; took is zero when the side did not take part.
type turn struct {
	took, busy, then time.Duration
	bytes            int64
}

// contest is all turns of some sides, by round.
type contest struct {
	sides []string
	turns [][]turn // by side
}

// measure lets the sides take turns for as many rounds as were asked for, or as
// fit before the given part of the time is used up.
func (s *backups) measure(ctx context.Context, share float64, sides ...side) (contest, error) {
	out := contest{turns: make([][]turn, len(sides))}
	for i := range sides {
		out.sides = append(out.sides, sides[i].name)
		out.turns[i] = make([]turn, 0, s.rounds)
	}
	until := s.since.Add(time.Duration(share * float64(s.ends.Sub(s.since))))
	for r := range s.rounds {
		began := time.Now()
		for i := range out.turns {
			out.turns[i] = append(out.turns[i], turn{})
		}
		for _, i := range stats.Order(len(sides), r) {
			if r%max(sides[i].every, 1) != 0 {
				continue
			}
			t, err := s.turn(ctx, sides[i])
			if err != nil {
				return out, fmt.Errorf("%s: %w", sides[i].name, err)
			}
			s.say("round %d of %d, %s: %.2f s", r+1, s.rounds, sides[i].name, t.took.Seconds())
			out.turns[i][r] = t
		}
		if left := time.Until(until); r+1 >= backupLeast && left < time.Since(began) && r+1 < s.rounds {
			s.say("%d rounds are what fits into the time", r+1)
			break
		}
	}
	return out, nil
}

// turn is one run of one side.
func (s *backups) turn(ctx context.Context, one side) (t turn, err error) {
	if err := one.prepare(ctx); err != nil {
		return t, err
	}
	s.settled()
	if err := warm(one.reads()...); err != nil {
		return t, err
	}
	before, err := proc.ReadMachine()
	if err != nil {
		return t, err
	}
	began := time.Now()
	if err := one.run(ctx); err != nil {
		return t, err
	}
	if err := syncDir(one.writes); err != nil {
		return t, err
	}
	t.took = time.Since(began)
	if one.took != nil {
		t.took = one.took()
	}
	after, err := proc.ReadMachine()
	t.busy = after.Busy - before.Busy
	if err == nil && one.size != nil {
		t.bytes, err = one.size()
	}
	if err == nil && one.then != nil {
		began = time.Now()
		err = one.then()
		t.then = time.Since(began)
	}
	return t, err
}

// syncDir waits until the file system of dir is on the disk, as sync -f does.
func syncDir(dir string) error {
	if dir == "" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(unix.Syncfs(int(d.Fd())), d.Close())
}

// warm reads files, so that they are in the page cache. What goes away
// meanwhile does not matter.
func warm(dirs ...string) error {
	buf := make([]byte, 1<<20)
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return ignoreMissing(err)
			}
			f, err := os.Open(path)
			if err != nil {
				return ignoreMissing(err)
			}
			defer f.Close()
			for err == nil {
				_, err = f.Read(buf)
			}
			if !errors.Is(err, io.EOF) {
				return err
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", dir, err)
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fresh makes directories anew, empty and the database account's alone.
func (s *backups) fresh(dirs ...string) error {
	for _, d := range dirs {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
		if err := s.tools.MakeDir(d); err != nil {
			return err
		}
		if err := os.Chmod(d, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// summary is that of a side's turns, by some value of them.
func (r contest) summary(i int, of func(turn) float64) stats.Summary {
	var v []float64
	for _, t := range r.turns[i] {
		if t.took > 0 {
			v = append(v, of(t))
		}
	}
	return stats.Summarize(v)
}

// ratios are those of two sides, round by round, for the rounds of both.
func (r contest) ratios(i, j int, of func(turn) float64) []float64 {
	var a, b []float64
	for n := range r.turns[i] {
		if x, y := r.turns[i][n], r.turns[j][n]; x.took > 0 && y.took > 0 {
			a, b = append(a, of(x)), append(b, of(y))
		}
	}
	return stats.Ratios(a, b)
}

func seconds(t turn) float64 { return t.took.Seconds() }
func busy(t turn) float64    { return t.busy.Seconds() }
func bytesOf(t turn) float64 { return float64(t.bytes) }
