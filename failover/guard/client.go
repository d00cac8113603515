package guard

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Client is the daemon's connection to a guard. Its methods may be called from
// several goroutines. An order returns when the guard has carried it out.
type Client struct {
	conn  net.Conn
	hello hello

	mu     sync.Mutex // tag, next, wait, status; and the order of writes
	tag    Tag
	next   uint64
	wait   map[uint64]chan notice
	status string

	exited   chan struct{}
	exitOnce sync.Once
	dead     chan struct{}
	deadOnce sync.Once
	closed   chan struct{} // Detach was called
	once     sync.Once
	wg       sync.WaitGroup
}

// Start spawns a guard, which starts the postmaster, and returns a connection
// to it. binary is the path of a program whose subcommand "guard" is Main.
// The guard is a session of its own and outlives the caller. On return the
// postmaster has been executed; whether it can run is seen in its log and on
// Exited. ErrGuardRuns is returned when the socket is in use. After an error
// that came from ctx a guard may run nevertheless; Connect tells.
func Start(ctx context.Context, binary string, l Launch) (*Client, error) {
	if err := l.validate(); err != nil {
		return nil, err
	}
	if l.Env == nil {
		l.Env = os.Environ()
	}
	if err := spawn(ctx, binary, l); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return Connect(ctx, l.Socket)
}

func spawn(ctx context.Context, binary string, l Launch) error {
	b, err := json.Marshal(l)
	if err != nil {
		return fmt.Errorf("encode launch order: %w", err)
	}
	in, inW, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	defer in.Close()
	outR, out, err := os.Pipe()
	if err != nil {
		inW.Close()
		return fmt.Errorf("make pipe: %w", err)
	}
	defer outR.Close()
	cmd := exec.Command(binary, "guard")
	cmd.Stdin, cmd.Stdout, cmd.Dir = in, out, "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	out.Close()
	if err != nil {
		inW.Close()
		return fmt.Errorf("execute %s: %w", binary, err)
	}
	defer cmd.Wait() // the first process ends as soon as it let go of the guard
	in.Close()
	stop := context.AfterFunc(ctx, func() {
		inW.SetDeadline(time.Unix(1, 0))
		outR.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	_, err = inW.Write(b)
	inW.Close()
	if err != nil && !errors.Is(err, syscall.EPIPE) { // then its answer says why
		return fmt.Errorf("hand over launch order: %w", errors.Join(err, ctx.Err()))
	}
	var r ready
	if err := readLine(bufio.NewReaderSize(outR, maxLine), &r); err != nil {
		return fmt.Errorf("wait for the guard: %w", errors.Join(err, ctx.Err()))
	}
	switch {
	case r.Taken:
		return fmt.Errorf("%w on %s", ErrGuardRuns, l.Socket)
	case r.Error != "":
		return errors.New(r.Error)
	}
	return nil
}

// Connect adopts the guard that listens on socket; any older connection to it
// is closed by the guard. ErrNoGuard is returned when there is none, ErrDead
// when there is one that does not answer within a second: see Destroy.
func Connect(ctx context.Context, socket string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil, ErrNoGuard
	}
	if err != nil {
		return nil, fmt.Errorf("connect to guard: %w", err)
	}
	deadline := time.Now().Add(2 * answerTimeout)
	if t, ok := ctx.Deadline(); ok && t.Before(deadline) {
		deadline = t
	}
	conn.SetReadDeadline(deadline)
	r := bufio.NewReaderSize(conn, maxLine)
	var n notice
	if err := readLine(r, &n); err != nil {
		conn.Close()
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil, ErrNoGuard // it ended between our call and its answer, or refuses our user
		}
		return nil, fmt.Errorf("%w: %w", ErrDead, err)
	}
	if n.Hello == nil {
		conn.Close()
		return nil, errors.New("greet guard: what answers there is no guard")
	}
	conn.SetReadDeadline(time.Time{})
	c := &Client{
		conn: conn, hello: *n.Hello, tag: n.Hello.Tag, wait: make(map[uint64]chan notice),
		exited: make(chan struct{}), dead: make(chan struct{}), closed: make(chan struct{}),
	}
	c.wg.Add(2)
	go c.read(r)
	go c.watch()
	return c, nil
}

// Tag is what was started, as the guard told at the connection or as set since.
func (c *Client) Tag() Tag {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tag
}

// PostmasterPID is the process id of the server.
func (c *Client) PostmasterPID() int { return c.hello.ServerPID }

// GuardPID is the process id of the guard.
func (c *Client) GuardPID() int { return c.hello.GuardPID }

// Exited is closed when the postmaster and every process it made are gone.
func (c *Client) Exited() <-chan struct{} { return c.exited }

// Dead is closed when the guard did not answer for 0.5 s or its socket closed
// before it told the server's end. The server may still run: call Stop. It
// stays open after Exited and after Detach.
func (c *Client) Dead() <-chan struct{} { return c.dead }

// ExitStatus tells in words how the postmaster ended and, when the guard ended
// it, why; empty while it runs.
func (c *Client) ExitStatus() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Renew tells the guard of a contact with a majority: contact is the Boottime
// at which the heartbeat was sent that a majority answered. The lease then ends
// at contact + Launch.Lease. A contact older than known changes nothing.
func (c *Client) Renew(contact time.Duration) error {
	return c.do(order{Op: opRenew, Time: contact})
}

// Extend keeps the server at least until the given Boottime, at most 10 minutes
// from now, whatever happens to daemon and contact; an earlier time, zero
// included, takes an extension back. Call it only for a restart that the
// ledger has recorded.
func (c *Client) Extend(until time.Duration) error {
	return c.do(order{Op: opExtend, Time: until})
}

// SetTag replaces the tag.
func (c *Client) SetTag(t Tag) error {
	if err := c.do(order{Op: opTag, Tag: &t}); err != nil {
		return err
	}
	c.mu.Lock()
	c.tag = t
	c.mu.Unlock()
	return nil
}

// SetPrimary puts a running server under the lease, which then starts as if the
// majority had been heard now, or frees it when it is a standby again.
func (c *Client) SetPrimary(primary bool) error {
	return c.do(order{Op: opPrimary, Primary: primary})
}

// Detach closes the connection and announces nothing: to the guard it looks
// like the daemon's death.
func (c *Client) Detach() {
	c.once.Do(func() {
		close(c.closed)
		c.conn.Close()
	})
	c.wg.Wait()
}

// do sends one order and waits for the answer, 0.5 s at most.
func (c *Client) do(o order) error {
	ch := make(chan notice, 1)
	c.mu.Lock()
	if c.status != "" {
		c.mu.Unlock()
		return ErrEnded
	}
	c.next++
	o.ID = c.next
	c.wait[o.ID] = ch
	c.conn.SetWriteDeadline(time.Now().Add(answerTimeout))
	err := writeLine(c.conn, o)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.wait, o.ID)
		c.mu.Unlock()
	}()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDead, err)
	}
	// Counted in slices, so that a pause of this process (a debugger, a
	// suspended machine) is not taken for the guard's.
	tick := time.NewTicker(answerTimeout / 5)
	defer tick.Stop()
	for range 5 {
		select {
		case n := <-ch:
			return c.result(o, n)
		case <-c.exited:
			return ErrEnded
		case <-c.dead:
			return ErrDead
		case <-c.closed:
			return net.ErrClosed
		case <-tick.C:
		}
	}
	return ErrDead
}

func (c *Client) result(o order, n notice) error {
	switch n.Error {
	case "":
		return nil
	case ErrEnded.Error():
		return ErrEnded
	}
	return fmt.Errorf("guard refuses %q: %s", o.Op, n.Error)
}

// read distributes answers until the connection ends.
func (c *Client) read(r *bufio.Reader) {
	defer c.wg.Done()
	for {
		var n notice
		if err := readLine(r, &n); err != nil {
			break
		}
		if n.Exited != "" {
			c.end(n.Exited)
			c.conn.Close() // the guard waits for this
			return
		}
		c.mu.Lock()
		if ch, ok := c.wait[n.ID]; ok {
			ch <- n
			delete(c.wait, n.ID)
		}
		c.mu.Unlock()
	}
	c.markDead()
}

// watch asks the guard for a sign of life every 100 ms.
func (c *Client) watch() {
	defer c.wg.Done()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-c.closed:
			return
		case <-c.exited:
			return
		case <-c.dead:
			return
		case <-tick.C:
		}
		if err := c.do(order{Op: opPing}); errors.Is(err, ErrDead) {
			c.markDead()
		}
	}
}

func (c *Client) markDead() {
	select {
	case <-c.closed:
	case <-c.exited:
	default:
		c.deadOnce.Do(func() { close(c.dead) })
	}
}

func (c *Client) end(status string) {
	c.exitOnce.Do(func() {
		c.mu.Lock()
		c.status = status
		c.mu.Unlock()
		close(c.exited)
	})
}
