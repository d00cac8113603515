package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Signal orders a stop and does not wait for it. Immediate is completed with
// SIGKILL by the guard when the server does not obey within 300 ms.
func (c *Client) Signal(mode StopMode) error {
	return c.do(order{Op: opSignal, Mode: mode})
}

// Stop orders a stop and waits for the server's end. When ctx ends first, the
// stop becomes immediate and 300 ms later every process of the server gets
// SIGKILL; Stop still waits for that. It returns nil when the server has ended,
// however: pg_control tells whether it was clean. A guard that does not answer
// is killed, and its server with it.
func (c *Client) Stop(ctx context.Context, mode StopMode) error {
	err := c.Signal(mode)
	switch {
	case errors.Is(err, ErrEnded): // its last processes may be going
	case errors.Is(err, ErrDead):
		return c.destroy()
	case err != nil:
		return fmt.Errorf("stop server: %w", err)
	}
	select {
	case <-c.exited:
		return nil
	case <-c.dead:
		return c.destroy()
	case <-ctx.Done():
	}
	if err := c.do(order{Op: opKill}); errors.Is(err, ErrDead) {
		return c.destroy()
	}
	select {
	case <-c.exited:
		return nil
	case <-c.dead:
	case <-time.After(3 * time.Second):
	}
	return c.destroy()
}

// Destroy kills a guard that does not answer to Connect (ErrDead), with its
// server and everything below; it waits until they are gone. Without a guard on
// the socket it does nothing.
func Destroy(ctx context.Context, socket string) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find guard: %w", err)
	}
	defer conn.Close()
	pid, err := peerPID(conn.(*net.UnixConn))
	if err != nil {
		return fmt.Errorf("find guard: %w", err)
	}
	below, err := descendants(pid)
	if err != nil {
		return fmt.Errorf("list the guard's processes: %w", err)
	}
	ticks := make(map[int]uint64, len(below)+1)
	for _, p := range append(below, pid) { // the guard last, so that parenthood holds meanwhile
		ticks[p] = processTick(p)
		syscall.Kill(p, syscall.SIGKILL)
	}
	for !allGone(ticks) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the end of guard %d: %w", pid, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	return nil
}

// peerPID is the process that listens on the other end.
func peerPID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if cerr != nil {
		return 0, cerr
	}
	return int(cred.Pid), nil
}

// destroy ends a server whose guard is gone or frozen: the processes below the
// postmaster are listed while they still have it as parent, then guard,
// postmaster and those are killed.
func (c *Client) destroy() error {
	pid := c.hello.ServerPID
	if c.serverGone() {
		c.end("ended after its guard")
		return nil
	}
	below, err := descendants(pid)
	if err != nil {
		return fmt.Errorf("list the server's processes: %w", err)
	}
	ticks := make(map[int]uint64, len(below))
	for _, p := range below {
		ticks[p] = processTick(p)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	for p, tick := range ticks {
		if tick != 0 && processTick(p) == tick {
			syscall.Kill(p, syscall.SIGKILL)
		}
	}
	c.killGuard() // a frozen one must not wake up later
	deadline := time.Now().Add(2 * time.Second)
	for time.Now().Before(deadline) {
		if c.serverGone() && allGone(ticks) {
			c.end("killed: its guard did not answer")
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("server process %d does not end after SIGKILL", pid)
}

// serverGone tells whether the postmaster has ended; one that its parent has not
// collected yet counts as gone.
func (c *Client) serverGone() bool {
	tick := processTick(c.hello.ServerPID)
	return tick == 0 || tick != c.hello.ServerTick
}

// killGuard kills the guard if it is still the parent of our postmaster, dead or
// alive, and so cannot be confused with another process of the same number.
func (c *Client) killGuard() {
	if s, err := readStat(c.hello.ServerPID, make([]byte, 1024)); err == nil && s.parent == c.hello.GuardPID {
		syscall.Kill(c.hello.GuardPID, syscall.SIGKILL)
	}
}

func allGone(ticks map[int]uint64) bool {
	for p, tick := range ticks {
		if tick != 0 && processTick(p) == tick {
			return false
		}
	}
	return true
}
