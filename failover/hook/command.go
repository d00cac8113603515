package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// killWait is how long a killed program may take to go. One that hangs in
	// the kernel (a dead network mount) is left behind.
	killWait = 2 * time.Second
	// drainWait is how long output is read on after the program has ended, for
	// processes of it that left its process group and hold the pipe.
	drainWait = 100 * time.Millisecond
	// busyTries is how often a program is tried that somebody writes just now.
	busyTries = 10
	busyPause = 20 * time.Millisecond
)

// command is one program to run.
type command struct {
	// check refuses the program before it is started. Like the start, it may
	// hang on a dead network mount.
	check   func(file string) error
	argv    []string
	env     []string
	account Account
}

// run runs the program to its end. When ctx ends, and also when the program has
// ended and left processes behind, its whole process group is killed. A process
// that made a session of its own is out of reach, on purpose: that is how a
// hook leaves something running. The error wraps the context's cause when ctx
// ended first.
//
// A start that hangs is given up and killed when it succeeds after all; until
// then it costs a thread, and the Go runtime starts no other process.
func (c command) run(ctx context.Context) (Result, error) {
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	pr, pw, err := os.Pipe()
	if err != nil {
		return Result{}, fmt.Errorf("make a pipe: %w", err)
	}
	defer pr.Close()
	p := newProcess()
	go p.live(c, pw)
	return p.follow(ctx, pr)
}

// follow waits for a program's start and end, reads what it prints, and tells
// how it went.
func (p *process) follow(ctx context.Context, pr *os.File) (Result, error) {
	began := time.Now()
	if err := p.awaitStart(ctx); err != nil {
		return Result{}, err
	}
	var out output
	read := make(chan struct{})
	go func() {
		defer close(read)
		out.readFrom(pr)
	}()
	cause := p.await(ctx)
	pr.SetReadDeadline(time.Now().Add(drainWait))
	<-read
	res := Result{Ran: true, Status: -1, Took: time.Since(began), First: out.first(), Output: out.String()}
	select {
	case <-p.ended:
		res.Status = p.state.ExitCode()
	default:
		return res, fmt.Errorf("it does not end although it was killed: %w", cause)
	}
	switch {
	case p.state.Success():
		return res, nil
	case cause != nil:
		return res, &killedError{after: res.Took, cause: cause}
	case res.Status >= 0:
		return res, fmt.Errorf("it ended with status %d", res.Status)
	}
	return res, fmt.Errorf("it was ended by %s", p.state)
}

// killedError tells that a program was killed, and for what.
type killedError struct {
	after time.Duration
	cause error
}

func (e *killedError) Error() string {
	after := e.after.Round(time.Millisecond)
	switch {
	case errors.Is(e.cause, context.DeadlineExceeded):
		return fmt.Sprintf("it did not end in time and was killed after %s", after)
	case errors.Is(e.cause, context.Canceled):
		return fmt.Sprintf("it was killed after %s, since nobody waited for it any more", after)
	}
	return fmt.Sprintf("it was killed after %s, since %s", after, e.cause)
}

func (e *killedError) Unwrap() error { return e.cause }

// prepare makes the child a session and process group of its own, as the
// account, with nothing of the daemon's but the output pipe.
func (c command) prepare(out *os.File) *exec.Cmd {
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if a := c.account; a.Switch {
		sys.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID, Groups: a.Groups}
	}
	// Stdin nil is the null device.
	return &exec.Cmd{Path: c.argv[0], Args: c.argv, Env: c.env, Dir: "/", Stdout: out, Stderr: out, SysProcAttr: sys}
}

// reason takes the path off an error of the system: the sentence around it
// names the file.
func reason(err error) error {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err
	}
	return err
}

// process is a running program.
type process struct {
	started chan error    // holds one
	ended   chan struct{} // closed after state is set

	// mu keeps the process from being collected while it is killed: until then
	// its number names nobody else.
	mu        sync.Mutex
	pid       int
	collected bool
	abandoned bool // nobody waits for the start any more
	state     *os.ProcessState
}

func newProcess() *process {
	return &process{started: make(chan error, 1), ended: make(chan struct{})}
}

// live starts the program and collects it. The kernel ties the signal at the
// parent's death to the thread that forked, so the thread is kept.
func (p *process) live(c command, out *os.File) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, err := c.start(out)
	out.Close()
	if err != nil {
		p.started <- err
		return
	}
	p.mu.Lock()
	p.pid = cmd.Process.Pid
	if p.abandoned {
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	p.mu.Unlock()
	p.started <- nil
	for unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	p.mu.Lock()
	syscall.Kill(-p.pid, syscall.SIGKILL) // what it left behind
	cmd.Wait()                            // the state says it all
	p.state, p.collected = cmd.ProcessState, true
	p.mu.Unlock()
	close(p.ended)
}

// start checks and starts the program, again for a while when somebody is
// writing it.
func (c command) start(out *os.File) (*exec.Cmd, error) {
	if err := c.check(c.argv[0]); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		cmd := c.prepare(out)
		err := cmd.Start()
		if err == nil {
			return cmd, nil
		}
		if try == busyTries || !errors.Is(err, syscall.ETXTBSY) {
			return nil, fmt.Errorf("it cannot be started: %w", reason(err))
		}
		time.Sleep(busyPause)
	}
}

// awaitStart waits for the start, past ctx for a moment only.
func (p *process) awaitStart(ctx context.Context) error {
	select {
	case err := <-p.started:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-p.started:
		return err // a running program is killed next
	case <-time.After(killWait):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.abandoned = true
	if p.pid != 0 && !p.collected {
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	return fmt.Errorf("its start hangs: %w", context.Cause(ctx))
}

// await waits for the end; past ctx it kills, and returns the cause.
func (p *process) await(ctx context.Context) error {
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	if !p.collected {
		syscall.Kill(-p.pid, syscall.SIGKILL)
	}
	p.mu.Unlock()
	select {
	case <-p.ended:
	case <-time.After(killWait):
	}
	return context.Cause(ctx)
}
