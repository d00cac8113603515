package tail_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/shipper/walfmt"
	"understudy/standby/tail"
	"understudy/test/pgtest"
)

const segSize = 1 << 20

func epoch(n uint64) pos.Epoch { return pos.Epoch{Gen: 1, Num: n} }

// server is a real PostgreSQL whose positions a test takes.
type server struct {
	*pgtest.Cluster
	t     *testing.T
	names map[uint32]string // of user tables, by relfilenode
	db    uint32
}

func newServer(t *testing.T, settings ...string) *server {
	c := pgtest.New(t, append([]string{"--wal-segsize=1", "max_wal_size=1GB", "wal_keep_size=200MB", "autovacuum=off",
		"checkpoint_timeout=1h", "max_prepared_transactions=5"}, settings...)...)
	s := &server{Cluster: c, t: t, names: map[uint32]string{}}
	s.db = s.number("select oid from pg_database where datname = 'postgres'")
	return s
}

func (s *server) number(sql string) uint32 {
	s.t.Helper()
	n, err := strconv.ParseUint(s.Query(s.t, sql), 10, 32)
	if err != nil {
		s.t.Fatal(err)
	}
	return uint32(n)
}

// name lets resolve know the file that the table has now.
func (s *server) name(table, as string) uint32 {
	s.t.Helper()
	node := s.number("select pg_relation_filenode('" + table + "')")
	s.names[node] = as
	return node
}

func (s *server) resolve(db, node uint32) (string, bool) {
	name, ok := s.names[node]
	return name, ok && db == s.db
}

// at is the end of the log, all of it flushed.
func (s *server) at() pos.LSN {
	s.t.Helper()
	l, err := pos.ParseLSN(s.Query(s.t, "select pg_current_wal_insert_lsn()"))
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

// connect opens a connection that stays; the server's stop ends it.
func (s *server) connect() *pgx.Conn {
	s.t.Helper()
	conn, err := s.Connect(context.Background())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// run runs sql in one transaction that this connection began, and gives its id.
func run(t *testing.T, conn *pgx.Conn, sql string) uint32 {
	t.Helper()
	var xid uint32
	if err := conn.QueryRow(context.Background(), "select txid_current()").Scan(&xid); err != nil {
		t.Fatal(err)
	}
	exec(t, conn, sql)
	return xid
}

func exec(t *testing.T, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(context.Background(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// transact runs sql and then end in a transaction of its own.
func (s *server) transact(conn *pgx.Conn, sql, end string) (xid uint32, after pos.LSN) {
	s.t.Helper()
	exec(s.t, conn, "begin")
	xid = run(s.t, conn, sql)
	exec(s.t, conn, end)
	return xid, s.at()
}

func (s *server) systemID() uint64 {
	s.t.Helper()
	for _, l := range strings.Split(s.Tool(s.t, "pg_controldata", "-D", s.Data), "\n") {
		if v, ok := strings.CutPrefix(l, "Database system identifier:"); ok {
			id, err := strconv.ParseUint(strings.TrimSpace(v), 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return id
		}
	}
	s.t.Fatal("pg_controldata names no system identifier")
	return 0
}

// stopAt stops the server at once and says how its tail from from on is kept.
func (s *server) stopAt(from pos.LSN) tail.Config {
	s.t.Helper()
	s.Stop(syscall.SIGQUIT)
	src := spool.Dir(filepath.Join(s.Data, "pg_wal"), segSize, pos.Lineage{{Epoch: epoch(3), Timeline: 1}})
	s.t.Cleanup(func() { src.Close() })
	cfg := tail.Config{
		Source: src, From: from, SegSize: segSize, SystemID: s.systemID(), Timeline: 1, Epoch: epoch(3),
		Dir: filepath.Join(s.t.TempDir(), "tails"), Resolve: s.resolve,
	}
	end, err := walfmt.FindEnd(src, from, walfmt.Params{SegSize: segSize, SystemID: cfg.SystemID})
	if err != nil {
		s.t.Fatal(err)
	}
	cfg.To = end.LogEnd
	return cfg
}

// records reads the records in [from, to).
func records(t *testing.T, cfg tail.Config) []walfmt.Record {
	t.Helper()
	r := walfmt.NewReader(cfg.Source, cfg.From, walfmt.Params{SegSize: segSize})
	var out []walfmt.Record
	for {
		rec, err := r.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.Data = slices.Clone(rec.Data); rec.LSN < cfg.To {
			out = append(out, rec)
		}
	}
}

// waldump is what pg_waldump prints for a range of the log in dir.
func (s *server) waldump(dir string, cfg tail.Config) string {
	s.t.Helper()
	cmd := s.Command(s.t, "pg_waldump", "-p", dir, "-t", "1", "-s", cfg.From.String(), "-e", cfg.To.String())
	cmd.SysProcAttr = nil // the copy belongs to the account of the test
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("pg_waldump: %v", err)
	}
	return string(out)
}

// memory is a log in memory.
type memory struct {
	start pos.LSN
	b     []byte
}

func (m memory) ReadWAL(p []byte, at pos.LSN) (int, error) {
	if at < m.start || at.Sub(m.start) >= uint64(len(m.b)) {
		return 0, io.EOF
	}
	n := copy(p, m.b[at.Sub(m.start):])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// inMemory is the tail's segments, read once.
func inMemory(t *testing.T, cfg tail.Config) memory {
	t.Helper()
	m := memory{start: cfg.From.SegStart(segSize)}
	m.b = make([]byte, cfg.To.Sub(m.start))
	if n, err := cfg.Source.ReadWAL(m.b, m.start); n < len(m.b) {
		t.Fatal(n, err)
	}
	return m
}

func dirNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}
