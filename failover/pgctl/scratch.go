package pgctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"understudy/shipper/pos"
)

// Scratch runs PostgreSQL on a restored directory that no group knows of: to
// recover it, to look into it, to give it another identity. Nothing of the
// configuration in the directory counts but what ALTER SYSTEM left there, and
// that is overruled by the command line. The server ends with this process.
//
// Methods must not be called concurrently, except Stop.
type Scratch struct {
	Install
	Account
	DataDir   string
	SocketDir string   // is made, closed to others, and holds the configuration
	Port      int      // names the socket, and the TCP port when there is Listen
	Listen    []string // addresses; empty means the socket only
	LogFile   string   // the server's log is appended; empty for none
	// Settings go before those that Recover is given.
	Settings map[string]string
	// Patience is how long replay may stand still; zero is ten minutes.
	Patience time.Duration
	// Alive is a number that grows while log is on its way to the server, which
	// counts as progress; nil for none.
	Alive func() uint64
	Log   *slog.Logger // nil discards

	mu  sync.Mutex
	run *scratchRun // guarded by mu; nil when nothing runs
}

// Recovered is where a recovery ended.
type Recovered struct {
	LSN      pos.LSN      // end of the last replayed record, or at least its start
	Time     time.Time    // of the last replayed transaction; zero when there was none
	Timeline pos.Timeline // that is written now; zero when the server only stopped
	Stop     string       // what the server said of the target; empty at the end of the log
}

// Errors of Recover that a caller acts on.
var (
	// ErrTargetMissed is returned when the log ended before the target.
	ErrTargetMissed = errors.New("recovery ended before its target")
	// ErrLogMissing is returned when log that recovery needs is not there.
	ErrLogMissing = errors.New("log that the recovery needs is missing")
	// ErrNoProgress is returned when replay stood still for Patience.
	ErrNoProgress = errors.New("recovery makes no progress")
)

const (
	scratchPatience = 10 * time.Minute
	scratchPoll     = 100 * time.Millisecond
)

// scratchRun is one server process.
type scratchRun struct {
	pid    int
	exited chan struct{}
	err    error // why it ended; after exited
	said   *recoveryLog
}

// server is the same database for the tools.
func (s *Scratch) server() *Server {
	return &Server{Install: s.Install, Account: s.Account, DataDir: s.DataDir, Log: s.log()}
}

func (s *Scratch) log() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// DSN is the connection string for a superuser over the private socket, which
// asks for no password.
func (s *Scratch) DSN(role, database string) string {
	q := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return "host='" + q.Replace(s.SocketDir) + "' port=" + strconv.Itoa(s.Port) + " user='" + q.Replace(role) + "' dbname='" + q.Replace(database) + "' sslmode=disable connect_timeout=5"
}

// Recover starts the server with settings on its command line and waits until
// recovery has ended as they say: the server is then open for writing and runs
// on, or, with recovery_target_action = shutdown, has stopped. On a directory
// without anything to recover it just starts the server. seen is told how far
// replay has come, by the segment at least; nil for none. After an error
// nothing runs, and Recovered says how far replay came.
func (s *Scratch) Recover(ctx context.Context, settings map[string]string, seen func(pos.LSN)) (Recovered, error) {
	ctl, err := s.server().Control(ctx)
	if err != nil {
		return Recovered{}, fmt.Errorf("recover: %w", err)
	}
	if err := s.Start(ctx, s.recoverySettings(ctl, settings)); err != nil {
		return Recovered{}, err
	}
	s.mu.Lock()
	run := s.run
	s.mu.Unlock()
	err = s.await(ctx, run, ctl.SegSize, seen)
	out := run.said.outcome()
	if err != nil {
		s.kill(run)
		return out, fmt.Errorf("recover: %w%s", err, out.suffix())
	}
	if out.Timeline == 0 && !run.said.stopped() {
		s.fillEnd(ctx, &out)
	}
	if end, ok := s.forkOf(out.Timeline); ok {
		out.LSN = end
	}
	return out, nil
}

// fillEnd tells of a database that was recovered before.
func (s *Scratch) fillEnd(ctx context.Context, out *Recovered) {
	if c, err := s.server().Control(ctx); err == nil {
		out.Timeline, out.LSN = c.Timeline, c.Checkpoint
	}
}

// forkOf is where a timeline left its parent.
func (s *Scratch) forkOf(t pos.Timeline) (pos.LSN, bool) {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "pg_wal", fmt.Sprintf("%08X.history", uint32(t))))
	if err != nil {
		return 0, false
	}
	var end pos.LSN
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 {
			if l, err := pos.ParseLSN(f[1]); err == nil {
				end = l
			}
		}
	}
	return end, end != 0
}

func (r Recovered) suffix() string {
	var b strings.Builder
	if r.LSN != 0 {
		fmt.Fprintf(&b, "; replay came to %s", r.LSN)
	}
	if !r.Time.IsZero() {
		fmt.Fprintf(&b, ", its last transaction is of %s", r.Time.Format(time.RFC3339Nano))
	}
	return b.String()
}

// recoverySettings completes what a caller wants.
func (s *Scratch) recoverySettings(ctl Control, given map[string]string) map[string]string {
	set := map[string]string{
		// Nobody reads during replay; and so no setting can be too low for it.
		"hot_standby": "off",
		"wal_level":   walLevel(ctl.WALLevel),
		"autovacuum":  "off", "max_wal_size": "2GB", "checkpoint_timeout": "15min", "shared_buffers": "256MB",
		"recovery_target_action": "promote",
	}
	if s.Major >= 15 {
		set["log_startup_progress_interval"] = "1s"
	}
	maps.Copy(set, s.Settings)
	maps.Copy(set, given)
	for name, least := range ctl.Standby {
		if v, err := strconv.Atoi(set[name]); err != nil || v < least {
			set[name] = strconv.Itoa(least)
		}
	}
	return set
}

// scratchForced keeps a server within its directory and its log readable to us.
func (s *Scratch) scratchForced() map[string]string {
	return map[string]string{
		"hba_file": s.confPath("pg_hba.conf"), "ident_file": s.confPath("pg_ident.conf"),
		"unix_socket_directories": `"` + s.SocketDir + `"`, "unix_socket_permissions": "0700",
		"port": strconv.Itoa(s.Port), "listen_addresses": strings.Join(s.Listen, ","),
		"logging_collector": "off", "log_destination": "stderr", "lc_messages": "C", "log_timezone": "UTC", "log_line_prefix": "",
		"log_min_messages": "warning", "log_min_error_statement": "panic", "update_process_title": "on",
		"ssl": "off", "huge_pages": "off", "restart_after_crash": "off", "cluster_name": "understudy_scratch",
	}
}

// scratchDefaults can be overruled by a caller who knows why.
func scratchDefaults() map[string]string {
	return map[string]string{
		"shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "",
		"archive_mode": "off", "archive_command": "", "archive_cleanup_command": "", "recovery_end_command": "",
		"primary_conninfo": "", "primary_slot_name": "", "synchronous_standby_names": "", "recovery_min_apply_delay": "0",
		"data_sync_retry": "off", "ignore_invalid_pages": "off", "zero_damaged_pages": "off", "fsync": "on", "full_page_writes": "on",
	}
}

func (s *Scratch) confPath(name string) string { return filepath.Join(s.SocketDir, "scratch_"+name) }

// args is the command line, binary first. What comes later wins.
func (s *Scratch) args(settings map[string]string) []string {
	set := scratchDefaults()
	maps.Copy(set, s.Settings)
	maps.Copy(set, settings)
	maps.Copy(set, s.scratchForced())
	args := []string{filepath.Join(s.BinDir, "postgres"), "-D", s.DataDir, "-c", "config_file=" + s.confPath("postgresql.conf")}
	for _, name := range slices.Sorted(maps.Keys(set)) {
		args = append(args, "-c", name+"="+set[name])
	}
	return args
}

// Start starts the server and does not wait until it answers.
func (s *Scratch) Start(ctx context.Context, settings map[string]string) error {
	if s.Running() {
		return errors.New("start server: it runs already")
	}
	srv := s.server()
	if err := srv.checkMajor(); err != nil {
		return err
	}
	if err := srv.WaitGone(ctx); err != nil {
		return err
	}
	if err := s.writeConf(srv); err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	run := &scratchRun{exited: make(chan struct{}), said: &recoveryLog{log: s.log()}}
	started := make(chan error, 1)
	go s.serve(run, s.args(settings), started)
	if err := <-started; err != nil {
		return fmt.Errorf("start server: %w", err)
	}
	s.mu.Lock()
	s.run = run
	s.mu.Unlock()
	return nil
}

func (s *Scratch) writeConf(srv *Server) error {
	if n := len(filepath.Join(s.SocketDir, ".s.PGSQL."+strconv.Itoa(s.Port))); n > 107 {
		return fmt.Errorf("socket directory %s: a unix socket path in it has %d bytes, at most 107 are possible; choose a shorter one", s.SocketDir, n)
	}
	if strings.ContainsAny(s.SocketDir, "\",\n") {
		return fmt.Errorf("socket directory %q: quotes, commas and line breaks are not possible", s.SocketDir)
	}
	if err := srv.makeDir(s.SocketDir, 0o700); err != nil {
		return err
	}
	if err := srv.reachable(s.SocketDir); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"postgresql.conf": "# Everything is on the command line.\n",
		"pg_hba.conf":     "local all,replication all trust\n", // who may enter the directory is the account, or root
		"pg_ident.conf":   "",
	} {
		if err := os.WriteFile(s.confPath(name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// serve runs the server to its end, on a thread that lives as long: its end is
// what the kernel tells the server by SIGQUIT.
func (s *Scratch) serve(run *scratchRun, args []string, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := s.server().command(context.Background(), "postgres", args[1:]...)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
	cmd.WaitDelay = 5 * time.Second
	var out io.Writer = run.said
	if s.LogFile != "" {
		f, err := os.OpenFile(s.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
		if err != nil {
			started <- fmt.Errorf("open its log: %w", err)
			return
		}
		defer f.Close()
		out = io.MultiWriter(run.said, ignoreErrors{f})
	}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	run.pid = cmd.Process.Pid
	started <- nil
	run.err = cmd.Wait()
	if errors.Is(run.err, exec.ErrWaitDelay) {
		run.err = nil // a helper process holds the log a little longer
	}
	run.said.finish()
	close(run.exited)
}

// ignoreErrors keeps a full disk below the log from ending the recovery.
type ignoreErrors struct{ w io.Writer }

// Write never fails.
func (i ignoreErrors) Write(p []byte) (int, error) {
	_, _ = i.w.Write(p)
	return len(p), nil
}

// Running tells whether the server runs.
func (s *Scratch) Running() bool {
	s.mu.Lock()
	run := s.run
	s.mu.Unlock()
	if run == nil {
		return false
	}
	select {
	case <-run.exited:
		return false
	default:
		return true
	}
}

// await waits for the end of recovery.
func (s *Scratch) await(ctx context.Context, run *scratchRun, segSize int64, seen func(pos.LSN)) error {
	patience := s.Patience
	if patience <= 0 {
		patience = scratchPatience
	}
	var last scratchProgress
	moved := time.Now()
	tick := time.NewTicker(scratchPoll)
	defer tick.Stop()
	for {
		if open, err := run.said.verdict(); open || err != nil {
			return run.settled(err)
		}
		now := s.progress(run, segSize)
		if now.at > last.at && seen != nil {
			seen(now.at)
		}
		if now != last {
			last, moved = now, time.Now()
		}
		if time.Since(moved) > patience {
			return fmt.Errorf("%w for %s", ErrNoProgress, patience)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-run.said.news():
		case <-run.exited:
			return run.said.ended(run.err)
		case <-tick.C:
		}
	}
}

// settled waits a moment for the server's last words on why it ends.
func (r *scratchRun) settled(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-r.exited:
	case <-time.After(2 * time.Second):
	}
	if _, last := r.said.verdict(); last != nil {
		return last
	}
	return err
}

// scratchProgress is what moves while a server recovers.
type scratchProgress struct {
	at    pos.LSN
	alive uint64
}

// progress looks how far replay is: the log tells of every second where
// PostgreSQL is new enough, the title of the startup process of every segment.
func (s *Scratch) progress(run *scratchRun, segSize int64) scratchProgress {
	p := scratchProgress{at: run.said.replayed()}
	if s.Alive != nil {
		p.alive = s.Alive()
	}
	children, err := childrenOf(run.pid)
	if err != nil {
		return p
	}
	for _, pid := range children {
		b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
		if err != nil {
			continue
		}
		if _, seg, ok := strings.Cut(strings.TrimRight(string(b), "\x00 "), "startup recovering "); ok {
			if _, at, err := pos.ParseSegName(seg, segSize); err == nil {
				p.at = max(p.at, at)
			}
		}
	}
	return p
}

// Stop ends the server by a fast shutdown, or, when ctx ends first, at once.
// One that does not run is fine.
func (s *Scratch) Stop(ctx context.Context) error {
	s.mu.Lock()
	run := s.run
	s.mu.Unlock()
	if run == nil {
		return nil
	}
	select {
	case <-run.exited:
		return nil
	default:
	}
	syscall.Kill(run.pid, syscall.SIGINT)
	select {
	case <-run.exited:
		return nil
	case <-ctx.Done():
		s.kill(run)
		return fmt.Errorf("stop server: ended without a checkpoint: %w", context.Cause(ctx))
	}
}

// kill ends the server at once, and waits.
func (s *Scratch) kill(run *scratchRun) {
	select {
	case <-run.exited:
		return
	default:
	}
	syscall.Kill(run.pid, syscall.SIGQUIT)
	select {
	case <-run.exited:
		return
	case <-time.After(5 * time.Second):
	}
	children, _ := childrenOf(run.pid)
	for _, pid := range append(children, run.pid) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-run.exited
}
