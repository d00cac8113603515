package digest_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"understudy/standby/drill/digest"
	"understudy/test/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// execIn runs SQL in a database.
func execIn(t testing.TB, c *pgtest.Cluster, database, sql string) {
	t.Helper()
	conn, err := dial(c)(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// pair is a primary with tables of many types in two databases, and a standby
// that streams from it.
func pair(t *testing.T) (primary, standby *pgtest.Cluster) {
	t.Helper()
	p := pgtest.New(t, "fsync=off", "max_wal_senders=4", "autovacuum=off", "hot_standby=on")
	p.Exec(t, "create database shop")
	p.Exec(t, `create table types as select i, i::float8 / 7 as f, i::float4 / 3 as g, now() + i * interval '1 day 1 hour' as at, current_date + i as d,
		decode(md5(i::text), 'hex') as b, (i * 3)::money as m, interval '1 mon 3 days' * i as iv, array[i, null] as a, 'pg_class'::regclass as c,
		('<a>' || i || '</a>')::xml as x, jsonb_build_object('k', i) as j, case when i % 2 = 0 then null else repeat('é', i) end as s from generate_series(1, 500) i`)
	p.Exec(t, `create schema "odd $$ ""name"; create table "odd $$ ""name"."It's \ a; table" as select 1 as "understudy rows"; create table empty ()`)
	p.Exec(t, `create unlogged table unlogged as select 1; create materialized view mv as select i from types; create view v as select i from types;
		create table parts (i int) partition by range (i); create table part1 partition of parts for values from (0) to (10); insert into parts values (5);
		create table parent (i int); create table child () inherits (parent); insert into child values (1)`)
	execIn(t, p, "shop", "create table orders as select i, md5(i::text) as s from generate_series(1, 3000) i")
	s := pgtest.Init(t)
	if err := os.RemoveAll(s.Data); err != nil {
		t.Fatal(err)
	}
	p.Tool(t, "pg_basebackup", "-D", s.Data, "-c", "fast", "-X", "stream")
	if err := os.WriteFile(filepath.Join(s.Data, "standby.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s.AppendConf(t, fmt.Sprintf("primary_conninfo = 'host=%s port=%d user=postgres'\ndatestyle = 'German'\ntimezone = 'Asia/Tokyo'\nbytea_output = 'escape'\nextra_float_digits = 0\nintervalstyle = 'iso_8601'", p.Socket, p.Port))
	s.Start(t)
	return p, s
}

// caughtUp waits until the standby has replayed all there is.
func caughtUp(t *testing.T, p, s *pgtest.Cluster) {
	t.Helper()
	// What was only inserted, such as a restore point, is flushed by the next commit.
	p.Query(t, "select pg_logical_emit_message(true, 'test', '')")
	at := p.Query(t, "select pg_current_wal_flush_lsn()")
	pgtest.Eventually(t, 20*time.Second, "the standby catches up", func() bool {
		return s.Query(t, "select pg_last_wal_replay_lsn() >= '"+at+"'") == "t"
	})
}

func state(t *testing.T, s *pgtest.Cluster) string {
	t.Helper()
	return s.Query(t, "select pg_get_wal_replay_pause_state()")
}

// sorted are the tables in one order.
func sorted(s digest.Snapshot) []digest.Digest {
	out := slices.Clone(s.Tables)
	slices.SortFunc(out, func(a, b digest.Digest) int { return strings.Compare(a.Database+a.Table, b.Database+b.Table) })
	return out
}

func TestDigests_RealServers(t *testing.T) {
	p, s := pair(t)
	t.Run("EqualEverywhere", func(t *testing.T) { equalEverywhere(t, p, s) })
	t.Run("Limits", func(t *testing.T) { limits(t, p) })
	t.Run("PrimaryLeavesBusyTables", func(t *testing.T) { busyTables(t, p) })
	t.Run("CastsOfOthersAreNotCalled", func(t *testing.T) { castsOfOthers(t, p) })
	t.Run("PauseEndsWithoutUs", func(t *testing.T) { pauseEndsWithoutUs(t, s) })
	t.Run("SessionTerminated", func(t *testing.T) { sessionTerminated(t, p, s) })
	t.Run("PauseOfOthersStays", func(t *testing.T) { pauseOfOthers(t, s) })
}

// Servers with other settings for the text of values agree while nobody
// writes.
func equalEverywhere(t *testing.T, p, s *pgtest.Cluster) {
	caughtUp(t, p, s)
	onPrimary, err := atPosition(t, p)
	if err != nil {
		t.Fatal(err)
	}
	caughtUp(t, p, s)
	began := time.Now()
	onStandby, err := atPosition(t, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("digests of %d tables on the standby took %s", len(onStandby.Tables), time.Since(began))
	plain, err := digest.Tables(t.Context(), dial(p), digest.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	want := sorted(plain)
	if len(want) != 8 || len(plain.Left) > 0 { // of the odd schema, empty, mv, part1, parent, child, types, orders
		t.Errorf("%d tables: %+v, left out %+v", len(want), want, plain.Left)
	}
	if got := sorted(onStandby); !slices.Equal(got, want) {
		t.Errorf("standby %+v\nprimary %+v", got, want)
	}
	// A materialized view cannot be locked.
	want = slices.DeleteFunc(want, func(d digest.Digest) bool { return d.Table == "public.mv" })
	if got := sorted(onPrimary); !slices.Equal(got, want) {
		t.Errorf("at a position %+v\nplain %+v, left out %+v", got, want, onPrimary.Left)
	}
	if onPrimary.LSN == 0 || onStandby.LSN < onPrimary.LSN || plain.LSN != 0 || state(t, s) != "not paused" {
		t.Errorf("positions %s, %s, %s; replay is %s", onPrimary.LSN, onStandby.LSN, plain.LSN, state(t, s))
	}
	execIn(t, p, "shop", "update orders set s = 'x' where i = 7")
	after, err := digest.Tables(t.Context(), dial(p), digest.Limits{})
	if err != nil || slices.Equal(sorted(after), sorted(plain)) {
		t.Errorf("one changed row is not seen: %v", err)
	}
}

func limits(t *testing.T, p *pgtest.Cluster) {
	s, err := digest.Tables(t.Context(), dial(p), digest.Limits{TableBytes: 100 << 10, TableN: 3, First: func(_, name string) bool { return name == "public.types" }})
	if err != nil || len(s.Tables) != 3 || s.Tables[0].Table != "public.types" || len(s.Left) < 2 {
		t.Errorf("%+v, %v", s, err)
	}
	s, err = digest.Tables(t.Context(), dial(p), digest.Limits{Time: time.Nanosecond})
	if err != nil || len(s.Tables) != 0 || len(s.Left) != 2 {
		t.Errorf("without time: %+v, %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := digest.Tables(ctx, dial(p), digest.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A table with a writer in the midst of a transaction is left out, and nobody
// waits for anybody.
func busyTables(t *testing.T, p *pgtest.Cluster) {
	conn, err := p.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "insert into parent values (3)"); err != nil {
		t.Fatal(err)
	}
	s, err := atPosition(t, p)
	if err != nil || !slices.ContainsFunc(s.Left, func(l digest.Left) bool { return l.Table == "public.parent" }) ||
		slices.ContainsFunc(s.Tables, func(d digest.Digest) bool { return d.Table == "public.parent" }) || len(s.Tables) != 6 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The server lets go of them when it sees that the session has ended.
	pgtest.Eventually(t, 5*time.Second, "no lock is left", func() bool {
		return p.Query(t, "select count(*) from pg_locks where mode = 'ShareLock'") == "0"
	})
}

// What a table's owner made is not run with our rights.
func castsOfOthers(t *testing.T, p *pgtest.Cluster) {
	p.Exec(t, `create table trap (i int); insert into trap values (1); create table sprung (i int);
		create function spring(trap) returns text language sql as $$ insert into sprung values (1); select 'x' $$;
		create cast (trap as text) with function spring(trap);
		create function public.count() returns int language sql as $$ insert into sprung values (1); select 1 $$`)
	if _, err := digest.Tables(t.Context(), dial(p), digest.Limits{}); err != nil {
		t.Fatal(err)
	}
	if n := p.Query(t, "select count(*) from sprung"); n != "0" {
		t.Errorf("a function of others was called %s times", n)
	}
	p.Exec(t, "drop cast (trap as text); drop function spring(trap); drop function public.count(); drop table trap, sprung")
}

// pauseEndsWithoutUs kills the sessions of a pause as the end of the process
// does, and leaves them as a process that hangs does.
func pauseEndsWithoutUs(t *testing.T, s *pgtest.Cluster) {
	for name, row := range map[string]struct {
		hold     time.Duration
		killed   bool
		atLeast  time.Duration
		notAfter time.Duration
	}{
		"Killed":  {20 * time.Second, true, 0, 10 * time.Second},
		"Hanging": {500 * time.Millisecond, false, 300 * time.Millisecond, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			gate, err := s.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			control, err := s.Connect(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer gate.Close(context.Background())
			defer control.Close(context.Background())
			if _, err := gate.Exec(t.Context(), "select pg_advisory_lock(42)"); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				control.PgConn().Exec(context.Background(), fmt.Sprintf(digest.PauseSQL, row.hold.Milliseconds(), 42)).ReadAll()
			})
			pgtest.Eventually(t, 5*time.Second, "replay pauses", func() bool { return state(t, s) == "paused" })
			if row.killed {
				gate.PgConn().Conn().Close()
				control.PgConn().Conn().Close()
			}
			pgtest.Eventually(t, 15*time.Second, "replay goes on", func() bool { return state(t, s) == "not paused" })
			if took := time.Since(began); took < row.atLeast || took > row.notAfter {
				t.Errorf("replay went on after %s", took)
			}
		})
	}
}

// hooked calls before the first write that holds the text.
type hooked struct {
	net.Conn
	text   string
	before func()
}

// Write implements net.Conn.
func (h *hooked) Write(b []byte) (int, error) {
	if h.before != nil && bytes.Contains(b, []byte(h.text)) {
		h.before()
		h.before = nil
	}
	return h.Conn.Write(b)
}

// sessionTerminated lets an operator end the pausing session at the worst
// moment.
func sessionTerminated(t *testing.T, p, s *pgtest.Cluster) {
	var once sync.Once
	kill := func() {
		once.Do(func() {
			if got := state(t, s); got != "paused" {
				t.Errorf("replay is %s while snapshots are taken", got)
			}
			s.Query(t, "select pg_terminate_backend(pid) from pg_stat_activity where query like 'do %pg_wal_replay_pause%'")
			pgtest.Eventually(t, 10*time.Second, "the session ends", func() bool {
				return s.Query(t, "select count(*) from pg_stat_activity where query like 'do %pg_wal_replay_pause%' and pid <> pg_backend_pid()") == "0"
			})
		})
	}
	hookedDial := func(ctx context.Context, database string) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(strings.Replace(s.DSN(), "dbname=postgres", "dbname="+database, 1))
		if err != nil {
			return nil, err
		}
		inner := cfg.DialFunc
		cfg.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := inner(ctx, network, addr)
			return &hooked{c, "begin isolation", kill}, err
		}
		return pgx.ConnectConfig(ctx, cfg)
	}
	if _, err := digest.AtPosition(t.Context(), hookedDial, digest.Limits{Hold: 20 * time.Second}); err == nil {
		t.Error("no error")
	}
	if got := state(t, s); got != "not paused" {
		t.Errorf("replay is %s", got)
	}
	p.Exec(t, "insert into types(i) values (1000)")
	caughtUp(t, p, s)
}

func pauseOfOthers(t *testing.T, s *pgtest.Cluster) {
	s.Exec(t, "select pg_wal_replay_pause()")
	pgtest.Eventually(t, 5*time.Second, "replay pauses", func() bool { return state(t, s) == "paused" })
	if _, err := digest.AtPosition(t.Context(), dial(s), digest.Limits{}); !errors.Is(err, digest.ErrPaused) {
		t.Errorf("%v", err)
	}
	if got := state(t, s); got != "paused" {
		t.Errorf("replay is %s", got)
	}
	s.Exec(t, "select pg_wal_replay_resume()")
}
