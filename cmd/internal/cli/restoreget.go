package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"understudy/shipper/archive"
)

// restoreGetCommand is the restore_command of a server that is being restored.
func restoreGetCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "restore-get NAME PATH", Short: "Fetch one WAL file for a database that is being restored", Args: cobra.ExactArgs(2), Hidden: true,
		Long: "Fetch the WAL segment or history file NAME from the restore that runs and put it at PATH.\n" +
			"Exit code 1 means that the log ends before it. 150 means that this cannot be told: PostgreSQL then stops instead of\n" +
			"taking it for the end of the log.",
	}
	socket := c.Flags().String("socket", "", "the socket of the restore (required)")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *socket == "" {
			return &ExitError{Code: ExitMustStop, Err: errors.New("restore-get: --socket is required")}
		}
		err := archive.RequestFile(commandContext(c), *socket, args[0], args[1])
		switch {
		case err == nil:
			return nil
		case errors.Is(err, archive.ErrNotExist), errors.Is(err, archive.ErrNotYet):
			return &ExitError{Code: ExitFailure, Err: fmt.Errorf("restore-get %s: %w", args[0], err)}
		}
		return &ExitError{Code: ExitMustStop, Err: fmt.Errorf("restore-get %s: %w", args[0], err)}
	}
	return c
}
