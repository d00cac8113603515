package pgctl_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/failover/guard"
	"understudy/failover/pgctl"
)

// unsafe are the texts of what is unsafe in s, by key.
func unsafe(t *testing.T, s *pgctl.Server) map[string]string {
	t.Helper()
	list, err := s.Unsafe(context30(t))
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSortedFunc(list, func(a, b pgctl.Unsafe) int { return strings.Compare(a.Key, b.Key) }) {
		t.Errorf("not by key: %v", list)
	}
	out := map[string]string{}
	for _, u := range list {
		if len(u.Key) > 200 || len(u.Text) > 1000 || strings.ContainsAny(u.Key, "/ \n") || out[u.Key] != "" {
			t.Errorf("not fit to be told, or twice: %+v", u)
		}
		out[u.Key] = u.Text
	}
	return out
}

// in runs statements in a database, each in a transaction of its own.
func in(t *testing.T, s *pgctl.Server, database string, statements ...string) {
	t.Helper()
	ctx := context30(t)
	conn, err := s.Connect(ctx, database)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// TestServer_Unsafe makes each unsafe thing, looks for it, and mends it with
// the SQL that the text gives.
func TestServer_Unsafe(t *testing.T) {
	t.Parallel()
	s, g := founded(t)
	do(t, s, "create role app", `create role "Odd-Role/1"`, "create database shop", `create database "Öd/d"`)
	began := time.Now()
	if got := unsafe(t, s); len(got) != 0 {
		t.Fatalf("a new server: %v", got)
	}
	t.Logf("a look into 4 databases: %s", time.Since(began).Round(100*time.Microsecond))
	for name, tt := range map[string]struct {
		database string
		harm     []string
		key      string
		says     []string
		mend     []string
	}{
		"Role": {"postgres", []string{"alter role app set synchronous_commit = 'OFF'"}, "synchronous-commit-role-app",
			[]string{"role app", "OFF", "ALTER ROLE app RESET synchronous_commit;"}, []string{"ALTER ROLE app RESET synchronous_commit"}},
		"OddRole": {"postgres", []string{`alter role "Odd-Role/1" set synchronous_commit = false`}, "synchronous-commit-role-_dd__ole_1-",
			[]string{`ALTER ROLE "Odd-Role/1" RESET synchronous_commit`}, []string{`ALTER ROLE "Odd-Role/1" RESET synchronous_commit`}},
		"AllRoles": {"postgres", []string{"alter role all set synchronous_commit = local"}, "synchronous-commit-all",
			[]string{"ALTER ROLE ALL RESET"}, []string{"ALTER ROLE ALL RESET synchronous_commit"}},
		"Database": {"postgres", []string{"alter database shop set synchronous_commit = local"}, "synchronous-commit-database-shop",
			[]string{"ALTER DATABASE shop RESET"}, []string{"ALTER DATABASE shop RESET synchronous_commit"}},
		"RoleInDatabase": {"postgres", []string{"alter role app in database shop set synchronous_commit = local"}, "synchronous-commit-role-app-database-shop",
			[]string{"ALTER ROLE app IN DATABASE shop RESET"}, []string{"ALTER ROLE app IN DATABASE shop RESET synchronous_commit"}},
		"Tables": {"shop", []string{"create unlogged table cart (id serial)", `create unlogged table "Cart 2" ()`}, "unlogged-tables-shop",
			[]string{"2 tables", `public."Cart 2", public.cart`}, []string{"ALTER TABLE public.cart SET LOGGED", `ALTER TABLE public."Cart 2" SET LOGGED`}},
		"TableInOddDatabase": {"Öd/d", []string{"create unlogged table cart ()"}, "unlogged-tables-_d_d-",
			[]string{"a table", "public.cart", "ALTER TABLE public.cart SET LOGGED"}, []string{"ALTER TABLE public.cart SET LOGGED"}},
		"Function": {"shop", []string{"create function fast() returns void language plpgsql as $$ begin set local synchronous_commit to off; end $$",
			"create function set(text) returns text language sql as $$ select set_config('synchronous_commit', 'local', true) $$",
			"create function good() returns void language plpgsql as $$ begin set local synchronous_commit = on; end $$",
			"create function clause() returns void language plpgsql set synchronous_commit = off as $$ begin end $$"}, "synchronous-commit-functions-shop",
			[]string{"2 functions", "(public.fast(), public.set(text))"}, []string{"drop function fast()", "drop function set(text)", "drop function good()", "drop function clause()"}},
		"Server": {"postgres", []string{"alter system set synchronous_commit = local", "select pg_reload_conf()"}, "synchronous-commit-server",
			[]string{"postgresql.auto.conf", "ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf()"}, []string{"ALTER SYSTEM RESET synchronous_commit", "SELECT pg_reload_conf()"}},
		// What the daemon's own sessions are given hides the server's value.
		"ServerHidden": {"postgres", []string{"alter system set synchronous_commit = off", "alter role understudy set synchronous_commit = on", "select pg_reload_conf()"}, "synchronous-commit-server",
			[]string{"off by", "postgresql.auto.conf"}, []string{"ALTER SYSTEM RESET synchronous_commit", "alter role understudy reset all", "SELECT pg_reload_conf()"}},
	} {
		t.Run(name, func(t *testing.T) {
			in(t, s, tt.database, tt.harm...)
			within(t, 5*time.Second, func() error {
				got := unsafe(t, s)
				for key, text := range got {
					if strings.HasPrefix(key, tt.key) && len(got) == 1 && !slices.ContainsFunc(tt.says, func(w string) bool { return !strings.Contains(text, w) }) {
						return nil
					}
				}
				return fmt.Errorf("got %v, want %s: %q", got, tt.key, tt.says)
			})
			in(t, s, tt.database, tt.mend...)
			within(t, 5*time.Second, func() error { return none(unsafe(t, s)) })
		})
	}
	t.Run("WaitsAsLong", func(t *testing.T) {
		do(t, s, "alter role app set synchronous_commit = remote_write", "alter database shop set synchronous_commit = remote_apply", "alter role all set synchronous_commit = on")
		if err := none(unsafe(t, s)); err != nil {
			t.Error(err)
		}
		do(t, s, "alter role all reset all")
	})
	t.Run("Unreachable", func(t *testing.T) { unreachableDatabase(t, s) })
	t.Run("Bounds", func(t *testing.T) { unsafeBounds(t, s) })
	stop(t, g, guard.Fast)
	if list, err := s.Unsafe(context30(t)); err == nil {
		t.Errorf("a stopped server: %v", list)
	}
}

func none(got map[string]string) error {
	if len(got) != 0 {
		return fmt.Errorf("still unsafe: %v", got)
	}
	return nil
}

// within repeats f until it returns no error.
func within(t *testing.T, d time.Duration, f func() error) {
	t.Helper()
	deadline := time.Now().Add(d)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// unreachableDatabase looks at a database whose catalog is locked, and at one
// that is dropped meanwhile or was made unfit.
func unreachableDatabase(t *testing.T, s *pgctl.Server) {
	ctx := context30(t)
	conn, err := s.Connect(ctx, "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "begin; lock table pg_proc in access exclusive mode"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	got := unsafe(t, s)
	if d := time.Since(began); len(got) != 1 || !strings.Contains(got["database-unchecked-shop"], "database shop cannot be looked at") || d > 4*time.Second {
		t.Errorf("%s, after %s", got, d)
	}
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, time.Nanosecond)
	defer cancel()
	if list, err := s.Unsafe(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without time: %v, %v", list, err)
	}
	do(t, s, "alter database shop set session_preload_libraries = 'no_such_library'")
	if got := unsafe(t, s); !strings.Contains(got["database-unchecked-shop"], "no_such_library") {
		t.Errorf("a database that lets nobody in: %v", got)
	}
	do(t, s, "alter database shop reset all", "alter database shop allow_connections false")
	if err := none(unsafe(t, s)); err != nil {
		t.Error(err)
	}
	do(t, s, "alter database shop allow_connections true")
}

// unsafeBounds makes more than is told.
func unsafeBounds(t *testing.T, s *pgctl.Server) {
	long := strings.Repeat("x", 55)
	in(t, s, "shop", "do $$ begin for n in 1..30 loop execute format('create unlogged table %I ()', E'a\\n"+long+"' || n); end loop; end $$")
	text := unsafe(t, s)["unlogged-tables-shop"]
	if !strings.Contains(text, "30 tables") || !strings.Contains(text, " more)") || len(text) > 1000 || strings.Contains(text, "\n") {
		t.Errorf("many: %q", text)
	}
	do(t, s, "do $$ begin for n in 1..120 loop execute format('create role r%s', n); execute format('alter role r%s set synchronous_commit = off', n); end loop; end $$")
	got := unsafe(t, s)
	if len(got) != 32 || !strings.HasPrefix(got["unsafe-more"], "90 more") {
		t.Errorf("%d, more: %q", len(got), got["unsafe-more"])
	}
}

// TestServer_UnsafeStart looks at a server that was started without what is
// forced, and at a logical slot.
func TestServer_UnsafeStart(t *testing.T) {
	t.Parallel()
	s, g := founded(t)
	stop(t, g, guard.Fast)
	do := func(want ...string) {
		t.Helper()
		got := unsafe(t, s)
		if len(got) != len(want)/2 {
			t.Errorf("got %v", got)
		}
		for i := 0; i < len(want); i += 2 {
			if !strings.Contains(got[want[i]], want[i+1]) {
				t.Errorf("%s: %q, want %q", want[i], got[want[i]], want[i+1])
			}
		}
	}
	extra := filepath.Join(s.DataDir, "extra.conf")
	write(t, extra, "full_page_writes = off\nwal_level = logical\nsynchronous_commit = local\n")
	write(t, filepath.Join(s.DataDir, "postgresql.conf"), read(t, filepath.Join(s.DataDir, "postgresql.conf"))+"include 'extra.conf'\n")
	m := pgctl.Mode{Primary: true, Async: true, MinSettings: map[string]int{"max_prepared_transactions": 5}}
	var argv []string
	for args := s.Args(m); len(args) > 0; args = args[1:] {
		if args[0] == "-c" && len(args) > 1 && (strings.HasPrefix(args[1], "fsync=") || strings.HasPrefix(args[1], "full_page_writes=") || strings.HasPrefix(args[1], "data_sync_retry=")) {
			args = args[1:]
			continue
		}
		argv = append(argv, args[0])
	}
	g = startAs(t, s, m, append(argv, "-c", "data_sync_retry=on"))
	const sync, local = "synchronous-commit-server", "line 3 of "
	do("setting-fsync", "fsync is off by "+filepath.Join(s.StateDir, "postgresql.understudy.conf"),
		"setting-full-page-writes", "full_page_writes is off by ", "setting-data-sync-retry", "data_sync_retry is on by the command line", sync, local)
	in(t, s, "postgres", "select pg_create_logical_replication_slot('cdc', 'test_decoding')")
	if got := unsafe(t, s)["logical-slots"]; !strings.Contains(got, "a logical replication slot") || !strings.Contains(got, "pg_drop_replication_slot('cdc')") {
		t.Errorf("logical slot: %q", got)
	}
	in(t, s, "postgres", "select pg_drop_replication_slot('cdc')")
	// Right as it is, but a reload might change it.
	write(t, extra, strings.Replace(read(t, extra), "writes = off", "writes = on", 1))
	in(t, s, "postgres", "select pg_reload_conf()")
	within(t, 5*time.Second, func() error {
		if text := unsafe(t, s)["setting-full-page-writes"]; !strings.Contains(text, "is on by "+extra+" and not by the command line") {
			return errors.New(text)
		}
		return nil
	})
	stop(t, g, guard.Fast)
	start(t, s, m)
	do(sync, local)
}

// TestServer_FunctionClauseWaits shows why SET clauses of functions are not
// looked for: the commit waits all the same, while what the text of a function
// sets counts.
func TestServer_FunctionClauseWaits(t *testing.T) {
	t.Parallel()
	s, _ := founded(t)
	do(t, s, "create table t (n int)",
		"create function clause() returns void language sql set synchronous_commit = off as 'insert into t values (1)'",
		"create function body() returns void language plpgsql as $$ begin set local synchronous_commit = off; insert into t values (1); end $$")
	if err := s.SetSyncName(context30(t), pgctl.NoSyncName); err != nil {
		t.Fatal(err)
	}
	for sql, waits := range map[string]bool{"select clause()": true, "select body()": false} {
		if got := waitsForStandby(t, s, sql); got != waits {
			t.Errorf("%s: waits for a standby: %v, want %v", sql, got, waits)
		}
	}
}

// waitsForStandby tells whether the commit of a statement waits for a standby,
// which never answers. The statement is cancelled then.
func waitsForStandby(t *testing.T, s *pgctl.Server, sql string) (waits bool) {
	t.Helper()
	ctx := context30(t)
	conn, err := s.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		_, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
		done <- err
	}()
	pid := conn.PgConn().PID()
	for {
		select {
		case err := <-done:
			var pe *pgconn.PgError
			if err != nil && !errors.As(err, &pe) {
				t.Fatal(err)
			}
			return waits
		default:
		}
		waits = query(t, s, fmt.Sprintf("select coalesce((select (wait_event = 'SyncRep' and pg_cancel_backend(pid))::text from pg_stat_activity where pid = %d), '')", pid)) == "true" || waits
	}
}
