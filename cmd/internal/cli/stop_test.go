package cli_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"understudy/cmd/internal/admin"
	"understudy/cmd/internal/cli"
)

// leaver is a daemon that ends as it was told to.
type leaver struct {
	backend
	config, socket, lock string

	mu     sync.Mutex
	did    []string
	leave  func() // after the answer; nil stays
	err    error
	cancel context.CancelFunc
	gone   chan error
}

func (l *leaver) Do(_ context.Context, action string, args map[string]string) (any, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.did = append(l.did, strings.TrimSpace(action+" "+args["hand_over"]))
	if l.err != nil {
		return nil, l.err
	}
	if l.leave != nil {
		go l.leave()
	}
	return map[string]string{"result": "handing over to backup\x1b[31m, then stopping"}, nil
}

func newLeaver(t *testing.T) *leaver {
	t.Helper()
	config, socket, dir := nodeFile(t)
	l := &leaver{config: config, socket: socket, lock: filepath.Join(dir, "daemon.pid")}
	l.start(t)
	t.Cleanup(func() { l.end(t) })
	return l
}

func (l *leaver) start(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel, l.gone = cancel, make(chan error, 1)
	go func() {
		l.gone <- admin.ServeUnix(ctx, l.socket, admin.Handler(l, admin.Options{Writable: true}), 0o600)
	}()
	eventually(t, "socket", func() bool {
		c, err := net.Dial("unix", l.socket)
		return err == nil && c.Close() == nil
	})
}

// end closes the socket; it may be called again.
func (l *leaver) end(t *testing.T) {
	l.cancel()
	if err := <-l.gone; err != nil {
		t.Error(err)
	}
	l.gone <- nil
}

// hold takes the lock of a running daemon.
func (l *leaver) hold(t *testing.T) (release func()) {
	t.Helper()
	f, err := os.Create(l.lock)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		t.Fatal(err)
	}
	release = sync.OnceFunc(func() { f.Close() })
	t.Cleanup(release)
	return release
}

// onWrite calls a function at each text.
type onWrite struct{ do func() }

func (w onWrite) Write(p []byte) (int, error) { w.do(); return len(p), nil }

const answered = "Handing over to backup [31m, then stopping.\n"

func TestStop_WaitsForTheEnd(t *testing.T) {
	for _, tt := range []struct {
		args      []string
		did, done string
	}{
		{[]string{"stop"}, "stop", "Stopped.\n"},
		{[]string{"stop", "--no-handover"}, "stop no", "Stopped.\n"},
		{[]string{"restart"}, "restart", "The daemon is gone. If nobody starts the next one, do it now: understudy run\n"},
	} {
		t.Run(strings.Join(tt.args, ""), func(t *testing.T) {
			l := newLeaver(t)
			release := l.hold(t)
			closed := make(chan struct{})
			l.leave = func() { l.end(t); close(closed) }
			var out buffer
			done := make(chan error, 1)
			go func() { done <- run(t.Context(), &out, append(tt.args, "--config", l.config)...) }()
			<-closed
			eventually(t, "the answer", func() bool { return out.String() == answered })
			select {
			case err := <-done:
				t.Fatalf("returned while the daemon holds its lock: %v", err)
			case <-time.After(150 * time.Millisecond): // some looks at it
			}
			release()
			if err := <-done; err != nil || out.String() != answered+tt.done || !slices.Equal(l.did, []string{tt.did}) {
				t.Errorf("%v, did %v, said %q", err, l.did, out.String())
			}
		})
	}
}

// TestStop_KilledDaemon: a socket that nobody listens on any more is no daemon.
func TestStop_KilledDaemon(t *testing.T) {
	config, socket, _ := nodeFile(t)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	l := &leaver{}
	srv := &http.Server{Handler: admin.Handler(l, admin.Options{Writable: true})}
	l.leave = func() { srv.Shutdown(context.Background()) }
	served := make(chan error, 1)
	go func() { served <- srv.Serve(listener) }()
	var out buffer
	if err := run(t.Context(), &out, "stop", "--config", config); err != nil || out.String() != answered+"Stopped.\n" {
		t.Errorf("%v, said %q", err, out.String())
	}
	<-served
	if _, err := os.Stat(socket); err != nil {
		t.Error(err)
	}
}

// TestStop_StartedAgain: whoever supervises the daemon was faster.
func TestStop_StartedAgain(t *testing.T) {
	for action, want := range map[string]int{"stop": cli.ExitFailure, "restart": cli.ExitOK} {
		l := newLeaver(t)
		l.hold(t) // by one or the other all the time
		began := make(chan struct{})
		l.leave = func() { l.end(t); l.start(t); close(began) }
		var out buffer
		err := run(t.Context(), &out, action, "--config", l.config)
		<-began
		if cli.Code(err) != want || want == cli.ExitOK && out.String() != answered+"The next daemon is there already.\n" || err != nil && !strings.Contains(err.Error(), "started the daemon again") {
			t.Errorf("%s: %v, said %q", action, err, out.String())
		}
	}
}

func TestStop_ExitCodes(t *testing.T) {
	for _, action := range []string{"stop", "restart"} {
		l := newLeaver(t)
		err := run(t.Context(), io.Discard, action, "--wait", "120ms", "--config", l.config)
		if cli.Code(err) != cli.ExitFailure || !strings.Contains(err.Error(), "not gone after 120ms") {
			t.Errorf("%s of one that stays: %v", action, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if err := run(ctx, onWrite{cancel}, action, "--config", l.config); cli.Code(err) != cli.ExitFailure || !strings.Contains(err.Error(), "goes on") {
			t.Errorf("%s interrupted: %v", action, err)
		}
		l.err = &admin.ActionError{Code: admin.CodeRefused, Text: "Not now."}
		if err := run(t.Context(), io.Discard, action, "--config", l.config); cli.Code(err) != cli.ExitRefused {
			t.Errorf("%s refused: %v", action, err)
		}
		l.end(t)
		if err := run(t.Context(), io.Discard, action, "--config", l.config); cli.Code(err) != cli.ExitNotRunning {
			t.Errorf("%s without a daemon: %v", action, err)
		}
		for _, wrong := range []string{"--wait=0", "--wait=-1s", "now"} {
			l.did = nil
			if err := run(t.Context(), io.Discard, action, wrong, "--config", l.config); cli.Code(err) != cli.ExitUsage || l.did != nil {
				t.Errorf("%s %s: %v", action, wrong, err)
			}
		}
	}
}
