package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/spf13/cobra"

	"understudy/cmd/internal/rescue"
	"understudy/shipper/backupset"
	"understudy/standby/recover"
)

// maxLeftShown bounds the links that are told one by one.
const maxLeftShown = 20

// extraDoc is the document of restore --extra --json without --to.
type extraDoc struct {
	Plan    *rescue.Extra  `json:"plan"`
	Outcome *recover.Extra `json:"outcome,omitempty"`
}

// restoreExtra unpacks only the other files of a backup.
func restoreExtra(c *cobra.Command, f restoreFlags, opts Options) error {
	for _, name := range []string{"target", "timeline", "delta", "beside", "promote", "port", "tablespace", "drop"} {
		if c.Flags().Changed(name) {
			return usage("restore: --%s is about the database, and --extra without --to restores none; name with --set which backup is meant", name)
		}
	}
	if *f.asJSON && !*f.yes && !*f.dryRun {
		return usage("restore: with --json nothing is asked; confirm it with --yes")
	}
	dir, err := absolute("restore", *f.extra)
	if err != nil {
		return err
	}
	cfg, done, err := f.know.know(c, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer done()
	cfg.Only = *f.locations
	ctx := commandContext(c)
	k, err := rescue.Learn(ctx, cfg)
	if err != nil {
		return rescueError(err)
	}
	defer k.Close() // was only read
	p, err := k.MakeExtra(ctx, *f.set, dir)
	if err != nil {
		return rescueError(err)
	}
	return rescueError(runExtra(ctx, p, f, opts))
}

func runExtra(ctx context.Context, p *rescue.Extra, f restoreFlags, opts Options) error {
	d := extraDoc{Plan: p}
	if !*f.asJSON {
		t := fields{width: opts.Width}
		t.b.WriteString(paragraph(fmt.Sprintf("Unpack the other files of set %s:", p.Set), "", opts.Width))
		t.extra(*p)
		if _, err := fmt.Fprint(opts.Out, t.b.String()); err != nil || *f.dryRun {
			return err
		}
		q := question{statement: "Nothing was touched so far.", node: "restore", yes: *f.yes}
		if err := q.confirm(ctx, opts); err != nil {
			return err
		}
	}
	if !*f.dryRun {
		out, err := p.Run(ctx)
		if err != nil {
			return err
		}
		d.Outcome = &out
	}
	if *f.asJSON {
		return printJSON(opts.Out, d)
	}
	t := fields{width: opts.Width}
	t.unpacked(*d.Outcome)
	_, err := fmt.Fprint(opts.Out, t.b.String())
	return err
}

// extra are lines on what is unpacked beside the database.
func (f *fields) extra(x rescue.Extra) {
	f.add("other files", "%s, %s, below %s", counted(x.FileN, "file"), size(x.Bytes), x.Dir)
	for _, p := range x.Paths {
		f.add("", "%s", p)
	}
	if more := x.FileN - len(x.Paths); more > 0 {
		f.add("", "and %d more (understudy sets files %s)", more, x.Set)
	}
}

// unpacked are lines on what was unpacked beside the database.
func (f *fields) unpacked(x recover.Extra) {
	f.add("other files", "%s, %s, below %s; they belong to the account that ran this", counted(x.FileN, "file"), size(x.Bytes), x.Dir)
	for i, l := range x.LeftOut {
		if i == maxLeftShown {
			f.add("", "and %d more links that lead out of it", len(x.LeftOut)-i)
			break
		}
		f.add(map[bool]string{true: "not made"}[i == 0], "%s, a link that leads out of it", l)
	}
}

// withFiles adds files to the commands of the sets.
func withFiles(c *cobra.Command, opts Options) *cobra.Command {
	sub := setsFiles(opts)
	Prepare(sub)
	c.AddCommand(sub)
	return c
}

func setsFiles(opts Options) *cobra.Command {
	c := &cobra.Command{
		Use: "files [LABEL]", Short: "List the files of the host that a set has beside the database", Args: cobra.MaximumNArgs(1),
		Long: "List the configuration files and listed paths of the host that a set has beside the database; of the newest set without\n" +
			"a LABEL. The list is read at a location, so it works without a daemon, too. restore --extra unpacks them.",
	}
	f := addKnowFlags(c, ConfigFlag(c))
	all := c.Flags().Bool("all", false, "list the database's files, too")
	asJSON := c.Flags().Bool("json", false, "print a JSON document for each file, one a line")
	c.RunE = func(c *cobra.Command, args []string) error {
		cfg, done, err := f.know(c, slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		defer done()
		ctx := commandContext(c)
		k, err := rescue.Learn(ctx, cfg)
		if err != nil {
			return rescueError(err)
		}
		defer k.Close() // was only read
		return rescueError(listFiles(ctx, k, strings.Join(args, ""), *all, *asJSON, opts))
	}
	return c
}

// fileDoc is a line of sets files --json.
type fileDoc struct {
	Archive string `json:"archive"`
	Path    string `json:"path"`
	Type    string `json:"type"` // file, folder or link
	Link    string `json:"link,omitempty"`
	Bytes   int64  `json:"bytes"`
	Mode    string `json:"mode"`
}

func listFiles(ctx context.Context, k *rescue.Knowledge, label string, all, asJSON bool, opts Options) error {
	w := bufio.NewWriter(opts.Out)
	n := 0
	label, err := k.Files(ctx, label, all, func(x backupset.File) error {
		n++
		return printFile(w, x, asJSON)
	})
	if err == nil && n == 0 && !asJSON {
		_, err = fmt.Fprintf(w, "Set %s has only the files of the database.\n", printable(label))
	}
	return errors.Join(err, w.Flush())
}

func printFile(w *bufio.Writer, x backupset.File, asJSON bool) error {
	path := x.Path
	if x.Archive == backupset.ExtraName {
		path = "/" + path
	}
	kind := map[string]string{backupset.TypeFile: "file", backupset.TypeFolder: "folder", backupset.TypeLink: "link"}[x.Type]
	if asJSON {
		return json.NewEncoder(w).Encode(fileDoc{Archive: x.Archive, Path: path, Type: kind, Link: x.Link, Bytes: x.Size, Mode: fmt.Sprintf("%04o", x.Mode)})
	}
	if x.Type == backupset.TypeLink {
		path += " -> " + x.Link
	}
	_, err := fmt.Fprintf(w, "%04o  %9s  %s\n", x.Mode, map[bool]string{true: size(x.Size), false: kind}[x.Type == backupset.TypeFile], printable(path))
	return err
}
