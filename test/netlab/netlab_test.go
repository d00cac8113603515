package netlab_test

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"understudy/test/netlab"
)

// echoEnv makes this test's program a server that sends back what it is sent.
const echoEnv = "NETLAB_TEST_ECHO"

// dialEnv makes it a client: it dials the address, prints "connected" or the
// error, and then copies its standard input to the connection and back.
const dialEnv = "NETLAB_TEST_DIAL"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(echoEnv) != "":
		echo(os.Getenv(echoEnv))
	case os.Getenv(dialEnv) != "":
		dial(os.Getenv(dialEnv))
	default:
		os.Exit(m.Run())
	}
}

func echo(address string) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("listening")
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

func dial(address string) {
	c, err := net.DialTimeout("tcp", address, 300*time.Millisecond)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("connected")
	go io.Copy(c, os.Stdin)
	io.Copy(os.Stdout, c)
}

func need(t *testing.T) {
	t.Helper()
	if err := netlab.Need(); err != nil {
		t.Skip(err)
	}
}

func newLab(t *testing.T, hosts ...string) *netlab.Lab {
	t.Helper()
	need(t)
	l, err := netlab.New(t.Context(), hosts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

const port = "7000"

// serve starts an echo server on every host and in the calling process.
func serve(t *testing.T, l *netlab.Lab, hosts ...string) {
	t.Helper()
	for _, h := range hosts {
		start(t, l.Host(h), echoEnv+"="+net.JoinHostPort(l.Host(h).IP, port)).expect(t, "listening")
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(l.Self, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
}

// peer is a child process and what it prints, line by line.
type peer struct {
	in    io.WriteCloser
	lines chan string
	cmd   *exec.Cmd
}

func start(t *testing.T, h *netlab.Host, env string) *peer {
	t.Helper()
	cmd := h.Command(context.Background(), os.Args[0])
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
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
	p := &peer{in: in, lines: make(chan string, 16), cmd: cmd}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(p.lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			p.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { cmd.Process.Kill(); <-done; cmd.Wait() })
	return p
}

// next is the next line, and whether there was one within a time.
func (p *peer) next(d time.Duration) (string, bool) {
	select {
	case s, ok := <-p.lines:
		return s, ok
	case <-time.After(d):
		return "", false
	}
}

func (p *peer) expect(t *testing.T, want string) {
	t.Helper()
	if got, ok := p.next(5 * time.Second); !ok || got != want {
		t.Fatalf("the program printed %q, want %q", got, want)
	}
}

// outcome says how a new connection from one host to another goes: "ok",
// "silence" or "refused".
func outcome(t *testing.T, l *netlab.Lab, from, to string) string {
	t.Helper()
	address := net.JoinHostPort(l.Self, port)
	if h := l.Host(to); h != nil {
		address = net.JoinHostPort(h.IP, port)
	}
	said := "connected"
	if h := l.Host(from); h != nil {
		said, _ = start(t, h, dialEnv+"="+address).next(5 * time.Second)
	} else if c, err := net.DialTimeout("tcp", address, 300*time.Millisecond); err != nil {
		said = err.Error()
	} else {
		c.Close()
	}
	switch {
	case said == "connected":
		return "ok"
	case strings.Contains(said, "timeout"):
		return "silence"
	case strings.Contains(said, "refused"):
		return "refused"
	default:
		return said
	}
}

// check tries every direction between a, b, c and the calling process; those
// that want does not name must be ok.
func check(t *testing.T, l *netlab.Lab, want map[string]string) {
	t.Helper()
	all := []string{"a", "b", "c", netlab.Clients}
	var wg sync.WaitGroup
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			wg.Go(func() {
				key := from + ">" + to
				w := cmp.Or(want[key], "ok")
				if got := outcome(t, l, from, to); got != w {
					t.Errorf("%s: %s, want %s", key, got, w)
				}
			})
		}
	}
	wg.Wait()
}

func TestLab_Faults(t *testing.T) {
	l := newLab(t, "a", "b", "c")
	serve(t, l, "a", "b", "c")
	for _, c := range []struct {
		name  string
		fault func() error
		want  map[string]string // of directions; "ok" where none is named
	}{
		{"None", func() error { return nil }, nil},
		{"Cut", func() error { return l.Cut("a", "b") }, map[string]string{"a>b": "silence", "b>a": "silence"}},
		{"CutClients", func() error { return l.Cut("", "b") }, map[string]string{"clients>b": "silence", "b>clients": "silence"}},
		// Without the way back nobody gets an answer.
		{"CutOneWay", func() error { return l.CutOneWay("a", "b") }, map[string]string{"a>b": "silence", "b>a": "silence"}},
		{"Isolate", func() error { return l.Isolate("a") }, map[string]string{
			"a>b": "silence", "b>a": "silence", "a>c": "silence", "c>a": "silence", "a>clients": "silence", "clients>a": "silence"}},
		{"IsolatePeers", func() error { return l.IsolatePeers("a") }, map[string]string{
			"a>b": "silence", "b>a": "silence", "a>c": "silence", "c>a": "silence"}},
		{"Reject", func() error { return l.Reject("a", "b") }, map[string]string{"a>b": "refused", "b>a": "refused"}},
		{"RejectClients", func() error { return l.Reject("a", netlab.Clients) }, map[string]string{"a>clients": "refused", "clients>a": "refused"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			began := time.Now()
			if err := c.fault(); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			check(t, l, c.want)
			if err := l.Heal(); err != nil {
				t.Fatal(err)
			}
			check(t, l, nil)
			t.Logf("the fault took %s", took.Round(100*time.Microsecond))
		})
	}
}

// TestLab_Standing: faults reach connections that were made before.
func TestLab_Standing(t *testing.T) {
	l := newLab(t, "a", "b")
	serve(t, l, "a", "b")
	to := net.JoinHostPort(l.Host("b").IP, port)
	p := start(t, l.Host("a"), dialEnv+"="+to)
	p.expect(t, "connected")
	say := func(s string) {
		if _, err := io.WriteString(p.in, s+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	say("one")
	p.expect(t, "one")
	for _, fault := range []func() error{
		func() error { return l.CutOneWay("a", "b") },
		func() error { return l.CutOneWay("b", "a") },
		func() error { return l.Isolate("b") },
	} {
		if err := fault(); err != nil {
			t.Fatal(err)
		}
		say("lost")
		if s, ok := p.next(100 * time.Millisecond); ok {
			t.Errorf("%q came through", s)
		}
		if err := l.Heal(); err != nil {
			t.Fatal(err)
		}
		p.expect(t, "lost") // sent again by the kernel
	}
	if err := l.Reject("a", "b"); err != nil {
		t.Fatal(err)
	}
	say("two")
	select {
	case _, open := <-p.lines: // the program ends when its connection breaks
		if open {
			t.Error("a refused connection goes on")
		}
	case <-time.After(2 * time.Second):
		t.Error("a refused connection did not break")
	}
}

// TestLab_Slow: a host at a low rate needs its time, and none after Heal.
func TestLab_Slow(t *testing.T) {
	l := newLab(t, "a")
	serve(t, l, "a")
	send := func() time.Duration {
		c, err := net.Dial("tcp", net.JoinHostPort(l.Host("a").IP, port))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		began := time.Now()
		b := make([]byte, 512<<10)
		go c.Write(b)
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	if err := l.Slow("a", "10mbit"); err != nil {
		t.Fatal(err)
	}
	// 512 KiB are 0.4 s at that rate, less what passes at once.
	if d := send(); d < 250*time.Millisecond {
		t.Errorf("512 KiB took %s at 10 Mbit/s", d)
	}
	if err := l.Heal(); err != nil {
		t.Fatal(err)
	}
	if d := send(); d > 250*time.Millisecond {
		t.Errorf("512 KiB took %s after Heal", d)
	}
}

// TestNew_RemovesStale: what a killed process left is removed, and a lab whose
// process lives is not.
func TestNew_RemovesStale(t *testing.T) {
	mine := newLab(t, "a")
	dead := exec.Command("true")
	if err := dead.Run(); err != nil {
		t.Fatal(err)
	}
	stale := fmt.Sprintf("us%da", dead.Process.Pid)
	for _, args := range [][]string{
		{"ip", "link", "add", stale, "type", "bridge"},
		{"ip", "netns", "add", stale + "-main"},
		{"ip", "link", "add", stale + "-0", "type", "veth", "peer", "name", "eth0", "netns", stale + "-main"},
		{"nft", "add", "table", "bridge", stale},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", args, err, out)
		}
	}
	second := newLab(t, "a", "b")
	for _, pattern := range []string{"/sys/class/net/" + stale + "*", "/run/netns/" + stale + "*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if out, _ := exec.Command("nft", "list", "tables").CombinedOutput(); strings.Contains(string(out), stale) {
		t.Errorf("left among the tables: %s", out)
	}
	serve(t, mine, "a")
	if got := outcome(t, mine, netlab.Clients, "a"); got != "ok" {
		t.Errorf("the first lab: %s", got)
	}
	if mine.Self == second.Self {
		t.Errorf("both labs have %s", mine.Self)
	}
}

// TestLab_Close leaves nothing, twice.
func TestLab_Close(t *testing.T) {
	l := newLab(t, "a")
	prefix, _, _ := strings.Cut(l.Host("a").Namespace, "-")
	for range 2 {
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for _, pattern := range []string{"/sys/class/net/" + prefix + "*", "/run/netns/" + prefix + "*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
	if err := l.Cut("a", netlab.Clients); err == nil {
		t.Error("a closed lab cuts")
	}
}

func TestNew_Names(t *testing.T) {
	for _, hosts := range [][]string{{""}, {netlab.Clients}, {"a", "a"}, {"A"}, {"a b"}, {"a/b"}} {
		if l, err := netlab.New(t.Context(), hosts...); err == nil {
			t.Errorf("hosts %q were made", hosts)
			l.Close()
		}
	}
	l := newLab(t, "a")
	for _, err := range []error{l.Cut("a", "b"), l.Cut("a", "a"), l.Cut("", netlab.Clients), l.Isolate("b"), l.Slow("", "1mbit"), l.Reject("a", "b")} {
		if err == nil {
			t.Error("a fault between hosts that are not there is possible")
		}
	}
}

// TestHost_Command: the process that is started is the program itself.
func TestHost_Command(t *testing.T) {
	l := newLab(t, "a")
	out, err := l.Host("a").Command(t.Context(), "sh", "-c", "echo $$; ip -o -4 addr show dev eth0").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), l.Host("a").IP+"/24") {
		t.Errorf("addresses of the host: %s, want %s", out, l.Host("a").IP)
	}
	cmd := l.Host("a").Command(t.Context(), "sh", "-c", "kill -9 $$")
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("a program that kills itself: %v", err)
	}
	if l.Host("b") != nil {
		t.Error("there is a host b")
	}
}
