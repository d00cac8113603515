package recover

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"understudy/shipper/pos"
)

// Reached is where a recovery ended.
type Reached struct {
	LSN pos.LSN `json:"lsn"` // end of the last record that was replayed
	// Time is that of the last transaction that was replayed; zero when none
	// was.
	Time time.Time `json:"time,omitzero"`
	// Timeline is the one that the database writes on; zero when it does not
	// write.
	Timeline pos.Timeline `json:"timeline,omitempty"`
	// Stop is what PostgreSQL said of the target; empty at the end of the log.
	Stop string `json:"stop,omitempty"`
}

// Engine runs PostgreSQL on the plan's directory. failover/pgctl has one.
type Engine struct {
	// Recover starts the server with these settings on its command line, waits
	// until recovery ended as they say, and leaves it running, unless they make
	// it stop. seen is told how far replay has come.
	Recover func(ctx context.Context, settings map[string]string, seen func(pos.LSN)) (Reached, error)
	// Stop ends the server cleanly; one that does not run is fine.
	Stop func(ctx context.Context) error
	// Renew gives the stopped database another system identifier. It may be
	// called again after a crash.
	Renew func(ctx context.Context, id uint64) error
}

// RecoveryProgress tells how far the replay is.
type RecoveryProgress struct {
	From, At pos.LSN
	// To is where replay will end, as far as known; zero when it is not.
	To   pos.LSN
	Left time.Duration // zero while unknown
}

// CompleteOptions are those of one Complete.
type CompleteOptions struct {
	// To is the end of the log to replay, for the progress; zero when unknown.
	To pos.LSN
	// Progress is called when replay has moved; nil for none.
	Progress func(RecoveryProgress)
}

// Complete runs the recovery of an executed plan up to its target and stops the
// server again; a database beside the original becomes another one. Called again
// after an error or a crash it goes on. At the end the directory is an ordinary
// database that says so in its Status. With the action Shutdown it keeps its
// recovery settings, for a later target; with Pause Complete is not for it.
func Complete(ctx context.Context, p Plan, e Engine, o CompleteOptions) (Reached, error) {
	r, err := complete(ctx, p, e, o)
	if err != nil {
		return r, fmt.Errorf("recover %s to %s: %w", p.DataDir, p.Aim.Target, err)
	}
	return r, nil
}

func complete(ctx context.Context, p Plan, e Engine, o CompleteOptions) (Reached, error) {
	s, err := Inspect(p.DataDir)
	switch {
	case err != nil:
		return Reached{}, err
	case s.Plan.ID != p.ID:
		return Reached{}, fmt.Errorf("%w: one that was planned at %s", ErrOtherPlan, s.Plan.Made.Format(time.RFC3339))
	case !s.Startable:
		return Reached{}, errors.New("its files are not complete; execute the plan first")
	case p.Aim.Action == Pause:
		return Reached{}, errors.New("a database that pauses at its target is started by whoever reads in it")
	case s.Step == Finished:
		return *s.Reached, nil
	}
	if s.Step != Recovered {
		r, err := e.Recover(ctx, p.Settings(), o.seen(p.Start))
		// Stopped whatever happened; a second error tells nothing new.
		serr := e.Stop(context.WithoutCancel(ctx))
		if err != nil {
			return r, err
		}
		if serr != nil {
			return r, serr
		}
		s.Step, s.Reached, s.At = Recovered, &r, time.Now()
		if err := s.write(); err != nil {
			return r, err
		}
	}
	if p.Aim.Action != Shutdown {
		if p.NewSystemID != 0 {
			if err := e.Renew(ctx, p.NewSystemID); err != nil {
				return *s.Reached, fmt.Errorf("give the database its own identity: %w", err)
			}
		}
		if err := p.settle(); err != nil {
			return *s.Reached, err
		}
	}
	s.Step, s.At = Finished, time.Now()
	return *s.Reached, s.write()
}

// settle takes the settings of the recovery out of the configuration. A later
// recovery would be led by them.
func (p Plan) settle() error {
	name := filepath.Join(p.DataDir, "postgresql.auto.conf")
	b, err := os.ReadFile(name)
	if err != nil {
		return fmt.Errorf("take out the settings of the recovery: %w", err)
	}
	all := p.Settings()
	keep := map[string]string{}
	for k, v := range all {
		if !ofRecovery(k) {
			keep[k] = v
		}
	}
	text, err := withSettings(withoutSettings(string(b), p.settingNames()), keep)
	if err != nil {
		return err
	}
	return writeFile(p.DataDir, "postgresql.auto.conf", stateTemp, []byte(text), 0o600, p.Owner)
}

// Retarget gives a database that stopped at its target, or before its recovery
// began, another one; Complete with the plan that it returns goes there. A
// recovery cannot go back.
func Retarget(dataDir string, aim Aim) (Plan, error) {
	p, err := retarget(dataDir, aim)
	if err != nil {
		return Plan{}, fmt.Errorf("change the target of %s: %w", dataDir, err)
	}
	return p, nil
}

func retarget(dataDir string, aim Aim) (Plan, error) {
	if err := aim.validate(); err != nil {
		return Plan{}, err
	}
	s, err := Inspect(dataDir)
	if err != nil {
		return Plan{}, err
	}
	_, serr := os.Stat(filepath.Join(dataDir, "recovery.signal"))
	if !s.Startable || serr != nil {
		return Plan{}, refused("it does not wait for a recovery")
	}
	if err := notRunning(dataDir); err != nil {
		return Plan{}, err
	}
	s.Plan.Aim, s.Plan.ID = aim, randomID()
	s.Step, s.Reached, s.At = Ready, nil, time.Now()
	name := filepath.Join(dataDir, "postgresql.auto.conf")
	b, err := os.ReadFile(name)
	if err != nil {
		return Plan{}, err
	}
	text, err := s.Plan.recoveryConf(string(b))
	if err != nil {
		return Plan{}, err
	}
	if err := s.write(); err != nil {
		return Plan{}, err
	}
	return s.Plan, writeFile(dataDir, "postgresql.auto.conf", stateTemp, []byte(text), 0o600, s.Plan.Owner)
}

// seen makes the listener of the replay.
func (o CompleteOptions) seen(from pos.LSN) func(pos.LSN) {
	began, last := time.Now(), pos.LSN(0)
	return func(at pos.LSN) {
		if o.Progress == nil || at <= last {
			return
		}
		last = at
		o.Progress(RecoveryProgress{From: from, At: at, To: o.To, Left: Remaining(at.Sub(from), o.To.Sub(from), time.Since(began))})
	}
}
