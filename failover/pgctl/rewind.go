package pgctl

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"understudy/shipper/pos"
)

// ErrRewindImpossible is returned by Rewind when trying again cannot help and
// the directory needs a new base.
var ErrRewindImpossible = errors.New("the directory cannot be rewound")

// RewindSpec says from whom a directory is rewound.
type RewindSpec struct {
	SourceSocketDir string // unix socket of a primary, or of the way to it
	SourcePort      int
	SourceUser      string                // empty means RewindRole
	Keep            map[pos.Timeline]bool // timelines whose history stays; nil keeps all
	Log             func(line string)     // takes what pg_rewind says; may be nil
}

// The phases of a rewind are the content of its mark. Before anything is
// copied, a rewind that failed can be repeated.
const (
	rewindBegun     = ""            // as Mark writes it
	rewindRecovered = "recovered\n" // crash recovery has appended to the log
	rewindCopying   = "copying\n"   // pg_rewind may be changing the directory
)

// Rewind makes the stopped directory of a diverged server fit to follow the
// source, which has written a checkpoint since its promotion. On success
// standby.signal is there, slots of its former life and histories outside Keep
// are gone, and the caller, who configures the directory anew because the
// source's files replaced its own, ends the rewind with ClearMark. What the
// divergent tail holds must have been saved before.
//
// ErrRewindImpossible tells that only a new base helps; after any other error
// Rewind may be called again. A source that does not answer is noticed before
// anything is touched; every later failure leaves the directory marked as
// Rewinding.
func (s *Server) Rewind(ctx context.Context, spec RewindSpec) error {
	if spec.SourceUser == "" {
		spec.SourceUser = RewindRole
	}
	if _, err := os.Stat(filepath.Join(s.BinDir, "pg_rewind")); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: there is no pg_rewind in %s", ErrRewindImpossible, s.BinDir)
	}
	phase, err := s.rewindPhase()
	if err != nil {
		return err
	}
	control, err := s.Control(ctx)
	if err != nil {
		return err
	}
	if err := s.checkSource(ctx, spec, control); err != nil {
		return err
	}
	if err := s.writeState(rewindingMark, phase); err != nil {
		return err
	}
	for _, name := range []string{"standby.signal", "recovery.signal"} { // with one, recovery without a postmaster refuses
		if err := remove(filepath.Join(s.DataDir, name)); err != nil {
			return err
		}
	}
	if !control.CleanShutdown() && control.State != "shut down in recovery" {
		phase = rewindRecovered
		if err := s.writeState(rewindingMark, phase); err != nil {
			return err
		}
		if err := s.recoverAlone(ctx, spec); err != nil {
			return err
		}
	}
	if err := s.runRewind(ctx, spec, phase); err != nil {
		return err
	}
	return s.tidyRewound(spec.Keep)
}

// rewindPhase is how far an earlier attempt came, rewindBegun without one.
func (s *Server) rewindPhase() (string, error) {
	if pid, err := s.postmaster(); err != nil || pid != 0 {
		return "", errors.Join(err, fmt.Errorf("rewind: process %d runs on %s", pid, s.DataDir))
	}
	st, err := s.State()
	if err != nil {
		return "", err
	}
	if st != Cluster && st != Rewinding {
		return "", fmt.Errorf("%w: it is in state %q", ErrRewindImpossible, st)
	}
	b, err := os.ReadFile(filepath.Join(s.StateDir, rewindingMark))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read mark of the rewind: %w", err)
	}
	if p := string(b); p == rewindBegun || p == rewindRecovered {
		return p, nil
	}
	return "", fmt.Errorf("%w: an earlier rewind of it was interrupted", ErrRewindImpossible)
}

// checkSource finds out, before anything is touched, whether the source
// answers and is of the same system.
func (s *Server) checkSource(ctx context.Context, spec RewindSpec, own Control) error {
	conn, err := pgx.Connect(ctx, spec.conninfo())
	if err != nil {
		return fmt.Errorf("connect to the source of the rewind: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	id, err := ask(ctx, conn, "select system_identifier from pg_control_system()")
	if err != nil {
		return fmt.Errorf("identify the source of the rewind: %w", err)
	}
	if n, err := strconv.ParseUint(id, 10, 64); err != nil || n != own.SystemID {
		return fmt.Errorf("%w: the source is another database system (%s, this is %d)", ErrRewindImpossible, id, own.SystemID)
	}
	return nil
}

func (r RewindSpec) conninfo() string {
	q := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	return "host='" + q.Replace(r.SourceSocketDir) + "' port=" + strconv.Itoa(r.SourcePort) +
		" user='" + q.Replace(r.SourceUser) + "' dbname=postgres sslmode=disable connect_timeout=5 application_name=understudy_rewind"
}

// recoverAlone replays the log of a crashed server without a postmaster, so
// that nobody can connect. pg_rewind would do it too, but with the settings of
// the files only, and a database with prepared transactions, say, does not
// recover with fewer allowed than it ran with.
func (s *Server) recoverAlone(ctx context.Context, spec RewindSpec) (err error) {
	if err := s.Permit(ctx, 0); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Unpermit()) }()
	args := append([]string{"--single"}, s.Args(Mode{SyncName: NoSyncName})[1:]...)
	// Its last checkpoint would recycle the log back to the common one.
	args = append(args, "-c", "wal_keep_size="+strconv.Itoa(math.MaxInt32))
	out, err := s.follow(ctx, s.command(ctx, "postgres", append(args, "template1")...), spec.Log)
	switch {
	case err == nil:
		return nil
	case out.hopeless():
		return fmt.Errorf("%w: it does not recover: %w: %s", ErrRewindImpossible, err, out.last())
	}
	return fmt.Errorf("recover the directory before its rewind: %w: %s", err, out.last())
}

// runRewind runs pg_rewind and marks the time in which it may change the
// directory.
func (s *Server) runRewind(ctx context.Context, spec RewindSpec, phase string) error {
	if err := s.writeState(rewindingMark, rewindCopying); err != nil {
		return err
	}
	out, err := s.follow(ctx, s.command(ctx, "pg_rewind", "--target-pgdata", s.DataDir,
		"--source-server", spec.conninfo(), "--no-ensure-shutdown", "--progress"), spec.Log)
	switch {
	case err == nil && out.saw("no rewind required") && phase == rewindRecovered:
		// pg_rewind takes the log for a part of the source's because it ends
		// below the fork, but recovery has just written a record of its own.
		return fmt.Errorf("%w: its log ended before the source's timeline began, and recovery has appended to it", ErrRewindImpossible)
	case err == nil:
		return nil
	case out.saw("rewinding from last common checkpoint"):
		return fmt.Errorf("%w: it was interrupted: %w: %s", ErrRewindImpossible, err, out.last())
	case out.hopeless():
		return fmt.Errorf("%w: %s", ErrRewindImpossible, out.last())
	}
	return errors.Join(fmt.Errorf("rewind: %w: %s", err, out.last()), s.writeState(rewindingMark, phase))
}

// follow runs a tool and takes its output line by line. The tool dies with this
// process: left alone, it would go on changing a directory that the next daemon
// takes for its own.
func (s *Server) follow(ctx context.Context, cmd *exec.Cmd, log func(string)) (*toolOutput, error) {
	out := &toolOutput{log: log}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	runtime.LockOSThread() // the signal comes at the end of the thread that forked
	defer runtime.UnlockOSThread()
	err := cmd.Run()
	if ctx.Err() != nil {
		err = errors.Join(err, context.Cause(ctx))
	}
	out.flush()
	return out, err
}

// tidyRewound takes from a rewound directory what belongs to its former life.
func (s *Server) tidyRewound(keep map[pos.Timeline]bool) error {
	if err := s.owned("standby.signal", ""); err != nil {
		return err
	}
	// pg_rewind leaves the target's slots; they would pin log for nobody.
	if err := emptyDir(filepath.Join(s.DataDir, "pg_replslot")); err != nil {
		return err
	}
	if err := s.dropHistories(keep); err != nil {
		return err
	}
	// Summaries of the log (17 and newer) describe the divergent one.
	return emptyDir(filepath.Join(s.walDir(), "summaries"))
}

// dropHistories removes the histories of timelines that are not in keep: a
// standby looks for the newest one that it can find.
func (s *Server) dropHistories(keep map[pos.Timeline]bool) error {
	if keep == nil {
		return nil
	}
	files, err := filepath.Glob(filepath.Join(s.walDir(), "*.history"))
	if err != nil {
		return fmt.Errorf("list histories: %w", err)
	}
	for _, f := range files {
		n, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(f), ".history"), 16, 32)
		if err == nil && keep[pos.Timeline(n)] {
			continue
		}
		if err := os.Remove(f); err != nil {
			return fmt.Errorf("remove history: %w", err)
		}
	}
	return syncDir(s.walDir())
}

// emptyDir removes, durably, all that is in dir; a missing one is empty.
func emptyDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("empty directory: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("empty directory: %w", err)
		}
	}
	return syncDir(dir)
}

// PutStandbySignal makes, durably, a stopped directory one that can start only
// as a standby.
func (s *Server) PutStandbySignal() error {
	if pid, err := s.postmaster(); err != nil || pid != 0 {
		return errors.Join(err, fmt.Errorf("make the directory a standby's: process %d runs on it", pid))
	}
	return s.owned("standby.signal", "")
}

// BackupLabelStart is where replay begins by the directory's backup_label: a
// rewound or restored directory has one until its first start. ok is false
// when there is none.
func (s *Server) BackupLabelStart() (start pos.LSN, ok bool, err error) {
	b, err := os.ReadFile(filepath.Join(s.DataDir, "backup_label"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read backup_label: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		if v, found := strings.CutPrefix(line, "START WAL LOCATION: "); found {
			lsn, _, _ := strings.Cut(strings.TrimSpace(v), " ")
			start, err = pos.ParseLSN(lsn)
			if err != nil {
				return 0, false, fmt.Errorf("read backup_label: %w", err)
			}
			return start, true, nil
		}
	}
	return 0, false, errors.New("read backup_label: it names no start")
}
