package rescue_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/cli"
	"understudy/ledger/facts"
	"understudy/shipper/archive"
	"understudy/shipper/backup"
	"understudy/shipper/backupset"
	"understudy/shipper/catalog"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/shipper/walfmt"
	"understudy/test/pgtest"
)

// asProgram makes the test binary the program, for children that are killed.
const asProgram = "RESCUE_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "restore-get" || os.Getenv(asProgram) != "" {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
		err := execute(ctx, os.Stdout, os.Args[1:]...)
		stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(cli.Code(err))
	}
	time.Local = time.UTC
	os.Exit(m.Run())
}

// execute runs a command of the program.
func execute(ctx context.Context, out io.Writer, args ...string) error {
	root := &cobra.Command{Use: "understudy"}
	root.AddCommand(cli.Commands(cli.Options{Out: out, Version: "test"})...)
	cli.Prepare(root)
	root.SetArgs(args)
	return root.ExecuteContext(ctx)
}

// output is what commands print; children write to it, too.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// command runs a command that must end with a code, and returns what it said,
// its error included. No node file of this machine counts.
func command(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out output
	err := execute(context.Background(), &out, args...)
	text := out.String()
	if err != nil {
		text += err.Error()
	}
	if cli.Code(err) != code {
		t.Fatalf("%s: code %d, want %d\n%s", strings.Join(args, " "), cli.Code(err), code, text)
	}
	return text
}

const (
	group   = "shop"
	segSize = 1 << 20
)

func root() backupset.Root { return backupset.Root{Group: group, Profile: facts.ProfilePostgres} }

// origin is a server whose backups lie at one location.
type origin struct {
	*pgtest.Cluster
	dir   string // of the location
	space string // directory of a tablespace
	oid   string
	label string
	sysid uint64
	begin pos.LSN // of the archived log

	early  string // a moment between the second row and the third
	late   string // a moment after the third and before the last
	point  pos.LSN
	xid    string // of the third row
	atEnd  string // all rows
	middle pos.LSN
}

func newOrigin(t *testing.T) *origin {
	t.Helper()
	o := &origin{dir: filepath.Join(pgtest.Dir(t), "disk"), space: pgtest.Dir(t)}
	o.Cluster = pgtest.New(t, "--wal-segsize=1", "--data-checksums", "wal_level=replica", "autovacuum=off", "wal_keep_size=1GB", "fsync=off", "shared_buffers=16MB", "max_connections=20")
	if err := local.Init(o.dir); err != nil {
		t.Fatal(err)
	}
	o.Exec(t, "create tablespace outside location '"+o.space+"'")
	o.Exec(t, "create table moments(n serial); create table bulk(i int primary key, f text); create table far(i int) tablespace outside; insert into far values (1)")
	o.Exec(t, "insert into bulk select i, repeat(md5(i::text), 30) from generate_series(1, 2000) i")
	o.oid = o.Query(t, "select oid from pg_tablespace where spcname = 'outside'")
	o.sysid, _ = strconv.ParseUint(o.Query(t, "select system_identifier from pg_control_system()"), 10, 64)
	o.begin = lsn(t, o.Query(t, "select pg_current_wal_insert_lsn()")).SegStart(segSize)
	o.insert(t)
	o.take(t)
	o.live(t)
	o.archive(t)
	return o
}

func lsn(t *testing.T, text string) pos.LSN {
	t.Helper()
	l, err := pos.ParseLSN(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func (o *origin) insert(t *testing.T) string {
	return o.Query(t, "insert into moments default values returning pg_current_xact_id()::text")
}

func (o *origin) moment(t *testing.T) string {
	return o.Query(t, "select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
}

func (o *origin) take(t *testing.T) {
	t.Helper()
	l := local.New(o.dir)
	defer l.Close()
	r, err := backup.Take(context.Background(), backup.Config{ConnString: o.DSN(), Root: root(), Node: "main", Program: "test", Scratch: t.TempDir(),
		Lineage: o.lineage(), Dests: []backup.Dest{{Name: "disk", Location: l}}})
	if err != nil {
		t.Fatal(err)
	}
	o.label = r.Set.Label
}

func (o *origin) lineage() pos.Lineage {
	return pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: o.begin}}
}

// live goes on after the set: rows, moments, and several segments of log.
func (o *origin) live(t *testing.T) {
	t.Helper()
	o.insert(t)
	o.early = o.moment(t)
	o.Exec(t, "select pg_create_restore_point('second')")
	o.point = lsn(t, o.Query(t, "select pg_current_wal_insert_lsn()"))
	o.xid = o.insert(t)
	o.late = o.moment(t)
	o.Exec(t, "insert into bulk select i, repeat(md5(i::text), 30) from generate_series(2001, 5000) i")
	o.middle = lsn(t, o.Query(t, "select pg_current_wal_flush_lsn()"))
	o.insert(t)
	o.Exec(t, "delete from bulk where i % 3 = 0")
	o.insert(t)
	o.atEnd = o.rows(t)
}

const rowsSQL = "select (select count(*) from moments) || ' ' || (select count(*) || ' ' || md5(string_agg(i || f, ',' order by i)) from bulk) || ' ' || (select sum(i) from far)"

func (o *origin) rows(t *testing.T) string { return o.Query(t, rowsSQL) }

// archive stores all log at the location.
func (o *origin) archive(t *testing.T) {
	t.Helper()
	l := local.New(o.dir)
	defer l.Close()
	end := lsn(t, o.Query(t, "select pg_current_wal_flush_lsn()"))
	src := spool.Dir(filepath.Join(o.Data, "pg_wal"), segSize, o.lineage())
	defer src.Close()
	commits := commitsOf(t, src, o.begin, o.sysid)
	f, err := archive.NewFeeder(archive.Config{
		Root: root(), Location: l, Name: "disk", SystemID: o.sysid, SegSize: segSize, Lineage: o.lineage,
		Committed: func() (pos.LSN, bool) { return end, true }, Source: src, From: o.begin, Log: slog.New(slog.DiscardHandler),
		Marks: func(from, to pos.LSN) (out []catalog.Mark) {
			for _, m := range commits {
				if m.LSN > from && m.LSN <= to {
					out = append(out, m)
				}
			}
			return out
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() { defer close(done); _ = f.Run(ctx) }()
	f.Flush()
	if err := f.WaitFor(ctx, end); err != nil {
		t.Errorf("archive: %v; %+v", err, f.Status())
	}
	cancel()
	<-done
}

func commitsOf(t *testing.T, src walfmt.Source, from pos.LSN, sysid uint64) (out []catalog.Mark) {
	t.Helper()
	prm := walfmt.Params{SegSize: segSize, SystemID: sysid}
	first, err := walfmt.FirstRecord(src, from, prm)
	if err != nil {
		t.Fatal(err)
	}
	for r := walfmt.NewReader(src, first, prm); ; {
		rec, err := r.Next()
		if err != nil {
			return out
		}
		if c, ok := rec.Commit(); ok && !c.Aborted {
			out = append(out, catalog.Mark{LSN: rec.End, At: c.Time})
		}
	}
}

// target is a directory to restore to whose parent the database account can
// enter.
func target(t *testing.T) string {
	t.Helper()
	return filepath.Join(pgtest.Dir(t), "data")
}

// restore is the command with what every test needs; the tablespace goes to a
// directory of its own.
func (o *origin) restore(t *testing.T, code int, from, to string, more ...string) string {
	t.Helper()
	return command(t, code, o.args(from, to, more...)...)
}

func (o *origin) args(from, to string, more ...string) []string {
	args := []string{"restore", "--yes", "--from", from, "--to", to, "--bin-dir", o.Bin, "--tablespace", o.oid + "=" + to + ".outside"}
	return append(args, more...)
}

// query starts a restored database and asks it.
func (o *origin) query(t *testing.T, data, sql string) string {
	t.Helper()
	c := &pgtest.Cluster{Bin: o.Bin, Data: data, Socket: pgtest.Dir(t), Port: pgtest.FreePort(t)}
	log := filepath.Join(c.Socket, "log")
	opts := fmt.Sprintf("-p %d -c listen_addresses=127.0.0.1 -c unix_socket_directories=%s -c fsync=off", c.Port, c.Socket)
	if out, err := c.Command(t, "pg_ctl", "-D", data, "-w", "-t", "60", "-l", log, "-o", opts, "start").CombinedOutput(); err != nil {
		b, _ := os.ReadFile(log)
		t.Fatalf("start: %v\n%s\n%s", err, out, b)
	}
	defer c.Tool(t, "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
	return c.Query(t, sql)
}

// program is the test binary as the program, where any account can run it.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// copyOf copies the location without its marker: files alone must do.
func (o *origin) copyOf(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(pgtest.Dir(t), "copy")
	if err := os.CopyFS(dir, os.DirFS(o.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, local.Marker)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// segment is the file of a segment at a location.
func (o *origin) segment(dir string, at pos.LSN) string {
	return filepath.Join(dir, filepath.FromSlash(root().Segment(1, at.SegStart(segSize), segSize)))
}
