package pgctl

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// ErrSettingsTooLow is returned by ResumeReplay when the standby has paused
// because settings of the primary, which it must match, were raised: it has to
// be stopped and started, for which Configure and Args raise them.
var ErrSettingsTooLow = errors.New("the standby's settings are lower than the primary's")

// Pause tells whether and why a running standby does not replay.
type Pause struct {
	Paused bool
	// TooLow are the settings that are lower than the primary's, each as "name =
	// value, the primary's is value". Paused without any was asked for by hand.
	TooLow []string
}

// ReplayPause asks the running standby. pg_control holds the primary's settings
// from before PostgreSQL pauses over them.
func (s *Server) ReplayPause(ctx context.Context) (Pause, error) {
	var p Pause
	err := s.with(ctx, func(conn *pgx.Conn) error {
		paused, err := ask(ctx, conn, "select pg_is_in_recovery() and pg_get_wal_replay_pause_state() <> 'not paused'")
		p.Paused = paused == "t"
		return err
	})
	var pe interface{ SQLState() string }
	if errors.As(err, &pe) && pe.SQLState() == notInRecovery {
		return Pause{}, nil // recovery ended between the two questions
	}
	if err != nil || !p.Paused {
		return p, err
	}
	own, err := s.StandbySettings(ctx)
	if err != nil {
		return p, err
	}
	c, err := s.Control(ctx)
	if err != nil {
		return p, err
	}
	for _, n := range standbyNames {
		if name := n[1]; own[name] < c.Standby[name] {
			p.TooLow = append(p.TooLow, fmt.Sprintf("%s = %d, the primary's is %d", name, own[name], c.Standby[name]))
		}
	}
	return p, nil
}

// ResumeReplay ends a pause that was asked for by hand; without one it does
// nothing. A pause over settings is left alone, since PostgreSQL would end:
// ErrSettingsTooLow.
func (s *Server) ResumeReplay(ctx context.Context) error {
	p, err := s.ReplayPause(ctx)
	if err != nil || !p.Paused {
		return err
	}
	if len(p.TooLow) > 0 {
		return fmt.Errorf("%w: %s", ErrSettingsTooLow, strings.Join(p.TooLow, "; "))
	}
	s.Log.Info("replay was paused by hand and goes on")
	return s.exec(ctx, "resume replay", "select pg_wal_replay_resume()")
}

// applyDelay is the name of the setting.
const applyDelay = "recovery_min_apply_delay"

// delayValue is a delay as PostgreSQL takes it: milliseconds, at most 24 days
// and a half, to which longer ones are cut.
func delayValue(d time.Duration) string {
	return strconv.FormatInt(min(max(d.Milliseconds(), 0), math.MaxInt32), 10)
}

// SetApplyDelay makes a running standby apply what it receives this much later,
// at once when zero; what it acknowledges is not delayed. It returns when that
// is in force, also for what replay was waiting with, and writes nothing when it
// is already. A value of ALTER SYSTEM is taken out. Delays beyond PostgreSQL's
// own maximum of 24.8 days become that. ErrForeignSetting tells that something
// else decides.
func (s *Server) SetApplyDelay(ctx context.Context, d time.Duration) error {
	want := delayValue(d)
	written, err := s.managedValue(applyDelay)
	if err != nil {
		return err
	}
	var is, file string
	look := applyDelayOf(ctx, &is, &file)
	if written == want {
		if err := s.with(ctx, look); err != nil || is == want {
			return err
		}
	}
	put := func() (string, error) { return s.amend(map[string]string{applyDelay: want}) }
	err = s.withReloaded(ctx, put, look)
	if err == nil && is != want && filepath.Base(file) == "postgresql.auto.conf" {
		s.Log.Warn("removed a setting that understudy decides", "file", file, "setting", applyDelay)
		if err := s.exec(ctx, "reset "+applyDelay, "alter system reset "+applyDelay); err != nil {
			return err
		}
		err = s.withReloaded(ctx, put, look)
	}
	if err == nil && is != want {
		err = fmt.Errorf("%w: %s is %s ms by %s, must be %s by %s", ErrForeignSetting, applyDelay, is, file, want, s.managedConf())
	}
	return err
}

// applyDelayOf asks which delay is in force, by which file.
func applyDelayOf(ctx context.Context, is, file *string) func(*pgx.Conn) error {
	return func(conn *pgx.Conn) error {
		err := conn.QueryRow(ctx, "select setting, coalesce(sourcefile, 'the command line') from pg_settings where name = $1", applyDelay).Scan(is, file)
		if err != nil {
			return fmt.Errorf("read %s: %w", applyDelay, err)
		}
		return nil
	}
}

// managedValue is what the managed file says that we decided.
func (s *Server) managedValue(name string) (string, error) {
	b, err := os.ReadFile(s.managedConf())
	if err != nil {
		return "", fmt.Errorf("read managed configuration: %w", err)
	}
	_, ours, _ := strings.Cut(string(b), oursBegin)
	for line := range strings.Lines(ours) {
		if n, v, ok := parseSetting(line); ok && n == name {
			return v, nil
		}
	}
	return "", nil
}
