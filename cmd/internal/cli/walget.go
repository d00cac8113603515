package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"github.com/spf13/cobra"
)

const (
	minSegBytes     = 1 << 20 // PostgreSQL's bounds on wal_segment_size
	maxSegBytes     = 1 << 30
	maxHistoryBytes = 1 << 20
	walRetryPause   = 250 * time.Millisecond
)

var (
	segmentName = regexp.MustCompile(`^[0-9A-F]{24}$`)
	historyName = regexp.MustCompile(`^[0-9A-F]{8}\.history$`)
)

// errNotYet is the daemon's word that a file is not there, and may come.
var errNotYet = errors.New("not available yet")

func walGetCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "wal-get NAME PATH", Short: "Fetch one WAL file for PostgreSQL's restore_command", Args: cobra.ExactArgs(2), Hidden: true,
		Long: "Fetch the WAL segment or history file NAME from the local daemon and put it at PATH.\n" +
			"Exit code 1 means that the file is not there yet. 150 means that the daemon cannot tell which log is right:\n" +
			"PostgreSQL then stops instead of taking this for the end of the log.",
	}
	socket := c.Flags().String("socket", "", "the daemon's socket for WAL (required)")
	wait := c.Flags().Duration("wait", 10*time.Second, "how long to retry while the daemon cannot answer")
	c.RunE = func(c *cobra.Command, args []string) error {
		if *socket == "" {
			return &ExitError{Code: ExitMustStop, Err: errors.New("wal-get: --socket is required")}
		}
		if !segmentName.MatchString(args[0]) && !historyName.MatchString(args[0]) {
			// PostgreSQL asks for backup labels and partial names too; we
			// never have those.
			return &ExitError{Code: ExitFailure, Err: fmt.Errorf("wal-get: %q is no segment or history file", args[0])}
		}
		return walGet(commandContext(c), *socket, args[0], args[1], *wait)
	}
	return c
}

// walGet fetches name to path, retrying for up to wait.
func walGet(ctx context.Context, socket, name, path string, wait time.Duration) error {
	client := newSocketClient(socket)
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, max(wait, time.Second))
	defer cancel()
	for {
		err := fetchWAL(ctx, client, name, path)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, errNotYet):
			return &ExitError{Code: ExitFailure, Err: fmt.Errorf("wal-get %s: %w", name, err)}
		}
		select {
		case <-ctx.Done():
			return &ExitError{Code: ExitMustStop, Err: fmt.Errorf("wal-get %s: %w", name, err)}
		case <-time.After(walRetryPause):
		}
	}
}

// fetchWAL makes one attempt. On return without error the file is at path and
// durable, its name included; otherwise path is untouched.
func fetchWAL(ctx context.Context, client *Client, name, path string) (err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://understudy/wal/"+name, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := client.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask the daemon: %w", err)
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return errNotYet
	default:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // only for the message
		return replyError(resp.StatusCode, body)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".wal-get-*")
	if err != nil {
		return fmt.Errorf("make temporary file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	if err := errors.Join(receive(f, resp.Body, name), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("rename file: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

// receive copies a whole file of the kind that name promises, and fsyncs it.
func receive(f *os.File, body io.Reader, name string) error {
	limit := int64(maxSegBytes)
	if historyName.MatchString(name) {
		limit = maxHistoryBytes
	}
	n, err := io.Copy(f, io.LimitReader(body, limit+1))
	if err != nil {
		return fmt.Errorf("receive %s: %w", name, err)
	}
	if n > limit || segmentName.MatchString(name) && (n < minSegBytes || n&(n-1) != 0) {
		return fmt.Errorf("receive %s: %d bytes is no size of such a file", name, n)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", name, err)
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}
