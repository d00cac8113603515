// Package rescue restores a database from the command line. It works beside a
// daemon and without one, on a node and on a machine that has nothing but a
// location of backups: it learns what exists where, plans, restores the files,
// gives the recovering server its log, and says what came out.
package rescue

import (
	"errors"
	"fmt"
)

// Errors a caller acts on.
var (
	// ErrRefused is returned for what must not or cannot be done. Nothing was
	// changed.
	ErrRefused = errors.New("refused")
	// ErrUnknown is returned by Learn when nothing here says where backups are.
	ErrUnknown = errors.New("it is not known here where backups are")
	// ErrSource is returned by Learn for a source that was named wrongly.
	ErrSource = errors.New("not a source of backups")
)

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrRefused, fmt.Errorf(format, args...))
}

func badSource(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSource, fmt.Errorf(format, args...))
}
