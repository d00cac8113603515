package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/pos"
	"understudy/test/bench/internal/ours"
	"understudy/test/bench/internal/pg"
	"understudy/test/bench/internal/pgbackrest"
)

// Sides of a contest, in the order of their tables.
const (
	sideOurs = iota
	sideRest
	sideBase // pg_basebackup
)

// Sides of the recovery.
const (
	redoOurs = iota
	redoPlain
	redoRest
)

// Sides of the verification.
const (
	proveSet = iota
	proveLog
	proveDeep
)

// The parts of the time after which no further round of a contest begins.
const (
	shareFull     = 0.40
	shareRestore  = 0.55
	shareDelta    = 0.61
	shareArchive  = 0.73
	shareRecovery = 0.96
	shareVerify   = 1
)

const redoWithin = 10 * time.Minute

// checkpoint brings the server to rest, so that no backup pays for an earlier
// write.
func (s *backups) checkpoint(ctx context.Context) error { return s.main.Exec(ctx, "checkpoint") }

// emptyPlace makes our location anew.
func (s *backups) emptyPlace() error {
	if err := s.fresh(s.place(), s.at("scratch")); err != nil {
		return err
	}
	return s.initPlace()
}

// initPlace marks our location as one.
func (s *backups) initPlace() error {
	if err := ours.Init(s.place()); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.place())
	for _, e := range entries {
		err = errors.Join(err, s.tools.Own(filepath.Join(s.place(), e.Name())))
	}
	return err
}

func (s *backups) emptyOurSets(context.Context) error {
	return os.RemoveAll(filepath.Join(s.place(), filepath.FromSlash(ours.Root().Sets())))
}

func (s *backups) emptyOurLog(context.Context) error {
	return os.RemoveAll(filepath.Join(s.place(), filepath.FromSlash(ours.Root().WAL())))
}

func (s *backups) ourSet() string {
	return filepath.Join(s.place(), filepath.FromSlash(ours.Root().SetDir(s.label)))
}

func (s *backups) ourLog() string {
	return filepath.Join(s.place(), filepath.FromSlash(ours.Root().WAL()))
}

func (s *backups) data() []string { return []string{filepath.Join(s.main.Data(), "base")} }

// fulls measures full backups. What the last round leaves is restored and
// verified later.
func (s *backups) fulls(ctx context.Context) (contest, error) {
	if err := s.emptyPlace(); err != nil {
		return contest{}, err
	}
	native := s.at("native")
	return s.measure(ctx, shareFull, side{
		name: "ours", reads: s.data, writes: s.place(),
		prepare: func(ctx context.Context) error { return errors.Join(s.emptyOurSets(ctx), s.checkpoint(ctx)) },
		run: func(ctx context.Context) error {
			out, err := s.ours(ctx, s.task(ours.Backup))
			s.label = out.Label
			return err
		},
		size: func() (int64, error) { return pgbackrest.Size(s.ourSet()) },
	}, side{
		name: "pgBackRest", reads: s.data, writes: s.rest.Repo(),
		prepare: func(ctx context.Context) error { return errors.Join(s.rest.NewRepo(ctx), s.checkpoint(ctx)) },
		run:     s.rest.Backup,
		size: func() (int64, error) {
			dir, err := s.rest.Set()
			if err != nil {
				return 0, err
			}
			return pgbackrest.Size(dir)
		},
	}, side{
		// It has no bar, so that fewer rounds will do.
		name: "pg_basebackup", every: 3, reads: s.data, writes: s.home,
		prepare: func(ctx context.Context) error { return errors.Join(os.RemoveAll(native), s.checkpoint(ctx)) },
		run: func(ctx context.Context) error {
			_, err := s.tools.Run(ctx, "pg_basebackup", append(s.main.Args(), "-D", native, "-F", "t", "-X", "none", "-c", "fast",
				"-Z", fmt.Sprintf("server-zstd:level=3,workers=%d", backupWorkers))...)
			return err
		},
		size: func() (int64, error) {
			n, err := pgbackrest.Size(native)
			return n, errors.Join(err, os.RemoveAll(native))
		},
	})
}

// restores measures restores into an empty directory.
func (s *backups) restores(ctx context.Context) (contest, error) {
	return s.measure(ctx, shareRestore, side{
		name: "ours", reads: func() []string { return []string{s.ourSet()} }, writes: s.home,
		prepare: func(context.Context) error { return s.fresh(s.oursDir()) },
		run:     s.ourRestore(ours.Restore),
		size:    func() (int64, error) { return pgbackrest.Size(s.oursDir()) },
		then:    func() error { return warm(s.oursDir()) },
	}, side{
		name: "pgBackRest", reads: func() []string { return []string{s.rest.Repo()} }, writes: s.home,
		prepare: func(context.Context) error { return s.fresh(s.restDir()) },
		run:     func(ctx context.Context) error { return s.rest.Restore(ctx, s.restDir(), false) },
		size:    func() (int64, error) { return pgbackrest.Size(s.restDir()) },
		then:    func() error { return warm(s.restDir()) },
	})
}

// ourRestore is a restore with as many workers as the library chooses.
func (s *backups) ourRestore(k ours.Kind) func(context.Context) error {
	return func(ctx context.Context) error {
		t := s.task(k)
		t.Workers = 0
		_, err := s.ours(ctx, t)
		return err
	}
}

// deltas measures restores over what the last restore has left.
func (s *backups) deltas(ctx context.Context) (contest, error) {
	return s.measure(ctx, shareDelta, side{
		name: "ours", reads: func() []string { return []string{s.ourSet(), s.oursDir()} }, writes: s.home, prepare: nothing,
		run: s.ourRestore(ours.Delta),
	}, side{
		name: "pgBackRest", reads: func() []string { return []string{s.rest.Repo(), s.restDir()} }, writes: s.home, prepare: nothing,
		run: func(ctx context.Context) error { return s.rest.Restore(ctx, s.restDir(), true) },
	})
}

// archives measures how fast existing log is stored.
func (s *backups) archives(ctx context.Context) (contest, error) {
	reads := func() []string { return []string{s.walDir()} }
	return s.measure(ctx, shareArchive, side{
		name: "ours", reads: reads, writes: s.place(), prepare: s.emptyOurLog,
		run:  func(ctx context.Context) error { _, err := s.ours(ctx, s.task(ours.Archive)); return err },
		size: func() (int64, error) { return pgbackrest.Size(s.ourLog()) },
	}, side{
		name: "pgBackRest", reads: reads, writes: s.rest.Repo(), prepare: func(context.Context) error { return s.rest.EmptyLog() },
		run: func(ctx context.Context) error { return s.rest.Push(ctx, filepath.Dir(s.walDir())) },
		size: func() (int64, error) {
			n, err := pgbackrest.Size(s.rest.Log())
			if want := s.segments(); err == nil && n < want {
				err = fmt.Errorf("%d bytes of log in the repository are too few for %d segments", n, want)
			}
			return n, err
		},
	})
}

// segments is how many segments the recorded log has.
func (s *backups) segments() int64 { return int64(s.to.Sub(s.from)) / s.segSize() }

// recoveries measures how fast a server replays the recorded log: from our
// location, from its own pg_wal, and from pgBackRest's repository.
func (s *backups) recoveries(ctx context.Context) (out contest, err error) {
	r := &replay{backups: s, server: s.tools.At(s.at("redo"), s.port+backupPort+1)}
	defer func() { err = errors.Join(err, r.end(ctx)) }()
	took := func() time.Duration { return r.took }
	log := func() []string { return []string{s.ourLog(), s.rest.Log(), r.server.Data()} }
	return s.measure(ctx, shareRecovery,
		side{name: "ours: from a location", reads: log, prepare: r.fromOurs, run: r.run, took: took},
		side{name: "the log lies in pg_wal", reads: log, prepare: r.fromPgWAL, run: r.run, took: took},
		side{name: "pgBackRest: archive-get, asynchronous", every: 3, reads: log, prepare: r.fromRest, run: r.run, took: took})
}

// replay is a server that is recovered again and again.
type replay struct {
	*backups
	server *pg.Cluster
	serves *process // gives it log; nil for none
	took   time.Duration
	last   string // the last record, the same each time
}

// end ends the server and who gives it log.
func (r *replay) end(context.Context) error {
	err := r.server.Kill()
	if r.serves != nil {
		_, werr := r.serves.stop()
		r.serves = nil
		err = errors.Join(err, werr)
	}
	return err
}

// base puts the server back to before the log.
func (r *replay) base(ctx context.Context) error {
	if err := r.end(ctx); err != nil {
		return err
	}
	if err := r.fresh(r.at("redo")); err != nil {
		return err
	}
	if _, err := pg.Output(r.tools.Program(ctx, "/bin/cp", "-a", r.baseDir(), r.server.Data())); err != nil {
		return err
	}
	// Nothing but replay: no reader, and no restartpoint.
	return r.server.Configure(map[string]string{"hot_standby": "off", "max_wal_size": "100GB", "checkpoint_timeout": "1h", "shared_buffers": "256MB"})
}

// archived makes the server recover with a restore_command.
func (r *replay) archived(command string) error {
	signal := filepath.Join(r.server.Data(), "recovery.signal")
	if err := errors.Join(os.WriteFile(signal, nil, 0o600), r.tools.Own(signal)); err != nil {
		return err
	}
	return r.server.Configure(map[string]string{"restore_command": command, "recovery_target_timeline": "1"})
}

func (r *replay) fromOurs(ctx context.Context) error {
	if err := r.base(ctx); err != nil {
		return err
	}
	t := r.task(ours.Serve)
	if err := os.Remove(t.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	t.Workers = 0
	var err error
	if r.serves, err = r.startOurs(ctx, t); err != nil {
		return err
	}
	if err := r.serves.ready(); err != nil {
		r.serves = nil
		return err
	}
	return r.archived(archive.RestoreCommand(r.get, t.Socket, t.Hand))
}

func (r *replay) fromPgWAL(ctx context.Context) error {
	if err := r.base(ctx); err != nil {
		return err
	}
	for at := r.from; at < r.to; at += pos.LSN(r.segSize()) {
		name := pos.SegName(1, at, r.segSize())
		to := filepath.Join(r.server.Data(), "pg_wal", name)
		if err := errors.Join(copyFile(filepath.Join(r.walDir(), name), to, 0o600), r.tools.Own(to)); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) fromRest(ctx context.Context) error {
	if err := r.base(ctx); err != nil {
		return err
	}
	command, err := r.rest.GetCommand(r.server.Data())
	if err != nil {
		return err
	}
	return r.archived(command)
}

// run replays everything; the server and who gives it log end afterwards.
func (r *replay) run(ctx context.Context) error {
	took, last, err := r.server.Redo(ctx, redoWithin)
	if err != nil {
		return err
	}
	r.took = took
	if r.last == "" {
		r.last = last
	}
	end, err := pos.ParseLSN(last)
	switch {
	case err != nil:
		return err
	case last != r.last:
		return fmt.Errorf("replayed up to %s, an earlier one up to %s", last, r.last)
	case end.SegEnd(r.segSize()) < r.to:
		return fmt.Errorf("replayed up to %s of %s", last, r.to)
	}
	return r.end(ctx)
}

// verifications measures how fast our set and our log are proven, by one worker
// on one processor.
func (s *backups) verifications(ctx context.Context) (contest, error) {
	one := func(name string, k ours.Kind, every int, dir func() string) side {
		var out ours.Outcome
		return side{
			name: name, every: every, reads: func() []string { return []string{dir()} }, prepare: nothing,
			run: func(ctx context.Context) (err error) {
				t := s.task(k)
				t.Workers = 1
				out, err = s.ours(ctx, t)
				return err
			},
			took: func() time.Duration { return out.CPU },
			size: func() (int64, error) { return out.Bytes, nil },
		}
	}
	return s.measure(ctx, shareVerify,
		one("a set: every stored byte", ours.Set, 1, s.ourSet), one("the log: every stored byte", ours.WAL, 1, s.ourLog),
		one("a set, deep: decompressed, down to its files", ours.Deep, 3, s.ourSet))
}
