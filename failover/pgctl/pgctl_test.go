package pgctl_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/failover/guard"
	"understudy/failover/pgctl"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

// TestMain lets the test binary be the guard, as the program's own binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		os.Exit(guard.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func context30(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func newServer(t *testing.T) *pgctl.Server {
	t.Helper()
	in, err := pgctl.Find(pgtest.BinDir(t))
	if err != nil {
		t.Fatal(err)
	}
	account, err := pgctl.ResolveAccount("")
	if err != nil {
		t.Fatal(err)
	}
	d := pgtest.Dir(t)
	return &pgctl.Server{
		Install: in, Account: account,
		DataDir: filepath.Join(d, "data"), StateDir: filepath.Join(d, "state"), RunDir: filepath.Join(d, "run"),
		SocketDir: filepath.Join(d, "own"), ClientSocketDir: filepath.Join(d, "sock"),
		Port: pgtest.FreePort(t), Listen: []string{"127.0.0.1"},
		ClientHBA:  []string{"host all all 127.0.0.1/32 trust", "local all all trust"},
		Parameters: map[string]string{"shared_buffers": "16MB", "work_mem": "5MB", "fsync": "off"},
		LogFile:    filepath.Join(d, "server.log"),
		Log:        slog.New(slog.DiscardHandler),
	}
}

// fake is a server whose data directory is none that could start.
func fake(t *testing.T, conf, auto string) *pgctl.Server {
	t.Helper()
	s := newServer(t)
	for name, text := range map[string]string{"PG_VERSION": strconv.Itoa(s.Major) + "\n", "postgresql.conf": conf, "postgresql.auto.conf": auto} {
		write(t, filepath.Join(s.DataDir, name), text)
	}
	pgtest.Own(t, s.DataDir)
	return s
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// start runs s under a guard without a lease.
func start(t *testing.T, s *pgctl.Server, m pgctl.Mode) *guard.Client {
	t.Helper()
	return startAs(t, s, m, nil)
}

// startAs is start with another command line, if not nil.
func startAs(t *testing.T, s *pgctl.Server, m pgctl.Mode, argv []string) *guard.Client {
	t.Helper()
	ctx := context30(t)
	if err := s.Configure(ctx, m); err != nil {
		t.Fatal(err)
	}
	if argv == nil {
		argv = s.Args(m)
	}
	if err := s.Permit(ctx, 0); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g, err := guard.Start(ctx, self, guard.Launch{
		Socket: filepath.Join(s.RunDir, "guard.sock"), Argv: argv, LogFile: s.LogFile, Lease: time.Second,
		UID: s.UID, GID: s.GID, Groups: s.Groups, SetUser: s.Switch,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		g.Stop(ctx, guard.Immediate)
		g.Detach()
	})
	if err := s.Permit(ctx, g.PostmasterPID()); err != nil {
		t.Fatal(err)
	}
	if err := s.WaitReady(ctx); err != nil {
		t.Fatalf("%v\n%s", err, read(t, s.LogFile))
	}
	return g
}

// client connects as an ordinary client over TCP.
func client(t *testing.T, s *pgctl.Server) error {
	t.Helper()
	conn, err := pgx.Connect(context30(t), "host=127.0.0.1 port="+strconv.Itoa(s.Port)+" user=postgres dbname=postgres sslmode=disable")
	if err != nil {
		return err
	}
	return conn.Close(context.Background())
}

func query(t *testing.T, s *pgctl.Server, sql string) string {
	t.Helper()
	ctx := context30(t)
	conn, err := s.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	var v string
	if err := conn.QueryRow(ctx, sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestServer_FoundingToOpen(t *testing.T) {
	s := newServer(t)
	ctx := context30(t)
	if st, err := s.State(); err != nil || st != pgctl.Empty {
		t.Fatalf("state %v, %v", st, err)
	}
	if err := s.InitDB(ctx, "postgres"); err != nil {
		t.Fatal(err)
	}
	if err := s.InitDB(ctx, "postgres"); !errors.Is(err, pgctl.ErrNotEmpty) {
		t.Errorf("second initdb: %v", err)
	}
	ctl, err := s.Control(ctx)
	if err != nil || !ctl.DataChecksums || !ctl.CleanShutdown() || ctl.Timeline != 1 {
		t.Fatalf("control %+v, %v", ctl, err)
	}
	epoch := pgctl.EpochSyncName(pos.Epoch{Gen: 1, Num: 7})
	g := start(t, s, pgctl.Mode{Primary: true, SyncName: pgctl.NoSyncName})
	if err := s.EnsureRole(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client(t, s); err == nil || !strings.Contains(err.Error(), "pg_hba") {
		t.Errorf("locked: %v", err)
	}
	if err := s.Unlock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client(t, s); err != nil {
		t.Errorf("unlocked: %v", err)
	}
	if err := s.Lock(ctx); err != nil {
		t.Fatal(err)
	}
	if err := client(t, s); err == nil {
		t.Error("locked again: let in")
	}
	for sql, want := range map[string]string{"show fsync": "on", "show work_mem": "5MB", "show max_wal_senders": "14", "show restart_after_crash": "off"} {
		if got := query(t, s, sql); got != want {
			t.Errorf("%s = %s, want %s", sql, got, want)
		}
	}
	if err := s.SetSyncName(ctx, epoch); err != nil {
		t.Fatal(err)
	}
	if got := query(t, s, "show synchronous_standby_names"); got != `FIRST 1 ("understudy_1_7")` {
		t.Errorf("names: %s", got)
	}
	testForeignSetting(t, s, epoch)
	testFacts(t, s)
	testReplicationLogin(t, s)
	testBrokenConfiguration(t, s)
	testForeignServer(t, s, g)
	testStandby(t, s)
}

// testStandby starts the directory of a former primary as a standby that
// matches a larger primary.
func testStandby(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	g := start(t, s, pgctl.Mode{SyncName: pgctl.NoSyncName, RestoreCommand: "false", MinSettings: map[string]int{"max_connections": 150}})
	f, err := s.Facts(ctx)
	if err != nil || !f.InRecovery || f.Replay == 0 || f.Flush < f.Replay || f.Timeline != 1 {
		t.Errorf("facts %+v, %v", f, err)
	}
	if got := query(t, s, "show max_connections"); got != "150" {
		t.Errorf("max_connections = %s", got)
	}
	// The name of the epoch is in force before a promotion.
	if err := s.SetSyncName(ctx, "understudy_1_8"); err != nil {
		t.Error(err)
	}
	if err := g.Stop(ctx, guard.Fast); err != nil {
		t.Fatal(err)
	}
	if ctl, err := s.Control(ctx); err != nil || ctl.State != "shut down in recovery" {
		t.Errorf("control %q, %v", ctl.State, err)
	}
}

func testForeignSetting(t *testing.T, s *pgctl.Server, name string) {
	t.Helper()
	ctx := context30(t)
	conn, err := s.Connect(ctx, "postgres")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "alter system set synchronous_standby_names = ''"); err != nil {
		t.Fatal(err)
	}
	err = s.SetSyncName(ctx, name)
	if !errors.Is(err, pgctl.ErrForeignSetting) || !strings.Contains(err.Error(), "postgresql.auto.conf") {
		t.Errorf("foreign value: %v", err)
	}
	if _, err := conn.Exec(ctx, "alter system reset synchronous_standby_names"); err != nil {
		t.Fatal(err)
	}
	if err := s.SetSyncName(ctx, name); err != nil {
		t.Error(err)
	}
}

func testFacts(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	// What a crash on the way to a slot leaves behind.
	if got := query(t, s, "select slot_name::text from pg_create_physical_replication_slot('understudy_floor', false)"); got == "" {
		t.Fatal("no slot was made")
	}
	if err := s.AdvanceSlot(ctx, "understudy_floor", 1); err == nil || !strings.Contains(err.Error(), "holds no log") {
		t.Errorf("advance a slot that holds no log: %v", err)
	}
	if err := s.EnsureSlot(ctx, "understudy_floor"); err != nil {
		t.Fatal(err)
	}
	if err := s.EnsureSlot(ctx, "understudy_floor"); err != nil {
		t.Errorf("again: %v", err)
	}
	query(t, s, "select pg_switch_wal()::text")
	if err := s.Checkpoint(ctx); err != nil {
		t.Fatal(err)
	}
	f, err := s.Facts(ctx)
	if err != nil || f.InRecovery || f.Timeline != 1 || f.Flush == 0 || f.Redo == 0 || f.Redo > f.Flush || f.OldestXID == 0 {
		t.Fatalf("facts %+v, %v", f, err)
	}
	if err := s.AdvanceSlot(ctx, "understudy_floor", f.Redo); err != nil {
		t.Fatal(err)
	}
	if err := s.AdvanceSlot(ctx, "understudy_floor", 1); err != nil {
		t.Errorf("backwards: %v", err)
	}
	if got := query(t, s, "select restart_lsn::text from pg_replication_slots"); got != f.Redo.String() {
		t.Errorf("slot at %s, want %s", got, f.Redo)
	}
	for range 2 {
		if err := s.DropSlot(ctx, "understudy_floor"); err != nil {
			t.Error(err)
		}
	}
	if got, err := s.StandbySettings(ctx); err != nil || got["max_wal_senders"] != 14 || got["max_connections"] != 100 {
		t.Errorf("standby settings %v, %v", got, err)
	}
}

func testReplicationLogin(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	conn, err := pgconn.Connect(ctx, s.DSN(true)+" application_name=understudy_1_7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll(); err != nil {
		t.Error(err)
	}
}

// testBrokenConfiguration checks that an operator's mistake is named and leaves
// clients locked out.
func testBrokenConfiguration(t *testing.T, s *pgctl.Server) {
	t.Helper()
	ctx := context30(t)
	path := filepath.Join(s.DataDir, "postgresql.conf")
	good := read(t, path)
	write(t, path, "no_such_setting = 1\n"+good)
	err := s.Unlock(ctx)
	if !errors.Is(err, pgctl.ErrNotReloaded) || !strings.Contains(err.Error(), "postgresql.conf") {
		t.Errorf("unlock with a broken file: %v", err)
	}
	pgtest.Eventually(t, 5*time.Second, "clients locked out", func() bool { return client(t, s) != nil })
	write(t, path, good)
	s.ClientHBA = append(s.ClientHBA, "host all all nonsense")
	if err := s.Unlock(ctx); !errors.Is(err, pgctl.ErrNotReloaded) || !strings.Contains(err.Error(), "pg_hba.conf line") {
		t.Errorf("unlock with a broken line: %v", err)
	}
	s.ClientHBA = s.ClientHBA[:2]
	if err := s.Lock(ctx); err != nil {
		t.Error(err)
	}
}

func TestServer_DistributionsServiceIsFound(t *testing.T) {
	s := newServer(t)
	etc := t.TempDir()
	write(t, filepath.Join(etc, "15", "main", "postgresql.conf"), "data_directory = '"+s.DataDir+"' # ours\n")
	if name, boot := s.Service(etc); name != "postgresql@15-main" || !boot {
		t.Errorf("got %q, %v", name, boot)
	}
	write(t, filepath.Join(etc, "15", "main", "start.conf"), "# auto\nmanual\n")
	if _, boot := s.Service(etc); boot {
		t.Error("a manual service starts at boot")
	}
	s.DataDir += "2"
	if name, _ := s.Service(etc); name != "" {
		t.Errorf("got %q for another directory", name)
	}
}

// testForeignServer takes the running server for somebody else's, then starts
// one by hand.
func testForeignServer(t *testing.T, s *pgctl.Server, g *guard.Client) {
	t.Helper()
	ctx := context30(t)
	if pid, err := s.ForeignPostmaster(); err != nil || pid != 0 {
		t.Errorf("our own server: %d, %v", pid, err)
	}
	if err := s.RemoveStalePermit(); err != nil || read(t, filepath.Join(s.RunDir, "permit.conf")) == "" {
		t.Errorf("permit of a running server: %v", err)
	}
	if err := s.Permit(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if pid, err := s.ForeignPostmaster(); !errors.Is(err, pgctl.ErrForeignServer) || pid != g.PostmasterPID() {
		t.Errorf("foreign server: %d, %v", pid, err)
	}
	other := elsewhere(s)
	other.DataDir = filepath.Join(filepath.Dir(s.DataDir), "none")
	if _, err := other.ForeignPostmaster(); !errors.Is(err, pgctl.ErrPortTaken) {
		t.Errorf("port in use: %v", err)
	}
	stop, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if err := g.Stop(stop, guard.Immediate); err != nil {
		t.Fatal(err)
	}
	if err := s.RemoveStalePermit(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(s.RunDir, "permit.conf")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stale permit: %v", err)
	}
	c := pgtest.Cluster{Bin: s.BinDir, Socket: s.SocketDir, Port: s.Port}
	out, err := c.Command(t, "postgres", "-D", s.DataDir, "-k", s.SocketDir, "-p", strconv.Itoa(s.Port)).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "permit.conf") {
		t.Errorf("start by hand: %v\n%s", err, out)
	}
}

func TestServer_ConfigureReplacesAnotherNodesTraces(t *testing.T) {
	s := fake(t, "work_mem = 1MB\n# understudy begin: managed, do not edit\ninclude '/elsewhere/postgresql.understudy.conf'\n# understudy end\nport = 1\n",
		"# Do not edit\nsynchronous_standby_names = 'x'\nwork_mem = '2MB'\nprimary_conninfo = 'host=a'\nrecovery_target_lsn = '0/1'\nrestore_command = 'false'\n")
	ctx := context30(t)
	m := pgctl.Mode{SyncName: pgctl.NoSyncName, PrimaryConninfo: "host=/it's", RestoreCommand: `cp \x`}
	for range 2 { // a second time changes nothing
		if err := s.Configure(ctx, m); err != nil {
			t.Fatal(err)
		}
		want := "work_mem = 1MB\nport = 1\n\n# understudy begin: managed, do not edit\ninclude '" + s.StateDir + "/postgresql.understudy.conf'\n# understudy end\n"
		if got := read(t, filepath.Join(s.DataDir, "postgresql.conf")); got != want {
			t.Errorf("postgresql.conf:\n%s\nwant:\n%s", got, want)
		}
		if got := read(t, filepath.Join(s.DataDir, "postgresql.auto.conf")); got != "# Do not edit\nwork_mem = '2MB'\n" {
			t.Errorf("postgresql.auto.conf:\n%s", got)
		}
	}
	conf := read(t, filepath.Join(s.StateDir, "postgresql.understudy.conf"))
	for _, want := range []string{"primary_conninfo = 'host=/it''s'\n", `restore_command = 'cp \\x'`, `synchronous_standby_names = 'FIRST 1 ("understudy_none")'`} {
		if !strings.Contains(conf, want) {
			t.Errorf("no %s in:\n%s", want, conf)
		}
	}
	if !strings.HasSuffix(conf, "include '"+s.RunDir+"/permit.conf'\n") {
		t.Errorf("the permit is not last:\n%s", conf)
	}
	signal := filepath.Join(s.DataDir, "standby.signal")
	if _, err := os.Stat(signal); err != nil {
		t.Error(err)
	}
	if err := s.Configure(ctx, pgctl.Mode{Primary: true, SyncName: "understudy_1_1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(signal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("primary has standby.signal: %v", err)
	}
}

func TestServer_ConfigureRefuses(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*pgctl.Server, *pgctl.Mode)
		want   string
	}{
		"NoSyncName":     {func(_ *pgctl.Server, m *pgctl.Mode) { m.SyncName = "" }, "needs a synchronous standby name"},
		"BadSyncName":    {func(_ *pgctl.Server, m *pgctl.Mode) { m.SyncName = `a"b` }, "only letters"},
		"BadSetting":     {func(s *pgctl.Server, _ *pgctl.Mode) { s.Parameters = map[string]string{"a\nb": "1"} }, "not the name"},
		"BreakInSetting": {func(s *pgctl.Server, _ *pgctl.Mode) { s.Parameters = map[string]string{"a": "1\nfsync=off"} }, "line breaks"},
		"BreakInAccess":  {func(s *pgctl.Server, _ *pgctl.Mode) { s.ClientHBA = []string{"a\nb"} }, "one pg_hba line each"},
		"LongSocket":     {func(s *pgctl.Server, _ *pgctl.Mode) { s.SocketDir += strings.Repeat("x", 90) }, "at most 107"},
		"OtherMajor":     {func(s *pgctl.Server, _ *pgctl.Mode) { s.Major++ }, "was made by PostgreSQL"},
		"MarkedPrimary": {func(s *pgctl.Server, m *pgctl.Mode) {
			m.Primary = true
			s.Mark(pgctl.Rewinding)
		}, `state "rewinding"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := fake(t, "", "")
			m := pgctl.Mode{SyncName: pgctl.NoSyncName}
			tt.change(s, &m)
			if err := s.Configure(context30(t), m); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestServer_State(t *testing.T) {
	s := newServer(t)
	check := func(want pgctl.DirState) {
		t.Helper()
		if got, err := s.State(); err != nil || got != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
	check(pgctl.Empty)
	write(t, filepath.Join(s.DataDir, "notes.txt"), "x")
	check(pgctl.Foreign)
	write(t, filepath.Join(s.DataDir, "PG_VERSION"), "15\n")
	check(pgctl.Cluster)
	for _, mark := range []pgctl.DirState{pgctl.Seeding, pgctl.Rewinding} {
		if err := s.Mark(mark); err != nil {
			t.Fatal(err)
		}
		check(mark)
		if err := s.ClearMark(); err != nil {
			t.Fatal(err)
		}
	}
	check(pgctl.Cluster)
}

func TestServer_ArgsRaiseNeverLower(t *testing.T) {
	s := fake(t, "wal_level = logical # for cdc\ninclude_if_exists 'extra.conf'\nmax_locks_per_transaction = 200\n", "max_connections = '300'\n")
	write(t, filepath.Join(s.DataDir, "extra.conf"), "max_worker_processes=20\n")
	m := pgctl.Mode{SyncName: pgctl.NoSyncName, MinSettings: map[string]int{"max_connections": 250, "max_worker_processes": 32, "max_locks_per_transaction": 100}}
	args := strings.Join(s.Args(m), " ")
	for _, want := range []string{"wal_level=logical", "max_worker_processes=32", "max_wal_senders=14", "wal_log_hints=on", "fsync=on"} {
		if !strings.Contains(args, "-c "+want) {
			t.Errorf("no %s in %s", want, args)
		}
	}
	for _, not := range []string{"max_connections", "max_locks_per_transaction", "idle_replication_slot_timeout"} {
		if strings.Contains(args, not) && s.Major < 18 {
			t.Errorf("%s is forced: %s", not, args)
		}
	}
	s.Major = 18
	if args := strings.Join(s.Args(m), " "); !strings.Contains(args, "-c idle_replication_slot_timeout=0") {
		t.Errorf("18: %s", args)
	}
}

func TestFind_Errors(t *testing.T) {
	if _, err := pgctl.Find(t.TempDir()); !errors.Is(err, pgctl.ErrNotInstalled) || !strings.Contains(err.Error(), "bin_dir") {
		t.Errorf("got %v", err)
	}
	for out, want := range map[string]string{"postgres (PostgreSQL) 12.4": "too old", "mysqld 8": "printed"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho '"+out+"'\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if _, err := pgctl.Find(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", out, err)
		}
	}
}

func TestFindMajor(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "postgres"), []byte("#!/bin/sh\necho 'postgres (PostgreSQL) 97.1'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	if in, ok := pgctl.FindMajor(97); !ok || in.BinDir != dir || in.Version != "97.1" {
		t.Errorf("97: %+v, %v", in, ok)
	}
	if in, ok := pgctl.FindMajor(96); ok {
		t.Errorf("96: %+v", in)
	}
}

// TestServer_ControlDamaged asks the installed tool, whose words for it are not
// the same in all versions, and not in the same place.
func TestServer_ControlDamaged(t *testing.T) {
	c := pgtest.Init(t)
	s := newServer(t)
	s.DataDir = c.Data
	if _, err := s.Control(context30(t)); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(c.Data, "global", "pg_control"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("xxxx"), 100); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Control(context30(t)); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
}

func TestResolveAccount_RefusesRoot(t *testing.T) {
	if _, err := pgctl.ResolveAccount("root"); err == nil {
		t.Error("root was accepted")
	}
	if _, err := pgctl.ResolveAccount("no-such-user-here"); err == nil {
		t.Error("an unknown user was accepted")
	}
}

// elsewhere is s, with connections of its own.
func elsewhere(s *pgctl.Server) *pgctl.Server {
	return &pgctl.Server{Install: s.Install, Account: s.Account, DataDir: s.DataDir, StateDir: s.StateDir, RunDir: s.RunDir, SocketDir: s.SocketDir,
		ClientSocketDir: s.ClientSocketDir, Port: s.Port, Listen: s.Listen, ClientHBA: s.ClientHBA, Parameters: s.Parameters, LogFile: s.LogFile, Log: s.Log}
}
