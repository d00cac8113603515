package guard_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/failover/guard"
	"understudy/shipper/pos"
	"understudy/test/pgtest"
)

// TestMain lets the test binary be the guard, as the program's own binary is.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		os.Exit(guard.Main(os.Args[2:]))
	}
	flag.Parse()
	flag.Set("test.parallel", "4") // these tests mostly wait for leases to end
	os.Exit(m.Run())
}

// server is one scratch PostgreSQL under a guard.
type server struct {
	*pgtest.Cluster
	launch guard.Launch
}

func newServer(t *testing.T, primary bool, settings ...string) server {
	t.Helper()
	c := pgtest.Init(t, append([]string{"shared_buffers=16MB", "max_connections=20", "restart_after_crash=off"}, settings...)...)
	l := guard.Launch{
		Socket: filepath.Join(c.Socket, "guard.sock"),
		Argv: []string{filepath.Join(c.Bin, "postgres"), "-D", c.Data, "-p", strconv.Itoa(c.Port),
			"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=" + c.Socket},
		LogFile: filepath.Join(c.Socket, "server.log"),
		Tag:     guard.Tag{Epoch: pos.Epoch{Gen: 1, Num: 3}, Role: "primary", Timeline: 2, Start: 0x3000028, Store: "s1"},
		Lease:   1200 * time.Millisecond, Orphan: 500 * time.Millisecond, Primary: primary,
	}
	if cred := pgtest.Credential(t); cred != nil {
		l.SetUser, l.UID, l.GID = true, cred.Uid, cred.Gid
	}
	return server{Cluster: c, launch: l}
}

func (s server) start(t *testing.T) *guard.Client {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	g, err := guard.Start(ctx, self, s.launch)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	pid := g.PostmasterPID()
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if g, err := guard.Connect(context.Background(), s.launch.Socket); err == nil {
			g.Stop(ctx, guard.Immediate)
			g.Detach()
		}
		if alive(pid) {
			t.Errorf("postmaster %d outlives its test", pid)
		}
	})
	return g
}

func (s server) connect(t *testing.T) *pgx.Conn {
	t.Helper()
	var conn *pgx.Conn
	pgtest.Eventually(t, 10*time.Second, "server answers", func() (ok bool) {
		c, err := s.Connect(context.Background())
		conn = c
		return err == nil
	})
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// renewing renews the lease until the returned function is called.
func renewing(g *guard.Client) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			g.Renew(guard.Boottime())
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() { cancel(); <-done }
}

// alive tells whether pid runs; a zombie does not.
func alive(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return strings.Fields(rest)[0] != "Z"
}

// backends are the living children of the postmaster.
func backends(t *testing.T, postmaster int) []int {
	t.Helper()
	var out []int
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if f[1] == strconv.Itoa(postmaster) && f[0] != "Z" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			out = append(out, pid)
		}
	}
	return out
}

func waitGone(t *testing.T, d time.Duration, pids ...int) {
	t.Helper()
	pgtest.Eventually(t, d, "processes gone", func() bool {
		for _, p := range pids {
			if alive(p) {
				return false
			}
		}
		return true
	})
}

func TestGuard_ReadoptionWithinOrphanTimeKeepsTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	stop := renewing(g)
	s.connect(t)
	pid := g.PostmasterPID()
	stop()
	g.Detach()
	again, err := guard.Connect(context.Background(), s.launch.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Detach()
	defer renewing(again)()
	if again.PostmasterPID() != pid || again.Tag() != s.launch.Tag {
		t.Errorf("adopted %d %+v, want %d %+v", again.PostmasterPID(), again.Tag(), pid, s.launch.Tag)
	}
	// Past the orphan time counted from the first daemon's death.
	end := guard.Boottime() + s.launch.Orphan + 200*time.Millisecond
	pgtest.Eventually(t, 5*time.Second, "orphan time is over", func() bool { return guard.Boottime() > end })
	if got := s.Query(t, "select 1"); got != "1" || !alive(pid) {
		t.Errorf("server did not survive: %s", got)
	}
	tag := s.launch.Tag
	tag.Epoch = tag.Epoch.Next()
	if err := again.SetTag(tag); err != nil {
		t.Fatal(err)
	}
	third, err := guard.Connect(context.Background(), s.launch.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Detach()
	if third.Tag() != tag {
		t.Errorf("tag %+v, want %+v", third.Tag(), tag)
	}
	select {
	case <-again.Dead():
	case <-time.After(2 * time.Second):
		t.Error("the older connection was not told that it is replaced")
	}
}

func TestGuard_DaemonDeathEndsPrimary(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	stop := renewing(g)
	s.connect(t)
	pids := append(backends(t, g.PostmasterPID()), g.PostmasterPID())
	if len(pids) < 4 {
		t.Fatalf("processes: %v", pids)
	}
	stop()
	g.Detach()
	waitGone(t, s.launch.Orphan+500*time.Millisecond, pids...)
	waitGone(t, 2*time.Second, g.GuardPID())
	if _, err := guard.Connect(context.Background(), s.launch.Socket); !errors.Is(err, guard.ErrNoGuard) {
		t.Errorf("connect afterwards: %v", err)
	}
}

func TestGuard_LeaseEndsStoppedPostmasterAndBackends(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	defer g.Detach()
	stop := renewing(g)
	conn := s.connect(t)
	busy := int(conn.PgConn().PID())
	pids := append(backends(t, g.PostmasterPID()), g.PostmasterPID())
	stop()
	syscall.Kill(g.PostmasterPID(), syscall.SIGSTOP)
	syscall.Kill(busy, syscall.SIGSTOP)
	began := guard.Boottime()
	g.Renew(began)
	select {
	case <-g.Exited():
	case <-time.After(5 * time.Second):
		t.Fatal("server was not ended")
	}
	if took := guard.Boottime() - began; took < s.launch.Lease || took > s.launch.Lease+500*time.Millisecond {
		t.Errorf("ended after %s, lease %s", took, s.launch.Lease)
	}
	waitGone(t, time.Millisecond, pids...)
	if st := g.ExitStatus(); !strings.Contains(st, "no majority contact") {
		t.Errorf("status %q", st)
	}
}

func TestGuard_LeaseEndsWaitForSynchronousStandby(t *testing.T) {
	t.Parallel()
	s := newServer(t, true, "synchronous_standby_names=nobody")
	g := s.start(t)
	defer g.Detach()
	stop := renewing(g)
	conn := s.connect(t)
	for _, sql := range []string{"set synchronous_commit = local", "create table a(i int)", "set synchronous_commit = on"} {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatal(err)
		}
	}
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(context.Background(), "insert into a values (1)")
		failed <- err
	}()
	watch := s.connect(t)
	pgtest.Eventually(t, 5*time.Second, "commit waits", func() (waits bool) {
		watch.QueryRow(context.Background(), "select count(*) = 1 from pg_stat_activity where wait_event = 'SyncRep'").Scan(&waits)
		return waits
	})
	stop()
	select {
	case err := <-failed:
		if err == nil {
			t.Error("the commit was acknowledged")
		}
	case <-time.After(s.launch.Lease + 500*time.Millisecond):
		t.Error("the commit still waits")
	}
}

func TestGuard_ItsDeathEndsTheServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, false)
	g := s.start(t)
	defer g.Detach()
	s.connect(t)
	pids := append(backends(t, g.PostmasterPID()), g.PostmasterPID())
	syscall.Kill(g.GuardPID(), syscall.SIGKILL)
	waitGone(t, 3*time.Second, pids...)
	select {
	case <-g.Dead():
	case <-time.After(2 * time.Second):
		t.Error("the daemon was not told")
	}
}

func TestGuard_FrozenGuardIsNoticedAndStopWorks(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	defer g.Detach()
	defer renewing(g)()
	s.connect(t)
	pids := append(backends(t, g.PostmasterPID()), g.PostmasterPID(), g.GuardPID())
	began := time.Now()
	syscall.Kill(g.GuardPID(), syscall.SIGSTOP)
	select {
	case <-g.Dead():
	case <-time.After(2 * time.Second):
		t.Fatal("a frozen guard was not noticed")
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("noticed after %s", took)
	}
	if err := g.Stop(context.Background(), guard.Fast); err != nil {
		t.Fatal(err)
	}
	waitGone(t, time.Second, pids...)
}

func TestDestroy_EndsFrozenGuardAndServer(t *testing.T) {
	t.Parallel()
	s := newServer(t, false)
	g := s.start(t)
	s.connect(t)
	g.Detach()
	pids := append(backends(t, g.PostmasterPID()), g.PostmasterPID(), g.GuardPID())
	syscall.Kill(g.GuardPID(), syscall.SIGSTOP)
	if _, err := guard.Connect(context.Background(), s.launch.Socket); !errors.Is(err, guard.ErrDead) {
		t.Errorf("connect: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for range 2 { // the second finds nothing
		if err := guard.Destroy(ctx, s.launch.Socket); err != nil {
			t.Fatal(err)
		}
	}
	waitGone(t, time.Millisecond, pids...)
}

func TestGuard_StandbySurvivesDaemon(t *testing.T) {
	t.Parallel()
	s := newServer(t, false)
	g := s.start(t)
	s.connect(t)
	pid := g.PostmasterPID()
	g.Detach()
	end := guard.Boottime() + s.launch.Lease + 300*time.Millisecond
	pgtest.Eventually(t, 5*time.Second, "lease would be over", func() bool { return guard.Boottime() > end })
	again, err := guard.Connect(context.Background(), s.launch.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Detach()
	if !alive(pid) || again.PostmasterPID() != pid {
		t.Error("standby did not survive its daemon")
	}
	if err := again.SetPrimary(true); err != nil {
		t.Fatal(err)
	}
	select {
	case <-again.Exited():
	case <-time.After(s.launch.Lease + time.Second):
		t.Error("a promoted standby has no lease")
	}
}

func TestGuard_ExtendOutlivesDaemon(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	stop := renewing(g)
	s.connect(t)
	stop()
	until := guard.Boottime() + 2*time.Second
	if err := g.Extend(until); err != nil {
		t.Fatal(err)
	}
	pid := g.PostmasterPID()
	g.Detach()
	waitGone(t, 5*time.Second, pid)
	if now := guard.Boottime(); now < until || now > until+500*time.Millisecond {
		t.Errorf("ended %s after the extension", now-until)
	}
}

func TestClient_StopFastIsCleanWithOneSmallGuard(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	defer g.Detach()
	defer renewing(g)()
	s.connect(t)
	littleMemory(t, g.GuardPID())
	self, _ := os.Executable()
	if _, err := guard.Start(context.Background(), self, s.launch); !errors.Is(err, guard.ErrGuardRuns) {
		t.Errorf("a second guard: %v", err)
	}
	if err := g.Renew(guard.Boottime()); err != nil {
		t.Errorf("the first guard was disturbed: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.Stop(ctx, guard.Fast); err != nil {
		t.Fatal(err)
	}
	if g.ExitStatus() != "exit status 0" {
		t.Errorf("status %q", g.ExitStatus())
	}
	if err := g.Renew(guard.Boottime()); !errors.Is(err, guard.ErrEnded) {
		t.Errorf("renew afterwards: %v", err)
	}
	next := s.start(t) // at once
	defer next.Detach()
	if err := next.Stop(ctx, guard.Immediate); err != nil {
		t.Error(err)
	}
	waitGone(t, time.Second, g.GuardPID())
}

func TestClient_StopEscalatesAtDeadline(t *testing.T) {
	t.Parallel()
	s := newServer(t, true)
	g := s.start(t)
	defer g.Detach()
	defer renewing(g)()
	s.connect(t)
	pids := append(backends(t, g.PostmasterPID()), g.PostmasterPID())
	syscall.Kill(g.PostmasterPID(), syscall.SIGSTOP)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := g.Stop(ctx, guard.Fast); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
	waitGone(t, time.Millisecond, pids...)
}

func TestStart_ClearErrors(t *testing.T) {
	t.Parallel()
	self, _ := os.Executable()
	dir := pgtest.Dir(t)
	ok := guard.Launch{Socket: filepath.Join(dir, "g"), Argv: []string{"/does/not/exist"}, LogFile: filepath.Join(dir, "log"), Lease: time.Second}
	for name, tt := range map[string]struct {
		change func(*guard.Launch)
		want   string
	}{
		"NoBinary":   {func(*guard.Launch) {}, "execute /does/not/exist: no such file"},
		"LongSocket": {func(l *guard.Launch) { l.Socket = "/" + strings.Repeat("x", 107) }, "107 bytes"},
		"NoLease":    {func(l *guard.Launch) { l.Lease = 0 }, "without a lease"},
		"NoLog":      {func(l *guard.Launch) { l.LogFile = filepath.Join(dir, "none", "log") }, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			l := ok
			tt.change(&l)
			if _, err := guard.Start(context.Background(), self, l); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	if _, err := guard.Connect(context.Background(), ok.Socket); !errors.Is(err, guard.ErrNoGuard) {
		t.Errorf("connect: %v", err)
	}
}

// littleMemory checks the size of the guard.
func littleMemory(t *testing.T, pid int) {
	t.Helper()
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.Atoi(strings.Fields(v)[0])
			t.Logf("resident: %d kB", kb)
			if kb > 15<<10 && !raceDetector {
				t.Errorf("guard keeps %d kB resident", kb)
			}
		}
	}
}
