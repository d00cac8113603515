package probe_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"understudy/failover/guard"
	"understudy/failover/probe"
	"understudy/test/pgtest"
)

// TestMain lets the test binary be a daemon of its own, which can be stopped.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "daemon" {
		daemon(os.Args[2], os.Args[3])
		return
	}
	os.Exit(m.Run())
}

// slowConn answers after delay.
type slowConn struct{ delay func() }

func (s slowConn) Exec(context.Context, string) error { s.delay(); return nil }
func (s slowConn) Close()                             {}

// random makes delays of at most d, a good part of them that long.
func random(seed uint64, d time.Duration) func() {
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 1))
	return func() {
		mu.Lock()
		p := min(rng.Float64()*1.5, 1)
		mu.Unlock()
		time.Sleep(time.Duration(p * float64(d)))
	}
}

// run watches a world whose every call is delayed, for an hour, and returns
// what was ever said.
func run(t *testing.T, seed uint64, most time.Duration) (said []probe.Health) {
	synctest.Test(t, func(t *testing.T) {
		delay := random(seed, most)
		rng := rand.New(rand.NewPCG(seed, 2))
		cfg := probe.Config{
			Disk:    probe.FakeDisk{Delay: delay}.On(&probe.Disk{Data: "/data", Dirs: []string{"/state"}}),
			Connect: func(context.Context) (probe.Conn, error) { delay(); return slowConn{delay}, nil },
			Stall:   func() time.Duration { return time.Second },
		}.LookAt(func(int) (probe.Process, error) {
			// A process that works hard is met in every state.
			return probe.Process{State: "RSDDSt"[rng.IntN(6)], Switches: uint64(rng.IntN(3))}, nil
		})
		w, err := probe.Watch(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		w.Serve(probe.Primary, 7)
		for range 36000 {
			time.Sleep(100 * time.Millisecond)
			if h := w.Latest(); h.Failing != "" || h.Warnings != nil {
				said = append(said, h)
			}
		}
		w.Close()
		time.Sleep(10 * time.Second) // the last calls to the disk end
	})
	return said
}

func TestWatcher_BusyMachineIsNoFinding(t *testing.T) {
	for seed := range uint64(3) {
		if said := run(t, seed, 300*time.Millisecond); len(said) > 0 {
			t.Fatalf("seed %d: %d findings, first %+v", seed, len(said), said[0])
		}
	}
}

func TestWatcher_SlowDiskIsOne(t *testing.T) {
	if said := run(t, 1, 5*time.Second); len(said) == 0 || said[len(said)-1].Failing == "" {
		t.Error("calls of 5 s are no finding")
	}
}

func TestWatcher_LimitsChangeLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limit := make(chan time.Duration, 1)
		limit <- time.Hour
		w, err := probe.Watch(t.Context(), probe.Config{
			Connect: func(ctx context.Context) (probe.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
			Stall:   func() time.Duration { d := <-limit; limit <- d; return d },
		})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		w.Serve(probe.Replica, os.Getpid())
		time.Sleep(time.Minute)
		if h := w.Latest(); h.Failing != "" || h.Warnings[probe.ServerHung] == "" {
			t.Errorf("with an hour: %+v", h)
		}
		<-limit
		limit <- 5 * time.Second
		time.Sleep(200 * time.Millisecond)
		if h := w.Latest(); h.Kind != probe.ServerHung || h.For < 50*time.Second {
			t.Errorf("with 5 s: %+v", h)
		}
		w.Serve(probe.Replica, os.Getppid())
		time.Sleep(200 * time.Millisecond)
		if h := w.Latest(); h.Failing != "" || h.Warnings != nil {
			t.Errorf("another server: %+v", h)
		}
	})
}

// The end of a server is told by its parent.
func TestWatcher_EndedServerIsNoFinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refuse := errors.New("connection refused")
		w, err := probe.Watch(t.Context(), probe.Config{
			Connect: func(context.Context) (probe.Conn, error) { return nil, refuse },
			Stall:   func() time.Duration { return time.Second },
		}.LookAt(func(pid int) (probe.Process, error) {
			return map[int]probe.Process{1: {State: 'S'}, 2: {State: 'Z'}}[pid], nil
		}))
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		for pid, want := range map[int]probe.Kind{1: probe.ServerHung, 2: "", 3: ""} {
			w.Serve(probe.Primary, pid)
			time.Sleep(10 * time.Second)
			if h := w.Latest(); h.Kind != want {
				t.Errorf("process %d: %+v", pid, h)
			}
		}
	})
}

func TestWatcher_CloseLeavesNothing(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	w, err := probe.Watch(context.Background(), probe.Config{
		Disk:    &probe.Disk{Dirs: []string{t.TempDir()}},
		Connect: func(ctx context.Context) (probe.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		Stall:   func() time.Duration { return time.Second },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Serve(probe.Primary, os.Getpid())
	w.Close()
}

// daemon watches a server with hardly a pause between its rounds, tells when it
// calls it failing, and ends with its input.
func daemon(dsn, pid string) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		panic(err)
	}
	w, err := probe.Watch(context.Background(), probe.Config{Connect: probe.Dial(dsn), Disk: &probe.Disk{Dirs: []string{os.TempDir()}},
		Pace: time.Millisecond, Stall: func() time.Duration { return 1200 * time.Millisecond }})
	if err != nil {
		panic(err)
	}
	w.Serve(probe.Primary, n)
	end := make(chan struct{})
	go func() {
		defer close(end)
		for in := bufio.NewReader(os.Stdin); ; {
			if _, err := in.ReadByte(); err != nil {
				return
			}
			fmt.Println("alive")
		}
	}()
	for t := time.NewTicker(5 * time.Millisecond); ; {
		select {
		case <-end:
			w.Close()
			return
		case <-t.C:
		}
		if h := w.Latest(); h.Failing != "" {
			b, _ := json.Marshal(h)
			fmt.Println(string(b))
		}
	}
}

// A daemon that was stopped does not blame the server for its own pause.
func TestWatcher_OwnPauseIsNoFinding(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "daemon", c.DSN(), strconv.Itoa(c.PID()))
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	alive := func() {
		t.Helper()
		if _, err := in.Write([]byte{'\n'}); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != "alive" {
			t.Fatalf("said %q", lines.Text())
		}
	}
	for range 2 {
		alive()
		w := watched{Cluster: c}
		pgtest.Eventually(t, 5*time.Second, "it probes", w.probed(t, w.lsn(t), 5))
		cmd.Process.Signal(syscall.SIGSTOP)
		until := guard.Boottime() + 1800*time.Millisecond
		pgtest.Eventually(t, 5*time.Second, "the pause is over", func() bool { return guard.Boottime() > until })
		cmd.Process.Signal(syscall.SIGCONT)
		pgtest.Eventually(t, 5*time.Second, "it probes again", w.probed(t, w.lsn(t), 5))
	}
	alive()
	in.Close()
	if lines.Scan() {
		t.Errorf("said %q", lines.Text())
	}
}
