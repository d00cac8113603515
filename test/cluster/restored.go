package cluster

import (
	"context"
	_ "embed" // the script
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/test/pgtest"
)

//go:embed restore.sh
var restoreScript string

// restoreWithin bounds a restore with stock tools.
const restoreWithin = 60 * time.Second

// Restored is a server that was made from a backup with stock tools.
type Restored struct {
	Dir string
	bin string
}

// Restore restores a set from the location alone, with nothing but tar, zstd and
// PostgreSQL, and returns the server. Settings are those of a recovery target,
// such as "recovery_target_time=..."; without them all log is replayed.
func (p *Place) Restore(t testing.TB, label string, settings ...string) *Restored {
	t.Helper()
	r, err := p.TryRestore(t, label, settings...)
	if err != nil {
		t.Fatalf("restore %s from %s with stock tools: %v", label, p.Name, err)
	}
	return r
}

// TryRestore is Restore with an error for the caller.
func (p *Place) TryRestore(t testing.TB, label string, settings ...string) (*Restored, error) {
	t.Helper()
	r := &Restored{Dir: filepath.Join(pgtest.Dir(t), "r"), bin: pgtest.BinDir(t)}
	t.Cleanup(func() { r.Stop(t) })
	script := r.Dir + ".sh"
	if err := os.WriteFile(script, []byte(restoreScript), 0o755); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), restoreWithin)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", append([]string{script, p.Folder(), label, r.Dir}, settings...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", "PG="+r.bin)
	if c := pgtest.Credential(t); c != nil {
		cmd.Env = append(cmd.Env, fmt.Sprintf("AS=%d", c.Uid))
	}
	// Not by pipes: the server would keep them open.
	log := r.Dir + ".script"
	f, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Run(); err != nil {
		out, _ := os.ReadFile(log)
		return nil, fmt.Errorf("%w\n%s", err, tail(string(out), 30))
	}
	return r, nil
}

// Open starts the server of a directory that is whole, with nothing of the
// configuration in it.
func Open(t testing.TB, dir string) *Restored {
	t.Helper()
	r := &Restored{Dir: dir, bin: pgtest.BinDir(t)}
	conf, hba := dir+".conf", dir+".hba"
	text := fmt.Sprintf("listen_addresses = ''\nunix_socket_directories = '%s'\nhba_file = '%s'\nfsync = off\nshared_buffers = 16MB\n", dir, hba)
	if err := errors.Join(os.WriteFile(conf, []byte(text), 0o644), os.WriteFile(hba, []byte("local all all trust\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Stop(t) })
	out, err := r.control(t, "start", "-l", filepath.Join(dir, "log"), "-o", "-c config_file="+conf).CombinedOutput()
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log"))
		t.Fatalf("start the restored server: %v\n%s\n%s", err, out, tail(string(log), 30))
	}
	return r
}

func (r *Restored) control(t testing.TB, what string, args ...string) *exec.Cmd {
	c := pgtest.Cluster{Bin: r.bin, Socket: r.Dir, Port: 5432} // of the socket's name only
	return c.Command(t, "pg_ctl", append([]string{what, "-s", "-w", "-D", r.Dir}, args...)...)
}

// Query runs SQL on the server and returns the first column of the first row.
func (r *Restored) Query(t testing.TB, sql string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, "host="+r.Dir+" user=postgres dbname=postgres sslmode=disable")
	if err != nil {
		t.Fatalf("connect to the restored server: %v", err)
	}
	defer c.Close(ctx)
	var s string
	if err := c.QueryRow(ctx, "select ("+sql+")::text").Scan(&s); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return s
}

// Stop ends the server and removes its files.
func (r *Restored) Stop(t testing.TB) {
	if _, err := os.Stat(filepath.Join(r.Dir, "postmaster.pid")); err == nil {
		if out, err := r.control(t, "stop", "-m", "immediate").CombinedOutput(); err != nil {
			t.Errorf("stop the restored server: %v\n%s", err, out)
		}
	}
	os.RemoveAll(filepath.Dir(r.Dir))
}
