package drill_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"understudy/failover/pgctl"
	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/standby/drill"
	"understudy/standby/drill/digest"
	"understudy/standby/recover"
	"understudy/standby/restore"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func root() backupset.Root { return backupset.Root{Group: "g", Profile: "postgres"} }

// origin is a server whose log is archived to a folder, with a set at a
// location.
type origin struct {
	*pgtest.Cluster
	wal   string
	place string
	set   backupset.Set
	space uint32
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{wal: pgtest.Dir(t), place: filepath.Join(t.TempDir(), "place")}
	o.Cluster = pgtest.New(t, "--wal-segsize=1", "fsync=off", "wal_level=replica", "hot_standby=on", "autovacuum=off", "max_wal_senders=6",
		"archive_mode=on", "archive_command=test ! -f "+o.wal+"/%f && cp %p "+o.wal+"/%f")
	o.Exec(t, "create tablespace far location '"+pgtest.Dir(t)+"'")
	o.Exec(t, "create database shop")
	for i := range 4 {
		o.Exec(t, fmt.Sprintf("create table t%d (i int primary key, s text)%s; insert into t%[1]d select i, md5(i::text) from generate_series(1, 2000) i", i, []string{"", " tablespace far"}[i%2]))
	}
	n, err := strconv.ParseUint(o.Query(t, "select oid from pg_tablespace where spcname = 'far'"), 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	o.space = uint32(n)
	if err := os.Mkdir(o.place, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := local.Init(o.place); err != nil {
		t.Fatal(err)
	}
	loc := local.New(o.place)
	defer loc.Close()
	res, err := backup.Take(t.Context(), backup.Config{ConnString: o.DSN(), Root: root(), Node: "main", Program: "test", Scratch: t.TempDir(), SecondLook: time.Millisecond,
		Lineage: pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: 1 << 20}}, Dests: []backup.Dest{{Name: "disk", Location: loc}}})
	if err != nil {
		t.Fatal(err)
	}
	o.set = res.Set
	return o
}

// standby follows the origin.
func (o *origin) standby(t *testing.T) *pgtest.Cluster {
	t.Helper()
	s := pgtest.Init(t)
	if err := os.RemoveAll(s.Data); err != nil {
		t.Fatal(err)
	}
	far := pgtest.Dir(t)
	was := o.Query(t, "select pg_tablespace_location(oid) from pg_tablespace where spcname = 'far'")
	o.Tool(t, "pg_basebackup", "-D", s.Data, "-c", "fast", "-X", "stream", "-T", was+"="+filepath.Join(far, "x"))
	if err := os.WriteFile(filepath.Join(s.Data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.AppendConf(t, fmt.Sprintf("archive_mode = off\nprimary_conninfo = 'host=%s port=%d user=postgres'", o.Socket, o.Port))
	s.Start(t)
	return s
}

// archived switches the segment and waits until it is archived.
func (o *origin) archived(t *testing.T) {
	t.Helper()
	seg := o.Query(t, "select pg_walfile_name(pg_switch_wal())")
	pgtest.Eventually(t, 20*time.Second, "segment "+seg+" is archived", func() bool {
		return o.Query(t, "select coalesce(last_archived_wal >= '"+seg+"', false) from pg_stat_archiver") == "t"
	})
}

// write changes all tables until stop, each row in a transaction of its own.
func (o *origin) write(t *testing.T, stop <-chan struct{}) {
	conn, err := o.Connect(context.Background())
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(context.Background())
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if _, err := conn.Exec(context.Background(), fmt.Sprintf("update t%d set s = s || '.' where i = %d", i%4, i%2000)); err != nil {
			t.Error(err)
			return
		}
	}
}

func dial(c *pgtest.Cluster) digest.Dial {
	return func(ctx context.Context, database string) (*pgx.Conn, error) {
		return pgx.Connect(ctx, strings.Replace(c.DSN(), "dbname=postgres", "dbname="+database, 1))
	}
}

// atPosition takes digests, again and again on a machine that is too busy.
func atPosition(t *testing.T, c *pgtest.Cluster) (s digest.Snapshot, err error) {
	for range 20 {
		if s, err = digest.AtPosition(t.Context(), dial(c), digest.Limits{}); !errors.Is(err, digest.ErrBusy) {
			return s, err
		}
	}
	return s, err
}

// server is what the daemon makes of a pgctl.Scratch.
type server struct{ *pgctl.Scratch }

func (s server) Recover(ctx context.Context, set map[string]string, seen func(pos.LSN)) (recover.Reached, error) {
	r, err := s.Scratch.Recover(ctx, set, seen)
	return recover.Reached{LSN: r.LSN, Time: r.Time, Timeline: r.Timeline, Stop: r.Stop}, err
}

func (s server) DSN(database string) string { return s.Scratch.DSN("postgres", database) }

// config is a drill to a target.
func (o *origin) config(t *testing.T, target catalog.Target) drill.Config {
	t.Helper()
	loc := local.New(o.place)
	t.Cleanup(func() { loc.Close() })
	c := drill.Config{
		Dir: filepath.Join(pgtest.Dir(t), "drill"),
		Request: recover.Request{Label: o.set.Label, SystemID: o.set.SystemID, Aim: recover.Aim{Target: target},
			RestoreCommand: "cp " + o.wal + "/%f %p", Now: time.Now()},
		Sources: recover.Sources{Root: root(), Places: []recover.Source{{Name: "disk", Location: loc}}},
		Spaces:  spaces(o.space),
		Server: func(dir string, p recover.Plan) (drill.Server, error) {
			in, err := pgctl.Find(o.Bin)
			if err != nil {
				return nil, err
			}
			acc, err := pgctl.ResolveAccount("")
			return server{&pgctl.Scratch{Install: in, Account: acc, DataDir: p.DataDir, SocketDir: filepath.Join(dir, "s"), Port: 5432, LogFile: filepath.Join(dir, "log"),
				Settings: map[string]string{"fsync": "off", "shared_buffers": "16MB"}, Patience: time.Minute}}, err
		},
	}
	if a := pgtest.Credential(t); a != nil {
		c.Request.Owner = &restore.Owner{UID: int(a.Uid), GID: int(a.Gid)}
	}
	return c
}

// gone fails the test when a drill left anything.
func gone(t *testing.T, c drill.Config) {
	t.Helper()
	if _, err := os.Lstat(c.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the scratch directory is left: %v", err)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		if b, err := os.ReadFile(p); err == nil && strings.Contains(string(b), c.Dir) {
			t.Errorf("a server is left: %q", b)
		}
	}
}

func exactly(l pos.LSN) catalog.Target { return catalog.Target{Kind: catalog.AtLSN, LSN: l} }

// Digests are taken on a primary and on a standby while rows change in every
// moment, and drills restore to exactly there.
func TestRun_RealDatabase(t *testing.T) {
	o := newOrigin(t)
	s := o.standby(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() { o.write(t, stop) })
	}
	var snaps []digest.Snapshot
	for i := range 4 {
		from := []*pgtest.Cluster{o.Cluster, s}[i%2]
		snap, err := atPosition(t, from)
		if err != nil {
			t.Error(err)
			break
		}
		t.Logf("%s: %d tables, left out %+v", snap.LSN, len(snap.Tables), snap.Left)
		snaps = append(snaps, snap)
	}
	close(stop)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	o.archived(t)
	if n := len(snaps[1].Tables); n != 4 {
		t.Errorf("%d tables on the standby, want all 4", n)
	}
	t.Run("Agrees", func(t *testing.T) { o.agrees(t, snaps) })
	t.Run("Fails", func(t *testing.T) { o.fails(t, snaps) })
	t.Run("NoVerdict", func(t *testing.T) { o.noVerdict(t, snaps) })
	t.Run("LeftOver", func(t *testing.T) { o.leftOver(t, snaps) })
}

func (o *origin) agrees(t *testing.T, snaps []digest.Snapshot) {
	for i, snap := range snaps {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			c := o.config(t, exactly(snap.LSN))
			c.Compare = snaps
			var phases []string
			c.Progress = func(p drill.Progress) {
				if len(phases) == 0 || phases[len(phases)-1] != p.Phase {
					phases = append(phases, p.Phase)
				}
			}
			r, err := drill.Run(t.Context(), c)
			gone(t, c)
			if err != nil || !r.OK || r.Problem != "" {
				t.Fatalf("%+v, %v", r, err)
			}
			rows := int64(0)
			for _, d := range snap.Tables {
				rows += d.Rows
			}
			if r.ComparedTables != len(snap.Tables) || r.Compared != rows || r.Rows != 8000 || r.Bytes == 0 || r.LogBytes <= 0 || r.Reached.LSN > snap.LSN {
				t.Errorf("%+v of %+v", r, snap)
			}
			if want := []string{drill.PhasePlan, drill.PhaseFiles, drill.PhaseRecover, drill.PhaseCompare, drill.PhaseRemove}; !slices.Equal(phases, want) || len(r.Phases) != len(want) {
				t.Errorf("phases %v, %v", phases, r.Phases)
			}
		})
	}
}

// fails are drills that show that something is wrong with the backup.
func (o *origin) fails(t *testing.T, snaps []digest.Snapshot) {
	snap := snaps[1]
	for name, row := range map[string]struct {
		change func(*drill.Config)
		want   string
	}{
		"OtherRows": {func(c *drill.Config) {
			c.Compare[0].Tables[0].Sum = "1"
			c.Compare[0].Tables = append(c.Compare[0].Tables, digest.Digest{Database: "postgres", Table: "public.lost", Rows: 7})
		}, "public.lost in postgres is missing; public.t"},
		"LogMissing": {func(c *drill.Config) { c.Request.RestoreCommand = "false" }, "recover"},
		"Damaged": {func(c *drill.Config) {
			dir := filepath.Join(t.TempDir(), "place")
			if err := os.CopyFS(dir, os.DirFS(o.place)); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, root().Object(o.set.Label, backupset.BaseName))
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(b)-100; i += 5000 {
				b[i+50] ^= 1
			}
			if err := os.WriteFile(file, b, 0o600); err != nil {
				t.Fatal(err)
			}
			loc := local.New(dir)
			t.Cleanup(func() { loc.Close() })
			c.Sources.Places[0].Location = loc
		}, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := o.config(t, exactly(snap.LSN))
			c.Compare = []digest.Snapshot{{LSN: snap.LSN, Tables: slices.Clone(snap.Tables)}}
			row.change(&c)
			r, err := drill.Run(t.Context(), c)
			gone(t, c)
			if err != nil || r.OK || !strings.Contains(r.Problem, row.want) {
				t.Errorf("%+v, %v, want %q", r, err, row.want)
			}
		})
	}
}

// noVerdict are drills that say nothing about the backup.
func (o *origin) noVerdict(t *testing.T, snaps []digest.Snapshot) {
	target := exactly(snaps[0].LSN)
	enough := errors.New("enough")
	for name, row := range map[string]struct {
		change func(context.CancelCauseFunc, *drill.Config)
		want   error
		text   string
	}{
		"CancelledInFiles": {func(cancel context.CancelCauseFunc, c *drill.Config) {
			c.Progress = func(p drill.Progress) {
				if p.Phase == drill.PhaseFiles {
					cancel(enough)
				}
			}
		}, enough, ""},
		"CancelledInRecovery": {func(cancel context.CancelCauseFunc, c *drill.Config) {
			c.Request.RestoreCommand = "sleep 5"
			c.Progress = func(p drill.Progress) {
				if p.Phase == drill.PhaseRecover {
					cancel(enough)
				}
			}
		}, enough, ""},
		"CancelledInComparison": {func(cancel context.CancelCauseFunc, c *drill.Config) {
			c.Progress = func(p drill.Progress) {
				if p.Phase == drill.PhaseCompare {
					cancel(enough)
				}
			}
		}, enough, ""},
		"Unreachable": {func(_ context.CancelCauseFunc, c *drill.Config) {
			serve := c.Server
			c.Server = func(dir string, p recover.Plan) (drill.Server, error) {
				s, err := serve(dir, p)
				return away{s}, err
			}
		}, drill.ErrNoVerdict, ""},
		"NoServer": {func(_ context.CancelCauseFunc, c *drill.Config) {
			c.Server = func(string, recover.Plan) (drill.Server, error) { return nil, enough }
		}, enough, ""},
		"NewerTablespace":    {func(_ context.CancelCauseFunc, c *drill.Config) { c.Spaces = spaces(o.space, 99999) }, nil, "newer than set"},
		"TablespacesUnknown": {func(_ context.CancelCauseFunc, c *drill.Config) { c.Spaces = nil }, nil, "tablespaces"},
		"TablespaceMeanwhile": {func(_ context.CancelCauseFunc, c *drill.Config) {
			asked := 0
			c.Spaces = func(context.Context) ([]uint32, error) {
				asked++
				return []uint32{o.space, 99999}[:min(asked, 2)], nil
			}
		}, nil, "newer than set"},
		"Occupied": {func(_ context.CancelCauseFunc, c *drill.Config) {
			c.Dir = t.TempDir()
			if err := os.WriteFile(filepath.Join(c.Dir, "mine"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, drill.ErrOccupied, ""},
		"NoSuchSet": {func(_ context.CancelCauseFunc, c *drill.Config) { c.Request.Label = "20200101-000000F" }, nil, "no such object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			c := o.config(t, target)
			row.change(cancel, &c)
			r, err := drill.Run(ctx, c)
			if err == nil || r.OK || r.Problem == "" || row.want != nil && !errors.Is(err, row.want) || !strings.Contains(err.Error(), row.text) {
				t.Errorf("%+v, %v", r, err)
			}
			if name == "Occupied" {
				if _, err := os.Stat(filepath.Join(c.Dir, "mine")); err != nil {
					t.Errorf("what was there is gone: %v", err)
				}
				return
			}
			gone(t, c)
		})
	}
}

func spaces(oids ...uint32) func(context.Context) ([]uint32, error) {
	return func(context.Context) ([]uint32, error) { return oids, nil }
}

// away is a server whose log cannot be reached.
type away struct{ drill.Server }

func (away) Recover(context.Context, map[string]string, func(pos.LSN)) (recover.Reached, error) {
	return recover.Reached{}, fmt.Errorf("%w: the location is away", drill.ErrNoVerdict)
}

// leftOver runs a drill where one died; its target is one that no digests are
// known at.
func (o *origin) leftOver(t *testing.T, snaps []digest.Snapshot) {
	c := o.config(t, catalog.Target{Kind: catalog.Latest})
	c.Compare = snaps
	for _, d := range []string{"data/base", "spaces/1"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "understudy.drill"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := drill.Run(t.Context(), c)
	gone(t, c)
	if err != nil || !r.OK || r.Compared != 0 || r.Rows != 8000 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "nothing was compared") {
		t.Errorf("%+v, %v", r, err)
	}
	if err := drill.Sweep(c.Dir); err != nil {
		t.Errorf("sweep nothing: %v", err)
	}
}
