package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/doc"
	"understudy/ledger/audit"
	"understudy/ledger/facts"
)

func ledgerCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "ledger", Short: "Export and check what the group has agreed on, or forbid to delete backups",
		Long: "The ledger is what the group has agreed on: who is primary, which backups exist and where, what was verified. Every\n" +
			"location has an export of it. Its audit is a chain in which each entry holds the hash of the one before.",
	}
	c.RunE = func(_ *cobra.Command, args []string) error {
		const which = "export, check, freeze or thaw"
		if len(args) > 0 {
			return usage("ledger: there is no %q, only %s", args[0], which)
		}
		return errNothing("ledger", which)
	}
	for _, sub := range []*cobra.Command{ledgerExport(opts), ledgerCheck(opts), ledgerFreeze(opts), ledgerThaw(opts)} {
		Prepare(sub)
		c.AddCommand(sub)
	}
	return c
}

func ledgerExport(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "export [FILE]", Short: "Write the ledger to a file, or to standard output", Args: cobra.MaximumNArgs(1),
		Long: "Write the ledger as JSON, in the form in which every location has it as ledger.json; with --audit this node's whole\n" +
			"copy of the audit, one entry a line, the last line naming the newest. ledger check reads both. A FILE that is there\n" +
			"is replaced in one step.",
	}
	config := ConfigFlag(c)
	chain := c.Flags().Bool("audit", false, "write the audit instead")
	c.RunE = func(c *cobra.Command, args []string) error {
		path := "/api/v1/ledger"
		if *chain {
			path = "/api/v1/audit/export"
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			if len(args) == 0 {
				return client.Copy(ctx, path, opts.Out)
			}
			if err := client.saveTo(ctx, path, args[0]); err != nil {
				return err
			}
			return printLines(opts.Out, "Written to "+printable(args[0])+".")
		})
	}
	return c
}

// Copy writes the reply to a question as it is.
func (c *Client) Copy(ctx context.Context, path string, w io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://understudy"+path, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10)) // only for the message
		return replyError(resp.StatusCode, body)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("read reply of the daemon: %w", err)
	}
	return nil
}

// saveTo writes the reply to a question to a file, durably, replacing it in one
// step.
func (c *Client) saveTo(ctx context.Context, path, file string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), ".understudy-*")
	if err != nil {
		return fmt.Errorf("make temporary file: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	err = c.Copy(ctx, path, f)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), file); err != nil {
		return fmt.Errorf("rename file: %w", err)
	}
	return syncDir(filepath.Dir(file))
}

func ledgerCheck(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "check [FILE]", Short: "Prove that the audit, or an export, was not changed", Args: cobra.MaximumNArgs(1),
		Long: "Prove that this node's copy of the audit is the group's whole audit: no entry was changed, left out or added. With a\n" +
			"FILE that ledger export has written, prove that one: its entries, and that its newest is the entry of that number\n" +
			"that this group has. --alone leaves the second out, for a machine without the group; whoever can write a whole file\n" +
			"can write a whole other one, so compare the hash that it prints with one that you noted elsewhere. The exit code is 0\n" +
			"when it holds, and 1 with the first entry that is wrong when not.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	alone := c.Flags().Bool("alone", false, "with a FILE: do not ask the daemon")
	c.RunE = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			if *alone {
				return usage("ledger check: --alone needs a FILE")
			}
			return withClient(c, *config, func(ctx context.Context, client *Client) error {
				var a doc.AuditCheck
				if err := client.Get(ctx, "/api/v1/audit", &a); err != nil {
					return err
				}
				return sayAudit(opts, a, *asJSON)
			})
		}
		a, err := checkFile(args[0])
		if err != nil {
			return err
		}
		if *alone || !a.OK {
			return sayAudit(opts, a, *asJSON)
		}
		return withClient(c, *config, func(ctx context.Context, client *Client) error {
			return compareAudit(ctx, client, opts, a, *asJSON)
		})
	}
	return c
}

// compareAudit asks the daemon which hash the newest entry of a file has in the
// group.
func compareAudit(ctx context.Context, client *Client, opts Options, a doc.AuditCheck, asJSON bool) error {
	var here doc.AuditCheck
	if err := client.Get(ctx, fmt.Sprintf("/api/v1/audit?n=%d", a.Entries), &here); err != nil {
		return err
	}
	switch {
	case a.Entries == 0:
	case here.AskedHash == "" && here.Entries < a.Entries:
		a.OK, a.Problem = false, fmt.Sprintf("it ends with entry %d, and the newest of this group is %d", a.Entries, here.Entries)
	case here.AskedHash == "":
		a.OK, a.Problem = false, fmt.Sprintf("it cannot be compared: %s has no copy of entry %d; ask another node", here.Node, a.Entries)
	case here.AskedHash != a.Head:
		a.OK, a.Problem = false, fmt.Sprintf("its entry %d is not the one that this group has: %.16s… there, %.16s… here", a.Entries, a.Head, here.AskedHash)
	}
	return sayAudit(opts, a, asJSON)
}

func sayAudit(opts Options, a doc.AuditCheck, asJSON bool) error {
	var bad error
	if !a.OK {
		bad = &ExitError{Code: ExitFailure, Err: errors.New("the audit does not hold: " + printable(a.Problem))}
	}
	if asJSON {
		return errors.Join(printJSON(opts.Out, a), bad)
	}
	if bad != nil {
		return bad
	}
	return printLines(opts.Out, fmt.Sprintf("The audit holds: %d entries, the newest has the hash %s.", a.Entries, printable(dash(a.Head))))
}

// checkFile proves a file that ledger export has written, of either form.
func checkFile(file string) (doc.AuditCheck, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return doc.AuditCheck{}, usage("ledger check: the file %s does not exist", file)
	}
	if err != nil {
		return doc.AuditCheck{}, fmt.Errorf("ledger check: %w", err)
	}
	defer f.Close()
	r := bufio.NewReader(f)
	begin, err := r.Peek(len(ledgerHead))
	if err != nil && !errors.Is(err, io.EOF) {
		return doc.AuditCheck{}, fmt.Errorf("ledger check: %w", err)
	}
	if string(begin) == ledgerHead {
		return checkLedger(r)
	}
	return checkChain(r)
}

// ledgerHead is how an export of the ledger begins; an audit begins otherwise.
const ledgerHead = `{"ledger":`

func checkLedger(r io.Reader) (doc.AuditCheck, error) {
	b, err := io.ReadAll(io.LimitReader(r, facts.MaxExportBytes+1))
	if err != nil {
		return doc.AuditCheck{}, fmt.Errorf("ledger check: %w", err)
	}
	x, err := facts.Import(b)
	if err != nil {
		return doc.AuditCheck{Problem: err.Error()}, nil
	}
	return doc.AuditCheck{OK: true, Entries: x.Audit.N, Head: x.Audit.Head}, nil
}

// checkChain proves an exported audit, which names its newest entry itself.
func checkChain(r io.Reader) (doc.AuditCheck, error) {
	var last lastLine
	err := audit.Check(io.TeeReader(r, &last), audit.Head{})
	var broken *audit.BrokenError
	switch {
	case errors.As(err, &broken):
		return doc.AuditCheck{BrokenAt: broken.N, Problem: broken.Error()}, nil
	case err != nil:
		return doc.AuditCheck{}, fmt.Errorf("ledger check: %w", err)
	}
	head, ok := last.head()
	if !ok {
		return doc.AuditCheck{Problem: "its last line, which names the newest entry, is missing: it was cut off"}, nil
	}
	return doc.AuditCheck{OK: true, Entries: head.N, Head: head.Hash}, nil
}

// lastLine keeps the end of what is written to it.
type lastLine struct{ b []byte }

// maxLastLine is more than the last line of an audit has.
const maxLastLine = 4 << 10

// Write never fails.
func (l *lastLine) Write(p []byte) (int, error) {
	l.b = append(l.b, p[max(0, len(p)-maxLastLine):]...)
	if n := len(l.b) - maxLastLine; n > 0 {
		l.b = append(l.b[:0], l.b[n:]...)
	}
	return len(p), nil
}

func (l *lastLine) head() (audit.Head, bool) {
	b := bytes.TrimSuffix(l.b, []byte("\n"))
	var v struct {
		Head *audit.Head `json:"head"`
	}
	if err := json.Unmarshal(b[bytes.LastIndexByte(b, '\n')+1:], &v); err != nil || v.Head == nil {
		return audit.Head{}, false
	}
	return *v.Head, true
}

func ledgerFreeze(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "freeze WHY...", Short: "Forbid to delete backups until it is allowed again", Args: cobra.MinimumNArgs(1),
		Long: "Forbid to delete any backup or log of it, on every node, until understudy ledger thaw: while you look for what went\n" +
			"wrong, for example. The reason is recorded. New backups are taken all the same.",
	}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	c.RunE = func(c *cobra.Command, args []string) error {
		return mark(c, *config, doc.ActionFreeze, map[string]string{argWhy: strings.Join(args, " ")}, *asJSON, opts)
	}
	return c
}

func ledgerThaw(opts Options) *cobra.Command {
	c := &cobra.Command{Use: "thaw", Short: "Allow again to delete backups", Args: cobra.NoArgs}
	config := ConfigFlag(c)
	asJSON := c.Flags().Bool("json", false, "print JSON")
	why := c.Flags().String("why", "", "reason, for the record")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return mark(c, *config, doc.ActionThaw, map[string]string{argWhy: *why}, *asJSON, opts)
	}
	return c
}
