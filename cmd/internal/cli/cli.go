// Package cli holds the commands that ask the local daemon over its unix
// socket, and the client and exit codes that all commands share.
package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"

	"github.com/spf13/cobra"
)

// The exit codes of understudy. docs/EXIT_CODES.md is the same table for
// people.
const (
	ExitOK         = 0
	ExitFailure    = 1 // it was tried and did not succeed; wal-get: the file is not there yet
	ExitUsage      = 2 // wrong flags or arguments, or a node or policy file that is not valid
	ExitNotRunning = 3 // the local daemon does not answer
	ExitRefused    = 4 // refused, because it would not be safe or not now, or not confirmed
	ExitNotSafe    = 5 // status --check: the level is not "safe"
	ExitNeeded     = 6 // backup --needed: a backup is needed
	// ExitMustStop is wal-get's: which log is right is not known, and recovery
	// must stop, not guess. PostgreSQL stops at every code above 125.
	ExitMustStop = 150
)

// ExitError is an error that decides the exit code.
type ExitError struct {
	Code int
	Err  error // nil when there is nothing left to say
}

// Error is the text of Err.
func (e *ExitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit code %d", e.Code)
	}
	return e.Err.Error()
}

// Unwrap is Err.
func (e *ExitError) Unwrap() error { return e.Err }

// Code is the exit code for the error of a command: that of an ExitError,
// ExitFailure for any other, ExitOK for none.
func Code(err error) int {
	var e *ExitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &e):
		return e.Code
	default:
		return ExitFailure
	}
}

// Silent tells whether err has nothing to print.
func Silent(err error) bool {
	var e *ExitError
	return errors.As(err, &e) && e.Err == nil
}

// DefaultConfig is the node file that commands read unless told another.
const DefaultConfig = "/etc/understudy/understudy.yaml"

// Options are what the commands take from the program around them.
type Options struct {
	Out     io.Writer // results; required
	Version string    // of this program
	// Width is the number of columns of the terminal; 0 means that Out is none,
	// and turns off wrapping, colours and redrawing.
	Width int
	Color bool
	// In is where questions are answered; nil means standard input where that is
	// a terminal, and nobody to ask where it is none.
	In io.Reader
}

// Commands are all that ask the daemon, those that restore without one, the two
// that PostgreSQL runs, and version. Their RunE errors are to be given to Code.
// They print nothing to standard error.
func Commands(opts Options) []*cobra.Command {
	cmds := []*cobra.Command{
		statusCommand(opts), eventsCommand(opts), policyCommand(opts), versionCommand(opts),
		switchoverCommand(opts), failoverCommand(opts), historyCommand(opts), explainCommand(opts),
		reseedCommand(opts), offlineCommand(opts), onlineCommand(opts),
		pauseCommand(opts), resumeCommand(opts), incidentsCommand(opts),
		stopCommand(opts), restartCommand(opts),
		backupCommand(opts), withFiles(setsCommand(opts), opts), withOfflinePoints(pointsCommand(opts), opts), jobsCommand(opts), verifyCommand(opts), drillCommand(opts),
		pruneCommand(opts), locationsCommand(opts), withRebuild(ledgerCommand(opts), opts), groupRestore(restoreCommand(opts), opts),
	}
	for _, c := range cmds {
		Prepare(c)
	}
	walGet, restoreGet := walGetCommand(), restoreGetCommand()
	// With a mistake in restore_command nothing can be told about the log.
	prepare(walGet, ExitMustStop)
	prepare(restoreGet, ExitMustStop)
	return append(cmds, walGet, restoreGet)
}

// Prepare makes a command's wrong flags and arguments end with ExitUsage, and
// leaves printing the error to the program.
func Prepare(c *cobra.Command) { prepare(c, ExitUsage) }

func prepare(c *cobra.Command, code int) {
	c.SilenceUsage, c.SilenceErrors = true, true
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &ExitError{Code: code, Err: fmt.Errorf("%s: %w", c.Name(), err)}
	})
	if check := c.Args; check != nil {
		c.Args = func(c *cobra.Command, args []string) error {
			if err := check(c, args); err != nil {
				return &ExitError{Code: code, Err: fmt.Errorf("%s: %w", c.Name(), err)}
			}
			return nil
		}
	}
}

// ConfigFlag adds --config to a command.
func ConfigFlag(c *cobra.Command) *string {
	return c.Flags().String("config", DefaultConfig, "node file of the local daemon")
}

// Version is the document of version --json.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func versionCommand(opts Options) *cobra.Command {
	c := &cobra.Command{Use: "version", Short: "Print the version of this program", Args: cobra.NoArgs}
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(*cobra.Command, []string) error {
		v := Version{Version: opts.Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
		if *asJSON {
			return printJSON(opts.Out, v)
		}
		_, err := fmt.Fprintf(opts.Out, "understudy %s (%s, %s/%s)\n", v.Version, v.Go, v.OS, v.Arch)
		return err
	}
	return c
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print result: %w", err)
	}
	return nil
}

// context returns the command's context; cobra leaves it nil when executed
// without one.
func commandContext(c *cobra.Command) context.Context {
	if ctx := c.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// exists tells whether a file is there, as far as this account can see.
func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
