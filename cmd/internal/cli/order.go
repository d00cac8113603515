package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"understudy/cmd/internal/doc"
)

// The arguments of orders, as the daemon takes them.
const (
	argTo      = "to"
	argNode    = "node"
	argMethod  = "method"
	argWait    = "wait"
	argFor     = "for"
	argAt      = "at"
	argWithin  = "within"
	argForce   = "force"
	argConfirm = "confirm" // the statement of the reply, word for word
	argDryRun  = "dry_run"
	argTrue    = "true"
)

// withClient runs a command with a client for the daemon of the node file.
func withClient(c *cobra.Command, config string, f func(context.Context, *Client) error) error {
	client, err := NewClient(config)
	if err != nil {
		return err
	}
	defer client.Close()
	return f(commandContext(c), client)
}

// order gives the daemon an order. A refusal, in whichever way it is said, is
// an ExitError with ExitRefused; the reply then holds what is known beside it.
func (c *Client) order(ctx context.Context, action string, args map[string]string) (doc.OrderReply, error) {
	var r doc.OrderReply
	if err := c.Do(ctx, action, args, &r); err != nil {
		return r, err
	}
	if r.Refused != "" {
		return r, &ExitError{Code: ExitRefused, Err: errors.New(printable(r.Refused))}
	}
	return r, nil
}

// plan asks what an order would do; nothing happens.
func (c *Client) plan(ctx context.Context, action string, args map[string]string) (doc.OrderReply, error) {
	dry := map[string]string{argDryRun: argTrue}
	for k, v := range args {
		dry[k] = v
	}
	return c.order(ctx, action, dry)
}

// notStarted is the error for a daemon that took an order and did not begin it,
// for what may be lost was not what had been confirmed.
func notStarted(r doc.OrderReply) error {
	text := "the daemon did not start it"
	if r.Statement != "" {
		text = "not started: this has to be confirmed and was not: " + printable(r.Statement)
	}
	return &ExitError{Code: ExitRefused, Err: errors.New(text)}
}

// question is what has to be confirmed before an order is carried out.
type question struct {
	statement string
	node      string // to be typed
	yes       bool   // confirmed on the command line
}

// confirm prints the statement and returns when it is confirmed. Nil means yes.
func (q question) confirm(ctx context.Context, opts Options) error {
	if q.statement == "" {
		return nil
	}
	if _, err := fmt.Fprintln(opts.Out, printable(q.statement)); err != nil || q.yes {
		return err
	}
	in := opts.In
	if in == nil && isTerminal(os.Stdin) {
		in = os.Stdin
	}
	if in == nil {
		return &ExitError{Code: ExitUsage, Err: errors.New("this has to be confirmed and there is no terminal to ask: repeat the command with --yes")}
	}
	if _, err := fmt.Fprintf(opts.Out, "Type %s to go on: ", printable(q.node)); err != nil {
		return err
	}
	answer, err := readLine(ctx, in)
	if err != nil {
		return err
	}
	if strings.TrimSpace(answer) != q.node {
		return &ExitError{Code: ExitRefused, Err: errors.New("not confirmed; nothing was done")}
	}
	return nil
}

// readLine reads one line, or what there is before the input ends. A terminal's
// read cannot be ended from here: when ctx ends first, the reader is left to
// the end of the program.
func readLine(ctx context.Context, in io.Reader) (string, error) {
	type line struct {
		text string
		err  error
	}
	got := make(chan line, 1)
	go func() {
		text, err := bufio.NewReader(in).ReadString('\n')
		if errors.Is(err, io.EOF) {
			err = nil
		}
		got <- line{text, err}
	}()
	select {
	case <-ctx.Done():
		return "", &ExitError{Code: ExitRefused, Err: errors.New("interrupted; nothing was done")}
	case l := <-got:
		if l.err != nil {
			return "", fmt.Errorf("read the answer: %w", l.err)
		}
		return l.text, nil
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
