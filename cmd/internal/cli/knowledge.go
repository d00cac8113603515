package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/rescue"
	"understudy/configs"
	"understudy/shipper/catalog"
	"understudy/standby/recover"
)

// knowFlags are those of the commands that work without a daemon: where to
// learn what exists where.
type knowFlags struct {
	config, locations *string
	from              *[]string
	group, identity   *string
	secrets           *[]string
}

func addKnowFlags(c *cobra.Command, config *string) knowFlags {
	return knowFlags{
		config:    config,
		locations: c.Flags().String("locations", "", "file with the location.* lines of a policy, when no daemon knows them"),
		from:      c.Flags().StringArray("from", nil, "directory of a location, or sftp://USER@HOST/PATH?host_key=… or s3://BUCKET/PREFIX, when nothing else is left; may be repeated"),
		group:     c.Flags().String("group-name", "", "group whose backups are meant, where there are several"),
		identity:  c.Flags().String("identity", "", "file with the age identity that decrypts what is at --from"),
		secrets:   c.Flags().StringArray("secret", nil, "NAME=FILE: a secret that a location names; of an address of --from it is called "+rescue.FromSecret),
	}
}

// offline tells that a source was named by hand.
func (f knowFlags) offline() bool { return len(*f.from) > 0 || *f.locations != "" }

// know makes what rescue.Learn needs. The node file may be missing.
func (f knowFlags) know(c *cobra.Command, log *slog.Logger) (rescue.Config, func(), error) {
	done := func() {}
	k := rescue.Config{LocationsFile: *f.locations, From: *f.from, Group: *f.group, IdentityFile: *f.identity, Secrets: map[string]string{}, Log: log}
	if len(*f.from) > 0 && *f.locations != "" {
		return k, done, usage("%s: --from and --locations are two answers to one question; name one", c.Name())
	}
	for _, s := range *f.secrets {
		name, file, ok := strings.Cut(s, "=")
		if !ok || name == "" || file == "" {
			return k, done, usage("%s: --secret is NAME=FILE", c.Name())
		}
		k.Secrets[name] = file
	}
	n, err := configs.Load(*f.config)
	switch {
	case err == nil:
		k.Node = n
		client := newSocketClient(n.AdminSocket())
		k.Export = func(ctx context.Context) ([]byte, error) {
			var b bytes.Buffer
			err := client.Copy(ctx, "/api/v1/ledger", &b)
			return b.Bytes(), err
		}
		done = client.Close
	case c.Flags().Changed("config"):
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("the node file %s does not exist", *f.config)
		}
		return k, done, &ExitError{Code: ExitUsage, Err: err}
	case !errors.Is(err, os.ErrNotExist) && !f.offline():
		return k, done, &ExitError{Code: ExitUsage, Err: err}
	}
	return k, done, nil
}

// rescueError gives errors of rescue their exit code.
func rescueError(err error) error {
	code := ExitFailure
	switch {
	case err == nil:
		return nil
	case errors.Is(err, rescue.ErrSource), errors.Is(err, rescue.ErrUnknown), errors.Is(err, catalog.ErrTarget):
		code = ExitUsage
	case errors.Is(err, rescue.ErrRefused), errors.Is(err, recover.ErrRefused), errors.Is(err, recover.ErrOccupied), errors.Is(err, recover.ErrOtherPlan), errors.Is(err, catalog.ErrImpossible):
		code = ExitRefused
	}
	var e *ExitError
	if errors.As(err, &e) {
		return err
	}
	return &ExitError{Code: code, Err: errors.New(printable(err.Error()))}
}

// absolute makes a directory of the command line absolute.
func absolute(name, dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil || dir == "" {
		return "", usage("%s: say with --to which directory", name)
	}
	return abs, nil
}

// withOfflinePoints lets points work without a daemon, too.
func withOfflinePoints(c *cobra.Command, opts Options) *cobra.Command {
	f := addKnowFlags(c, nil)
	online := c.RunE
	c.Long += "\n\nWith --from or --locations no daemon is asked, and the locations themselves say what they hold."
	c.RunE = func(c *cobra.Command, args []string) error {
		if !f.offline() {
			return online(c, args)
		}
		config, err := c.Flags().GetString("config")
		if err != nil {
			return err
		}
		f.config = &config
		return offlinePoints(c, f, opts)
	}
	return c
}

func offlinePoints(c *cobra.Command, f knowFlags, opts Options) error {
	asJSON, err := c.Flags().GetBool("json")
	if err != nil {
		return err
	}
	cfg, done, err := f.know(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer done()
	if l, err := c.Flags().GetString("location"); err == nil && l != "" {
		cfg.Only = []string{l}
	}
	k, err := rescue.Learn(commandContext(c), cfg)
	if err != nil {
		return rescueError(err)
	}
	defer k.Close() // was only read
	if asJSON {
		return printJSON(opts.Out, k.Points())
	}
	text := pointsText(k.Points(), opts.Width)
	for _, w := range k.Warnings {
		text += paragraph("Note: "+w, "  ", opts.Width)
	}
	_, err = fmt.Fprint(opts.Out, text)
	return err
}
