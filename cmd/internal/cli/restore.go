package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/rescue"
	"understudy/shipper/catalog"
	"understudy/shipper/pos"
	"understudy/standby/recover"
)

// restoreFlags are those of restore.
type restoreFlags struct {
	know                        knowFlags
	set, target, to             *string
	timeline                    *uint32
	delta, beside, promote      *bool
	port, workers               *int
	spaces, locations           *[]string
	drop, binDir, account       *string
	extra                       *string
	trustTimes, allowDamage     *bool
	yes, dryRun, asJSON, status *bool
}

func restoreCommand(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "restore --to DIR", Short: "Restore the database from a backup, up to a moment", Args: cobra.NoArgs,
		Long: "Restore the database into a directory: a full backup, and the log after it up to a target. The plan is shown first and\n" +
			"nothing is touched before it is confirmed. It works beside a running group, on a node whose daemon is down, and with\n" +
			"--from on a machine that has nothing but one location. What was interrupted goes on with the same command.\n\n" +
			"The target is latest, immediate (the end of the backup), a time with its offset such as 2026-11-22 10:00:00+01,\n" +
			"lsn:0/3000060, xid:1234, or name:RESTORE_POINT. One that cannot be reached is refused with the nearest that can.\n\n" +
			"The database is stopped in the end. With --promote it was opened for writing once, on a timeline of its own, and can\n" +
			"be started as it is; that is so, too, with --beside, and for the target latest. Else it waits at its target: the\n" +
			"same command with --promote opens it, one with a later target goes on.\n\n" +
			"Configuration files and listed paths of the host, which are in a backup beside the database, go with --extra to a\n" +
			"directory of their own, never to where they were: look at them, and copy what is wanted.\n\n" +
			"The exit code is 0 when the target was reached, 1 when it was tried and was not, and 4 when it was refused.",
	}
	f := addRestoreFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *f.extra != "" && *f.to == "" && !*f.status {
			return restoreExtra(c, f, opts)
		}
		to, err := absolute("restore", *f.to)
		if err != nil {
			return err
		}
		if *f.status {
			return restoreStatus(to, *f.asJSON, opts)
		}
		r, err := f.request(c, to)
		if err != nil {
			return err
		}
		s := &restoring{opts: opts, flags: f, request: r}
		return s.run(commandContext(c), c)
	}
	return c
}

func addRestoreFlags(c *cobra.Command) restoreFlags {
	fl := c.Flags()
	return restoreFlags{
		know:        addKnowFlags(c, ConfigFlag(c)),
		to:          fl.String("to", "", "data directory to restore to (required)"),
		set:         fl.String("set", "", "label of the backup; without it the newest that leads to the target"),
		target:      fl.String("target", string(catalog.Latest), "where the recovery ends"),
		timeline:    fl.Uint32("timeline", 0, "timeline to recover along; without it the newest"),
		delta:       fl.Bool("delta", false, "restore over what is in the directory: what agrees stays, the rest is replaced or removed"),
		beside:      fl.Bool("beside", false, "make it another database beside the original, with an identity and a port of its own"),
		port:        fl.Int("port", 0, "port of the database beside the original"),
		promote:     fl.Bool("promote", false, "open the database at the target, on a new timeline; always so with --beside"),
		spaces:      fl.StringArray("tablespace", nil, "OID=DIR: put a tablespace there"),
		locations:   fl.StringArray("location", nil, "use this location only; may be repeated"),
		extra:       fl.String("extra", "", "unpack the backup's other files (configuration, listed paths of the host) below this directory; without --to only those"),
		drop:        fl.String("drop", "", "directory with log that was brought by hand (from-archive/); emptied after success"),
		workers:     fl.Int("workers", 0, "how many pieces are fetched at a time; 0 chooses"),
		binDir:      fl.String("bin-dir", "", "folder of PostgreSQL's server programs; without it that of the node file, or the right one of this machine"),
		account:     fl.String("account", "", "account that runs PostgreSQL, for root; without it that of the node file, or postgres"),
		trustTimes:  fl.Bool("trust-times", false, "with --delta: do not read files whose size and time agree with the backup"),
		allowDamage: fl.Bool("allow-damage", false, "restore a backup with corrupt pages, too"),
		yes:         fl.Bool("yes", false, "do not ask"),
		dryRun:      fl.Bool("dry-run", false, "show the plan and do nothing"),
		asJSON:      fl.Bool("json", false, "print one JSON document at the end"),
		status:      fl.Bool("status", false, "show what the directory is: how far a restore has come, where it ended"),
	}
}

// request checks the flags.
func (f restoreFlags) request(c *cobra.Command, to string) (rescue.Request, error) {
	r := rescue.Request{To: to, Set: *f.set, Mode: recover.Fresh, Port: *f.port, Promote: *f.promote || *f.beside, TrustTimes: *f.trustTimes,
		AllowDamage: *f.allowDamage, BinDir: *f.binDir, Account: *f.account, Tablespaces: map[uint32]string{}, Now: time.Now()}
	switch {
	case *f.delta && *f.beside:
		return r, usage("restore: --delta restores over a directory, --beside to an empty one; name one")
	case *f.beside && (*f.port <= 0 || *f.port > 65535):
		return r, usage("restore: --beside needs --port, which nobody else uses")
	case !*f.beside && *f.port != 0:
		return r, usage("restore: --port is for --beside; else the database keeps its own")
	case *f.beside && c.Flags().Changed("promote") && !*f.promote:
		return r, usage("restore: a database beside the original gets its identity when it was opened; leave --promote=false out")
	case *f.workers < 0:
		return r, usage("restore: --workers must not be negative")
	case *f.asJSON && !*f.yes && !*f.dryRun:
		return r, usage("restore: with --json nothing is asked; confirm it with --yes")
	case *f.delta:
		r.Mode = recover.Delta
	case *f.beside:
		r.Mode = recover.Beside
	}
	return r, f.targets(&r)
}

// targets reads the flags that have a form of their own.
func (f restoreFlags) targets(r *rescue.Request) (err error) {
	if r.Target, err = catalog.Parse(*f.target, nil); err != nil {
		return usage("restore: --target: %w", err)
	}
	r.Target.Timeline = pos.Timeline(*f.timeline)
	for _, s := range *f.spaces {
		oid, dir, ok := strings.Cut(s, "=")
		n, err := strconv.ParseUint(oid, 10, 32)
		if !ok || err != nil || dir == "" {
			return usage("restore: --tablespace is OID=DIR")
		}
		if r.Tablespaces[uint32(n)], err = absolute("restore", dir); err != nil {
			return err
		}
	}
	if *f.extra != "" {
		if r.Extra, err = absolute("restore", *f.extra); err != nil {
			return err
		}
	}
	if r.Binary, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	return nil
}

// restoring is one restore from the command line.
type restoring struct {
	opts    Options
	flags   restoreFlags
	request rescue.Request
	shown   restoreProgress
}

// restoreDoc is the document of restore --json.
type restoreDoc struct {
	Plan    *rescue.Plan    `json:"plan,omitempty"`
	Outcome *rescue.Outcome `json:"outcome,omitempty"`
	Error   string          `json:"error,omitempty"`
	// Refused tells that nothing was touched. Before and After are the nearest
	// targets that could be reached.
	Refused bool            `json:"refused,omitempty"`
	Before  *catalog.Moment `json:"before,omitempty"`
	After   *catalog.Moment `json:"after,omitempty"`
}

// restoreMemory is what the Go runtime keeps its memory below during a restore:
// the collector runs often only near it.
const restoreMemory = 192 << 20

func (s *restoring) run(ctx context.Context, c *cobra.Command) error {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(restoreMemory))
	s.shown = restoreProgress{opts: s.opts, quiet: *s.flags.asJSON}
	var d restoreDoc
	err := rescueError(s.carry(ctx, c, &d))
	if !*s.flags.asJSON {
		return err
	}
	if err != nil {
		d.Error, d.Refused = err.Error(), Code(err) == ExitRefused
	}
	return errors.Join(printJSON(s.opts.Out, d), err)
}

func (s *restoring) carry(ctx context.Context, c *cobra.Command, d *restoreDoc) error {
	cfg, done, err := s.flags.know.know(c, slog.New(&s.shown))
	if err != nil {
		return err
	}
	defer done()
	cfg.Only, cfg.Drop = *s.flags.locations, *s.flags.drop
	k, err := rescue.Learn(ctx, cfg)
	if err != nil {
		return err
	}
	defer k.Close() // was only read
	p, err := k.MakePlan(ctx, s.request)
	if err != nil {
		var no *catalog.Refusal
		if errors.As(err, &no) {
			d.Before, d.After = no.Before, no.After
		}
		return err
	}
	d.Plan = p
	if !*s.flags.asJSON {
		if _, err := fmt.Fprint(s.opts.Out, planOfRestoreText(p, s.opts.Width)); err != nil {
			return err
		}
	}
	if *s.flags.dryRun {
		return nil
	}
	if err := s.confirm(ctx, p); err != nil {
		return err
	}
	out, err := p.Run(ctx, rescue.RunOptions{Workers: *s.flags.workers, Progress: s.shown.show})
	werr := s.shown.wipe()
	if err != nil {
		return err
	}
	if d.Outcome = &out; *s.flags.asJSON {
		return werr
	}
	_, err = fmt.Fprint(s.opts.Out, outcomeText(out, s.opts.Width))
	return errors.Join(err, werr)
}

func (s *restoring) confirm(ctx context.Context, p *rescue.Plan) error {
	if *s.flags.asJSON {
		return nil
	}
	q := question{statement: "Nothing was touched so far.", node: "restore", yes: *s.flags.yes}
	if p.Overwrite != "" {
		q.statement = "What is overwritten does not come back: " + p.Overwrite + "."
	}
	return q.confirm(ctx, s.opts)
}

func restoreStatus(to string, asJSON bool, opts Options) error {
	st, err := rescue.Inspect(to)
	if err != nil {
		return rescueError(err)
	}
	if asJSON {
		return printJSON(opts.Out, st)
	}
	_, err = fmt.Fprint(opts.Out, restoreStatusText(st, opts.Width))
	return err
}
