package tunnel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"understudy/shipper/tunnel"
	"understudy/test/pgtest"
)

// rights are what pg_rewind needs of its source, and no more. They hold in the
// database where they are given.
const rights = `CREATE ROLE rewinder LOGIN;
	GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean), pg_stat_file(text, boolean),
		pg_read_binary_file(text), pg_read_binary_file(text, bigint, bigint, boolean) TO rewinder`

// database starts a server with the role and the database of the tunnels.
func database(t *testing.T, settings ...string) *pgtest.Cluster {
	t.Helper()
	pg := pgtest.New(t, append(settings, "fsync=off")...)
	pg.Exec(t, rights)
	pg.Exec(t, "CREATE DATABASE ours")
	return pg
}

func socketOf(pg *pgtest.Cluster) string {
	return filepath.Join(pg.Socket, fmt.Sprintf(".s.PGSQL.%d", pg.Port))
}

// connect opens a connection through the tunnel, asking for the superuser.
func connect(t *testing.T, r *rig, more string) (*pgconn.PgConn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	return pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable %s", r.dir, port, more))
}

// ask runs SQL and returns the first row's fields, joined.
func ask(t *testing.T, pg *pgconn.PgConn, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	res, err := pg.Exec(ctx, sql).ReadAll()
	if err != nil || len(res) == 0 || len(res[0].Rows) == 0 {
		t.Fatalf("%s: %v", sql, err)
	}
	var fields []string
	for _, f := range res[0].Rows[0] {
		fields = append(fields, string(f))
	}
	return strings.Join(fields, " ")
}

func TestTunnel_Postgres(t *testing.T) {
	pg := database(t)
	for name, over := range map[string]func(testing.TB, string, func(*rig)) *rig{"Memory": overMemory, "TLS": overTLS} {
		for what, f := range map[string]func(*testing.T, *pgtest.Cluster, *rig){
			"IsAlwaysOurRole": alwaysOurRole, "LeavesNothing": leavesNothing, "SlowReader": slowReader,
			"BigResult": bigResult, "ServerEnds": serverEnds, "ContextEnds": contextEnds, "Cancel": cancelRefused,
		} {
			t.Run(name+"/"+what, func(t *testing.T) { f(t, pg, over(t, socketOf(pg), nil)) })
		}
	}
}

func alwaysOurRole(t *testing.T, _ *pgtest.Cluster, r *rig) {
	pg, err := connect(t, r, "application_name=pg_rewind client_encoding=LATIN1 options='-c search_path=evil -c work_mem=1GB'")
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.Background())
	got := ask(t, pg, `SELECT session_user, current_user, current_database(), current_setting('application_name'),
		current_setting('client_encoding'), current_setting('search_path') <> 'evil', current_setting('work_mem') <> '1GB'`)
	if want := "rewinder rewinder ours pg_rewind LATIN1 t t"; got != want {
		t.Errorf("connected as %q, want %q", got, want)
	}
	for _, sql := range []string{"SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "CREATE ROLE x SUPERUSER", "SELECT pg_switch_wal()"} {
		var no *pgconn.PgError
		if _, err := pg.Exec(t.Context(), sql).ReadAll(); !errors.As(err, &no) || no.Code != "42501" {
			t.Errorf("%s: %v", sql, err)
		}
	}
	// A second startup message on the open connection is no message at all.
	nc := pg.Conn()
	if _, err := nc.Write(plain(t)); err != nil {
		t.Fatal(err)
	}
	if e := fatal(t, nc); e.Code != "08P01" {
		t.Errorf("second startup: %s %s", e.Code, e.Message)
	}
	if _, err := connect(t, r, "replication=true"); err == nil || !strings.Contains(err.Error(), "replication connections are not passed on") {
		t.Errorf("replication: %v", err)
	}
}

// sessions is how many connections the role has on the server.
func sessions(t *testing.T, pg *pgtest.Cluster) string {
	return pg.Query(t, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'rewinder'")
}

func leavesNothing(t *testing.T, pg *pgtest.Cluster, r *rig) {
	for range 10 {
		c, err := connect(t, r, "")
		if err != nil {
			t.Fatal(err)
		}
		ask(t, c, "SELECT 1")
		c.Close(t.Context())
	}
	dropped, err := connect(t, r, "")
	if err != nil {
		t.Fatal(err)
	}
	dropped.Conn().Close() // without a word
	pgtest.Eventually(t, 5*time.Second, "no connection is left", func() bool { return sessions(t, pg) == "0" && len(r.results()) == 11 })
	for _, err := range r.results() {
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// slowReader does not read an endless result while others work.
func slowReader(t *testing.T, _ *pgtest.Cluster, r *rig) {
	slow := knock(t, r.listen.Socket, plain(t))
	greeting := make([]byte, 5)
	if _, err := io.ReadFull(slow, greeting); err != nil {
		t.Fatal(err)
	}
	if _, err := slow.Write(query(t, "SELECT repeat('x', 1000000) FROM generate_series(1, 1000000)")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(slow, make([]byte, 1<<20)); err != nil { // it is under way
		t.Fatal(err)
	}
	pg, err := connect(t, r, "")
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.Background())
	for range 100 {
		if got := ask(t, pg, "SELECT length(repeat('y', 100000))"); got != "100000" {
			t.Fatal(got)
		}
	}
}

// bigResult streams 100 MB to a client of its own process; this process, which
// holds both ends, must not allocate in proportion.
func bigResult(t *testing.T, pg *pgtest.Cluster, r *rig) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	cmd := pg.Command(t, "psql", "-X", "-h", r.dir, "-p", port, "-c", "COPY (SELECT repeat('x', 99999) FROM generate_series(1, 1000)) TO STDOUT")
	n := new(counter)
	cmd.Stdout = n
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if n.Load() != 100_000_000 {
		t.Errorf("%d bytes arrived", n.Load())
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("allocated %d bytes on the way", grown)
	}
}

type counter struct{ atomic.Int64 }

func (c *counter) Write(p []byte) (int, error) { c.Add(int64(len(p))); return len(p), nil }

func serverEnds(t *testing.T, pg *pgtest.Cluster, r *rig) {
	c := knock(t, r.listen.Socket, plain(t))
	pgtest.Eventually(t, 5*time.Second, "the session is there", func() bool { return sessions(t, pg) == "1" })
	pg.Query(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rewinder'")
	wantFatal(t, fatal(t, c), "57P01", "terminating connection due to administrator command")
}

// contextEnds with one connection idle and one blocked in the middle of data.
func contextEnds(t *testing.T, pg *pgtest.Cluster, r *rig) {
	idle := knock(t, r.listen.Socket, plain(t))
	busy := knock(t, r.listen.Socket, plain(t))
	if _, err := io.ReadFull(busy, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	if _, err := busy.Write(query(t, "SELECT repeat('x', 1000000) FROM generate_series(1, 1000000)")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(busy, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	r.stop(t)
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("took %s", d)
	}
	for _, c := range []io.Reader{idle, busy} {
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("a connection is open after the end")
		}
	}
	pgtest.Eventually(t, 5*time.Second, "the server is rid of both", func() bool { return sessions(t, pg) == "0" })
}

func cancelRefused(t *testing.T, _ *pgtest.Cluster, r *rig) {
	pg, err := connect(t, r, "")
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(context.Background())
	result := make(chan error, 1)
	go func() { _, err := pg.Exec(t.Context(), "SELECT pg_sleep(1)").ReadAll(); result <- err }()
	for range 3 {
		if err := pg.CancelRequest(t.Context()); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("cancel request: %v", err)
		}
	}
	if err := <-result; err != nil {
		t.Errorf("the query was cancelled: %v", err)
	}
}

// TestTunnel_Before runs once for each connection, before the server sees it.
func TestTunnel_Before(t *testing.T) {
	pg := database(t)
	var calls atomic.Int32
	r := overMemory(t, socketOf(pg), func(r *rig) {
		r.serve.Before = func(context.Context) error {
			calls.Add(1)
			if n := sessions(t, pg); n != "0" {
				t.Errorf("%s sessions before the server is ready", n)
			}
			pg.Exec(t, "CHECKPOINT")
			return nil
		}
	})
	c, err := connect(t, r, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if ask(t, c, "SELECT 1"); calls.Load() != 1 {
		t.Errorf("%d calls", calls.Load())
	}
}

// TestForward_Postgres has somebody else take the startup message.
func TestForward_Postgres(t *testing.T) {
	pg := database(t)
	r := overMemory(t, socketOf(pg), nil)
	through := func(dial func(context.Context) (net.Conn, error)) (dir string) {
		return filepath.Dir(fakeServer(t, func(c net.Conn) {
			m, err := readPacket(c)
			if err != nil {
				t.Error(err)
				return
			}
			packet, err := m.Encode(nil)
			if err != nil {
				t.Error(err)
				return
			}
			_ = tunnel.Forward(context.Background(), c, packet, dial) // the client says what came of it
		}))
	}
	open := func(dir string) (*pgconn.PgConn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return pgconn.Connect(ctx, fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres sslmode=disable", dir, port))
	}
	c, err := open(through(r.listen.Dial))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	if got := ask(t, c, "SELECT session_user, current_database()"); got != "rewinder ours" {
		t.Errorf("connected as %q", got)
	}
	_, err = open(through(func(context.Context) (net.Conn, error) { return nil, errors.New("nobody is primary") }))
	if err == nil || !strings.Contains(err.Error(), "nobody is primary") {
		t.Errorf("without another end: %v", err)
	}
}

// TestTunnel_Rewind is what the tunnel is for: an old primary that went its
// own way follows the new one again, with no right but the reading of files.
func TestTunnel_Rewind(t *testing.T) {
	old := database(t, "wal_log_hints=on", "wal_keep_size=256MB")
	old.Exec(t, "CREATE TABLE t AS SELECT g AS id, repeat('a', 100) AS text FROM generate_series(1, 20000) g")
	old.Exec(t, "CHECKPOINT")
	d := pgtest.Dir(t)
	fresh := pgtest.Init(t) // for its place; the contents come from the old one
	fresh.Data = filepath.Join(d, "data")
	old.Tool(t, "pg_basebackup", "-D", fresh.Data, "-X", "stream", "-c", "fast", "--no-sync")
	if err := os.WriteFile(filepath.Join(fresh.Data, "standby.signal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fresh.Start(t)
	fresh.Query(t, "SELECT pg_promote()")
	fresh.Exec(t, "UPDATE t SET text = 'new' WHERE id % 3 = 0")
	old.Exec(t, "UPDATE t SET text = 'lost' WHERE id % 5 = 0")
	old.Stop(syscall.SIGINT)

	r := overTLS(t, socketOf(fresh), func(r *rig) {
		r.serve.Database = "postgres"
		r.serve.Before = func(context.Context) error { fresh.Exec(t, "CHECKPOINT"); return nil }
	})
	out := old.Tool(t, "pg_rewind", "-D", old.Data, "--no-sync", "--source-server",
		fmt.Sprintf("host=%s port=%s user=postgres dbname=postgres", r.dir, port))
	t.Log(strings.TrimSpace(out))
	old.Start(t)
	sum := "SELECT md5(string_agg(id || text, ',' ORDER BY id)) FROM t"
	if got, want := old.Query(t, sum), fresh.Query(t, sum); got != want {
		t.Errorf("the rewound server holds %s, the source %s", got, want)
	}
	pgtest.Eventually(t, 5*time.Second, "the tunnel is empty", func() bool { return len(r.results()) > 0 })
	if errs := r.results(); slices.ContainsFunc(errs, func(err error) bool { return err != nil }) {
		t.Errorf("Serve: %v", errs)
	}
}
