package pgctl

import "log/slog"

// RecoveryLog is a recoveryLog for tests.
type RecoveryLog struct{ *recoveryLog }

// NewRecoveryLog makes one that has read nothing.
func NewRecoveryLog() RecoveryLog {
	return RecoveryLog{&recoveryLog{log: slog.New(slog.DiscardHandler)}}
}

// End is what it knows after the last byte.
func (r RecoveryLog) End() (open, halted bool, out Recovered, err error) {
	r.finish()
	open, err = r.verdict()
	return open, r.stopped(), r.outcome(), err
}
