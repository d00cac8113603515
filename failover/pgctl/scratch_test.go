package pgctl_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"understudy/failover/pgctl"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

// scratchOf is a Scratch on a stopped cluster of a test.
func scratchOf(t *testing.T, c *pgtest.Cluster) *pgctl.Scratch {
	t.Helper()
	in, err := pgctl.Find(c.Bin)
	if err != nil {
		t.Fatal(err)
	}
	a, err := pgctl.ResolveAccount("")
	if err != nil {
		t.Fatal(err)
	}
	d := pgtest.Dir(t)
	s := &pgctl.Scratch{Install: in, Account: a, DataDir: c.Data, SocketDir: filepath.Join(d, "s"), Port: 5432, LogFile: filepath.Join(d, "log"),
		Settings: map[string]string{"shared_buffers": "16MB", "fsync": "off"}}
	t.Cleanup(func() { s.Stop(context.Background()) })
	return s
}

func TestScratch_RenewMakesAnotherDatabase(t *testing.T) {
	// Nothing of the directory's own configuration may count.
	c := pgtest.Init(t, "max_connections=11", "shared_preload_libraries=no_such_library", "ssl=on", "unix_socket_directories=/nowhere")
	ctx := context.Background()
	s := scratchOf(t, c)
	r, err := s.Recover(ctx, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Timeline != 1 || r.LSN == 0 || r.Stop != "" {
		t.Errorf("nothing to recover: %+v", r)
	}
	if err := s.Renew(ctx, 7); err == nil || !strings.Contains(err.Error(), "runs") {
		t.Errorf("renew a running database: %v", err)
	}
	if err := s.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	const id = 7_234_567_890_123_456_789
	for range 2 { // as after a crash
		if err := s.Renew(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if out := c.Tool(t, "pg_controldata", "-D", c.Data); !strings.Contains(out, "7234567890123456789") || strings.Contains(out, "WARNING") {
		t.Errorf("pg_controldata:\n%s", out)
	}
	if _, err := s.Recover(ctx, nil, nil); err != nil {
		t.Fatal(err)
	}
	syscall.Kill(postmaster(t, c.Data), syscall.SIGQUIT)
	pgtest.Eventually(t, 10*time.Second, "the server has ended", func() bool { return !s.Running() })
	if err := s.Renew(ctx, id+1); err == nil || !strings.Contains(err.Error(), "not shut down cleanly") {
		t.Errorf("renew a crashed database: %v", err)
	}
	if _, err := s.Recover(ctx, nil, nil); err != nil { // its own log has the new identifier
		t.Fatal(err)
	}
}

func postmaster(t *testing.T, data string) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range strings.SplitN(string(b), "\n", 2)[0] {
		n = 10*n + int(d-'0')
	}
	return n
}

func TestScratch_NoProgress(t *testing.T) {
	c := pgtest.Init(t)
	if err := os.WriteFile(filepath.Join(c.Data, "recovery.signal"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	s := scratchOf(t, c)
	s.Patience = 500 * time.Millisecond
	waits := map[string]string{"restore_command": "sleep 60", "recovery_target_timeline": "1"}
	began := time.Now()
	_, err := s.Recover(context.Background(), waits, nil)
	if !errors.Is(err, pgctl.ErrNoProgress) || s.Running() || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %v, runs %v", time.Since(began), err, s.Running())
	}
	// Log on its way counts as progress; the caller's end does not wait for it.
	var n atomic.Uint64
	s.Alive = func() uint64 { return n.Add(1) }
	ctx, cancel := context.WithTimeoutCause(context.Background(), 1500*time.Millisecond, errors.New("enough"))
	defer cancel()
	if _, err := s.Recover(ctx, waits, nil); err == nil || !strings.Contains(err.Error(), "enough") || s.Running() {
		t.Errorf("cancelled: %v, runs %v", err, s.Running())
	}
}

func TestScratch_BadStart(t *testing.T) {
	c := pgtest.Init(t)
	s := scratchOf(t, c)
	s.Settings = map[string]string{"no_such_setting": "1"}
	if _, err := s.Recover(context.Background(), nil, nil); err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("error %v", err)
	}
	s.SocketDir = strings.Repeat("/x", 60)
	if err := s.Start(context.Background(), nil); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("error %v", err)
	}
}

func TestInstall_Build(t *testing.T) {
	c := pgtest.Init(t)
	s := scratchOf(t, c)
	b, err := s.Install.Build(context.Background(), s.Account)
	if err != nil {
		t.Fatal(err)
	}
	out := c.Tool(t, "pg_controldata", "-D", c.Data)
	for _, want := range []string{"Catalog version number", "Database block size"} {
		for line := range strings.Lines(out) {
			k, v, _ := strings.Cut(line, ":")
			if k != want {
				continue
			}
			got := map[string]int{"Catalog version number": int(b.CatalogVersion), "Database block size": b.BlockSize}[want]
			if n := atoi(strings.TrimSpace(v)); n != got {
				t.Errorf("%s: %d, pg_controldata says %d", want, got, n)
			}
		}
	}
}

func atoi(s string) (n int) {
	for _, d := range s {
		n = 10*n + int(d-'0')
	}
	return n
}

func TestWithSystemID(t *testing.T) {
	c := pgtest.Init(t)
	old, err := os.ReadFile(filepath.Join(c.Data, "global", "pg_control"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := pgctl.WithSystemID(old, 42)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != len(old) || binary.NativeEndian.Uint64(b) != 42 {
		t.Errorf("%d bytes, system id %d", len(b), binary.NativeEndian.Uint64(b))
	}
	back, err := pgctl.WithSystemID(b, binary.NativeEndian.Uint64(old))
	if err != nil || !bytes.Equal(back, old) {
		t.Errorf("there and back again: %v, equal %v", err, bytes.Equal(back, old))
	}
	for _, at := range []int{0, 9, 100, 250} {
		bad := bytes.Clone(old)
		bad[at] ^= 1
		if _, err := pgctl.WithSystemID(bad, 42); !errors.Is(err, pgctl.ErrControl) {
			t.Errorf("byte %d flipped: %v", at, err)
		}
	}
	for _, bad := range [][]byte{nil, old[:100], make([]byte, 8192), old[:250]} {
		if _, err := pgctl.WithSystemID(bad, 42); !errors.Is(err, pgctl.ErrControl) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	if _, err := pgctl.WithSystemID(old, 0); !errors.Is(err, pgctl.ErrControl) {
		t.Errorf("zero: %v", err)
	}
}

func TestRecoveryLog(t *testing.T) {
	const head = "LOG:  redo starts at 0/2000028\nLOG:  redo in progress, elapsed time: 1.00 s, current LSN: 0/3000100\n"
	for name, row := range map[string]struct {
		log    string
		open   bool
		want   error
		text   string
		at     pos.LSN
		stop   string
		stamp  time.Time
		halted bool
	}{
		"Running":    {log: head, at: 0x3000100},
		"Open":       {log: head + "LOG:  redo done at 0/3000200 system usage: CPU\nLOG:  selected new timeline ID: 5\nLOG:  database system is ready to accept connections\n", open: true, at: 0x3000200},
		"ReadOnly":   {log: head + "LOG:  database system is ready to accept read-only connections\n", at: 0x3000100},
		"Stop":       {log: "LOG:  recovery stopping before commit of transaction 9, time x\n", stop: "recovery stopping before commit of transaction 9, time x"},
		"Missed":     {log: head + "LOG:  last completed transaction was at log time 2026-11-22 09:37:34.7+00\nFATAL:  recovery ended before configured recovery target was reached\n", want: pgctl.ErrTargetMissed, at: 0x3000100, stamp: time.Date(2026, 11, 22, 9, 37, 34, 7e8, time.UTC)},
		"Early":      {log: "FATAL:  requested recovery stop point is before consistent recovery point\n", want: pgctl.ErrTargetMissed},
		"Missing":    {log: "FATAL:  WAL ends before end of online backup\n", want: pgctl.ErrLogMissing},
		"Checkpoint": {log: "PANIC:  could not locate required checkpoint record\nHINT:  x\n", want: pgctl.ErrLogMissing},
		"Timeline":   {log: "FATAL:  recovery target timeline 7 does not exist\n", want: pgctl.ErrLogMissing},
		"Command":    {log: "FATAL:  could not restore file \"0\" from archive: child process exited with exit code 130\n", want: pgctl.ErrLogMissing},
		"Detail":     {log: "FATAL:  bad thing\nDETAIL:  worse thing\n", text: "worse thing"},
		"Client":     {log: "FATAL:  the database system is starting up\n"},
		"First":      {log: "FATAL:  WAL ends before consistent recovery point\nFATAL:  other\n", want: pgctl.ErrLogMissing},
		"Halted":     {log: head + "LOG:  shutdown at recovery target\n", halted: true, at: 0x3000100},
		"Unfinished": {log: "FATAL:  recovery ended before configured recovery target was reached", want: pgctl.ErrTargetMissed},
		"Long":       {log: "LOG:  " + strings.Repeat("x", 1<<20) + "\n" + head, at: 0x3000100},
	} {
		t.Run(name, func(t *testing.T) {
			for _, size := range []int{1, 7, len(row.log)} {
				r := pgctl.NewRecoveryLog()
				for rest := []byte(row.log); len(rest) > 0; {
					n := min(size, len(rest))
					r.Write(rest[:n])
					rest = rest[n:]
				}
				open, halted, out, err := r.End()
				if open != row.open || halted != row.halted || out.LSN != row.at || out.Stop != row.stop || !out.Time.Equal(row.stamp) {
					t.Errorf("open %v, halted %v, %+v", open, halted, out)
				}
				if row.want != nil && !errors.Is(err, row.want) || row.want == nil && row.text == "" && err != nil || row.text != "" && (err == nil || !strings.Contains(err.Error(), row.text)) {
					t.Errorf("error %v", err)
				}
			}
		})
	}
}
