package pgbackrest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"understudy/test/bench/internal/pg"
)

func TestTool_Config(t *testing.T) {
	tools := &pg.Tools{}
	x := &Tool{path: "/usr/bin/pgbackrest", dir: "/x/rest", tools: tools}
	got := x.text(tools.At("/x/main", 5433), 2)
	for _, want := range []string{"[global]\n", "repo1-path=/x/rest/repo\n", "compress-type=zst\n", "compress-level=3\n", "process-max=2\n", "start-fast=y\n", "checksum-page=y\n",
		"archive-async=y\n", "[bench]\npg1-path=/x/main/data\npg1-port=5433\npg1-socket-path=/x/main\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
}

func TestTool_SetAndLog(t *testing.T) {
	x := &Tool{path: "pgbackrest", dir: t.TempDir()}
	put := func(size int, name ...string) {
		t.Helper()
		path := filepath.Join(append([]string{x.dir}, name...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := x.Set(); err == nil {
		t.Error("a backup was found where there is no repository")
	}
	put(5, "repo", "backup", "bench", "backup.info")
	put(5, "repo", "backup", "bench", "backup.history", "2026", "a")
	if _, err := x.Set(); err == nil {
		t.Error("a backup was found where there is none")
	}
	put(7, "repo", "backup", "bench", "20261122-101039F", "pg_data", "a")
	put(8, "repo", "backup", "bench", "20261122-101039F", "b")
	dir, err := x.Set()
	if err != nil || filepath.Base(dir) != "20261122-101039F" {
		t.Fatalf("got %s, %v", dir, err)
	}
	if n, err := Size(dir); n != 15 || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	put(1, "repo", "archive", "bench", "archive.info")
	put(1, "repo", "archive", "bench", "15-1", "0000000100000000", "x.zst")
	put(1, "spool", "archive", "bench", "out", "x.ok")
	if err := x.EmptyLog(); err != nil {
		t.Fatal(err)
	}
	if n, err := Size(x.Log()); n != 1 || err != nil {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	put(1, "spool", "archive", "bench", "in", "x")
	command, err := x.GetCommand("/x/redo/data")
	if want := `pgbackrest --config=` + x.dir + `/pgbackrest.conf --stanza=bench --pg1-path=/x/redo/data archive-get %f "%p"`; command != want || err != nil {
		t.Errorf("got %q, %v", command, err)
	}
	if n, err := Size(x.spool()); n != 0 || err != nil {
		t.Errorf("%d bytes are left, %v", n, err)
	}
	put(1, "repo", "backup", "bench", "20261122-101040F", "b")
	if _, err := x.Set(); err == nil {
		t.Error("two backups are taken for one")
	}
}
