package archive_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"understudy/shipper/archive"
	"understudy/shipper/location/local"
	"understudy/shipper/pos"
	"understudy/shipper/spool"
	"understudy/test/pgtest"
)

// helperEnv makes the test binary a restore_command.
const helperEnv = "ARCHIVE_TEST_SOCKET"

// helper is what a restore calls for PostgreSQL: exit 0 with the file, 1 for
// the end of the log, 200 when nobody can tell.
func helper() (bool, int) {
	socket := os.Getenv(helperEnv)
	if socket == "" || len(os.Args) != 3 {
		return false, 0
	}
	err := archive.RequestFile(context.Background(), socket, os.Args[1], os.Args[2])
	switch {
	case err == nil:
		return true, 0
	case errors.Is(err, archive.ErrNotExist):
		return true, 1
	}
	fmt.Fprintln(os.Stderr, err)
	return true, 200
}

// A real server's log is archived to a folder, and a real recovery reads it
// back to the last committed row, partial segment included. It promotes, goes
// on, is archived too, and is recovered across its promotion.
func TestPostgres_ArchiveAndRecover(t *testing.T) {
	c := pgtest.New(t, "--wal-segsize=1", "wal_level=replica", "autovacuum=off", "wal_keep_size=1GB", "max_connections=10", "shared_buffers=16MB")
	c.Exec(t, "CREATE TABLE t (n int, pad text)")
	base := filepath.Join(pgtest.Dir(t), "base")
	c.Tool(t, "pg_basebackup", "-D", base, "-X", "none", "-c", "fast")
	start := must(pos.ParseLSN(c.Query(t, "SELECT redo_lsn::text FROM pg_control_checkpoint()")))(t)
	sysid := must(strconv.ParseUint(c.Query(t, "SELECT system_identifier::text FROM pg_control_system()"), 10, 64))(t)
	dir := t.TempDir()
	if err := local.Init(dir); err != nil {
		t.Fatal(err)
	}
	loc := local.New(dir)
	defer loc.Close()
	cfg := archive.Config{Root: root, Location: loc, Name: "folder", SystemID: sysid, SegSize: segSize, From: start, Log: quiet()}
	lin := pos.Lineage{{Epoch: pos.Epoch{Gen: 1, Num: 1}, Timeline: 1, Start: start}}

	c.Exec(t, "INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 6000) i")
	end := archiveOf(t, c, cfg, lin)
	c.Stop(syscall.SIGQUIT)
	first := recoverFrom(t, c, copyOf(t, c, base), cfg, lin, end)
	if got := first.Query(t, "SELECT count(*) FROM t"); got != "6000" {
		t.Errorf("%s rows after recovery", got)
	}

	history := must(os.ReadFile(filepath.Join(first.Data, "pg_wal", "00000002.history")))(t)
	lines := must(archive.ParseHistory(history))(t)
	lin = lin.With(pos.Entry{Epoch: pos.Epoch{Gen: 1, Num: 2}, Timeline: 2, Start: lines[0].End})
	first.Exec(t, "INSERT INTO t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 3000) i")
	end = archiveOf(t, first, cfg, lin)
	first.Tool(t, "pg_ctl", "-D", first.Data, "-m", "immediate", "-w", "stop")
	second := recoverFrom(t, c, copyOf(t, c, base), cfg, lin, end)
	if got := second.Query(t, "SELECT count(*) FROM t"); got != "9000" {
		t.Errorf("%s rows after recovery across the promotion", got)
	}
	if got := second.Query(t, "SELECT timeline_id::text FROM pg_control_checkpoint()"); got == "1" {
		t.Errorf("recovered on timeline %s", got)
	}
}

// archiveOf feeds the location with all that a server has flushed.
func archiveOf(t *testing.T, c *pgtest.Cluster, cfg archive.Config, lin pos.Lineage) pos.LSN {
	t.Helper()
	end := must(pos.ParseLSN(c.Query(t, "SELECT pg_current_wal_flush_lsn()::text")))(t)
	wal := spool.Dir(filepath.Join(c.Data, "pg_wal"), segSize, lin)
	defer wal.Close()
	cfg.Source, cfg.Lineage, cfg.Committed = wal, func() pos.Lineage { return lin }, func() (pos.LSN, bool) { return end, true }
	f := run(t, cfg)
	defer f.stop(t)
	f.reaches(t, end)
	if s := f.Status(); s.Whole != end.SegStart(segSize) || len(s.Missing) > 0 {
		t.Errorf("%+v", s)
	}
	return end
}

func copyOf(t *testing.T, c *pgtest.Cluster, base string) string {
	t.Helper()
	dir := filepath.Join(pgtest.Dir(t), "copy")
	if out, err := exec.Command("cp", "-a", base, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// recoverFrom lets a server recover in dir with a Fetcher behind its
// restore_command, and returns it when it has opened.
func recoverFrom(t *testing.T, like *pgtest.Cluster, dir string, from archive.Config, lin pos.Lineage, end pos.LSN) *pgtest.Cluster {
	t.Helper()
	f := must(archive.NewFetcher(archive.FetchConfig{
		Places: []archive.Place{{Name: from.Name, Location: from.Location}}, Root: root, SystemID: from.SystemID, SegSize: segSize,
		Path: archive.PathOf(lin), Known: end, AllowPartial: true, Dir: filepath.Join(t.TempDir(), "ahead"), Log: quiet(),
	}))(t)
	work := pgtest.Dir(t)
	socket := filepath.Join(work, "wal.sock")
	l := must(net.Listen("unix", socket))(t)
	if err := os.Chmod(socket, 0o777); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- archive.ServeFetch(ctx, l, f) }()
	defer func() {
		cancel()
		if err := errors.Join(<-done, f.Close()); err != nil {
			t.Error(err)
		}
	}()
	// The database account cannot reach into root's build folder.
	tool := filepath.Join(work, "wal-get")
	if out, err := exec.Command("cp", must(os.Executable())(t), tool).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	pgtest.Own(t, tool)
	r := &pgtest.Cluster{Bin: like.Bin, Data: dir, Socket: work, Port: pgtest.FreePort(t)}
	r.AppendConf(t, fmt.Sprintf("restore_command = '%s=%s %s \"%%f\" \"%%p\"'\nrecovery_target_timeline = '%d'\n", helperEnv, socket, tool, archive.PathOf(lin).Last()))
	signal := filepath.Join(dir, "recovery.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, signal)
	log := filepath.Join(work, "server.log")
	cmd := r.Command(t, "pg_ctl", "-D", r.Data, "-w", "-t", "30", "-l", log, "-o", fmt.Sprintf("-p %d -c listen_addresses= -c unix_socket_directories=%s", r.Port, work), "start")
	if out, err := cmd.CombinedOutput(); err != nil {
		b, _ := os.ReadFile(log)
		t.Fatalf("%v: %s\n%s", err, out, b)
	}
	t.Cleanup(func() { _ = r.Command(t, "pg_ctl", "-D", r.Data, "-m", "immediate", "-w", "stop").Run() }) // may be stopped already
	pgtest.Eventually(t, 20*time.Second, "recovery ends", func() bool { return r.Query(t, "SELECT pg_is_in_recovery()::text") == "false" })
	return r
}
