package pgctl_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

// testRewindLogin: in by the socket to one database, locked or open, and by no
// other way.
func testRewindLogin(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	for _, open := range []bool{true, false} {
		if err := map[bool]func(context.Context) error{true: s.Unlock, false: s.Lock}[open](ctx); err != nil {
			t.Fatal(err)
		}
		for dsn, want := range map[string]bool{
			"host=" + s.SocketDir + " dbname=postgres":                  true,
			"host=" + s.SocketDir + " dbname=template1":                 false,
			"host=" + s.SocketDir + " dbname=postgres replication=true": false,
			"host=127.0.0.1 dbname=postgres":                            false,
		} {
			conn, err := pgx.Connect(ctx, dsn+" sslmode=disable user="+pgctl.RewindRole+" port="+strconv.Itoa(s.Port))
			if (err == nil) != want {
				t.Errorf("open %v, %s: %v", open, dsn, err)
			}
			if err == nil {
				conn.Close(ctx)
			}
		}
	}
}

// diverged is a promoted server and directories that went another way.
type diverged struct {
	source  *pgctl.Server
	crashed *pgctl.Server // the old primary, with rows of its own and a prepared transaction
	behind  *pgctl.Server // a standby that crashed below the fork
	stopped *pgctl.Server // a standby that was stopped below the fork
	common  string        // the segment of the old primary that the fork is in
}

func diverge(t *testing.T) diverged {
	t.Helper()
	ctx := context30(t)
	p, gp := founded(t)
	s := standbyOf(t, p)
	gs := start(t, s, following(p))
	do(t, p, "create table t (n int)", "insert into t values (1)")
	caughtUp(t, p, s)
	stop(t, gs, guard.Immediate)
	d := diverged{source: s, crashed: p, behind: copyOf(t, s)}
	gs = start(t, s, following(p))
	caughtUp(t, p, s)
	stop(t, gs, guard.Fast)
	d.stopped = copyOf(t, s)
	start(t, s, following(p))
	do(t, p, "create table filler as select generate_series(1, 1000)", "insert into t values (2)", "select pg_create_physical_replication_slot('old', true)")
	d.common = query(t, p, "select pg_walfile_name(pg_current_wal_lsn())")
	caughtUp(t, p, s)
	if err := s.PreparePromotion(ctx, "", true); err != nil {
		t.Fatal(err)
	}
	if err := s.BurnTimelines(1, 3); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Promote(ctx); err != nil || got.Timeline != 3 {
		t.Fatalf("%+v, %v\n%s", got, err, read(t, s.LogFile))
	}
	if err := s.EnsureRewindRole(ctx); err != nil {
		t.Fatal(err)
	}
	do(t, s, "insert into t values (3)", "checkpoint")
	do(t, p, "insert into t values (-1)", "select pg_switch_wal()", "insert into t values (-2)", "checkpoint",
		"begin", "insert into t values (-3)", "prepare transaction 'left'", "insert into t values (-4)")
	stop(t, gp, guard.Immediate)
	if err := p.PutStandbySignal(); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d diverged) spec(u *tunnel) pgctl.RewindSpec {
	if u == nil {
		return pgctl.RewindSpec{SourceSocketDir: d.source.SocketDir, SourcePort: d.source.Port}
	}
	return pgctl.RewindSpec{SourceSocketDir: u.dir, SourcePort: u.port}
}

func TestServer_Rewind(t *testing.T) {
	d := diverge(t)
	t.Run("MissingLog", func(t *testing.T) { testMissingLog(t, d) })
	t.Run("ToolMissing", func(t *testing.T) { testToolMissing(t, d) })
	t.Run("Interrupted", func(t *testing.T) { testInterrupted(t, d) })
	t.Run("BelowTheFork", func(t *testing.T) { testBelowTheFork(t, d) })
	t.Run("NotNeeded", func(t *testing.T) { testNotNeeded(t, d) })
	t.Run("OtherSystem", func(t *testing.T) { testOtherSystem(t, d) })
	t.Run("CrashedPrimary", func(t *testing.T) { testCrashedPrimary(t, d) })
}

func wantState(t *testing.T, s *pgctl.Server, want pgctl.DirState) {
	t.Helper()
	if st, err := s.State(); err != nil || st != want {
		t.Errorf("state %v, %v, want %v", st, err, want)
	}
	if _, err := os.Stat(s.PermitFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the permit is left behind: %v", err)
	}
}

// testToolMissing: some packages of the server come without pg_rewind; then a
// new base is all that helps, and nothing was touched.
func testToolMissing(t *testing.T, d diverged) {
	s := copyOf(t, d.crashed)
	s.BinDir = t.TempDir()
	if err := s.Rewind(context30(t), d.spec(nil)); !errors.Is(err, pgctl.ErrRewindImpossible) || !strings.Contains(err.Error(), s.BinDir) {
		t.Errorf("got %v", err)
	}
	wantState(t, s, pgctl.Cluster)
}

func testMissingLog(t *testing.T, d diverged) {
	s := copyOf(t, d.crashed)
	configured(t, s)
	if err := os.Remove(filepath.Join(s.DataDir, "pg_wal", d.common)); err != nil {
		t.Fatal(err)
	}
	err := s.Rewind(context30(t), d.spec(nil))
	if !errors.Is(err, pgctl.ErrRewindImpossible) || !strings.Contains(err.Error(), d.common) {
		t.Errorf("got %v", err)
	}
	wantState(t, s, pgctl.Rewinding)
}

// configured writes the files that a copied directory's include names, as a
// node has them that ran the server before.
func configured(t *testing.T, s *pgctl.Server) {
	t.Helper()
	if err := s.Configure(context30(t), pgctl.Mode{SyncName: pgctl.NoSyncName}); err != nil {
		t.Fatal(err)
	}
}

// testInterrupted kills pg_rewind while it copies: the way to the source falls
// silent half-way.
func testInterrupted(t *testing.T, d diverged) {
	s := copyOf(t, d.crashed)
	configured(t, s)
	u := newTunnel(t, d.source, 0, 4<<20)
	ctx, cancel := context.WithCancelCause(context30(t))
	defer cancel(nil)
	late := errors.New("too late")
	go func() {
		select {
		case <-u.stalled:
			cancel(late)
		case <-ctx.Done():
		}
	}()
	err := s.Rewind(ctx, d.spec(u))
	if !errors.Is(err, pgctl.ErrRewindImpossible) || !errors.Is(err, late) {
		t.Errorf("interrupted: %v", err)
	}
	wantState(t, s, pgctl.Rewinding)
	if err := s.Rewind(context30(t), d.spec(nil)); !errors.Is(err, pgctl.ErrRewindImpossible) {
		t.Errorf("again: %v", err)
	}
	if err := s.Configure(context30(t), pgctl.Mode{Primary: true, Async: true}); err == nil {
		t.Error("a half rewound directory can become a primary")
	}
}

// testBelowTheFork: pg_rewind itself takes this directory for one that needs no
// rewind, although recovery has written into its log.
func testBelowTheFork(t *testing.T, d diverged) {
	configured(t, d.behind)
	err := d.behind.Rewind(context30(t), d.spec(nil))
	if !errors.Is(err, pgctl.ErrRewindImpossible) || !strings.Contains(err.Error(), "recovery has appended") {
		t.Errorf("got %v", err)
	}
	wantState(t, d.behind, pgctl.Rewinding)
}

func testNotNeeded(t *testing.T, d diverged) {
	s := d.stopped
	var said []string
	spec := d.spec(nil)
	spec.Log = func(line string) { said = append(said, line) }
	if err := s.Rewind(context30(t), spec); err != nil || !strings.Contains(strings.Join(said, "\n"), "no rewind required") {
		t.Errorf("got %v, said %q", err, said)
	}
	if _, err := os.Stat(filepath.Join(s.DataDir, "standby.signal")); err != nil {
		t.Error(err)
	}
	if _, ok, err := s.BackupLabelStart(); ok || err != nil {
		t.Errorf("backup_label: %v, %v", ok, err)
	}
}

func testOtherSystem(t *testing.T, d diverged) {
	s := newServer(t)
	if err := s.InitDB(context30(t), "postgres"); err != nil {
		t.Fatal(err)
	}
	if err := s.Rewind(context30(t), d.spec(nil)); !errors.Is(err, pgctl.ErrRewindImpossible) {
		t.Errorf("got %v", err)
	}
	wantState(t, s, pgctl.Cluster)
}

// testCrashedPrimary loses its source before and after it has recovered, then
// is rewound and follows.
func testCrashedPrimary(t *testing.T, d diverged) {
	s := d.crashed
	ctx := context30(t)
	if err := s.Unpermit(); err != nil {
		t.Fatal(err)
	}
	nowhere := d.spec(nil)
	nowhere.SourceSocketDir += "/none"
	if err := s.Rewind(ctx, nowhere); err == nil || errors.Is(err, pgctl.ErrRewindImpossible) {
		t.Errorf("no source: %v", err)
	}
	wantState(t, s, pgctl.Cluster)
	if err := s.Rewind(ctx, d.spec(newTunnel(t, d.source, 1, 0))); err == nil || errors.Is(err, pgctl.ErrRewindImpossible) {
		t.Errorf("source lost: %v", err)
	}
	wantState(t, s, pgctl.Rewinding)
	said := 0
	spec := d.spec(newTunnel(t, d.source, 0, 0))
	spec.Keep = map[pos.Timeline]bool{3: true}
	spec.Log = func(string) { said++ }
	if err := s.Rewind(ctx, spec); err != nil || said == 0 {
		t.Fatalf("rewind: %v, %d lines", err, said)
	}
	wantState(t, s, pgctl.Rewinding)
	if start, ok, err := s.BackupLabelStart(); err != nil || !ok || start == 0 {
		t.Errorf("backup_label: %s, %v, %v", start, ok, err)
	}
	if h := histories(t, s); len(h) != 1 || h["00000003"] == "" {
		t.Errorf("histories: %v", h)
	}
	if slots, err := os.ReadDir(filepath.Join(s.DataDir, "pg_replslot")); err != nil || len(slots) != 0 {
		t.Errorf("slots: %v, %v", slots, err)
	}
	if err := s.ClearMark(); err != nil {
		t.Fatal(err)
	}
	start(t, s, following(d.source))
	caughtUp(t, d.source, s)
	if got := query(t, s, "select string_agg(n::text, ' ' order by n) from t"); got != "1 2 3" {
		t.Errorf("rows: %s", got)
	}
	if err := s.PutStandbySignal(); err == nil {
		t.Error("the signal of a running server was written")
	}
}
