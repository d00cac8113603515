package group_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"understudy/configs"
	"understudy/test/bench/internal/group"
	"understudy/test/bench/internal/pg"
	"understudy/test/pgtest"
)

// The files of a group on hosts of its own are ones that the daemon takes, and
// every address in them is the host's.
func TestStartOn_FilesNameTheHosts(t *testing.T) {
	tools, err := pg.FindTools(pgtest.BinDir(t))
	if err != nil {
		t.Fatal(err)
	}
	dir, program := t.TempDir(), filepath.Join(t.TempDir(), "program")
	// Founds nothing, and keeps the file that a failed founding takes away.
	if err := os.WriteFile(program, []byte("#!/bin/sh\ncp \"$3\" \"$3.kept\"\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := map[string]group.Host{}
	for i, n := range group.Nodes {
		hosts[n] = group.Host{IP: net.IPv4(192, 0, 2, byte(1+i)).String(), Command: func(ctx context.Context, name string, args ...string) *exec.Cmd {
			t.Errorf("%s was started on %s", name, n)
			return exec.CommandContext(ctx, "false")
		}}
	}
	g, err := group.StartOn(t.Context(), program, dir, 7000, tools, hosts)
	if err == nil || g == nil {
		t.Fatalf("a group that was not founded has started: %v", err)
	}
	if got := g.Backup().Address(); got != "192.0.2.2:7002" {
		t.Errorf("backup's PostgreSQL is at %s", got)
	}
	for i, n := range group.Nodes {
		file := filepath.Join(dir, n, "understudy.yaml")
		if i == 0 {
			file += ".kept"
		}
		cfg, err := configs.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		ip := hosts[n].IP
		if cfg.Listen != net.JoinHostPort(ip, []string{"7021", "7022", "7023"}[i]) || cfg.Advertise != cfg.Listen || cfg.HTTP != net.JoinHostPort(ip, []string{"7011", "7012", "7013"}[i]) {
			t.Errorf("%s listens on %s, %s, %s", n, cfg.Listen, cfg.Advertise, cfg.HTTP)
		}
		if p := cfg.PostgreSQL; p != nil && (!slices.Equal(p.Listen, []string{ip}) || p.BinDir != tools.Bin) {
			t.Errorf("PostgreSQL of %s: %+v", n, p)
		}
		for _, p := range cfg.Peers {
			if host, _, err := net.SplitHostPort(p.Address); err != nil || host != hosts[p.Name].IP {
				t.Errorf("%s has its peer %s at %s", n, p.Name, p.Address)
			}
		}
	}
	if err := g.Stop(); err != nil {
		t.Error(err)
	}
}
