package pgctl_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
)

// TestServer_ConfigurationFromElsewhere: a database whose configuration the
// distribution keeps outside of the data directory gets it inside.
func TestServer_ConfigurationFromElsewhere(t *testing.T) {
	etc := t.TempDir()
	s := fake(t, "", "")
	if err := os.Remove(filepath.Join(s.DataDir, "postgresql.conf")); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(etc, "15", "main", "postgresql.conf")
	if err := os.MkdirAll(filepath.Join(filepath.Dir(conf), "conf.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, conf, "data_directory = '"+s.DataDir+"'\nhba_file = '/etc/x'\nident_file='/etc/y'\nexternal_pid_file = '/run/z'\n"+
		"max_connections = 77 # ours\ninclude_dir 'conf.d'\ninclude_if_exists '/abs/local.conf'\n# include 'no'\n")
	write(t, filepath.Join(filepath.Dir(conf), "conf.d", "a.conf"), "work_mem = '7MB'\n")
	if got := pgctl.ConfigFileIn(s, etc); got != conf {
		t.Fatalf("the configuration is %q, want %q", got, conf)
	}
	if err := s.TakeConfig(conf); err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(s.DataDir, "postgresql.conf")
	if got := pgctl.ConfigFileIn(s, etc); got != own {
		t.Errorf("the configuration is %q, want %q", got, own)
	}
	text := read(t, own)
	for _, want := range []string{"\n# not here: data_directory", "\n# not here: hba_file", "\n# not here: ident_file", "\n# not here: external_pid_file",
		"\nmax_connections = 77 # ours\n", "\ninclude_dir '" + filepath.Dir(conf) + "/conf.d'\n", "\ninclude_if_exists '/abs/local.conf'\n", "\n# include 'no'\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	set := s.OperatorSettings()
	if set["max_connections"] != "77" || set["work_mem"] != "7MB" || set["data_directory"] != "" {
		t.Errorf("settings %v", set)
	}
}

func TestServer_ManagedBy(t *testing.T) {
	for text, want := range map[string]string{
		"":                     "",
		"include 'own.conf'\n": "",
		"a = 1\n# understudy begin: managed, do not edit\ninclude '/var/lib/u/postgresql/x.conf'\n# understudy end\ninclude 'later.conf'\n": "/var/lib/u/postgresql/x.conf",
	} {
		s := fake(t, "", "")
		write(t, filepath.Join(s.DataDir, "postgresql.conf"), text)
		if got := s.ManagedBy(); got != want {
			t.Errorf("%q is managed by %q, want %q", text, got, want)
		}
	}
}

func TestServer_Overruled(t *testing.T) {
	s := fake(t, "", "")
	write(t, filepath.Join(s.DataDir, "postgresql.auto.conf"), "primary_conninfo = 'host=old'\nwork_mem = '4MB'\nsynchronous_standby_names = ''\nrecovery_target_time = '2026-01-01'\n")
	if d := cmp.Diff([]string{"primary_conninfo", "recovery_target_time"}, s.Overruled()); d != "" {
		t.Error(d)
	}
}

func TestServer_History(t *testing.T) {
	s := fake(t, "", "")
	dir := filepath.Join(s.DataDir, "pg_wal")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "00000003.history"), "1\t0/3000148\tx\n2\t0/5000000\ty\n")
	write(t, filepath.Join(dir, "00000004.history"), "garbage")
	write(t, filepath.Join(dir, "00000005.history"), "9\t0/3000148\tx\n")
	lines, err := s.History(3)
	if err != nil || len(lines) != 2 || lines[1].Timeline != 2 || lines[1].End != 0x5000000 {
		t.Errorf("got %v, %v", lines, err)
	}
	if lines, err := s.History(1); err != nil || len(lines) != 0 {
		t.Errorf("of a first timeline: %v, %v", lines, err)
	}
	for _, bad := range []pos.Timeline{4, 5} {
		if lines, err := s.History(bad); err == nil {
			t.Errorf("timeline %d: %v", bad, lines)
		}
	}
}

// TestServer_AmendFounding: a superuser of another name, as long as nobody has
// made the daemon's own role.
func TestServer_AmendFounding(t *testing.T) {
	s := fake(t, "", "")
	mark := filepath.Join(s.StateDir, "founding")
	if err := s.AmendFounding("chief"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a founding began by being amended")
	}
	for _, name := range []string{"postgres", "chief"} {
		if err := errors.Join(s.Founding("postgres"), s.AmendFounding(name)); err != nil {
			t.Fatal(err)
		}
		if got := read(t, mark); got != name+"\n" {
			t.Errorf("the founder is %q, want %s", got, name)
		}
	}
	if err := s.AmendFounding("no such name"); err == nil {
		t.Error("taken")
	}
}
