package cli

import (
	"context"
	"errors"
	"fmt"

	"understudy/cmd/internal/adopt"
)

// ShowAdoption prints what founding a group on an existing database will do.
func ShowAdoption(p adopt.Plan, asJSON bool, opts Options) error {
	if asJSON {
		return printJSON(opts.Out, p)
	}
	_, err := fmt.Fprint(opts.Out, adoptionText(p, opts.Width))
	return err
}

// ConfirmAdoption returns when the founding is confirmed.
func ConfirmAdoption(ctx context.Context, p adopt.Plan, yes bool, opts Options) error {
	q := question{statement: "Nothing was touched so far.", node: p.Group, yes: yes}
	return q.confirm(ctx, opts)
}

// AdoptionError gives an error of an adoption its exit code, on one line.
func AdoptionError(err error) error {
	var e *ExitError
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &ExitError{Code: ExitRefused, Err: errors.New(printable(err.Error()))}
}

func adoptionText(p adopt.Plan, width int) string {
	f := fields{width: width}
	f.b.WriteString(paragraph(fmt.Sprintf("Found group %s on the database in %s, with %s as its first primary:", p.Group, p.DataDir, p.Node), "", width))
	f.add("database", "PostgreSQL %s, system identifier %d, %s in %s", p.Version, p.SystemID, size(p.Bytes), counted(int(p.FileN), "file"))
	f.add("stopped", "at %s of timeline %d, in the regular way", p.StoppedAt, p.Timeline)
	if p.Restored != "" {
		f.add("restored", "from set %s", p.Restored)
	}
	for _, dir := range p.Spaces {
		f.add("tablespace", "%s", dir)
	}
	for i, lines := range [][]string{p.Changes, p.Kept} {
		name := []string{"changes", "keeps"}[i]
		for _, l := range lines {
			f.add(name, "%s", l)
			name = ""
		}
	}
	for _, n := range p.Notes {
		f.b.WriteString(paragraph("Note: "+n, "  ", width))
	}
	return f.b.String()
}
