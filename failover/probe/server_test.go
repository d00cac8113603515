package probe_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"understudy/failover/probe"
	"understudy/test/pgtest"
)

// fakeConn answers each statement with the next of its errors, nil after the
// last.
type fakeConn struct{ errs *[]error }

func (f fakeConn) Exec(context.Context, string) error {
	if len(*f.errs) == 0 {
		return nil
	}
	err := (*f.errs)[0]
	*f.errs = (*f.errs)[1:]
	return err
}

func (fakeConn) Close() {}

func TestServer_Answers(t *testing.T) {
	sql := func(code, severity string) error {
		return fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: code, Severity: severity, Message: code})
	}
	for _, c := range []struct {
		name     string
		errs     []error
		want     probe.Kind
		connects int
	}{
		{"Answered", nil, "", 1},
		{"DiskFull", []error{sql("53100", "ERROR")}, probe.ServerError, 1},
		{"InputOutput", []error{sql("58030", "ERROR")}, probe.ServerError, 1},
		{"Corrupted", []error{sql("XX001", "ERROR")}, probe.ServerError, 1},
		{"OutOfLocks", []error{sql("53200", "ERROR")}, probe.ServerOdd, 1},
		{"NoMoreIDs", []error{sql("54000", "ERROR")}, probe.ServerOdd, 1},
		{"StartsUp", []error{sql("57P03", "FATAL")}, "", 1},
		{"TimedOut", []error{sql("57014", "ERROR")}, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			errs, connects := c.errs, 0
			s := probe.NewServer(func(context.Context) (probe.Conn, error) {
				connects++
				return fakeConn{&errs}, nil
			})
			got := s.Probe(context.Background(), probe.Primary)
			if kinds(got) != string(c.want) || connects != c.connects {
				t.Errorf("got %+v after %d connections", got, connects)
			}
		})
	}
}

func TestServer_ReplacesLostConnection(t *testing.T) {
	for _, lost := range []error{io.ErrUnexpectedEOF, &pgconn.PgError{Code: "57P01", Severity: "FATAL"}} {
		connects := 0
		errs := []error{nil, lost}
		s := probe.NewServer(func(context.Context) (probe.Conn, error) {
			connects++
			return fakeConn{&errs}, nil
		})
		for round, want := range []int{1, 2, 2} {
			if got := s.Probe(context.Background(), probe.Primary); got != nil {
				t.Errorf("got %+v", got)
			}
			if connects != want {
				t.Errorf("round %d: %d connections", round, connects)
			}
		}
	}
}

// Silence is counted from the first question without an answer; each word of
// the server ends it.
func TestServer_Silence(t *testing.T) {
	sql := func(code string) error { return &pgconn.PgError{Code: code, Severity: "ERROR"} }
	for _, c := range []struct {
		name string
		last error
		want time.Duration
	}{
		{"Refused", io.EOF, 20 * time.Second},
		{"TimedOut", sql("57014"), 20 * time.Second},
		{"StartsUp", sql("57P03"), 0},
		{"Broken", sql("58030"), 0},
		{"Answered", nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			var now time.Duration
			errs := []error{sql("57014"), sql("57014"), c.last, c.last}
			s := probe.NewServer(func(context.Context) (probe.Conn, error) { return fakeConn{&errs}, nil })
			s.Clock(func() time.Duration { return now })
			for range 3 {
				s.Probe(context.Background(), probe.Primary)
				now += 10 * time.Second
			}
			now -= 10 * time.Second
			var got time.Duration
			if h := s.Hung(); h != nil {
				got = h[0].For
			}
			if got != c.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestServer_NoConnectionToBeHad(t *testing.T) {
	full := probe.NewServer(func(context.Context) (probe.Conn, error) {
		return nil, fmt.Errorf("connect: %w", &pgconn.PgError{Code: "53300", Severity: "FATAL"})
	})
	if got := kinds(full.Probe(context.Background(), probe.Primary)); got != string(probe.Connections) {
		t.Errorf("all in use: %q", got)
	}
	nobody := probe.NewServer(func(context.Context) (probe.Conn, error) { return nil, errors.New("connection refused") })
	if got := nobody.Probe(context.Background(), probe.Primary); got != nil {
		t.Errorf("refused: %+v", got)
	}
}

// watched is one real server with a watch on it.
type watched struct {
	*pgtest.Cluster
	*probe.Watcher
	pid int
}

const testStall = 2 * time.Second

func newCluster(t *testing.T, settings ...string) *pgtest.Cluster {
	t.Helper()
	return pgtest.New(t, append([]string{"shared_buffers=16MB", "max_connections=10", "wal_level=replica", "restart_after_crash=off"}, settings...)...)
}

func watch(t *testing.T, c *pgtest.Cluster, d *probe.Disk) watched {
	t.Helper()
	w, err := probe.Watch(context.Background(), probe.Config{Disk: d, Connect: probe.Dial(c.DSN()), Pace: 50 * time.Millisecond,
		Stall: func() time.Duration { return testStall }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	w.Serve(probe.Primary, c.PID())
	return watched{c, w, c.PID()}
}

// becomes waits for a kind of failure, empty for none.
func (w watched) becomes(t *testing.T, k probe.Kind) probe.Health {
	t.Helper()
	pgtest.Eventually(t, 10*time.Second, fmt.Sprintf("failure %q", k), func() bool { return w.Latest().Kind == k })
	return w.Latest()
}

// staysWell sees no failure and no warning until cond holds, but for those that
// the machine itself makes: a sync may take its time.
func (w watched) staysWell(t *testing.T, what string, cond func() bool) {
	t.Helper()
	pgtest.Eventually(t, 10*time.Second, what, func() bool {
		h := w.Latest()
		for k := range h.Warnings {
			if k != probe.ServerHung && k != probe.DiskHung {
				t.Fatalf("%s: %+v", what, h)
			}
		}
		if h.Failing != "" {
			t.Fatalf("%s: %+v", what, h)
		}
		return cond()
	})
}

// probed tells whether the log has grown by n probes since from.
func (w watched) probed(t *testing.T, from int64, n int64) func() bool {
	return func() bool { return w.lsn(t)-from >= n*100 }
}

func (w watched) lsn(t *testing.T) int64 {
	t.Helper()
	n, err := strconv.ParseInt(w.Query(t, "select (pg_current_wal_flush_lsn() - '0/0')::bigint"), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// backend is the process that serves the watch's connection; zero when none.
func (w watched) backend(t *testing.T) int {
	t.Helper()
	pid, err := strconv.Atoi(w.Query(t, "select coalesce(max(pid), 0) from pg_stat_activity where application_name = 'understudy-probe'"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// stop stops processes until the returned function is called.
func stop(t *testing.T, pids ...int) (goOn func()) {
	t.Helper()
	goOn = func() {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	t.Cleanup(goOn)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	return goOn
}

func children(t *testing.T, pid int) (out []int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(b)) {
		n, _ := strconv.Atoi(f)
		out = append(out, n)
	}
	return out
}

func TestWatcher_Server(t *testing.T) {
	t.Parallel()
	w := watch(t, newCluster(t), nil)
	t.Run("Well", func(t *testing.T) {
		from := w.lsn(t)
		w.staysWell(t, "ten probes", w.probed(t, from, 10))
	})
	t.Run("PostmasterStopped", func(t *testing.T) {
		goOn := stop(t, w.pid)
		if h := w.becomes(t, probe.ServerFrozen); h.For < time.Second || !strings.Contains(h.Failing, strconv.Itoa(w.pid)) {
			t.Errorf("got %+v", h)
		}
		goOn()
		w.becomes(t, "")
	})
	t.Run("EveryProcessStopped", func(t *testing.T) {
		goOn := stop(t, append(children(t, w.pid), w.pid)...)
		w.becomes(t, probe.ServerFrozen)
		pgtest.Eventually(t, 5*time.Second, "its silence is told too", func() bool { return w.Latest().Warnings[probe.ServerHung] != "" })
		goOn()
		w.becomes(t, "")
	})
	t.Run("BackendStopped", func(t *testing.T) {
		goOn := stop(t, w.backend(t))
		if h := w.becomes(t, probe.ServerHung); h.For < testStall {
			t.Errorf("got %+v", h)
		}
		goOn()
		w.becomes(t, "")
	})
	t.Run("SessionEnded", func(t *testing.T) {
		old := w.backend(t)
		w.Exec(t, fmt.Sprintf("select pg_terminate_backend(%d)", old))
		w.staysWell(t, "it has connected again", func() bool { now := w.backend(t); return now != 0 && now != old })
	})
	t.Run("AnotherModeKeepsTheConnection", func(t *testing.T) {
		old := w.backend(t)
		w.Serve(probe.Replica, w.pid)
		pgtest.Eventually(t, 5*time.Second, "it asks only", func() bool {
			return w.Query(t, fmt.Sprintf("select query from pg_stat_activity where pid = %d", old)) == "select 1"
		})
		w.Serve(probe.Primary, w.pid)
		from := w.lsn(t)
		w.staysWell(t, "it writes again", w.probed(t, from, 3))
		if now := w.backend(t); now != old {
			t.Errorf("connected anew: %d, %d", old, now)
		}
	})
	t.Run("MeantToStop", func(t *testing.T) {
		w.Serve(probe.Down, w.pid)
		w.Stop(syscall.SIGINT)
		w.staysWell(t, "stopped", func() bool { return true })
	})
	server := t
	t.Run("StartedAgain", func(t *testing.T) {
		w.Start(server)
		w.Serve(probe.Primary, w.PID())
		from := w.lsn(t)
		w.staysWell(t, "probed", w.probed(t, from, 3))
	})
}

// use takes n connections, all that are left. That one is refused does not tell
// that none will be had: the server may still be about to end one that its
// client has closed.
func use(t *testing.T, c *pgtest.Cluster, n int) (held []*pgx.Conn) {
	t.Helper()
	pgtest.Eventually(t, 10*time.Second, fmt.Sprintf("%d connections are taken", n), func() bool {
		conn, err := c.Connect(context.Background())
		var pe *pgconn.PgError
		if errors.As(err, &pe) && pe.Code == "53300" {
			return false
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
		held = append(held, conn)
		return len(held) == n
	})
	return held
}

func TestWatcher_ConnectionsUsedUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "max_connections=6", "superuser_reserved_connections=2")
	w := watch(t, c, nil)
	pgtest.Eventually(t, 5*time.Second, "it is connected", func() bool { return w.backend(t) != 0 })
	held := use(t, c, 5) // as superuser: the reserved ones too, and all but the watcher's
	flushed := func() (n int64) {
		if err := held[0].QueryRow(context.Background(), "select (pg_current_wal_flush_lsn() - '0/0')::bigint").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	from := flushed()
	w.staysWell(t, "ten probes", func() bool { return flushed()-from > 1000 })

	late := watch(t, c, nil) // one that kept no connection
	pgtest.Eventually(t, 5*time.Second, "the shortage is told", func() bool { return late.Latest().Warnings[probe.Connections] != "" })
	if h := late.Latest(); h.Failing != "" {
		t.Errorf("got %+v", h)
	}
	held[1].Close(context.Background())
	pgtest.Eventually(t, 5*time.Second, "it is over", func() bool { return late.Latest().Warnings == nil })
}

// A reserved connection is let in when the ordinary ones are in use.
func TestWatcher_OnlyReservedConnectionsLeft(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "max_connections=6", "superuser_reserved_connections=2")
	c.Exec(t, "create role ordinary login")
	for {
		conn, err := pgx.Connect(context.Background(), strings.Replace(c.DSN(), "user=postgres", "user=ordinary", 1))
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close(context.Background()) })
	}
	w := watch(t, c, nil)
	w.staysWell(t, "it is connected", func() bool { return w.backend(t) != 0 })
}

func TestWatcher_StandbyIsOnlyAsked(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Stop(syscall.SIGINT)
	mark := filepath.Join(c.Data, "standby.signal")
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pgtest.Own(t, mark)
	c.Start(t)
	for _, m := range []probe.Mode{probe.Replica, probe.Primary} { // the second as during a promotion
		w := watch(t, c, nil)
		w.Serve(m, c.PID())
		w.staysWell(t, "it is connected", func() bool { return w.backend(t) != 0 })
		w.staysWell(t, "it has asked", func() bool {
			return w.Query(t, "select count(*) from pg_stat_activity where application_name = 'understudy-probe' and state = 'idle' and query <> ''") != "0"
		})
		w.Close()
	}
}

func TestWatcher_DiskOfServerHangs(t *testing.T) {
	dir := ext4(t, 256<<20)
	t.Setenv("TMPDIR", dir)
	c := newCluster(t, "--wal-segsize=1", "min_wal_size=2MB")
	w := watch(t, c, &probe.Disk{Data: c.Data})
	from := w.lsn(t)
	w.staysWell(t, "probed", w.probed(t, from, 3))
	thaw := freeze(t, dir)
	w.becomes(t, probe.DiskHung)
	pgtest.Eventually(t, 5*time.Second, "the server cannot commit", func() bool { return w.Latest().Warnings[probe.ServerHung] != "" })
	thaw()
	w.becomes(t, "")
}

func TestWatcher_DiskOfServerFull(t *testing.T) {
	dir := mounted(t, "-t", "tmpfs", "-o", "size=160m", "understudy")
	t.Setenv("TMPDIR", dir)
	c := newCluster(t, "--wal-segsize=1", "min_wal_size=2MB")
	w := watch(t, c, &probe.Disk{Data: c.Data})
	from := w.lsn(t)
	w.staysWell(t, "probed", w.probed(t, from, 3))
	empty := fill(t, dir)
	w.becomes(t, probe.DiskFull)
	empty()
	w.becomes(t, "")
}

// The daemon's file must not travel with a base, nor disturb pg_rewind.
func TestFileName_StaysOutOfBaseBackups(t *testing.T) {
	t.Parallel()
	c := newCluster(t, "max_wal_senders=3", "wal_log_hints=on")
	disk := &probe.Disk{Data: c.Data}
	if cred := pgtest.Credential(t); cred != nil {
		disk.UID, disk.GID = cred.Uid, cred.Gid
	}
	if got := check(disk); got != "" {
		t.Fatal(got)
	}
	copied := filepath.Join(pgtest.Dir(t), "copy")
	c.Tool(t, "pg_basebackup", "-D", copied, "-c", "fast", "--no-sync")
	if _, err := os.Stat(filepath.Join(c.Data, probe.FileName)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(copied, probe.FileName)); err == nil {
		t.Error("it is in the base backup")
	}
	c.Stop(syscall.SIGINT)
	c.Start(t)
	if _, err := os.Stat(filepath.Join(c.Data, probe.FileName)); err != nil {
		t.Errorf("after a start: %v", err)
	}
}
