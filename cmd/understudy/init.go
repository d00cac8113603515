package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/adopt"
	"understudy/cmd/internal/cli"
	"understudy/cmd/internal/node"
	"understudy/cmd/internal/policyfile"
	"understudy/configs"
	"understudy/ledger/facts"
)

// founding is one call of init.
type founding struct {
	opts                       cli.Options
	config, policy             *string
	adopt, yes, dryRun, asJSON *bool
	keepArchiving              *bool
}

func initCommand(opts cli.Options) *cobra.Command {
	c := &cobra.Command{
		Use:   "init",
		Short: "Found a group with this node as its first primary",
		Long: "Found a group: make the database in the empty postgresql.data_dir, this node's store, and the ledger.\n" +
			"With --adopt the group is founded on the database that is in postgresql.data_dir already: one that understudy\n" +
			"restore brought back, or any other that was stopped in the regular way. What is changed and what is kept is shown\n" +
			"first; when it is cut off, the same command goes on.\n" +
			"Start the daemon afterwards with: understudy run",
		Args: cobra.NoArgs,
	}
	f := founding{
		opts: opts, config: cli.ConfigFlag(c),
		policy:        c.Flags().String("policy", "", "file with the group's policy; without it, and for what it leaves out, the defaults"),
		adopt:         c.Flags().Bool("adopt", false, "found the group on the stopped database that postgresql.data_dir holds"),
		keepArchiving: c.Flags().Bool("keep-archiving", false, "with --adopt: let another tool go on archiving the log of the database"),
		yes:           c.Flags().Bool("yes", false, "with --adopt: do not ask"),
		dryRun:        c.Flags().Bool("dry-run", false, "with --adopt: show what would be done, and do nothing"),
		asJSON:        c.Flags().Bool("json", false, "with --adopt: print the plan as JSON"),
	}
	c.RunE = func(c *cobra.Command, _ []string) error { return f.run(c) }
	return c
}

func (f founding) run(c *cobra.Command) error {
	if !*f.adopt && (*f.yes || *f.dryRun || *f.asJSON || *f.keepArchiving) {
		return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf("init: --yes, --dry-run, --json and --keep-archiving are for --adopt")}
	}
	if *f.asJSON && !*f.yes && !*f.dryRun {
		return &cli.ExitError{Code: cli.ExitUsage, Err: fmt.Errorf("init: with --json nothing is asked; confirm it with --yes")}
	}
	cfg, err := configs.Load(*f.config)
	if err != nil {
		return usage(err)
	}
	pol, err := firstPolicy(*f.policy)
	if err != nil {
		return usage(err)
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	found := func(ctx context.Context) error { return node.Found(ctx, cfg, pol, log) }
	if *f.adopt {
		found = func(ctx context.Context) error { return f.existing(ctx, cfg, pol, log) }
	}
	if err := found(c.Context()); err != nil {
		return cli.AdoptionError(err)
	}
	if *f.dryRun || *f.asJSON {
		return nil
	}
	_, err = fmt.Fprintf(f.opts.Out, "Founded group %s with %s as its first member. Next: understudy run --config %s\n", cfg.Group, cfg.Name, *f.config)
	return err
}

// existing founds the group on the database that is there.
func (f founding) existing(ctx context.Context, cfg *configs.Node, pol facts.Policy, log *slog.Logger) error {
	p, err := node.Adoption(ctx, cfg, adopt.Options{KeepArchiving: *f.keepArchiving}, log)
	if err != nil {
		return err
	}
	if err := cli.ShowAdoption(p, *f.asJSON, f.opts); err != nil || *f.dryRun {
		return err
	}
	if !*f.asJSON {
		if err := cli.ConfirmAdoption(ctx, p, *f.yes, f.opts); err != nil {
			return err
		}
	}
	return node.Adopt(ctx, cfg, pol, p, log)
}

// firstPolicy is what a group begins with.
func firstPolicy(file string) (facts.Policy, error) {
	if file == "" {
		return facts.DefaultPolicy(), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return facts.Policy{}, err
	}
	return policyfile.Parse(file, b, facts.DefaultPolicy())
}
