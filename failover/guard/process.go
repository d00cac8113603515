package guard

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is the running guard. Everything below run belongs to the one
// goroutine that is locked to the forking thread; the others only carry
// connections and orders to it.
type process struct {
	order   Launch
	ln      *net.UnixListener
	logFile *os.File
	lock    *os.File // held until this process ends
	log     *slog.Logger

	lease lease
	tag   Tag
	pid   int    // postmaster
	tick  uint64 // its start time
	ended string // how the postmaster ended; empty while it lives

	// condemned is set once SIGQUIT was sent for good; at killAt SIGKILL
	// follows for every descendant, again and again until none is left.
	condemned string
	killAt    time.Duration
	killed    bool
	stopBy    time.Duration // when a stop by signal to the guard becomes immediate; zero: none

	conn     *net.UnixConn // the daemon; nil when there is none
	connN    uint64        // number of conn, so that news of an older one is told apart
	finishAt time.Duration // when to stop waiting for the daemon to read the end

	conns  chan *net.UnixConn
	orders chan inbound
	done   chan struct{} // closed when run returns
	wg     sync.WaitGroup
}

// inbound is an order, or the end of a connection when gone is set.
type inbound struct {
	connN uint64
	order order
	gone  bool
}

func newProcess(l Launch, ln *net.UnixListener, logFile, lock *os.File, log *slog.Logger) *process {
	if l.Orphan == 0 {
		l.Orphan = 700 * time.Millisecond
	}
	now := Boottime()
	return &process{
		order: l, ln: ln, logFile: logFile, lock: lock, log: log, tag: l.Tag,
		// The daemon that gave the order has not connected yet: it counts as
		// gone from now.
		lease:  lease{primary: l.Primary, length: l.Lease, orphan: max(l.Orphan, startGrace), contact: now, orphaned: now},
		conns:  make(chan *net.UnixConn),
		orders: make(chan inbound),
		done:   make(chan struct{}),
	}
}

// startGrace is how long the daemon that starts a guard may take to connect.
const startGrace = 2 * time.Second

// signalStop is how long a server may take to stop fast when the guard itself is
// told to end.
const signalStop = 10 * time.Second

// withdraw takes back the permission to start, so that nobody can start by hand
// a server whose daemon is gone.
func (g *process) withdraw() {
	if g.order.Permit == "" {
		return
	}
	if err := os.Remove(g.order.Permit); err != nil && !errors.Is(err, os.ErrNotExist) {
		g.log.Error("withdraw the permit", "error", err)
	}
}

// launch forks the postmaster on the calling thread.
func (g *process) launch() error {
	l := g.order
	out, err := os.OpenFile(l.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open server log: %w", err)
	}
	defer out.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGQUIT}
	if l.SetUser {
		sys.Credential = &syscall.Credential{Uid: l.UID, Gid: l.GID, Groups: l.Groups}
		if err := out.Chown(int(l.UID), int(l.GID)); err != nil {
			return fmt.Errorf("give the server log to its account: %w", err)
		}
	}
	dir := l.Dir
	if dir == "" {
		dir = "/"
	}
	pid, err := syscall.ForkExec(l.Argv[0], l.Argv, &syscall.ProcAttr{
		Dir: dir, Env: l.Env, Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: sys,
	})
	if err != nil {
		return fmt.Errorf("execute %s: %w", l.Argv[0], err)
	}
	g.pid, g.tick = pid, processTick(pid)
	g.log.Info("server started", "pid", pid, "primary", l.Primary, "epoch", l.Tag.Epoch.String(), "lease", l.Lease)
	return nil
}

// detachOutput lets go of the pipes of the process that started the guard.
func (g *process) detachOutput() error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	for fd, f := range []*os.File{null, g.logFile, g.logFile} {
		if err := unix.Dup3(int(f.Fd()), fd, 0); err != nil {
			return fmt.Errorf("replace file descriptor %d: %w", fd, err)
		}
	}
	return nil
}

// run serves until the postmaster and everything it made are gone and the
// daemon, when there is one, knows how it ended.
func (g *process) run() {
	signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
	sigs := make(chan os.Signal, 8)
	signal.Notify(sigs, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	g.wg.Add(1)
	go g.accept()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !g.finished() {
		select {
		case s := <-sigs:
			g.signalled(s)
		case c := <-g.conns:
			g.adopt(c)
		case in := <-g.orders:
			g.handle(in)
		case <-timer.C:
		}
		g.reap()
		g.act()
		timer.Reset(g.wait())
	}
	g.log.Info("guard ends")
	close(g.done)
	g.drop()
	g.wg.Wait()
}

// finished tells whether nothing is left to guard and to tell.
func (g *process) finished() bool {
	if g.ended == "" || g.finishAt == 0 {
		return false
	}
	return g.conn == nil || Boottime() >= g.finishAt
}

// wait is the time to the next thing to do. It never exceeds 100 ms under a
// lease: Go's timers stand still while the machine is suspended, Boottime does
// not.
func (g *process) wait() time.Duration {
	now := Boottime()
	switch {
	case g.ended != "" && g.finishAt != 0:
		return max(g.finishAt-now, time.Millisecond)
	case g.killed || g.ended != "":
		return 5 * time.Millisecond
	case g.condemned != "":
		return min(max(g.killAt-now, 0), 100*time.Millisecond)
	}
	if at, ok := g.lease.end(); ok || g.stopBy != 0 {
		if !ok || g.stopBy != 0 {
			at = now + 100*time.Millisecond
		}
		return min(max(at-now, 0), 100*time.Millisecond)
	}
	return time.Second
}

// act does what the time asks for.
func (g *process) act() {
	now := Boottime()
	if g.ended != "" {
		g.sweep(now)
		return
	}
	if at, ok := g.lease.end(); ok && now >= at && g.condemned == "" {
		g.condemn("lease ended: "+g.lease.why(), killGrace)
	}
	if g.stopBy != 0 && now >= g.stopBy && g.condemned == "" {
		g.condemn("the guard was told to end", killGrace)
	}
	if g.condemned != "" && now >= g.killAt {
		g.killed = true
		if _, err := killDescendants(os.Getpid()); err != nil {
			g.log.Error("kill the server's processes", "error", err)
			syscall.Kill(g.pid, syscall.SIGKILL)
		}
	}
}

// condemn ends the server: immediate stop now, SIGKILL of everything after
// grace.
func (g *process) condemn(why string, grace time.Duration) {
	at := Boottime() + grace
	if g.condemned != "" {
		g.killAt = min(g.killAt, at)
		return
	}
	g.condemned, g.killAt = why, at
	g.log.Warn("ending the server", "reason", why, "pid", g.pid)
	syscall.Kill(g.pid, syscall.SIGQUIT)
}

// sweep removes what outlived the postmaster, then announces the end.
func (g *process) sweep(now time.Duration) {
	if g.finishAt != 0 {
		return
	}
	n, err := killDescendants(os.Getpid())
	if err != nil {
		g.log.Error("look for processes left by the server", "error", err)
		return
	}
	if n > 0 {
		return // look again: a killed process takes a moment to go
	}
	g.log.Info("server ended", "status", g.ended)
	g.finishAt = now + exitLinger
	g.withdraw()
	// Nothing is guarded any more: whoever hears of the end may start anew at
	// once.
	g.ln.Close() // removes the socket
	g.lock.Close()
	g.send(notice{Exited: g.ended})
}

// reap collects ended children; orphans of the postmaster are ours as well.
func (g *process) reap() {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if pid == g.pid {
			g.ended = describe(ws, g.condemned)
		}
	}
}

func describe(ws syscall.WaitStatus, why string) string {
	s := fmt.Sprintf("exit status %d", ws.ExitStatus())
	if ws.Signaled() {
		s = "killed by signal: " + ws.Signal().String()
	}
	if why != "" {
		s += " (" + why + ")"
	}
	return s
}

// signalled handles signals to the guard itself. Being asked to end, by hand or
// when the machine goes down, is a fast stop with a deadline: PostgreSQL waits
// in it for a receiver that may be gone.
func (g *process) signalled(s os.Signal) {
	if s == syscall.SIGCHLD || g.ended != "" {
		return
	}
	g.log.Warn("asked to end by signal", "signal", s.String())
	switch {
	case s == syscall.SIGQUIT:
		g.condemn("the guard got "+s.String(), killGrace)
	case g.stopBy == 0:
		syscall.Kill(g.pid, syscall.SIGINT)
		g.stopBy = Boottime() + signalStop
	}
}

// accept brings connections of our own user to run.
func (g *process) accept() {
	defer g.wg.Done()
	for {
		c, err := g.ln.AcceptUnix()
		if err != nil {
			select {
			case <-g.done:
				return
			case <-time.After(50 * time.Millisecond): // out of descriptors: not for ever
				continue
			}
		}
		if !samePeer(c) {
			c.Close()
			continue
		}
		select {
		case g.conns <- c:
		case <-g.done:
			c.Close()
			return
		}
	}
}

// adopt makes c the daemon. The newest connection wins: an older one can only
// belong to a daemon that is dead or frozen.
func (g *process) adopt(c *net.UnixConn) {
	g.drop()
	g.conn = c
	g.connN++
	g.lease.connected()
	g.lease.orphan = g.order.Orphan
	g.wg.Add(1)
	go g.read(c, g.connN)
	g.send(notice{Hello: &hello{GuardPID: os.Getpid(), ServerPID: g.pid, ServerTick: g.tick, Tag: g.tag}})
	if g.finishAt != 0 {
		g.send(notice{Exited: g.ended})
	}
}

// drop closes the daemon's connection, if any.
func (g *process) drop() {
	if g.conn == nil {
		return
	}
	g.conn.Close()
	g.conn = nil
	g.lease.disconnected(Boottime())
}

func (g *process) read(c *net.UnixConn, n uint64) {
	defer g.wg.Done()
	r := bufio.NewReaderSize(c, maxLine)
	for {
		in := inbound{connN: n}
		if err := readLine(r, &in.order); err != nil {
			in.gone = true
		}
		select {
		case g.orders <- in:
		case <-g.done:
			return
		}
		if in.gone {
			return
		}
	}
}

func (g *process) send(n notice) {
	if g.conn == nil {
		return
	}
	g.conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if err := writeLine(g.conn, n); err != nil {
		g.drop() // a daemon that does not read is no daemon
	}
}
