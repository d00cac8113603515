package adopt_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"understudy/cmd/internal/adopt"
	"understudy/configs"
	"understudy/failover/pgctl"
	"understudy/shipper/spool"
	"understudy/standby/restore"
	"understudy/test/pgtest"
)

// stopped is a database of somebody's, stopped in the regular way, and the node
// that is to have it.
type stopped struct {
	*pgtest.Cluster
	dir string
	cfg *configs.Node
	s   *pgctl.Server
}

func newStopped(t *testing.T) *stopped {
	t.Helper()
	x := &stopped{Cluster: pgtest.Init(t, "--data-checksums"), dir: pgtest.Dir(t)}
	text := fmt.Sprintf("name: main\ngroup: shop\nstate_dir: %s/state\nrun_dir: %[1]s/run\npostgresql:\n  bin_dir: %s\n  data_dir: %s\n  port: %d\n  listen: [127.0.0.1]\n",
		x.dir, x.Bin, x.Data, x.Port)
	cfg, err := configs.Parse(filepath.Join(x.dir, "understudy.yaml"), []byte(text), configs.Host{Root: os.Geteuid() == 0, Name: "h", RuntimeDir: x.dir})
	if err != nil {
		t.Fatal(err)
	}
	in, err := pgctl.Find(x.Bin)
	if err != nil {
		t.Fatal(err)
	}
	account := ""
	if os.Geteuid() == 0 {
		account = cfg.PostgreSQL.Account
	}
	acc, err := pgctl.ResolveAccount(account)
	if err != nil {
		t.Fatal(err)
	}
	x.cfg = cfg
	x.s = &pgctl.Server{Install: in, Account: acc, DataDir: x.Data, StateDir: filepath.Join(cfg.StateDir, "postgresql"), RunDir: cfg.RunDir,
		SocketDir: cfg.PGSocketDir(), Port: x.Port, Listen: cfg.PostgreSQL.Listen, ClientHBA: cfg.PostgreSQL.ClientHBA, Log: slog.New(slog.DiscardHandler)}
	return x
}

func (x *stopped) look(o adopt.Options) (adopt.Plan, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return adopt.Look(ctx, x.cfg, x.s, o)
}

// put writes a file of the data directory for one subtest.
func (x *stopped) put(t *testing.T, name, text string) {
	t.Helper()
	path := filepath.Join(x.Data, name)
	old, err := os.ReadFile(path)
	had := err == nil
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, path)
	t.Cleanup(func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
		if had {
			if err := os.WriteFile(path, old, 0o600); err != nil {
				t.Error(err)
			}
			pgtest.Own(t, path)
		}
	})
}

// with adds lines to a file of the data directory for one subtest.
func (x *stopped) with(t *testing.T, name, lines string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(x.Data, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	x.put(t, name, string(b)+lines)
}

// away takes a file of the data directory away for one subtest.
func (x *stopped) away(t *testing.T, name string) {
	t.Helper()
	path := filepath.Join(x.Data, name)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Rename(path+".away", path); err != nil {
			t.Error(err)
		}
	})
}

// picture is all that lies in a directory.
func picture(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err == nil {
			fmt.Fprintf(&b, "%s %s %d %d\n", p, fi.Mode(), fi.Size(), fi.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// otherNode makes the directory one of a node whose state is on this machine.
func (x *stopped) otherNode(t *testing.T) {
	t.Helper()
	state := filepath.Join(pgtest.Dir(t), "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		t.Fatal(err)
	}
	sp, err := spool.Create(spool.Config{Dir: filepath.Join(state, "spool"), Log: slog.New(slog.DiscardHandler)}, "store", "othergroup")
	if err != nil {
		t.Fatal(err)
	}
	sp.Close()
	x.with(t, "postgresql.conf", "# understudy begin: managed, do not edit\ninclude '"+state+"/postgresql/postgresql.understudy.conf'\n# understudy end\n")
}

func TestLook_Refused(t *testing.T) {
	x := newStopped(t)
	aside := pgtest.Dir(t)
	segment := ""
	if c, err := x.s.Control(context.Background()); err != nil {
		t.Fatal(err)
	} else {
		segment = fmt.Sprintf("pg_wal/%08X%08X%08X", uint32(c.Timeline), 0, uint64(c.Redo)/uint64(c.SegSize))
	}
	for name, tt := range map[string]struct {
		spoil func(*testing.T)
		want  []string
	}{
		"Empty":           {func(t *testing.T) { x.at(t, filepath.Join(aside, "none")) }, []string{"is empty", "without --adopt"}},
		"NoDatabase":      {func(t *testing.T) { x.away(t, "PG_VERSION") }, []string{"holds no PostgreSQL database"}},
		"OtherMajor":      {func(t *testing.T) { x.put(t, "PG_VERSION", "9\n") }, []string{"PostgreSQL 9", "bin_dir"}},
		"HalfSeed":        {func(t *testing.T) { x.put(t, restore.MarkName, "") }, []string{"never recovered"}},
		"BackupLabel":     {func(t *testing.T) { x.put(t, "backup_label", "START") }, []string{"backup_label", "understudy restore"}},
		"Standby":         {func(t *testing.T) { x.put(t, "standby.signal", "") }, []string{"standby.signal", "pg_ctl promote"}},
		"Recovery":        {func(t *testing.T) { x.put(t, "recovery.signal", "") }, []string{"recovery.signal"}},
		"LogIsGone":       {func(t *testing.T) { x.away(t, segment) }, []string{filepath.Base(segment), "pg_wal"}},
		"History":         {func(t *testing.T) { x.put(t, "pg_wal/00000001.history", "garbage") }, []string{"history of timeline 1"}},
		"NoConfiguration": {func(t *testing.T) { x.away(t, "postgresql.conf") }, []string{"has no postgresql.conf"}},
		"DataElsewhere":   {func(t *testing.T) { x.with(t, "postgresql.conf", "data_directory = '/srv/pg'\n") }, []string{"/srv/pg", "data_directory"}},
		"ArchivedByOthers": {func(t *testing.T) {
			x.with(t, "postgresql.auto.conf", "archive_mode = 'on'\narchive_command = 'pgbackrest x %p'\n")
		}, []string{"--keep-archiving"}},
		"RecoveryTarget": {func(t *testing.T) { x.with(t, "postgresql.conf", "recovery_target_time = '2026-01-01 00:00:00'\n") }, []string{"recovery_target_time", "take it out"}},
		"OpenToOthers": {func(t *testing.T) {
			os.Chmod(x.Data, 0o755)
			t.Cleanup(func() { os.Chmod(x.Data, 0o700) })
		}, []string{"chmod 700"}},
		"TablespaceIsGone": {func(t *testing.T) {
			path := filepath.Join(x.Data, "pg_tblspc", "16400")
			if err := os.Symlink(filepath.Join(aside, "gone"), path); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { os.Remove(path) })
		}, []string{"tablespace 16400", "gone"}},
		"RestoreStopped": {func(t *testing.T) {
			x.put(t, "understudy.restore", `{"plan":{"version":1,"aim":{"action":"shutdown"}},"step":"finished"}`)
		}, []string{"--promote"}},
		"RestoreInterrupted": {func(t *testing.T) { x.put(t, "understudy.restore", `{"plan":{"version":1},"step":"files"}`) }, []string{"repeat its command"}},
		"NodeOfAGroup":       {x.otherNode, []string{"group othergroup", "move"}},
		"PortTaken": {func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(x.Port))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
		}, []string{"port", strconv.Itoa(x.Port)}},
		"BeingSeeded": {func(t *testing.T) {
			if err := x.s.Mark(pgctl.Seeding); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { x.s.ClearMark() })
		}, []string{"seeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.spoil(t)
			x.refused(t, tt.want...)
		})
	}
	if os.Geteuid() == 0 {
		t.Run("OwnedByAnother", func(t *testing.T) {
			for _, path := range []string{x.Data, filepath.Join(x.Data, "global", "pg_control")} {
				if err := os.Chown(path, 0, 0); err != nil {
					t.Fatal(err)
				}
				x.refused(t, "belongs to user id 0", "chown -R")
				pgtest.Own(t, path)
			}
		})
	}
	if _, err := x.look(adopt.Options{}); err != nil {
		t.Errorf("after all of it: %v", err)
	}
}

// at looks at another data directory for one subtest.
func (x *stopped) at(t *testing.T, dir string) {
	was := x.s.DataDir
	x.s.DataDir = dir
	t.Cleanup(func() { x.s.DataDir = was })
}

// refused wants one sentence that says all that, and nothing changed.
func (x *stopped) refused(t *testing.T, want ...string) {
	t.Helper()
	before := picture(t, x.Data) + picture(t, x.dir)
	p, err := x.look(adopt.Options{})
	if !errors.Is(err, adopt.ErrRefused) {
		t.Fatalf("got %+v, %v", p, err)
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	if now := picture(t, x.Data) + picture(t, x.dir); now != before {
		t.Error("something was changed")
	}
}

// TestLook_ARunningOneAndACrashedOne: only a regular stop leaves a database that
// says where its log ends.
func TestLook_ARunningOneAndACrashedOne(t *testing.T) {
	x := newStopped(t)
	x.Start(t)
	x.Exec(t, "create table t (i int)")
	x.refused(t, "runs on", "pg_ctl stop")
	x.Crash()
	x.refused(t, "not stopped in the regular way")
	x.Start(t)
	x.Stop(syscall.SIGINT)
	if _, err := x.look(adopt.Options{}); err != nil {
		t.Error(err)
	}
}

// TestLook_Plan: what is said of a database that can be taken.
func TestLook_Plan(t *testing.T) {
	x := newStopped(t)
	space := pgtest.Dir(t)
	if err := os.Symlink(space, filepath.Join(x.Data, "pg_tblspc", "16400")); err != nil {
		t.Fatal(err)
	}
	slot := filepath.Join(x.Data, "pg_replslot", "oldstandby")
	if err := os.Mkdir(slot, 0o700); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, slot)
	x.with(t, "postgresql.auto.conf", "archive_mode = 'on'\narchive_command = 'copy %p'\nprimary_conninfo = 'host=old'\nwork_mem = '9MB'\n")
	c, err := x.s.Control(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	before := picture(t, x.Data)
	p, err := x.look(adopt.Options{KeepArchiving: true})
	if err != nil {
		t.Fatal(err)
	}
	if p.SystemID != c.SystemID || p.StoppedAt != c.Checkpoint || p.Timeline != 1 || !p.Checksums || p.Bytes < 10<<20 || p.FileN < 500 || len(p.Lineage) != 0 || len(p.Spaces) != 1 || p.Spaces[0] != space {
		t.Errorf("plan %+v", p)
	}
	all := strings.Join(append(append(p.Changes, p.Kept...), p.Notes...), "\n")
	for _, want := range []string{"primary_conninfo", "oldstandby", "copy %p", "pg_hba.conf", "postgres, who must exist", "scram-sha-256"} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not said:\n%s", want, all)
		}
	}
	if now := picture(t, x.Data); now != before {
		t.Error("something was changed")
	}
}

func TestDisabled(t *testing.T) {
	for text, want := range map[string]bool{
		"disabled\n": true, "# auto, manual or disabled\n\n disabled # by us\n": true,
		"auto\n": false, "manual\n": false, "# disabled\nauto\n": false, "": false,
	} {
		dir := t.TempDir()
		if adopt.Disabled(dir) {
			t.Error("disabled without a word")
		}
		if err := os.WriteFile(filepath.Join(dir, "start.conf"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := adopt.Disabled(dir); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}
